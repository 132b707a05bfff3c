"""A run that is to be replaced goes only when the new one has its first checkpoint."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import FAILED, INTERRUPTED, REFUSED, content, files_below, invoke, only_error, run
from helpers.runs import BRIEF

from decompose_cli.training.batches import StepBatches

DATA = ("--dataset", "folder:images", *BRIEF)
COMMANDS = {
    "train": ("train", "resnet8", *DATA, "--lr", "0.05", "--val-split", "0.2"),
    "train-gate": ("train-gate", "resnet14", *DATA, "--lr", "0.05"),
    "finetune": ("finetune", "-w", "first.pt", *DATA, "--lr", "0.01", "-k", "3"),
}
each_command = pytest.mark.parametrize(
    "command", [name if name == "train" else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)


def everything(folder: str) -> dict[str, bytes]:
    return {name: Path(folder, name).read_bytes() for name in files_below(folder) if name != ".lock"}


@pytest.fixture
def finished(command: str, images: Path) -> tuple[str, ...]:
    """The command, which has come to its end in R, where a file of the user's lies too."""
    if command == "finetune":
        run("train", "resnet8", *DATA, "--lr", "0.05", "-o", "first", "--epochs", "1")
        Path("first/last.pt").rename("first.pt")
    run(*COMMANDS[command], "--epochs", "1", "-o", "R")
    Path("R/notes.txt").write_text("mine")
    return (*COMMANDS[command], "-o", "R", "--overwrite")


def diverges(patch: pytest.MonkeyPatch) -> tuple[tuple[str, ...], int]:
    return ("--lr", "1e38"), FAILED


def interrupted(patch: pytest.MonkeyPatch) -> tuple[tuple[str, ...], int]:
    patch.setattr(StepBatches, "steps", raising(KeyboardInterrupt()))
    return (), INTERRUPTED


def out_of_memory(patch: pytest.MonkeyPatch) -> tuple[tuple[str, ...], int]:
    patch.setattr(StepBatches, "steps", raising(torch.OutOfMemoryError("none left")))
    return (), FAILED


def disk_is_full(patch: pytest.MonkeyPatch) -> tuple[tuple[str, ...], int]:
    patch.setattr(os, "fsync", raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    return (), FAILED


def checkpoint_cannot_be_renamed(patch: pytest.MonkeyPatch) -> tuple[tuple[str, ...], int]:
    replace = Path.replace

    def place(path: Path, target: Path) -> Path:
        if target.name in ("last.pt", "best.pt"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(path, target)

    patch.setattr(Path, "replace", place)
    return (), FAILED


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*_: Any, **__: Any) -> None:
        raise error

    return function


WAYS = [diverges, interrupted, out_of_memory, disk_is_full, checkpoint_cannot_be_renamed]


@each_command
def test_a_new_run_without_a_checkpoint_leaves_the_old_one_as_it_is(
    finished: tuple[str, ...],
) -> None:
    before = everything("R")
    assert {"result.json", "last.pt", "config.json", "curve.png"} <= before.keys()
    for way in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            options, code = way(patch)
            result = invoke(*finished, *options)
            assert invoke(*finished[:-3], "-o", "fresh", *options).exit_code == code
        assert not Path("fresh").exists()
        assert result.exit_code == code, (way, result.stderr)
        assert "Traceback" not in result.stderr
        assert everything("R") == before, way
        if way is diverges:
            assert "nothing was saved yet" in only_error(result.stderr)


@each_command
def test_the_old_run_goes_with_the_first_checkpoint_and_takes_nothing_with_it(
    finished: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, bytes]] = []
    steps = StepBatches.steps

    def watched(self: StepBatches, epoch: int, *arguments: int) -> Any:
        seen.append(everything("R"))
        if epoch == 1:
            raise KeyboardInterrupt
        return steps(self, epoch, *arguments)

    before = everything("R")
    with monkeypatch.context() as patch:
        patch.setattr(StepBatches, "steps", watched)
        run(*finished, "--seed", "3", code=INTERRUPTED)
    assert seen[0] == before
    after = everything("R")
    assert after["notes.txt"] == b"mine"
    assert content("R/config.json")["settings"]["seed"] == 3
    assert not {"result.json", "curve.png", "g_values.csv"} & after.keys(), "nothing of the old run is left"
    assert sum(name.startswith("tensorboard/") for name in after) == 1
    run(finished[0], "--resume", "R")
    assert json.loads(Path("R/result.json").read_text())["results"]["epochs"][1]["epoch"] == 2


@pytest.mark.parametrize("command", ["train"])
def test_several_seeds_take_the_folder_with_the_first_checkpoint_of_the_first(finished: tuple[str, ...]) -> None:
    run(*finished, "--runs", "2", "--epochs", "1")
    assert {"seed-0/result.json", "seed-1/result.json", "result.json"} <= everything("R").keys()
    assert "last.pt" not in everything("R")
    before = everything("R")
    assert invoke(*finished, "--runs", "2", "--lr", "1e38").exit_code == FAILED
    assert everything("R") == before
    run(*finished, "--epochs", "1")
    assert "last.pt" in everything("R")
    assert not [name for name in everything("R") if name.startswith("seed-")]
    assert not Path("R/seed-0").exists()


@each_command
def test_the_end_of_a_run_is_written_all_or_not_at_all(
    command: str, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "finetune":
        run("train", "resnet8", *DATA, "--lr", "0.05", "-o", "first", "--epochs", "1")
        Path("first/last.pt").rename("first.pt")
    arguments = (*COMMANDS[command], "--epochs", "1", "-o", "R")
    replace = Path.replace

    def place(path: Path, target: Path) -> Path:
        if target.name == "result.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", place)
        run(*arguments, code=FAILED)
    names = [name for name in files_below("R") if not name.startswith("tensorboard")]
    assert not {"curve.png", "g_values.csv", "result.json", "g_distribution.png"} & set(names)
    run(command, "--resume", "R")
    listed = content("R/result.json")["files"]
    assert "curve.png" in listed
    assert all(Path("R", name).is_file() for name in listed)
    assert ("g_values.csv" in listed) == (command == "train-gate")


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run after its first epoch of two, with images held out."""
    steps = StepBatches.steps

    def first_only(self: StepBatches, epoch: int, *arguments: int) -> Any:
        if epoch == 1:
            raise KeyboardInterrupt
        return steps(self, epoch, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StepBatches, "steps", first_only)
        run(*COMMANDS["train"], "-o", "R", code=INTERRUPTED)


def missing(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another_network(path: Path) -> None:
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "state_dict": {"a": torch.zeros(1)}}, path)


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("damage", [missing, cut, a_folder, of_another_network])
def test_going_on_without_the_best_checkpoint_is_refused_before_anything_is_trained(
    damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(Path("R/best.pt"))
    monkeypatch.setattr(StepBatches, "steps", raising(AssertionError("a step was made")))
    before = everything("R")
    said = only_error(run("train", "--resume", "R", code=REFUSED).stderr)
    assert said.startswith("R/best.pt ")
    assert everything("R") == before


@pytest.mark.usefixtures("images")
def test_of_several_seeds_every_checkpoint_and_result_is_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    run(*COMMANDS["train"], "--runs", "2", "--epochs", "1", "-o", "R")
    for name in ("R/result.json", "R/seed-0/result.json"):
        Path(name).unlink()
    whole = Path("R/seed-1/result.json").read_bytes()
    Path("R/seed-1/result.json").write_text("{}")
    monkeypatch.setattr(StepBatches, "steps", raising(AssertionError("a step was made")))
    said = only_error(run("train", "--resume", "R", code=REFUSED).stderr)
    assert said.startswith("R/seed-1/result.json is not the result of a run")
    Path("R/seed-1/result.json").write_bytes(whole)
    Path("R/seed-0/best.pt").unlink()
    said = only_error(run("train", "--resume", "R", code=REFUSED).stderr)
    assert said.startswith("R/seed-0/best.pt is missing")
    Path("R/seed-1/best.pt").unlink()  # that seed has its result, and needs no checkpoint
    Path("R/seed-0/best.pt").write_bytes(Path("R/seed-0/last.pt").read_bytes())
    run("train", "--resume", "R")
