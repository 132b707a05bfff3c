"""Stdout holds results and nothing else, whoever prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_line import invoke, run
from helpers.processes import PROGRAM, environment, program

NOISY = """
import atexit, ctypes, multiprocessing, os, subprocess, sys, threading
from torch import nn

def everything(when):
    print("NOISE print", when)
    sys.stdout.write(f"NOISE write {when}\\n")
    if os.environ.get("LOUD"):
        sys.__stdout__.write(f"NOISE __stdout__ {when}\\n")
        os.write(1, f"NOISE os.write {when}\\n".encode())
        ctypes.CDLL(None).puts(f"NOISE puts {when}".encode())
        subprocess.run([sys.executable, "-S", "-c", "print('NOISE subprocess')"], check=True)
        os.system("echo NOISE system")
        thread = threading.Thread(target=print, args=("NOISE thread",))
        thread.start()
        thread.join()
        process = multiprocessing.get_context("fork").Process(target=print, args=("NOISE fork",))
        process.start()
        process.join()

everything("import")
if os.environ.get("LOUD"):
    atexit.register(lambda: print("NOISE print exit") or os.write(1, b"NOISE os.write exit\\n"))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        everything("construction")
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8), nn.ReLU())
        self.out = nn.Linear(8, 10)
        self.said = False

    def forward(self, x):
        if not self.said:
            everything("forward")
        self.said = True
        return self.out(self.body(x))
"""


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that prints wherever it can."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("noisy.py").write_text(NOISY)


@pytest.mark.usefixtures("noisy")
@pytest.mark.parametrize(
    "command",
    [("validate",), ("extract-indices", "-k", "2"), ("layers",), ("sweep", "--ks", "1", "--methods", "weight")],
)
def test_json_is_json_where_a_network_prints(command: tuple[str, ...], few: str) -> None:
    data = () if command[0] == "layers" else ("--dataset", few, "-j", "0")
    result = run(command[0], "noisy:Net", *data, *command[1:], "--json")
    document = json.loads(result.stdout)
    assert document
    for when in ("import", "construction", "forward"):
        assert f"NOISE print {when}" in result.stderr
        assert f"NOISE write {when}" in result.stderr
    sys.modules.pop("noisy", None)


@pytest.mark.usefixtures("noisy")
def test_nothing_that_a_process_can_write_reaches_stdout(few: str) -> None:
    done = program(
        "validate", "noisy:Net", "--dataset", few, "-j", "1", "--json", env=environment(LOUD="1", PYTHONUNBUFFERED=None)
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"]["total"] == 20
    for how in ("print", "write", "__stdout__", "os.write", "puts", "subprocess", "system", "thread", "fork"):
        assert f"NOISE {how}" in done.stderr, how
    for how in ("print", "os.write"):
        assert f"NOISE {how} exit" in done.stderr


@pytest.mark.usefixtures("noisy")
def test_without_json_stdout_is_empty(few: str) -> None:
    result = run("validate", "noisy:Net", "--dataset", few)
    assert result.stdout == ""
    assert "NOISE print forward" in result.stderr


@pytest.mark.usefixtures("noisy")
def test_a_network_that_fails_leaves_stdout_empty_and_as_it_was(few: str) -> None:
    Path("noisy.py").write_text(NOISY.replace("return self.out", "raise ValueError; return self.out"))
    before = sys.stdout
    result = invoke("validate", "noisy:Net", "--dataset", few, "--json")
    assert result.exit_code != 0
    assert result.stdout == ""
    assert sys.stdout is before


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("models", "--json"), ("validate", "--help")])
def test_what_belongs_on_stdout_is_there(arguments: tuple[str, ...]) -> None:
    done = program(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr == "" or "--json" in arguments


@pytest.mark.parametrize("closed", ["1", "2", "1 and 2"])
def test_streams_that_are_closed(closed: str) -> None:
    redirections = " ".join(f"{stream}>&-" for stream in closed.split(" and "))
    line = f"exec {' '.join(PROGRAM)} models --json -q {redirections}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, env=environment())
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if closed == "2" else 1)  # nobody gets the result
    assert json.loads(done.stdout) if closed == "2" else done.stdout == ""
    assert ("The result could not be printed: stdout is closed." in done.stderr) == (closed == "1")
