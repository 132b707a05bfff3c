"""A run that was stopped and resumed ends as one that never was."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import run

TIMING = ("seconds", "images_per_second")


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "decompose_cli", "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*arguments: str | Path) -> None:
    process = start(*arguments)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def without_timing(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_timing(item) for name, item in value.items() if name not in TIMING}
    return [without_timing(item) for item in value] if isinstance(value, list) else value


def end_of(folder: Path) -> tuple[dict[str, Any], Any]:
    """All tensors of the last checkpoint, and everything in the result that is no time and no path."""
    saved = torch.load(folder / "last.pt", weights_only=True)
    results = json.loads((folder / "result.json").read_text())["results"]
    return saved, without_timing({name: results[name] for name in ("epochs", "last", "best")})


def assert_same(first: Any, second: Any, where: str = "") -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for name in first:
            if name not in TIMING:
                assert_same(first[name], second[name], f"{where}.{name}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for number, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{where}[{number}]")
    else:
        assert first == second, where


def assert_same_end(folder: Path, other: Path) -> None:
    for a, b in zip(end_of(folder), end_of(other), strict=True):
        assert_same(a, b)


OPTIONS = ("resnet8", "--dataset", "digits", "--epochs", "3", "--val-split", "0.1", "--mix", "ricap", "-b", "32")


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--ema-decay", "0.9"), ("--norm-mode", "online", "--lr", "0.02")])
def test_ten_kills_at_random_moments_change_nothing(more: tuple[str, ...]) -> None:
    options = (*OPTIONS, *more, "--checkpoint-every", "5", "-q")
    before = time.monotonic()
    finish(*options, "-o", "whole")
    usual = time.monotonic() - before
    generator = random.Random(0)
    kills = 0
    arguments: tuple[str, ...] = (*options, "-o", "killed")
    while kills < 10:
        process = start(*arguments)
        try:
            process.wait(generator.uniform(0.1, usual))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        if Path("killed/result.json").is_file():  # it was quicker than the clock: another run, with the remaining kills
            assert_same_end(Path("whole"), Path("killed"))
            for path in sorted(Path("killed").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            Path("killed").rmdir()
            arguments = (*options, "-o", "killed")
            continue
        assert process.returncode == -signal.SIGKILL
        kills += 1
        if Path("killed/config.json").is_file():
            arguments = ("--resume", "killed", "--checkpoint-every", "5", "-q")
    finish(*arguments)
    assert_same_end(Path("whole"), Path("killed"))
    leftovers = [path.name for path in Path("killed").iterdir()]
    assert sorted(leftovers) == [
        "best.pt",
        "config.json",
        "curve.png",
        "last.pt",
        "log.csv",
        "result.json",
        "tensorboard",
    ]


HELD = """
import time
from pathlib import Path

from torch import nn


class Net(nn.Module):
    \"\"\"Once the first epoch is over, a step of training waits until the file 'hold' is gone, if there is one.\"\"\"

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        if self.training and Path("stopped/last.pt").exists() and Path("hold").exists():
            Path("waiting").touch()
            while Path("hold").exists():
                time.sleep(0.01)
        return self.head(self.body(x).flatten(1))
"""


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_saves_and_exits_with_130(number: signal.Signals, make_images: Callable[..., Path]) -> None:
    """The signal comes within the first step of the second epoch, and the step is done to its end."""
    Path("held.py").write_text(HELD)
    images = make_images(Path("tiny"), ["a", "b", "c"], n=8, side=8)
    options = ("held:Net", "--dataset", f"folder:{images}", "--input-size", "8", "-b", "6", "-j", "0")
    options = (*options, "--epochs", "3", "--val-split", "0.2", "--device", "cpu")
    run("train", *options, "-o", "whole", "-q")
    Path("hold").touch()
    process = start(*options, "-o", "stopped")
    while not Path("waiting").is_file():
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()[1]
    process.send_signal(number)
    time.sleep(0.1)  # it is still within the step
    assert process.poll() is None
    Path("hold").unlink()
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "Interrupted in epoch 2" in errors
    assert "--resume stopped" in errors
    assert not Path("stopped/result.json").exists()
    assert "and the model held:Net again" in errors
    run("train", "held:Net", "--resume", "stopped", "-q")
    assert_same_end(Path("whole"), Path("stopped"))
