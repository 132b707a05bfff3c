"""Best-subset search: features go in and out of each class while the penalised loss falls (abess, PNAS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.messages import Advance
from decompose_cli.sparse.long_work import track_long
from decompose_cli.sparse.minimise import Fit
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit, refit_loosely
from decompose_cli.sparse.rows import Row, RowFit
from decompose_cli.sparse.second_order import second_derivatives
from decompose_cli.sparse.threads import in_few_threads, one_thread

_TRIED = 3  # exchanges of a class, the most promising by their estimates
_MOST_ROUNDS = 30
_PRODUCTS = 1 << 38  # of one estimate for each class: minutes; 10,000 x 2048 features, 268 classes with k = 50
_MOST_IN_TURN = 500  # classes; a thousand of them take half an hour
_BETWEEN_SUMS = 64  # classes
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


@in_few_threads
def splice(
    problem: Problem,
    starts: Sequence[Tensor],
    l2: float,
    *,
    start: Tensor | None = None,
    most_rounds: int | None = None,
    advance: Advance = lambda _: None,
) -> Splice:
    """Exchange features of each class for better ones, from each of the given supports; the best result.

    Features are exchanged in all classes at once, by single second derivatives: those outside that gain most against
    those inside that cost least, first half of a class's features, then fewer. Then the classes are taken in turn, each
    with the others fixed, as :class:`.rows.Row` has it. When that ends, the exchanges that came nearest are tried once
    more, the nearest first, with a refit of all classes. Only what lowers the penalised loss on the images stays, and
    at the end whole refits decide, so that a result is never worse than its start.

    Args:
        problem: The images.
        starts: Supports to begin with, each bool (C, D).
        l2: Strength of the penalty, positive.
        start: Head on standardised features that the first refits begin with, (C, D + 1), last column the bias.
        most_rounds: Largest number of refits of the whole head for each start, at least 1; by default 30, and for
            more than 500 classes, or where estimates for all take more than 2^38 products (N D C k), those in all
            classes at once alone, which bring most of what there is to gain.
        advance: Told of each of at most ``len(starts)`` times ``most_rounds`` (30 by default) rounds.
    """
    found = [_Search(problem, l2, support, start, most_rounds, advance).run() for support in starts]
    return min(found, key=lambda result: result.fit.objective)


@dataclass(frozen=True)
class _Missed:
    """An exchange in one class that did not lower the loss while the other classes stayed."""

    rise: float
    number: int
    columns: Tensor
    weights: Tensor


class _Search:
    """One search, from one support."""

    def __init__(
        self,
        problem: Problem,
        l2: float,
        support: Tensor,
        start: Tensor | None,
        most_rounds: int | None,
        advance: Advance,
    ) -> None:
        self.problem, self.l2 = problem, l2
        self.moving = support.any(1)
        self.rounds, self.most_rounds, self.advance = 1, most_rounds or _MOST_ROUNDS, advance
        products = len(problem.labels) * problem.num_features * int(support.sum())
        self.in_turn = most_rounds is not None or (products <= _PRODUCTS and int(self.moving.sum()) <= _MOST_IN_TURN)
        self.support = self.first_support = support
        self.fit = self.first_fit = refit(problem, support, l2, start=start)
        advance(1)

    def run(self) -> Splice:
        self._exchange_in_all_classes()
        visited = self.moving
        while self.in_turn and self.rounds < self.most_rounds:
            changed, missed = self._exchange_in_turn(visited)
            if bool(changed.any()):
                visited = changed  # the others had nothing to gain, and little is new to them
            elif not torch.equal(visited, self.moving) or self._exchange_what_was_missed(missed):
                visited = self.moving
            else:
                break
        last = refit(self.problem, self.support, self.l2, start=self.fit.head)
        if last.objective > self.first_fit.objective:
            return Splice(self.first_support, self.first_fit, self.rounds)
        return Splice(self.support, last, self.rounds)

    def _improves(self, support: Tensor, head: Tensor) -> bool:
        """Refit at another support, and keep it if the penalised loss is lower."""
        self.rounds += 1
        self.advance(1)
        fit = refit_loosely(self.problem, support, self.l2, start=head)
        if not fit.objective < (1 - _LOWER) * self.fit.objective:
            return False
        self.support, self.fit = support, fit
        return True

    def _exchange_in_all_classes(self) -> None:
        """Exchange up to the same number of features in every class, from half of them down to one."""
        number = max(1, int(self.support[self.moving].sum(1).max()) // 2) if bool(self.moving.any()) else 0
        while number and self.rounds < self.most_rounds:
            tried = self._exchanged(number)
            if torch.equal(tried, self.support) or not self._improves(tried, self.fit.head):
                number //= 2

    def _exchanged(self, number: int) -> Tensor:
        """The support with up to ``number`` features of each class exchanged, as long as the gain is above the cost."""
        head = self.fit.head
        _, gradient = self.problem.value_and_gradient(head)
        gradient, weights = gradient[:, :-1], head[:, :-1]
        curvature = second_derivatives(self.problem, head)[:, :-1] + self.l2
        gains = torch.where(self.support, -1.0, gradient.square() / (2 * curvature))
        costs = torch.where(self.support, curvature * weights.square() / 2, float("inf"))
        gained, added = gains.sort(dim=1, descending=True, stable=True)
        lost, removed = costs.sort(dim=1, stable=True)
        classes, places = ((gained > lost)[:, :number] & self.moving[:, None]).nonzero().unbind(1)
        result = self.support.clone()
        result[classes, removed[classes, places]] = False
        result[classes, added[classes, places]] = True
        return result

    def _exchange_in_turn(self, visited: Tensor) -> tuple[Tensor, list[_Missed]]:
        """One pass over some classes, each improved while the others stay, then a refit of all.

        Returns:
            Classes whose features are others now, bool (C,), and the exchanges that were tried last in each class and
            not kept, the nearest first.
        """
        support, head = self.support.clone(), self.fit.head.clone()
        logits = self.problem.logits(head)
        missed: list[_Missed] = []
        numbers = visited.nonzero()[:, 0].tolist()
        with one_thread(), track_long(self.problem, "Exchanging features", len(numbers), "classes") as advance:
            for place, number in enumerate(numbers):
                if place % _BETWEEN_SUMS == 0:  # what taking a class away and adding another rounds does not pile up
                    sums = self._sums(logits)
                row = Row(self.problem, number, logits, self.l2, sums)
                columns = support[number].nonzero()[:, 0]
                fit = row.fit(columns, torch.cat([head[number, columns], head[number, -1:]]))
                fit, others = self._best_of(row, fit)
                missed += [
                    _Missed(other.objective - fit.objective, number, other.columns, other.weights) for other in others
                ]
                _put(support, head, number, fit.columns, fit.weights)
                logits[:, number] = fit.logits.to(logits.dtype)
                sums = torch.logaddexp(row.others, fit.logits)
                advance(1)
        changed = (support != self.support).any(1)
        if bool(changed.any()) and not self._improves(support, head):
            changed[:] = False
        return changed, sorted(missed, key=lambda exchange: exchange.rise)

    def _sums(self, logits: Tensor) -> Tensor:
        """Logarithms of the sums of exp(logit) over all classes, float64 (N,), block by block."""
        step = self.problem.at_once
        blocks = (slice(start, start + step) for start in range(0, len(logits), step))
        return torch.cat([self.problem.log_sum(logits[rows].double(), rows) for rows in blocks])

    def _best_of(self, row: Row, fit: RowFit) -> tuple[RowFit, list[RowFit]]:
        """Exchange features of one class until no exchange that is tried lowers the loss; return those as well."""
        least = _LOWER * self.fit.objective / self.problem.num_classes
        while True:
            changes, places = row.exchanges(fit).flatten().sort(stable=True)
            others: list[RowFit] = []
            for place in places[:_TRIED][changes[:_TRIED].isfinite()].tolist():
                others.append(row.exchanged(fit, *divmod(place, self.problem.num_features)))
                if others[-1].objective < fit.objective - least:
                    break
            if not others or not others[-1].objective < fit.objective - least:
                return fit, others
            fit = others[-1]

    def _exchange_what_was_missed(self, missed: list[_Missed]) -> bool:
        """Try exchanges with a refit of all classes until one lowers the penalised loss."""
        for exchange in missed[: self.most_rounds - self.rounds]:
            support, head = self.support.clone(), self.fit.head.clone()
            _put(support, head, exchange.number, exchange.columns, exchange.weights)
            if self._improves(support, head):
                return True
        return False


def _put(support: Tensor, head: Tensor, number: int, columns: Tensor, weights: Tensor) -> None:
    """Give a class these features, and these weights with the bias last."""
    support[number] = False
    support[number, columns] = True
    head[number] = 0
    head[number, columns], head[number, -1] = weights[:-1], weights[-1]
