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
    ],
)
def test_what_cannot_be_is_a_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(dc.InputError) as caught:
        dc.sparsify(alone(), **arguments)
    assert sentence in str(caught.value)


def test_a_head_of_another_network_is_refused(tmp_path: Path) -> None:
    head = dc.sparsify(alone(), k=2, method="weight", l2=1e-2)
    with pytest.raises(dc.InputError, match="takes 9 features into 4 classes, but resnet20-digits has 64 and 10"):
        head.decompose(dc.load_model())
    with pytest.raises(dc.InputError, match=r"does not end in \.safetensors"):
        head.save(tmp_path / "head.pt")
    with pytest.raises(dc.InputError, match="takes 9 features into 4 classes; there are 2 and 4"):
        head.validate(dc.Features(np.ones((4, 2)), [0, 1, 2, 3]))
