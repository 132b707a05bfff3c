"""Pictures of explanations: an image and the maps over it, as the bytes of PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from decompose_cli.reporting.style import MARKED, plain, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

_MOST_PANELS = 5
_LONGEST = 24
_SIDE = 1.7
_HEIGHT = _SIDE + 0.4


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
    """One image and its maps side by side, as a PNG file."""
    widths = _WIDTHS if picture.whole is None else [1.0, *_WIDTHS]
    figure = _figure(sum(widths))
    row = list(figure.subplots(1, len(widths), width_ratios=widths))
    # Places are fixed: laying each row out by its texts takes longer than drawing it, and would not align the rows.
    figure.subplots_adjust(left=0.005, right=0.995, top=_SIDE / _HEIGHT, bottom=0.02, wspace=0.06)
    for axes in row:
        axes.axis("off")
    if picture.whole is not None:
        _draw_whole(row.pop(0), picture.whole)
    _draw(row, picture)
    return png(figure)


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


_WIDTHS = [*[1.0] * _MOST_PANELS, 1.3]


def _figure(columns: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIDE * (columns + 0.3), _HEIGHT), dpi=130)
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
    axes.set_title("\n".join(plain(_short(line)) for line in whole.title.split("\n")), fontsize=7)


def _draw(row: Sequence[Axes], picture: Picture) -> None:
    image = picture.image.permute(1, 2, 0).numpy()
    height, width = image.shape[:2]
    row[0].imshow(image, interpolation="nearest")
    row[0].set_title("\n".join(plain(_short(line)) for line in picture.title.split("\n")), fontsize=7)
    largest = max((float(panel.values.abs().max()) for panel in picture.panels if panel.signed), default=0.0) or 1.0
    grey = image.mean(2)
    for axes, panel in zip(row[1:], picture.panels, strict=False):
        axes.imshow(grey, cmap="gray", vmin=-64, vmax=255, interpolation="nearest")
        top = largest if panel.signed else float(panel.values.max()) or 1.0
        axes.imshow(
            panel.values.numpy(),
            cmap="RdBu_r" if panel.signed else "magma",
            vmin=-top if panel.signed else 0.0,
            vmax=top,
            alpha=0.6,
            interpolation="bilinear",
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )
        axes.set_title("\n".join(plain(_short(line)) for line in panel.title.split("\n")), fontsize=7)
    row[-1].text(
        0, 1, "\n".join(plain(_short(line)) for line in picture.lines), fontsize=6, family="monospace", va="top",
        transform=row[-1].transAxes,
    )  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
