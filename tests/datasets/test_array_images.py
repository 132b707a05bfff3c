"""Images in arrays: their names, shapes and kinds of numbers, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decompose_cli.datasets.array_images import ArrayImages
from decompose_cli.datasets.registry import available_splits, open_dataset
from decompose_cli.errors import InputError, UnsafeFileError
from decompose_cli.preprocessing import CIFAR

GREY = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6)
LABELS = np.array([0, 2, 1, 1])


def opened(split: str = "test", columns: dict[str, str] | None = None, **arrays: Any) -> ArrayImages:
    np.savez("x.npz", **arrays)
    found = open_dataset("npz:x.npz", split, Path(), columns=columns)
    assert isinstance(found, ArrayImages)
    return found


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("{}_images", "{}_labels"),
        ("x_{}", "y_{}"),
        ("X_{}", "y_{}"),
        ("{}_x", "{}_y"),
        ("{}_data", "{}_labels"),
    ],
)
def test_arrays_of_splits_are_found_by_their_names(images: str, labels: str) -> None:
    arrays: dict[str, Any] = {}
    for shift, split in enumerate(("train", "val", "test")):
        arrays |= {images.format(split): GREY + shift, labels.format(split): LABELS[:, None]}
    for shift, split in enumerate(("train", "val", "test")):
        found = opened(split, **arrays)
        assert torch.equal(found.pixels_and_labels[0], torch.from_numpy(GREY + shift)[:, None].expand(-1, 3, -1, -1))
        assert found.labels.tolist() == LABELS.tolist()
        assert (found.class_names, found.is_numbered) == (("0", "1", "2"), True)
    assert available_splits("npz:x.npz") == ("test", "val", "train")


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("x", "y"), ("data", "labels")])
def test_arrays_of_no_split_are_test_images(images: str, labels: str) -> None:
    assert opened(**{images: GREY, labels: LABELS}).labels.tolist() == LABELS.tolist()
    assert available_splits("npz:x.npz") == ("test",)
    Path("x.npz").rename("my-train.npz")
    assert available_splits("npz:my-train.npz") == ("train",)


def test_names_of_ones_own() -> None:
    arrays = {"pics_train": GREY, "truth_train": LABELS, "pics_valid": GREY[:1], "truth_valid": LABELS[:1]}
    columns = {"image": "pics_{split}", "label": "truth_{split}"}
    assert len(opened("train", columns, **arrays)) == 4
    assert available_splits("npz:x.npz", columns) == ("val", "train")
    with pytest.raises(InputError, match="names only one of image and label"):
        opened("test", {"image": "pics_train"}, **arrays)
    with pytest.raises(InputError, match="no arrays of images and labels that are known by name; it has pics_train"):
        opened("test", {"image": "a", "label": "b"}, **arrays)


COLOURS = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (COLOURS, COLOURS),
        (COLOURS.transpose(0, 3, 1, 2), COLOURS),
        (GREY[..., None], GREY[..., None].repeat(3, 3)),
        (GREY[:, None], GREY[..., None].repeat(3, 3)),
        (COLOURS.astype(np.int64), COLOURS),
        (COLOURS.astype(np.float32), COLOURS),
        (COLOURS.astype(np.float64) / 255, COLOURS),
        (COLOURS.astype(np.float32) / 255, COLOURS),
        (COLOURS.astype(">u2"), COLOURS),
    ],
)
def test_shapes_and_kinds_of_numbers(given: np.ndarray, expected: np.ndarray) -> None:
    found = opened(images=given, labels=LABELS)
    pixels = found.pixels_and_labels[0]
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels.numpy().transpose(0, 2, 3, 1), expected)
    assert np.array_equal(np.asarray(found.image(3)), expected[3])
    side = min(expected.shape[1:3])
    assert (found.preprocessing.mean, found.preprocessing.crop) == (CIFAR.mean, (side, side))


def test_names_of_classes_and_labels_that_are_names() -> None:
    names = np.array(["ant", "bee", "cow", "dog"])
    found = opened(images=GREY, labels=LABELS, class_names=names)
    assert (found.class_names, found.is_numbered, found.labels.tolist()) == (tuple(names), False, LABELS.tolist())
    found = opened(images=GREY, labels=names[[3, 0, 0, 3]])
    assert (found.class_names, found.labels.tolist()) == (("ant", "dog"), [1, 0, 0, 1])
    for called in ("classes", "label_names"):
        assert opened(images=GREY, labels=LABELS, **{called: names}).class_names == tuple(names)
    assert opened(images=GREY, labels=LABELS, classes=np.arange(4)).is_numbered  # numbers are no names
    arrays = {"train_images": GREY, "train_labels": names, "test_images": GREY[:1], "test_labels": names[1:2]}
    assert (opened(**arrays).labels.tolist(), opened(**arrays).class_names) == ([1], tuple(names))
    with pytest.raises(InputError, match=r"label of image 1 in labels of x.npz is '2', and 2 classes have names"):
        opened(images=GREY, labels=LABELS, class_names=names[:2])


def labels(*values: Any) -> dict[str, Any]:
    return {"images": GREY, "labels": np.array(values)}


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": np.zeros((4, 3072), np.uint8), "labels": LABELS}, r"shape \(4, 3072\), which is none of images"),
        ({"images": np.zeros((4, 6, 6, 4), np.uint8), "labels": LABELS}, r"shape \(4, 6, 6, 4\)"),
        ({"images": np.zeros((0, 6, 6), np.uint8), "labels": LABELS[:0]}, r"shape \(0, 6, 6\)"),
        ({"images": GREY, "labels": LABELS[:3]}, "has 4 images in images, but 3 labels in labels"),
        ({"images": GREY, "labels": np.zeros((4, 14), int)}, r"labels are \(N,\) or \(N, 1\), one class an image"),
        ({"images": GREY, "labels": np.zeros((4, 0), int)}, r"labels are \(N,\) or \(N, 1\)"),
        ({"images": GREY > 3, "labels": LABELS}, "images in x.npz holds bool, not pixels"),
        ({"images": GREY * np.float32("nan"), "labels": LABELS}, "has pixels that are NaN or infinite"),
        ({"images": GREY - 300.0, "labels": LABELS}, "go from -300 to"),
        ({"images": GREY.astype(int) * 9, "labels": LABELS}, "go from 0 to 1287"),
        (labels(0, np.nan, 1, 1), "Label 1 of labels in x.npz is nan, which is no class number"),
        (labels(0, 1, np.inf, 1), "Label 2 of labels in x.npz is inf"),
        (labels(0.5, 1, 1, 1), "Label 0 of labels in x.npz is 0.5"),
        (labels(0, -1, 1, 1), "is '-1', which is no class number"),
        (labels(0, 2**40, 1, 1), "which is no number of a class"),
        (labels("a", "", "b", "b"), "is '', which names no class"),
        (labels(*["9" * 5000] * 4), r"is '9{60}\.\.\.', which is no number of a class"),
        (
            {**labels(0, 1, 1, 1), "class_names": np.array("cats")},
            r"class_names in x.npz is text of the shape \(\), not a",
        ),
        (
            {**labels(0, 1, 1, 1), "class_names": np.array([b"a", b"b"])},
            r"is \|S1 of the shape \(2,\), not a list of names",
        ),
        ({**labels(0, 1, 1, 1), "class_names": np.array([0, 1])}, "is whole numbers of the shape"),
        ({**labels(0, 1, 1, 1), "class_names": np.array([["a"], ["b"]])}, r"is text of the shape \(2, 1\)"),
        ({**labels("a", "b", "b", "b"), "class_names": np.array(["a", "b", "b"])}, "classes has 'b' 2 times"),
        ({"images": GREY, "labels": LABELS > 1}, "labels in x.npz holds bool, not labels"),
        ({"test_images": GREY}, "has only half of a pair, test_images; it has test_images"),
        ({"a": GREY}, "no arrays of images and labels that are known by name; it has a"),
        ({}, "it is empty"),
    ],
)
def test_what_is_wrong_is_said(arrays: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        opened(**arrays)


@pytest.mark.parametrize("array", ["images", "labels"])
def test_pickled_objects_are_refused(array: str) -> None:
    arrays: dict[str, Any] = {"images": GREY, "labels": LABELS}
    arrays[array] = np.array([[[object()]]] * 4)
    with pytest.raises(UnsafeFileError, match=f"{array} in x.npz holds Python objects"):
        opened(**arrays)


def test_files_that_are_cut_off_or_of_another_kind() -> None:
    opened(images=GREY, labels=LABELS)
    content = Path("x.npz").read_bytes()
    for damaged, says in ((content[:200], "is damaged, or no .npz"), (b"", "is empty"), (b"text" * 99, "is damaged")):
        Path("x.npz").write_bytes(damaged)
        with pytest.raises(InputError, match=says):
            open_dataset("npz:x.npz", "test", Path())


def test_a_file_for_each_split() -> None:
    for split, count in (("train", 4), ("test", 2)):
        np.savez(f"set_{split}.npz", images=GREY[:count], labels=LABELS[:count])
    for name in ("npz:set_{split}.npz", f"npz:{Path().absolute()}"):
        assert available_splits(name) == ("test", "train")
        assert len(open_dataset(name, "test", Path())) == 2
    np.savez("set_other.npz", images=GREY, labels=LABELS)
    with pytest.raises(InputError, match=r"set_other\.npz does not say which split it is of"):
        available_splits(f"npz:{Path().absolute()}")
