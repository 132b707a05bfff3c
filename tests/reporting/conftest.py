"""Pictures are what is tested here."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.pictures import figures
from matplotlib.figure import Figure

__all__ = ["figures"]


@pytest.fixture(autouse=True)
def unpainted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures have all their panels, unlike elsewhere; PNG files are painted only in tests marked ``painted``."""
    if request.node.get_closest_marker("painted") is None:
        save = Figure.savefig

        def savefig(self: Figure, target: Any, *, format: str, **how: Any) -> None:
            if format != "png":
                save(self, target, format=format, **how)

        monkeypatch.setattr(Figure, "savefig", savefig)
