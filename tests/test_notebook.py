"""The notebook shows what the program gives."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("nbclient")

DOCS = Path(__file__).parents[1] / "docs"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def notebooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook_of_docs", DOCS / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_alike(found: str, expected: str) -> None:
    """The same words, and numbers that differ by rounding at most: processors round otherwise."""
    assert NUMBER.split(found) == NUMBER.split(expected)
    pairs = zip(NUMBER.findall(found), NUMBER.findall(expected), strict=True)
    for one, other in pairs:
        assert float(one) == pytest.approx(float(other), rel=0.02, abs=0.02)


def test_every_output_is_real() -> None:
    module = notebooks()
    kept = module.said(module.nbformat.read(module.NOTEBOOK, as_version=4))
    fresh = module.said(module.executed(Path.cwd()))
    assert len(kept) == len(fresh) >= 10
    for found, expected in zip(fresh, kept, strict=True):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    assert sum(text == "picture" for texts in kept for text in texts) == 4
    assert not list(Path().iterdir())


def test_it_names_no_machine_and_stays_small() -> None:
    content = notebooks().NOTEBOOK.read_text(encoding="utf-8")
    assert len(content) < 500_000
    assert "/home/" not in content
    assert "/root/" not in content
    assert "/work/" not in content
