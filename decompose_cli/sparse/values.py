"""Heads with few values on standardised features: ternary, binary, nonnegative; by exchange at the exact loss."""

from __future__ import annotations

import torch
from torch import Tensor

from decompose_cli.sparse.minimise import Fit
from decompose_cli.sparse.moves import Moves
from decompose_cli.sparse.one_scale import FewValues
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit
from decompose_cli.sparse.sets import distinct_sets
from decompose_cli.sparse.value_search import exchange


def ternary(
    problem: Problem,
    k: int,
    l2: float,
    *,
    start: Tensor | None = None,
    exactly: bool = True,
    kicks: int | None = None,
    seed: int = 0,
) -> FewValues:
    """Weights -a, 0 or a with one a for the whole head, k of them in each class that are not 0.

    Args:
        problem: The images.
        k: Features per class, 0 < k <= D.
        l2: Strength of the penalty, positive.
        start: Head on standardised features, (C, D + 1), whose signs are the start (its k largest in a class that has
            more); by default the k largest class means.
        exactly: Whether classes have exactly k, filled up by their class means, or up to k.
        kicks: How often the search begins again from a disturbed result, and keeps what is better; by default 20, and
            none where N D C k is above 2^38.
        seed: Of the kicks.

    Raises:
        ValueError: l2 is not positive, or fewer than k features vary.
    """
    varies = _enough(problem, k)
    means = torch.where(varies, class_means(problem), 0.0)
    order = torch.where(varies, means.abs(), -1.0)
    if start is not None:
        own = torch.where(varies, start[:, :-1].double(), 0.0)
        means = torch.where(own != 0, own, means)
        order = torch.where(own != 0, own.abs() + 1 + order.max(), order)
    chosen = torch.zeros_like(varies.expand_as(order)).scatter_(
        1, order.argsort(dim=1, descending=True, stable=True)[:, :k], True
    )
    if start is not None and not exactly:
        chosen &= own != 0
    matrix = torch.where(chosen, torch.where(means < 0, -1, 1), 0).to(torch.int8)

    def allowed(number: int, current: Tensor) -> Moves:
        row = current[number]
        turned = _turned(number, current)
        free = turned.allowed
        free[..., :-1] |= varies & (row == 0)
        free[..., -1] = not exactly
        if len(turned.removed) == k:
            return turned
        added = free.new_zeros(1, *free.shape[1:])
        added[..., :-1] = varies & (row == 0)
        return Moves((*turned.removed, -1), turned.signs, torch.cat([free, added]))

    return exchange(problem, (matrix, -matrix), l2, allowed, class_means(problem), kicks=kicks, seed=seed)


def ternary_at(
    problem: Problem,
    support: Tensor,
    l2: float,
    *,
    start: Tensor | None = None,
    kicks: int | None = None,
    seed: int = 0,
) -> FewValues:
    """Weights -a or a at a support, and 0 elsewhere, with one a for the whole head: only signs are searched.

    They begin as those of the refitted head, and are turned, one in each class, while that lowers the objective. For
    weights that are all a there is nothing to search: :func:`.one_scale.fit_scale` takes the support as its matrix.

    Args:
        problem: The images.
        support: Which features each class uses, any number of them, bool (C, D); constant features are left out.
        l2: Strength of the penalty, positive.
        start: Head on standardised features that the refit begins with, (C, D + 1).
        kicks: How often the search begins again from a result with some signs turned, and keeps what is better; by
            default 20, and none where N D C k is above 2^38.
        seed: Of the kicks.

    Raises:
        ValueError: l2 is not positive.
    """
    inside = support & problem.scale.varies
    weights, means = refit(problem, inside, l2, start=start).head[:, :-1], class_means(problem)
    negative = torch.where(weights != 0, weights, means) < 0
    matrix = torch.where(inside, torch.where(negative, -1, 1), 0).to(torch.int8)
    return exchange(problem, (matrix, -matrix), l2, _turned, means, kicks=kicks, seed=seed)


def binary(
    problem: Problem,
    k: int,
    l2: float,
    *,
    support: Tensor | None = None,
    kicks: int | None = None,
    seed: int = 0,
) -> FewValues:
    """Weights 0 or a with one a for the whole head, exactly k of them in each class, no two classes with the same set.

    Args:
        problem: The images.
        k: Features per class, 0 < k <= D.
        l2: Strength of the penalty, positive.
        support: Where to begin, bool (C, D): sets with as much as possible of it; by default the sets of the largest
            class means.
        kicks: How often the search begins again from a disturbed result, and keeps what is better; by default 20, and
            none where N D C k is above 2^38.
        seed: Of the kicks.

    Raises:
        ValueError: l2 is not positive, fewer than k features vary, or they have fewer sets than there are classes.
    """
    varies = _enough(problem, k)
    means = class_means(problem)
    ways = [means] if support is None else [means + support * (1 + means.max() - means.min()), means]
    starts = [torch.zeros_like(means, dtype=torch.int8) for _ in ways]
    for matrix, scores in zip(starts, ways, strict=True):
        matrix[:, varies] = distinct_sets(scores[:, varies], k).to(torch.int8)

    def allowed(number: int, current: Tensor) -> Moves:
        row = current[number]
        inside = row.nonzero()[:, 0].tolist()
        free = torch.zeros(len(inside), 1, len(row) + 1, dtype=torch.bool, device=row.device)
        free[..., :-1] = varies & (row == 0)
        others = torch.arange(len(current), device=row.device) != number
        shared = current[:, inside].sum(1)
        for place, feature in enumerate(inside):
            same = others & (shared - current[:, feature] == k - 1)
            free[place, 0, :-1] &= ~(current[same] > row).any(0)
        return Moves(tuple(inside), (1,), free)

    return exchange(problem, starts, l2, allowed, means, kicks=kicks, seed=seed)


def nonnegative(
    problem: Problem,
    support: Tensor,
    l2: float,
    *,
    start: Tensor | None = None,
    toward: Tensor | None = None,
) -> tuple[Fit, Tensor]:
    """Refit at a support with no weight below zero; also which features of it end at zero, bool (C, D)."""
    fit = refit(problem, support, l2, start=start, toward=toward, nonnegative=True)
    return fit, support & (fit.head[:, :-1] == 0)


def class_means(problem: Problem) -> Tensor:
    """Mean of z over the images of each class, float64 (C, D); 0 for classes without images and constant features."""
    totals = problem.scale.mean.new_zeros(problem.num_classes)
    sums = totals.new_zeros(problem.num_classes, problem.num_features)
    for begin in range(0, len(problem.labels), problem.step):
        images = slice(begin, begin + problem.step)
        if problem.targets is None:
            targets = torch.nn.functional.one_hot(problem.labels[images], problem.num_classes).to(problem.dtype)
        else:
            targets = problem.targets[images]
        if problem.image_weights is not None:
            targets = targets * problem.image_weights[images, None]
        totals += targets.sum(0, dtype=torch.float64)
        sums += (targets.t() @ problem.features[images]).double()
    means = sums / totals[:, None] - problem.scale.mean
    return torch.where(totals[:, None] > 0, means * problem.scale.inverse, 0.0)


def _turned(number: int, current: Tensor) -> Moves:
    """The moves that turn one sign of a class."""
    row = current[number]
    inside = row.nonzero()[:, 0]
    turned = torch.zeros(len(inside), 2, len(row) + 1, dtype=torch.bool, device=row.device)
    turned[torch.arange(len(inside), device=row.device), (row[inside] > 0).long(), inside] = True
    return Moves(tuple(inside.tolist()), (1, -1), turned)


def _enough(problem: Problem, k: int) -> Tensor:
    """Which features vary, bool (D,): at least k."""
    varies = problem.scale.varies
    if not 0 < k <= int(varies.sum()):
        raise ValueError(f"k {k} is not in 1 to {int(varies.sum())}, the number of features that vary")
    return varies
