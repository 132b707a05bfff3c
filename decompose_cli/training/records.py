"""The records of each epoch, and where they are written: CSV and TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from decompose_cli.storage.csv_text import csv_text
from decompose_cli.storage.files import write_text
from decompose_cli.storage.system_errors import write_error

GATE_BINS = 20
"""Number of bins in histograms of g, of equal width from 0 to 1."""


class GateScore(BaseModel):
    """What a gate says of a set of images, or all gates of single units together.

    ``loss``: mean cross-entropy of the gate's own classifier, in nats, or mean penalty; null if it has neither.
    ``correct``, ``top1`` (percent): accuracy of its classifier, null without one. ``g``: mean weight of the later
    output; ``units``: the same by unit. ``histogram``: counts of images by g, or of images and units.
    """

    name: str
    loss: float | None
    correct: int | None
    top1: float | None
    g: float
    units: list[float] = []
    histogram: list[int]


class Score(BaseModel):
    """How a network does on a set of images: ``top1`` and ``top5`` in percent, ``loss`` as mean cross-entropy in nats.

    ``split`` names the images. Scores of the training images come from the passes in which the network learned from
    them: augmented, with weights that change from step to step, and with smoothed or mixed targets where these are
    used. ``diversity``: of these passes, the mean diversity of maps (SLDD), where the loss has it.
    """

    split: str
    images: int
    correct: int
    top1: float
    top5: float | None = None
    loss: float
    gates: list[GateScore] = []
    diversity: float | None = None


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
            for number, gate in enumerate(self.train.gates):  # all splits have the same gates
                for value in ("loss", "top1", "g"):
                    figure = None if score is None else getattr(score.gates[number], value)
                    row[f"{name}_{gate.name}_{value}"] = "" if figure is None else figure
        if self.train.diversity is not None:
            row["train_diversity"] = self.train.diversity
        return {**row, "seconds": self.seconds, "images_per_second": self.images_per_second}


def curves(records: Sequence[EpochRecord]) -> dict[str, Any]:
    """The arguments, but for the title, with which ``reporting.training_plots.training_curves`` draws a run."""
    texts = {"train": "training images", "val": "held-out images", "test": "test images"}
    scores = {text: [getattr(record, name) for record in records] for name, text in texts.items()}
    measured = {text: values for text, values in scores.items() if any(score is not None for score in values)}
    return {
        "epochs": [record.epoch for record in records],
        "losses": {text: [score and score.loss for score in values] for text, values in measured.items()},
        "top1": {text: [score and score.top1 for score in values] for text, values in measured.items()},
        "lr": [record.lr for record in records],
    }


def write_csv(path: Path, records: Sequence[EpochRecord]) -> None:
    """Write all epochs to a CSV file, whole or not at all; the file of an interrupted run is replaced.

    Raises:
        DecomposeError: The file cannot be written.
    """
    rows = [record.flat() for record in records]
    columns = list(rows[0]) if rows else []
    write_text(path, csv_text(columns, ([row[column] for column in columns] for row in rows)))


class RunLog:
    """The CSV file and the TensorBoard folder of a run.

    Args:
        path: The CSV file.
        tensorboard: The folder for TensorBoard.
    """

    def __init__(self, path: Path, tensorboard: Path) -> None:
        self._path, self._folder = path, tensorboard
        self._board: TensorBoardLog | None = None

    def write(self, records: Sequence[EpochRecord]) -> None:
        """Write all epochs; the first call rewrites the log, as a kill may have come between a checkpoint and the log.

        Raises:
            DecomposeError: The log cannot be written.
        """
        write_csv(self._path, records)
        try:
            if self._board is None:
                self._board, new = TensorBoardLog(self._folder), records
            else:
                new = records[-1:]
            for record in new:
                self._board.add(record)
        except OSError as error:
            raise write_error(self._folder, error) from error

    def close(self) -> None:
        """Close the files."""
        if self._board is not None:
            self._board.close()


class TensorBoardLog:
    """Scalars of each epoch, over steps, in the run folder.

    TensorBoard's own record writer writes them, but not its event writer, a thread that ends in a traceback where the
    disk is full and is never heard of again.

    Args:
        folder: Gets a new file each time that the run goes on, which hides the earlier ones.

    Raises:
        OSError: The file cannot be written; the methods raise it too.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, record: EpochRecord) -> None:
        """Write one epoch."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name.replace("_", "/", 1), simple_value=value)
            for name, value in record.flat().items()
            if isinstance(value, float)
        ]
        for split in ("train", "val", "test"):
            score: Score | None = getattr(record, split)
            for gate in score.gates if score is not None else ():
                # The histogram has a tag of its own, as TensorBoard shows one kind of value under a tag.
                values.append(Summary.Value(tag=f"{split}/{gate.name}_histogram", histo=_histogram(gate.histogram)))
        self._write(Event(step=record.steps, summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()


def _histogram(counts: Sequence[int]) -> Any:
    """A histogram of counts of g in bins of equal width from 0 to 1; its sums take the middles of the bins."""
    from tensorboard.compat.proto.summary_pb2 import HistogramProto

    width = 1 / len(counts)
    middles = [(number + 0.5) * width for number in range(len(counts))]
    return HistogramProto(
        min=0.0,
        max=1.0,
        num=sum(counts),
        sum=sum(count * middle for count, middle in zip(counts, middles, strict=True)),
        sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles, strict=True)),
        bucket_limit=[(number + 1) * width for number in range(len(counts))],
        bucket=counts,
    )
