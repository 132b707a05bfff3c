"""Plots of accuracy, as figures and as the bytes of PNG files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decompose_cli.reporting.style import GREY, MARKED, look, new_figure, plain, png, short
from decompose_cli.reporting.vector import tell_points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LONGEST = 60
_LEVELS = ("--", "-.", ":")
_ROOM = 1.25
_REFITTED = {"linestyle": (0, (3, 1.5)), "markerfacecolor": "white", "markersize": 5, "linewidth": 1.5}


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


def accuracy_curves(
    title: str, curves: Mapping[str, Curve], full_top1: float, refitted: Mapping[str, Curve] | None = None
) -> bytes:
    """Draw accuracy against the number of features per class, with intervals, and the full head as a line.

    Args:
        title: Title, shown as it is; dollar signs are no mathematics.
        curves: Curves by name; lines have a band, points have bars.
        full_top1: Accuracy of the full head in percent.
        refitted: Curves of the same features with weights that were fitted anew, by the same names: dashed lines and
            open points. Numbers of features are then on a logarithmic scale.

    Returns:
        A PNG file.
    """
    return png(accuracy_figure(title, curves, full_top1, refitted=refitted))


def accuracy_figure(
    title: str,
    curves: Mapping[str, Curve],
    full_top1: float | None,
    chosen: int | None = None,
    refitted: Mapping[str, Curve] | None = None,
    levels: Mapping[str, tuple[float, tuple[float, float]]] | None = None,
    floor: Curve | None = None,
) -> Figure:
    """The figure of :func:`accuracy_curves`.

    ``chosen`` is a number of features to mark; ``levels`` are further heads of all features, each with its interval.
    With them too numbers of features are on a logarithmic scale. ``floor`` is the mean and range of random features.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5)
    axes = figure.add_subplot()
    lines = [curve for curve in (*curves.values(), *(refitted or {}).values()) if curve.is_line]
    alpha = 0.12 if len(lines) <= 2 else 0.06  # many bands are a grey mass
    handles = [_draw(axes, name, curve, number, alpha) for number, (name, curve) in enumerate(curves.items())]
    names = list(curves)
    if refitted:
        for number, name in enumerate(curves):
            if name in refitted:
                _draw(axes, f"{name}, refitted", refitted[name], number, alpha, is_refitted=True)
        handles.append(_key(_REFITTED))
        names.append("the same, weights fitted anew")
    if floor is not None:
        axes.fill_between(floor.ks, floor.low, floor.high, color=GREY, alpha=0.2, linewidth=0)
        handles += axes.plot(floor.ks, floor.top1, color=GREY, linewidth=1, linestyle="-.")
        tell_points(axes, floor.ks, floor.top1, [_said("random features", *values) for values in floor.points()])
        names.append("random features: mean and range")
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
    if refitted or levels:
        _space_by_factors(axes, sorted({k for curve in (refitted or curves).values() for k in curve.ks}))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.25)
    # Handles and texts side by side: labels of the curves themselves would be left out where they begin with "_".
    axes.legend(handles, [plain(short(name, _LONGEST)) for name in names], frameon=False)
    return figure


def _draw(axes: Axes, name: str, curve: Curve, number: int, alpha: float, *, is_refitted: bool = False) -> Artist:
    """Draw the n-th curve with its intervals; return what stands for it in the legend."""
    colour, marker = look(number).values()
    style: dict[str, Any] = {"color": colour, "marker": marker, **(_REFITTED if is_refitted else {})}
    if curve.is_line:
        (handle,) = axes.plot(curve.ks, curve.top1, **{"markersize": 3, "linewidth": 1.5, **style})
        axes.fill_between(curve.ks, curve.low, curve.high, color=colour, alpha=alpha, linewidth=0)
    else:
        errors = [
            [value - low for value, low in zip(curve.top1, curve.low, strict=True)],
            [high - value for value, high in zip(curve.top1, curve.high, strict=True)],
        ]
        handle = axes.errorbar(curve.ks, curve.top1, yerr=errors, **{**style, "markersize": 7, "linestyle": ""})[0]
    tell_points(axes, curve.ks, curve.top1, [_said(name, *values) for values in curve.points()])
    return handle


def _key(style: Mapping[str, Any]) -> Artist:
    """What stands in the legend for all curves of a style, whatever their colour."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color="0.35", marker="o", **style)


def _space_by_factors(axes: Axes, ks: Sequence[int]) -> None:
    """Let equal factors of k be equally far apart, and name these k where there is room, the largest first."""
    from matplotlib.ticker import NullLocator

    ticks: list[int] = []
    for k in reversed(ks):
        if not ticks or ticks[-1] >= _ROOM * k:
            ticks.append(k)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _said(name: str, k: int, top1: float, low: float, high: float) -> str:
    return f"{name}, k = {k}: {top1:.2f}% ({low:.2f} to {high:.2f})"
