"""What heads say of every image, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decompose_cli.storage.csv_text import csv_text
from decompose_cli.storage.files import write_text

SUFFIX = ".csv"


@dataclass(frozen=True)
class Said:
    """What one head says of images: class numbers, softmax probabilities of these, margins of the true classes."""

    predictions: Sequence[int]
    probabilities: Sequence[float]
    margins: Sequence[float]


@dataclass
class PredictionTable:
    """The images of a split, and what each head makes of them.

    Columns: ``image``, the number in the split from 0; ``file``, its file, relative to the data set, where it has one;
    ``label``; and of each head ``HEAD_prediction``, ``HEAD_probability`` (softmax, of the prediction) and
    ``HEAD_margin``: the logit of the label minus the largest other logit, which is below zero where the head is wrong.

    Attributes:
        numbers: Number of each image in its split.
        files: Name of each image's file, or None.
        labels: Class number of each image.
        names: Names of the classes.
        heads: What each head says, by its name.
    """

    numbers: Sequence[int]
    files: Sequence[str | None]
    labels: Sequence[int]
    names: Sequence[str]
    heads: dict[str, Said] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        parts = ("prediction", "probability", "margin")
        return ["image", "file", "label", *(f"{name}_{part}" for name in self.heads for part in parts)]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each image, in the order of the split."""
        columns, rows = self.columns, []
        for place, (number, file, label) in enumerate(zip(self.numbers, self.files, self.labels, strict=True)):
            cells: list[Any] = [number, file, self.names[label]]
            for said in self.heads.values():
                cells += [self.names[said.predictions[place]], said.probabilities[place], said.margins[place]]
            rows.append(dict(zip(columns, cells, strict=True)))
        return rows

    def write(self, path: Path) -> None:
        """Write the table as a CSV file, whole or not at all.

        Raises:
            DecomposeError: The file cannot be written.
        """
        rows = (["" if cell is None else cell for cell in row.values()] for row in self.rows())
        write_text(path, csv_text(self.columns, rows))
