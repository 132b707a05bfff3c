"""The table that grows by a row an epoch."""

from __future__ import annotations

from decompose_cli.training.records import EpochRecord

COLUMNS = ("Epoch", "Rate", "Loss", "Train %", "Val loss", "Val %", "Test %", "Images/s", "Left")


def running_cells(done: float, epochs: int, lr: float, tally: list[float], speed: float, left: float) -> list[str]:
    """The row of an epoch that is under way.

    Args:
        done: Epochs, the one under way in part.
        epochs: In all.
        lr: Of the last step.
        tally: Sum of losses, correct answers, images.
        speed: Images per second.
        left: Seconds to the end of the run.
    """
    total, correct, images = tally
    cells = [f"{done:.2f}/{epochs}", f"{lr:.3g}"]
    cells += [f"{total / images:.4f}", f"{100 * correct / images:.2f}"] if images else ["", ""]
    return [*cells, "", "", "", f"{speed:,.0f}", clock(left)]


def epoch_cells(record: EpochRecord, epochs: int, left: float) -> list[str]:
    """The row of an epoch that is over."""
    return [
        f"{record.epoch}/{epochs}",
        f"{record.lr:.3g}",
        f"{record.train.loss:.4f}",
        f"{record.train.top1:.2f}",
        f"{record.val.loss:.4f}" if record.val else "",
        f"{record.val.top1:.2f}" if record.val else "",
        f"{record.test.top1:.2f}" if record.test else "",
        f"{record.images_per_second:,.0f}",
        clock(left),
    ]


def clock(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
