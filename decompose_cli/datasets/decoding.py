"""Open image files: in a fixed list of formats, and with what decoders say turned into sentences that name the file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from PIL import Image, ImageFile

from decompose_cli.datasets.libtiff import damage_as_warnings
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.progress import warn_of_first

# Those that the content of a file may have, whatever its name says. Pillow knows some that start other programs, as EPS
# starts Ghostscript. JPEG includes the photographs of several frames that some cameras write.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image file, of which only the header is read, and close it after the block, which may decode it.

    A warning of the decoder is passed on with the name of the file, once for all images that give the same.

    Raises:
        InputError: The file is no image in one of these formats, cannot be read, or is found damaged in the block.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with _opened(path) as image, damage_as_warnings() if image.format == "TIFF" else nullcontext():
            try:
                yield image
            except DecomposeError:
                raise
            except Exception as error:  # decoders raise nearly anything
                raise InputError(f"The image {path} is damaged and cannot be decoded.") from error
    for text in dict.fromkeys(str(warning.message).strip().rstrip(".") for warning in said):
        warn_of_first(re.sub(r"\d+", "0", text), f"Decoding {path} gave a warning: {text}.")


def _opened(path: Path) -> ImageFile.ImageFile:
    try:
        return Image.open(path, formats=FORMATS)
    except FileNotFoundError:
        raise InputError(f"The image {path} does not exist.") from None
    except Exception as error:
        raise InputError(
            f"{path} is not an image that can be read.",
            hint=f"The formats {', '.join(FORMATS)} are read, whatever the name of the file says.",
        ) from error
