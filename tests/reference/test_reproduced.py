"""The tracked figures of docs/reproduce.md are measured again."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def measured(reference_dir: Path) -> dict[str, list[list[object]]]:
    """Every table but those whose last digit depends on the machine."""
    spec = importlib.util.spec_from_file_location("reproduce", DOCS / "reproduce.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reference = module.Reference(reference_dir)
    counts, by_class = reference.counts()
    return {
        "counts": counts,
        "by class": by_class,
        "indices": reference.indices(),
        "overlap": reference.overlap(),
        "selectivity": [[name, published, ours[:-1]] for name, published, ours in reference.selectivity()],
    }


@pytest.mark.parametrize("name", ["counts", "by class", "indices", "overlap", "selectivity"])
def test_tracked_figures_are_measured_again(measured: dict[str, list[list[object]]], name: str) -> None:
    tracked = json.loads((DOCS / "reproduced.json").read_text(encoding="utf-8"))["tables"][name]["rows"]
    if name == "selectivity":
        tracked = [[what, published, ours[:-1]] for what, published, ours in tracked]
    assert measured[name] == tracked
