"""Looking at pictures: at the figures that become files, and at the pixels of the files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.figure import Figure
from PIL import Image

Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def figures(unpainted: None, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that become files, in their order."""
    found: list[Figure] = []
    save = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **how: Any) -> None:
        found.append(self)
        save(self, *arguments, **how)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return found


def pixels(picture: bytes | str | Path) -> Pixels:
    """A PNG file that can be decoded to its end, as (height, width, 3)."""
    with Image.open(BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        assert image.format == "PNG"
        image.load()
        return np.asarray(image.convert("RGB"))


def colours_of(picture: Pixels) -> set[tuple[int, ...]]:
    """The colours that there are."""
    found = Image.fromarray(np.ascontiguousarray(picture)).getcolors(picture.shape[0] * picture.shape[1])
    assert found is not None
    return {colour for _, colour in found}  # type: ignore[misc]


def changed(first: Pixels, second: Pixels, by: int = 1) -> tuple[int, int, int, int]:
    """The smallest box that holds all pixels in which two pictures differ: top, bottom, left, right; not empty.

    Args:
        first: A picture.
        second: Another of the same size.
        by: So much at least, of 255; lines whose points are on a line are smoothed otherwise than those that bend.
    """
    assert first.shape == second.shape
    rows, columns = np.nonzero((np.abs(first.astype(int) - second) >= by).any(2))
    assert len(rows), "the pictures are the same"
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def box_of(axes: Any) -> tuple[int, int, int, int]:
    """Where axes are in the painted picture: top, bottom, left, right."""
    height = axes.figure.get_figure(root=True).bbox.height
    box = axes.get_window_extent()
    return round(height - box.y1), round(height - box.y0), round(box.x0), round(box.x1)


def points(line: Any) -> list[tuple[float, float]]:
    """Through which a line leads."""
    return [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]


def legend_of(axes: Any) -> dict[str, Any]:
    """What each entry of the legend, in the axes or above, stands for: the artist in it, by the text beside it."""
    legend = axes.get_legend() or axes.figure.legends[0]
    texts = [text.get_text() for text in legend.get_texts()]
    return dict(zip(texts, legend.legend_handles, strict=True))
