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

from PIL import Image, ImageFile

from decompose_cli.datasets.libtiff import damage_as_warnings
from decompose_cli.datasets.overlapping import Overlapping
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.progress import warn_of_first

# Those that the content of a file may have, whatever its name says. Pillow knows some that start other programs, as EPS
# starts Ghostscript. JPEG includes the photographs of several frames that some cameras write.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")

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
    try:
        return Image.open(io.BytesIO(path.content) if isinstance(path, Encoded) else path, formats=FORMATS)
    except FileNotFoundError:
        raise InputError(f"The image {path} does not exist.") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise DecomposeError(f"The image {path} cannot be opened: {error.strerror}.") from error
        if isinstance(error, OSError) and error.strerror and not isinstance(path, Encoded):
            raise InputError(f"The image {path} cannot be read: {error.strerror}.") from error
        raise InputError(
            f"{path} is not an image that can be read.",
            hint=f"The formats {', '.join(FORMATS)} are read, whatever the name of the file says.",
        ) from error
