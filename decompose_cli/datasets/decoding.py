"""Open image files: in a fixed list of formats, and with what decoders say turned into sentences that name the file."""

from __future__ import annotations

import errno
import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

from decompose_cli.datasets.libtiff import damage_as_warnings
from decompose_cli.datasets.overlapping import Overlapping
from decompose_cli.errors import DecomposeError, InputError, first_line
from decompose_cli.messages import warn_of_first
from decompose_cli.storage.ordinary_files import FREE

# Those that the content of a file may have, whatever its name says. Pillow knows some that start other programs, as EPS
# starts Ghostscript. JPEG includes the photographs of several frames that some cameras write.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")

_TIMES = 500
"""How many times as long as its file an image may be; photographs are 50 times, scans of drawings 350."""
_WEBP = "WEBP"
_OTHERS = tuple(name for name in FORMATS if name != _WEBP)
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(frozen=True)
class Encoded:
    """An image file that lies in another file.

    Attributes:
        name: What a person finds it by: the file that it lies in, and its name there.
        content: Its bytes.
    """

    name: str
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name


class _Heard(threading.local):
    """Texts of the warnings in the block that this thread is in; None outside."""

    texts: list[str] | None = None


_heard = _Heard()


@contextmanager
def _heard_by_threads() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        elsewhere = warnings.showwarning

        def hear(message: Warning | str, *more: Any) -> None:
            if _heard.texts is None:
                elsewhere(message, *more)
            else:
                _heard.texts.append(str(message))

        warnings.showwarning = hear  # type: ignore[assignment]
        yield


_warnings_to_threads = Overlapping(_heard_by_threads)


@contextmanager
def unheard() -> Iterator[None]:
    """Pass over what decoders say, within a block of :func:`open_image`, of what does not matter to its image."""
    before, _heard.texts = _heard.texts, []
    try:
        yield
    finally:
        _heard.texts = before


@contextmanager
def open_image(path: Path | Encoded) -> Iterator[ImageFile.ImageFile]:
    """Open an image file, of which only the header is read, and close it after the block, which may decode it.

    A warning of the decoder is passed on with the name of the file, once for all images that give the same.

    Raises:
        InputError: The file is no image in one of these formats, cannot be read, or is found damaged in the block.
        DecomposeError: No more files can be opened, whichever image it is.
    """
    said: list[str] = []
    before, _heard.texts = _heard.texts, said
    try:
        with _warnings_to_threads, _opened(path) as image:
            _check_size(image.width, image.height, len(image.getbands()), path)
            try:
                if image.format == "TIFF":
                    with damage_as_warnings:
                        yield image
                else:
                    yield image
            except DecomposeError:
                raise
            except Exception as error:  # decoders raise nearly anything
                raise InputError(f"The image {path} is damaged and cannot be decoded.") from error
    finally:
        _heard.texts = before
    for text in dict.fromkeys(text.strip().rstrip(".") for text in said):
        warn_of_first(re.sub(r"\d+", "0", text), f"Decoding {path} gave a warning: {text}.")


def _opened(path: Path | Encoded) -> ImageFile.ImageFile:
    def opened(formats: tuple[str, ...]) -> ImageFile.ImageFile:
        return Image.open(io.BytesIO(path.content) if isinstance(path, Encoded) else path, formats=formats)

    try:
        try:
            return opened(_OTHERS)
        except UnidentifiedImageError:
            _check_webp(path)
            return opened((_WEBP,))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"The image {path} does not exist.") from None
    except Image.DecompressionBombError as error:
        raise InputError(
            f"The image {path} has too many pixels: {first_line(error)}.",
            hint="Save it with fewer pixels.",
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise DecomposeError(f"The image {path} cannot be opened: {error.strerror}.") from error
        if isinstance(error, OSError) and error.strerror and not isinstance(path, Encoded):
            raise InputError(f"The image {path} cannot be read: {error.strerror}.") from error
        raise InputError(
            f"{path} is not an image that can be read.",
            hint=f"The formats {', '.join(FORMATS)} are read, whatever the name of the file says.",
        ) from error


def _check_size(width: int, height: int, bands: int, path: Path | Encoded) -> None:
    """Refuse an image that is far larger decoded; a few bytes can stand for hundreds of millions of equal pixels."""
    decoded = width * height * bands
    if decoded <= FREE:
        return
    size = len(path.content) if isinstance(path, Encoded) else path.stat().st_size
    if decoded > _TIMES * size:
        raise InputError(
            f"The image {path} of {size / 1e6:,.1f} MB says that it has {width:,} x {height:,} pixels, and would "
            f"become {decoded / 1e6:,.0f} MB.",
            hint="Save it with fewer pixels.",
        )


def _check_webp(path: Path | Encoded) -> None:
    """As :func:`_check_size`, for a format of which Pillow's decoder makes room for two pictures when it is opened."""
    if isinstance(path, Encoded):
        head = path.content[:30]
    else:
        with path.open("rb") as file:
            head = file.read(30)
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return
    kind, size = head[12:16], (0, 0)
    if kind == b"VP8X":
        size = int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    elif kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        size = int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    _check_size(*size, 3, path)
