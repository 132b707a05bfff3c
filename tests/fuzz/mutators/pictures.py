"""Images of other kinds, sizes and colours, and such as claim a size or hold many frames."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from random import Random

from helpers.inputs import png_of_size
from PIL import Image

_KINDS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "EPS", "PDF")
_MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I", "F", "I;16", "YCbCr", "LAB", "HSV", "PA")
_SIZES = ((1, 1), (1, 300), (300, 1), (7, 8), (8, 8), (3, 2000))
_CLAIMS = ((0, 0), (1, 0), (2**31 - 1, 2**31 - 1), (100_000, 100_000), (20_000, 20_000), (70_000, 1))


def picture(random: Random, content: bytes) -> bytes:
    """The image as another one."""
    kind = random.randrange(8)
    if kind == 0:
        return png_of_size(*random.choice(_CLAIMS))
    if kind == 1:
        return _with_chunk(random, content)
    if kind == 2:
        return _svg(random)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content)).convert("RGB").convert(random.choice(_MODES))
            image = image.resize(random.choice(_SIZES))
            buffer = io.BytesIO()
            image.save(buffer, random.choice(_KINDS[:7] if random.random() < 0.7 else _KINDS), **_options(random))
            return buffer.getvalue()
    except Exception:  # which of them cannot be saved as which is not ours
        return content[: len(content) // 2]


def _options(random: Random) -> dict[str, object]:
    kind = random.randrange(6)
    if kind == 0:
        exif = Image.Exif()
        exif[0x0112] = random.choice((0, 1, 3, 6, 8, 9, 65535))
        return {"exif": exif}
    if kind == 1:
        return {"save_all": True, "append_images": [Image.new("RGB", (8, 8))] * random.choice((1, 50))}
    if kind == 2:
        return {"compression": random.choice(("tiff_lzw", "jpeg", "group4", "tiff_adobe_deflate", "packbits"))}
    if kind == 3:
        return {"transparency": random.choice((0, 255, b"\0" * 300))}
    if kind == 4:
        return {"icc_profile": random.randbytes(200)}
    return {}


def _with_chunk(random: Random, content: bytes) -> bytes:
    """A PNG gets a chunk more, whose checksum is right."""
    if content[:4] != b"\x89PNG":
        return content[:8] + random.randbytes(8) + content[8:]
    name = random.choice((b"tRNS", b"iCCP", b"tEXt", b"zTXt", b"eXIf", b"gAMA", b"PLTE", b"acTL", b"IHDR", b"IEND"))
    bomb = zlib.compress(b"\0" * 20_000_000)
    data = random.choice((b"", random.randbytes(20), b"a\0\0" + bomb, b"k\0v" * 1000, b"\0" * 769))
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content[:33] + chunk + content[33:]


def _svg(random: Random) -> bytes:
    return random.choice(
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"BM")
    )
