"""The data sets known by name. Nothing here imports torch until one is opened.

A new data set is a module with its entry, and its name below. A program registers one of its own with :func:`register`.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.datasets import cifar, digits, imagenet, tiny_imagenet
from decompose_cli.datasets.classes import ClassNames
from decompose_cli.datasets.entry import DatasetEntry
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import CIFAR, Preprocessing
from decompose_cli.storage.files import user_path

if TYPE_CHECKING:
    from decompose_cli.datasets.base import ImageDataset

FOLDER_PREFIX = "folder:"

DATASETS: dict[str, DatasetEntry] = {}
"""Data sets by name, in the order in which they are shown."""


def register(entry: DatasetEntry) -> None:
    """Add a data set, which every command then takes by its name.

    Raises:
        ValueError: The name is taken.
    """
    if entry.name in DATASETS:
        raise ValueError(f"a data set named {entry.name!r} is registered already")
    DATASETS[entry.name] = entry


for _entry in (digits.ENTRY, *cifar.ENTRIES, imagenet.ENTRY, tiny_imagenet.ENTRY):
    register(_entry)


def default_data_dir() -> Path:
    """The data folder: ``$DECOMPOSE_DATA``, else ``data`` in the current directory."""
    return user_path(os.environ.get("DECOMPOSE_DATA") or "data")


def available_splits(name: str) -> tuple[str, ...]:
    """Splits of a data set, the one preferred for testing first.

    Raises:
        InputError: There is no such data set or folder.
    """
    if name.startswith(FOLDER_PREFIX):
        from decompose_cli.datasets.folders import folder_splits

        present = folder_splits(name)
        return tuple(split for split in ("test", "val", "train") if split in present)
    return get_dataset_entry(name).splits


def get_dataset_entry(name: str) -> DatasetEntry:
    """Look a data set up by name.

    Raises:
        InputError: There is no such data set.
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
        data_dir: Folder of the registered data sets.
        allow_download: Whether the network may be used.

    Raises:
        InputError: There is no such data set or split, or its files cannot be used.
        DownloadError: The data set is not there and cannot be fetched.
    """
    if name.startswith(FOLDER_PREFIX):
        from decompose_cli.datasets.folders import open_folder

        return open_folder(name, split)
    entry = get_dataset_entry(name)
    if split not in entry.splits:
        raise InputError(f"{name} has no split {split!r}; it has {' and '.join(entry.splits)}.")
    return entry.open(split, data_dir, allow_download)


# The name of a data set that a network was trained on tells something of the network; it need not be registered.


def known_class_names(dataset: str | None, *, certain: bool) -> ClassNames | None:
    """Names of the classes of networks trained on a data set, if they are known."""
    entry = DATASETS.get(dataset or "")
    if entry is None or entry.class_names is None:
        return None
    return replace(entry.class_names(), certain=certain)


def usual_preprocessing(dataset: str | None) -> Preprocessing:
    """Preprocessing for networks trained on a data set that bring none; CIFAR's where the data set is not known."""
    entry = DATASETS.get(dataset or "")
    return CIFAR if entry is None else entry.preprocessing
