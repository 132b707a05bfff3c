"""Which folder is which split, whatever its spelling, and images that lie a folder deeper."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from helpers.image_kinds import CLASSES, noise, png, write_folder

from decompose_cli.datasets.registry import available_splits, open_dataset
from decompose_cli.datasets.splits import split_called, split_in
from decompose_cli.errors import InputError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Training", "train"), ("VAL", "val"), ("valid", "val"), ("Validation", "val"),
        ("Test", "test"), ("testing", "test"), ("tests", None), ("train1", None), ("", None),
    ],
)  # fmt: skip
def test_spellings(name: str, split: str | None) -> None:
    assert split_called(name) == split


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet-train-0001.tar", "train"), ("Validation.csv", "val"), ("my_test_set.npz", "test"),
        ("train_and_test.csv", None), ("latest.csv", None), ("train-training.csv", "train"), ("all.csv", None),
    ],
)  # fmt: skip
def test_words_in_names(name: str, split: str | None) -> None:
    assert split_in(name) == split


def test_folders_of_other_spellings_are_the_splits() -> None:
    write_folder(Path("images"), 8, splits=("Training", "valid", "Test"))
    assert available_splits("folder:images") == ("test", "val", "train")
    for split, folder in (("train", "Training"), ("val", "valid"), ("test", "Test")):
        found = open_dataset("folder:images", split, Path())
        assert (found.split, len(found), found.class_names) == (split, 9, CLASSES)
        assert Path(found.files[0]).parts[1] == folder  # type: ignore[attr-defined]


def test_the_usual_spelling_is_preferred_and_two_others_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    write_folder(Path("images"), 8, splits=("val", "Val", "validation"))
    with caplog.at_level(logging.INFO):
        assert available_splits("folder:images") == ("val",)
    assert "images has val, Val, validation for the split val, of which val is used." in caplog.text
    assert len(open_dataset("folder:images", "val", Path()).files[0].parts) == 4  # type: ignore[attr-defined]
    assert open_dataset("folder:images", "val", Path()).files[0].parts[1] == "val"  # type: ignore[attr-defined]
    write_folder(Path("others"), 8, splits=("Val", "validation"))
    with pytest.raises(InputError, match="others has two folders that may be the split val: Val and validation"):
        available_splits("folder:others")


def test_a_second_spelling_of_a_split_is_said_in_files_of_other_kinds(caplog: pytest.LogCaptureFixture) -> None:
    images, labels = np.zeros((1, 4, 4), np.uint8), np.zeros(1, int)
    np.savez(
        "x.npz",
        **{
            f"{split}_{what}": each
            for split in ("val", "valid")
            for what, each in (("images", images), ("labels", labels))
        },
    )
    for name in ("val", "validation"):
        np.savez(f"{name}.npz", images=images, labels=labels)
    with caplog.at_level(logging.INFO):
        assert available_splits("npz:x.npz") == available_splits("npz:{split}.npz") == ("val",)
    assert "x.npz has val_images, valid_images for the split val, of which val_images is used." in caplog.text
    assert "{split}.npz has val, validation for the split val, of which val is used." in caplog.text


def test_a_folder_deeper_is_found_and_said(caplog: pytest.LogCaptureFixture) -> None:
    write_folder(Path("archive/imagenette2"), 8, splits=("train", "val"))
    Path("archive/README").touch()
    with caplog.at_level(logging.INFO):
        assert available_splits("folder:archive") == ("val", "train")
    assert "archive has none of the folders train, val and test; they are in archive/imagenette2, which is used." in (
        caplog.text
    )
    assert open_dataset("folder:archive", "val", Path()).labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    write_folder(Path("archive/other"), 8)
    with pytest.raises(InputError, match="but several of its folders have: imagenette2, other") as refusal:
        available_splits("folder:archive")
    assert refusal.value.hint == "Name one of them: folder:archive/imagenette2."


def test_ids_of_imagenet_are_shown_as_words_whatever_the_network_is() -> None:
    for wnid in ("n02123045", "n01440764"):
        Path(f"images/test/{wnid}").mkdir(parents=True)
        Path(f"images/test/{wnid}/0.png").write_bytes(png(noise(int(wnid[1:]), 8)))
    found = open_dataset("folder:images", "test", Path())
    assert (found.class_names, found.class_ids) == (("tench", "tabby"), ("n01440764", "n02123045"))
    Path("images/test/n99999999").mkdir()
    Path("images/test/n99999999/0.png").write_bytes(png(noise(0, 8)))
    found = open_dataset("folder:images", "test", Path())
    assert (found.class_names[0], found.class_ids) == ("n01440764", None), "of others nothing is known"
