"""The picture of an atlas: a row for each feature, with its number and a tile for each of its images."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SHEET = "atlas.png"
TILE = 64
"""Pixels of the side of a tile."""
Square = tuple[int, int, int]
"""Left, top and side of a square part of an image, in pixels."""
_TEXT = 16


class AtlasSheet:
    """A picture that is filled tile by tile, so that no image is kept.

    Args:
        features: Number of the feature of each row.
        columns: Tiles in a row.
    """

    def __init__(self, features: list[int], columns: int) -> None:
        from PIL import Image, ImageDraw, ImageFont

        self._sheet = Image.new("RGB", (TILE * (1 + columns), TILE * len(features)), "white")
        draw, font = ImageDraw.Draw(self._sheet), ImageFont.load_default(_TEXT)
        for row, feature in enumerate(features):
            draw.text((TILE // 2, TILE * row + TILE // 2), str(feature), "black", font, anchor="mm")

    def put(self, row: int, column: int, pixels: Tensor, part: Square | None) -> None:
        """Fill a tile.

        Args:
            row: Place of the feature.
            column: Place of the image among those of the feature.
            pixels: The image, uint8 (3, H, W).
            part: The square of it that is shown; None for the whole image, with white beside it if it is not square.
        """
        from PIL import Image

        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        if part is not None:
            left, top, side = part
            image = image.crop((left, top, left + side, top + side))
        scale = TILE / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        tile = image.resize(size, Image.Resampling.BICUBIC)
        left, top = TILE * (1 + column) + (TILE - tile.width) // 2, TILE * row + (TILE - tile.height) // 2
        self._sheet.paste(tile, (left, top))

    def png(self) -> bytes:
        """The picture as a PNG file."""
        target = BytesIO()
        self._sheet.save(target, "PNG")
        return target.getvalue()


def atlas_strips(sheet: Image, counts: list[int]) -> list[Image]:
    """Cut the picture of an atlas into one for each feature, of its images without its number.

    Args:
        sheet: The picture.
        counts: Number of images of each feature.

    Returns:
        The pictures from top to bottom; none if the sheet of so many has another size.
    """
    if sheet.size != (TILE * (1 + max(counts, default=0)), TILE * len(counts)):
        return []
    return [sheet.crop((TILE, TILE * row, TILE * (1 + count), TILE * (row + 1))) for row, count in enumerate(counts)]
