"""Numbers in image files: those with one reading are scaled to 0..255, others are refused by name."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.inputs import read_rgb
from PIL import Image

from decompose_cli.decomposition.chosen_images import from_files
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import CIFAR

GREY = np.arange(1024, dtype=np.uint8).reshape(32, 32)  # every grey level four times
DIM = GREY // 4
RGB = np.dstack([GREY, GREY[::-1], GREY.T])
BLACK = np.zeros((32, 32), dtype=np.uint8)
MASK = GREY > 127
SHARE = (GREY / 255).astype(np.float32)

Saved = tuple[str, Any, dict[int, Any]]
"""Suffix, pixels, and TIFF tags."""


def tiff(pixels: Any, **tags: int) -> Saved:
    numbers = {"photometric": 262, "bits": 258, "sample_format": 339}
    return "tif", pixels, {numbers[name]: value for name, value in tags.items()}


def bare_tiff(data: bytes, bits: int, sample_format: int = 1, photometric: int = 1, alpha: int | None = None) -> bytes:
    """An uncompressed grey TIFF of 32 x 32 pixels, as Pillow reads it and does not write it."""
    samples = 1 if alpha is None else 2
    tags = [(256, 1, 32), (257, 1, 32), (258, samples, bits * 65537 if samples == 2 else bits), (259, 1, 1)]
    tags += [(262, 1, photometric), (273, 1, 8), (277, 1, samples), (278, 1, 32), (279, 1, len(data))]
    tags += [] if alpha is None else [(338, 1, alpha)]
    tags += [(339, samples, sample_format * 65537 if samples == 2 else sample_format)]
    rows = b"".join(struct.pack("<HHII", tag, 3, count, value) for tag, count, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + rows + bytes(4)


def packed_12_bits(values: np.ndarray) -> bytes:
    first, second = values.reshape(-1, 2).T.astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


def pgm(highest: int, values: np.ndarray) -> bytes:
    return f"P5 32 32 {highest}\n".encode() + values.astype(">u2").tobytes()


def png_16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, (32, 32, channels), which Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 32, 32, 16, {2: 4, 3: 2, 4: 6}[values.shape[2]], 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


PACKED = ("raw", "tiff_lzw", "tiff_adobe_deflate")


def tiff_16(values: np.ndarray, compression: str) -> bytes:
    """A TIFF of 16 bits a channel, (32, 32, 3), made of one of 8 bits with twice as many columns."""
    buffer = io.BytesIO()
    octets = np.ascontiguousarray(values, dtype="<u2").view(np.uint8).reshape(32, 64, 3)
    Image.fromarray(octets).save(buffer, "TIFF", compression=compression)
    content = bytearray(buffer.getvalue())
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, _, _, value = struct.unpack_from("<HHII", content, entry)
        if tag == 256:
            struct.pack_into("<I", content, entry + 8, 32)
        elif tag == 258:
            struct.pack_into("<HHH", content, value, 16, 16, 16)
    return bytes(content)


def opaque_black(bands: int) -> np.ndarray:
    """Pixels of 16 bits (32, 32, bands), of which the second of two bands and the fourth of four are transparency."""
    pixels = np.zeros((32, 32, bands), dtype=np.uint16)
    pixels[..., bands - 1] = 0 if bands == 3 else 0xFF00
    return pixels


def write(saved: Saved, path: Path) -> Path:
    suffix, pixels, tags = saved
    file = path / f"image.{suffix}"
    if isinstance(pixels, bytes):
        file.write_bytes(pixels)
    else:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(file, **({"tiffinfo": tags} if tags else {}))
    return file


READ: dict[str, tuple[Saved, np.ndarray]] = {
    "real, 0 to 1": (tiff(SHARE), GREY),
    "real, 0 to 1, at most half": (tiff(SHARE / 4), np.rint(GREY / 4.0)),
    "real, whole, 0 to 255": (tiff(GREY.astype(np.float32)), GREY),
    "real, all 0": (tiff(BLACK.astype(np.float32)), BLACK),
    "real, 0 to 1, 0 is white": (tiff(1 - SHARE, photometric=0), GREY),
    "32 bits": (tiff(GREY.astype(np.int32)), GREY),
    "32 bits, dim": (tiff(DIM.astype(np.int32)), DIM),
    "signed 16 bits": (("tif", bare_tiff(GREY.astype("<i2").tobytes(), 16, 2), {}), GREY),
    "signed 8 bits, not negative": (("tif", bare_tiff((GREY // 2).tobytes(), 8, 2), {}), GREY // 2),
    "unsigned 32 bits": (("tif", bare_tiff(GREY.astype("<u4").tobytes(), 32, 1), {}), GREY),
    "16 bits": (tiff(GREY.astype(np.uint16) * 257), GREY),
    "16 bits PNG": (("png", GREY.astype(np.uint16) * 257, {}), GREY),
    "16 bits, all 0": (("png", BLACK.astype(np.uint16), {}), BLACK),
    "16 bits, 0 is white": (tiff(65535 - GREY.astype(np.uint16) * 257, photometric=0), GREY),
    "12 bits": (("tif", bare_tiff(packed_12_bits(GREY.astype(int) * 16 + 15), 12), {}), GREY),
    "PGM up to 65535": (("pgm", pgm(65535, GREY.astype(int) * 257), {}), GREY),
    "PGM up to 1023": (
        ("pgm", pgm(1023, GREY.astype(int) * 4 + 3), {}),
        np.round((GREY * 4.0 + 3) / 1023 * 65535) // 256,
    ),
    "colours of 16 bits": (("png", png_16(RGB.astype(np.uint16) * 257), {}), RGB),
    **{f"colours of 16 bits, {how}": (("tif", tiff_16(RGB.astype(np.uint16) * 257, how), {}), RGB) for how in PACKED},
    **{f"{bands} bands of 16 bits, all 0": (("png", png_16(opaque_black(bands)), {}), BLACK) for bands in (2, 3, 4)},
    **{f"colours of 16 bits, all 0, {how}": (("tif", tiff_16(opaque_black(3), how), {}), BLACK) for how in PACKED},
    "1 bit": (("png", MASK, {}), MASK * 255),
    "8 bits, 0 is white": (("tif", bare_tiff((255 - GREY).tobytes(), 8, photometric=0), {}), GREY),
    "8 bits, nearly black": (("png", GREY // 128, {}), GREY // 128),
}


@pytest.mark.parametrize("name", READ)
def test_numbers_with_one_reading_become_grey_levels(name: str, tmp_path: Path) -> None:
    saved, expected = READ[name]
    file = write(saved, tmp_path)
    expected = np.broadcast_to(expected[..., None], (32, 32, 3)) if expected.ndim == 2 else expected
    found = np.asarray(read_rgb(file))
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    (explained,) = from_files([file], CIFAR)  # explain reads image files in its own way
    assert np.array_equal(explained.pixels.permute(1, 2, 0).numpy(), expected)


def test_associated_transparency_of_grey_images_is_undone(tmp_path: Path) -> None:
    pixels = np.stack([DIM, BLACK + 128], 2)  # grey levels times the share that covers, half of it
    (tmp_path / "image.tif").write_bytes(bare_tiff(pixels.tobytes(), 8, alpha=1))
    found = np.asarray(read_rgb(tmp_path / "image.tif"))[..., 0]
    assert np.abs(found - DIM / (128 / 255)).max() <= 1


NOT_READ: dict[str, tuple[Saved, str]] = {
    "real, NaN": (tiff(np.where(MASK, np.nan, SHARE).astype(np.float32)), "NaN or infinite"),
    "real, infinite": (tiff(np.where(MASK, np.inf, SHARE).astype(np.float32)), "NaN or infinite"),
    "real, negative": (tiff(SHARE - np.float32(0.5)), "go from -0.5 to 0.5; "),
    "real, a little above 1": (tiff(SHARE * np.float32(1.1)), "go from 0 to 1.1; "),
    "real, not whole, to 255": (tiff(GREY * np.float32(0.99)), "go from 0 to 252.45; "),
    "real, to 65535": (tiff(GREY.astype(np.float32) * 257), "go from 0 to 65535; "),
    "real, 0 and 1": (tiff(MASK.astype(np.float32)), "1 could be white, or the darkest of 255 greys"),
    "32 bits, negative": (tiff(GREY.astype(np.int32) - 1), "go from -1 to 254; "),
    "32 bits, above 255": (tiff(GREY.astype(np.int32) * 257), "go from 0 to 65535; "),
    "signed 16 bits, negative": (("tif", bare_tiff((GREY.astype("<i2") - 128).tobytes(), 16, 2), {}), "-128 to 127; "),
    "signed 8 bits, negative": (("tif", bare_tiff(GREY.tobytes(), 8, 2), {}), "go from -128 to 127; "),
    "16 bits with 8": (("png", GREY.astype(np.uint16), {}), "go from 0 to 255, which is black where white is 65535"),
    "12 bits with 8": (("tif", bare_tiff(packed_12_bits(GREY), 12), {}), "which is black where white is 4095"),
    "colours of 16 bits with 8": (("png", png_16(RGB.astype(np.uint16)), {}), "are below 256, which is black"),
    "grey and alpha of 16 bits with 8": (("png", png_16(opaque_black(2) + 9), {}), "are below 256, which is black"),
    "colours and alpha of 16 bits with 8": (("png", png_16(opaque_black(4) + 9), {}), "are below 256, which is black"),
    **{f"colours of 16 bits with 8, {how}": (("tif", tiff_16(RGB, how), {}), "are below 256, which") for how in PACKED},
}


@pytest.mark.parametrize("name", NOT_READ)
def test_numbers_with_several_readings_are_refused_by_name(name: str, tmp_path: Path) -> None:
    saved, fragment = NOT_READ[name]
    file = write(saved, tmp_path)
    for read in (read_rgb, lambda path: from_files([path], CIFAR)):
        with pytest.raises(InputError, match=re.escape(fragment)) as refusal:
            read(file)
        assert str(file) in refusal.value.message


GREY_16 = GREY.astype(np.uint16) * 16
DARK: dict[str, Saved] = {
    "12 bits in 16, grey PNG": ("png", GREY_16 + 15, {}),
    "12 bits in 16, grey TIFF": tiff(GREY_16 + 15),
    "12 bits in 16, PGM": ("pgm", pgm(65535, GREY_16 + 15), {}),
    "12 bits in 16, colours": ("png", png_16(np.dstack([GREY_16 + 15] * 3)), {}),
    "12 bits in 16, grey and alpha": ("png", png_16(np.dstack([GREY_16, GREY_16 * 0 + 65535])), {}),
    "12 bits in 16, colours, TIFF": ("tif", tiff_16(np.dstack([GREY_16 + 15] * 3), "tiff_lzw"), {}),
    "10 bits in 16": ("png", GREY.astype(np.uint16) * 4, {}),
}
NOT_DARK: dict[str, Saved] = {
    "a little more": ("png", GREY_16 + 16, {}),
    "a little more, colours": ("png", png_16(np.dstack([GREY_16 + 16] * 3)), {}),
    "black": ("png", BLACK.astype(np.uint16), {}),
    "black, colours": ("png", png_16(opaque_black(3)), {}),
    "dim, of 8 bits": ("png", DIM // 8, {}),
    "12 bits that the file says": ("tif", bare_tiff(packed_12_bits(GREY.astype(int) * 16), 12), {}),
    "PGM up to 4095": ("pgm", pgm(4095, GREY_16), {}),
}


@pytest.mark.parametrize(
    ("saved", "is_dark"),
    [*((saved, True) for saved in DARK.values()), *((saved, False) for saved in NOT_DARK.values())],
    ids=[*DARK, *NOT_DARK],
)
def test_16_bits_of_which_few_are_used_are_counted(
    saved: Saved, is_dark: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(saved, tmp_path)
    from_files([file], CIFAR)
    assert caplog.messages == [
        f"Images of 16 bits stay below a sixteenth of white, and are read as dark as that: 1 of 1 ({file}); scale them "
        "to 65535 where their white is less, as that of 12 bits is."
    ] * int(is_dark)
