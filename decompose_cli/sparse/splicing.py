"""Best-subset search by exchange: features in and out of each class while the penalised loss falls (abess, PNAS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.progress import Advance
from decompose_cli.sparse.minimise import Fit
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit, refit_loosely
from decompose_cli.sparse.rows import Row
from decompose_cli.sparse.second_order import second_derivatives

_TRIED = 5  # exchanges of a class, the most promising, before it is left as it is
_LOWER = 1e-6  # the least decrease that counts, as a share of the penalised loss


@dataclass(frozen=True)
class Splice:
    """What a search by exchange has found.

    Attributes:
        support: Features of each class, bool (C, D), as many as in the start.
        fit: The refitted head.
        rounds: Refits of the whole head.
    """

    support: Tensor
    fit: Fit
    rounds: int


def splice(
    problem: Problem,
    starts: Sequence[Tensor],
    l2: float,
    *,
    start: Tensor | None = None,
    held: Tensor | None = None,
    most_rounds: int = 300,
    advance: Advance = lambda _: None,
) -> Splice:
    """Exchange features of each class for better ones, from each of the given supports; the best result.

    Features are exchanged in all classes at once, by single second derivatives: those outside that gain most against
    those inside that cost least, first for half of a class's features, then for fewer. Then the classes are taken in
    turn, each with the others fixed, as in :class:`.rows.Row`. Only what lowers the penalised loss on the images stays,
    so that a result is never worse than its start; which of two supports is better is decided by whole refits.

    Args:
        problem: The images.
        starts: Supports to begin with, each bool (C, D).
        l2: Strength of the penalty, positive.
        start: Head on standardised features that the first refits begin with, (C, D + 1), last column the bias.
        held: Classes whose rows stay as ``start`` has them, whole, bool (C,): classes without images.
        most_rounds: Largest number of refits of the whole head for each start, at least 1.
        advance: Told of each of at most ``len(starts) * most_rounds`` rounds.
    """
    found = [_Search(problem, l2, held, most_rounds, advance).run(support, start) for support in starts]
    return min(found, key=lambda result: result.fit.objective)


class _Search:
    """One search, from one support."""

    def __init__(self, problem: Problem, l2: float, held: Tensor | None, most_rounds: int, advance: Advance) -> None:
        self.problem, self.l2, self.held = problem, l2, held
        self.moving = torch.ones(problem.num_classes, dtype=torch.bool) if held is None else ~held
        self.most_rounds, self.advance = most_rounds, advance
        self.rounds = 0

    def run(self, support: Tensor, start: Tensor | None) -> Splice:
        first = refit(self.problem, support, self.l2, start=start, held=self.held)
        self._count()
        ended, fit = self._all_classes(support, first)
        ended, fit = self._class_by_class(ended, fit)
        last = refit(self.problem, ended, self.l2, start=fit.head, held=self.held)
        if last.objective > first.objective:
            ended, last = support, first
        return Splice(ended, last, self.rounds)

    def _count(self) -> None:
        self.rounds += 1
        self.advance(1)

    def _refit(self, support: Tensor, head: Tensor) -> Fit:
        self._count()
        return refit_loosely(self.problem, support, self.l2, start=head, held=self.held)

    def _all_classes(self, support: Tensor, fit: Fit) -> tuple[Tensor, Fit]:
        """Exchange the same number in every class, from half of the features down to one."""
        number = int(support[self.moving].sum(1).amax()) // 2 if bool(self.moving.any()) else 0
        number = max(number, 1)
        while number and self.rounds < self.most_rounds:
            tried = self._exchanged(support, fit.head, number)
            if torch.equal(tried, support):
                number //= 2
                continue
            outcome = self._refit(tried, fit.head)
            if outcome.objective < fit.objective * (1 - _LOWER):
                support, fit = tried, outcome
            else:
                number //= 2
        return support, fit

    def _exchanged(self, support: Tensor, head: Tensor, number: int) -> Tensor:
        """The support with up to ``number`` features of each class exchanged, where the gain is above the cost."""
        _, gradient = self.problem.value_and_gradient(head)
        curvature = second_derivatives(self.problem, head)[:, :-1] + self.l2
        gains = gradient[:, :-1].square() / (2 * curvature)
        gains[support | ~self.problem.scale.varies] = -1
        costs = torch.where(support, curvature * head[:, :-1].square() / 2, float("inf"))
        gained, added = gains.sort(dim=1, descending=True, stable=True)
        lost, removed = costs.sort(dim=1, stable=True)
        better = (gained > lost)[:, :number] & self.moving[:, None]
        classes, places = better.nonzero().unbind(1)
        result = support.clone()
        result[classes, removed[classes, places]] = False
        result[classes, added[classes, places]] = True
        return result

    def _class_by_class(self, support: Tensor, fit: Fit) -> tuple[Tensor, Fit]:
        """Exchange one feature at a time, class after class, until a pass over the classes changes nothing."""
        numbers = (self.moving & support.any(1)).nonzero()[:, 0].tolist()
        while self.rounds < self.most_rounds:
            head, tried = fit.head.clone(), support.clone()
            logits = self.problem.logits(head)
            failed = []
            for number in numbers:
                row = Row(self.problem, number, logits, self.l2)
                columns, weights, bad = self._best_row(row, tried[number].nonzero()[:, 0], head[number], fit.objective)
                failed += [(d, number, f) for d, f in bad]
                tried[number] = False
                tried[number, columns] = True
                head[number] = 0
                head[number, columns], head[number, -1] = weights[:-1], weights[-1]
                logits[:, number] = self.problem.logits(head)[:, number]
            if torch.equal(tried, support):
                failed.sort(key=lambda entry: entry[0])
                for _, number, f in failed:
                    if self.rounds >= self.most_rounds:
                        return support, fit
                    t2 = support.clone()
                    h2 = fit.head.clone()
                    t2[number] = False
                    t2[number, f.columns] = True
                    h2[number] = 0
                    h2[number, f.columns], h2[number, -1] = f.weights[:-1], f.weights[-1]
                    outcome = self._refit(t2, h2)
                    if outcome.objective < fit.objective * (1 - _LOWER):
                        support, fit = t2, outcome
                        break
                else:
                    break
                continue
            outcome = self._refit(tried, head)
            if not outcome.objective < fit.objective:
                break
            support, fit = tried, outcome
        return support, fit

    def _best_row(self, row: Row, columns: Tensor, weights: Tensor, objective: float):
        bias = weights[-1:]
        fit = row.fit(columns, torch.cat([weights[columns], bias]))
        while True:
            changes = row.exchanges(fit)
            best = changes.flatten().sort(stable=True)
            bad = []
            for change, place in zip(best.values[:_TRIED].tolist(), best.indices[:_TRIED].tolist(), strict=True):
                if change == float("inf"):
                    break
                out, new = divmod(place, changes.shape[1])
                exchanged, start = fit.columns.clone(), fit.weights.clone()
                exchanged[out], start[out] = new, 0
                tried = row.fit(exchanged, start)
                if tried.objective < fit.objective - _LOWER * objective:
                    fit = tried
                    break
                bad.append((tried.objective - fit.objective, tried))
            else:
                return fit.columns, fit.weights, bad
