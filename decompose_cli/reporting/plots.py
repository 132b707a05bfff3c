"""Plots as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from decompose_cli.files import write_with

# Told apart with any colour vision: hues of Okabe & Ito (2008), and a marker for each.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MARKERS = "os^Dv<>"


@dataclass(frozen=True)
class Curve:
    """Accuracy in percent and its interval for ascending numbers of features."""

    ks: Sequence[int]
    top1: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def accuracy_curves(path: Path, title: str, curves: Mapping[str, Curve], full_top1: float) -> None:
    """Draw accuracy against the number of features per class, with intervals, and the full head as a line.

    Args:
        path: The PNG file.
        title: Shown as it is; dollar signs are no mathematics.
        curves: By name; one with a single point is drawn as a point.
        full_top1: Accuracy of the full head in percent.

    Raises:
        DecomposeError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, curve) in enumerate(curves.items()):
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        label = name.replace("$", r"\$")
        is_line = len(curve.ks) > 3
        if is_line:
            axes.plot(curve.ks, curve.top1, color=colour, marker=marker, markersize=3, linewidth=1.5, label=label)
            axes.fill_between(curve.ks, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)
        else:
            errors = [
                [value - low for value, low in zip(curve.top1, curve.low, strict=True)],
                [high - value for value, high in zip(curve.top1, curve.high, strict=True)],
            ]
            axes.errorbar(
                curve.ks, curve.top1, yerr=errors, color=colour, marker=marker, markersize=7, linestyle="", label=label
            )
    axes.axhline(full_top1, color="0.35", linestyle="--", linewidth=1, label="full head")
    axes.set_xlabel("features per class (k)")
    axes.set_ylabel("top-1 accuracy (%), with 95% interval")
    axes.set_title(title.replace("$", r"\$"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False)
    write_with(path, lambda temporary: figure.savefig(temporary, format="png"))
