"""The context that sections share: the sources, and ways for drawings, matrices and pictures into the page."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decompose_cli.page.blocks import Chart, Picture, Raster, Table
from decompose_cli.page.documents import Source
from decompose_cli.reporting.style import NARROW, WIDE
from decompose_cli.reporting.vector import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

_PICTURE_BYTES = 3_000_000  # a page may have five million bytes; base64 makes four bytes of three
_LIVE_BYTES = 1_500_000
_WIDEST, _TALLEST = 1400, 4000
_QUALITY = 80
_MOST_ENTRIES = 20_000


@dataclass
class Context:
    """The sources of a page, and the room that is left on it.

    Attributes:
        sources: The results.
        has_images: Whether pictures of data sets are looked up.
        is_live: Whether heads are on the page that it can compute anew.
        left_out: Number of pictures and matrices that had no room.
        unwritten: Bytes of pictures that are not read from the disk.
        names: Names of features, by number.
    """

    sources: Sequence[Source]
    has_images: bool = True
    is_live: bool = True
    left_out: int = 0
    unwritten: Mapping[Path, object] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    _left: int = _PICTURE_BYTES
    _left_live: int = field(default_factory=lambda: _LIVE_BYTES)
    _charts: int = field(default=0)

    def of(self, *commands: str) -> Iterator[Source]:
        """The results of some commands."""
        return (source for source in self.sources if source.command in commands)

    @property
    def room_for_live(self) -> int:
        """Bytes that a head which the page computes anew may have, before they become text."""
        return min(_LIVE_BYTES, self._left_live) * 3 // 4

    def take_live(self, data: Mapping[str, object]) -> None:
        """Note the size of what such a head computes with."""
        self._left_live -= len(json.dumps(data))

    def feature_name(self, number: int) -> str:
        """What the page calls a feature: its name with its number, as ``wheels (3)``, else ``feature 3``."""
        name = self.names.get(number)
        return f"feature {number}" if name is None else f"{name} ({number})"

    def chart(self, title: str, draw: Callable[[float], Figure], values: Table) -> Chart:
        """A drawing, with the table of what it shows.

        Args:
            title: What is drawn.
            draw: Draws it at a width in inches; it is drawn twice, for a screen and for a phone.
            values: The same numbers.
        """
        self._charts += 1
        wide, narrow = (svg(draw(width), f"c{self._charts}{size}") for size, width in (("w", WIDE), ("n", NARROW)))
        return Chart(title, wide, narrow, values)

    def picture(self, image: Image, alt: str, caption: str = "", quality: int = _QUALITY) -> Picture | None:
        """An image as WebP, no wider than a page; None if the page is full.

        Small images are kept exactly, pixel by pixel; others by ``quality``, 0 to 100.
        """
        image = image.convert("RGB")
        image.thumbnail((_WIDEST, _TALLEST))
        target = BytesIO()
        is_small = max(image.size) <= 64
        image.save(target, "WEBP", quality=100 if is_small else quality, lossless=is_small)
        uri = self._uri(target.getvalue(), "webp")
        return None if uri is None else Picture(uri, alt, caption, image.width, image.height)

    def raster(
        self,
        caption: str,
        alt: str,
        values: np.ndarray,
        names: tuple[Sequence[str], Sequence[str]],
        what: str,
        *,
        is_sparse: bool,
        darkest: float | None = None,
    ) -> Raster | None:
        """A matrix as a picture with a pixel per cell: white for 0, black for the largest; None if the page is full.

        Args:
            caption: Text above the picture.
            alt: Text in place of the picture.
            values: (rows, columns). With negative values they are drawn in blue, and positive ones in orange.
            names: Names of the rows and of the columns; numbers stand where there are no names.
            what: What a value is, for the cell that is pointed at.
            is_sparse: Whether the page says exact values, of up to 20,000 cells that are not 0; otherwise it says one
                of 255 shades.
            darkest: The value from which on cells are black; the largest by default.
        """
        from PIL import Image

        largest = darkest or float(np.abs(values).max(initial=0)) or 1.0
        shades = np.clip(values / largest, -1, 1)
        is_grey = bool((values >= 0).all())
        if is_grey:
            image = Image.fromarray((255 - np.rint(255 * shades)).astype(np.uint8))
        else:
            image = Image.fromarray(_signed_colours(shades))
        target = BytesIO()
        image.save(target, "PNG", optimize=True)
        data: dict[str, object] = {"rows": list(names[0]), "columns": list(names[1]), "what": what, "largest": largest}
        if is_sparse:
            rows, columns = np.nonzero(values)
            order = np.argsort(-np.abs(values[rows, columns]), kind="stable")[:_MOST_ENTRIES]
            places = rows[order] * values.shape[1] + columns[order]
            data["cells"] = {str(place): values.flat[place].item() for place in sorted(places.tolist())}
            data["isComplete"] = len(order) == len(rows)
        uri = self._uri(target.getvalue(), "png", len(json.dumps(data)))
        if uri is None:
            return None
        return Raster(caption, alt, uri, values.shape[1], values.shape[0], data, is_grey)

    def _uri(self, content: bytes, kind: str, beside: int = 0) -> str | None:
        """The content as text; None if that, and the bytes that the page has ``beside`` it, have no room."""
        text = base64.b64encode(content).decode("ascii")
        size = len(text) + beside
        if size > self._left:
            self.left_out += 1
            return None
        self._left -= size
        return f"data:image/{kind};base64,{text}"


def _signed_colours(values: np.ndarray) -> np.ndarray:
    """Colours of -1 to 1, blue over white to orange, equally light on both sides; uint8 (rows, columns, 3)."""
    low, high = np.array([0, 114, 178]), np.array([213, 94, 0])
    share = np.abs(values)[..., None]
    colours: np.ndarray = np.rint(255 + share * (np.where(values[..., None] < 0, low, high) - 255)).astype(np.uint8)
    return colours
