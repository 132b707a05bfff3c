"""Figures of the results of studies: intervals, essentiality, selectivity, soft gates."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decompose_cli.reporting.style import GREY, WIDE, legend_above, look, new_figure, plain, short
from decompose_cli.reporting.vector import tell, tell_points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Interval = tuple[float, float] | None
_ROW, _LINE = 0.14, 0.17
_WIDEST_NAME = 44
_MOST_LETTERS = 48
"""Most letters of ticks side by side; with more there are none."""
_INCHES_OF_TICK = 0.22
_LONGEST_TICK = 24
_LETTERS_OF_NARROW = 38
_MOST_INCHES = 60.0
_OWN: dict[str, Any] = {"marker": "o", "markersize": 6}
_OTHERS: dict[str, Any] = {"marker": "o", "markersize": 6, "markerfacecolor": "white"}


def interval_figure(label: str, rows: Sequence[tuple[str, float, Interval]], width: float = WIDE) -> Figure:
    """Draw values with their intervals, one below the other.

    Args:
        label: What the values are, with the unit.
        rows: Name, value and 95% interval of each row; the first is at the top.
        width: Of the figure, in inches; in a narrow one names stand above the intervals and not beside them.
    """
    is_narrow = width < WIDE
    letters = _LETTERS_OF_NARROW if is_narrow else _WIDEST_NAME
    names = ["\n".join(textwrap.wrap(plain(short(name, 3 * _WIDEST_NAME)), letters)) for name, _, _ in rows]
    lines = max((name.count("\n") + 1 for name in names), default=1)
    figure = new_figure(1.1 + (_ROW + _LINE * (lines + is_narrow)) * len(rows), width)
    axes = figure.add_subplot()
    colour = look(0)["color"]
    for place, (_, value, interval) in enumerate(rows):
        if interval is not None:
            axes.plot(interval, (place, place), color=colour, linewidth=1.5)
        axes.plot([value], [place], color=colour, marker="o", markersize=5)
    tell_points(
        axes,
        [value for _, value, _ in rows],
        list(range(len(rows))),
        [f"{name}: {value:.2f}{_between(interval)}" for name, value, interval in rows],
    )
    axes.set_ylim(len(rows) - (0.7 if is_narrow else 0.5), -0.9 if is_narrow else -0.5)
    if is_narrow:
        axes.set_yticks([])
        for place, name in enumerate(names):
            axes.text(0.01, place - 0.18, name, transform=axes.get_yaxis_transform(), va="bottom")
    else:
        axes.set_yticks(range(len(rows)), names)
    axes.set_xlabel("\n".join(textwrap.wrap(plain(label), letters)) if is_narrow else plain(label))
    axes.grid(visible=True, axis="x", alpha=0.25)
    return figure


def _between(interval: Interval) -> str:
    return "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"


@dataclass(frozen=True)
class NoiseMarks:
    """What noise does to the images of a class, by where it is put.

    Attributes:
        own: Percentage of the images that stay with the class under noise on its own features.
        others: The same under noise on all other features.
        points: Their difference, the essentiality, in percentage points.
        interval: Its 95% interval.
        mean: Mean essentiality of random feature sets of the same size.
        span: Smallest and largest essentiality of such sets.
    """

    own: float
    others: float
    points: float
    interval: Interval = None
    mean: float | None = None
    span: Interval = None


def essentiality_figure(
    names: Sequence[str], methods: Mapping[str, Sequence[NoiseMarks | None]], width: float = WIDE
) -> Figure:
    """Draw what noise on a class's own features does beside what noise on all others does, and the difference.

    The difference stands beside that of random feature sets: their range as a band, their mean as a mark.

    Args:
        names: Names of the classes; the first is at the top.
        methods: Marks by name of the method, for each class; None for a class without images.
        width: Of the figure, in inches; in a narrow one the panels stand one below the other.
    """
    is_narrow = width < WIDE
    count = max(1, len(names) * len(methods))
    rows = min(_MOST_INCHES, 0.26 * count)
    figure = new_figure(2 * (rows + 0.8) if is_narrow else rows + 0.8, width)
    kept = figure.add_subplot(2 if is_narrow else 1, 1 if is_narrow else 2, 1)
    difference = figure.add_subplot(2 if is_narrow else 1, 1 if is_narrow else 2, 2)
    difference.use_sticky_edges = False  # which would cut the bars of random sets at the frame
    step = 0.8 / max(1, len(methods))
    has_random = False
    for number, (method, values) in enumerate(methods.items()):
        colour = look(number)["color"]
        for place, marks in enumerate(values):
            if marks is None:
                continue
            y = place + (number - (len(methods) - 1) / 2) * step
            who = f"{method}, {names[place]}"
            _draw_kept(kept, marks, y, colour, who)
            _draw_difference(difference, marks, y, step, colour, who)
            has_random = has_random or marks.mean is not None
    ticks = [plain(short(name, _LONGEST_TICK // (2 if is_narrow else 1))) for name in names]
    for axes, label in ((kept, "images that stay with their class (%)"), (difference, "difference (points)")):
        axes.set_yticks(range(len(names)), ticks if axes is kept or is_narrow else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.grid(visible=True, axis="x", alpha=0.25)
    difference.axvline(0, color=GREY, linewidth=1)
    drawn = [method for method, values in methods.items() if any(marks is not None for marks in values)]
    legend_above(figure, *_noise_key(drawn, list(methods), has_random=has_random))
    return figure


def _draw_kept(axes: Axes, marks: NoiseMarks, y: float, colour: str, who: str) -> None:
    axes.plot((marks.own, marks.others), (y, y), color=colour, linewidth=1.5)
    axes.plot([marks.own], [y], color=colour, **_OWN)
    axes.plot([marks.others], [y], color=colour, **_OTHERS)
    said = [f"{who}: {marks.own:.1f}% stay under noise on its own features"]
    said.append(f"{who}: {marks.others:.1f}% stay under noise on all others")
    tell_points(axes, [marks.own, marks.others], [y, y], said)


def _draw_difference(axes: Axes, marks: NoiseMarks, y: float, step: float, colour: str, who: str) -> None:
    random = "" if marks.mean is None else f"random sets {marks.mean:+.2f}{_between(marks.span)}"
    if marks.span is not None:
        low, high = marks.span
        (bar,) = axes.barh(y, high - low, step * 0.7, low, color=GREY, alpha=0.3)
        tell(bar, f"{who}: {random}")
    if marks.mean is not None:
        axes.plot((marks.mean, marks.mean), (y - step * 0.35, y + step * 0.35), color=GREY, linewidth=2)
    if marks.interval is not None:
        axes.plot(marks.interval, (y, y), color=colour, linewidth=1.5)
    axes.plot([marks.points], [y], color=colour, marker="D", markersize=5)
    text = f"{who}: {marks.points:+.2f} points{_between(marks.interval)}"
    tell_points(axes, [marks.points], [y], [f"{text}; {random}" if random else text])


def _noise_key(drawn: Sequence[str], methods: Sequence[str], *, has_random: bool) -> tuple[list[Artist], list[str]]:
    """What stands in the legend: the marks, and the colours where there are several methods."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = []
    texts: list[str] = []
    if len(drawn) > 1:
        handles += [Patch(color=look(methods.index(method))["color"]) for method in drawn]
        texts += [short(method, _LONGEST_TICK) for method in drawn]
    colour = "0.35" if len(drawn) > 1 or not drawn else look(methods.index(drawn[0]))["color"]
    handles += [Line2D([], [], color=colour, linestyle="", **how) for how in (_OWN, _OTHERS)]
    texts += ["noise on its own features", "noise on all others"]
    handles.append(Line2D([], [], color=colour, marker="D", markersize=5))
    texts.append("difference, with 95% interval")
    if has_random:
        handles.append(Patch(color=GREY, alpha=0.3))
        texts.append("random sets of the same size")
    return handles, texts


def layers_figure(
    label: str, layers: Sequence[str], curves: Mapping[str, Sequence[float | None]], width: float = WIDE
) -> Figure:
    """Draw one value per layer, in the order of the network.

    Args:
        label: What the values are.
        layers: Names of the layers.
        curves: Values by name of the curve, one for each layer; None where there is none.
        width: Of the figure, in inches.
    """
    figure = new_figure(4, width)
    axes = figure.add_subplot()
    handles: list[Artist] = []
    for number, (name, values) in enumerate(curves.items()):
        points = [(place, value) for place, value in enumerate(values) if value is not None]
        x, y = [place for place, _ in points], [value for _, value in points]
        colour, marker = look(number).values()
        handles += axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.5)
        tell_points(axes, x, y, [f"{name}, {layers[place]}: {value:.4f}" for place, value in points])
    step = math.ceil(len(layers) * _INCHES_OF_TICK / width)  # a name for each would be a grey mass
    shown = range(0, len(layers), step) if layers else range(0)
    ticks = [plain(short(layers[place], _LONGEST_TICK)) for place in shown]
    axes.set_xticks(shown, ticks, rotation=45, ha="right")
    axes.set_ylabel(plain(label))
    axes.grid(visible=True, alpha=0.25)
    legend_above(figure, handles, [short(name, 2 * _LONGEST_TICK) for name in curves])
    return figure


def reliability_figure(curves: Mapping[str, Sequence[tuple[float, float, int]]], width: float = WIDE) -> Figure:
    """Draw how often heads are right against how sure they are.

    Args:
        curves: For each head and bin of images: mean confidence, share that is right, number of images.
        width: Of the figure, in inches.
    """
    figure = new_figure(5 if width >= WIDE else 3.4, width)
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color=GREY, linewidth=1, linestyle="--")
    handles: list[Artist] = []
    for number, (name, bins) in enumerate(curves.items()):
        colour, marker = look(number).values()
        x, y = [confidence for confidence, _, _ in bins], [right for _, right, _ in bins]
        handles += axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.5)
        said = [f"{name}: {images} images, {100 * a:.1f}% sure, {100 * b:.1f}% right" for a, b, images in bins]
        tell_points(axes, x, y, said)
    axes.set_xlabel("confidence" if width < WIDE else "confidence (softmax probability of the prediction)")
    axes.set_ylabel("share of images that is right")
    axes.grid(visible=True, alpha=0.25)
    legend_above(figure, handles, [short(name, 2 * _LONGEST_TICK) for name in curves])
    return figure


def matrix_figure(label: str, names: Sequence[str], panels: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draw matrices of classes by classes side by side, in shades between 0 and 1.

    Args:
        label: What the values are.
        names: Names of the classes.
        panels: Matrices (C, C) by their title.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(1 + rows * 8 / columns)
    image = None
    for number, (title, matrix) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        image = axes.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
        axes.set_title(plain(short(title, 2 * _LONGEST_TICK)))
        if len(names) <= _MOST_LETTERS:
            ticks = [plain(short(name, _LONGEST_TICK)) for name in names]
            axes.set_xticks(range(len(names)), ticks, rotation=90, fontsize=7)
            axes.set_yticks(range(len(names)), ticks, fontsize=7)
    if image is not None:
        figure.colorbar(image, ax=figure.axes, label=plain(label), shrink=0.8)
    return figure


def gate_histogram(name: str, counts: Mapping[str, Sequence[int]], width: float = WIDE) -> Figure:
    """Draw how g is distributed, in percent of the images, by split.

    Args:
        name: Name of the gate.
        counts: Numbers of images by split, in bins of equal width from 0 to 1.
        width: Of the figure, in inches.
    """
    figure = new_figure(3.6 if width >= WIDE else 3, width)
    axes = figure.add_subplot()
    handles: list[Artist] = []
    for number, (what, bins) in enumerate(counts.items()):
        total = max(1, sum(bins))
        edges = [place / len(bins) for place in range(len(bins) + 1)]
        share = [100 * count / total for count in bins]
        colour = look(number)["color"]
        handles.append(axes.stairs(share, edges, color=colour, linewidth=1.8))
        axes.stairs(share, edges, color=colour, alpha=0.18, fill=True)
        middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
        texts = [
            f"{what}, g {low:.2f} to {high:.2f}: {count:,} ({percent:.1f}%)"
            for low, high, count, percent in zip(edges, edges[1:], bins, share, strict=False)
        ]
        tell_points(axes, middles, share, texts)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(plain(f"g of {name}"))
    axes.set_ylabel("% of these")
    axes.grid(visible=True, alpha=0.25)
    legend_above(figure, handles, list(counts))
    return figure
