"""Pictures of explanations: an image and the maps over it, as the bytes of PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from decompose_cli.reporting.style import MARKED, plain, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import Tensor

_MOST_PANELS = 5
_LONGEST = 24
_DPI = 130
_SIDE, _GAP, _EDGE = 221, 16, 8
_TITLE, _BAR, _VALUES, _TEXT = 48, 9, 26, 300
_SIZE, _SIZE_OF_TEXT = 9, 8


@dataclass(frozen=True)
class Panel:
    """A map (h, w) over the image; ``signed`` maps share one scale, on which 0 is white."""

    title: str
    values: Tensor
    signed: bool


@dataclass(frozen=True)
class Whole:
    """An image as it was given, uint8 (3, h, w); ``frame`` is the part that a network saw, and ``title`` says how.

    The frame is its top, left, bottom and right, as shares of the height and width.
    """

    title: str
    image: Tensor
    frame: tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """An image, uint8 (3, H, W), as a network sees it, with its maps and lines of text beside it.

    ``whole`` is drawn before it where the image was given in another size.
    """

    title: str
    image: Tensor
    panels: Sequence[Panel]
    lines: Sequence[str]
    whole: Whole | None = None


def picture_row(picture: Picture) -> bytes:
    """One image and its maps side by side, each map with the scale of its colours, as a PNG file."""
    panels = _MOST_PANELS + (picture.whole is not None)
    width, height = row_size(panels)
    figure = _figure(width, height)

    def axes_at(left: float, top: float, wide: float, high: float) -> Axes:
        # Places are fixed: laying each row out by its texts takes longer than drawing it, and would not align the rows.
        axes = figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
        axes.axis("off")
        return axes

    lefts = [_EDGE + number * (_SIDE + _GAP) for number in range(panels)]
    row = [axes_at(left, _TITLE, _SIDE, _SIDE) for left in lefts]
    bars = [axes_at(left, _TITLE + _SIDE + _BAR, _SIDE, _BAR) for left in lefts]
    row.append(axes_at(lefts[-1] + _SIDE + _GAP, _TITLE, _TEXT, _SIDE))
    if picture.whole is not None:
        _draw_whole(row.pop(0), picture.whole)
        bars.pop(0)
    _draw(row, bars[1:], picture)
    return png(figure)


def picture_panels(row: Image, sizes: Sequence[tuple[int, int]], *, has_whole: bool) -> list[Image]:
    """Cut the picture that :func:`picture_row` drew into the image and its maps, without their text.

    Args:
        row: The picture.
        sizes: Height and width, in any unit, of what each panel shows, from the left.
        has_whole: Whether the first shows the image as it was given.

    Returns:
        The panels from left to right; none if such a row has another size.
    """
    if row.size != row_size(_MOST_PANELS + has_whole) or len(sizes) > _MOST_PANELS + has_whole:
        return []
    panels = []
    for number, (height, width) in enumerate(sizes):
        scale = _SIDE / max(height, width)
        left = _EDGE + number * (_SIDE + _GAP) + (_SIDE - width * scale) / 2
        top = _TITLE + (_SIDE - height * scale) / 2
        edges = (left + 1, top + 1, left + width * scale - 1, top + height * scale - 1)  # the rim is blended with white
        panels.append(row.crop(tuple(round(edge) for edge in edges)))  # type: ignore[arg-type]
    return panels


def row_size(panels: int) -> tuple[int, int]:
    """Width and height in pixels of a row of so many panels."""
    return _EDGE + panels * (_SIDE + _GAP) + _TEXT, _TITLE + _SIDE + 2 * _BAR + _VALUES


def picture_sheet(rows: Sequence[bytes]) -> bytes:
    """All rows, one below the other, as a PNG file."""
    from PIL import Image

    pictures = [Image.open(BytesIO(row), formats=["PNG"]).convert("RGB") for row in rows]
    width, height = max(picture.width for picture in pictures), sum(picture.height for picture in pictures)
    sheet, top = Image.new("RGB", (width, height), "white"), 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    target = BytesIO()
    sheet.save(target, "PNG")
    return target.getvalue()


def _figure(width: int, height: int) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=((width + 0.5) / _DPI, (height + 0.5) / _DPI), dpi=_DPI)  # halves are rounded down
    FigureCanvasAgg(figure)
    return figure


def _draw_whole(axes: Axes, whole: Whole) -> None:
    from matplotlib.patches import Rectangle

    image = whole.image.permute(1, 2, 0).numpy()
    height, width = image.shape[:2]
    axes.imshow(image)
    top, left, bottom, right = whole.frame
    place, sides = (left * width - 0.5, top * height - 0.5), ((right - left) * width, (bottom - top) * height)
    axes.add_patch(Rectangle(place, *sides, fill=False, edgecolor=MARKED, linewidth=2, clip_on=False))
    axes.set_title("\n".join(plain(_short(line)) for line in whole.title.split("\n")), fontsize=_SIZE)


def _draw(row: Sequence[Axes], bars: Sequence[Axes], picture: Picture) -> None:
    image = picture.image.permute(1, 2, 0).numpy()
    height, width = image.shape[:2]
    row[0].imshow(image, interpolation="nearest")
    row[0].set_title("\n".join(plain(_short(line)) for line in picture.title.split("\n")), fontsize=_SIZE)
    grey = image.mean(2)
    for axes, bar, panel, top in zip(row[1:], bars, picture.panels, largest_values(picture.panels), strict=False):
        axes.imshow(grey, cmap="gray", vmin=-64, vmax=255, interpolation="nearest")
        colours: dict[str, Any] = {
            "cmap": "RdBu_r" if panel.signed else "magma",
            "vmin": -top if panel.signed else 0.0,
            "vmax": top,
            "alpha": 0.6,
        }
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(panel.values.numpy(), interpolation="bilinear", extent=extent, **colours)
        axes.set_title("\n".join(plain(_short(line)) for line in panel.title.split("\n")), fontsize=_SIZE)
        _draw_scale(bar, colours)
    row[-1].text(
        0, 1, "\n".join(plain(_short(line)) for line in picture.lines), fontsize=_SIZE_OF_TEXT, family="monospace",
        va="top", transform=row[-1].transAxes,
    )  # fmt: skip


def _draw_scale(axes: Axes, colours: dict[str, Any]) -> None:
    """Draw the colours of a map from the lowest to the highest value, which are written below."""
    low, high = colours["vmin"], colours["vmax"]
    axes.imshow([[low + (high - low) * step / 100 for step in range(101)]], aspect="auto", **colours)
    for place, value, side in ((0.0, low, "left"), (0.5, 0.0, "center"), (1.0, high, "right")):
        if place != 0.5 or low < 0:
            axes.text(place, -0.5, f"{value:.2g}", fontsize=_SIZE_OF_TEXT, ha=side, va="top", transform=axes.transAxes)


def largest_values(panels: Sequence[Panel]) -> list[float]:
    """The value at the end of the scale of each map; signed ones share it."""
    shared = max((float(panel.values.abs().max()) for panel in panels if panel.signed), default=0.0) or 1.0
    return [shared if panel.signed else float(panel.values.max()) or 1.0 for panel in panels]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
