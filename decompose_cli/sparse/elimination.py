"""Backward elimination: from all features to a few for each class, the cheapest first, with refits between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.messages import Advance
from decompose_cli.sparse.minimise import Fit
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit, refit_loosely
from decompose_cli.sparse.second_order import invert, second_derivatives, standardised
from decompose_cli.sparse.threads import in_few_threads

_KEPT = 5 / 6  # of the features in each step: 12 steps from 64 to 5, 21 from 2048 to 50
# Work of the second derivatives of all classes in a step, 10 s of one core; above, features count as uncorrelated.
_PRODUCTS = 1 << 37
_OF_INVERSE = 4  # work of an inverse and of what is taken away by it, as a multiple of size^3


@dataclass(frozen=True)
class Elimination:
    """What backward elimination has found.

    Attributes:
        order: Features of each class, the last to go first, int64 (C, D); what goes in the same step goes by its cost.
            The first k are the support at k.
        fits: The refitted head at each k that was asked for.
    """

    order: Tensor
    fits: dict[int, Fit]

    def support(self, k: int) -> Tensor:
        """The k features of each class, bool (C, D)."""
        return first(self.order, k)


def first(order: Tensor, k: int) -> Tensor:
    """The first k features of each class, bool (C, D), of an order (C, D)."""
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :k], True)


def sizes(largest: int, smallest: int) -> list[int]:
    """How many features are left after each step of an elimination, from the largest number to the smallest."""
    found = [largest]
    while found[-1] > smallest:
        found.append(max(smallest, min(found[-1] - 1, int(found[-1] * _KEPT))))
    return found


def removal(inverse: Tensor, weights: Tensor, count: int) -> Tensor:
    """Which weights to take away, one after another, so that a quadratic loss around its minimum rises least each time.

    With V the inverse of the second derivative, taking f away raises the loss by sum_r w_rf^2 / (2 V_ff) when the
    others take over what they can, w_rg -= V_gf w_rf / V_ff (optimal brain surgeon, Hassibi and Stork 1993). So of two
    features that say the same one costs nothing, and the other is then worth both.

    Args:
        inverse: V, the same for all rows, (m, m); m is at least the number of weights, and what is above stays.
        weights: (R, n), n <= m: rows of weights that go together, column by column.
        count: How many columns go.

    Returns:
        The columns, the first to go first, int64 (count,).
    """
    inverse, present = inverse.clone(), weights.shape[1]
    weights = torch.nn.functional.pad(weights, (0, len(inverse) - present))
    left = torch.arange(len(inverse), device=inverse.device) < present
    gone = torch.empty(count, dtype=torch.int64, device=inverse.device)
    for number in range(count):
        pivots = inverse.diagonal().clamp(min=1e-30)
        costs = torch.where(left, weights.square().sum(0) / pivots, float("inf"))
        # Of equal costs the last goes.
        column = len(costs) - 1 - int(costs.flip(0).argmin())
        along = inverse[column] / pivots[column]
        weights = weights - weights[:, column, None] * along
        inverse = inverse - inverse[:, column, None] * along
        left[column] = False
        gone[number] = column
    return gone


@in_few_threads
def backward(
    problem: Problem,
    ks: Sequence[int],
    l2: float,
    *,
    start: Tensor | None = None,
    advance: Advance = lambda _: None,
) -> Elimination:
    """Choose features by elimination: refit, take the cheapest sixth from each class, and again.

    The loss is taken as quadratic in the row of a class around the refitted head, where its gradient vanishes, with
    H = mean p (1 - p) z z' + l2, and features go one after another as :func:`removal` has it. Where that is too much
    for many classes of many features, H is its diagonal: a weight costs H w^2 / 2. Several k share one descent, whose
    steps do not depend on them. Constant features, which have no weight, go first, and of equal ones the last.

    Args:
        problem: The images.
        ks: Numbers of features for each class, each from 1 to D.
        l2: Strength of the penalty, positive.
        start: Dense head on standardised features to begin with, (C, D + 1), last column the bias; by default none.
        advance: Told of each of the ``len(sizes(D, min(ks)))`` steps.

    Raises:
        ValueError: A k is not from 1 to D.
    """
    features = problem.num_features
    if not ks or not 1 <= min(ks) <= max(ks) <= features:
        raise ValueError(f"{list(ks)} are not numbers of {features} features")
    order = torch.arange(features, device=problem.device).expand(problem.num_classes, features).clone()
    fits: dict[int, Fit] = {}
    head = start
    steps = sizes(features, min(ks))
    for size, following in zip(steps, [*steps[1:], 0], strict=True):
        fit = refit_loosely(problem, first(order, size), l2, start=head)
        head = fit.head
        order[:, :size] = order[:, :size].gather(1, _ranked(problem, head, l2, order[:, :size], following))
        for k in sorted({k for k in ks if following < k <= size}, reverse=True):
            fits[k] = refit(problem, first(order, k), l2, start=head)
        advance(1)
    return Elimination(order, fits)


def _ranked(problem: Problem, head: Tensor, l2: float, among: Tensor, following: int) -> Tensor:
    """Where in their row the features (C, size) stand that are left, the dearest first, (C, size).

    What goes before ``following`` are left stands at the end, the first to go last.
    """
    size = among.shape[1]
    costs = (second_derivatives(problem, head)[:, :-1] + l2) * head[:, :-1].square()
    ranked = costs.gather(1, among).sort(dim=1, descending=True, stable=True).indices
    if (len(problem.labels) + _OF_INVERSE * size) * among.numel() * size > _PRODUCTS:
        return ranked
    logits = problem.logits(head)
    logits -= problem.log_sum(logits, slice(None))[:, None]
    for number in range(problem.num_classes):
        columns = among[number, ranked[number]]
        z = standardised(problem, columns)
        p = logits[:, number].double().exp()
        spread = p * (1 - p) if problem.image_weights is None else p * (1 - p) * problem.image_weights
        hessian = (z * spread[:, None]).t() @ z / problem.total
        hessian.diagonal()[:-1].add_(l2)
        gone = removal(invert(hessian), head[number, columns][None], size - following).flip(0)
        staying = torch.ones_like(ranked[number], dtype=torch.bool)
        staying[gone] = False
        ranked[number] = ranked[number, torch.cat([staying.nonzero()[:, 0], gone])]
    return ranked
