"""The elastic-net path: its optima against scikit-learn, its certificates against tighter solutions, written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers.sparse_fits import CLASSES, IMAGES, images, some_head, written_out
from helpers.sparse_search import beside
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from decompose_cli.errors import InputError
from decompose_cli.sparse import curvature, elastic_net
from decompose_cli.sparse.biases import with_exact_biases
from decompose_cli.sparse.elastic_net import Path, PathPoint, elastic_net_path
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.quadratic import minimum

ALPHA = 0.99


def standardised(x: Tensor) -> Tensor:
    x = x.double()
    return (x - x.mean(0)) / x.std(0, correction=0)


def objective(x: Tensor, labels: Tensor, head: Tensor, strength: float, **more: Tensor) -> float:
    weight = head[:, :-1]
    penalty = strength * (ALPHA * weight.abs().sum() + (1 - ALPHA) / 2 * (weight**2).sum())
    return float(written_out(x, labels, head, **more) + penalty)


def gap_written_out(x: Tensor, labels: Tensor, head: Tensor, strength: float) -> float:
    """Weight by weight, with G = Z'(Y - P)/N from the probabilities."""
    z = standardised(x)
    p = (z @ head[:, :-1].t() + head[:, -1]).softmax(1)
    pull = (torch.nn.functional.one_hot(labels, CLASSES).double() - p).t() @ z / len(z)
    total, l1, l2 = 0.0, strength * ALPHA, strength * (1 - ALPHA)
    for w, g in zip(head[:, :-1].flatten().tolist(), pull.flatten().tolist(), strict=True):
        total += l1 * abs(w) + l2 / 2 * w**2 + max(abs(g) - l1, 0) ** 2 / (2 * l2) - w * g
    return total


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return images()


@pytest.fixture(scope="module")
def tight(data: tuple[Tensor, Tensor]) -> Path:
    return elastic_net_path(Problem(*data, CLASSES), strengths=12, tolerance=1e-11)


def check(path: Path, tight: Path, data: tuple[Tensor, Tensor], tolerance: float = 1e-6) -> None:
    """Every point is what it says it is, and as near to the optimum as it says."""
    for point, best in zip(path.points, tight.points, strict=True):
        head = point.head
        assert point.strength == pytest.approx(best.strength, rel=1e-9)
        assert point.objective == pytest.approx(objective(*data, head, point.strength), rel=1e-12)
        assert point.loss == pytest.approx(float(written_out(*data, head)), rel=1e-12)
        assert point.gap == pytest.approx(gap_written_out(*data, head, point.strength), rel=1e-6, abs=1e-13)
        assert point.weights == int((head[:, :-1] != 0).sum())
        assert point.objective - best.objective <= point.gap + 1e-12
        assert point.relative_gap <= tolerance


def test_every_point_is_certified(data: tuple[Tensor, Tensor], tight: Path) -> None:
    seen: list[PathPoint] = []
    path = elastic_net_path(Problem(*data, CLASSES), strengths=12, advance=seen.append)
    check(path, tight, data)
    assert seen == list(path.points)
    assert all(0 < point.steps <= 15 for point in path.points[1:])


def test_strengths_are_those_of_the_equations(data: tuple[Tensor, Tensor], tight: Path) -> None:
    x, labels = data
    targets = torch.nn.functional.one_hot(labels, CLASSES).double()
    strongest = float((standardised(x).t() @ (targets - targets.mean(0))).abs().max()) / (len(x) * ALPHA)
    expected = [strongest * 1000 ** (-number / 11) for number in range(12)]
    assert [point.strength for point in tight.points] == pytest.approx(expected, rel=1e-9)
    assert [tight.points[0].weights, tight.points[0].steps] == [0, 0]
    assert tight.points[-1].weights > CLASSES


@pytest.mark.parametrize("most_steps", [1, 2, 3])
def test_a_point_that_is_not_finished_says_how_far_it_is(
    data: tuple[Tensor, Tensor], tight: Path, most_steps: int
) -> None:
    path = elastic_net_path(Problem(*data, CLASSES), strengths=12, most_steps=most_steps)
    check(path, tight, data, tolerance=math.inf)
    assert max(point.relative_gap for point in path.points) > 1e-6
    shares = data[1].bincount().double() / IMAGES
    for point in path.points:  # or the certificate would be none
        p = (standardised(data[0]) @ point.head[:, :-1].t() + point.head[:, -1]).softmax(1)
        torch.testing.assert_close(p.mean(0), shares, rtol=0, atol=2e-8)


def test_optima_are_those_of_scikit_learn() -> None:
    x, labels = images(2000, seed=5)
    path = elastic_net_path(Problem(x, labels, CLASSES), strengths=30)
    z = standardised(x).numpy()
    for number in (4, 12, 20):
        point = path.points[number]
        theirs = LogisticRegression(
            C=1 / (len(x) * point.strength), l1_ratio=ALPHA, solver="saga", tol=1e-7, max_iter=20000, random_state=0
        ).fit(z, labels.numpy())
        head = torch.cat([torch.tensor(theirs.coef_), torch.tensor(theirs.intercept_)[:, None]], 1)
        expected = objective(x, labels, head, point.strength)
        assert point.objective == pytest.approx(expected, rel=2e-6)
        assert point.objective - point.gap <= expected
        torch.testing.assert_close(point.head[:, :-1], head[:, :-1], rtol=0.01, atol=3e-3)


def test_too_many_weights_for_one_matrix_have_one_for_each_class(
    data: tuple[Tensor, Tensor], tight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curvature, "_MOST_DENSE", 0)
    path = elastic_net_path(Problem(*data, CLASSES), strengths=12, most_steps=100)
    check(path, tight, data, tolerance=1e-3)
    assert path.points[2].relative_gap <= 1e-6
    assert all(point.steps <= 102 for point in path.points)


@pytest.mark.parametrize("case", ["few_covered", "aged"])
def test_the_ways_to_an_optimum_end_at_the_same(
    case: str, data: tuple[Tensor, Tensor], tight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match case:
        case "few_covered":
            monkeypatch.setattr(elastic_net, "_COVERED", 0)
        case "aged":
            monkeypatch.setattr(elastic_net, "_MOST_STEPS_OF_A_MODEL", 1)
    check(elastic_net_path(Problem(*data, CLASSES), strengths=12), tight, data)


def test_the_certificate_holds_beside_classes_that_are_held() -> None:
    x, labels = images()
    few = labels != 2
    x, labels = x[few], labels[few]
    start, held = some_head(), torch.arange(CLASSES) == 2
    problem = beside(x, labels, start, held)
    path = elastic_net_path(problem, strengths=5)
    best = elastic_net_path(problem, strengths=5, tolerance=1e-11)
    for point, known in zip(path.points, best.points, strict=True):
        whole = start.clone()
        whole[~held] = point.head
        others = whole.clone()
        others[2, :-1] = 0
        penalty = objective(x, labels, others, point.strength) - float(written_out(x, labels, others))
        assert point.objective == pytest.approx(float(written_out(x, labels, whole)) + penalty, rel=1e-12)
        assert point.objective - known.objective <= point.gap <= 1e-6 * point.objective
        # Nothing is left for the class that is held where the others' biases are larger still.
        raised = whole.clone()
        raised[~held, -1] += 50
        assert float(written_out(x, labels, whole) - written_out(x, labels, raised)) <= point.gap + 1e-15
        # No step in any direction of the rows that move leads below the certificate.
        for seed in range(5):
            other = whole + 0.01 * some_head(seed) * ~held[:, None] * (whole != 0)
            changed = other.clone()
            changed[2, :-1] = 0
            penalty = objective(x, labels, changed, point.strength) - float(written_out(x, labels, changed))
            assert float(written_out(x, labels, other)) + penalty >= point.objective - point.gap


@pytest.mark.parametrize("case", ["targets", "a"])
def test_targets_and_weights_of_images_are_those_of_the_problem(case: str) -> None:
    x, labels = images()
    generator = torch.Generator().manual_seed(1)
    more = {
        "targets": {"targets": torch.rand(IMAGES, CLASSES, generator=generator).double().pow(3).softmax(1)},
        "a": {"a": torch.rand(IMAGES, generator=generator) + 0.1},
    }[case]
    problem = Problem(x, labels, CLASSES, targets=more.get("targets"), image_weights=more.get("a"))
    path = elastic_net_path(problem, strengths=6)
    best = elastic_net_path(problem, strengths=6, tolerance=1e-11)
    assert path.points[0].weights == 0
    assert path.points[1].weights > 0
    for point, known in zip(path.points, best.points, strict=True):
        assert point.objective == pytest.approx(objective(x, labels, point.head, point.strength, **more), rel=1e-9)
        assert -1e-12 <= point.objective - known.objective <= point.gap + 1e-12
        assert point.relative_gap <= 1e-6


def test_constant_features_have_no_weight_and_separable_images_finite_ones() -> None:
    x, labels = images(40)
    x = x.clone()
    x[:, 1] = 2.0
    x[:, 2] = labels
    x[:, 3] = x[:, 2]  # the same feature twice: only the l2 part says which weights
    path = elastic_net_path(Problem(x, labels, CLASSES), strengths=8)
    for point in path.points:
        assert not point.head[:, 1].any()
        assert bool(torch.isfinite(point.head).all())
        assert point.relative_gap <= 1e-6
        torch.testing.assert_close(point.head[:, 2], point.head[:, 3], rtol=0.05, atol=0.05)
    assert path.points[-1].loss < 0.05


def test_a_path_ends_when_it_has_enough_weights(data: tuple[Tensor, Tensor], tight: Path) -> None:
    path = elastic_net_path(Problem(*data, CLASSES), strengths=12, most_per_class=2)
    counts = [point.weights for point in tight.points]
    expected = next(number for number, count in enumerate(counts) if count > 2 * CLASSES) + 1
    assert len(path.points) == expected < 12
    assert [point.weights for point in path.points] == counts[:expected]


def test_arguments_out_of_range_are_refused(data: tuple[Tensor, Tensor]) -> None:
    x, labels = data
    problem = Problem(x, labels, CLASSES)
    for arguments, sentence in (
        ({"strengths": 1}, "strengths 1 is not at least 2"),
        ({"ratio": 1.0}, r"ratio 1\.0 is not between 0 and 1"),
        ({"alpha": 1.0}, r"alpha 1\.0 is not between 0 and 1"),
        ({"alpha": 0.0}, r"alpha 0\.0 is not between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            elastic_net_path(problem, **arguments)
    for nothing in (Problem(torch.ones(10, 3), labels[:10], CLASSES), Problem(x, torch.zeros_like(labels), 1)):
        with pytest.raises(InputError, match="No feature tells the classes apart"):
            elastic_net_path(nothing)


@pytest.mark.parametrize("case", ["all", "held", "weights", "targets"])
def test_exact_biases_give_every_class_as_much_probability_as_images(case: str) -> None:
    x, labels = images(IMAGES - 1)
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(len(x), generator=generator) + 0.1 if case == "weights" else torch.ones(len(x))
    t = torch.nn.functional.one_hot(labels, CLASSES).double()
    if case == "targets":
        t = torch.rand(len(x), CLASSES, generator=generator).double().softmax(1)
    free = torch.ones(CLASSES, dtype=torch.bool)
    free[0] = case != "held"
    more = {"image_weights": a if case == "weights" else None, "targets": t if case == "targets" else None}
    head = some_head()
    head[:, -1] += torch.tensor([3.0, -20.0, 0.0, 9.0])
    problem = beside(x, labels, head, ~free, targets=t) if case == "held" else Problem(x, labels, CLASSES, **more)
    found = head.clone()
    found[free] = with_exact_biases(problem, head[free], 1e-12)
    assert torch.equal(found[:, :-1], head[:, :-1])
    p = (standardised(x) @ found[:, :-1].t() + found[:, -1]).softmax(1)
    means = [(a.double()[:, None] * what).sum(0) / a.double().sum() for what in (p, t)]
    torch.testing.assert_close(means[0][free], means[1][free], rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", range(8))
def test_a_quadratic_minimum_is_that_of_all_signs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = 5
    root = torch.randn(size, 3 if seed % 2 else 8, generator=generator).double()
    matrix, linear = root @ root.t(), 2 * torch.randn(size, generator=generator).double()
    l1, l2 = torch.full((size,), 0.7).double(), torch.full((size,), 0.05).double()
    l1[-1] = 0

    def value(u: Tensor) -> float:
        return float(linear @ u + u @ matrix @ u / 2 + (l1 * u.abs()).sum() + (l2 * u**2).sum() / 2)

    lowest = math.inf
    for signs in itertools.product([-1, 0, 1], repeat=size):
        sign = torch.tensor(signs).double()
        chosen = (sign != 0).nonzero()[:, 0]
        u = torch.zeros(size).double()
        system = (matrix + torch.diag(l2))[chosen[:, None], chosen]
        u[chosen] = torch.linalg.solve(system, (-linear - l1 * sign)[chosen])
        lowest = min(lowest, value(u))
    for start in (torch.zeros(size).double(), 3 * torch.randn(size, generator=generator).double()):
        assert value(minimum(matrix, linear, l1, l2, start)) == pytest.approx(lowest, rel=1e-9)
