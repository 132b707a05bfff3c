"""Figures of the results of studies: intervals, essentiality, selectivity, soft gates."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from decompose_cli.reporting.style import GREY, look, new_figure, plain, short
from decompose_cli.reporting.vector import tell, tell_points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

Interval = tuple[float, float] | None
_ROW, _LINE = 0.14, 0.17
_WIDEST_NAME = 44
_MOST_LETTERS = 48
"""Most letters of ticks side by side; longer ones are turned."""
_LONGEST_TICK = 24


def interval_figure(label: str, rows: Sequence[tuple[str, float, Interval]]) -> Figure:
    """Draw values with their intervals, one below the other.

    Args:
        label: What the values are, with the unit.
        rows: Name, value and 95% interval of each row; the first is at the top.
    """
    names = ["\n".join(textwrap.wrap(plain(short(name, 3 * _WIDEST_NAME)), _WIDEST_NAME)) for name, _, _ in rows]
    lines = max((name.count("\n") + 1 for name in names), default=1)
    figure = new_figure(1.1 + (_ROW + _LINE * lines) * len(rows))
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
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(plain(label))
    axes.grid(visible=True, axis="x", alpha=0.25)
    return figure


def _between(interval: Interval) -> str:
    return "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"


def essentiality_figure(
    names: Sequence[str], methods: Mapping[str, Sequence[tuple[float, Interval, float | None] | None]]
) -> Figure:
    """Draw essentiality by class as bars with intervals, and that of random feature sets as marks.

    Args:
        names: Names of the classes.
        methods: Results by name of the method, for each class: essentiality in percentage points, its 95% interval,
            mean of the random sets; None for a class without images.
    """
    figure = new_figure(4.2)
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(methods))
    handles: dict[str, Artist] = {}
    control: list[Artist] = []
    for number, (method, values) in enumerate(methods.items()):
        colour = look(number)["color"]
        for place, value in enumerate(values):
            if value is None:
                continue
            points, interval, mean = value
            x = place + (number - (len(methods) - 1) / 2) * width
            (bar,) = axes.bar(x, points, width * 0.92, color=colour)
            text = f"{method}, {names[place]}: {points:+.2f} points{_between(interval)}"
            tell(bar, text if mean is None else f"{text}; random sets {mean:+.2f}")
            handles.setdefault(method, bar)
            if interval is not None:
                axes.plot((x, x), interval, color="0", linewidth=1)
            if mean is not None:
                mark = axes.plot((x - width * 0.46, x + width * 0.46), (mean, mean), color="0", linewidth=2.5)
                control = [*mark]
    axes.axhline(0, color=GREY, linewidth=1)
    ticks = [plain(short(name, _LONGEST_TICK)) for name in names]
    rotation = 0 if sum(map(len, ticks)) <= _MOST_LETTERS else 45
    axes.set_xticks(range(len(names)), ticks, rotation=rotation, ha="right" if rotation else "center")
    axes.set_ylabel("essentiality (percentage points)")
    axes.grid(visible=True, axis="y", alpha=0.25)
    labels = [plain(short(name, _LONGEST_TICK)) for name in handles] + ["random sets of the same size"] * bool(control)
    figure.legend([*handles.values(), *control], labels, frameon=False, loc="outside upper center", ncols=4)
    return figure


def layers_figure(label: str, layers: Sequence[str], curves: Mapping[str, Sequence[float | None]]) -> Figure:
    """Draw one value per layer, in the order of the network.

    Args:
        label: What the values are.
        layers: Names of the layers.
        curves: Values by name of the curve, one for each layer; None where there is none.
    """
    figure = new_figure(4.2)
    axes = figure.add_subplot()
    handles: list[Artist] = []
    for number, (name, values) in enumerate(curves.items()):
        points = [(place, value) for place, value in enumerate(values) if value is not None]
        x, y = [place for place, _ in points], [value for _, value in points]
        colour, marker = look(number).values()
        handles += axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.5)
        tell_points(axes, x, y, [f"{name}, {layers[place]}: {value:.4f}" for place, value in points])
    axes.set_xticks(range(len(layers)), [plain(short(name, _LONGEST_TICK)) for name in layers], rotation=45, ha="right")
    axes.set_ylabel(plain(label))
    axes.grid(visible=True, alpha=0.25)
    axes.legend(handles, [plain(short(name, 2 * _LONGEST_TICK)) for name in curves], frameon=False)
    return figure


def reliability_figure(curves: Mapping[str, Sequence[tuple[float, float, int]]]) -> Figure:
    """Draw how often heads are right against how sure they are.

    Args:
        curves: For each head and bin of images: mean confidence, share that is right, number of images.
    """
    figure = new_figure(5)
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color=GREY, linewidth=1, linestyle="--")
    handles: list[Artist] = []
    for number, (name, bins) in enumerate(curves.items()):
        colour, marker = look(number).values()
        x, y = [confidence for confidence, _, _ in bins], [right for _, right, _ in bins]
        handles += axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.5)
        said = [f"{name}: {images} images, {100 * a:.1f}% sure, {100 * b:.1f}% right" for a, b, images in bins]
        tell_points(axes, x, y, said)
    axes.set_xlabel("confidence (softmax probability of the prediction)")
    axes.set_ylabel("share of images that is right")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(handles, [plain(short(name, 2 * _LONGEST_TICK)) for name in curves], frameon=False)
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


def gate_histogram(name: str, counts: Mapping[str, Sequence[int]]) -> Figure:
    """Draw how g is distributed, in percent of the images, by split.

    Args:
        name: Name of the gate.
        counts: Numbers of images by split, in bins of equal width from 0 to 1.
    """
    figure = new_figure(3.6)
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
    axes.legend(handles, [plain(what) for what in counts], frameon=False)
    return figure
