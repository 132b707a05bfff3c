"""Several files are written all or none, and only those of decompose are replaced."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from helpers.command_line import files_below, names_in

from decompose_cli.errors import DecomposeError
from decompose_cli.storage.file_sets import write_files


def names() -> list[str]:
    return names_in(".")


def test_several_files_hold_text_and_bytes_and_replace_what_was_there() -> None:
    Path("b.bin").write_text("mine", encoding="utf-8")
    write_files({Path("new", "deep", "a.txt"): "žába\n", Path("b.bin"): b"\0\xff\r\n"})
    assert Path("new", "deep", "a.txt").read_bytes() == "žába\n".encode()
    assert Path("b.bin").read_bytes() == b"\0\xff\r\n"
    assert files_below() == ["b.bin", "new/deep/a.txt"]


@pytest.mark.parametrize("blocked", ["file/c", "folder", "x" * 300], ids=["below a file", "folder", "long name"])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_file_that_cannot_be_written_keeps_all_others_from_being(blocked: str, position: int) -> None:
    for name in ("file", "old"):
        Path(name).write_text(name)
    Path("folder").mkdir()
    others = [("old", "new"), ("made/a", b"1")]
    contents = [*others[:position], (blocked, "2"), *others[position:]]
    with pytest.raises(DecomposeError, match=r"(?i)^cannot write (file/c|folder|x+): "):
        write_files({Path(name): content for name, content in contents})
    assert names() == ["file", "folder", "old"]
    assert Path("old").read_text() == "old"
    assert not list(Path("folder").iterdir())


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_disk_that_says_late_that_it_is_full_gets_none_of_several_files(
    which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a").write_text("old")
    asked: list[int] = []

    def fsync(descriptor: int) -> None:
        asked.append(descriptor)
        if len(asked) == which:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DecomposeError, match=rf"No space left on the disk while writing {'abc'[which - 1]};"):
        write_files({Path("a"): "new", Path("b"): "new", Path("c"): b"new"})
    assert names() == ["a"]
    assert Path("a").read_text() == "old"


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["EIO", "Ctrl-C"]
)
@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_rename_that_fails_takes_back_the_files_renamed_before(
    which: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, asked = Path.replace, []

    def fail(path: Path, target: Path) -> None:
        if target.name in "abc":  # and not the journal
            asked.append(target)
            if len(asked) == which:
                raise error
        replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises((DecomposeError, KeyboardInterrupt)):
        write_files({Path("a"): "1", Path("b"): "2", Path("c"): b"3"})
    assert len(asked) == which
    assert names() == []
