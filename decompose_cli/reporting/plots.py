"""Plots, as the bytes of PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decompose_cli.reporting.look import look, new_figure, plain, png

if TYPE_CHECKING:
    from matplotlib.artist import Artist


@dataclass(frozen=True)
class Curve:
    """Accuracy in percent and its interval for ascending numbers of features; joined by a line, or points."""

    ks: Sequence[int]
    top1: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    is_line: bool = True


def accuracy_curves(title: str, curves: Mapping[str, Curve], full_top1: float) -> bytes:
    """Draw accuracy against the number of features per class, with intervals, and the full head as a line.

    Args:
        title: Shown as it is; dollar signs are no mathematics.
        curves: By name; lines have a band, points have bars.
        full_top1: Accuracy of the full head in percent.

    Returns:
        A PNG file.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5)
    axes = figure.add_subplot()
    handles: list[Artist] = []
    alpha = 0.12 if sum(curve.is_line for curve in curves.values()) <= 2 else 0.06  # many bands are a grey mass
    for number, curve in enumerate(curves.values()):
        colour, marker = look(number).values()
        if curve.is_line:
            handles += axes.plot(curve.ks, curve.top1, color=colour, marker=marker, markersize=3, linewidth=1.5)
            axes.fill_between(curve.ks, curve.low, curve.high, color=colour, alpha=alpha, linewidth=0)
        else:
            errors = [
                [value - low for value, low in zip(curve.top1, curve.low, strict=True)],
                [high - value for value, high in zip(curve.top1, curve.high, strict=True)],
            ]
            point = axes.errorbar(
                curve.ks, curve.top1, yerr=errors, color=colour, marker=marker, markersize=7, linestyle=""
            )
            handles.append(point[0])
    handles.append(axes.axhline(full_top1, color="0.35", linestyle="--", linewidth=1))
    axes.set_xlabel("features per class (k)")
    axes.set_ylabel("top-1 accuracy (%), with 95% interval")
    axes.set_title(plain(title))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.25)
    # Handles and texts side by side: labels of the curves themselves would be left out where they begin with "_".
    axes.legend(handles, [plain(name) for name in (*curves, "full head")], frameon=False)
    return png(figure)
