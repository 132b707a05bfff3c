"""Weights fitted anew at chosen features: what chooses their strength, and what they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from decompose_cli.datasets.digits import open_digits
from decompose_cli.decomposition import refitting
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.ranking import select
from decompose_cli.decomposition.refitting import check_refit, log_spaced, refitted, settle
from decompose_cli.decomposition.sparse_heads import fit_head, strength_for
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.features.study import Study
from decompose_cli.models.registry import DEFAULT_MODEL
from decompose_cli.sparse.strength import Strength

C, D, N = 4, 9, 240


def make_data(seed: int = 0) -> LabelledFeatures:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % C
    centres = torch.rand(C, D, generator=generator) * 2
    features = (centres[labels] + torch.randn(N, D, generator=generator)).relu()
    return LabelledFeatures(features, labels, centres, list("abcd"), bias=-(centres**2).sum(1) / 2)


def standardised(features: Tensor) -> Tensor:
    return (features.double() - features.double().mean(0)) / features.double().std(0, correction=0)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (1, [1]),
        (2, [1, 2]),
        (5, [1, 2, 3, 5]),
        (64, [1, 2, 3, 5, 10, 20, 30, 50, 64]),
        (100, [1, 2, 3, 5, 10, 20, 30, 50, 100]),
        (2048, [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 2048]),
    ],
)
def test_sizes_grow_by_factors_up_to_all_features(last: int, expected: list[int]) -> None:
    assert log_spaced(last) == expected


def test_with_all_features_the_head_is_that_of_scikit_learn() -> None:
    data, l2 = make_data(), 0.01
    every = IndexSet((tuple(range(D)),) * C, D)
    ((k, head),) = refitted(data, {D: every}, l2)
    theirs = LogisticRegression(C=1 / (N * l2), tol=1e-10, max_iter=5000).fit(standardised(data.features), data.labels)
    deviation = data.features.double().std(0, correction=0)
    on_z = head.weight * deviation
    bias = head.bias + head.weight @ data.features.double().mean(0)
    assert k == D
    torch.testing.assert_close(on_z, torch.tensor(theirs.coef_), rtol=0, atol=2e-3)
    centred = torch.tensor(theirs.intercept_) - theirs.intercept_.mean()
    torch.testing.assert_close(bias - bias.mean(), centred, rtol=0, atol=2e-3)


def test_a_head_that_begins_with_the_one_before_is_the_same_as_one_that_begins_with_the_full_head() -> None:
    data = make_data()
    sets = {k: select(data, "contribution", k) for k in (1, 2, 4, D)}
    found = dict(refitted(data, sets, 1e-3))
    assert list(found) == [1, 2, 4, D]
    for k, head in found.items():
        alone = fit_head(data, sets[k], "real", 1e-3)
        assert head.loss == pytest.approx(alone.loss, rel=1e-4)
        torch.testing.assert_close(head.weight, alone.weight, rtol=0, atol=5e-2)
        assert {frozenset(row) for row in head.index_set.classes} == {frozenset(row) for row in sets[k].classes}
    assert found[1].loss > found[2].loss > found[4].loss > found[D].loss


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan"), float("inf")])
def test_a_strength_is_positive(l2: float) -> None:
    with pytest.raises(InputError, match=rf"^l2 {l2} is not a positive number\.$"):
        check_refit(l2, fits=True)


def test_a_strength_that_nothing_is_fitted_with_is_refused() -> None:
    check_refit(1.0, fits=True)
    check_refit(None, fits=False)
    with pytest.raises(InputError, match=r"^l2 1 has no effect: no weights are fitted\.$"):
        check_refit(1.0, fits=False)


@pytest.fixture(scope="module")
def three_splits(made_once: Callable[[str, Callable[[Path], None]], Path]) -> str:
    """Images of each digit: four to train, two for validation, two to test."""

    def make(root: Path) -> None:
        pixels, labels = open_digits("train").pixels_and_labels
        for digit in range(10):
            numbers = iter((labels == digit).nonzero().flatten().tolist())
            for split, count in (("train", 4), ("val", 2), ("test", 2)):
                folder = root / split / str(digit)
                folder.mkdir(parents=True)
                for _ in range(count):
                    number = next(numbers)
                    Image.fromarray(pixels[number].permute(1, 2, 0).numpy()).save(folder / f"{number}.png")

    return f"folder:{made_once('three-splits', make)}"


def test_a_strength_is_chosen_on_images_that_are_not_reported_on(
    three_splits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(model=DEFAULT_MODEL, dataset=three_splits, workers=0)
    study = Study(inputs, ("test", "val"))
    data = study.on_training_split().labelled()
    support = select(data, "contribution", 3)
    found, others = settle(study, data, lambda _: support, None)
    assert found.chosen_on is not None
    assert [other.dataset.split for other in others] == ["val"]
    shown = found.chosen_on
    assert (shown.split, shown.images, shown.fitted, shown.part_of_training, found.fitted) == ("val", 20, 40, False, 40)
    val = Study(dataclasses.replace(inputs, split="val"), ("val",))
    assert found.l2 == strength_for(data, support, val.bank.features, val.labels).l2

    reported = Study(dataclasses.replace(inputs, split="val"), ("test", "val"))
    seen: list[LabelledFeatures] = []
    compared: list[tuple[LabelledFeatures, Tensor]] = []

    def compare(part: LabelledFeatures, index_set: IndexSet, features: Tensor, labels: Tensor) -> Strength:
        compared.append((part, features))
        return strength_for(part, index_set, features, labels)

    def watched(part: LabelledFeatures) -> IndexSet:
        seen.append(part)
        return support

    monkeypatch.setattr(refitting, "strength_for", compare)
    found, others = settle(reported, data, watched, None)
    assert found.chosen_on is not None
    shown = found.chosen_on
    assert (others, shown.split, shown.images, shown.fitted) == ([], "train", 10, 30)
    assert (shown.part_of_training, found.fitted) == (True, 40)
    assert seen[0].labels.bincount().tolist() == [3] * 10, "the same share of every class is left out"
    ((part, chosen_by),) = compared
    assert part is seen[0]
    rows = sorted(map(tuple, torch.cat([part.features, chosen_by]).tolist()))
    assert rows == sorted(map(tuple, data.features.tolist())), "each image is on one side"

    given, others = settle(study, data, watched, 0.5)
    assert (given.l2, given.fitted, given.chosen_on, others) == (0.5, 40, None, [])
    assert len(seen) == 1, "nothing is compared"
