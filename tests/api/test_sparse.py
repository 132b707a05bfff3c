"""Sparse heads from Python: from features with a head and without, into a network and into files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command_line import run
from helpers.feature_files import npz

import decompose_cli as dc


def features(split: str = "train") -> dc.Features:
    return dc.extract_features(dc.load_model(), dc.load_dataset("digits", split))


def alone(count: int = 120, seed: int = 0) -> dc.Features:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    centres = np.random.default_rng(7).normal(size=(4, 9))
    names = [f"f{number}" for number in range(9)]
    return dc.Features(centres[labels] + random.normal(size=(count, 9)), labels, feature_names=names)


@pytest.fixture(scope="module")
def digits() -> dc.Features:
    return features()


def test_a_head_goes_into_the_network_and_into_a_file(digits: dc.Features, tmp_path: Path) -> None:
    model = dc.load_model()
    head = dc.sparsify(digits, values="binary", l2=1e-3, indices=dc.extract_indices(digits, 3, "weight"))
    assert repr(head) == "SparseHead('indices', 3 of 64 features in each of 10 classes)"
    assert head.integers is not None
    assert head.integers.sum(1).tolist() == [3] * 10
    small = head.decompose(model)
    assert small.is_decomposed
    assert not model.is_decomposed
    test = dc.load_dataset("digits", "test")
    of_network = dc.validate(dc.extract_features(small, test))
    of_features = head.validate(dc.extract_features(model, test))
    assert of_network.decomposed is not None
    assert of_features.decomposed is not None
    assert of_features.original is not None
    assert of_network.decomposed.correct == of_features.decomposed.correct > 200
    path = tmp_path / "small.safetensors"
    dc.save_model(small, path)
    again = dc.load_model(weights=path)
    assert again.sparse is not None
    assert again.sparse.values is not None
    assert torch.equal(again.sparse.values.integers, head.integers)
    both = dc.validate(dc.extract_features(again, test))
    assert both.original is not None, "the full head stays beside it"
    assert both.original.correct == of_features.original.correct


def test_features_without_a_head_are_compared_with_the_fitted_one(tmp_path: Path) -> None:
    train, test = alone(), alone(80, seed=1)
    head = dc.sparsify(train, k=2, method="backward", l2=1e-2)
    results = head.validate(test)
    assert results.original is not None
    assert results.decomposed is not None
    assert results.original.correct >= results.decomposed.correct > 40
    path = tmp_path / "head.safetensors"
    head.save(path)
    with pytest.raises(dc.InputError, match="exists already"):
        head.save(path)
    file = npz(
        tmp_path / "f.npz",
        train_x=train.values.numpy(),
        train_y=train.labels.numpy(),
        test_x=test.values.numpy(),
        test_y=test.labels.numpy(),
        feature_names=np.array(train.feature_names),
    )
    said = run("validate", "-w", str(path), "--features", str(file), "-o", str(tmp_path / "v.json")).output
    assert f"{results.decomposed.correct} of 80" in said


def test_the_path_comes_with_its_certificates_where_it_was_computed() -> None:
    head = dc.sparsify(alone(), k=2, method="elastic-net", l2=1e-2)
    assert {one.method for one in head.candidates} == {"elastic-net", "sldd"}
    assert len(head.path) == 100
    assert max(point.relative_gap for point in head.path) <= 1e-6
    assert dc.sparsify(alone(), k=2, method="weight", l2=1e-2).path == ()


def test_other_images_may_choose() -> None:
    train, others = alone(), alone(40, seed=2)
    head = dc.sparsify(train, k=2, method="mean", choosing=others)
    assert head.candidates[0].predictions.total == 40
    wider = dc.Features(np.ones((4, 5)), [0, 1, 2, 3])
    with pytest.raises(dc.InputError, match="images that choose have other classes or features"):
        dc.sparsify(train, k=2, choosing=wider)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"k": 2.0}, "k 2.0 is not a whole number"),
        ({"k": True}, "k True is not a whole number"),
        ({"k": 10}, "k 10 is more than the 9 features"),
        ({"method": "best"}, "method 'best' is unknown"),
        ({"distil": True}, "distil needs a full head"),
        ({"indices": {0: [1]}}, "Feature numbers are needed of the classes 0 to 3"),
        ({"indices": [[0], [1], [2]]}, "Feature numbers are needed of the classes 0 to 3"),
        ({"indices": [0, 1, 2, 3]}, "Feature numbers are whole numbers"),
        ({"indices": {(0, 1)}}, "indices {(0, 1)} is no index set, no file, and no feature numbers by class number."),
        ({"indices": 3}, "indices 3 is no index set"),
        ({"indices": [[0]] * 4, "k": 5}, "indices and k both say which filters a class has"),
        ({"pool": 2.5}, "pool 2.5 is not a whole number of at least 1"),
        ({"l2": "x"}, "l2 'x' is not a positive number"),
        ({"l2": True}, "l2 True is not a positive number"),
        ({"seed": "x"}, "seed 'x' is not a whole number"),
        ({"seed": -1}, "seed -1 is not between 0 and 2**63 - 1"),
        ({"choosing": torch.ones(4, 9)}, "choosing is of the type Tensor, not Features"),
        ({"features": torch.ones(4, 9)}, "features is of the type Tensor, not Features"),
    ],
)
def test_what_cannot_be_is_a_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(dc.InputError) as caught:
        dc.sparsify(**{"features": alone(), **arguments})
    assert sentence in str(caught.value)


@pytest.mark.parametrize("rows", [[[0, 2], [1], [3], [4]], np.arange(8).reshape(4, 2), torch.arange(8).view(4, 2)])
def test_feature_numbers_may_be_a_row_for_each_class(rows: Any) -> None:
    head = dc.sparsify(alone(), indices=rows, l2=1e-2)
    assert [sorted(row) for row in head.indices.classes] == [list(map(int, row)) for row in rows]


KINDS = ("cat", "dog", "ship", "frog")


def named(**names: Any) -> dc.Features:
    """Other images, with these names in place of those there are."""
    test = alone(80, seed=1)
    return dc.Features(test.values, test.labels, **{"feature_names": test.feature_names, **names})


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"class_names": KINDS[::-1]}, "The Features object calls class 0 'frog', but the sparse head 'cat'."),
        ({"feature_names": [f"f{8 - j}" for j in range(9)]}, "calls feature 0 'f8', but the sparse head 'f0'."),
        ({"class_names": [*KINDS, "deer"]}, "The Features object has 5 classes, but the sparse head has 4."),
    ],
)
def test_features_of_other_names_are_not_measured(names: dict[str, Any], sentence: str) -> None:
    train = dc.Features(alone().values, alone().labels, class_names=KINDS, feature_names=alone().feature_names)
    head = dc.sparsify(train, k=2, method="weight", l2=1e-2)
    with pytest.raises(dc.InputError) as caught:
        head.validate(named(**names))
    assert sentence in str(caught.value)
    with pytest.raises(dc.InputError, match="features is of the type Tensor"):
        head.validate(torch.ones(4, 9))  # type: ignore[arg-type]


def test_features_without_names_are_measured_by_any_head() -> None:
    train = dc.Features(alone().values, alone().labels, class_names=KINDS)
    head = dc.sparsify(train, k=2, method="weight", l2=1e-2)
    assert head.validate(named()).total == 80
    assert head.validate(named(class_names=KINDS)).total == 80
    test = alone(80, seed=1)
    few = dc.Features(test.values[test.labels < 3], test.labels[test.labels < 3])
    assert head.validate(few).total == 60, "without names the largest label says how many classes there are"
    nameless = dc.sparsify(alone(), k=2, method="weight", l2=1e-2)
    assert nameless.validate(named(class_names=KINDS)).total == 80
    with pytest.raises(dc.InputError, match="calls class 2 '3', but the sparse head '2'"):
        nameless.validate(named(class_names=["0", "1", "3", "2"]))


def test_a_head_of_other_classes_goes_into_no_network(digits: dc.Features) -> None:
    names = [str(number) for number in (1, 0, *range(2, 10))]
    other = dc.Features(digits.values, digits.labels, class_names=names)
    head = dc.sparsify(other, k=2, method="mean", l2=1e-2)
    with pytest.raises(dc.InputError, match="resnet20-digits calls class 0 '0', but the sparse head '1'"):
        head.decompose(dc.load_model())


def test_a_head_of_another_network_is_refused(tmp_path: Path) -> None:
    head = dc.sparsify(alone(), k=2, method="weight", l2=1e-2)
    with pytest.raises(dc.InputError, match="takes 9 features into 4 classes, but resnet20-digits has 64 and 10"):
        head.decompose(dc.load_model())
    with pytest.raises(dc.InputError, match=r"does not end in \.safetensors"):
        head.save(tmp_path / "head.pt")
    with pytest.raises(dc.InputError, match="The Features object has 2 features, but the sparse head takes 9"):
        head.validate(dc.Features(np.ones((4, 2)), [0, 1, 2, 3]))
