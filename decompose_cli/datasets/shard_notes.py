"""What tar shards hold, remembered in the cache folder: looking through a million samples takes a minute."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from decompose_cli.datasets.kept_files import shards_folder
from decompose_cli.datasets.paths import PathTable
from decompose_cli.datasets.tar_shards import Shard, read_shard
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.storage.files import check_trusted, write_with
from decompose_cli.storage.fingerprints import digest_of
from decompose_cli.storage.ordinary_files import check_ordinary

_FORMAT_VERSION = 1
_DAMAGED = (InputError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def known_shard(path: Path, image: str | None, label: str | None) -> Shard:
    """As :func:`.tar_shards.read_shard`, without looking at a file again that is what and where it was.

    A cache that cannot be used is no error.

    Raises:
        InputError: The file cannot be read, is damaged, or a sample lacks its image or its label.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    now = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    note = shards_folder() / f"{digest_of([_FORMAT_VERSION, str(path.resolve()), now, image, label])}.npz"
    with suppress(*_DAMAGED):
        return _noted(note, path)
    shard = read_shard(path, image, label)
    with suppress(DecomposeError, OSError):
        write_with(note, lambda place: _write(place, shard))
    return shard


def _noted(note: Path, path: Path) -> Shard:
    check_trusted(note)
    check_ordinary(note, "The note")  # a pipe would be waited for
    with np.load(note, allow_pickle=False) as arrays:
        names, labels = (
            list(PathTable(Path(), arrays[f"{what}_text"], arrays[f"{what}_ends"]).names())
            for what in ("names", "labels")
        )
        offsets = arrays["offsets"]
    if not len(names) == len(labels) == len(offsets) > 0:
        raise ValueError("parts of it are of different lengths")
    return Shard(path, names, offsets, labels)


def _write(place: Path, shard: Shard) -> None:
    tables = {"names": PathTable.of(Path(), shard.names), "labels": PathTable.of(Path(), shard.labels)}
    parts: dict[str, Any] = {f"{what}_text": table.text for what, table in tables.items()}
    parts |= {f"{what}_ends": table.ends for what, table in tables.items()}
    with place.open("wb") as handle:
        np.savez(handle, offsets=shard.offsets, **parts)
