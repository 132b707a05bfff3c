"""Pictures of filters: the images that they respond to, as the bytes of PNG files."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decompose_cli.reporting.style import GREY, look, plain, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image
    from torch import Tensor

Box = tuple[int, int, int, int]
MOST_ROWS = 40
"""Filters in one picture; it is taller than two metres of screen as it is."""

_SIDE, _TEXT = 1.15, 1.9
_TITLE, _ROW = 0.4, _SIDE + 0.25
_TITLE_KEPT = 0.21  # what the layout leaves of the title's height; the rows share the rest
_DPI = 130
_GAP = 5  # pixels
_WIDTH, _MOST_LINES = 24, 7


@dataclass(frozen=True)
class Response:
    """An image, uint8 (3, H, W), the map (h, w) of a filter on it, if there is one, and what to write above it."""

    image: Tensor
    values: Tensor | None
    title: str
    is_own: bool


@dataclass(frozen=True)
class FilterRow:
    """A filter and the images that it responds to most."""

    text: str
    responses: Sequence[Response]


@dataclass(frozen=True)
class FilterSheet:
    """A picture of filters, and what is where in it.

    Attributes:
        content: A PNG file.
        boxes: For each filter the edges of its images in pixels: left, top, right, bottom.
        scales: For each filter the lowest and the highest value of its colours; None where it has no maps.
    """

    content: bytes
    boxes: Sequence[Sequence[Box]]
    scales: Sequence[tuple[float, float] | None]


def filter_sheet(title: str, rows: Sequence[FilterRow]) -> FilterSheet:
    """Draw a row for each filter: its text, and its images with its map over them, all maps of a row on one scale.

    Args:
        title: Title, shown as it is; dollar signs are no mathematics.
        rows: The filters, one to 40, with at least one image each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row.responses) for row in rows)
    figure = Figure(figsize=_inches(len(rows), columns), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(plain(title), fontsize=9)
    widths = [_TEXT / _SIDE, *[1.0] * columns]
    scales: list[tuple[float, float] | None] = []
    drawn: list[list[Axes]] = []
    for panels, row in zip(
        figure.subplots(len(rows), columns + 1, squeeze=False, width_ratios=widths), rows, strict=True
    ):
        for axes in panels:
            axes.axis("off")
        lines = [part for line in row.text.split("\n") for part in textwrap.wrap(line, _WIDTH)]
        if len(lines) > _MOST_LINES:
            lines = [*lines[: _MOST_LINES - 1], "…"]
        panels[0].text(0, 0.95, plain("\n".join(lines)), fontsize=6.5, va="top", transform=panels[0].transAxes)
        known = [response.values for response in row.responses if response.values is not None]
        low = min((float(values.min()) for values in known), default=0.0)
        top = max((float(values.max()) for values in known), default=0.0)
        top = max(top, -low) or 1.0
        # Features of smooth activations may be negative: then 0 is white, and both signs share one scale.
        colours: dict[str, Any] = {"cmap": "magma", "vmin": 0.0} if low >= 0 else {"cmap": "RdBu_r", "vmin": -top}
        scales.append((colours["vmin"], top) if known else None)
        drawn.append([*panels[1 : 1 + len(row.responses)]])
        for axes, response in zip(panels[1:], row.responses, strict=False):
            height, width = response.image.shape[1:]
            axes.imshow(response.image.permute(1, 2, 0).numpy(), interpolation="nearest")
            if response.values is not None:
                extent = (-0.5, width - 0.5, height - 0.5, -0.5)
                axes.imshow(
                    response.values.numpy(), vmax=top, alpha=0.5, interpolation="bilinear",
                    extent=extent, **colours,
                )  # fmt: skip
            axes.set_title(
                plain(response.title), fontsize=5.5, pad=2, color=GREY if response.is_own else look(5)["color"]
            )
    content = png(figure)  # which settles the layout
    height = round(figure.bbox.height)
    return FilterSheet(content, [[_box(axes, height) for axes in row] for row in drawn], scales)


def _box(axes: Axes, height: int) -> Box:
    """Where the image of a panel lies in the picture, without the rim that is blended with white."""
    found = axes.images[0].get_window_extent()
    left, top, right, bottom = found.x0, height - found.y1, found.x1, height - found.y0
    return math.ceil(left), math.ceil(top), math.floor(right), math.floor(bottom)


def filter_strips(sheet: Image, rows: int, columns: int) -> list[Image]:
    """Cut the picture that :func:`filter_sheet` drew into one for each filter, of its images without their text.

    Args:
        sheet: The picture.
        rows: Number of filters.
        columns: Number of images of the filter that has most.

    Returns:
        The pictures from top to bottom; none if a sheet of so many rows and columns has another size.
    """
    width, height = (int(side * _DPI) for side in _inches(rows, columns))
    if rows < 1 or columns < 1 or abs(sheet.width - width) > 1 or abs(sheet.height - height) > 1:
        return []
    left, top = round(sheet.width * _TEXT / (_TEXT + _SIDE * columns)) - _GAP, _TITLE_KEPT * _DPI
    step = (sheet.height - top) / rows
    edges = [round(top + step * row) for row in range(rows + 1)]
    return [sheet.crop((left, low, sheet.width, high)) for low, high in itertools.pairwise(edges)]


def _inches(rows: int, columns: int) -> tuple[float, float]:
    return _TEXT + _SIDE * columns, _TITLE + _ROW * rows
