"""The data sets known by name. Nothing here imports torch until one is opened.

A new data set is a module with its entry, and its name below. A program registers one of its own with :func:`register`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.datasets import cifar, digits, imagenet, tiny_imagenet
from decompose_cli.datasets.classes import ClassNames
from decompose_cli.datasets.entry import DatasetEntry
from decompose_cli.datasets.kinds import KINDS, found_by
from decompose_cli.datasets.splits import in_preferred_order
from decompose_cli.errors import InputError
from decompose_cli.messages import warn_no_effect
from decompose_cli.preprocessing import CIFAR, Preprocessing
from decompose_cli.storage.files import user_path

if TYPE_CHECKING:
    from decompose_cli.datasets.base import ImageDataset

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


def available_splits(
    name: str, columns: Mapping[str, str] | None = None, *, allow_download: bool = True
) -> tuple[str, ...]:
    """Splits of a data set, the one preferred for testing first.

    Args:
        name: A registered name or ``KIND:REST``.
        columns: Names of columns by what they hold, for kinds that have columns.
        allow_download: Whether the network may be used.

    Raises:
        InputError: There is no such data set, folder or file.
        DownloadError: The data set is not there and cannot be fetched.
    """
    found = found_by(name, columns, allow_download=allow_download)
    return get_dataset_entry(name).splits if found is None else in_preferred_order(found.splits)


def get_dataset_entry(name: str) -> DatasetEntry:
    """Look a data set up by name.

    Raises:
        InputError: There is no such data set.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
        kinds = [kind.usage for kind in KINDS.values()]
        hint = f"Known are {', '.join([*DATASETS, *kinds[:-1]])} and {kinds[-1]}."
        if os.path.lexists(name):
            hint = f"For a folder of images write folder:{name}."
            prefix = {".csv": "csv", ".tsv": "csv", ".npz": "npz", ".tar": "wds", ".parquet": "hf"}.get(
                Path(name).suffix
            )
            if prefix is not None:
                hint = f"For the images of this file write {prefix}:{name}."
        elif close:
            hint = f"Did you mean {close[0]}? {hint}"
        raise InputError(f"There is no data set {name!r}.", hint=hint)
    return DATASETS[name]


def open_dataset(
    name: str,
    split: str,
    data_dir: Path,
    *,
    allow_download: bool = True,
    columns: Mapping[str, str] | None = None,
) -> ImageDataset:
    """Open one split of a data set.

    Args:
        name: A registered name or ``KIND:REST``; see :mod:`.kinds`.
        split: ``train``, ``val`` or ``test``.
        data_dir: Folder of the registered data sets.
        allow_download: Whether the network may be used.
        columns: Names of columns by what they hold, for kinds that have columns.

    Raises:
        InputError: There is no such data set or split, or its files cannot be used.
        DownloadError: The data set is not there and cannot be fetched.
    """
    found = found_by(name, columns, allow_download=allow_download)
    if found is not None:
        if split not in found.splits and name.partition(":")[0] != "folder":
            raise InputError(f"{name} has no split {split!r}; it has {' and '.join(found.splits)}.")
        return found.open(split)
    entry = get_dataset_entry(name)
    if columns:
        warn_no_effect(["columns"], f"with {name}, which has no columns")
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
