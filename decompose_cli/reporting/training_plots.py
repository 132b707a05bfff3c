"""Plots of trainings and of learning-rate range tests, as the bytes of PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decompose_cli.reporting.style import COLOURS, GREY, MARKED, WIDE, legend_above, look, new_figure, plain, png
from decompose_cli.reporting.vector import tell_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_MOST_MARKED = 30  # more markers hide the line that they are on


@dataclass(frozen=True)
class Curve:
    """How a figure went with the epochs: of each seed, and their mean where all seeds have the epoch.

    Attributes:
        seeds: A line for each seed, value by epoch; values that are not finite are left out.
    """

    seeds: Sequence[Mapping[int, float]]

    @property
    def mean(self) -> dict[int, float]:
        """The mean over the seeds by epoch."""
        found = [{epoch: value for epoch, value in seed.items() if math.isfinite(value)} for seed in self.seeds]
        shared = [epoch for epoch in found[0] if all(epoch in seed for seed in found)] if found else []
        return {epoch: math.fsum(seed[epoch] for seed in found) / len(found) for epoch in sorted(shared)}


def lr_curve(
    title: str, rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float | None
) -> bytes:
    """Draw the losses of a range test against the learning rate, their average, and the suggested rate.

    The loss axis ends a little above the average before its minimum: a loss that diverges leaves the picture.

    Args:
        title: Title, shown as it is; dollar signs are no mathematics.
        rates: Learning rates, ascending.
        losses: Loss of each rate; one that is not finite is left out.
        smoothed: Moving average of the losses.
        suggestion: The rate to mark, if there is one.

    Returns:
        A PNG file.
    """
    return png(lr_figure(title, rates, losses, smoothed, suggestion))


def lr_figure(
    title: str,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float | None,
    width: float = WIDE,
) -> Figure:
    """The figure of :func:`lr_curve`; ``width`` is in inches."""
    figure = new_figure(5 if width >= WIDE else 3.6, width)
    axes = figure.add_subplot()
    single = [loss if math.isfinite(loss) else math.nan for loss in losses]
    average = [loss if math.isfinite(loss) else math.nan for loss in smoothed]
    axes.plot(rates, single, color=GREY, marker=".", markersize=5, linestyle="", alpha=0.7, label="single batches")
    axes.plot(rates, average, color=look(0)["color"], linewidth=2, label="their moving average, which trails")
    _limit_to_descent(axes, single, average)
    if suggestion is not None:
        axes.axvline(suggestion, color=MARKED, linestyle="--", linewidth=1.5, label=f"suggested: {suggestion:.2g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title(plain(title))
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False)
    shown = [(rate, loss) for rate, loss in zip(rates, average, strict=True) if math.isfinite(loss)]
    tell_points(axes, *_unzipped(shown), [f"rate {rate:.3g}: average loss {loss:.4f}" for rate, loss in shown])
    return figure


def training_curves(
    title: str,
    epochs: Sequence[int],
    losses: Mapping[str, Sequence[float | None]],
    top1: Mapping[str, Sequence[float | None]],
    lr: Sequence[float],
) -> bytes:
    """Draw loss, accuracy and learning rate by epoch, one above the other.

    Args:
        title: Title, shown as it is; dollar signs are no mathematics.
        epochs: Numbers of the epochs, ascending.
        losses: Losses by split, one for each epoch; None where none was measured, and a line leads over the gap.
        top1: Accuracies in percent by split, in the same form. A split has the same colour in both plots.
        lr: Learning rate of each epoch.

    Returns:
        A PNG file.
    """
    return png(training_figure(title, epochs, losses, top1, lr))


def training_figure(
    title: str,
    epochs: Sequence[int],
    losses: Mapping[str, Sequence[float | None]],
    top1: Mapping[str, Sequence[float | None]],
    lr: Sequence[float],
    width: float = WIDE,
) -> Figure:
    """The figure of :func:`training_curves`; ``width`` is in inches."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7.5, width)
    upper, middle, lower = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": (3, 3, 1)})
    names = list(dict.fromkeys((*losses, *top1)))
    for axes, curves in ((upper, losses), (middle, top1)):
        handles = []
        for name, values in curves.items():
            handles += _plot(axes, epochs, values, name, **look(names.index(name)))
        axes.grid(visible=True, alpha=0.25)
        # Handles and texts side by side: labels of the curves themselves would be left out where they begin with "_".
        if handles:
            axes.legend(handles, [plain(name) for name in curves], frameon=False)
    _plot(lower, epochs, lr, "learning rate", color=GREY, marker="o")
    positive = [rate for rate in lr if rate > 0]
    if positive and max(positive) >= 10 * min(positive):
        lower.set_yscale("log", nonpositive="mask")  # steps by tenths are all seen, and a rate of zero is left out
    lower.grid(visible=True, alpha=0.25)
    upper.set_title(plain(title))
    upper.set_ylabel("loss")
    middle.set_ylabel("top-1 accuracy (%)")
    lower.set_ylabel("learning rate")
    lower.set_xlabel("epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    lower.margins(x=0.02)
    if len(epochs) == 1 and epochs[0] - 0.5 < epochs[0] + 0.5:
        lower.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    figure.align_ylabels()
    return figure


def trainings_figure(
    title: str, losses: Mapping[str, Curve], top1: Mapping[str, Curve], images: str, width: float = WIDE
) -> Figure:
    """Draw several trainings in one figure: training loss below, and accuracy above.

    The thick line of a training is the mean over its seeds, the thin ones are the seeds.

    Args:
        title: Title, shown as it is; dollar signs are no mathematics.
        losses: Training losses by the name of the training.
        top1: Accuracies in percent, in the same form; a training has the same colour in both plots.
        images: What the accuracies are of, as ``held-out images``.
        width: Width in inches.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(6.5, width)
    upper, lower = figure.subplots(2, 1, sharex=True)
    handles: dict[str, object] = {}
    for axes, curves, what in ((upper, top1, f"{images}, top-1 (%)"), (lower, losses, "training loss")):
        for number, (name, curve) in enumerate(curves.items()):
            appearance = look(number)
            if len(curve.seeds) > 1:
                for seed in curve.seeds:
                    epochs, values = _unzipped([pair for pair in sorted(seed.items()) if math.isfinite(pair[1])])
                    dot = "." if len(epochs) == 1 else ""  # a line of one point is not seen
                    axes.plot(epochs, values, color=appearance["color"], marker=dot, linewidth=0.8, alpha=0.45)
            mean = curve.mean
            drawn = _plot(axes, list(mean), list(mean.values()), name, **appearance)
            if number >= len(COLOURS):  # colours come again
                drawn[0].set_linestyle("--")
            handles.setdefault(name, drawn[0])
        axes.set_ylabel(what)
        axes.grid(visible=True, alpha=0.25)
    upper.set_title(plain(title))
    lower.set_xlabel("epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_above(figure, list(handles.values()), list(handles))
    figure.align_ylabels()
    return figure


def _plot(
    axes: Axes, epochs: Sequence[int], values: Sequence[float | None], name: str, color: str, marker: str
) -> list[Line2D]:
    """A line through the values that are there, with markers while they are few."""
    pairs = zip(epochs, values, strict=True)
    points = [(epoch, value) for epoch, value in pairs if value is not None and math.isfinite(value)]
    shown = marker if len(points) <= _MOST_MARKED else ""
    x, y = _unzipped(points)
    tell_points(axes, x, y, [f"{name}, epoch {epoch}: {value:.5g}" for epoch, value in points])
    return [*axes.plot(x, y, color=color, marker=shown, markersize=4, linewidth=1.5)]


def _unzipped(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _limit_to_descent(axes: Axes, losses: Sequence[float], smoothed: Sequence[float]) -> None:
    finite = [loss for loss in smoothed if math.isfinite(loss)]
    if not finite:
        return
    before = finite[: finite.index(min(finite)) + 1]
    low, high = min(finite), max(before)
    low = min([low, *(loss for loss in losses if math.isfinite(loss))])
    margin = (high - low) or abs(high) or 1.0
    axes.set_ylim(low - 0.05 * margin, high + 0.35 * margin)
