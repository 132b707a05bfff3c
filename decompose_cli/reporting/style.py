"""The look that all plots share, and the bytes of their PNG files."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from decompose_cli.storage.files import as_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Curves can be told apart with any colour vision: by the hues of Okabe & Ito (2008), and by a marker for each.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Colours of curves, in their order; the last, black, is the colour of text too."""
_MARKERS = "os^Dv<>"
MARKED = "#D55E00"
GREY = "0.45"
WIDE, NARROW = 8.0, 3.75
"""Widths of figures in inches: that of all files, and that for a phone, on which texts keep their size."""
_LETTERS, _LETTERS_OF_HANDLE, _LINE = 12.5, 7, 0.21  # of a legend: letters an inch, and inches a line


def look(number: int) -> dict[str, str]:
    """Colour and marker of the n-th curve; the pairs of the first 49 differ."""
    turn, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "marker": _MARKERS[(place + turn) % len(_MARKERS)]}


@cache
def _figures() -> type[Figure]:
    """Figures that notebooks show, whether pyplot was imported or not."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            return png(self)

    return Shown


def new_figure(height: float, width: float = WIDE) -> Figure:
    """An empty figure of this height and width, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _figures()(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_above(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Say above the axes what is drawn, in as many columns as fit, and make the figure taller by that.

    Handles and texts are given side by side: labels of the curves themselves would be left out where they begin with
    an underscore.
    """
    if not handles:
        return
    letters = int(_LETTERS * figure.get_figwidth())
    texts = [textwrap.fill(plain(name), letters - _LETTERS_OF_HANDLE) for name in names]
    longest = max(len(line) for text in texts for line in text.split("\n"))
    columns = min(len(texts), max(1, letters // (longest + _LETTERS_OF_HANDLE)))
    lines = sum(text.count("\n") + 1 for text in texts) / columns
    figure.set_figheight(figure.get_figheight() + _LINE * math.ceil(lines))
    figure.legend(handles, texts, frameon=False, loc="outside upper center", ncols=columns)


def picture_figure(content: bytes) -> Figure:
    """A figure of nothing but a picture, as large as that is.

    Args:
        content: A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    with Image.open(BytesIO(content), formats=["PNG"]) as image:
        picture = image.convert("RGB")
    figure = _figures()(figsize=(picture.width / 150, picture.height / 150), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(picture)
    axes.set_axis_off()
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    return saved(figure, format="png")


def saved(figure: Figure, **how: Any) -> bytes:
    """The figure as a file; ``how`` are arguments of ``savefig``."""
    from matplotlib.text import Text

    target = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # letters that the font lacks are drawn as boxes
        for text in figure.findobj(Text):  # a path that is no UTF-8 cannot be drawn
            if not (words := text.get_text()).isascii():
                text.set_text(as_bytes(words).decode())
        figure.savefig(target, **how)
    return target.getvalue()


def short(name: str, longest: int) -> str:
    """A name of at most ``longest`` letters; a longer one is cut with an ellipsis."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def plain(text: str) -> str:
    """Text in which dollar signs are themselves and begin no mathematics."""
    return text.replace("$", r"\$")
