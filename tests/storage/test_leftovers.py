"""What a process that is gone has left is removed, and what one that is still there is writing is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command_line import names_in
from helpers.processes import environment

from decompose_cli.storage import leftovers
from decompose_cli.storage.file_sets import write_files
from decompose_cli.storage.files import new_folder, write_text
from decompose_cli.storage.fingerprints import remembered
from decompose_cli.storage.leftovers import sweep, temporary_prefix
from decompose_cli.storage.result_document import default_names

WRITER = """
import sys, time
from pathlib import Path
from decompose_cli.storage.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def writing(target: str) -> subprocess.Popen[str]:
    """A process that has written half of a file."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def write_beside() -> object:
    return write_text(Path("out/other"), "x")


def write_several() -> object:
    return write_files({Path("out/a"): "1", Path("out/b"): "2"})


@pytest.mark.parametrize("write", [write_beside, write_several])
def test_the_next_that_writes_there_sweeps_once_the_process_is_gone(write: Callable[[], object]) -> None:
    with writing("out/result.json") as process:
        (half,) = Path("out").glob("*.tmp")
        write()
        assert half.read_text() == "half", "its process is still there"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert half.exists()
        write()
        assert not half.exists()
        assert not list(Path("out").glob(".*"))


def test_the_cache_is_swept_by_who_notes_something_there(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "fingerprints"
    with writing(str(folder / "x")) as process:
        process.kill()
        process.wait()
    assert len(names_in(folder)) == 1
    remembered("key", lambda: "0" * 64)
    assert [name for name in names_in(folder) if name.startswith(".")] == []


def left(name: str, age_s: float = 0) -> Path:
    path = Path("out", name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("half")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


HERE, PROCESS, START = temporary_prefix().removeprefix(".decompose-").rstrip("-").split("-")
DAY = 86400


@pytest.mark.parametrize(
    ("name", "age", "stays", "stays_alone"),
    [
        (f".decompose-{HERE}-{PROCESS}-{START}-abc.tmp", 2 * DAY, True, False),
        (f".decompose-{HERE}-{PROCESS}-1-abc.tmp", 0, False, False),
        (f".decompose-{HERE}-999999999-{START}-abc.tmp", 0, False, False),
        (f".decompose-{HERE}-999999999-{START}-abc.old", 0, False, False),
        (f".decompose-{HERE}-1-0-abc.tmp", 2 * DAY, True, True),
        (f".decompose-00000000-{PROCESS}-{START}-abc.tmp", DAY - 60, True, True),
        (f".decompose-00000000-{PROCESS}-{START}-abc.tmp", DAY + 60, False, False),
        (".decompose-abc_1234.tmp", DAY - 60, True, False),
        (".decompose-abc_1234.tmp", DAY + 60, False, False),
        (".decompose-notes.txt", 2 * DAY, True, True),
        ("decompose-abc.tmp", 2 * DAY, True, True),
        (".decompose-My own.tmp", 2 * DAY, True, True),
        ("mine.tmp", 2 * DAY, True, True),
    ],
    ids=[
        *("this process", "another that had the number", "gone", "gone, old file", "running"),
        *("other machine", "other machine, old", "unknown", "unknown, old"),
        *("not temporary", "other prefix", "other letters", "the user's"),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_who_is_swept(name: str, age: float, stays: bool, stays_alone: bool, alone: bool) -> None:
    if os.name != "posix" or not Path("/proc/self/stat").exists():
        pytest.skip("needs to know when a process began")
    path = left(name, age)
    sweep(Path("out"), alone=alone)
    assert path.exists() == (stays_alone if alone else stays)


def test_folders_are_swept_too() -> None:
    folder = Path("out", f".decompose-{HERE}-999999999-5-abc.tmp")
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/file").write_text("x")
    sweep(Path("out"))
    assert names_in("out") == []


def test_folders_that_a_killed_process_had_only_made_go_with_the_next() -> None:
    dead, alive = f".decompose-{HERE}-999999999-5-abc.tmp", f".decompose-{HERE}-{PROCESS}-{START}-abc.tmp"
    for name in (f"dead/{dead}", f"alive/{alive}", f"used/{dead}", "used/result.json", "mine/notes.txt"):
        Path("results", name).parent.mkdir(parents=True, exist_ok=True)
        Path("results", name).write_text("x")
    Path("results/empty").mkdir()
    with new_folder(default_names("sweep", suffix="")) as folder:
        assert names_in("results") == ["alive", "empty", "mine", folder.name, "used"]
        assert len(names_in(folder)) == 1, "it says whose it is"
        (folder / "result.json").write_text("x")
    assert names_in(folder) == ["result.json"]


def test_what_cannot_be_removed_or_listed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    left(f".decompose-{HERE}-999999999-5-abc.tmp")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    sweep(Path("out"))
    assert len(names_in("out")) == 1
    sweep(Path("none"))
    monkeypatch.setattr(os, "scandir", refuse)
    sweep(Path("out"))


def test_a_machine_that_was_started_anew_or_another_container_is_another_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = {leftovers._machine()}
    for method, other in (("read_text", "another boot"), ("readlink", Path("pid:[1]"))):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, lambda *_, other=other, **__: other)
            words.add(leftovers._machine.__wrapped__())
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "elsewhere")
        words.add(leftovers._machine.__wrapped__())
    assert len(words) == 4
