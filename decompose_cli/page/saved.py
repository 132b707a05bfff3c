"""Pictures that commands wrote beside their results."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_BYTES, _MOST_PIXELS = 40_000_000, 40_000_000


def saved_image(context: Context, source: Source, name: str | None) -> Image | None:
    """A PNG file that the command wrote beside its result; a result file can name no other place.

    Returns:
        The image; None where there is none, or none that can be used.
    """
    if name is None:
        return None
    path = source.path.parent / Path(name).name
    return _opened(path, context.unwritten.get(path))


def _opened(path: Path, content: object) -> Image | None:
    from PIL import Image

    try:
        file = BytesIO(content) if isinstance(content, bytes) else path
        if file is path and (not path.is_file() or path.stat().st_size > _MOST_BYTES):  # a pipe would wait for ever
            return None
        with warnings.catch_warnings(), Image.open(file, formats=["PNG"]) as opened:
            warnings.simplefilter("ignore")
            if opened.width * opened.height > _MOST_PIXELS:
                return None
            opened.load()
            return opened.copy()
    except Exception:  # a damaged file can raise nearly anything
        return None
