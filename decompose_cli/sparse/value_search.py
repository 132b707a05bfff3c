"""Exchange for heads of one scale: the best move of each class at the exact loss, then scale and biases anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from decompose_cli.sparse.moves import ClassState, Moves, changes, share_of, weights_of
from decompose_cli.sparse.one_scale import FewValues, fitted, sums_of
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.threads import in_few_threads

_MOST_ROUNDS = 100
_REFITTED = 30  # moves of other biases that are tried when none helps as they are
_NEAR = 10  # of each class
_SLACK = 0.1  # that they raise the objective by before the refit, as a share of it
_HOPEFUL = 1.02  # times the best objective, after a kick, is looked at further
_KICKS = 20
_PRODUCTS = 1 << 38  # of a round: 10,000 x 2048 features, 268 classes with k = 50
_KICKED = 3  # classes
_DRAWN_FROM = 10

Allowed = Callable[[int, Tensor], Moves]
"""The moves of a class, from its number and the matrix as it is, int8 (C, D)."""


@in_few_threads
def exchange(
    problem: Problem,
    starts: Sequence[Tensor],
    l2: float,
    allowed: Allowed,
    worth: Tensor,
    *,
    kicks: int | None,
    seed: int,
) -> FewValues:
    """Move from the first start with a positive scale until a round changes nothing, then from kicked copies of it.

    A kick makes a random move in three classes; what it leads to is kept where the objective is lower, so that the
    objective never rises. A round costs, for each class, k + 1 removals times N images times min(D, 128) features,
    twice that for two signs, and N C^2 for scale and biases; a kick costs some rounds. N x C numbers are held, and
    features in blocks.

    Args:
        problem: The images.
        starts: Matrices, int8 (C, D).
        l2: Strength of the penalty, positive.
        allowed: The moves of a class.
        worth: What kicks draw additions by, (C, D): one of the best ten.
        kicks: Their number; by default 20, and none where a round of large problems takes minutes.
        seed: Of the kicks.
    """
    for matrix in starts:
        best = _settled(problem, matrix, l2, allowed)
        if best.scale > 0:
            break
    generator = torch.Generator().manual_seed(seed)  # on the CPU, where it draws the same for every device
    rounds = best.rounds
    if kicks is None:
        products = len(problem.labels) * problem.num_features * int(best.matrix.count_nonzero())
        kicks = _KICKS if products <= _PRODUCTS else 0
    for _ in range(kicks):
        matrix = best.matrix.clone()
        for number in torch.randperm(len(matrix), generator=generator, device="cpu")[:_KICKED].tolist():
            matrix[number] = _drawn(allowed(number, matrix), matrix[number], worth[number], generator)
        if torch.equal(matrix, best.matrix):
            continue
        found = _settled(problem, matrix, l2, allowed, hopeful=_HOPEFUL * best.objective)
        rounds += found.rounds
        if found.objective < best.objective:
            best = found
    return replace(best, rounds=rounds)


def _settled(problem: Problem, matrix: Tensor, l2: float, allowed: Allowed, hopeful: float = float("inf")) -> FewValues:
    """Rounds from a matrix until one changes nothing, nor, below a ``hopeful`` objective, a move that is refitted."""
    sums = sums_of(problem, matrix)
    fit = fitted(problem, matrix, sums, l2)
    while fit.scale > 0 and fit.rounds < _MOST_ROUNDS:
        matrix = fit.matrix.clone()
        moved, nearly = _round(problem, matrix, sums, fit, l2, allowed)
        if moved:
            fit = fitted(problem, matrix, sums, l2, near=fit)
            continue
        if fit.objective > hopeful:
            break
        for _, number, row in sorted(nearly, key=lambda one: one[0])[:_REFITTED]:
            before = sums[number].clone()
            matrix[number] = row
            sums[number] = before + _sums_change(problem, fit.matrix[number], row).to(sums.dtype)
            found = fitted(problem, matrix, sums, l2, near=fit)
            if found.objective < fit.objective * (1 - 1e-9):
                fit = found
                break
            matrix[number] = fit.matrix[number]
            sums[number] = before
        else:
            break
    return fit


def _drawn(moves: Moves, row: Tensor, worth: Tensor, generator: torch.Generator) -> Tensor:
    """The row after a random move that brings in a feature or turns a sign, if there is one."""
    other = moves.allowed[..., :-1]
    removals = other.flatten(1).any(1).nonzero()[:, 0]
    if len(removals) == 0:
        return row
    removal = int(removals[torch.randint(len(removals), (1,), generator=generator, device="cpu")])
    signs = worth.new_tensor(moves.signs)[:, None]
    values = torch.where(other[removal], signs * worth, -float("inf"))
    best = values.flatten().argsort(descending=True, stable=True)[: min(_DRAWN_FROM, int(other[removal].sum()))]
    sign, added = divmod(int(best[torch.randint(len(best), (1,), generator=generator, device="cpu")]), len(row))
    return moves.made(row, (removal * len(moves.signs) + sign) * (len(row) + 1) + added)


def _round(
    problem: Problem, matrix: Tensor, sums: Tensor, fit: FewValues, l2: float, allowed: Allowed
) -> tuple[bool, list[tuple[float, int, Tensor]]]:
    """The best move of each class in turn, made in ``matrix`` and ``sums``.

    Returns:
        Whether there was any, and the next best of each class: what they change, the class, and its row.
    """
    weights = weights_of(problem)

    def logits_of(images: slice | Tensor) -> Tensor:
        return torch.add(fit.bias[:, None], sums[:, images].double(), alpha=fit.scale)

    total = fit.bias.new_empty(sums.shape[1])
    for begin in range(0, len(total), problem.step):
        images = slice(begin, begin + problem.step)
        total[images] = problem.log_sum(logits_of(images), images, 0)
    moved = False
    nearly: list[tuple[float, int, Tensor]] = []
    for number in range(len(matrix)):
        logit = fit.scale * sums[number].double() + fit.bias[number]
        p = (logit - total).exp()
        others = total + torch.log1p(-p.clamp(max=0.5))
        sure = (p > 0.5).nonzero()[:, 0]  # where the difference to the sum of all would lose digits
        rivals = logits_of(sure)
        rivals[number] = -float("inf")
        others[sure] = problem.log_sum(rivals, sure, 0)
        state = ClassState(matrix[number].clone(), logit - others, share_of(problem, number))
        moves = allowed(number, matrix)
        if not bool(moves.allowed.any()):
            continue
        found = changes(problem, state, moves, fit.scale, l2)
        place = int(found.argmin())
        row = moves.made(state.row, place)
        change = _sums_change(problem, state.row, row)
        odds = state.odds + fit.scale * change
        softplus = torch.nn.functional.softplus
        difference = float((softplus(odds) - softplus(state.odds)) @ weights - fit.scale * (change @ state.share))
        difference += l2 * fit.scale**2 / 2 * float(row.abs().sum() - state.row.abs().sum())
        if difference < -1e-12 * abs(fit.objective):
            matrix[number] = row
            sums[number] = (sums[number].double() + change).to(sums.dtype)
            total = torch.logaddexp(others, logit + fit.scale * change)
            moved = True
        lowest = found.flatten().topk(min(_NEAR, found.numel()), largest=False)
        nearly += [
            (value, number, moves.made(state.row, where))
            for value, where in zip(lowest.values.tolist(), lowest.indices.tolist(), strict=True)
            if value < _SLACK * fit.objective
        ]
    return moved, nearly


def _sums_change(problem: Problem, before: Tensor, after: Tensor) -> Tensor:
    """How the sums of a class, S_c z, change with its row, float64 (N,)."""
    changed = (after != before).nonzero()[:, 0]
    step = problem.scale.inverse[changed] * (after - before)[changed]
    return (problem.features[:, changed].double() - problem.scale.mean[changed]) @ step
