"""Backward elimination against a slow twin, and what holds of every elimination."""

from __future__ import annotations

import pytest
import torch
from helpers.sparse_search import beside, images, penalised_loss
from scipy.optimize import minimize
from torch import Tensor

from decompose_cli.sparse import elimination
from decompose_cli.sparse.elimination import backward, first, removal, sizes
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit

CLASSES, FEATURES, IMAGES = 4, 7, 200
L2 = 1e-2
STRONG = 0.3


def fitted(x: Tensor, t: Tensor, left: list[list[int]], l2: float) -> Tensor:
    """The head with these features at the least penalised loss, by scipy."""
    free = torch.zeros(CLASSES, FEATURES + 1, dtype=torch.bool)
    free[:, -1] = True
    for number, row in enumerate(left):
        free[number, row] = True

    def value(flat):
        theta = torch.tensor(flat, requires_grad=True)
        found = penalised_loss(x, t, torch.zeros(CLASSES, FEATURES + 1).double().masked_scatter(free, theta), l2)
        (gradient,) = torch.autograd.grad(found, theta)
        return float(found.detach()), gradient.numpy()

    found = minimize(value, torch.zeros(int(free.sum())).double().numpy(), jac=True, method="BFGS")
    return torch.zeros(CLASSES, FEATURES + 1).double().masked_scatter(free, torch.tensor(found.x))


def least_rise(hessian: Tensor, weight: float, column: int, staying: list[int]) -> float:
    """The least rise of d H d / 2 over changes d of the staying weights and one that becomes zero."""
    moved = -torch.linalg.solve(hessian[staying][:, staying], hessian[staying, column] * -weight)
    change = torch.zeros(len(hessian)).double()
    change[column], change[staying] = -weight, moved
    return float(change @ hessian @ change) / 2


def by_hand(x: Tensor, labels: Tensor, k: int, l2: float, correlated: bool) -> list[list[int]]:
    """The order of each class, by whole fits and second derivatives from autograd; one feature a step."""
    t = torch.nn.functional.one_hot(labels, CLASSES)
    left = [list(range(FEATURES)) for _ in range(CLASSES)]
    gone: list[list[int]] = [[] for _ in range(CLASSES)]
    while len(left[0]) > k:
        head = fitted(x, t, left, l2)
        whole = torch.autograd.functional.hessian(lambda h: penalised_loss(x, t, h, l2), head)
        for number, row in enumerate(left):
            hessian, weights = whole[number, :, number], head[number]

            def rise(f: int, hessian: Tensor = hessian, weights: Tensor = weights, row: list[int] = row) -> float:
                staying = [g for g in [*row, FEATURES] if g != f] if correlated else []
                return least_rise(hessian, float(weights[f]), f, staying)

            cheapest = min(row, key=rise)
            row.remove(cheapest)
            gone[number].insert(0, cheapest)
    return [[*sorted(row), *others] for row, others in zip(left, gone, strict=True)]


@pytest.mark.parametrize("correlated", [True, False])
@pytest.mark.parametrize("l2", [L2, STRONG])
def test_elimination_is_that_of_the_slow_twin(correlated: bool, l2: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "_KEPT", 0.99)
    if not correlated:
        monkeypatch.setattr(elimination, "_PRODUCTS", 0)
    assert sizes(FEATURES, 2) == [7, 6, 5, 4, 3, 2]
    x, labels = images(CLASSES, FEATURES, IMAGES)
    found = backward(Problem(x, labels, CLASSES), [2], l2)
    ours = [[*sorted(row[:2]), *row[2:]] for row in found.order.tolist()]
    assert ours == by_hand(x, labels, 2, l2, correlated)


@pytest.mark.parametrize("weighted", [True, False])
def test_second_derivatives_of_rows_are_those_of_autograd(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = images(CLASSES, FEATURES, IMAGES)
    a = torch.rand(IMAGES, generator=torch.Generator().manual_seed(1)) ** 6 + 1e-3 if weighted else None
    inverses: list[Tensor] = []

    def watched(inverse: Tensor, weights: Tensor, count: int) -> Tensor:
        inverses.append(inverse)
        return removal(inverse, weights, count)

    monkeypatch.setattr(elimination, "removal", watched)
    fit = backward(Problem(x, labels, CLASSES, image_weights=a), [FEATURES], L2).fits[FEATURES]
    t = torch.nn.functional.one_hot(labels, CLASSES)
    whole = torch.autograd.functional.hessian(lambda h: penalised_loss(x, t, h, L2, a), fit.head)
    assert len(inverses) == CLASSES
    for number, inverse in enumerate(inverses):
        expected = torch.linalg.inv(whole[number, :, number]).diagonal()
        found = inverse.diagonal()  # features by their cost, then the bias
        torch.testing.assert_close(found[-1], expected[-1], rtol=0.05, atol=0)
        torch.testing.assert_close(found[:-1].sort().values, expected[:-1].sort().values, rtol=0.05, atol=0)


def test_weights_go_one_after_another_where_a_quadratic_loss_rises_least() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(20, 6, generator=generator).double()
    hessian = mixed.t() @ mixed
    weights = torch.randn(2, 5, generator=generator).double()  # the sixth stays
    found = removal(torch.linalg.inv(hessian), weights, 5).tolist()
    gone: list[int] = []
    at = torch.cat([weights, torch.zeros(2, 1)], 1)
    while len(gone) < 5:

        def without(f: int) -> tuple[float, Tensor]:
            out = [*gone, f]
            staying = [g for g in range(6) if g not in out]
            heads = torch.zeros_like(at)
            change = torch.zeros_like(at)
            change[:, out] = -at[:, out]
            change[:, staying] = -torch.linalg.solve(
                hessian[staying][:, staying], hessian[staying][:, out] @ change[:, out].t()
            ).t()
            heads = at + change
            return float((change @ hessian * change).sum()), heads

        gone.append(min(set(range(5)) - set(gone), key=lambda f: without(f)[0]))
    assert found == gone


def test_of_two_features_that_say_the_same_one_stays() -> None:
    # A strong penalty would have both, at half the weight, before one that says little.
    x, labels = images(CLASSES, FEATURES, IMAGES, wrong=0.3)
    together = backward(Problem(torch.cat([x, x], 1), labels, CLASSES), [2, 5], 1e-5)
    for k in (2, 5):
        rows = (together.order[:, :k] % FEATURES).tolist()
        assert [len(set(row)) for row in rows] == [k] * CLASSES


def test_sizes_go_down_by_a_sixth_and_by_one_at_least() -> None:
    assert sizes(64, 5) == [64, 53, 44, 36, 30, 25, 20, 16, 13, 10, 8, 6, 5]
    assert sizes(3, 1) == [3, 2, 1]
    assert sizes(5, 5) == [5]
    assert len(sizes(2048, 50)) == 22


def test_several_k_are_what_they_are_alone_in_one_descent() -> None:
    x, labels = images(CLASSES, 20, IMAGES)
    problem = Problem(x, labels, CLASSES)
    told: list[int] = []
    ks = [1, 2, 5, 11, 20]
    found = backward(problem, ks, L2, advance=told.append)
    assert sum(told) == len(told) == len(sizes(20, 1))
    assert torch.equal(found.order.sort(1).values, torch.arange(20).expand(CLASSES, 20))
    for k in ks:
        support = found.support(k)
        assert support.sum(1).tolist() == [k] * CLASSES
        alone = backward(problem, [k], L2)
        assert torch.equal(alone.support(k), support)
        assert alone.fits[k].objective == pytest.approx(found.fits[k].objective, rel=1e-9)
        assert found.fits[k].objective == pytest.approx(refit(problem, support, L2).objective, rel=2e-6)
        assert torch.equal(found.fits[k].head[:, :-1] != 0, support)
    assert sorted(found.fits) == ks
    assert bool(found.support(20).all())


def test_fewer_features_cost_more() -> None:
    x, labels = images(CLASSES, 20, IMAGES)
    fits = backward(Problem(x, labels, CLASSES), range(1, 21), L2).fits
    objectives = [fits[k].objective for k in range(1, 21)]
    assert objectives == sorted(objectives, reverse=True)


def test_features_that_say_nothing_go_and_constant_ones_first() -> None:
    x, labels = images(3, 6, 300)
    noise = torch.randn(300, 4, generator=torch.Generator().manual_seed(5))
    constant = torch.full((300, 2), 3.0)
    together = torch.cat([constant, noise, x], 1)
    order = backward(Problem(together, labels, 3), [1], L2).order
    assert set(order[:, -2:].flatten().tolist()) == {0, 1}
    assert bool((order[:, :2] >= 6).all())


def test_classes_with_nothing_to_go_by_have_k_features_all_the_same() -> None:
    # The third class looks like the first two together: no single feature speaks for it.
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    sign = torch.where(labels == 2, torch.randint(0, 2, (300,), generator=generator), labels) * 2.0 - 1
    x = sign[:, None] * torch.tensor([1.0, 0.5, 0.0, 0.0]) + torch.randn(300, 4, generator=generator)
    x[:, 3] = 1.0
    found = backward(Problem(x, labels, 3), [3, 4], L2)
    assert found.support(3).sum(1).tolist() == [3, 3, 3]
    assert not found.support(3)[:, 3].any()
    assert bool(torch.isfinite(found.fits[4].head).all())


def test_the_loss_is_that_beside_classes_that_are_held() -> None:
    x, labels = images(CLASSES, FEATURES, IMAGES)
    few = labels != 2
    start = torch.randn(CLASSES, FEATURES + 1, generator=torch.Generator().manual_seed(3)).double()
    held = torch.arange(CLASSES) == 2
    x, labels = x[few], labels[few]
    found = backward(beside(x, labels, start, held), [2], L2, start=start[~held]).fits[2]
    whole = start.clone()
    whole[~held] = found.head
    penalty = L2 / 2 * float(found.head[:, :-1].square().sum())
    loss = float(penalised_loss(x, torch.nn.functional.one_hot(labels, CLASSES), whole, 0.0))
    assert found.objective == pytest.approx(loss + penalty, rel=1e-9)
    other = start.clone()
    other[2] *= 3
    beside_other = backward(beside(x, labels, other, held), [2], L2, start=start[~held]).fits[2].head
    assert not torch.allclose(beside_other, found.head, rtol=0.01)


@pytest.mark.parametrize("ks", [[], [0], [3, 8]])
def test_other_numbers_are_refused(ks: list[int]) -> None:
    x, labels = images(CLASSES, FEATURES, IMAGES)
    with pytest.raises(ValueError, match="are not numbers of 7 features"):
        backward(Problem(x, labels, CLASSES), ks, L2)


def test_an_order_says_its_first_features() -> None:
    assert first(torch.tensor([[2, 0, 1], [1, 2, 0]]), 2).tolist() == [[True, False, True], [False, True, True]]
