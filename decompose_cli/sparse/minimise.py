"""One solver for all fits: cross-entropy with penalties on chosen weights, by Newton steps within an orthant."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.messages import track
from decompose_cli.sparse.curvature import Curvature, curvature_of
from decompose_cli.sparse.few_features import evaluation_of
from decompose_cli.sparse.problem import Problem

_MEMORY = 10
_LONG = 1 << 33  # N D C from which a fit takes a minute or so
_LARGE = 1 << 20  # parameters of a head of which those that are not free take room
_SUFFICIENT = 1e-4
_SHORTEST = 1e-6


@dataclass(frozen=True)
class Penalty:
    """l1 |W|_1 + l2/2 |W - toward|^2 over the free weights, the bias left out; ``nonnegative``: none is below zero."""

    l1: float = 0.0
    l2: float = 0.0
    toward: Tensor | None = None
    nonnegative: bool = False


@dataclass(frozen=True)
class Fit:
    """Where a fit ended.

    Attributes:
        head: Weights on standardised features, last column the bias, float64 (C, D + 1).
        loss: Mean cross-entropy.
        objective: Loss and penalties.
        bound: The objective is at most this far above its minimum on the chosen weights (0 < l2; biases exact).
        steps: Evaluations of the loss.
    """

    head: Tensor
    loss: float
    objective: float
    bound: float
    steps: int
    curvature: Curvature


def minimise(
    problem: Problem,
    penalty: Penalty,
    head: Tensor,
    free: Tensor,
    *,
    curvature: Curvature | None = None,
    tolerance: float = 1e-6,
    most_steps: int = 500,
) -> Fit:
    """Minimise f(W, b) + l1 |W|_1 + l2/2 |W - toward|^2 over the free parameters.

    Quasi-Newton steps (Andrew and Gao, ICML 2007, for the orthant; L-BFGS around a second derivative for the direction)
    move the parameters that are not zero, and those at zero that the loss pulls away from it; a parameter stops at
    zero where it would change its sign.

    Args:
        problem: The loss.
        penalty: The penalties.
        head: Where to begin, (C, D + 1) on standardised features; parameters that are not free stay as they are.
        free: Which parameters may change, bool (C, D + 1).
        curvature: A second derivative from a fit nearby.
        tolerance: Largest bound of the distance to the minimum, as a share of the objective.
        most_steps: Largest number of evaluations.

    Raises:
        ValueError: l2 is not positive: the minimum need not be unique, nor finite.
    """
    if penalty.l2 <= 0:
        raise ValueError(f"l2 {penalty.l2} is not positive")
    # All that follows is of the parameters as they are packed, but for what the loss and its curvature are given.
    packing, base = _Packing(free), head.double().clone()
    evaluation = evaluation_of(problem, free | (base != 0))
    at_first = torch.zeros_like(base) if penalty.toward is None else penalty.toward.double()
    head, toward, may_change = packing.packed(base), packing.packed(at_first), packing.packed(free)
    weights = free.double()
    weights[:, -1] = 0
    weights = packing.packed(weights)
    l1, l2 = penalty.l1 * weights, penalty.l2 * weights
    # A constant feature has z = 0, so that nothing but the penalty speaks of its weight.
    held = l1 > 0 if not penalty.nonnegative else weights > 0

    def evaluate(at: Tensor) -> tuple[float, float, Tensor]:
        loss, gradient = evaluation.value_and_gradient(packing.within(base, at))
        away = at - toward
        value = loss + float((l1 * at.abs()).sum() + (l2 * away.square()).sum() / 2)
        return loss, value, packing.packed(gradient) + l2 * away

    loss, value, gradient = evaluate(head)
    steps, fresh = 1, curvature is None
    if curvature is None:
        curvature = curvature_of(problem, base, free, penalty.l2)
    memory: deque[tuple[Tensor, Tensor]] = deque(maxlen=_MEMORY)
    bound, made_at = float("inf"), 1
    with _progress(problem) as come_to:
        while True:
            pull = _pull(head, gradient, l1, may_change, held, penalty.nonnegative)
            bound = _bound(packing.unpacked(pull), penalty.l2, curvature)
            come_to(bound, tolerance * abs(value))
            if bound <= tolerance * abs(value) or steps >= most_steps:
                break
            among = may_change & ((head != 0) | (pull != 0))
            direction = -_two_loop(pull, memory, curvature, among, packing)
            sign = torch.where(head != 0, head.sign(), -pull.sign())
            direction = torch.where(held & (head == 0) & (direction * sign < 0), 0.0, direction)
            slope = float((pull * direction).sum())
            if not slope < 0:
                direction, memory = -pull, deque(maxlen=_MEMORY)
                slope = float((pull * direction).sum())
            length, moved = 1.0, None
            while length >= _SHORTEST:
                tried = head + length * direction
                if bool(held.any()):
                    tried = torch.where(held & (tried * sign <= 0), 0.0, tried)
                outcome = evaluate(tried)
                steps += 1
                if outcome[1] <= value + _SUFFICIENT * float((pull * (tried - head)).sum()):
                    moved = tried
                    break
                length /= 2
            if moved is None:
                if fresh:
                    break
                curvature = curvature_of(problem, packing.within(base, head), free, penalty.l2)
                fresh, made_at = True, steps
                memory.clear()
                continue
            step, change = moved - head, outcome[2] - gradient
            if float((step * change).sum()) > 1e-14 * float(step.norm() * change.norm()):
                memory.append((step, change))
            head, (loss, value, gradient) = moved, outcome
            fresh = False
            if steps - made_at > curvature.cost:  # as much work as making it anew, so at most twice the least work
                curvature = curvature_of(problem, packing.within(base, head), free, penalty.l2)
                fresh, made_at = True, steps
                memory.clear()
    return Fit(packing.within(base, head), loss, value, bound, steps, curvature)


@contextmanager
def _progress(problem: Problem) -> Iterator[Callable[[float, float], None]]:
    """Show how far a long fit has come; takes the bound of the distance to the minimum, and the one to come to.

    The bound shrinks by much the same factor in each step, so its logarithm says how much of the work is done.
    """
    if problem.features.numel() * problem.num_classes < _LONG:
        yield lambda bound, aim: None
        return
    first: float | None = None
    told = 0
    with track("Fitting weights", 100, "percent") as advance:

        def come_to(bound: float, aim: float) -> None:
            nonlocal first, told
            if bound <= 0 or aim <= 0:
                return
            left = math.log(bound / aim)
            first = left if first is None else first
            share = min(1.0, 1 - left / first) if first > 0 else 1.0
            if (done := int(100 * share)) > told:
                advance(done - told)
                told = done

        yield come_to


def _pull(head: Tensor, gradient: Tensor, l1: Tensor, free: Tensor, held: Tensor, nonnegative: bool) -> Tensor:
    """The subgradient of least norm: zero where a free parameter is where it should be."""
    at_zero = gradient.sign() * (gradient.abs() - l1).clamp(min=0)
    if nonnegative:
        at_zero = torch.where(held, (gradient + l1).clamp(max=0), at_zero)
    pull = torch.where(head != 0, gradient + l1 * head.sign(), at_zero)
    return torch.where(free, pull, 0.0)


def _bound(pull: Tensor, l2: float, curvature: Curvature) -> float:
    """|r|^2 / (2 l2) bounds the distance to the minimum in W; the part of the biases is taken by the curvature."""
    biases = torch.zeros_like(pull)
    biases[:, -1] = pull[:, -1]
    among = biases != 0
    of_biases = float((biases * curvature.solve(biases, among)).sum()) / 2 if bool(among.any()) else 0.0
    return float(pull[:, :-1].square().sum()) / (2 * l2) + of_biases


class _Packing:
    """Tensors (C, D + 1) as their free parameters alone, where the others are very many.

    Of a thousand classes and two thousand features each is 16 MB, and so a step takes longer than the loss of a head
    that uses few of them.
    """

    def __init__(self, free: Tensor) -> None:
        is_large = free.numel() > _LARGE and int(free.sum()) < free.numel() / 2
        self._shape, self._places = free.shape, free.flatten().nonzero()[:, 0] if is_large else None

    def packed(self, value: Tensor) -> Tensor:
        """The free parameters alone, or the tensor itself."""
        return value if self._places is None else value.flatten()[self._places]

    def unpacked(self, value: Tensor) -> Tensor:
        """The tensor with zeros for all others, (C, D + 1)."""
        return value if self._places is None else self.within(value.new_zeros(self._shape), value)

    def within(self, base: Tensor, value: Tensor) -> Tensor:
        """The tensor with the others as they are in ``base``, (C, D + 1)."""
        if self._places is None:
            return value
        whole = base.clone()
        whole.view(-1)[self._places] = value
        return whole


def _two_loop(
    pull: Tensor, memory: deque[tuple[Tensor, Tensor]], curvature: Curvature, among: Tensor, packing: _Packing
) -> Tensor:
    """L-BFGS on the chosen parameters, with the curvature in the middle; all but the curvature on packed tensors."""
    q = torch.where(among, pull, 0.0)
    kept = []
    for pair in reversed(memory):
        s, y = (torch.where(among, each, 0.0) for each in pair)
        product = float((s * y).sum())
        if product <= 1e-14 * float(s.norm() * y.norm()):
            continue
        alpha = float((s * q).sum()) / product
        q = q - alpha * y
        kept.append((pair, product, alpha))  # not s and y: of many classes all pairs together are large
    r = packing.packed(curvature.solve(packing.unpacked(q), packing.unpacked(among)))
    for pair, product, alpha in reversed(kept):
        s, y = (torch.where(among, each, 0.0) for each in pair)
        beta = float((y * r).sum()) / product
        r = r + (alpha - beta) * s
    return r
