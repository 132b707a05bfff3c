"""How all plots look, and how they become the bytes of PNG files."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart with any colour vision: hues of Okabe & Ito (2008), and a marker for each.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Of curves, in their order; the last, black, is what text has too."""
_MARKERS = "os^Dv<>"
MARKED = "#D55E00"
GREY = "0.45"


def look(number: int) -> dict[str, str]:
    """Colour and marker of the n-th curve."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}


def new_figure(height: float) -> Figure:
    """An empty figure of the width that all plots have; in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    return saved(figure, format="png")


def saved(figure: Figure, **how: Any) -> bytes:
    """The figure as a file; ``how`` is told to ``savefig``."""
    target = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # letters that the font lacks are drawn as boxes
        figure.savefig(target, **how)
    return target.getvalue()


def short(name: str, longest: int) -> str:
    """A name that fits, cut with an ellipsis."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def plain(text: str) -> str:
    """Without mathematics: dollar signs are themselves."""
    return text.replace("$", r"\$")
