"""Digests are remembered, and what cannot be trusted is computed again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from decompose_cli.storage.files import cache_root
from decompose_cli.storage.fingerprints import remembered

RIGHT, WRONG = "a" * 64, "b" * 64


def entry() -> Path:
    (path,) = (cache_root() / "fingerprints").iterdir()
    return path


def fail() -> str:
    raise AssertionError("it was computed again")


def test_what_is_noted_is_not_computed_again(caplog: pytest.LogCaptureFixture) -> None:
    assert remembered(["key"], lambda: RIGHT) == RIGHT
    assert remembered(["key"], fail) == RIGHT
    assert remembered(["other"], lambda: WRONG) == WRONG
    assert caplog.messages == []


def rewritten(change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda path: path.write_text(change(path.read_text()))


def swap(path: Path) -> None:
    """The entry of another key, whole as it is."""
    remembered(["other"], lambda: WRONG)
    (other,) = (found for found in path.parent.iterdir() if found != path)
    other.replace(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def as_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("none")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "another digest": rewritten(lambda text: text.replace("a", "b")),
    "a letter": rewritten(lambda text: "b" + text[1:]),
    "of an earlier version": rewritten(lambda text: text[:64] + "\n"),
    "cut": rewritten(lambda text: text[:70]),
    "empty": rewritten(lambda text: ""),
    "brackets": rewritten(lambda text: "[" * 100_000),
    "no text": lambda path: path.write_bytes(b"\xff" * 81),
    "of another key": swap,
    "folder": as_folder,
    "pipe": as_pipe,
    "link to itself": as_loop,
    "link to nothing": as_nowhere,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_computed_again_with_a_warning(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    remembered(["key"], lambda: RIGHT)
    path = entry()
    DAMAGE[damage](path)
    assert remembered(["key"], lambda: RIGHT) == RIGHT
    (warning,) = caplog.messages
    assert warning.startswith(f"The fingerprint {path} cannot be used (")
    assert warning.endswith(") and is computed again.")
    if damage != "folder":
        assert remembered(["key"], fail) == RIGHT
        assert len(caplog.messages) == 1


def test_an_entry_of_another_user_is_computed_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered(["key"], lambda: RIGHT)
    owner = entry().stat().st_uid
    if owner == 0:
        os.chown(entry(), 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert remembered(["key"], lambda: WRONG) == WRONG
    (warning,) = caplog.messages
    assert "(owned by another user)" in warning


def test_an_entry_that_may_not_be_read_is_computed_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered(["key"], lambda: RIGHT)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert remembered(["key"], lambda: WRONG) == WRONG
    (warning,) = caplog.messages
    assert "Permission denied" in warning
