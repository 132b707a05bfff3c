"""The kinds of images of one's own that a data set is named by: ``KIND:REST``, each read by a module of its own.

A module is imported where its kind is named. A new kind is a module with a class as :class:`.source.Found`, and an
entry below.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from decompose_cli.datasets.source import COLUMNS, Found, Source
from decompose_cli.errors import param
from decompose_cli.messages import warn_of_first
from decompose_cli.storage.files import user_path


@dataclass(frozen=True)
class Kind:
    """One kind of images.

    Attributes:
        prefix: What its names begin with, before the colon.
        rest: What stands after it, for help texts.
        description: What is read, in one line.
        reader: Module and class that look at a source, as ``module:class``.
        columns: What of :data:`.source.COLUMNS` it can be told the column of.
    """

    prefix: str
    rest: str
    description: str
    reader: str
    columns: tuple[str, ...] = ("image", "label")

    @property
    def usage(self) -> str:
        """How it is written on the command line."""
        return f"{self.prefix}:{self.rest}"

    def look(self, source: Source) -> Found:
        """Look at what is where a source says.

        Raises:
            InputError: There is nothing of this kind.
            DownloadError: It is not on this machine and cannot be fetched.
        """
        for what, name in source.columns.items():
            if what not in self.columns:
                has = f"columns of {' and '.join(self.columns)} alone" if self.columns else "no columns"
                message = f"{param('columns')} {what}={name} has no effect with {source.name}, which has {has}."
                warn_of_first(message, message)
        columns = {what: name for what, name in source.columns.items() if what in self.columns}
        module, _, name = self.reader.partition(":")
        found: Found = getattr(importlib.import_module(module), name)(replace(source, columns=columns))
        return found


KINDS: dict[str, Kind] = {
    kind.prefix: kind
    for kind in (
        Kind(
            "folder",
            "PATH",
            "image files in PATH/train|val|test/<class>/",
            "decompose_cli.datasets.folders:Folders",
            columns=(),
        ),
        Kind(
            "csv",
            "FILE",
            "image files that a CSV file lists, with columns of paths, labels and, if there are several, splits",
            "decompose_cli.datasets.csv_tables:CsvTables",
            columns=COLUMNS,
        ),
        Kind(
            "npz",
            "FILE",
            "arrays train_images and train_labels (MedMNIST), x_train and y_train, or images and labels",
            "decompose_cli.datasets.array_images:ArrayFiles",
        ),
        Kind(
            "wds",
            "PATTERN",
            "WebDataset shards: imagenet-{split}-{000..127}.tar, or a folder of them",
            "decompose_cli.datasets.webdataset:WebDataset",
        ),
        Kind(
            "hf",
            "NAME|PATH",
            "data sets of Hugging Face, Parquet files or a folder of save_to_disk; needs decompose-cli[hf]",
            "decompose_cli.datasets.hugging_face:HuggingFace",
        ),
    )
}
"""Kinds by prefix, in the order in which they are shown."""


def kind_of(name: str) -> tuple[Kind, str] | None:
    """The kind that a name of a data set begins with, and what follows it; None for a registered name."""
    prefix, colon, rest = name.partition(":")
    return (KINDS[prefix], rest) if colon and prefix in KINDS else None


def found_by(name: str, columns: Mapping[str, str] | None = None, *, allow_download: bool = True) -> Found | None:
    """What is where a name of the form ``KIND:REST`` says; None for a registered name.

    Raises:
        InputError: There is nothing of this kind.
        DownloadError: It is not on this machine and cannot be fetched.
    """
    kind = kind_of(name)
    if kind is None:
        return None
    return kind[0].look(Source(name, kind[1], dict(columns or {}), allow_download))


def place_in(name: str) -> str:
    """The last part of what a name stands for, without its kind, for titles."""
    kind = kind_of(name)
    return (name if kind is None else kind[1]).rstrip("/").rsplit("/", 1)[-1]


def seen_from(name: str, base: Path) -> str:
    """The name of images that were named in the folder ``base``, where the command is started elsewhere."""
    kind = kind_of(name)
    if kind is None:
        return name
    path = user_path(kind[1])
    if path.is_absolute() or path.exists() or (kind[0].prefix == "hf" and not (base / path).exists()):
        return name
    return f"{kind[0].prefix}:{base / path}"
