"""Files are put in place together, whatever breaks off in between, and nothing else is touched."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import files_below, names_in
from helpers.power_cut import cut_before

from decompose_cli.errors import InputError
from decompose_cli.storage.file_sets import write_files
from decompose_cli.storage.files import check_writable, write_text
from decompose_cli.storage.journal import settle
from decompose_cli.storage.leftovers import JOURNAL, sweep
from decompose_cli.storage.text_files import read_json

OLD = {"a": "old a", "sub/b": "old b", "gone": "old", "kept/gone": "old", "notes": "mine"}
NEW = {"a": "new a", "sub/b": "new b", "sub/c": "new c", "fresh/d": "new d", "notes": "mine"}
TARGETS = {Path("out", name): text for name, text in NEW.items() if name != "notes"}
GONE = [Path("out/gone"), Path("out/kept/gone"), Path("out/never there")]


def fill() -> None:
    shutil.rmtree("out", ignore_errors=True)
    for name, text in OLD.items():
        Path("out", name).parent.mkdir(parents=True, exist_ok=True)
        Path("out", name).write_text(text)


def contents() -> dict[str, str]:
    """What a person sees in the folder."""
    names = [name for name in files_below("out") if not Path(name).name.startswith(".decompose")]
    return {name: Path("out", name).read_text() for name in names}


def swept() -> dict[str, str]:
    """All that is in the folder once it has been settled, and its temporary files have been removed."""
    settle(Path("out"))
    for folder in ("out", "out/sub", "out/fresh", "out/kept"):
        sweep(Path(folder), alone=True)
    return {name: Path("out", name).read_text() for name in files_below("out")}


def no_hard_links(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    patch.setattr(Path, "hardlink_to", refuse)


def with_hard_links(patch: pytest.MonkeyPatch) -> None:
    pass


def broken_off(number: int) -> list[str]:
    fill()
    with cut_before(number) as made:
        write_files(TARGETS, GONE)
    return made


@pytest.mark.parametrize("file_system", [with_hard_links, no_hard_links])
def test_after_a_cut_anywhere_all_files_are_the_old_or_all_the_new(
    file_system: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    file_system(monkeypatch)
    ends = []
    for number in range(1, 100):
        made = broken_off(number)
        found = swept()
        assert found in (OLD, NEW), (number, made)
        ends.append(found == NEW)
        if "cut" not in made:
            break
    assert ends == sorted(ends), "from some moment on it is the new files"
    assert len(ends) > 15
    assert ends.count(True) > 5


def test_settling_that_is_cut_itself_is_settled_by_the_next() -> None:
    for first in range(6, 27, 5):
        for second in range(1, 20, 3):
            broken_off(first)
            with cut_before(second):
                settle(Path("out"))
            assert swept() in (OLD, NEW), (first, second)


def half_done() -> None:
    """The first of the files has got its place."""
    for number in range(1, 100):
        made = broken_off(number)
        if made[-2:-1] == ["replace a"]:
            return
    raise AssertionError


@pytest.mark.parametrize(
    "touch",
    [
        lambda: read_json(Path("out/notes.json"), "The file"),
        lambda: read_json(Path("out/sub/x.json"), "The file"),
        lambda: check_writable(Path("out/x.json"), overwrite=False),
        lambda: write_files({Path("out/x"): "1", Path("out/y"): "2"}),
    ],
    ids=["reading", "reading below", "checking", "writing"],
)
def test_whoever_comes_next_settles(touch: Callable[[], object]) -> None:
    half_done()
    assert contents() not in (OLD, NEW)
    with suppress(InputError):  # what is read is not there
        touch()
    assert {name: text for name, text in contents().items() if name in (*OLD, *NEW)} == OLD
    assert not list(Path("out").rglob(JOURNAL))
    assert "fresh" not in names_in("out"), "folders made for it go too"


def test_an_update_that_was_undone_keeps_what_somebody_has_put_there_since() -> None:
    half_done()
    Path("out/a").unlink()
    Path("out/a").write_text("edited by hand")
    Path("out/sub/c").write_text("a file of the user's")
    settle(Path("out"))
    assert contents() == {**OLD, "a": "edited by hand", "sub/c": "a file of the user's"}


def test_leftovers_of_an_update_are_not_swept_before_it_is_settled() -> None:
    half_done()
    before = files_below("out")
    sweep(Path("out"), alone=True)
    sweep(Path("out/sub"), alone=True)
    assert files_below("out") == before


HOLDER = (
    "from filelock import FileLock; lock = FileLock('out/.decompose-lock'); lock.acquire(); "
    "print('locked', flush=True); import sys; sys.stdin.read()"
)


def test_an_update_that_a_process_is_at_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decompose_cli.storage.journal._PATIENCE_S", 0.05)
    half_done()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "locked\n"
        before = contents()
        settle(Path("out"))
        assert contents() == before
        with pytest.raises(InputError, match="Another process is writing into out"):
            write_files(TARGETS)
        process.stdin.close()
    settle(Path("out"))
    assert contents() == OLD


@pytest.mark.parametrize(
    "change",
    [
        lambda journal: {**journal, "placed": [{**journal["placed"][0], "target": "../precious"}]},
        lambda journal: {**journal, "placed": [{**journal["placed"][0], "target": "/precious"}]},
        lambda journal: {**journal, "placed": [{**journal["placed"][0], "old": "precious"}]},
        lambda journal: {**journal, "placed": [{**journal["placed"][0], "old": "../.decompose-x.old"}]},
        lambda journal: {**journal, "removed": [{"target": "../precious", "stamp": [1, 2, 3]}]},
        lambda journal: {**journal, "format": 2},
        lambda journal: {**journal, "more": []} | {"placed": [{"target": "a"}]},
        lambda journal: [],
        lambda journal: None,
    ],
)
def test_a_journal_that_is_damaged_or_names_other_places_moves_nothing(change: Callable[[Any], Any]) -> None:
    half_done()
    journal = Path("out", JOURNAL)
    journal.write_text(json.dumps(change(json.loads(journal.read_text()))))
    Path("precious").write_text("mine")
    before = contents()
    settle(Path("out"))
    assert contents() == before
    with pytest.raises(InputError, match=r"An update of out was broken off, and its \.decompose-journal is damaged"):
        write_files(TARGETS)
    assert Path("precious").read_text() == "mine"


def test_a_journal_of_another_user_is_not_acted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    half_done()
    before = contents()
    monkeypatch.setattr(os, "geteuid", lambda: Path("out").stat().st_uid + 1)
    settle(Path("out"))
    assert contents() == before
    with pytest.raises(InputError, match="Another user's update of out was broken off") as refusal:
        write_files(TARGETS)
    assert JOURNAL in (refusal.value.hint or "")


def test_names_that_are_no_text_are_settled_too() -> None:
    odd = os.fsdecode(b"caf\xe9")
    Path("out").mkdir()
    Path("out", odd).write_text("old")
    number = 1
    while True:
        with cut_before(number) as made:
            write_files({Path("out", odd): "new", Path("out/z"): "new"})
        if made[-2:-1] == [f"replace {odd}"]:
            break
        number += 1
    settle(Path("out"))
    assert {path.name: path.read_text() for path in Path("out").iterdir() if path.name[0] != "."} == {odd: "old"}


def test_the_working_directory_itself_can_be_the_folder() -> None:
    write_files({Path("a"): "1", Path("sub/b"): "2"})
    write_text(Path("gone"), "x")
    write_files({Path("a"): "3", Path("sub/b"): "4"}, [Path("gone")])
    assert files_below() == ["a", "sub/b"]
    assert Path("sub/b").read_text() == "4"


def test_a_link_is_replaced_and_comes_back_and_what_it_points_to_stays() -> None:
    Path("elsewhere").write_text("precious")
    Path("link").symlink_to("elsewhere")
    number, ends = 1, set()
    while True:
        with cut_before(number) as made:
            write_files({Path("link"): "new", Path("z"): "new"})
        settle(Path())
        ends.add((Path("link").is_symlink(), Path("link").read_text()))
        assert Path("elsewhere").read_text() == "precious"
        if "cut" not in made:
            break
        Path("link").unlink()
        Path("link").symlink_to("elsewhere")
        number += 1
    assert ends == {(True, "precious"), (False, "new")}
