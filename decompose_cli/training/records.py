"""What is written down of each epoch, and where: CSV and TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from decompose_cli.files import write_text


class Score(BaseModel):
    """How a network does on a set of images: ``top1`` and ``top5`` in percent, ``loss`` as mean cross-entropy in nats.

    ``split`` says on which images. Scores of the training images are those of the passes in which it learned from them:
    augmented, with weights that change from step to step, and with smoothed or mixed targets where these are used.
    """

    split: str
    images: int
    correct: int
    top1: float
    top5: float | None = None
    loss: float


class EpochRecord(BaseModel):
    """One pass over the training images; ``lr`` is the rate of its last step.

    ``val``: images held out from the training images, on which the best epoch is chosen. ``test``: shown only, never
    used for choosing.
    """

    epoch: int
    steps: int
    lr: float
    train: Score
    val: Score | None
    test: Score | None
    seconds: float
    images_per_second: float

    def flat(self) -> dict[str, float | int | str]:
        """One row of a table."""
        row: dict[str, float | int | str] = {"epoch": self.epoch, "steps": self.steps, "lr": self.lr}
        for name in ("train", "val", "test"):
            score: Score | None = getattr(self, name)
            for value in ("loss", "top1", "correct", "images"):
                row[f"{name}_{value}"] = "" if score is None else getattr(score, value)
        return {**row, "seconds": self.seconds, "images_per_second": self.images_per_second}


def write_csv(path: Path, records: Sequence[EpochRecord]) -> None:
    """All epochs as a CSV file, whole or not at all; what an interrupted run wrote is replaced.

    Raises:
        DecomposeError: The file cannot be written.
    """
    target = io.StringIO()
    rows = [record.flat() for record in records]
    writer = csv.DictWriter(target, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, target.getvalue())


class TensorBoardLog:
    """Scalars of each epoch, over steps, in the run folder."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run wrote beyond the point from which it goes on is hidden.
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def add(self, record: EpochRecord) -> None:
        """Write one epoch."""
        for name, value in record.flat().items():
            if isinstance(value, float):
                self._writer.add_scalar(name.replace("_", "/", 1), value, record.steps)
        self._writer.flush()

    def close(self) -> None:
        """Let go of the file."""
        self._writer.close()
