"""Features that Python programs bring along: taken in any form, ranked without a head, refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.feature_files import arrays, npz, tensors

import decompose_cli as dc
from decompose_cli.models.network import HeadTensors

MADE = [[0.5, 1.0, 0.0], [2.0, 0.0, 0.0], [1.5, 0.5, 0.0], [0.0, 3.0, 0.0]]


@pytest.mark.parametrize(
    "values",
    [
        MADE,
        np.array(MADE),
        np.array(MADE, dtype=">f2"),
        torch.tensor(MADE, dtype=torch.bfloat16),
        torch.tensor(MADE, requires_grad=True),
    ],
    ids=["lists", "float64", "float16", "bfloat16", "with gradients"],
)
def test_features_from_elsewhere_are_taken_in_any_form(values: Any) -> None:
    features = dc.Features(values, [0, 1, 1, 0])
    assert torch.equal(features.values, torch.tensor(MADE))
    assert (features.values.dtype, features.values.requires_grad) == (torch.float32, False)
    assert features.labels.tolist() == [0, 1, 1, 0]
    assert (features.class_names, features.feature_names, features.head, features.gates) == (
        ("0", "1"),
        None,
        None,
        None,
    )
    for labels in (np.array([0, 1, 1, 0], dtype=np.uint8), torch.tensor([0, 1, 1, 0], dtype=torch.int32)):
        again = dc.Features(values, labels, class_names=["cat", "dog", "ship"], feature_names=["a", "b", "c"])
        assert again.labels.dtype == torch.int64
        assert (again.class_names, again.feature_names) == (("cat", "dog", "ship"), ("a", "b", "c"))
    assert dc.Features(np.array([[1, 2], [3, 4]]), [0, 1]).values.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_whole_numbers_that_float32_cannot_tell_apart_are_said(caplog: pytest.LogCaptureFixture) -> None:
    dc.Features([[1, 2**30], [5, 2**30 + 1]], [0, 1])
    assert "values: images differ in 1 feature (1) by less than float32 can tell" in caplog.text


def test_features_from_elsewhere_are_ranked_without_a_head() -> None:
    features = dc.Features(MADE, [0, 1, 1, 0])
    assert dc.extract_indices(features, 1, "mean").classes == ((1,), (0,))
    for method in ("weight", "contribution"):
        with pytest.raises(
            dc.InputError, match=f"The method '{method}' needs the full head, and there is none in feat"
        ):
            dc.extract_indices(features, 1, method)
    with pytest.raises(dc.InputError, match="There is no head in features to measure"):
        dc.validate(features, {0: [1], 1: [0]})
    with pytest.raises(dc.InputError, match=r"no images in this split for 1 of .* classes \(ship\)"):
        dc.extract_indices(dc.Features(MADE, [0, 1, 1, 0], class_names=["cat", "dog", "ship"]), 1)


def test_a_file_of_features_is_read_split_by_split() -> None:
    splits = dc.load_features(npz(Path("f.npz"), class_names=np.array(["a", "b", "c", "d"])))
    assert list(splits) == ["train", "test"]
    assert np.array_equal(splits["test"].values.numpy(), arrays()["test_x"])
    assert splits["test"].class_names == splits["train"].class_names == ("a", "b", "c", "d")
    named = tensors(Path("f.safetensors"), {"feature_names": list("abcde")}, test_x=None, test_y=None)
    assert dc.load_features(str(named))["train"].feature_names == tuple("abcde")


BAD_FEATURES: dict[str, tuple[Callable[[], Any], str]] = {
    "flat": (lambda: dc.Features([1.0, 2.0], [0, 1]), r"^values has the shape \(2,\), not \(N, D\)"),
    "ragged": (lambda: dc.Features([[1.0, 2.0], [3.0]], [0, 1]), "^values is no array of numbers: "),
    "none": (lambda: dc.Features(None, [0, 1]), "^values holds object instead of numbers"),  # type: ignore[arg-type]
    "text": (lambda: dc.Features([["a"]], [0]), "^values holds text instead of numbers"),
    "complex": (
        lambda: dc.Features(torch.zeros(1, 1, dtype=torch.cfloat), [0]),
        "^values holds complex numbers instead",
    ),
    "sparse": (lambda: dc.Features(torch.eye(2).to_sparse(), [0, 1]), "^values is no ordinary tensor"),
    "no images": (lambda: dc.Features(torch.zeros(0, 3), torch.zeros(0).long()), r"^values is empty: .* \(0, 3\)"),
    "no features": (lambda: dc.Features(torch.zeros(2, 0), [0, 1]), r"^values is empty: its shape is \(2, 0\)"),
    "NaN": (lambda: dc.Features([[1.0], [float("nan")]], [0, 1]), "^values has NaN in row 1, column 0"),
    "large": (lambda: dc.Features([[1e300]], [0]), r"^values has 1e\+300 in row 0, column 0 .* too large for float32"),
    "real labels": (lambda: dc.Features(MADE, [0.0, 1.0, 1.0, 0.0]), "^labels holds real numbers instead of whole"),
    "names as labels": (lambda: dc.Features(MADE, ["a", "b", "b", "a"]), "^labels holds text instead of numbers"),
    "true or false": (
        lambda: dc.Features(MADE, torch.ones(4, dtype=torch.bool)),
        "^labels holds true-or-false numbers",
    ),
    "one-hot": (lambda: dc.Features(MADE, np.eye(4, dtype=int)), r"^labels has the shape \(4, 4\), not \(N,\)"),
    "fewer labels": (lambda: dc.Features(MADE, [0, 1, 1]), "^values has 4 rows, but labels has 3"),
    "negative": (lambda: dc.Features(MADE, [0, 1, -1, 0]), "^labels has the label -1 in row 2 .* which is negative"),
    "fewer names": (lambda: dc.Features(MADE, [0, 1, 2, 0], class_names=["a", "b"]), "label 2 in row 2 .* 0 to 1"),
    "a text of names": (lambda: dc.Features(MADE, [0, 1, 1, 0], class_names="ab"), "^class_names is no list of names"),
    "no names": (lambda: dc.Features(MADE, [0, 1, 1, 0], class_names=[]), "^class_names is no list of names"),
    "numbers": (
        lambda: dc.Features(MADE, [0, 1, 1, 0], class_names=[0, 1]),  # type: ignore[list-item]
        "^class_names is no list of names",
    ),
    "columns": (
        lambda: dc.Features(MADE, [0, 1, 1, 0], feature_names=["a"]),
        "^feature_names has 1 names for 3 features",
    ),
    "head": (
        lambda: dc.Features(MADE, [0, 1, 1, 0], head=HeadTensors("dense", "fc", torch.ones(2, 4), torch.ones(2), 4)),
        "^head takes 4 features into 2 classes, but there are 3 and 2",
    ),
    "no file": (lambda: dc.load_features("none.npz"), r"The features file none\.npz does not exist"),
}


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_features_that_cannot_be_used_are_refused(case: str) -> None:
    call, said = BAD_FEATURES[case]
    with pytest.raises(dc.InputError, match=said):
        call()
