"""Parts of fits beside classes whose logits are constants against the whole softmax of all classes."""

from __future__ import annotations

import pytest
import torch
from helpers.sparse_search import beside, images, standardised
from torch import Tensor

from decompose_cli.sparse import curvature, elimination, one_scale, pools, value_search
from decompose_cli.sparse.moves import Moves
from decompose_cli.sparse.one_scale import fit_scale, sums_of
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.rows import Row
from decompose_cli.sparse.second_order import second_derivatives
from decompose_cli.sparse.splicing import _Search

CLASSES, FEATURES, IMAGES, L2 = 5, 7, 120, 1e-2
HELD = torch.tensor([False, True, False, False, True])
OWN = [0, 2, 3]
HEAD = torch.randn(CLASSES, FEATURES + 1, generator=torch.Generator().manual_seed(3)).double()


def data() -> tuple[Tensor, Tensor]:
    x, labels = images(CLASSES, FEATURES, 2 * IMAGES, wrong=0.1)
    inside = ~HELD[labels]
    return x[inside], labels[inside]


def both() -> tuple[Problem, Problem]:
    """The problem of three classes, and that of all five."""
    x, labels = data()
    a = torch.rand(len(x), generator=torch.Generator().manual_seed(1)) + 0.1
    return beside(x, labels, HEAD, HELD, image_weights=a), Problem(x, labels, CLASSES, image_weights=a)


def test_second_derivatives_and_curvatures_of_classes_are_those_among_all() -> None:
    own, whole = both()
    free = torch.ones_like(HEAD, dtype=torch.bool)
    found, expected = second_derivatives(own, HEAD[OWN]), second_derivatives(whole, HEAD)
    torch.testing.assert_close(found, expected[OWN])
    for made, name in ((curvature._ByClass, "blocks"), (curvature._Diagonal, "diagonal")):
        some, every = made(own, HEAD[OWN], free[OWN], L2), made(whole, HEAD, free, L2)
        torch.testing.assert_close(getattr(some, name), getattr(every, name)[OWN], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("is_sure", [False, True])
def test_what_a_row_is_beside(is_sure: bool) -> None:
    """The sum of all others, also where nearly everything is the row's own."""
    own, whole = both()
    head = HEAD.clone()
    head[2, -1] += 30.0 * is_sure
    logits = own.logits(head[OWN])
    others = whole.logits(head)[:, [0, 1, 3, 4]].logsumexp(1)
    sums = whole.logits(head).logsumexp(1)
    for row in (Row(own, 1, logits, L2), Row(own, 1, logits, L2, sums)):
        torch.testing.assert_close(row.others, others, rtol=1e-12, atol=1e-12)
    own.at_once = 50  # in blocks
    search = _Search(own, L2, torch.ones(3, FEATURES, dtype=torch.bool), None, 1, lambda _: None)
    torch.testing.assert_close(search._sums(logits), sums, rtol=1e-12, atol=1e-12)


def test_features_are_eliminated_as_they_are_among_all_classes() -> None:
    own, whole = both()
    head = HEAD.clone()
    head[HELD, -1] += 3  # so that probabilities are other ones than without them
    own = beside(*data(), head, HELD, image_weights=own.image_weights)
    among = torch.arange(FEATURES).expand(CLASSES, FEATURES)
    expected = elimination._ranked(whole, head, L2, among, 1)[OWN]
    assert torch.equal(elimination._ranked(own, head[OWN], L2, among[OWN], 1), expected)
    alone = Problem(own.features, own.labels, 3, image_weights=own.image_weights)
    assert not torch.equal(elimination._ranked(alone, head[OWN], L2, among[OWN], 1), expected)


def test_the_curvature_of_a_pool_is_the_mean_over_the_classes_that_are_fitted() -> None:
    own, whole = both()
    p = whole.probabilities(HEAD)[:, OWN]
    z, a = standardised(whole.features)[:, :-1], own.image_weights
    assert a is not None
    expected = (z * (a[:, None] * p * (1 - p)).mean(1, keepdim=True)).t() @ z / a.sum()
    torch.testing.assert_close(pools._shared_curvature(own, HEAD[OWN], torch.arange(FEATURES)), expected)


def test_derivatives_by_scale_and_biases_are_those_of_autograd() -> None:
    own, whole = both()
    matrix = HEAD[OWN, :-1].round().to(torch.int8)
    z, a = standardised(whole.features)[:, :-1], own.image_weights
    assert a is not None
    rest = whole.logits(HEAD)[:, HELD]

    def loss(parameters: Tensor) -> Tensor:
        logits = torch.cat([parameters[0] * z @ matrix.double().t() + parameters[1:], rest], 1)
        return (a * torch.nn.functional.cross_entropy(logits, own.labels, reduction="none")).sum() / a.sum()

    at = torch.tensor([0.7, 0.1, -0.3, 0.5]).double()
    value, gradient, second = one_scale._derivatives(own, sums_of(own, matrix), at)
    assert value == pytest.approx(float(loss(at)), rel=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.functional.jacobian(loss, at))
    torch.testing.assert_close(second, torch.autograd.functional.hessian(loss, at))


@pytest.mark.parametrize("raised", [0.0, -30.0])
def test_odds_of_a_class_in_an_exchange_of_values(raised: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all other classes; with little left for those that are held, images are sure of a class."""
    x, labels = data()
    head = HEAD.clone()
    head[HELD, -1] += raised
    own, rest = beside(x, labels, head, HELD), Problem(x, labels, CLASSES).logits(head)[:, HELD]
    matrix = HEAD[OWN, :-1].round().to(torch.int8)
    fit = fit_scale(own, matrix, 1e-4)
    seen = []
    monkeypatch.setattr(value_search, "changes", lambda problem, state, moves, *more: seen.append(state) or INFINITE)  # type: ignore[func-returns-value]

    def allowed(number: int, current: Tensor) -> Moves:
        return Moves((-1,), (1,), torch.ones(1, 1, FEATURES + 1, dtype=torch.bool))

    value_search._round(own, matrix.clone(), sums_of(own, matrix), fit, 1e-4, allowed)
    logits = standardised(x) @ fit.head.t()
    for number, state in enumerate(seen[:1]):
        others = torch.cat([logits[:, [one for one in range(3) if one != number]], rest], 1).logsumexp(1)
        torch.testing.assert_close(state.odds, logits[:, number] - others, rtol=1e-9, atol=1e-9)


INFINITE = torch.full((1, 1, FEATURES + 1), float("inf"))
