"""The 8-bit RGB pixels of a decoded image file, whatever kind of numbers it holds.

A kind of number that has one reading is scaled to 0..255; an image that could be read in two ways is refused, for one
of them would turn it black or white without a word.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from decompose_cli.datasets.decoding import Encoded, open_image
from decompose_cli.errors import InputError

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF 6.0
_WHITE_IS_ZERO, _SIGNED = 0, 2
_HINT = "Save it with 8 bits a channel, 0 for black and 255 for white."


@dataclass(frozen=True)
class Numbers:
    """The numbers of an image file, as its header tells; decoding forgets some of it.

    Attributes:
        kind: ``levels`` are Pillow's 8 bits a channel; ``deep`` are grey levels of more bits, whose white the format
            says; ``whole`` are signed or 32-bit numbers, and ``real`` are floating-point ones, whose white it does not.
        bits: Bits of a ``deep`` number.
        is_cut: Whether Pillow keeps only the upper 8 of 16 bits.
        is_inverted: Whether 0 is white, which Pillow minds of 8 bits alone.
    """

    kind: Literal["levels", "deep", "whole", "real"]
    bits: int = 16
    is_cut: bool = False
    is_inverted: bool = False


def numbers_in(image: Image.Image) -> Numbers:
    """Look at the header of an image that has been opened and not yet decoded."""
    tags = getattr(image, "tag_v2", {})
    is_inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.mode == "F":
        return Numbers("real", is_inverted=is_inverted)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Numbers("deep", 12 if tags.get(_BITS_PER_SAMPLE) == (12,) else 16, is_inverted=is_inverted)
    if image.mode == "I" or tags.get(_SAMPLE_FORMAT) == (_SIGNED,):
        return Numbers("whole")
    arguments = str([tile[3] for tile in getattr(image, "tile", ())])  # of the decoder, with the mode in the file
    return Numbers("levels", is_cut=re.search(r";16[BLN]", arguments) is not None)


def to_rgb(image: Image.Image, numbers: Numbers, path: Path | Encoded) -> Image.Image:
    """Convert a decoded image to 8-bit RGB.

    Colours and transparency become RGB as Pillow does it; grey levels of more than 8 bits keep the upper 8. Real
    numbers go from 0 for black to 1 for white, or are whole numbers up to 255; so are signed and 32-bit numbers.

    Args:
        image: The image, decoded.
        numbers: What :func:`numbers_in` said of it.
        path: Its file, for messages.

    Raises:
        InputError: The pixels could be read in more than one way, or in none.
    """
    if numbers.kind == "levels":
        if numbers.is_cut and _brightest(image) == 0 and not _is_black(path):
            raise InputError(
                f"The pixels of {path} are below 256, which is black where white is 65535, as 16 bits say.",
                hint=_HINT,
            )
        if image.mode == "La":  # which Pillow converts to nothing but LA
            image = image.convert("LA")
        return image if image.mode == "RGB" else image.convert("RGB")
    levels = grey_levels(np.asarray(image), numbers, path)
    return Image.fromarray(255 - levels if numbers.is_inverted else levels).convert("RGB")


def is_dim(image: Image.Image, numbers: Numbers) -> bool:
    """Whether the numbers of a decoded image of 16 bits, if not all 0, are below a sixteenth of white.

    Those of a camera or scanner of 12 bits are, where the file does not say that they have 12.
    """
    if numbers.kind == "levels":
        return numbers.is_cut and 0 < _brightest(image) < 16
    return numbers.kind == "deep" and numbers.bits == 16 and 0 < int(np.asarray(image).max()) < 4096


def _brightest(image: Image.Image, bands: str = "RGBLCMYK") -> int:
    """The highest of the 8-bit numbers in these bands, which are all but transparency."""
    each = zip(image.getbands(), image.split(), strict=True)
    return max(int(band.getextrema()[1]) for name, band in each if name in bands)  # type: ignore[arg-type]


def _is_black(path: Path | Encoded) -> bool:
    """Whether the lower 8 of 16 bits, of which Pillow keeps the upper, are all 0; False where that cannot be told.

    They are the upper ones when bytes are read in the other order.
    """
    with open_image(path) as image, suppress(ValueError, OSError):
        raw = re.search(r"'(\w+);16([BLN])'", str(image.tile))
        assert raw is not None
        order = {"N": sys.byteorder[0].upper()}.get(raw[2], raw[2])
        other = "RGBA" if raw[1] == "LA" else f"{raw[1]};16{'B' if order == 'L' else 'L'}"  # or all four bytes as such
        image.tile = [_with(tile, raw[0][1:-1], other) for tile in image.tile]
        image.load()
        return _brightest(image, "RG" if raw[1] == "LA" else "RGBCMYK") == 0
    return False


def _with(values: Any, old: str, new: str) -> Any:
    """A tuple in which a text is another, and so in the tuples within."""
    if not isinstance(values, tuple):
        return new if values == old else values
    make = getattr(values, "_make", tuple)  # a tile has names
    return make(_with(value, old, new) for value in values)


def grey_levels(values: npt.NDArray[Any], numbers: Numbers, path: object) -> npt.NDArray[np.uint8]:
    """The levels 0..255 of pixels, of any shape, that are of another kind than bytes.

    Args:
        values: The pixels.
        numbers: What they are; see :func:`to_rgb` for what is made of each kind.
        path: Their file, for messages.

    Raises:
        InputError: The pixels could be read in more than one way, or in none.
    """
    if numbers.kind == "whole" and values.dtype == np.uint8:
        values = values.view(np.int8)  # signed, which Pillow does not mind
    if not np.isfinite(values).all():
        raise InputError(f"{path} has pixels that are NaN or infinite.", hint=_HINT)
    low, high = float(values.min()), float(values.max())
    shown = f"The pixels of {path} go from {low:g} to {high:g}"
    if numbers.kind == "deep":
        white = 2**numbers.bits - 1
        if 0 < high <= 255:
            raise InputError(f"{shown}, which is black where white is {white}, as {numbers.bits} bits say.", hint=_HINT)
        return (values.astype(np.int64).clip(0, white) >> (numbers.bits - 8)).astype(np.uint8)
    is_whole = bool((values == np.floor(values)).all())
    if low < 0 or high > 255 or (high > 1 and not is_whole):
        read = "0 to 255" if numbers.kind == "whole" else "0 to 1, and whole ones from 0 to 255,"
        raise InputError(f"{shown}; of numbers of this kind only those from {read} have one reading.", hint=_HINT)
    if numbers.kind in ("real", "whole") and high == 1 and is_whole:
        raise InputError(f"{shown}, and are all whole: 1 could be white, or the darkest of 255 greys.", hint=_HINT)
    levels: npt.NDArray[np.uint8] = np.rint(values if is_whole else 255 * values).astype(np.uint8)
    return levels
