"""The tracked figures of docs/reproduce.md are measured again."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def reference(reference_dir: Path) -> Any:
    """What measures them."""
    spec = importlib.util.spec_from_file_location("reproduce", DOCS / "reproduce.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Reference(reference_dir)


def tracked(name: str) -> list[list[Any]]:
    rows: list[list[Any]] = json.loads((DOCS / "reproduced.json").read_text(encoding="utf-8"))["tables"][name]["rows"]
    return rows


def test_counts(reference: Any) -> None:
    assert reference.counts() == (tracked("counts"), tracked("by class"))


@pytest.mark.parametrize("name", ["indices", "overlap"])
def test_figures_of_index_files(reference: Any, name: str) -> None:
    assert getattr(reference, name)() == tracked(name)


@pytest.mark.slow  # the same is measured through the command line
def test_selectivity(reference: Any) -> None:
    """The last digit depends on the machine."""
    rows = (reference.selectivity(), tracked("selectivity"))
    first, second = ([[what, published, ours[:-1]] for what, published, ours in found] for found in rows)
    assert first == second
