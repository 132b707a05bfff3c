"""The built-in digits: a fixed, stratified split of scikit-learn's images."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from decompose_cli.datasets.digits import CLASSES, enlarge, open_digits
from decompose_cli.datasets.registry import open_dataset
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import CIFAR

SHA256_OF_PIXELS = {
    "train": "110ac9494e77e9d6a7b3f8d7e7beba8f600f47077721aa52e5697131c0c8fc40",
    "test": "bd947b6be2a526e29673c2af5e354e52260c066daa1d4ae7a030855add153ca7",
}
SHA256_OF_LABELS = {
    "train": "00163a749db85c2520aa86db3fab3d340ac09a05846be132a13232b1d64425cf",
    "test": "cb16aaa1f62baf92e65d0e8be84ce1ff045aa356f3f6addb8f67916d53745fbb",
}


@pytest.mark.parametrize(("split", "count"), [("train", 1437), ("test", 360)])
def test_sizes_and_kinds(split: str, count: int) -> None:
    digits = open_digits(split)
    assert len(digits) == count
    pixels, labels = digits.pixels_and_labels
    assert (pixels.shape, pixels.dtype) == ((count, 3, 32, 32), torch.uint8)
    assert (labels.shape, labels.dtype) == ((count,), torch.int64)
    assert digits.class_names == CLASSES == tuple("0123456789")
    assert digits.preprocessing == CIFAR


def test_split_is_stratified() -> None:
    train, test = (torch.bincount(open_digits(split).pixels_and_labels[1]) for split in ("train", "test"))
    assert len(train) == len(test) == 10
    share = test / (train + test)
    assert bool(((share - 0.2).abs() < 0.005).all())


@pytest.mark.parametrize("split", ["train", "test"])
def test_pixels_and_labels_never_change(split: str) -> None:
    pixels, labels = open_digits(split).pixels_and_labels
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == SHA256_OF_PIXELS[split]
    assert hashlib.sha256(labels.numpy().tobytes()).hexdigest() == SHA256_OF_LABELS[split]


def _reference() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def test_split_is_that_of_the_description() -> None:
    """Sorted by class, the original order kept within a class; every fifth image is a test image."""
    images, target = _reference()
    order = [number for digit in range(10) for number in range(len(target)) if target[number] == digit]
    chosen = {"test": order[::5], "train": [number for place, number in enumerate(order) if place % 5]}
    for split, numbers in chosen.items():
        pixels, labels = open_digits(split).pixels_and_labels
        assert labels.tolist() == target[numbers].tolist()
        assert np.array_equal(pixels[:, 0].numpy(), enlarge(images[numbers].astype(np.int64)))
        assert torch.equal(pixels[:, 0], pixels[:, 1])
        assert torch.equal(pixels[:, 0], pixels[:, 2])


def test_enlargement_is_bilinear() -> None:
    """Against torch's bilinear interpolation in double precision, rounded."""
    grey = _reference()[0][:50].astype(np.int64)
    large = torch.nn.functional.interpolate(torch.from_numpy(grey)[:, None].double(), scale_factor=4, mode="bilinear")
    difference = torch.from_numpy(enlarge(grey).astype(np.float64)) - large[:, 0] * 255 / 16
    assert float(difference.abs().max()) <= 0.5 + 1e-9


def test_enlargement_of_constants() -> None:
    assert enlarge(np.full((1, 8, 8), 16)).tolist() == [[[255] * 32] * 32]
    assert not enlarge(np.zeros((1, 8, 8), dtype=np.int64)).any()


def test_fingerprints_differ_between_splits_and_repeat() -> None:
    train, test = open_digits("train").fingerprint(), open_digits("test").fingerprint()
    assert train != test
    assert open_digits("train").fingerprint() == train


def test_batches_come_in_order() -> None:
    digits = open_digits("test")
    batches = list(digits.batches(CIFAR, 100, 0))
    assert [len(labels) for _, labels in batches] == [100, 100, 100, 60]
    assert torch.equal(torch.cat([images for images, _ in batches]), digits.pixels_and_labels[0])


def test_split_that_does_not_exist(tmp_path) -> None:
    with pytest.raises(InputError, match="digits has no split 'val'; it has test and train"):
        open_dataset("digits", "val", tmp_path)
