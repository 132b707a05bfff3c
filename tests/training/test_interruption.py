"""A signal is noted, a second one heard, and none is passed over, however late it comes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import INTERRUPTED, errors_in, run

from decompose_cli.training.interruption import StopRequest


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    with StopRequest() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), number)
        assert stop.is_set
    assert {kind: signal.getsignal(kind) for kind in before} == before


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopRequest():  # noqa: PT012 - the second of two is what counts
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.is_set
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_is_handled() -> None:
    found: list[bool] = []

    def work() -> None:
        with StopRequest() as stop:
            found.append(stop.is_set)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


# ------------------------------------------------------------------------------------------------ after the last step

FEW = ("--dataset", "folder:images", "--input-size", "8", "-j", "0", "-b", "4", "-q")
TRAIN = ("train", "resnet8", *FEW, "--epochs", "2", "--val-split", "0")
COMMANDS = {
    "train": TRAIN,
    "train-gate": ("train-gate", "resnet14", *FEW, "--epochs", "2", "--val-split", "0"),
    "finetune": ("finetune", "-w", "first/last.pt", *FEW, "--epochs", "2", "-k", "3"),
}
LAST_CHECKPOINT = ("decompose_cli.training.fit.write_state", 2)
SAID = "Interrupted after the last step, before its result was written; everything up to there is saved."
LATER = "Interrupted after the last checkpoint; everything up to there is saved."


def signalled(monkeypatch: pytest.MonkeyPatch, where: str, call: int, number: int = signal.SIGINT) -> None:
    """A signal arrives right before a function is called for the time of this number."""
    module, _, name = where.rpartition(".")
    function = getattr(__import__(module, fromlist=[name]), name)
    calls = 0

    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return function(*arguments, **named)

    monkeypatch.setattr(where, called)


def results_of(folder: str) -> dict[str, Any]:
    results = json.loads(Path(folder, "result.json").read_text())["results"]
    for epoch in results["epochs"]:
        del epoch["seconds"], epoch["images_per_second"]
    return {name: value for name, value in results.items() if name not in ("checkpoints", "gates", "indices")}


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    ("command", "number"), [("train", signal.SIGTERM), ("train-gate", signal.SIGINT), ("finetune", signal.SIGINT)]
)
def test_a_signal_during_the_last_checkpoint(
    command: str, number: int, make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(Path("images"), ["a", "b", "c"], ("train", "test"), n=4, side=8)
    if command == "finetune":
        run(*TRAIN, "-o", "first")
    run(*COMMANDS[command], "-o", "whole")
    with monkeypatch.context() as patch:
        signalled(patch, *LAST_CHECKPOINT, number)
        said = run(*COMMANDS[command], "-o", "stopped", code=INTERRUPTED).stderr
    assert errors_in(said) == [SAID]
    assert "Go on with --resume stopped" in said
    assert not Path("stopped/result.json").exists()
    run(command, "--resume", "stopped", "-q")
    assert results_of("stopped") == results_of("whole")


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    ("where", "call", "sentence"),
    [
        ("decompose_cli.training.fit.epoch_cells", 2, SAID),
        ("decompose_cli.training.runner.check_read_back", 1, LATER),
        ("decompose_cli.training.session.export_network", 2, LATER),  # the first was a trial
        ("decompose_cli.training.runner.training_curves", 1, LATER),
        ("decompose_cli.training.runner.write_files", 1, LATER),
    ],
)
def test_a_signal_between_the_last_checkpoint_and_the_result(
    where: str, call: int, sentence: str, make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(Path("images"), ["a", "b", "c"], ("train", "test"), n=2, side=8)
    with monkeypatch.context() as patch:
        signalled(patch, where, call)
        said = run(*TRAIN, "--export", "safetensors", "-o", "run", code=INTERRUPTED).stderr
    assert errors_in(said) == [sentence]
    assert not Path("run/result.json").exists()
    run("train", "--resume", "run", "-q")
    assert {path.name for path in Path("run").iterdir()} >= {"result.json", "curve.png", "model.safetensors"}


@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_once_the_result_is_written_leaves_all_of_it(
    make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(Path("images"), ["a", "b", "c"], ("train", "test"), n=2, side=8)
    signalled(monkeypatch, "decompose_cli.cli.runs.present", 1)
    said = run(*TRAIN, "-o", "run", code=INTERRUPTED).stderr
    assert errors_in(said) == ["Interrupted; no file was left half-written."]
    assert {path.name for path in Path("run").iterdir()} >= {"result.json", "curve.png", "last.pt"}


@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_during_the_last_checkpoint_of_one_seed_keeps_the_next_from_being_trained(
    make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(Path("images"), ["a", "b", "c"], ("train", "test"), n=2, side=8)
    with monkeypatch.context() as patch:
        signalled(patch, *LAST_CHECKPOINT)
        said = run(*TRAIN, "--runs", "2", "-o", "run", code=INTERRUPTED).stderr
    assert errors_in(said) == [SAID]
    assert "Go on with --resume run." in said, "not with a seed of it"
    assert [path.name for path in Path("run").glob("seed-*")] == ["seed-0"]
    assert not Path("run/seed-0/result.json").exists()
    said = run("train", "--resume", "run/seed-0").stderr
    assert f"{Path('run/seed-0')} is one seed of the run in run, which is taken as a whole." in " ".join(said.split())
    assert len(json.loads(Path("run/result.json").read_text())["results"]["runs"]) == 2
