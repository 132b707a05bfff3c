"""Products with the features that each class uses against those with whole matrices, in float64."""

from __future__ import annotations

import pytest
import torch
from helpers.sparse_search import beside, images

from decompose_cli.sparse import few_features, minimise, problem
from decompose_cli.sparse.few_features import FewFeatures, evaluation_of
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit

CLASSES, FEATURES, IMAGES, K = 6, 40, 300, 2

pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch has no sparse products here")


def support() -> torch.Tensor:
    chosen = torch.rand(CLASSES, FEATURES, generator=torch.Generator().manual_seed(3)).topk(K, 1).indices
    result = torch.zeros(CLASSES, FEATURES, dtype=torch.bool).scatter_(1, chosen, True)
    result[1] = False  # a class with a bias alone
    return result


def in_both(monkeypatch: pytest.MonkeyPatch, **more: torch.Tensor) -> tuple[Problem, Problem]:
    """The same images in float64, and in float32 as large problems are."""
    x, labels = images(CLASSES, FEATURES, IMAGES)
    x[:, 5] = 3.0  # a constant feature
    double = Problem(x, labels, CLASSES, **more)
    monkeypatch.setattr(problem, "_IN_DOUBLE", 0)
    return double, Problem(x, labels, CLASSES, **more)


def drawn(kind: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if kind == "targets":
        return {"targets": torch.rand(IMAGES, CLASSES, generator=generator).double().softmax(1)}
    return {"image_weights": torch.rand(IMAGES, generator=generator) + 0.1} if kind == "weights" else {}


@pytest.mark.parametrize("kind", ["labels", "targets", "weights"])
def test_the_loss_and_its_gradient_are_those_of_whole_matrices(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    double, single = in_both(monkeypatch, **drawn(kind))
    monkeypatch.setattr(single, "at_once", 70)  # in blocks, the last of which is shorter
    used = torch.cat([support(), torch.ones(CLASSES, 1, dtype=torch.bool)], 1)
    used[0, 5] = True
    head = torch.randn(CLASSES, FEATURES + 1, generator=torch.Generator().manual_seed(2)).double()
    head = torch.where(used, head, 0.0)
    value, gradient = double.value_and_gradient(head)
    few = evaluation_of(single, used)
    assert isinstance(few, FewFeatures)
    found, ours = few.value_and_gradient(head)
    assert found == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(ours, torch.where(used, gradient, 0.0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        few.probabilities(head, slice(10, 90)).double(), double.probabilities(head, slice(10, 90)), rtol=1e-4, atol=1e-6
    )


def test_fits_take_them_for_large_problems_with_few_features(monkeypatch: pytest.MonkeyPatch) -> None:
    double, single = in_both(monkeypatch)
    made: list[FewFeatures] = []

    class Watched(FewFeatures):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(few_features, "FewFeatures", Watched)
    expected = refit(double, support(), 1e-2)
    assert not made
    found = refit(single, support(), 1e-2)
    assert made
    assert found.objective == pytest.approx(expected.objective, rel=1e-5)
    torch.testing.assert_close(found.head, expected.head, rtol=1e-2, atol=1e-2)
    made.clear()
    refit(single, torch.ones(CLASSES, FEATURES, dtype=torch.bool), 1e-2)
    assert not made


def test_classes_that_are_held_count_with_all_their_features(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = images(CLASSES, FEATURES, IMAGES)
    start = torch.randn(CLASSES, FEATURES + 1, generator=torch.Generator().manual_seed(2)).double() / 4
    held = torch.zeros(CLASSES, dtype=torch.bool)
    held[3] = True
    double = beside(x, labels, start, held)
    monkeypatch.setattr(problem, "_IN_DOUBLE", 0)
    single = beside(x, labels, start, held)
    used = torch.cat([support(), torch.ones(CLASSES, 1, dtype=torch.bool)], 1)[~held]
    head = torch.where(used, start[~held], 0.0)
    few = FewFeatures(single, used)
    monkeypatch.setattr(single, "at_once", 70)
    torch.testing.assert_close(
        few.probabilities(head, slice(10, 90)).double(), double.probabilities(head, slice(10, 90)), rtol=1e-4, atol=1e-6
    )
    expected = refit(double, support()[~held], 1e-2, start=start[~held])
    monkeypatch.setattr(minimise, "evaluation_of", lambda of, used: FewFeatures(of, used))
    found = refit(single, support()[~held], 1e-2, start=start[~held])
    assert found.objective == pytest.approx(expected.objective, rel=1e-5)
