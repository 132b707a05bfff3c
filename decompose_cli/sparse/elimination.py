"""Backward elimination: from all features to a few for each class, the cheapest first, with refits between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.progress import Advance
from decompose_cli.sparse.minimise import Fit
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit, refit_loosely
from decompose_cli.sparse.second_order import second_derivatives

_KEPT = 5 / 6  # of the features in each step: 14 steps from 64 to 5, 20 from 2048 to 50


@dataclass(frozen=True)
class Elimination:
    """What backward elimination has found.

    Attributes:
        order: Features of each class, the last to go first, int64 (C, D); what goes in the same step goes by its cost.
            The first k are the support at k. A class that was held has its features by the size of their weights.
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


def backward(
    problem: Problem,
    ks: Sequence[int],
    l2: float,
    *,
    start: Tensor | None = None,
    held: Tensor | None = None,
    advance: Advance = lambda _: None,
) -> Elimination:
    """Choose features by elimination: refit, take the cheapest sixth from each class, and again.

    A weight costs H w^2 / 2 with H = mean p (1 - p) z^2 + l2: the rise of the penalised loss when it alone is set to
    zero, to second order around the refitted head, where the gradient vanishes. Several k share one descent, whose
    steps do not depend on them.

    Args:
        problem: The images.
        ks: Numbers of features for each class, each from 1 to D.
        l2: Strength of the penalty, positive.
        start: Dense head on standardised features to begin with, (C, D + 1), last column the bias; by default none.
        held: Classes whose rows stay as ``start`` has them, whole, bool (C,): classes without images.
        advance: Told of each of the ``len(sizes(D, min(ks)))`` steps.

    Raises:
        ValueError: A k is not from 1 to D.
    """
    features = problem.num_features
    if not ks or not 1 <= min(ks) <= max(ks) <= features:
        raise ValueError(f"{list(ks)} are not numbers of {features} features")
    order = torch.arange(features).expand(problem.num_classes, features).clone()
    fits: dict[int, Fit] = {}
    head = start
    steps = sizes(features, min(ks))
    for size, following in zip(steps, [*steps[1:], 0], strict=True):
        fit = refit_loosely(problem, first(order, size), l2, start=head, held=held)
        head = fit.head
        order[:, :size] = order[:, :size].gather(1, _descending(_costs(problem, head, l2, order[:, :size])))
        for k in sorted({k for k in ks if following < k <= size}, reverse=True):
            fits[k] = refit(problem, first(order, k), l2, start=head, held=held)
        advance(1)
    return Elimination(order, fits)


def _costs(problem: Problem, head: Tensor, l2: float, among: Tensor) -> Tensor:
    """H w^2 / 2 of the features that are left, (C, size); -1 for a constant one, which goes before one of no weight."""
    costs = (second_derivatives(problem, head)[:, :-1] + l2) * head[:, :-1].square() / 2
    costs[:, ~problem.scale.varies] = -1
    return costs.gather(1, among)


def _descending(costs: Tensor) -> Tensor:
    return costs.sort(dim=1, descending=True, stable=True).indices
