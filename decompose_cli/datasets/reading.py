"""Image files as 8-bit RGB, for data sets and single images alike, and what is said of those that were read.

There is one way to read a file, that of torchvision's ``ImageFolder``, with which networks are trained and their
published accuracy is measured: the pixels as they are stored, whatever EXIF data say of how to turn them; colours
without their transparency; the first of several pictures. What is passed over is counted by files, and said once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntFlag
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.ExifTags import Base

from decompose_cli.datasets.decoding import open_image
from decompose_cli.datasets.pixels import Numbers, is_dim, numbers_in, to_rgb
from decompose_cli.errors import first_few
from decompose_cli.progress import warn

READING = 2
"""Counted up when the same files give other pixels, so that nothing made of the earlier ones is taken for theirs."""


class _Seen(IntFlag):
    """What was seen of a file."""

    READ = 1
    TURNED = 2
    TRANSPARENT = 4
    SEVERAL = 8
    DIM = 16


_SAID = {
    _Seen.TURNED: (
        "Images that are turned by their EXIF data are read unturned, as torchvision reads them",
        "save them turned where they should be",
    ),
    _Seen.TRANSPARENT: (
        "Images with transparent parts are read without their transparency, in the colours that are stored there",
        "put them on a ground where those are not meant to be seen",
    ),
    _Seen.SEVERAL: (
        "Of files with several pictures or pages the first is read",
        "save the others as files of their own where they count",
    ),
    _Seen.DIM: (
        "Images of 16 bits stay below a sixteenth of white, and are read as dark as that",
        "scale them to 65535 where their white is less, as that of 12 bits is",
    ),
}


class ImageFiles:
    """Image files that are read by their numbers, in this process or in those that it starts to decode them.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._seen = torch.zeros(len(self.paths), dtype=torch.uint8)
        with suppress(RuntimeError):  # without shared memory there are no processes to share it with
            self._seen.share_memory_()  # type: ignore[no-untyped-call]
        self._said: set[_Seen] = set()

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, number: int) -> Image.Image:
        """Decode a file to 8-bit RGB, whatever its mode; see :mod:`decompose_cli.datasets.pixels`.

        Raises:
            InputError: The file is no image, is damaged, or its pixels have more than one reading.
        """
        path = self.paths[number]
        with open_image(path) as image:
            numbers = numbers_in(image)
            image.load()
            rgb = to_rgb(image, numbers, path)
            seen = _seen_of(image, numbers)
        self._seen[number] = int(seen)
        return rgb

    def say(self) -> None:
        """Say what was seen of the files that have been read, each thing once."""
        read = int(self._seen.count_nonzero())
        for kind, (what, advice) in _SAID.items():
            concerned = (self._seen & int(kind)).nonzero()[:, 0].tolist()
            if concerned and kind not in self._said:
                self._said.add(kind)
                names = first_few(self.paths[number] for number in concerned)
                warn(f"{what}: {len(concerned):,} of {read:,} ({names}); {advice}.")


def _seen_of(image: Image.Image, numbers: Numbers) -> _Seen:
    """Look at an image that has been decoded; that of which the file speaks nonsense does not matter to its pixels."""
    seen = _Seen.READ
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, has_it in _CHECKS.items():
            with suppress(Exception):
                if has_it(image, numbers):
                    seen |= kind
    return seen


def _is_turned(image: Image.Image, _: Numbers) -> bool:
    """Whether an image is still to be turned; Pillow turns TIFF files by itself, and forgets the mark."""
    return image.getexif().get(Base.Orientation) in range(2, 9)


def _is_transparent(image: Image.Image, _: Numbers) -> bool:
    """Whether an image has pixels that are not opaque."""
    colour = image.info.get("transparency")
    if colour is not None:
        if image.mode.startswith("I"):
            return bool((np.asarray(image) == colour).any())
        image = image.convert("RGBA")
    last = image.getbands()[-1]
    return last in "Aa" and image.getchannel(last).getextrema() != (255, 255)


def _has_several(image: Image.Image, _: Numbers) -> bool:
    """Whether a file has pictures after the first, which is left for the next to see that there is one."""
    return bool(getattr(image, "is_animated", False))


_CHECKS: dict[_Seen, Callable[[Image.Image, Numbers], bool]] = {
    _Seen.TURNED: _is_turned,
    _Seen.TRANSPARENT: _is_transparent,
    _Seen.DIM: is_dim,
    _Seen.SEVERAL: _has_several,
}
