"""The table that grows by a row an epoch."""

from __future__ import annotations

from collections.abc import Sequence

from decompose_cli.training.records import EpochRecord, GateScore

_USUAL = 7
COLUMNS = ("Epoch", "Rate", "Loss", "Train %", "Val loss", "Val %", "Test %", "Images/s", "Left")


def columns(more: Sequence[str]) -> tuple[str, ...]:
    """The usual columns, and more, which come before the speed."""
    return (*COLUMNS[:_USUAL], *more, *COLUMNS[_USUAL:])


def running_cells(
    done: float, epochs: int, lr: float, tally: Sequence[float], speed: float, left: float, *, more: int = 0
) -> list[str]:
    """The row of an epoch that is under way.

    Args:
        done: Epochs so far, with the part of the one under way.
        epochs: Epochs in all.
        lr: Learning rate of the last step.
        tally: Sum of losses, correct answers, images.
        speed: Images per second.
        left: Seconds to the end of the run.
        more: Number of further columns.
    """
    total, correct, images, *_ = tally
    cells = [f"{done:.2f}/{epochs}", f"{lr:.3g}"]
    cells += [f"{total / images:.4f}", f"{100 * correct / images:.2f}"] if images else ["", ""]
    return [*cells, "", "", "", *[""] * more, f"{speed:,.0f}", clock(left)]


def epoch_cells(record: EpochRecord, epochs: int, left: float) -> list[str]:
    """The row of an epoch that is over; its gates are read on images that were not learned from, if there are any."""
    shown = record.val or record.test or record.train
    return [
        f"{record.epoch}/{epochs}",
        f"{record.lr:.3g}",
        f"{record.train.loss:.4f}",
        f"{record.train.top1:.2f}",
        f"{record.val.loss:.4f}" if record.val else "",
        f"{record.val.top1:.2f}" if record.val else "",
        f"{record.test.top1:.2f}" if record.test else "",
        *(cell for gate in shown.gates for cell in _gate_cells(gate)),
        *([] if record.train.diversity is None else [f"{record.train.diversity:.3f}"]),
        f"{record.images_per_second:,.0f}",
        clock(left),
    ]


def gate_columns(names: Sequence[str], *, classify: bool) -> tuple[str, ...]:
    """The columns of gates of these names, with their accuracy if they classify."""
    parts = [name.removeprefix("gate").replace("_", " ") for name in names]
    return tuple(f"{what}{part}" for part in parts for what in ([*["Gate %"] * classify, "Mean g"]))


def _gate_cells(gate: GateScore) -> list[str]:
    return [*([] if gate.top1 is None else [f"{gate.top1:.2f}"]), f"{gate.g:.3f}"]


def clock(seconds: float) -> str:
    """A time as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
