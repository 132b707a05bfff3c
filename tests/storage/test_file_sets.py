"""Several files are written all or none, and only those of decompose are replaced."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from helpers.command_line import files_below, names_in

from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.storage.file_sets import check_replaceable, write_files, write_result, written_with
from decompose_cli.storage.result_document import ResultDocument


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


def test_a_function_can_fill_a_file_among_others() -> None:
    write_files({Path("a"): lambda path: path.write_bytes(b"\1"), Path("b"): "2"})
    assert (Path("a").read_bytes(), Path("b").read_text()) == (b"\1", "2")


def test_a_function_that_fails_keeps_all_others_from_being_written() -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("oops")

    Path("a").write_text("old")
    with pytest.raises(ValueError, match="oops"):
        write_files({Path("a"): "new", Path("b"): fail}, [Path("a")])
    assert names() == ["a"]
    assert Path("a").read_text() == "old"


def test_files_that_have_to_go_stay_where_the_others_cannot_be_written() -> None:
    Path("gone").write_text("old")
    Path("folder").mkdir()
    with pytest.raises(DecomposeError, match="Cannot write folder"):
        write_files({Path("a"): "1", Path("folder"): "2"}, [Path("gone")])
    assert names() == ["folder", "gone"]
    write_files({Path("a"): "1"}, [Path("gone"), Path("a"), Path("none")])
    assert names() == ["a", "folder"]


# --- whose they are ---------------------------------------------------------------------------------------------------

DOCUMENT = {"schema_version": 1, "command": "sweep", "results": {}}


def result(files: list[str] | None, results: object = None) -> None:
    content = {**DOCUMENT, "results": results or {}, **({} if files is None else {"files": files})}
    Path("result.json").write_text(json.dumps(content))


def allowed(*targets: str) -> bool:
    said = []
    try:
        check_replaceable(list(map(Path, targets)), Path("result.json"), overwrite=True)
    except InputError as refusal:
        said = [refusal.message]
    assert all("is not listed in a result of decompose in result.json, so it is not overwritten" in one for one in said)
    return not said


def test_only_files_that_a_result_lists_are_replaced() -> None:
    for name in ("curve.png", "mine.png"):
        Path(name).write_text("x")
    assert not allowed("curve.png")
    result(["curve.png"])
    assert allowed("curve.png", "result.json", "new.png")
    assert not allowed("curve.png", "mine.png")
    with pytest.raises(InputError, match=r"curve\.png exists already"):
        check_replaceable([Path("curve.png")], Path("result.json"), overwrite=False)


@pytest.mark.parametrize("text", ["[]", "{", "", '{"files": ["curve.png"]}', '{"schema_version": 1, "command": "x"}'])
def test_what_is_no_result_lists_nothing(text: str) -> None:
    Path("curve.png").write_text("mine")
    Path("result.json").write_text(text)
    assert not allowed("curve.png")
    assert not allowed("result.json")


def test_results_of_earlier_versions_say_inside_what_they_wrote_and_have_the_usual_names() -> None:
    Path("curve.png").write_text("x")
    result(None, {"plot": "out/curve.png", "list": [{"file": "out/01-a.png"}, {"sheet": "elsewhere/sheet.png"}]})
    assert allowed("curve.png", "result.json")
    assert written_with(Path("result.json")) == {Path(n) for n in ("result.json", "curve.png", "01-a.png", "sheet.png")}


def test_a_result_lists_nothing_outside_its_folder() -> None:
    for listed in (["../precious", "/precious", "sub/../../precious"], [3, None, {}]):
        result(listed)  # type: ignore[arg-type]
        assert written_with(Path("result.json")) == {Path("result.json")}


def test_what_the_result_before_lists_goes_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    document = ResultDocument[dict[str, int]](
        command="sweep", arguments={}, environment={}, started_at="", seconds=0, results={}
    )
    for name in ("old.png", "sub/old.png", "mine.png", "sub/mine.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("x")
    result(["old.png", "sub/old.png"])
    write_result(document, Path("result.json"), {Path("new.png"): b"1", Path("more/new.png"): b"2"})
    assert files_below() == ["mine.png", "more/new.png", "new.png", "result.json", "sub/mine.png"]
    assert json.loads(Path("result.json").read_text())["files"] == ["new.png", "more/new.png"]
