"""``datasets``: the data sets that are known, which of them are there, and how to get the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from decompose_cli.datasets.registry import DATASETS, default_data_dir


@dataclass(frozen=True)
class DatasetStatus:
    """One data set: where it was found (None if nowhere), where it was looked for, how to get it."""

    name: str
    splits: tuple[str, ...]
    num_classes: int
    description: str
    found: str | None
    looked: list[str]
    how_to_get: str


def list_datasets(data_dir: Path | None = None) -> list[DatasetStatus]:
    """Look for every registered data set below ``data_dir`` (by default ``$DECOMPOSE_DATA``, else ``data``)."""
    folder = data_dir or default_data_dir()
    result = []
    for entry in DATASETS.values():
        where = "built in" if entry.find is None else entry.find(folder)
        result.append(
            DatasetStatus(
                name=entry.name,
                splits=entry.splits,
                num_classes=entry.num_classes,
                description=entry.description,
                found=None if where is None else str(where),
                looked=[str(place) for place in entry.places(folder)],
                how_to_get=entry.how_to_get,
            )
        )
    return result
