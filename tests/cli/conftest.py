"""Results, images and clocks for the command line."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def validation(warm_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of ``validate``, outside any working directory."""
    from decompose_cli.engines.validate import validate
    from decompose_cli.features.inputs import Inputs

    folder = tmp_path_factory.mktemp("validation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DECOMPOSE_CACHE", str(shutil.copytree(warm_cache, folder / "cache")))
        validate(Inputs()).write(folder / "validate.json")
    return folder / "validate.json"


class _StoppedClock(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime(2024, 1, 2, 3, 4, 5, tzinfo=tz)


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> str:
    """It is always the same second; returns how files are named then."""
    monkeypatch.setattr("decompose_cli.storage.result_document.datetime", _StoppedClock)
    return "20240102T030405Z"


@pytest.fixture
def break_tables(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Called with an error, it makes showing any table fail with that; all other lines are shown."""
    from rich.console import Console
    from rich.table import Table

    from decompose_cli.cli import stdout

    shown = Console.print
    kept: list[Any] = []

    def prepare(error: BaseException) -> None:
        def show(self: Console, *values: Any, **how: Any) -> None:
            if any(isinstance(value, Table) for value in values):
                kept.append(stdout.results())  # replaced after a broken pipe; it must not take the runner's with it
                raise error
            shown(self, *values, **how)

        monkeypatch.setattr(Console, "print", show)

    return prepare


@pytest.fixture
def own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point may be called here: what it sets for its process stays as it was."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    monkeypatch.setattr("gc.freeze", lambda: None)
    monkeypatch.setenv("OMP_WAIT_POLICY", os.environ.get("OMP_WAIT_POLICY", "passive"))


@pytest.fixture
def images(make_images: Callable[..., Path]) -> Path:
    """24 training images and 15 for testing."""
    root = make_images(Path("images"), ["a", "b", "c"], ("train",), n=8, side=8)
    return make_images(root, ["a", "b", "c"], ("test",), n=5, side=8)


@pytest.fixture
def told_apart(images: Path) -> None:
    """The training images of a class have a colour in common."""
    for name, colour in zip("abc", ("red", "lime", "blue"), strict=True):
        for path in (images / "train" / name).iterdir():
            Image.blend(Image.open(path), Image.new("RGB", (8, 8), colour), 0.5).save(path)
