"""Image files: a fixed list of formats, and every decoder's errors and warnings as sentences that name the file."""

from __future__ import annotations

import ast
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command_line import REFUSED, refused, run, warnings_in
from helpers.inputs import GOOD, jpeg, png_of_size, put, read_rgb
from PIL import EpsImagePlugin, Image, PngImagePlugin

import decompose_cli
from decompose_cli.datasets.decoding import FORMATS, open_image
from decompose_cli.decomposition.chosen_images import from_files
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import CIFAR


def written(kind: str, mode: str = "RGB", **how: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **how)
    return buffer.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of this name that leaves a trace when it is started; returns the trace."""
    trace, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {trace}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return trace


@pytest.mark.parametrize("name", ["1.png", "1.jpg", "1.tif"])
def test_no_program_is_started_for_an_image(name: str, ghostscript: Path, tmp_path: Path) -> None:
    put(tmp_path / "images", {f"test/3/{name}": EPS})
    said = refused(["validate", "--dataset", f"folder:{tmp_path / 'images'}"], REFUSED, f"{name} is not an image that")
    assert "PNG, JPEG" in said
    refused(
        ["explain", "resnet20-digits", str(tmp_path / "images/test/3" / name)], REFUSED, f"{name} is not an image that"
    )
    assert not ghostscript.exists()
    with pytest.raises(OSError), Image.open(io.BytesIO(EPS)) as opened:  # noqa: PT011 - what one sees otherwise
        opened.load()
    assert ghostscript.exists()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "MPO"])
def test_formats_are_read_whatever_the_name_says(kind: str) -> None:
    frames = {"save_all": True, "append_images": [Image.new("RGB", (32, 32))]} if kind == "MPO" else {}
    Path("1.png").write_bytes(written(kind, **frames))
    assert read_rgb(Path("1.png")).size == (32, 32)


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PDF", "ICNS", "PCX", "JPEG2000", "SGI", "DDS"])
def test_other_formats_are_refused_whatever_the_name_says(kind: str) -> None:
    assert kind not in FORMATS
    Path("1.png").write_bytes(written(kind))
    with pytest.raises(InputError, match=r"^1\.png is not an image that can be read\.$"):
        read_rgb(Path("1.png"))


def test_every_place_of_the_package_that_opens_images_says_in_which_formats() -> None:
    calls = []
    for path in Path(decompose_cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                calls.append((path.name, [keyword.arg for keyword in node.keywords]))
    assert len(calls) >= 3
    assert [name for name, keywords in calls if "formats" not in keywords] == []


# --- warnings ---------------------------------------------------------------------------------------------------------


def png_with(kind: bytes, data: bytes) -> bytes:
    """A good PNG with a chunk more after its header."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return GOOD[:33] + chunk + GOOD[33:]


WARNINGS = {
    "palette with transparency": (
        written("PNG", "P", transparency=bytes(range(256))),
        "Palette images with",
    ),
    "broken EXIF": (written("JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"), "Corrupt EXIF data"),
    "large image": (written("PPM"), "Image size (1024 pixels) exceeds limit of 1000 pixels"),
}
NO_WARNINGS = {
    "bad ICC profile": written("PNG", icc_profile=b"garbage"),
    "bad ICC profile in a JPEG": written("JPEG", icc_profile=b"garbage"),
    "ICC profile that is not compressed": png_with(b"iCCP", b"name\x00\x00garbage"),
    "animation that lacks frames": png_with(b"acTL", struct.pack(">II", 1 << 30, 0)),
    "text": png_with(b"tEXt", b"Comment\x00\x1b[31mred"),
    "one transparent colour": written("GIF", "P", transparency=0),
    "CMYK": written("JPEG", "CMYK"),
}


@pytest.mark.parametrize(("content", "text"), WARNINGS.values(), ids=WARNINGS)
def test_warnings_of_decoders_are_sentences_with_the_first_file(
    content: bytes, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000 if text.startswith("Image size") else 1024)
    put(tmp_path / "images", {"test/3/0.png": GOOD, **{f"test/3/{number}.png": content for number in (1, 2)}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = run("validate", "-j", "0", "--dataset", f"folder:{tmp_path / 'images'}").stderr
    (found,) = [line for line in warnings_in(said) if text in line]
    first = 0 if text.startswith("Image size") else 1
    assert found.startswith(f"Decoding {tmp_path / f'images/test/3/{first}.png'} gave a warning: ")


@pytest.mark.parametrize("content", NO_WARNINGS.values(), ids=NO_WARNINGS)
def test_what_decoders_pass_over_is_read(content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    Path("1.png").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_rgb(Path("1.png")).size == (32, 32)
        assert len(from_files([Path("1.png")], CIFAR)) == 1
    assert capfd.readouterr().err == ""


def test_warnings_of_processes_that_decode_are_sentences_too(tmp_path: Path) -> None:
    first = {f"test/3/{number}.jpg": jpeg(100) for number in range(8)}  # which this process looks at itself
    put(tmp_path / "images", {**first, "test/3/z.png": WARNINGS["broken EXIF"][0]})
    log, handler = logging.getLogger("decompose_cli"), logging.FileHandler("log")
    log.addHandler(handler)  # a process that is forked inherits it
    try:
        said = run("validate", "--no-cache", "-j", "1", "--dataset", f"folder:{tmp_path / 'images'}").stderr
    finally:
        log.removeHandler(handler)
    assert "Decoding" not in said
    (line,) = Path("log").read_text().splitlines()
    assert line.startswith(f"Decoding {tmp_path / 'images/test/3/z.png'} gave a warning: Corrupt EXIF data")


# --- errors -----------------------------------------------------------------------------------------------------------

DAMAGED = {
    **{f"{kind} cut off": written(kind)[:300] for kind in ("JPEG", "BMP", "PPM", "TIFF", "WEBP")},
    "GIF cut off": written("GIF", "P")[:300],
    "PNG cut off": GOOD[:-1500],
    "PNG that says a size only": png_of_size(32, 32),
    "bomb": png_of_size(60_000, 60_000),
    "numbers that are words": b"P3 2 2 255 1 2 x",
    "negative size": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -5, 5, 1, 24, 0, 0, 0, 0, 0, 0),
    "bomb of text": png_with(b"zTXt", b"Comment\x00\x00" + zlib.compress(b"x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1))),
    "LZW that is none": written("TIFF", compression="tiff_lzw")[:200] + b"\xff" * 2000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("read", [read_rgb, lambda path: from_files([path], CIFAR)], ids=["data set", "explain"])
def test_errors_of_decoders_are_sentences_with_the_file(content: bytes, read: Callable[[Path], object]) -> None:
    Path("1.png").write_bytes(content)
    said = r"^(The image )?1\.png (is damaged and cannot be|is not an image that can be|has too many pixels)"
    with pytest.raises(InputError, match=said):
        read(Path("1.png"))


@pytest.mark.parametrize(
    "error", [KeyError("x"), struct.error("y"), MemoryError(), RecursionError(), ZeroDivisionError()]
)
@pytest.mark.parametrize("method", ["open", "load"])
def test_whatever_decoders_raise_is_a_sentence(error: Exception, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("1.png").write_bytes(GOOD)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(*((Image, "open") if method == "open" else (PngImagePlugin.PngImageFile, "load")), fail)
    with pytest.raises(InputError, match=r"1\.png is"):
        read_rgb(Path("1.png"))


def test_sentences_of_ours_are_left_as_they_are_and_the_file_is_closed() -> None:
    Path("1.png").write_bytes(GOOD)
    with pytest.raises(InputError, match=r"^ours$"), open_image(Path("1.png")) as image:
        raise InputError("ours")
    assert image.fp is None


def test_what_is_no_image_file() -> None:
    Path("folder.png").mkdir()
    for name, sentence in (("folder.png", "cannot be read: Is a directory"), ("none.png", "does not exist")):
        with pytest.raises(InputError, match=f"The image {name} {sentence}"):
            read_rgb(Path(name))
