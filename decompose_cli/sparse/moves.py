"""Moves of one class of a head with few values: every removal against every addition, by the loss they lead to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.sparse.problem import Problem

_AT_ONCE = 1 << 18  # features of a block of images: 1 MB of float32, which stays in the cache
_ADDITIONS = 128  # that are tried exactly against each removal: all, or the best by a quadratic model
_MOVES = 10 * _ADDITIONS  # that are tried exactly in all, where there are not so few additions that all are tried
_FEWEST = 16  # against each removal
_LARGEST = 40.0  # of an exponent: the product of two is finite in float32


@dataclass(frozen=True)
class ClassState:
    """One class among the others.

    Attributes:
        row: Its integers, int8 (D,).
        odds: Its logit less the log-sum-exp of all others, float64 (N,).
        share: Weight of the image times its target for this class over the total weight, float64 (N,).
    """

    row: Tensor
    odds: Tensor
    share: Tensor


@dataclass(frozen=True)
class Moves:
    """What may be tried.

    Attributes:
        removed: The feature that leaves for each group of moves, -1 where none does.
        signs: The integers that an added feature may have.
        allowed: Which addition may go with which removal and sign: bool (removals, signs, D + 1); the last column is
            no addition.
    """

    removed: tuple[int, ...]
    signs: tuple[int, ...]
    allowed: Tensor

    def made(self, row: Tensor, place: int) -> Tensor:
        """The row (D,) after the move at a place of the flattened ``allowed``."""
        width = self.allowed.shape[-1]
        removal, rest = divmod(place, width * len(self.signs))
        sign, added = divmod(rest, width)
        row = row.clone()
        if self.removed[removal] >= 0:
            row[self.removed[removal]] = 0
        if added < len(row):
            row[added] = self.signs[sign]
        return row


def weights_of(problem: Problem) -> Tensor:
    """Weight of each image over the total, float64 (N,)."""
    if problem.image_weights is None:
        return torch.full((len(problem.labels),), 1 / problem.total, dtype=torch.float64, device=problem.device)
    return problem.image_weights.double() / problem.total


def share_of(problem: Problem, number: int) -> Tensor:
    """Weight of each image times its target for a class over the total weight, float64 (N,)."""
    if problem.targets is None:
        return (problem.labels == number) * weights_of(problem)
    return problem.targets[:, number].double() * weights_of(problem)


def changes(problem: Problem, state: ClassState, moves: Moves, scale: float, l2: float) -> Tensor:
    """How much each move changes the objective at a fixed scale and fixed biases, (removals, signs, D + 1).

    With u the odds of the class against all others, of which only its own logit l changes, the loss is
    mean softplus(u) - sum share l and a constant. One removal against all additions is one block of images x features;
    of more than 128 additions, those are tried whose second-order estimate is the lowest for that removal (128, fewer
    where more than 10 features may leave), and the others are infinite, as is what is not allowed. Terms are float32:
    what is chosen is to be checked in float64.
    """
    features = problem.num_features
    additions = _additions(problem, state, moves, scale)
    columns, place_of = _needed(moves, additions, features)
    weights = weights_of(problem)
    sums = state.odds.new_full(moves.allowed.shape, float("inf"))
    for number, chosen in enumerate(additions):
        sums[number, :, chosen] = 0
        sums[number, :, features] = 0
    pull = state.odds.new_zeros(features)
    own_additions = [chosen if isinstance(chosen, slice) else place_of[chosen] for chosen in additions]
    for images, z in _blocks(problem, columns):
        odds, share, weight = state.odds[images], state.share[images].float(), weights[images].float()
        pull[columns] += (share @ z).double()
        powers = _power(scale * z)
        for number, (feature, chosen, places) in enumerate(zip(moves.removed, additions, own_additions, strict=True)):
            left = odds if feature < 0 else odds - scale * int(state.row[feature]) * z[:, place_of[feature]]
            sums[number, :, features] += torch.nn.functional.softplus(left) @ weights[images]
            own, base = powers[:, places], _power(left.float())[:, None]
            for place, sign in enumerate(moves.signs):
                terms = (own * base if sign > 0 else base / own).log1p_()
                sums[number, place, chosen] += (weight @ terms).double()
    sums -= torch.nn.functional.softplus(state.odds) @ weights
    size = l2 * scale**2 / 2
    for number, feature in enumerate(moves.removed):
        if feature >= 0:
            sums[number] += scale * int(state.row[feature]) * pull[feature] - size
        for place, sign in enumerate(moves.signs):
            sums[number, place, :features] += size - scale * sign * pull
    return torch.where(moves.allowed, sums, float("inf"))


def _needed(moves: Moves, additions: list[slice | Tensor], features: int) -> tuple[slice | Tensor, Tensor]:
    """The features that leave or are added, ascending, and the place of each feature among them, (D,)."""
    place_of = torch.arange(features, device=moves.allowed.device)
    if any(isinstance(chosen, slice) for chosen in additions):
        return slice(0, features), place_of
    needed = torch.zeros_like(place_of, dtype=torch.bool)
    for chosen in (*additions, [feature for feature in moves.removed if feature >= 0]):
        needed[chosen] = True
    return needed.nonzero()[:, 0], needed.cumsum(0) - 1


def _blocks(problem: Problem, columns: slice | Tensor = slice(None)) -> Iterator[tuple[slice, Tensor]]:
    """Standardised features, block by block of images, float32."""
    mean, inverse = (each[columns].to(problem.dtype) for each in (problem.scale.mean, problem.scale.inverse))
    step = max(1, _AT_ONCE // max(1, len(mean)))
    for start in range(0, len(problem.labels), step):
        images = slice(start, start + step)
        yield images, ((problem.features[images][:, columns] - mean) * inverse).float()


def _power(exponent: Tensor) -> Tensor:
    return exponent.clamp(-_LARGEST, _LARGEST).exp_()


def _additions(problem: Problem, state: ClassState, moves: Moves, scale: float) -> list[slice | Tensor]:
    """Which features are tried exactly against each removal.

    The estimate: a change a (s_g z_g - s_f z_f) of the logit changes the loss by its product with the gradient p - t
    and half its square times p (1 - p).
    """
    features = problem.num_features
    allowed = moves.allowed[:, :, :-1].any(1)
    most = int(allowed.sum(1).max()) if len(allowed) else 0
    if 2 * most >= features and features <= _ADDITIONS:
        return [slice(0, features)] * len(moves.removed)
    if most <= _ADDITIONS:
        return [row.nonzero()[:, 0] for row in allowed]
    tried = max(min(_FEWEST, _ADDITIONS), min(_ADDITIONS, _MOVES // len(moves.removed)))
    weights = weights_of(problem)
    p = torch.sigmoid(state.odds)
    residual, spread = (p * weights - state.share).float(), (p * (1 - p) * weights).float()
    leaving = [feature for feature in moves.removed if feature >= 0]
    first, second, mixed = (residual.new_zeros(shape) for shape in ((features,), (features,), (len(leaving), features)))
    for images, z in _blocks(problem):
        first += residual[images] @ z
        second += spread[images] @ z.square()
        mixed += (z[:, leaving] * spread[images, None]).t() @ z
    chosen: list[slice | Tensor] = []
    for number, feature in enumerate(moves.removed):
        cross = torch.zeros_like(first) if feature < 0 else mixed[leaving.index(feature)] * int(state.row[feature])
        slopes = torch.stack([sign * (first - scale * cross) for sign in moves.signs])
        estimates = scale * slopes + scale**2 / 2 * second
        estimates[~moves.allowed[number, :, :-1]] = float("inf")
        chosen.append(estimates.amin(0).argsort(stable=True)[:tried].sort().values)
    return chosen
