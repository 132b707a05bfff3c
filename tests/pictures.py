"""Looking at pictures: at the figures that become files, and at the pixels of the files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

_SAVE = Figure.savefig


def _one_pixel() -> bytes:
    target = BytesIO()
    Image.new("RGB", (1, 1), "white").save(target, "PNG")
    return target.getvalue()


_ONE_PIXEL = _one_pixel()


def recorded(monkeypatch: Any, *, draw: bool) -> list[Figure]:
    """From now on, figures are collected in this list as they are saved.

    Args:
        monkeypatch: Undoes it.
        draw: Whether they are drawn too. Otherwise the file is a white pixel, for a tenth of the time or less.
    """
    found: list[Figure] = []

    def savefig(self: Figure, target: Any, **how: Any) -> None:
        found.append(self)
        if draw:
            _SAVE(self, target, **how)
        else:
            target.write(_ONE_PIXEL)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return found


def pixels(picture: bytes | Path) -> npt.NDArray[np.uint8]:
    """A whole PNG file, decoded, as uint8 (height, width, 3)."""
    with Image.open(BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        assert image.format == "PNG"
        image.load()
        return np.asarray(image.convert("RGB"))


def colours(picture: npt.NDArray[np.uint8]) -> set[tuple[int, ...]]:
    """All colours of a picture."""
    return {tuple(map(int, colour)) for colour in np.unique(picture.reshape(-1, 3), axis=0)}


def points(line: Any) -> list[tuple[float, float]]:
    """The points of a line."""
    return [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]


def texts(figure: Figure) -> list[str]:
    """All texts in a figure that are shown, mathematics escaped as given to matplotlib."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
