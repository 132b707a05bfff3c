"""What is written down of each epoch, and where: CSV and TensorBoard."""

from __future__ import annotations

import csv
import io
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from decompose_cli.storage.files import write_error, write_text

GATE_BINS = 20
"""Of histograms of g, of equal width from 0 to 1."""


class GateScore(BaseModel):
    """What a gate says of a set of images, or all gates of single units together.

    ``loss``: mean cross-entropy of its own classifier, in nats, or mean penalty; null if it has neither. ``correct``,
    ``top1`` (percent): of its classifier, null without one. ``g``: mean weight of the later output, ``units`` by unit.
    ``histogram``: images by g, or images and units.
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

    ``split`` says on which images. Scores of the training images are those of the passes in which it learned from them:
    augmented, with weights that change from step to step, and with smoothed or mixed targets where these are used.
    """

    split: str
    images: int
    correct: int
    top1: float
    top5: float | None = None
    loss: float
    gates: list[GateScore] = []


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
            for number, gate in enumerate(self.train.gates):  # which all splits have
                for value in ("loss", "top1", "g"):
                    found = None if score is None else getattr(score.gates[number], value)
                    row[f"{name}_{gate.name}_{value}"] = "" if found is None else found
        return {**row, "seconds": self.seconds, "images_per_second": self.images_per_second}


def curves(records: Sequence[EpochRecord]) -> dict[str, Any]:
    """What :func:`decompose_cli.reporting.training_plots.training_curves` draws of a run, without the title."""
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


class RunLog:
    """The CSV file and the TensorBoard folder of a run.

    Args:
        path: Of the CSV file.
        tensorboard: Folder.
    """

    def __init__(self, path: Path, tensorboard: Path) -> None:
        self._path, self._folder = path, tensorboard
        self._board: TensorBoardLog | None = None

    def write(self, records: Sequence[EpochRecord]) -> None:
        """All epochs; first anew, as a kill may have come between a checkpoint and the log.

        Raises:
            DecomposeError: They cannot be written.
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
        """Let go of the files."""
        if self._board is not None:
            self._board.close()


class TensorBoardLog:
    """Scalars of each epoch, over steps, in the run folder.

    Written by TensorBoard's own record writer, but not by its event writer: that is a thread, and where its disk is
    full it ends in a traceback and is never heard of again.

    Args:
        folder: Gets a file of its own for each time that the run goes on, which hides the earlier ones.

    Raises:
        OSError: The file cannot be written; so do the methods.
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
                # A tag of its own: TensorBoard shows one kind of value under one.
                values.append(Summary.Value(tag=f"{split}/{gate.name}_histogram", histo=_histogram(gate.histogram)))
        self._write(Event(step=record.steps, summary=Summary(value=values)))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()


def _histogram(counts: Sequence[int]) -> Any:
    """Counts of g in bins of equal width from 0 to 1; sums are those of the middles of the bins."""
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
