"""What is written down of each epoch."""

from __future__ import annotations

import csv
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from decompose_cli.reporting.training_plots import training_curves
from decompose_cli.training.records import EpochRecord, Score, TensorBoardLog, curves, write_csv
from decompose_cli.training.table import COLUMNS, clock, epoch_cells, running_cells


def record(epoch: int = 1, *, val: bool = True, test: bool = False) -> EpochRecord:
    def score(split: str, correct: int) -> Score:
        return Score(split=split, images=8, correct=correct, top1=12.5 * correct, loss=1.0 / correct)

    return EpochRecord(
        epoch=epoch,
        steps=10 * epoch,
        lr=0.1 / epoch,
        train=score("train", 3),
        val=score("val", 4) if val else None,
        test=score("test", 5) if test else None,
        seconds=1.5,
        images_per_second=1234.5,
    )


def test_csv_holds_all_epochs_and_empty_cells_where_nothing_was_measured() -> None:
    records = [record(1), record(2, test=True), record(3, val=False)]
    write_csv(Path("log.csv"), records)
    rows = list(csv.DictReader(Path("log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["val_correct"] for row in rows] == ["4", "4", ""]
    assert [row["test_loss"] for row in rows] == ["", "0.2", ""]
    assert [float(row["lr"]) for row in rows] == [0.1, 0.05, 0.1 / 3]
    assert [{name: str(value) for name, value in r.flat().items()} for r in records] == rows


def test_curves_are_those_of_the_images_that_were_measured() -> None:
    found = curves([record(1), record(2, test=True), record(3, val=False)])
    assert (found["epochs"], found["lr"]) == ([1, 2, 3], [0.1, 0.05, 0.1 / 3])
    assert found["losses"] == {
        "training images": [1 / 3] * 3,
        "held-out images": [0.25, 0.25, None],
        "test images": [None, 0.2, None],
    }
    assert found["top1"]["held-out images"] == [50.0, 50.0, None]
    assert set(curves([record(1)])["top1"]) == {"training images", "held-out images"}
    assert training_curves("a run", **found).startswith(b"\x89PNG")


def test_csv_of_an_interrupted_run_is_replaced_whole() -> None:
    write_csv(Path("log.csv"), [record(1), record(2)])
    write_csv(Path("log.csv"), [record(1)])
    assert len(list(csv.DictReader(Path("log.csv").read_text().splitlines()))) == 1
    assert [path.name for path in Path().iterdir()] == ["log.csv"]


def test_tensorboard_has_the_scalars_over_steps() -> None:
    board = TensorBoardLog(Path("tb"))
    for epoch in (1, 2):
        board.add(record(epoch))
    board.close()
    found = EventAccumulator("tb")
    found.Reload()
    assert {"lr", "train/loss", "train/top1", "val/loss", "val/top1"} <= set(found.Tags()["scalars"])
    assert "test/loss" not in found.Tags()["scalars"]
    assert [(event.step, event.value) for event in found.Scalars("val/top1")] == [(10, 50.0), (20, 50.0)]
    assert [event.value for event in found.Scalars("lr")] == pytest.approx([0.1, 0.05])


def test_tensorboard_hides_what_is_done_again_after_an_interruption() -> None:
    first = TensorBoardLog(Path("tb"))
    for epoch in (1, 2):
        first.add(record(epoch))
    first.close()
    again = TensorBoardLog(Path("tb"))
    for epoch in (1, 2):
        again.add(record(epoch))
    again.close()
    found = EventAccumulator("tb")
    found.Reload()
    assert [event.step for event in found.Scalars("lr")] == [10, 20]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_full_disk_under_tensorboard_is_an_error_of_the_one_who_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    board = TensorBoardLog(Path("tb"))
    assert threading.active_count() == before
    full = Path("/dev/full").open("wb")  # noqa: SIM115
    board._records._writer = full
    with pytest.raises(OSError, match="No space left"):
        board.add(record())
    monkeypatch.setattr(board, "_file", full)
    with pytest.raises(OSError, match="No space left"):
        full.close()


def test_cells_are_in_the_order_of_the_columns() -> None:
    cells = dict(zip(COLUMNS, epoch_cells(record(2, test=True), 9, 125), strict=True))
    assert cells == {
        "Epoch": "2/9",
        "Rate": "0.05",
        "Loss": "0.3333",
        "Train %": "37.50",
        "Val loss": "0.2500",
        "Val %": "50.00",
        "Test %": "62.50",
        "Images/s": "1,234",
        "Left": "2:05",
    }
    bare = dict(zip(COLUMNS, epoch_cells(record(val=False), 9, 0), strict=True))
    assert (bare["Val loss"], bare["Val %"], bare["Test %"]) == ("", "", "")


def test_cells_of_an_epoch_that_is_under_way() -> None:
    cells = dict(zip(COLUMNS, running_cells(1.5, 9, 0.025, [30.0, 5.0, 20.0], 4321.9, 3725), strict=True))
    assert (cells["Epoch"], cells["Rate"], cells["Loss"], cells["Train %"]) == ("1.50/9", "0.025", "1.5000", "25.00")
    assert (cells["Images/s"], cells["Left"]) == ("4,322", "1:02:05")
    before_the_first = dict(zip(COLUMNS, running_cells(1, 9, 0.1, [0.0, 0.0, 0.0], 0.0, 0.0), strict=True))
    assert (before_the_first["Loss"], before_the_first["Train %"]) == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599.7, "1:00:00"), (90_061, "25:01:01")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
