"""Plots of accuracy, as figures and as the bytes of PNG files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decompose_cli.reporting.style import MARKED, look, new_figure, plain, png, short
from decompose_cli.reporting.vector import tell_points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure


_LONGEST = 60
_LEVELS = ("--", "-.", ":")


@dataclass(frozen=True)
class Curve:
    """Accuracy in percent and its interval for ascending numbers of features, drawn as a line or as points."""

    ks: Sequence[int]
    top1: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    is_line: bool = True

    def points(self) -> Iterator[tuple[int, float, float, float]]:
        """Each number of features, its accuracy and the ends of the interval."""
        return zip(self.ks, self.top1, self.low, self.high, strict=True)


def accuracy_curves(title: str, curves: Mapping[str, Curve], full_top1: float) -> bytes:
    """Draw accuracy against the number of features per class, with intervals, and the full head as a line.

    Args:
        title: Title, shown as it is; dollar signs are no mathematics.
        curves: Curves by name; lines have a band, points have bars.
        full_top1: Accuracy of the full head in percent.

    Returns:
        A PNG file.
    """
    return png(accuracy_figure(title, curves, full_top1))


def accuracy_figure(
    title: str,
    curves: Mapping[str, Curve],
    full_top1: float | None,
    chosen: int | None = None,
    levels: Mapping[str, tuple[float, tuple[float, float]]] | None = None,
) -> Figure:
    """The figure of :func:`accuracy_curves`.

    ``chosen`` is a number of features to mark; ``levels`` are further heads of all features, each with its interval.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5)
    axes = figure.add_subplot()
    handles: list[Artist] = []
    alpha = 0.12 if sum(curve.is_line for curve in curves.values()) <= 2 else 0.06  # many bands are a grey mass
    for number, (name, curve) in enumerate(curves.items()):
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
        tell_points(axes, curve.ks, curve.top1, [_said(name, *values) for values in curve.points()])
    names = list(curves)
    if full_top1 is not None:
        handles.append(axes.axhline(full_top1, color="0.35", linestyle="--", linewidth=1))
        names.append("full head")
    for (name, (top1, interval)), style in zip((levels or {}).items(), itertools.cycle(_LEVELS)):
        handles.append(axes.axhline(top1, color="0.35", linestyle=style, linewidth=1.2))
        axes.axhspan(*interval, color="0.35", alpha=0.07, linewidth=0)
        names.append(name)
    if chosen is not None:
        handles.append(axes.axvline(chosen, color=MARKED, linestyle=":", linewidth=1.5))
        names.append(f"chosen: k = {chosen}")
    axes.set_xlabel("features per class (k)")
    axes.set_ylabel("top-1 accuracy (%), with 95% interval")
    axes.set_title(plain(title))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.25)
    # Handles and texts side by side: labels of the curves themselves would be left out where they begin with "_".
    axes.legend(handles, [plain(short(name, _LONGEST)) for name in names], frameon=False)
    return figure


def _said(name: str, k: int, top1: float, low: float, high: float) -> str:
    return f"{name}, k = {k}: {top1:.2f}% ({low:.2f} to {high:.2f})"
