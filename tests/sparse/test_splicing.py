"""Search by exchange: against the optimum of all supports, and what holds of every search."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from helpers.sparse_search import all_supports, beside, images, minima, penalised_loss
from torch import Tensor

from decompose_cli.sparse import long_work
from decompose_cli.sparse.elimination import backward, first
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit
from decompose_cli.sparse.searches import SEARCHES
from decompose_cli.sparse.splicing import _Search, splice

L2 = 1e-2


def random_support(classes: int, features: int, k: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return first(torch.rand(classes, features, generator=generator).argsort(dim=1), k)


def contribution(problem: Problem, x: Tensor, labels: Tensor, k: int) -> Tensor:
    """Mean of the feature in the class times the dense weight."""
    classes = problem.num_classes
    dense = refit(problem, torch.ones(classes, x.shape[1], dtype=torch.bool), L2).head
    weight, _ = problem.scale.folded(dense[:, :-1], dense[:, -1])
    means = torch.stack([x[labels == number].double().mean(0) for number in range(classes)])
    return first((means * weight).argsort(dim=1, descending=True, stable=True), k)


def compared(seeds: range) -> tuple[int, int]:
    """How often the search reaches the least of all 15^3 losses, and how often its starts do."""
    reached, started = 0, 0
    supports = all_supports(3, 6, 2)
    for seed in seeds:
        x, labels = images(3, 6, 60, seed)
        optimum = float(minima(x, labels, supports, L2).min())
        problem = Problem(x, labels, 3)
        eliminated = backward(problem, [2], L2)
        starts = [contribution(problem, x, labels, 2), eliminated.support(2)]
        least = min(refit(problem, start, L2).objective for start in starts)
        found = splice(problem, starts, L2).fit.objective
        assert optimum * (1 - 1e-6) < found <= least
        reached += found < optimum * (1 + 1e-5)
        started += least < optimum * (1 + 1e-5)
    return reached, started


def test_the_best_of_all_supports_is_reached() -> None:
    assert len(all_supports(3, 6, 2)) == 3375
    reached, started = compared(range(3))
    assert reached == 3
    assert started < 3


@pytest.mark.slow
def test_the_best_of_all_supports_is_reached_in_most_cases() -> None:
    reached, started = compared(range(100))
    assert reached >= 85
    assert started < 40


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("kind", ["labels", "targets", "weights"])
def test_no_result_is_worse_than_its_start(k: int, kind: str) -> None:
    x, labels = images(4, 12, 200)
    generator = torch.Generator().manual_seed(1)
    targets = torch.rand(200, 4, generator=generator).double().softmax(1) if kind == "targets" else None
    a = torch.rand(200, generator=generator) + 0.1 if kind == "weights" else None
    problem = Problem(x, labels, 4, targets=targets, image_weights=a)
    for seed in range(2):
        support = random_support(4, 12, k, seed)
        found = splice(problem, [support], L2)
        start = refit(problem, support, L2).objective
        assert found.fit.objective < start
        assert found.support.sum(1).tolist() == [k] * 4
        assert found.fit.objective == pytest.approx(refit(problem, found.support, L2).objective, rel=2e-6)
        # There is nothing more to exchange.
        again = splice(problem, [found.support], L2, start=found.fit.head)
        assert found.fit.objective * (1 - 1e-3) < again.fit.objective <= found.fit.objective * (1 + 2e-6)


def test_a_search_that_finds_nothing_better_gives_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits on the way may be as loose as they like: whole refits have the last word."""
    x, labels = images(4, 12, 200)
    problem = Problem(x, labels, 4)
    support = splice(problem, [random_support(4, 12, 3, 0)], L2).support
    worse = random_support(4, 12, 3, 9)

    def deceived(problem, support, l2, *, start):
        fit = refit(problem, worse, l2, start=start)
        return type(fit)(fit.head, 0.0, 0.0, 0.0, 1, fit.curvature)

    monkeypatch.setattr("decompose_cli.sparse.splicing.refit_loosely", deceived)
    monkeypatch.setattr(
        "decompose_cli.sparse.splicing._Search._exchange_in_all_classes",
        lambda self: self._improves(worse, self.fit.head),
    )
    found = splice(problem, [support], L2)
    assert torch.equal(found.support, support)
    assert found.fit.objective == pytest.approx(refit(problem, support, L2).objective, rel=1e-9)


def test_the_best_of_several_starts_is_returned() -> None:
    x, labels = images(3, 6, 60, 7)
    problem = Problem(x, labels, 3)
    starts = [random_support(3, 6, 2, seed) for seed in range(4)]
    alone = [splice(problem, [start], L2) for start in starts]
    objectives = [result.fit.objective for result in alone]
    assert len({round(objective, 6) for objective in objectives}) > 1
    together = splice(problem, starts, L2)
    assert together.fit.objective == min(objectives)
    assert torch.equal(together.support, alone[objectives.index(min(objectives))].support)


def test_rounds_are_counted_and_limited() -> None:
    x, labels = images(4, 12, 200)
    problem = Problem(x, labels, 4)
    support = random_support(4, 12, 3, 0)
    objectives = []
    for most in (1, 2, 4, 30):
        told: list[int] = []
        found = splice(problem, [support], L2, most_rounds=most, advance=told.append)
        assert sum(told) == found.rounds <= most
        objectives.append(found.fit.objective)
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[0] == refit(problem, support, L2).objective
    assert objectives[-1] < objectives[0]


def test_features_are_exchanged_in_all_classes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Search, "_exchange_in_turn", lambda self, visited: (~visited, []))
    monkeypatch.setattr(_Search, "_exchange_what_was_missed", lambda self, missed: False)
    x, labels = images(4, 12, 200)
    start = random_support(4, 12, 4, 0)
    problem = Problem(x, labels, 4)
    found = splice(problem, [start], L2, most_rounds=2)
    exchanged = (found.support & ~start).sum(1).tolist()
    assert max(exchanged) == 2  # half of four
    assert min(exchanged) >= 1
    assert found.fit.objective < refit(problem, start, L2).objective


def test_exchanges_that_one_row_cannot_use_are_tried_with_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = images(3, 6, 60, 7)
    problem = Problem(x, labels, 3)
    start = random_support(3, 6, 2, 0)
    with_them = splice(problem, [start], L2)
    for most in range(4, 12):
        assert splice(problem, [start], L2, most_rounds=most).rounds <= most
    monkeypatch.setattr(_Search, "_exchange_what_was_missed", lambda self, missed: False)
    assert with_them.fit.objective < 0.9 * splice(problem, [start], L2).fit.objective


def test_a_pass_over_the_classes_never_raises_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = images(5, 12, 200, wrong=0.2)
    problem = Problem(x, labels, 5)
    monkeypatch.setattr(_Search, "_exchange_in_all_classes", lambda self: None)
    seen: list[bool] = []

    def loss(head: Tensor) -> float:
        return problem.value_and_gradient(head)[0] + L2 / 2 * float(head[:, :-1].square().sum())

    improves = _Search._improves

    def watched(self: _Search, support: Tensor, head: Tensor) -> bool:
        seen.append(loss(head) < self.fit.objective)
        return improves(self, support, head)

    monkeypatch.setattr(_Search, "_improves", watched)
    monkeypatch.setattr(_Search, "_exchange_what_was_missed", lambda self, missed: False)
    for seed in range(6):
        splice(problem, [random_support(5, 12, 3, seed)], L2)
    assert len(seen) >= 6
    assert all(seen)


def test_planted_features_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 5
    x = torch.randn(600, 30, generator=generator)
    for number in range(5):
        x[labels == number, 3 * number : 3 * number + 3] += 2.5
    problem = Problem(x, labels, 5)
    planted = torch.zeros(5, 30, dtype=torch.bool)
    for number in range(5):
        planted[number, 3 * number : 3 * number + 3] = True
    for seed in range(2):
        assert torch.equal(splice(problem, [random_support(5, 30, 3, seed)], L2).support, planted)


def test_constant_and_duplicate_features_are_exchanged_for_better_ones() -> None:
    x, labels = images(3, 6, 300, wrong=0.3)
    together = torch.cat([torch.full((300, 2), 4.0), x, x], 1)
    problem = Problem(together, labels, 3)
    start = torch.zeros(3, 14, dtype=torch.bool)
    start[0, [0, 1]] = True  # constant
    start[1, [2, 8]] = True  # the same twice
    start[2, [0, 3]] = True
    found = splice(problem, [start], 1e-5)
    chosen = found.support.nonzero()[:, 1].view(3, 2)
    assert int(chosen.min()) >= 2
    assert all(len({(f - 2) % 6 for f in row}) == 2 for row in chosen.tolist())


def test_all_features_and_none_stay_as_they_are() -> None:
    x, labels = images(4, 5, 200)
    problem = Problem(x, labels, 4)
    whole = torch.ones(4, 5, dtype=torch.bool)
    found = splice(problem, [whole], L2)
    assert torch.equal(found.support, whole)
    assert found.rounds == 1
    none = torch.zeros(4, 5, dtype=torch.bool)
    assert not splice(problem, [none], L2).support.any()


def test_classes_keep_their_own_numbers_of_features() -> None:
    x, labels = images(4, 12, 200)
    start = random_support(4, 12, 4, 0)
    start[1] = False
    start[2] = torch.arange(12) < 1
    found = splice(Problem(x, labels, 4), [start], L2)
    assert found.support.sum(1).tolist() == [4, 0, 1, 4]
    assert not torch.equal(found.support[0], start[0])


@pytest.mark.parametrize("between", [1, 64])
def test_the_loss_is_that_beside_classes_that_are_held(between: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decompose_cli.sparse.splicing._BETWEEN_SUMS", between)
    x, labels = images(4, 12, 200)
    few = labels != 1
    head = torch.randn(4, 13, generator=torch.Generator().manual_seed(3)).double()
    head[1, -1] += 2
    held, x, labels = torch.arange(4) == 1, x[few], labels[few]
    problem, start = beside(x, labels, head, held), random_support(3, 12, 3, 0)
    found = splice(problem, [start], L2)
    assert found.fit.objective < refit(problem, start, L2).objective
    # No exchange in a class, with a whole fit of all, is better.
    for number in range(3):
        for out, new in itertools.product(found.support[number].nonzero()[:, 0], range(12)):
            if not found.support[number, new]:
                other = found.support.clone()
                other[number, out], other[number, new] = False, True
                assert refit(problem, other, L2, start=found.fit.head).objective > found.fit.objective * (1 - 1e-4)
    whole = head.clone()
    whole[~held] = found.fit.head
    loss = float(penalised_loss(x, torch.nn.functional.one_hot(labels, 4), whole, 0.0))
    assert found.fit.loss == pytest.approx(loss, rel=1e-9)


def test_a_search_is_repeatable() -> None:
    x, labels = images(4, 12, 200)
    problem = Problem(x, labels, 4)
    once, twice = (splice(problem, [random_support(4, 12, 3, 0)], L2) for _ in range(2))
    assert torch.equal(once.fit.head, twice.fit.head)


def test_large_problems_are_exchanged_in_all_classes_at_once_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a number of rounds is asked for."""
    x, labels = images(4, 12, 200)
    problem, start = Problem(x, labels, 4), random_support(4, 12, 4, 0)
    visits: list[int] = []
    honest = _Search._exchange_in_turn

    def watched(self: _Search, visited: Tensor) -> object:
        visits.append(int(visited.sum()))
        return honest(self, visited)

    monkeypatch.setattr(_Search, "_exchange_in_turn", watched)
    whole = splice(problem, [start], L2)
    assert visits
    for name, least in (("_PRODUCTS", 200 * 12 * 16), ("_MOST_IN_TURN", problem.num_classes)):
        with monkeypatch.context() as patch:
            patch.setattr(f"decompose_cli.sparse.splicing.{name}", least)
            visits.clear()
            assert splice(problem, [start], L2).fit.objective == whole.fit.objective
            assert visits
            patch.setattr(f"decompose_cli.sparse.splicing.{name}", least - 1)
            visits.clear()
            short = splice(problem, [start], L2)
            assert not visits
    assert whole.fit.objective <= short.fit.objective < refit(problem, start, L2).objective
    assert splice(problem, [start], L2, most_rounds=30).fit.objective == whole.fit.objective
    assert visits


def test_long_searches_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[int]] = {}

    @contextmanager
    def track(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        counted = told.setdefault(f"{description}, {unit}", [])
        yield counted.append
        assert sum(counted[-total:]) == total

    monkeypatch.setattr(long_work, "track", track)
    x, labels = images(3, 6, 60)
    problem = Problem(x, labels, 3)
    start = refit(problem, torch.ones(3, 6, dtype=torch.bool), L2).head
    quiet = [support.tolist() for support, _ in SEARCHES["splicing"](problem, start, [2], L2)]
    assert not told
    monkeypatch.setattr(long_work, "_LONG", 0)
    assert [support.tolist() for support, _ in SEARCHES["splicing"](problem, start, [2], L2)] == quiet
    assert set(told) == {"Eliminating features, steps", "Exchanging features, classes"}
