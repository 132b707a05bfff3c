"""Image files as 8-bit RGB, for data sets and single images alike, and what is said of those that were read.

There is one way to read a file, that of torchvision's ``ImageFolder``, with which networks are trained and their
published accuracy is measured: the pixels as they are stored, whatever EXIF data say of how to turn them; colours
without their transparency; the first of several pictures. What is passed over is counted by files, and said once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.ExifTags import Base

from decompose_cli.datasets.decoding import Encoded, open_image, unheard
from decompose_cli.datasets.pixels import Numbers, is_dim, numbers_in, to_rgb
from decompose_cli.errors import first_few
from decompose_cli.messages import warn_of_first
from decompose_cli.storage.fingerprints import digest_of

READING = 2
"""Counted up when the same files give other pixels, so that nothing made of the earlier ones is taken for theirs."""


# What was seen of a file; plain numbers, as an IntFlag costs small images a tenth of their time.
_READ, _TURNED, _TRANSPARENT, _SEVERAL, _DIM = (1 << bit for bit in range(5))

_SAID = {
    _TURNED: (
        "Images that are turned by their EXIF data are read unturned, as torchvision reads them",
        "save them turned where they should be",
    ),
    _TRANSPARENT: (
        "Images with transparent parts are read without their transparency, in the colours that are stored there",
        "put them on a ground where those are not meant to be seen",
    ),
    _SEVERAL: (
        "Of files with several pictures or pages the first is read",
        "save the others as files of their own where they count",
    ),
    _DIM: (
        "Images of 16 bits stay below a sixteenth of white, and are read as dark as that",
        "scale them to 65535 where their white is less, as that of 12 bits is",
    ),
}


class ImageFiles:
    """Image files that are read by their numbers, in this process or in those that it starts to decode them.

    Args:
        paths: The files, or what yields them one by one.
        root: The folder that they are images of; what is said of one is said once, whatever data sets read it.
    """

    def __init__(self, paths: Sequence[Path | Encoded], root: Path | None = None) -> None:
        self.paths = paths
        self._root = root
        self._seen = torch.zeros(len(self.paths), dtype=torch.uint8)
        with suppress(RuntimeError):  # without shared memory there are no processes to share it with
            self._seen.share_memory_()  # type: ignore[no-untyped-call]

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
        self._seen.numpy()[number] = seen  # not kept, as it would not be shared with processes that are not forked
        return rgb

    def say(self) -> None:
        """Say what was seen of the files that have been read, each thing once.

        Of several processes that train, each reads its share, and the first speaks.
        """
        read = f"{int(self._seen.count_nonzero()):,}"
        group = torch.distributed
        if group.is_available() and group.is_initialized() and group.get_world_size() > 1:
            read += " that this process read"
        for kind, (what, advice) in _SAID.items():
            concerned = (self._seen & kind).nonzero()[:, 0].tolist()
            if concerned:
                names = first_few(self.paths[number] for number in concerned)
                warn_of_first(f"{what} {self._of_which}", f"{what}: {len(concerned):,} of {read} ({names}); {advice}.")

    @cached_property
    def _of_which(self) -> str:
        if self._root is not None:
            return str(self._root.resolve())
        return digest_of([str(path if isinstance(path, Encoded) else path.resolve()) for path in self.paths])


def _seen_of(image: Image.Image, numbers: Numbers) -> int:
    """Look at an image that has been decoded; that of which the file speaks nonsense does not matter to its pixels."""
    seen = _READ
    with unheard():
        for kind, has_it in _CHECKS:
            try:
                if has_it(image, numbers):
                    seen |= kind
            except Exception:  # decoders raise nearly anything
                pass
    return seen


def _is_turned(image: Image.Image, _: Numbers) -> bool:
    """Whether an image is still to be turned; Pillow turns TIFF files by itself, and forgets the mark."""
    return bool(image.info) and image.getexif().get(Base.Orientation) in range(2, 9)


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


_CHECKS: list[tuple[int, Callable[[Image.Image, Numbers], bool]]] = [
    (_TURNED, _is_turned),
    (_TRANSPARENT, _is_transparent),
    (_DIM, is_dim),
    (_SEVERAL, _has_several),
]
