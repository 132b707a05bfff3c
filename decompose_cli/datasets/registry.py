"""The data sets known by name. Nothing here imports torch until one is opened."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.datasets import locations as places
from decompose_cli.errors import InputError
from decompose_cli.storage.files import user_path

if TYPE_CHECKING:
    from decompose_cli.datasets.base import ImageDataset

FOLDER_PREFIX = "folder:"


@dataclass(frozen=True)
class DatasetEntry:
    """A data set and its facts.

    Attributes:
        name: As written on the command line.
        splits: Those it has, in the order in which they are preferred for testing.
        num_classes: C.
        description: One line.
        how_to_get: What to do when it is not there.
        open: Takes split, data folder and whether downloads are allowed.
        find: Takes the data folder; where the data set is, or None. None if it is built in.
        places: Takes the data folder; where it is looked for.
    """

    name: str
    splits: tuple[str, ...]
    num_classes: int
    description: str
    how_to_get: str
    open: Callable[[str, Path, bool], ImageDataset]
    find: Callable[[Path], Path | None] | None = None
    places: Callable[[Path], list[Path]] = lambda _: []


def _cifar(name: str, num_classes: int) -> DatasetEntry:
    def open_(split: str, data_dir: Path, allow_download: bool) -> ImageDataset:
        from decompose_cli.datasets.cifar import open_cifar

        return open_cifar(name, split, data_dir, allow_download)

    return DatasetEntry(
        name=name,
        splits=("test", "train"),
        num_classes=num_classes,
        description=f"50,000 + 10,000 photographs of 32x32 pixels, {num_classes} classes",
        how_to_get="downloaded when first used (about 170 MB), unless --no-download",
        open=open_,
        find=partial(places.find_cifar, name),
        places=partial(places.cifar_places, name),
    )


def _open_imagenet(split: str, data_dir: Path, _: bool) -> ImageDataset:
    from decompose_cli.datasets.imagenet import open_imagenet

    return open_imagenet(split, data_dir)


def _open_tiny(split: str, data_dir: Path, _: bool) -> ImageDataset:
    from decompose_cli.datasets.imagenet import open_tiny_imagenet

    return open_tiny_imagenet(split, data_dir)


def _open_digits(split: str, _: Path, __: bool) -> ImageDataset:
    from decompose_cli.datasets.digits import open_digits

    return open_digits(split)


DATASETS = {
    entry.name: entry
    for entry in (
        DatasetEntry(
            name="digits",
            splits=("test", "train"),
            num_classes=10,
            description="1,437 + 360 handwritten digits, enlarged to 32x32 pixels",
            how_to_get="comes with scikit-learn",
            open=_open_digits,
        ),
        _cifar("cifar10", 10),
        _cifar("cifar100", 100),
        DatasetEntry(
            name="imagenet",
            splits=("val", "train"),
            num_classes=1000,
            description="1,281,167 + 50,000 photographs, or any subset of the class folders",
            how_to_get="by hand from image-net.org, as imagenet/ILSVRC/{train,val}/<wnid>/*.JPEG",
            open=_open_imagenet,
            find=places.find_imagenet,
            places=places.imagenet_places,
        ),
        DatasetEntry(
            name="tiny-imagenet",
            splits=("val", "train"),
            num_classes=200,
            description="100,000 + 10,000 photographs of 64x64 pixels",
            how_to_get="unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            open=_open_tiny,
            find=places.find_tiny_imagenet,
            places=places.tiny_imagenet_places,
        ),
    )
}


def default_data_dir() -> Path:
    """``$DECOMPOSE_DATA``, else ``data`` in the current directory."""
    return user_path(os.environ.get("DECOMPOSE_DATA") or "data")


def available_splits(name: str) -> tuple[str, ...]:
    """Splits of a data set, the one preferred for testing first.

    Raises:
        InputError: No such data set, or no such folder.
    """
    if name.startswith(FOLDER_PREFIX):
        from decompose_cli.datasets.folders import folder_splits

        found = folder_splits(name)
        return tuple(split for split in ("test", "val", "train") if split in found)
    return get_dataset_entry(name).splits


def get_dataset_entry(name: str) -> DatasetEntry:
    """Look a data set up by name.

    Raises:
        InputError: No such data set.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
        hint = f"Known are {', '.join(DATASETS)} and folder:PATH."
        if os.path.lexists(name):
            hint = f"For a folder of images write folder:{name}."
        elif close:
            hint = f"Did you mean {close[0]}? {hint}"
        raise InputError(f"There is no data set {name!r}.", hint=hint)
    return DATASETS[name]


def open_dataset(name: str, split: str, data_dir: Path, *, allow_download: bool = True) -> ImageDataset:
    """Open one split of a data set.

    Args:
        name: A registered name or ``folder:PATH``.
        split: ``train``, ``val`` or ``test``.
        data_dir: Where registered data sets are kept.
        allow_download: Whether the network may be used.

    Raises:
        InputError: No such data set or split, or files that cannot be used.
        DownloadError: The data set is not there and cannot be fetched.
    """
    if name.startswith(FOLDER_PREFIX):
        from decompose_cli.datasets.folders import open_folder

        return open_folder(name, split)
    entry = get_dataset_entry(name)
    if split not in entry.splits:
        raise InputError(f"{name} has no split {split!r}; it has {' and '.join(entry.splits)}.")
    return entry.open(split, data_dir, allow_download)
