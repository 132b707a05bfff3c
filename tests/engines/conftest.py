"""What tests of engines share."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure
from pictures import recorded


@pytest.fixture(autouse=True)
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, in their order; none is drawn, and its file is a white pixel."""
    return recorded(monkeypatch, draw=False)


@pytest.fixture
def drawn(figures: Any, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, in their order, and drawn."""
    return recorded(monkeypatch, draw=True)
