"""Images that cannot be read, sorted or used, and data sets that are not there."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.checkpoints import Hostile
from helpers.command_line import FAILED, REFUSED, refused, run
from helpers.inputs import ALL_DIGITS, GOOD, jpeg, png_of_size, put
from helpers.rows import table

IMAGES = [
    # name, files (None makes a folder), arguments after the data set, part of the sentence
    ("nothing in the folder", {}, [], "has none of the folders train, val and test"),
    ("no splits", {"3/1.png": GOOD}, [], "has none of the folders train, val and test"),
    ("split that is not there", {"train/3/1.png": GOOD}, ["--split", "val"], "has no folder 'val'"),
    ("split of another name", {"test/3/1.png": GOOD, "x/3/1.png": GOOD}, ["--split", "x"], "has no folder 'x'"),
    ("split that leads elsewhere", {"test/3/1.png": GOOD}, ["--split", "../inputs"], "has no folder '../inputs'"),
    ("split that is a file", {"test": GOOD}, [], "has none of the folders train, val and test"),
    ("split without classes", {"test": None}, [], "has no class folders"),
    ("images without classes", {"test/1.png": GOOD}, [], "has no class folders"),
    ("hidden class only", {"test/.3/1.png": GOOD}, [], "has no class folders"),
    ("class without images", {"test/3/1.png": GOOD, "test/4": None}, [], "class folder", "4 has no images"),
    ("class with texts", {"test/3/1.txt": b"three"}, [], "3 has no images"),
    ("class with a folder called image", {"test/3/1.png": None}, [], "3 has no images"),
    ("class with hidden images", {"test/3/.1.png": GOOD}, [], "3 has no images"),
    (
        "class that train lacks",
        {"train/3/1.png": GOOD, "test/4/1.png": GOOD},
        [],
        "'4' which the training split does not",
    ),
    (
        "classes that train lacks",
        {"train/3/1.png": GOOD, "test/4/1.png": GOOD, "test/5/1.png": GOOD},
        [],
        "'4' and 1 more which the training split does not have",
    ),
    ("class that the network lacks", {"test/cat/1.png": GOOD}, [], "the class 'cat' is not among the network's 10"),
    ("one class that it lacks", {"test/3/1.png": GOOD, "test/cat/1.png": GOOD}, [], "the class 'cat' is not among"),
    ("classes that it lacks", {"test/cat/1.png": GOOD, "test/dog/1.png": GOOD}, [], "the class 'cat' and 1 more are"),
    (
        "eleventh class",
        {**ALL_DIGITS, "train/10/1.png": GOOD, "test/10/1.png": GOOD},
        [],
        "the class '10' is not among",
    ),
    ("not an image", {"test/3/1.png": b"not an image"}, [], "1.png", "is not an image that can be read"),
    ("empty image", {"test/3/1.png": b""}, [], "1.png is not an image that can be read"),
    ("truncated image", {"test/3/1.png": GOOD[:-1500]}, [], "1.png is damaged and cannot be decoded"),
    ("header of an image", {"test/3/1.png": GOOD[:20]}, [], "1.png"),
    ("image without pixels", {"test/3/1.png": png_of_size(32, 32)}, [], "1.png is damaged"),
    ("second image is none", {"test/3/1.png": GOOD, "test/3/2.png": b"x"}, [], "2.png is not an image"),
    ("second image is truncated", {"test/3/1.png": GOOD, "test/3/2.png": GOOD[:-1500]}, [], "2.png is damaged"),
    ("decompression bomb", {"test/3/1.png": png_of_size(60_000, 60_000)}, [], "1.png has too many pixels"),
    ("large image truncated", {"test/3/1.jpg": jpeg(100)[:-2000]}, ["-j", "0"], "1.jpg is damaged"),
    ("large image truncated, in a worker", {"test/3/1.jpg": jpeg(100)[:-2000]}, ["-j", "1"], "1.jpg is damaged"),
    ("one size and then damaged", {"test/3/1.png": GOOD, "test/3/2.jpg": jpeg(48)[:-600]}, ["-j", "0"], "2.jpg is"),
]


@pytest.mark.parametrize(("files", "more", "fragments"), table([(row[0], row[1], row[2], row[3:]) for row in IMAGES]))
def test_bad_images(inputs: Path, files: dict[str, bytes | None], more: list[str], fragments: tuple[str, ...]) -> None:
    put(inputs / "images", files)
    refused(["validate", "--no-cache", "--dataset", f"folder:{inputs / 'images'}", *more], REFUSED, *fragments)


def test_images_that_are_valid_are_the_counter_example(inputs: Path) -> None:
    put(inputs / "images", ALL_DIGITS)
    put(inputs / "large", {"test/3/1.jpg": jpeg(100), "test/4/1.png": GOOD})
    for name in ("images", "large"):
        run("validate", "--json", "-j", "0", "--dataset", f"folder:{inputs / name}")


def test_broken_link_among_the_images(inputs: Path) -> None:
    put(inputs / "images", {"test/3": None})
    (inputs / "images/test/3/1.png").symlink_to(inputs / "nowhere.png")
    refused(["validate", "--dataset", f"folder:{inputs / 'images'}"], REFUSED, "images/test/3/1.png is a link to")


def test_constants_that_overflow_are_a_failure_of_the_work(inputs: Path) -> None:
    put(inputs / "images", {"test/3/1.png": GOOD})
    arguments = ["validate", "--no-cache", "--dataset", f"folder:{inputs / 'images'}", "--std", "1e-300,1,1"]
    refused(arguments, FAILED, "NaN or infinite features for image number 0")


# --- data sets --------------------------------------------------------------------------------------------------------


def cifar_batch(content: Any) -> dict[str, bytes | None]:
    return {"cifar-10-batches-py/test_batch": content if isinstance(content, bytes) else pickle.dumps(content)}


def tiny(**changes: bytes | None) -> dict[str, bytes | None]:
    """Tiny ImageNet with one image, with changes."""
    files = {
        "wnids.txt": b"n01440764\n",
        "words.txt": b"n01440764\ttench\n",
        "val/val_annotations.txt": b"1.JPEG\tn01440764\t0\t0\t62\t62\n",
        "val/images/1.JPEG": jpeg(64),
    }
    files |= {name.replace("__", "/").replace("_txt", ".txt"): value for name, value in changes.items() if value}
    gone = {name.replace("__", "/").replace("_txt", ".txt") for name, value in changes.items() if value is None}
    return {f"tiny-imagenet-200/{name}": value for name, value in files.items() if name not in gone}


PIXELS = np.zeros((2, 3072), dtype=np.uint8)

NOT_CIFAR = "does not hold cifar10 images"


DATASETS = [
    # name, files in the data folder, data set, more arguments, exit code, part of the sentence
    ("cifar10 without downloads", {}, "cifar10", ["--no-download"], FAILED, "is not in", "downloads are off"),
    ("cifar100 without downloads", {}, "cifar100", ["--no-download"], FAILED, "cifar100 is not in"),
    ("cifar10 without files", {"cifar-10-batches-py": None}, "cifar10", [], REFUSED, "lacks the file test_batch"),
    ("cifar10 is a text", cifar_batch(b"text"), "cifar10", [], REFUSED, "test_batch is damaged: it", NOT_CIFAR),
    ("cifar10 is empty", cifar_batch(b""), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 is a list", cifar_batch([1, 2]), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 is hostile", cifar_batch(Hostile()), "cifar10", [], REFUSED, "would execute code (posix.system)"),
    ("cifar10 label", cifar_batch({"data": PIXELS, "labels": [0, 10]}), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 shape", cifar_batch({"data": PIXELS[:, :9], "labels": [0, 1]}), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 count", cifar_batch({"data": PIXELS, "labels": [0]}), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 number type", cifar_batch({"data": PIXELS / 255, "labels": [0, 1]}), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 archive", {"cifar-10-python.tar.gz": b"half"}, "cifar10", [], REFUSED, "md5 is not the published one"),
    ("imagenet not there", {}, "imagenet", [], REFUSED, "ImageNet is not there; looked for"),
    ("imagenet without val", {"imagenet/train/n01440764/1.JPEG": GOOD}, "imagenet", [], REFUSED, "not there; looked"),
    ("imagenet flat", {"imagenet/val/1.JPEG": GOOD}, "imagenet", [], REFUSED, "is not sorted into class folders"),
    (
        "imagenet class",
        {"imagenet/val/n0/1.JPEG": GOOD},
        "imagenet",
        [],
        REFUSED,
        "class folder 'n0' which is no class",
    ),
    ("tiny not there", {}, "tiny-imagenet", [], REFUSED, "Tiny ImageNet is not there; looked for"),
    (
        "tiny without wnids",
        tiny(wnids_txt=None),
        "tiny-imagenet",
        [],
        REFUSED,
        "wnids.txt cannot be read: No such file",
    ),
    ("tiny with other wnids", tiny(wnids_txt=b"n1\n"), "tiny-imagenet", [], REFUSED, "names a class that is not in"),
    ("tiny with odd words", tiny(words_txt=b"\xff"), "tiny-imagenet", [], REFUSED, "words.txt cannot be read as text"),
    (
        "tiny without list",
        tiny(val__val_annotations_txt=None),
        "tiny-imagenet",
        [],
        REFUSED,
        "val_annotations.txt cannot be read",
    ),
    ("tiny with odd list", tiny(val__val_annotations_txt=b"1.JPEG\n"), "tiny-imagenet", [], REFUSED, "val_annotations"),
    (
        "tiny without an image",
        tiny(val__val_annotations_txt=b"1.JPEG\tn01440764\n2.JPEG\tn01440764\n"),
        "tiny-imagenet",
        [],
        REFUSED,
        "2.JPEG",
    ),
    ("unknown", {}, "cifar11", [], REFUSED, "no data set 'cifar11'"),
    ("unknown split", {}, "digits", ["--split", "val"], REFUSED, "digits has no split 'val'; it has test and train"),
    ("split of another name", {}, "digits", ["--split", "Test"], REFUSED, "has no split 'Test'"),
    ("empty split", {}, "digits", ["--split", ""], REFUSED, "split ''"),
    ("no text", {}, "", [], REFUSED, "data set ''"),
    ("folder without a path", {}, "folder:", [], REFUSED, "of --dataset folder: does not exist"),
    ("folder that is not there", {}, "folder:{inputs}/none", [], REFUSED, "none' of --dataset", "does not exist"),
    ("file for a folder", {"file": b"x"}, "folder:{inputs}/data/file", [], REFUSED, "is a file, not a folder"),
    ("folder with a name too long", {}, "folder:" + "n" * 300, [], REFUSED, "nnn"),
    ("folder of nobody", {}, "folder:~nobody-of-this-name/x", [], REFUSED, "nobody-of-this-name"),
]


@pytest.mark.parametrize(
    ("files", "dataset", "more", "code", "fragments"), table([(*row[:5], row[5:]) for row in DATASETS])
)
def test_bad_dataset(
    inputs: Path,
    files: dict[str, bytes | None],
    dataset: str,
    more: list[str],
    code: int,
    fragments: tuple[str, ...],
) -> None:
    put(inputs / "data", files)
    dataset = dataset.format(inputs=inputs)
    refused(["validate", "--data-dir", str(inputs / "data"), "--dataset", dataset, *more], code, *fragments)


def test_data_folder_that_is_a_file(inputs: Path) -> None:
    (inputs / "file").write_bytes(b"x")
    arguments = ["validate", "--dataset", "cifar10", "--data-dir", str(inputs / "file"), "--no-download"]
    refused(arguments, FAILED, "cifar10 is not in")
