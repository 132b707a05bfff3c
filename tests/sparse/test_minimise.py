"""The solver of all fits against scipy on the written-out objective, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers.sparse_fits import CLASSES, FEATURES, IMAGES, images, some_head, written_out
from helpers.sparse_search import beside
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from decompose_cli.sparse import curvature
from decompose_cli.sparse.minimise import Penalty, minimise
from decompose_cli.sparse.problem import Problem, Scale
from decompose_cli.sparse.refit import beginning, refit


def by_scipy(objective, start: Tensor, free: Tensor) -> float:
    """The minimum over the free parameters by scipy's BFGS with gradients from autograd."""

    def value(flat):
        theta = torch.tensor(flat, requires_grad=True)
        head = start.clone().masked_scatter(free, theta)
        found = objective(head)
        (gradient,) = torch.autograd.grad(found, theta)
        return float(found.detach()), gradient.numpy()

    found = minimize(value, start[free].numpy(), jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 5000})
    return float(found.fun)


@pytest.mark.parametrize("case", ["labels", "targets", "weights"])
@pytest.mark.parametrize("step", [1 << 22, 40])
def test_loss_and_gradient_are_those_of_the_written_out_loss(
    case: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decompose_cli.sparse.problem._VALUES_AT_ONCE", step)
    x, labels = images()
    generator = torch.Generator().manual_seed(1)
    targets = torch.rand(IMAGES, CLASSES, generator=generator).double().softmax(1) if case == "targets" else None
    a = torch.rand(IMAGES, generator=generator) + 0.1 if case == "weights" else None
    head = some_head().requires_grad_()
    expected = written_out(x, labels, head, targets, a)
    (gradient,) = torch.autograd.grad(expected, head)
    problem = Problem(x, labels, CLASSES, targets=targets, image_weights=a)
    value, found = problem.value_and_gradient(head.detach())
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", ["labels", "targets", "weights"])
@pytest.mark.parametrize("is_single", [False, True])
def test_a_problem_beside_a_rest_is_that_of_the_whole_softmax(
    case: str, is_single: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, gradient and curvature by the classes that are fitted, in blocks and by the head of all classes."""
    monkeypatch.setattr("decompose_cli.sparse.problem._VALUES_AT_ONCE", 100)
    x, labels = images()
    held = torch.arange(CLASSES) % 2 == 0
    x, labels = x[~held[labels]], labels[~held[labels]]
    generator = torch.Generator().manual_seed(1)
    targets = torch.rand(len(x), CLASSES, generator=generator).double().softmax(1) if case == "targets" else None
    a = torch.rand(len(x), generator=generator) + 0.1 if case != "labels" else None
    head = 2 * some_head()
    head[held, -1] += 100  # next to nothing is left for the others; exp of the difference overflows in float32
    problem = beside(x, labels, head, held, targets=targets, image_weights=a)
    problem = problem.in_single if is_single else problem
    rows = head[~held].requires_grad_()

    def loss(rows: Tensor) -> Tensor:
        return written_out(x, labels, head.index_put(((~held).nonzero()[:, 0],), rows), targets, a)

    (gradient,) = torch.autograd.grad(loss(rows), rows)
    value, found = problem.value_and_gradient(rows.detach())
    close = {"rtol": 1e-4, "atol": 1e-4} if is_single else {"rtol": 1e-9, "atol": 1e-12}
    assert value == pytest.approx(float(loss(rows).detach()), rel=1e-6 if is_single else 1e-12)
    torch.testing.assert_close(found, gradient, **close)
    near = rows.detach() * 0.1
    near[:, -1] += 90
    second = torch.autograd.functional.hessian(loss, near).flatten(2).flatten(0, 1)
    free = torch.ones_like(near, dtype=torch.bool)
    torch.testing.assert_close(curvature.Dense(problem, near, free, 0.0).matrix, second, **close)


def test_a_head_on_standardised_features_is_one_on_features() -> None:
    x, _ = images()
    x[:, 2] = 5.0
    scale = Scale.of(x)
    assert scale.varies.tolist() == [number != 2 for number in range(FEATURES)]
    weight, bias = some_head()[:, :-1], some_head()[:, -1]
    on_z = scale.standardised(weight, bias)
    z = (x.double() - scale.mean) * scale.inverse
    torch.testing.assert_close(z @ on_z[0].t() + on_z[1], x.double() @ weight.t() + bias, rtol=1e-9, atol=1e-9)
    back = scale.folded(*on_z)
    torch.testing.assert_close(back[0][:, scale.varies], weight[:, scale.varies], rtol=1e-9, atol=1e-12)
    assert not back[0][:, 2].any()


def use(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take one of the three kinds of curvature, whatever the size."""
    if kind != "whole":
        monkeypatch.setattr(curvature, "_MOST_DENSE", 0)
    if kind == "diagonal":
        monkeypatch.setattr(curvature, "_MOST_IN_BLOCKS", 0)


@pytest.mark.parametrize("kind", ["whole", "by class", "diagonal"])
@pytest.mark.parametrize("toward", [False, True])
def test_a_refit_reaches_the_minimum_that_scipy_finds(kind: str, toward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    use(kind, monkeypatch)
    x, labels = images()
    support = torch.rand(CLASSES, FEATURES, generator=torch.Generator().manual_seed(2)) < 0.5
    support[1] = False  # a class may have its bias alone
    free = torch.cat([support, torch.ones(CLASSES, 1, dtype=torch.bool)], 1)
    aim = some_head(4) * free if toward else torch.zeros(CLASSES, FEATURES + 1).double()
    l2 = 0.01

    def objective(head: Tensor) -> Tensor:
        return written_out(x, labels, head) + l2 / 2 * ((head - aim)[:, :-1] ** 2).sum()

    expected = by_scipy(objective, torch.zeros(CLASSES, FEATURES + 1).double(), free)
    problem = Problem(x, labels, CLASSES)
    for start in (None, some_head()):
        fit = refit(problem, support, l2, start=start, toward=aim if toward else None, tolerance=1e-9)
        assert fit.objective == pytest.approx(expected, rel=1e-8)
        assert fit.objective - expected <= fit.bound + 1e-9
        assert not fit.head[~free].any()
        assert fit.loss == pytest.approx(float(written_out(x, labels, fit.head)), rel=1e-9)


def test_strong_penalties_leave_the_shares_of_the_classes() -> None:
    x, labels = images(IMAGES - 1)
    problem = Problem(x, labels, CLASSES)
    fit = refit(problem, torch.ones(CLASSES, FEATURES, dtype=torch.bool), 1e6)
    shares = labels.bincount().double() / len(labels)
    torch.testing.assert_close(fit.head[:, -1].softmax(0), shares, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(beginning(problem)[:, -1].softmax(0), shares)


@pytest.mark.parametrize("l1_ratio", [0.5, 0.99])
@pytest.mark.parametrize("kind", ["whole", "by class", "diagonal"])
def test_an_elastic_net_is_that_of_scikit_learn(l1_ratio: float, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(kind, monkeypatch)
    x, labels = images()
    problem = Problem(x, labels, CLASSES)
    z = ((x.double() - problem.scale.mean) * problem.scale.inverse).numpy()
    strength = 0.03
    theirs = LogisticRegression(
        C=1 / (IMAGES * strength), l1_ratio=l1_ratio, solver="saga", tol=1e-10, max_iter=20000
    ).fit(z, labels.numpy())
    penalty = Penalty(l1=strength * l1_ratio, l2=strength * (1 - l1_ratio))
    free = torch.ones(CLASSES, FEATURES + 1, dtype=torch.bool)
    fit = minimise(problem, penalty, beginning(problem), free, tolerance=1e-12, most_steps=1000)
    expected = torch.tensor(theirs.coef_)
    torch.testing.assert_close(fit.head[:, :-1], expected, rtol=1e-4, atol=1e-5)
    assert bool(((fit.head[:, :-1] == 0) == (expected.abs() < 1e-9)).all())
    assert bool((expected == 0).any())


def test_nonnegative_weights_satisfy_their_conditions() -> None:
    x, labels = images()
    problem = Problem(x, labels, CLASSES)
    l2 = 1e-3
    fit = refit(problem, torch.ones(CLASSES, FEATURES, dtype=torch.bool), l2, nonnegative=True, tolerance=1e-10)
    weight = fit.head[:, :-1]
    assert float(weight.min()) == 0
    _, gradient = problem.value_and_gradient(fit.head)
    slope = gradient[:, :-1] + l2 * weight
    assert float(slope[weight > 0].abs().max()) < 1e-5
    assert float(slope[weight == 0].min()) > -1e-5
    # Convex, so any other point of the cone is above it.
    for seed in range(20):
        other = (fit.head + 0.1 * some_head(seed)).clone()
        other[:, :-1].clamp_(min=0)
        value = float(written_out(x, labels, other)) + l2 / 2 * float(other[:, :-1].square().sum())
        assert value >= fit.objective


def test_classes_that_are_held_stay_in_the_softmax() -> None:
    x, labels = images()
    few = labels != 2
    start = some_head()
    held = torch.tensor([number == 2 for number in range(CLASSES)])
    problem = beside(x[few], labels[few], start, held)
    support = torch.ones(CLASSES - 1, FEATURES, dtype=torch.bool)
    fit = refit(problem, support, 0.01, start=start[~held], tolerance=1e-9)
    free = (~held)[:, None].expand(CLASSES, FEATURES + 1)

    def objective(head: Tensor) -> Tensor:
        return written_out(x[few], labels[few], head) + 0.01 / 2 * (head[~held][:, :-1] ** 2).sum()

    assert fit.objective == pytest.approx(by_scipy(objective, start, free), rel=1e-8)


def test_a_penalty_that_leaves_the_minimum_open_is_refused() -> None:
    x, labels = images()
    with pytest.raises(ValueError, match=r"l2 0\.0 is not positive"):
        refit(Problem(x, labels, CLASSES), torch.ones(CLASSES, FEATURES, dtype=torch.bool), 0.0)


def test_separable_images_have_finite_weights() -> None:
    x = torch.tensor([[-1.0], [1.0]]).repeat(20, 1)
    labels = torch.tensor([0, 1]).repeat(20)
    fit = refit(Problem(x, labels, 2), torch.ones(2, 1, dtype=torch.bool), 1e-5)
    assert bool(torch.isfinite(fit.head).all())
    assert 3 < float(fit.head[1, 0]) < 20


def test_curvature_from_drawn_images_changes_nothing_of_the_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = images(1200)
    problem = Problem(x, labels, CLASSES)
    support = torch.ones(CLASSES, FEATURES, dtype=torch.bool)
    whole = refit(problem, support, 1e-3, tolerance=1e-9)
    monkeypatch.setattr(curvature, "_PRODUCTS", 1)
    monkeypatch.setattr(curvature, "_FEWEST_IMAGES", 100)
    drawn = refit(problem, support, 1e-3, tolerance=1e-9)
    assert drawn.objective == pytest.approx(whole.objective, rel=1e-8)
    assert math.isfinite(drawn.bound)


@pytest.mark.parametrize("kind", ["all", "most", "few"])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_whole_curvature_is_the_second_derivative(
    kind: str, single: bool, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by all pairs of classes and columns, or by the free parameters alone where those are few."""
    monkeypatch.setattr(curvature, "_IN_CACHE", 4000)
    monkeypatch.setattr(curvature, "_VALUES_AT_ONCE", 1000)
    if single:
        monkeypatch.setattr(curvature, "_PRODUCTS_IN_DOUBLE", 0)
    x, labels = images()
    a = torch.rand(IMAGES, generator=torch.Generator().manual_seed(1)) + 0.1 if weighted else None
    free = torch.ones(CLASSES, FEATURES + 1, dtype=torch.bool)
    if kind != "all":
        free[2], free[:, 3] = False, False
    if kind == "few":
        free[:, 4:] = False
        free[0, 1] = free[1, 2] = False
    problem, head = Problem(x, labels, CLASSES, image_weights=a), some_head()
    made = curvature.Dense(problem, head, free, 0.3)
    whole = torch.autograd.functional.hessian(lambda h: written_out(x, labels, h, None, a), head)
    expected = whole.view(free.numel(), free.numel())[made.index][:, made.index]
    is_bias = made.index % (FEATURES + 1) == FEATURES
    expected.diagonal().add_(torch.where(is_bias, 0.0, 0.3))
    assert torch.equal(made.index, free.flatten().nonzero()[:, 0])
    if kind == "all":  # with something added to the direction in which nothing changes
        expected[is_bias.nonzero(), is_bias.nonzero()[:, 0]] += expected.diagonal()[is_bias].mean()
    torch.testing.assert_close(made.matrix, expected, rtol=0, atol=2e-6 if single else 1e-12)


def test_a_long_fit_says_how_far_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = images()
    told: list[int] = []

    @contextmanager
    def track(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        assert (description, total, unit) == ("Fitting weights", 100, "percent")
        yield told.append

    monkeypatch.setattr("decompose_cli.sparse.minimise.track", track)
    monkeypatch.setattr(curvature, "_MOST_DENSE", 0)
    problem, support = Problem(x, labels, CLASSES), torch.ones(CLASSES, FEATURES, dtype=torch.bool)
    found = refit(problem, support, 1e-3, tolerance=1e-10)
    assert told == []
    monkeypatch.setattr("decompose_cli.sparse.minimise._LONG", 0)
    assert refit(problem, support, 1e-3, tolerance=1e-10).objective == found.objective
    assert sum(told) == 100
    assert len(told) > 3
    assert min(told) > 0


def test_fits_of_few_weights_of_very_many_are_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What steps remember is of the free parameters alone where the others are very many."""
    x, labels = images()
    support = torch.zeros(CLASSES, FEATURES, dtype=torch.bool)
    support[:, :2] = True
    monkeypatch.setattr(curvature, "_MOST_DENSE", 0)  # by class, with which a fit takes several steps
    usual = refit(Problem(x, labels, CLASSES), support, 1e-3, tolerance=1e-10)
    monkeypatch.setattr("decompose_cli.sparse.minimise._LARGE", 0)
    sizes: set[int] = set()
    original = torch.Tensor.norm
    monkeypatch.setattr(torch.Tensor, "norm", lambda one, *more: sizes.add(one.numel()) or original(one, *more))  # type: ignore[func-returns-value]
    packed = refit(Problem(x, labels, CLASSES), support, 1e-3, tolerance=1e-10)
    assert CLASSES * 3 in sizes
    assert packed.steps == usual.steps > 3
    torch.testing.assert_close(packed.head, usual.head, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["toward", "nonnegative", "near"])
def test_packed_fits_know_all_kinds_of_penalties(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = images()
    problem, start = Problem(x, labels, CLASSES), some_head()
    support = torch.zeros(CLASSES, FEATURES, dtype=torch.bool)
    support[:, :2] = True
    monkeypatch.setattr(curvature, "_MOST_DENSE", 0)
    more: dict[str, Any] = {"start": start, "tolerance": 1e-10}
    if kind == "near":
        more["near"] = refit(problem, support, 1e-1, start=start)
    elif kind == "toward":
        more["toward"] = start
    more["nonnegative"] = kind == "nonnegative"
    usual = refit(problem, support, 1e-3, **more)
    monkeypatch.setattr("decompose_cli.sparse.minimise._LARGE", 0)
    packed = refit(problem, support, 1e-3, **more)
    assert packed.steps == usual.steps > 2
    torch.testing.assert_close(packed.head, usual.head, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
def test_curvatures_of_blocks_of_images_are_those_of_all(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities are made for 7 images at a time, and no more are held than the curvature is made from."""
    x, labels = images()
    a = torch.rand(IMAGES, generator=torch.Generator().manual_seed(1)) + 0.1 if weighted else None
    head, free = some_head(), torch.ones(CLASSES, FEATURES + 1, dtype=torch.bool)
    monkeypatch.setattr(curvature, "_IMAGES_PER_CLASS", 9)
    monkeypatch.setattr(curvature, "_PRODUCTS", 1)
    monkeypatch.setattr(curvature, "_FEWEST_IMAGES", 30)
    free[:, 2:-1] = False  # so few that 30 of the images stand for all, and 24 in each class
    most: list[int] = []
    original = Problem.probabilities

    def counting(one: Problem, head: Tensor, rows: slice | Tensor = slice(None)) -> Tensor:
        found = original(one, head, rows)
        most.append(len(found))
        return found

    monkeypatch.setattr(Problem, "probabilities", counting)

    def made() -> list[Tensor]:
        problem = Problem(x, labels, CLASSES, image_weights=a)
        most.clear()
        kinds = (curvature.Dense, curvature._ByClass, curvature._Diagonal)
        dense, by_class, diagonal = (kind(problem, head, free, 0.3) for kind in kinds)
        return [dense.matrix, by_class.blocks, diagonal.diagonal]

    whole = made()
    assert max(most) == IMAGES
    monkeypatch.setattr("decompose_cli.sparse.problem._VALUES_AT_ONCE", 7 * CLASSES)
    for found, expected in zip(made(), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert max(most) == 30


@pytest.mark.parametrize("more", ["labels", "targets", "weights"])
def test_the_same_in_single_precision_keeps_the_digits_of_features_far_from_zero(more: str) -> None:
    x, labels = images()
    x = x.double() + 1e5
    generator = torch.Generator().manual_seed(1)
    targets = torch.rand(IMAGES, CLASSES, generator=generator).double().softmax(1) if more == "targets" else None
    a = torch.rand(IMAGES, generator=generator) + 0.1 if more == "weights" else None
    problem = Problem(x, labels, CLASSES, targets=targets, image_weights=a)
    single = problem.in_single
    assert single.features.dtype == torch.float32
    assert single.in_single is single
    value, gradient = problem.value_and_gradient(some_head())
    found, roughly = single.value_and_gradient(some_head())
    assert found == pytest.approx(value, rel=1e-6)
    assert found != value
    torch.testing.assert_close(roughly, gradient, rtol=0, atol=1e-6)
