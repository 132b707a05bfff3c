"""What terminals can show: colours, letters, names that look like markup."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command_line import content, files_below, invoke, run, warnings_in

from decompose_cli.cli.app import app, main

ODD_NAMES = ["[bold]<script>", "café", "žába", "[red]", "日本"]


@pytest.fixture
def odd(tmp_path: Path, make_images: Callable[..., Path]) -> list[str]:
    """Arguments for ten classes, some of them with names that terminals and markup trip over."""
    root = make_images(tmp_path / "odd", [*ODD_NAMES, "f", "g", "h", "i", "j"], n=1)
    return ["validate", "resnet20", "-w", "random", "--dataset", f"folder:{root}"]


def test_class_names_are_shown_as_they_are(odd: list[str]) -> None:
    said = run(*odd).stderr
    (warning,) = warnings_in(said)
    below = said[said.index("Correct by class") :]
    for name in ODD_NAMES:
        assert name in warning
        assert name in below
    (file,) = files_below()
    assert set(ODD_NAMES) <= {row["name"] for row in content(file)["results"]["original"]["per_class"]}


def test_class_folder_whose_name_is_no_text_is_refused_or_shown(
    tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    root = make_images(tmp_path / "odd", [chr(ord("a") + number) for number in range(10)], n=1)
    for split in ("train", "test"):
        try:
            (root / split / "a").rename(os.fsdecode(os.fsencode(root / split) + b"/\xff\xfe"))
        except OSError:
            pytest.skip("this file system has no such names")
    result = invoke("validate", "resnet20", "-w", "random", "--dataset", f"folder:{root}")
    assert result.exit_code in (0, 2), result.stderr
    assert "unforeseen" not in result.stderr


@pytest.mark.usefixtures("own_main")
def test_ascii_terminal_gets_escapes_and_valid_json(odd: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out, said = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(said, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["decompose", *odd, "--json"])
    with pytest.raises(SystemExit) as done:
        main()
    sys.stdout.flush()
    sys.stderr.flush()
    assert not done.value.code, said.getvalue()
    assert "caf\\xe9" in said.getvalue().decode("ascii")
    names = [row["name"] for row in json.loads(out.getvalue())["results"]["original"]["per_class"]]
    assert set(ODD_NAMES) <= set(names)


def test_error_to_a_file_has_no_escape_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has anything else: see test_output.py."""
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b" not in run("validate", "resnet21", code=2).output


@pytest.mark.parametrize("no_color", [False, True], ids=["colour", "NO_COLOR"])
def test_no_color_is_honoured_on_a_terminal(no_color: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a pseudo-terminal an error is red, unless NO_COLOR is set."""
    pty = pytest.importorskip("pty")
    monkeypatch.setenv("TERM", "xterm-256color")
    for variable in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(variable, raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    reading, writing = pty.openpty()
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with pytest.raises(SystemExit) as done:
            app(["validate", "-i", "none.json"])
    said = os.read(reading, 10_000).decode()
    os.close(reading)
    assert done.value.code == 2
    assert "none.json does not exist" in said
    assert ("\x1b[1;31m" in said) is not no_color
