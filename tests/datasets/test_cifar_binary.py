"""CIFAR as binary records: the same images as in the pickled batches."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from decompose_cli.datasets.registry import open_dataset
from decompose_cli.engines.datasets import list_datasets
from decompose_cli.errors import InputError

RNG = np.random.default_rng(0)
FILES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
BATCHES = {
    name: (RNG.integers(0, 256, (3, 3072), dtype=np.uint8), RNG.integers(0, 10, 3, dtype=np.uint8))
    for names in FILES.values()
    for name in names
}


def write_ten(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (pixels, labels) in BATCHES.items():
        (folder / f"{name}.bin").write_bytes(np.concatenate([labels[:, None], pixels], 1).tobytes())


@pytest.mark.parametrize("place", ["cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"])
@pytest.mark.parametrize("is_within", [True, False])
def test_they_are_the_images_of_the_pickled_batches(place: str, is_within: bool, tmp_path: Path) -> None:
    write_ten(tmp_path / "bin" / place)
    pickled = tmp_path / "py" / "cifar-10-batches-py"
    pickled.mkdir(parents=True)
    for name, (pixels, labels) in BATCHES.items():
        (pickled / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels.tolist()}))
    data_dir = tmp_path / "bin" / place if is_within else tmp_path / "bin"
    for split, names in FILES.items():
        found = open_dataset("cifar10", split, data_dir, allow_download=False)
        assert found.labels.tolist() == [int(label) for name in names for label in BATCHES[name][1]]
        assert found.fingerprint() == open_dataset("cifar10", split, tmp_path / "py").fingerprint()
    status = next(status for status in list_datasets(data_dir) if status.name == "cifar10")
    assert status.found == str(tmp_path / "bin" / place)


def test_of_the_hundred_the_second_label_counts(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    records = np.concatenate([[[7], [3]], [[99], [0]], BATCHES["test_batch"][0][:2]], 1).astype(np.uint8)
    (folder / "test.bin").write_bytes(records.tobytes())
    found = open_dataset("cifar100", "test", tmp_path)
    assert found.labels.tolist() == [99, 0]
    assert np.array_equal(found.pixels_and_labels[0].reshape(2, -1).numpy(), records[:, 2:])  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"cifar-100-binary lacks the file train\.bin of cifar100"):
        open_dataset("cifar100", "train", tmp_path)


def test_damaged_records(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    write_ten(folder)
    whole = (folder / "test_batch.bin").read_bytes()
    for content, says in (
        (whole[:-1], "it has 9,218 bytes, which are not records of 3,073"),
        (b"", "it has 0 bytes"),
        (b"\x0a" + whole[1:], "it has the label 10, and there are 10 classes"),
    ):
        (folder / "test_batch.bin").write_bytes(content)
        with pytest.raises(InputError, match=says):
            open_dataset("cifar10", "test", tmp_path).in_memory()
