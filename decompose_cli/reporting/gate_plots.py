"""Plots of soft gates, as the bytes of PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from decompose_cli.reporting.style import GREY, look, new_figure, plain, png, short

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 5
SHOWN = _SIDE * _SIDE
"""Number of images on each side of :func:`extremes`."""
_MOST_LETTERS = 13


def gate_distribution(title: str, gates: Sequence[str], groups: Mapping[str, Sequence[Sequence[float]]]) -> bytes:
    """Draw how g is distributed over groups of images, such as those that a network gets right and the others.

    Args:
        title: Title, shown as it is; dollar signs are no mathematics.
        gates: Names of the gates, whose panels stand one below the other.
        groups: Up to two groups of images by name: for each gate, g of each image.

    Returns:
        A PNG file.
    """
    figure = new_figure(1 + 2.7 * len(gates))
    panels = figure.subplots(len(gates), 1, squeeze=False)[:, 0]
    bins = [number / 40 for number in range(41)]
    for gate, (axes, name) in enumerate(zip(panels, gates, strict=True)):
        for number, (what, by_gate) in enumerate(groups.items()):
            values = by_gate[gate]
            if len(values) == 0:
                continue
            mean = sum(values) / len(values)
            colour = look((0, 5)[number])["color"]
            share = [100 / len(values)] * len(values)
            label = f"{what} ({len(values):,} images, mean g {mean:.3f})"
            axes.hist(values, bins, weights=share, color=colour, alpha=0.35, label=label)
            axes.hist(values, bins, weights=share, color=colour, histtype="step", linewidth=1.5)
            axes.axvline(mean, color=colour, linestyle=("--", ":")[number], linewidth=1.5)
        axes.set_xlim(0, 1)
        axes.set_xlabel(plain(name))
        axes.set_ylabel("% of these images")
        axes.grid(visible=True, alpha=0.25)
        axes.legend(frameon=False)
    panels[0].set_title(plain(title))
    return png(figure)


def extremes(
    title: str, lowest: Sequence[tuple[Image, float, str, str]], highest: Sequence[tuple[Image, float, str, str]]
) -> bytes:
    """Show the images with the lowest and with the highest g.

    Args:
        title: Title, shown as it is; dollar signs are no mathematics.
        lowest: Up to 25 images, each with g, its label and what the network takes it for; lowest g first.
        highest: Up to 25 images with the same facts; highest g first.

    Returns:
        A PNG file.
    """
    figure = new_figure(6.4)
    figure.suptitle(plain(title), fontsize=10)
    halves = figure.subfigures(1, 2, wspace=0.04, squeeze=False)[0]
    for half, what, images in zip(halves, ("Lowest g", "Highest g"), (lowest, highest), strict=True):
        half.suptitle(what, fontsize=10)
        panels = half.subplots(_SIDE, _SIDE).flat
        for axes in panels:
            axes.axis("off")
        for axes, (image, g, label, prediction) in zip(half.axes, images, strict=False):
            axes.imshow(image, interpolation="nearest")
            is_wrong = label != prediction
            text = f"{g:.3f}\n{short(label, _MOST_LETTERS)}"
            text += f"\nas {short(prediction, _MOST_LETTERS)}" if is_wrong else ""
            axes.set_title(plain(text), fontsize=5.5, pad=2, color=look(5)["color"] if is_wrong else GREY)
    return png(figure)
