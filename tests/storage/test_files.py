"""Files are written whole or not at all, and JSON of the user's is read strictly."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.storage.files import (
    atomic_path,
    cache_root,
    check_folder_writable,
    check_writable,
    sha256_of,
    write_text,
    write_with,
)
from decompose_cli.storage.system_errors import write_error
from decompose_cli.storage.text_files import read_json, read_result


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def files_below() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_file_appears_when_the_block_ends_and_not_before() -> None:
    target = Path("new", "result.json")
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == target.parent.resolve()
        assert not target.exists()
    assert target.read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_failure_leaves_the_old_file_and_nothing_else(error: BaseException) -> None:
    Path("result.json").write_text("old")

    def write_half() -> None:
        with atomic_path(Path("result.json")) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert Path("result.json").read_text() == "old"
    assert names() == ["result.json"]


def test_failure_of_the_rename_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match=r"Cannot write result\.json: Permission denied"):
        write_text(Path("result.json"), "text")
    assert names() == []


def test_data_are_flushed_before_the_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bool]] = []

    def record(descriptor: int) -> None:
        seen.append((os.pread(descriptor, 100, 0), Path("result.json").exists()))

    monkeypatch.setattr(os, "fsync", record)
    write_text(Path("result.json"), "text")
    assert seen == [(b"text", False)]


def test_full_disk_is_a_failure_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DecomposeError, match=r"No space left on the disk while writing result\.json") as failure:
        write_text(Path("result.json"), "text")
    assert failure.value.exit_code == 1
    assert failure.value.hint
    assert names() == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(Path("ours"), "text")
        Path("plain").write_text("text")
        assert os.umask(mask) == mask  # reading the mask must not change it
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("ours").stat().st_mode) == stat.S_IMODE(Path("plain").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        (errno.ENOSPC, 1),
        (errno.EIO, 1),
        (errno.EACCES, 2),
        (errno.ENOTDIR, 2),
        (errno.EISDIR, 2),
        (errno.EROFS, 2),
        (errno.ENAMETOOLONG, 2),
    ],
)
def test_exit_code_of_a_file_that_could_not_be_written(number: int, exit_code: int) -> None:
    error = write_error(Path("a/b.json"), OSError(number, os.strerror(number)))
    assert error.exit_code == exit_code
    assert "a/b.json" in error.message


@pytest.mark.parametrize(
    ("path", "reason"),
    [("file/result.json", "directory|exists"), ("x" * 300, "too long"), ("folder", "directory")],
    ids=["below a file", "long name", "folder"],
)
def test_places_where_no_file_can_be(path: str, reason: str) -> None:
    Path("file").touch()
    Path("folder").mkdir()
    with pytest.raises(DecomposeError, match=f"(?i)cannot write .*({reason})"):
        write_text(Path(path), "text")
    assert names() == ["file", "folder"]
    assert not list(Path("folder").iterdir())


def test_write_with_lets_a_writer_fill_the_file() -> None:
    write_with(Path("result.bin"), lambda path: path.write_bytes(b"\1\2"))
    assert Path("result.bin").read_bytes() == b"\1\2"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_folders_made_for_a_file_that_fails_do_not_stay(error: BaseException) -> None:
    Path("there").mkdir()

    def write_half() -> None:
        with atomic_path(Path("there", "a", "b", "result.json")):
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert names() == ["there"]
    assert not list(Path("there").iterdir())


# --- before the work --------------------------------------------------------------------------------------------------


def test_output_is_checked_before_the_work() -> None:
    Path("there").write_text('{"0": [1]}')
    Path("folder").mkdir()
    with pytest.raises(InputError, match="there exists already") as refusal:
        check_writable(Path("there"), overwrite=False)
    assert "Add overwrite" in (refusal.value.hint or "")
    check_writable(Path("there"), overwrite=True)
    check_writable(Path("new", "deep", "result.json"), overwrite=False)
    assert names() == ["folder", "there"]
    with pytest.raises(InputError, match="it is a folder"):
        check_writable(Path("folder"), overwrite=True)
    with pytest.raises(InputError, match="there is not a folder"):
        check_writable(Path("there", "result.json"), overwrite=False)


def test_folder_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="permission denied"):
        check_folder_writable(Path("new"))


def test_sha256_is_that_of_the_bytes() -> None:
    content = bytes(range(256)) * 9000
    Path("file").write_bytes(content)
    assert sha256_of(Path("file")) == hashlib.sha256(content).hexdigest()


def test_sha256_without_file_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hashlib, "file_digest", raising=False)
    test_sha256_is_that_of_the_bytes()


def test_cache_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("DECOMPOSE_CACHE", "~/mine")
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("DECOMPOSE_CACHE")
    assert cache_root() == Path("/xdg/decompose")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_root() == tmp_path / ".cache" / "decompose"


def test_read_json_reads_json() -> None:
    Path("a.json").write_text('{"0": [1, 2.5, null, true, "ü"]}', encoding="utf-8")
    assert read_json(Path("a.json"), "The file") == {"0": [1, 2.5, None, True, "ü"]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"\xff\xfe\x00", "is not a JSON text file"),
        (b"{", "is not valid JSON"),
        (b"{'a': 1}", "is not valid JSON"),
        (b"[1, 2,]", "is not valid JSON"),
        (b"[1] [2]", "is not valid JSON"),
        (b"[NaN]", "is not valid JSON: NaN is not a JSON number"),
        (b"[-Infinity]", "is not valid JSON: -Infinity is not a JSON number"),
        (b'{"a": 1, "b": 2, "a": 3}', "is not valid JSON: the key 'a' stands twice"),
        (b'[{"x": {"k": 1, "k": 1}}]', "the key 'k' stands twice"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"1" * 5000, "is not valid JSON"),
        ('\ufeff{"a": 1}'.encode(), "is not valid JSON"),
    ],
    ids=lambda value: repr(value)[:25],
)
def test_read_json_refuses_what_is_not_plain_json(content: bytes, sentence: str) -> None:
    Path("a.json").write_bytes(content)
    with pytest.raises(InputError) as refusal:
        read_json(Path("a.json"), "The index file")
    assert refusal.value.message.startswith("The index file a.json ")
    assert sentence in refusal.value.message


def test_read_json_of_a_missing_file_or_a_folder() -> None:
    with pytest.raises(InputError, match=r"The index file a\.json does not exist"):
        read_json(Path("a.json"), "The index file")
    Path("a.json").mkdir()
    with pytest.raises(InputError, match=r"a\.json is a folder"):
        read_json(Path("a.json"), "The index file")
    Path("file").touch()
    with pytest.raises(InputError, match=r"cannot be read"):
        read_json(Path("file", "a.json"), "The index file")


def test_documents_of_any_size_that_memory_holds_are_read_and_foreign_files_have_fewer_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [[0]] * 1_000_001
    Path("a.json").write_text(json.dumps(rows, separators=(",", ":")))
    with pytest.raises(
        InputError, match=r"^The file a\.json has 1,000,002 lists and objects, and no such file has more"
    ):
        read_json(Path("a.json"), "The file")
    assert read_result(Path("a.json")) == rows
    monkeypatch.setattr("decompose_cli.storage.memory._left_on_machine", lambda: 9e7)
    with pytest.raises(InputError, match=r"^Reading a\.json takes 0\.1 GB of memory at least, and 0\.1 GB are left"):
        read_result(Path("a.json"))
