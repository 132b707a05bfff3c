"""Plots of accuracy, as figures and as the bytes of PNG files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decompose_cli.reporting.style import GREY, MARKED, WIDE, legend_above, look, new_figure, plain, png, short
from decompose_cli.reporting.vector import tell_points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LONGEST = 60
_LEVELS = ("--", "-.", ":")
_ROOM, _ROOM_OF_NARROW, _ROOM_OF_MARKERS = 1.25, 1.6, 1.08
_STEPS = (-90, -50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50)
_LEAST_SHOWN, _NEAR = 1.2, 2.0
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
    """Draw accuracy against the number of features per class, with intervals, as points from that of the full head.

    Numbers of features are on a logarithmic scale, and points on one that is wide near the full head (arsinh).

    Args:
        title: Title, shown as it is; dollar signs are no mathematics.
        curves: Curves by name; lines have a band, points have bars.
        full_top1: Accuracy of the full head in percent.
        refitted: Curves of the same features with weights that were fitted anew, by the same names: dashed lines and
            open points.

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
    width: float = WIDE,
) -> Figure:
    """The figure of :func:`accuracy_curves`.

    ``chosen`` is a number of features to mark; ``levels`` are further heads of all features, each with its interval;
    ``floor`` is the mean and range of random features. Without ``full_top1`` accuracy itself is drawn. ``width`` is in
    inches.
    """
    figure = new_figure(5 if width >= WIDE else 3.6, width)
    axes = figure.add_subplot()
    zero = 0.0 if full_top1 is None else full_top1
    lines = [curve for curve in (*curves.values(), *(refitted or {}).values()) if curve.is_line]
    painter = _Painter(axes, full_top1, 0.12 if len(lines) <= 2 else 0.06)  # many bands are a grey mass
    handles = [painter.draw(name, curve, number) for number, (name, curve) in enumerate(curves.items())]
    names = list(curves)
    if refitted:
        for number, name in enumerate(curves):
            if name in refitted:
                painter.draw(f"{name}, refitted", refitted[name], number, is_refitted=True)
        handles.append(_key(_REFITTED))
        names.append("the same, weights fitted anew")
    if floor is not None:
        handles.append(painter.draw_floor(floor))
        names.append("random features: mean and range")
    if full_top1 is not None:
        handles.append(axes.axhline(0, color="0.35", linestyle="--", linewidth=1))
        names.append(f"full head: {full_top1:.2f}%")
    for (name, (top1, interval)), style in zip((levels or {}).items(), itertools.cycle(_LEVELS)):
        handles.append(axes.axhline(top1 - zero, color="0.35", linestyle=style, linewidth=1.2))
        axes.axhspan(interval[0] - zero, interval[1] - zero, color="0.35", alpha=0.07, linewidth=0)
        names.append(name)
    if chosen is not None:
        axes.axvline(chosen, color=MARKED, linestyle=":", linewidth=1.5)
        axes.annotate(
            f"chosen: k = {chosen}",
            (chosen, 0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, 5),
            textcoords="offset points",
            rotation=90,
            va="bottom",
        )
    axes.set_xlabel("features per class (k)")
    axes.set_title(plain(title))
    known = [*curves.values(), *(refitted or {}).values(), *([floor] if floor is not None else [])]
    _space_by_factors(axes, [k for curve in known for k in curve.ks], _ROOM if width >= WIDE else _ROOM_OF_NARROW)
    if full_top1 is None:
        axes.set_ylabel("top-1 accuracy (%)")
    else:
        axes.set_ylabel("points above or below the full head" if width >= WIDE else "points from the full head")
        _space_drops(axes, full_top1, with_accuracy=width >= WIDE)
    axes.grid(visible=True, alpha=0.25)
    legend_above(figure, handles, [short(name, _LONGEST) for name in names])
    return figure


@dataclass(frozen=True)
class _Painter:
    """Draws curves as accuracy, or as points from that of the full head, where it is known."""

    axes: Axes
    full: float | None
    alpha: float

    def draw(self, name: str, curve: Curve, number: int, *, is_refitted: bool = False) -> Artist:
        """Draw the n-th curve with its intervals; return what stands for it in the legend."""
        colour, marker = look(number).values()
        style: dict[str, Any] = {"color": colour, "marker": marker, **(_REFITTED if is_refitted else {})}
        top1, low, high = self._shifted(curve)
        if curve.is_line:
            marked = _spaced(curve.ks)
            (handle,) = self.axes.plot(curve.ks, top1, markevery=marked, **{"markersize": 4, "linewidth": 1.5, **style})
            self.axes.fill_between(curve.ks, low, high, color=colour, alpha=self.alpha, linewidth=0)
        else:
            errors = [
                [value - end for value, end in zip(top1, low, strict=True)],
                [end - value for value, end in zip(top1, high, strict=True)],
            ]
            handle = self.axes.errorbar(curve.ks, top1, yerr=errors, **{**style, "markersize": 7, "linestyle": ""})[0]
        self._tell(name, curve, top1)
        return handle

    def draw_floor(self, curve: Curve) -> Artist:
        """Draw the mean and range of random features; return what stands for them in the legend."""
        top1, low, high = self._shifted(curve)
        self.axes.fill_between(curve.ks, low, high, color=GREY, alpha=0.2, linewidth=0)
        (handle,) = self.axes.plot(curve.ks, top1, color=GREY, linewidth=1, linestyle="-.")
        self._tell("random features", curve, top1)
        return handle

    def _shifted(self, curve: Curve) -> tuple[list[float], list[float], list[float]]:
        zero = self.full or 0.0
        top1, low, high = ([value - zero for value in values] for values in (curve.top1, curve.low, curve.high))
        return top1, low, high

    def _tell(self, name: str, curve: Curve, places: Sequence[float]) -> None:
        texts = []
        for (k, top1, low, high), place in zip(curve.points(), places, strict=True):
            drop = "" if self.full is None else f"{place:+.2f} points, "
            texts.append(f"{name}, k = {k}: {drop}{top1:.2f}% ({low:.2f} to {high:.2f})")
        tell_points(self.axes, curve.ks, places, texts)


def _key(style: Mapping[str, Any]) -> Artist:
    """What stands in the legend for all curves of a style, whatever their colour."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color="0.35", marker="o", **style)


def _spaced(ks: Sequence[int]) -> list[int]:
    """Places of those k that stand clear of the one before on a scale of factors; more markers hide the line."""
    kept: list[int] = []
    for place, k in enumerate(ks):
        if not kept or k >= _ROOM_OF_MARKERS * ks[kept[-1]]:
            kept.append(place)
    return kept


def _space_by_factors(axes: Axes, ks: Sequence[int], room: float) -> None:
    """Let equal factors of k be equally far apart; name round ones and the last, each ``room`` times the one before."""
    from matplotlib.ticker import NullLocator

    if not ks:
        return
    first, last = min(ks), max(ks)
    round_ones = [step * 10**power for power in range(len(str(last))) for step in (1, 2, 5)]
    ticks = [last]
    for k in sorted({first, *(k for k in round_ones if first < k < last)}, reverse=True):
        if ticks[-1] >= room * k:
            ticks.append(k)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _space_drops(axes: Axes, full_top1: float, *, with_accuracy: bool) -> None:
    """Give the points near the full head the most room, by y = arsinh(points / 2)."""
    from matplotlib.ticker import NullLocator

    axes.set_yscale("asinh", linear_width=_NEAR)
    low, high = axes.get_ylim()
    low, high = min(low, -_LEAST_SHOWN), max(min(high, axes.dataLim.y1 + 0.5), _LEAST_SHOWN)
    ticks = [step for step in _STEPS if low <= step <= high]

    def label(step: int) -> str:
        accuracy = full_top1 + step
        signed = f"{step:+d}" if step else "0"
        return f"{signed} ({accuracy:.1f}%)" if with_accuracy and 0 <= accuracy <= 100 else signed

    axes.set_yticks(ticks, [label(step) for step in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low, high)
