"""The place that a command runs in: terminals without a size, streams that are closed, no home, signals, the system."""

from __future__ import annotations

import errno
import os
import pwd
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import COMMANDS, INTERRUPTED, REFUSED, errors_in, files_below, invoke, only_error, run
from helpers.command_line import usage_error as refused_by_parser
from helpers.processes import PROGRAM, environment, program

from decompose_cli.errors import InputError
from decompose_cli.storage.files import cache_root, user_path

RUNS = "decompose_cli.engines.validate.validate"

# --- terminals and streams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("COLUMNS", "0"),
        ("COLUMNS", "-5"),
        ("COLUMNS", "abc"),
        ("COLUMNS", "²"),
        ("LINES", "²"),
        ("TERMINAL_WIDTH", "x"),
    ],
)
def test_a_terminal_without_a_size_shows_everything(name: str, size: str) -> None:
    sizes = {"COLUMNS": None, "LINES": None, "TERMINAL_WIDTH": None, name: size}
    done = program("datasets", env=environment(**sizes))
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[1] == "Data sets"
    assert "cifar10 " in done.stderr


@pytest.fixture
def page(few: str) -> list[str]:
    """A command that works without torch, and writes a file."""
    run("validate", "-o", "v.json")
    return [*PROGRAM, "report", "v.json", "-o", "r.html"]


@pytest.mark.usefixtures("warm")
def test_stderr_that_nobody_takes_costs_no_result(page: list[str]) -> None:
    for redirection, code in (("<&- >&- 2>&-", 0), (">/dev/full 2>/dev/full", 1)):
        line = f"exec {' '.join(page)} {redirection}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, env=environment())
        assert done.returncode == code, redirection
        assert (done.stdout, done.stderr) == ("", "")
        assert Path("r.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
        Path("r.html").unlink()


# --- paths ------------------------------------------------------------------------------------------------------------

PATHS = [
    (command, parameter.opts[-1])
    for command, declared in COMMANDS.items()
    for parameter in declared.params
    if parameter.type_descriptor.annotation is Path and parameter.opts[-1].startswith("-")
]


def test_a_path_that_cannot_be_is_refused_where_it_is_typed() -> None:
    assert {option for _, option in PATHS} >= {"-o", "-i", "--data-dir", "--class-map", "--resume"}
    for command, option in {option: (command, option) for command, option in PATHS}.values():
        refused_by_parser((command, option, ""), "the path is empty")
        refused_by_parser((command, option, "a\0b"), "null character")
        refused_by_parser((command, option, "a\ud800"), "half a character")
        refused_by_parser((command, option, "~nosuch-user/x"), "no home folder for ~nosuch-user")


def test_paths_begin_at_the_home_where_they_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run("datasets")
    run("validate", "--dataset", "digits", "--output=~/v.json", "-q")
    assert (tmp_path / "home/v.json").exists()
    assert not files_below()


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom no list has, as containers are started with, and no variables."""

    def unknown(*_: Any) -> Any:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "DECOMPOSE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_cache_is_with_the_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_root() == tmp_path / f"decompose-{os.getuid()}"
    run("validate", "-o", "v.json")
    assert (cache_root() / "features").is_dir()
    run("cache")
    for text in ("~/x", "~nobody/x"):
        with pytest.raises(InputError, match="names no place"):
            user_path(text)


@pytest.mark.parametrize("name", ["a/b", "../outside", ".", "..", "", "/tmp/absolute"])
def test_the_name_of_a_run_is_no_path(name: str) -> None:
    assert f"--run-name {name!r} is not the name of a folder." in invoke("train", "--run-name", name).stderr


# --- signals ----------------------------------------------------------------------------------------------------------


def importing(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let 'validate' import a module with this body, in which ``send(n)`` has n signals come."""
    header = (
        "import os, signal, time\ndef send(n):\n    for _ in range(n):\n        os.kill(os.getpid(), signal.SIGINT)\n"
    )
    Path("late_module.py").write_text(header + body)
    monkeypatch.syspath_prepend(str(Path.cwd()))

    def work(*_: Any, **__: Any) -> None:
        import late_module  # type: ignore[import-not-found]  # noqa: F401

        signal.pause()  # the signal is heard when the import is over

    monkeypatch.setattr(RUNS, work)


def test_an_interrupt_waits_for_the_end_of_a_late_import(monkeypatch: pytest.MonkeyPatch) -> None:
    importing(monkeypatch, "send(1)\ntime.sleep(0.1)\nopen('imported', 'w').close()\n")
    assert errors_in(run("validate", code=INTERRUPTED).stderr) == ["Interrupted; no file was left half-written."]
    assert Path("imported").exists()


@pytest.mark.parametrize("error", ["ImportError('no array')", "SystemError('without exception')", "AttributeError()"])
def test_a_second_interrupt_of_which_an_import_makes_something_else_is_one(
    error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    importing(monkeypatch, f"try:\n    send(2)\nexcept KeyboardInterrupt:\n    pass\nraise {error}\n")
    assert errors_in(run("validate", code=INTERRUPTED).stderr) == ["Interrupted; no file was left half-written."]


def sends(number: int) -> Callable[..., None]:
    def work(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)

    return work


def test_a_terminal_that_goes_away_unwinds_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run under nohup
    try:
        monkeypatch.setattr(RUNS, sends(signal.SIGHUP))
        run("validate", code=INTERRUPTED)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_nohup_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(RUNS, sends(signal.SIGHUP))
        assert "Interrupted" not in invoke("validate").stderr
    finally:
        signal.signal(signal.SIGHUP, before)


# --- the system -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "path", "code", "said"),
    [
        (errno.EACCES, "a/b", REFUSED, "Cannot use a/b: Permission denied."),
        (errno.EROFS, "a/b", REFUSED, "Cannot use a/b: Read-only file system."),
        (errno.ENAMETOOLONG, "a/b", REFUSED, "Cannot use a/b: File name too long."),
        (errno.EIO, "a/b", 1, "Cannot use a/b: Input/output error."),
        (errno.EMFILE, b"a/\xff", 1, "Cannot use a/\\udcff: Too many open files."),
        (errno.EAGAIN, None, 1, "The system refuses what this command needs: Resource temporarily unavailable."),
    ],
)
def test_what_no_reader_foresaw_is_a_sentence(
    number: int, path: str | bytes | None, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(RUNS, fail)
    assert only_error(run("validate", code=code).stderr) == said
