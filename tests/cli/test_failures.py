"""How the program ends when something goes wrong: mistakes, signals, full disks, readers that have gone."""

from __future__ import annotations

import errno
import importlib.abc
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from helpers.command_line import errors_in, files_below, invoke, only_error, refused, run
from helpers.processes import PROGRAM, environment, program, python

from decompose_cli.cli.app import main

RUNNING = ["validate", "extract-indices", "demo"]  # those that run a network


def test_debug_shows_the_traceback_of_an_expected_error() -> None:
    failed = invoke("validate", "-i", "none.json", "--debug")
    assert failed.exit_code == 2
    assert "Traceback (most recent call last)" in failed.stderr
    assert "InputError" in failed.stderr


@pytest.mark.usefixtures("warm")
def test_a_mistake_of_ours_is_one_sentence_and_a_traceback_with_debug(
    forbid_forward_passes: Callable[[], None],
) -> None:
    forbid_forward_passes()
    failed = invoke("validate", "--no-cache")
    assert failed.exit_code == 1
    assert "Traceback" not in failed.stderr
    assert only_error(failed.stderr).startswith("Something unforeseen went wrong: AssertionError: a forward pass was")
    assert "--debug" in failed.stderr
    with_debug = invoke("validate", "--no-cache", "--debug")
    assert with_debug.exit_code == 1
    assert isinstance(with_debug.exception, AssertionError)
    assert not files_below()


OUT_OF_MEMORY = {
    "Python": MemoryError(),
    "torch": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: x"
    ),
    "torch elsewhere": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    "C++": RuntimeError("std::bad_alloc"),
    "a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "a GPU, asked later": RuntimeError("CUDA error: out of memory"),
    "the system": OSError(errno.ENOMEM, "Cannot allocate memory"),
}


@pytest.mark.parametrize(
    "place", ["decompose_cli.engines.validate.validate", "decompose_cli.features.forward.Forward._read"]
)
@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_memory_that_runs_out_is_said(monkeypatch: pytest.MonkeyPatch, kind: str, place: str) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OUT_OF_MEMORY[kind]

    monkeypatch.setattr(place, fail)
    said = refused(["validate", "--no-cache"], 1, "emory")
    assert ("ran out of memory" if kind.startswith("a GPU") else "The memory of this machine was not enough.") in said
    assert ("Hint: Choose a smaller --batch-size." in said) == kind.startswith("a GPU")
    assert not files_below()


# --- signals ----------------------------------------------------------------------------------------------------------

# Interrupting is tried on a network that is slow on real batches (tracing uses two images), and says when it is there.
SLOW_NETWORK = """
import pathlib, time
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.out = nn.Linear(12, 10)

    def forward(self, x):
        if len(x) > 2:
            pathlib.Path(r"{started}").touch()
            time.sleep(0.1)
            for _ in range(600):
                time.sleep(0.1)
        return self.out(self.body(x))
"""
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])


@SIGNALS
def test_interruption_gives_130_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    started, code = tmp_path / "started", tmp_path / "code"
    code.mkdir()
    (code / "slow.py").write_text(SLOW_NETWORK.format(started=started), encoding="utf-8")
    python_path = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [*PROGRAM, "validate", "slow:Net", "--dataset", "digits", "-o", "v.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=python_path, PYTHONDONTWRITEBYTECODE="1"),
    )
    limit = time.monotonic() + 60
    while not started.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    assert started.exists(), process.communicate()
    process.send_signal(number)
    out, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert out == ""
    assert "Traceback" not in said
    assert said.count("Error: Interrupted") == 1
    assert not files_below()
    assert not files_below(tmp_path / "cache" / "features")
    assert not list(tmp_path.rglob("*.tmp"))


class SignalledImport(importlib.abc.MetaPathFinder):
    """A signal arrives while a module is imported, which then goes on."""

    def __init__(self, module: str, number: int, done: list[str]) -> None:
        self.module, self.number, self.done = module, number, done

    def find_spec(self, name: str, *_: Any) -> None:
        if name == self.module:
            os.kill(os.getpid(), self.number)
            self.done.append("imported")


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Called with a signal, it has that arrive while torch is imported; returns what was done afterwards."""
    from decompose_cli import features
    from decompose_cli.features import study  # which imports torch

    def prepare(number: int) -> list[str]:
        done: list[str] = []
        monkeypatch.setattr(features, "study", study)  # and back again
        monkeypatch.delitem(sys.modules, study.__name__)
        monkeypatch.setattr(sys, "meta_path", [SignalledImport(study.__name__, number, done), *sys.meta_path])
        monkeypatch.setattr("decompose_cli.engines.validate.validate", lambda *_, **__: done.append("run"))
        return done

    return prepare


@SIGNALS
def test_interruption_waits_until_torch_is_imported(
    number: signal.Signals, signalled: Callable[[int], list[str]]
) -> None:
    """Raised in there it is lost, or torch is left half imported."""
    done = signalled(number)
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    assert errors_in(run("validate", code=130).stderr) == ["Interrupted; no file was left half-written."]
    assert done == ["imported"]
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers


def test_a_job_in_the_background_ignores_what_interrupts_the_terminal(signalled: Callable[[int], list[str]]) -> None:
    done = signalled(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    invoke("validate")
    assert done == ["imported", "run"]


def test_an_interrupt_that_comes_while_a_class_is_defined_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As most of the first import of a library is; Python 3.11 and earlier make a RuntimeError of it."""

    def define(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise RuntimeError("Error calling __set_name__ on 'x' instance 'y' in 'Z'") from interrupt

    monkeypatch.setattr("decompose_cli.engines.validate.validate", define)
    assert errors_in(run("validate", code=130).stderr) == ["Interrupted; no file was left half-written."]


# --- disks ------------------------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[..., None]:
    def function(*_: Any, **__: Any) -> None:
        raise error

    return function


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("call", ["os.fsync", "tempfile.mkstemp", "pathlib.Path.replace"])
@pytest.mark.parametrize("command", RUNNING)
def test_full_disk_is_one_sentence_and_leaves_nothing(
    command: str, call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr(call, full)
    if call == "pathlib.Path.replace":  # or, under a name that must not be taken, a hard link
        monkeypatch.setattr("pathlib.Path.hardlink_to", full)
    said = run(command, code=1).stderr
    assert only_error(said).startswith("No space left on the disk while writing results/")
    assert not files_below()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.usefixtures("warm")
def test_interruption_while_writing_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", raising(KeyboardInterrupt()))
    assert "Interrupted" in run("validate", code=130).stderr
    assert not files_below()


def test_cache_that_cannot_be_written_costs_a_warning_only(few: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("decompose_cli.features.bank.save", refuse)
    result = run("validate", "--dataset", few, "--json")
    assert result.stderr.count("Warning: ") == 1
    assert "could not be kept" in result.stderr
    assert json.loads(result.stdout)["results"]["total"] == 20


FULL_STDOUT = """
import errno, io, os, sys

class Full(io.RawIOBase):
    def writable(self):
        return True

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

sys.stdout = io.TextIOWrapper(io.BufferedWriter(Full()), encoding="utf-8")
"""


def check_full_stdout(code: int, said: str) -> None:
    assert code == 1
    error = only_error(said)
    assert "No space left" in error
    assert "unforeseen" not in error
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_stdout_on_a_full_disk_is_one_sentence() -> None:
    """In a process, at whose end Python flushes stdout once more."""
    done = python(f"{FULL_STDOUT}\nfrom decompose_cli.cli.app import main\nmain()", "models", "--json", "-q")
    check_full_stdout(done.returncode, done.stderr)


@pytest.mark.usefixtures("warm", "own_main")
def test_stdout_on_a_full_disk_after_the_work_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", said)
    exec(FULL_STDOUT, {})
    monkeypatch.setattr(sys, "argv", ["decompose", "validate", "--json", "-q"])
    with pytest.raises(SystemExit) as done:
        main()
    check_full_stdout(int(done.value.code or 0), said.getvalue())


# --- readers that have gone -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("arguments", [("models", "--json"), ("validate", "--json"), ("--help",), ("--version",)])
def test_stdout_that_nobody_reads_gives_no_traceback(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = program(*arguments, stdout=writing, stderr=subprocess.PIPE, capture_output=False)
    finally:
        os.close(writing)
    assert done.returncode in (0, 1)
    for unwanted in ("Traceback", "Exception ignored", "BrokenPipe", "Error: "):
        assert unwanted not in done.stderr
