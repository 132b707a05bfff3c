"""What is small as a file or an option, and huge once it is opened, ends in a sentence within 2 seconds and 500 MB."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.checkpoints import saved
from helpers.command_line import refused
from helpers.inputs import ALL_DIGITS, put
from helpers.limited import limited, sentence_within_limits
from PIL import Image
from torch import Tensor

from decompose_cli.datasets import stored
from decompose_cli.features.cache import features_folder
from decompose_cli.models.torch_files import read_torch
from decompose_cli.processes.cores import cores

# Imported here, they count as libraries, not as work: the copies of this process have them.
from decompose_cli.engines import essential, explain, extract_indices, finetune, lr_find, train, validate  # noqa: F401 # isort: skip
from decompose_cli.page import report  # noqa: F401 # isort: skip

VALIDATE = ("validate", "--json", "-q", "--no-cache")


# --- weights ----------------------------------------------------------------------------------------------------------


def deflated(content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for info in source.infolist():
            packed.writestr(info.filename, source.read(info))
    return target.getvalue()


def nested(times: int, width: int) -> Any:
    value: Any = {}
    for _ in range(times):
        value = {str(number): value for number in range(width)}
    return value


def header(shape: list[int], end: int) -> bytes:
    text = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(text)) + text


WEIGHTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "view.pth": (lambda: saved({"x": torch.zeros(1).expand(10**12)}), "repeats its numbers (x)"),
    "matrix.pth": (
        lambda: saved({"fc.weight": torch.zeros(1).expand(10**6, 10**6)}),
        "repeats its numbers (fc.weight)",
    ),
    "many_views.pth": (
        lambda: saved({f"x{number}": torch.zeros(1).expand(1 << 20) for number in range(200)}),
        "repeats its numbers (x0, x1, x2, ...)",
    ),
    "inner.pth": (lambda: saved({"state_dict": {"x": torch.zeros(9).expand(10**9, 9)}}), "repeats its numbers (x)"),
    "shared.pth": (
        lambda: saved(dict.fromkeys(map(str, range(1000)), torch.zeros(1 << 18))),
        "does not say which network it belongs to",
    ),
    "repeated.pth": (lambda: saved({"x": torch.zeros(1), "y": nested(4, 100)}), "repeats its numbers: it would become"),
    "deep.pth": (lambda: saved({"x": torch.zeros(1), "y": nested(200, 1)}), "more than 100 deep in one another"),
    "deflated.pth": (lambda: deflated(saved({"x": torch.zeros(1 << 27, dtype=torch.uint8)})), "are packed into it"),
    "marks.pth": (
        lambda: b"\x80\x02" + b"(" * 1_000_000 + b"l" * 1_000_000 + b".",
        "plain values beside its tensors, too many",
    ),
    "promises.safetensors": (lambda: header([10**12], 4 * 10**12), "is damaged or not safetensors"),
    "overflows.safetensors": (lambda: header([2**62, 4], 0), "is damaged or not safetensors"),
    "long_header.safetensors": (lambda: struct.pack("<Q", 2**62) + b"{}", "is damaged or not safetensors"),
    "spaces.safetensors": (
        lambda: struct.pack("<Q", 11_000_000) + b"{" + b" " * 10_999_998 + b"}",
        "has a header of 11 MB",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_would_fill_the_memory_are_refused(inputs: Path, name: str) -> None:
    make, sentence = WEIGHTS[name]
    (inputs / name).write_bytes(make())
    assert sentence in sentence_within_limits(*VALIDATE, "-w", str(inputs / name))


def test_weights_that_share_and_repeat_a_little_are_read_as_ever(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    content = {"a": whole, "tied": whole, "part": whole[1:], "turned": whole.t(), "wide": torch.ones(1).expand(5, 4)}
    torch.save(content, tmp_path / "w.pth")
    found = read_torch(tmp_path / "w.pth")
    assert all(torch.equal(found[name], value) for name, value in content.items())
    circle: dict[str, Any] = {"x": whole}
    circle["self"] = circle
    torch.save(circle, tmp_path / "c.pth")
    assert torch.equal(read_torch(tmp_path / "c.pth")["x"], whole)


# --- what is no ordinary file -----------------------------------------------------------------------------------------


KINDS = {"pipe": "is a pipe, not a file", "socket": "is a socket, not a file", "device": "is a device, not a file"}
READERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "index file": (".json", (*VALIDATE, "-i")),
    "weights": (".pth", (*VALIDATE, "-w")),
    "weights, safetensors": (".safetensors", (*VALIDATE, "-w")),
    "result": (".json", ("report",)),
    "class map": (".csv", (*VALIDATE, "--class-map")),
    "class map, json": (".json", (*VALIDATE, "--class-map")),
}


def make_special(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.relpath(path))  # the names of sockets are short


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_pipes_sockets_and_devices_are_refused_by_name(inputs: Path, reader: str, kind: str) -> None:
    suffix, arguments = READERS[reader]
    make_special(inputs / f"x{suffix}", kind)
    assert KINDS[kind] in sentence_within_limits(*arguments, str(inputs / f"x{suffix}"))


@pytest.mark.parametrize("kind", ["csv:x.csv", "npz:x.npz", "wds:x.tar"])
def test_data_sets_are_no_pipes(inputs: Path, kind: str) -> None:
    name, _, file = kind.partition(":")
    os.mkfifo(inputs / file)
    assert "is no file" in sentence_within_limits(*VALIDATE, "--dataset", f"{name}:{inputs / file}")


def test_other_files_of_a_folder_are_used_beside_a_pipe(inputs: Path) -> None:
    put(inputs / "few", ALL_DIGITS)
    for kind in KINDS:
        make_special(inputs / f"few/test/3/{kind}.png", kind)
    ended = limited(*VALIDATE[:2], "--no-cache", "-j", "0", "--dataset", f"folder:{inputs / 'few'}")
    assert ended.code == 0, ended.said
    assert '"total": 10' in ended.said


@pytest.mark.parametrize("name", [".decompose-journal", ".lock", "config.json", "last.pt", "result.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_a_run_that_are_pipes_and_devices_hold_nobody_up(runs: Path, name: str, kind: str) -> None:
    (runs / "stopped" / name).unlink(missing_ok=True)
    make_special(runs / "stopped" / name, kind)
    ended = limited("train", "--resume", "stopped", "-j", "0", "-q")
    assert ended.code in (0, 1, 2), ended.said
    assert "unforeseen" not in ended.said


@pytest.mark.parametrize("name", ["header.json", "head.safetensors", "features.f32", "done"])
@pytest.mark.parametrize("kind", KINDS)
def test_pipes_and_devices_in_an_entry_of_the_cache_are_damage(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    put(inputs / "few", ALL_DIGITS)
    command = (*VALIDATE[:2], "-j", "0", "--dataset", f"folder:{inputs / 'few'}")
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "cache"))
    assert limited(*command).code == 0
    (entry,) = features_folder().glob("*.bank")
    file = next((entry / name).iterdir()) if name == "done" else entry / name
    file.unlink()
    make_special(file, kind)
    ended = limited(*command)
    assert ended.code == 0, ended.said
    assert all((entry / name).is_file() for name in ("header.json", "head.safetensors", "features.f32"))
    assert limited("cache").code == 0


# --- images and arrays ------------------------------------------------------------------------------------------------


def png(width: int, height: int, rows: int) -> bytes:
    """A black image of so many pixels, of which so many rows are there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(rows * (3 * width + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def picture(kind: str, **how: Any) -> bytes:
    """A white image in a format that packs it well."""
    buffer = io.BytesIO()
    Image.new("RGB", (9_000, 8_000), "white").save(buffer, kind, **how)
    return buffer.getvalue()


PICTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG": (lambda: png(8_000, 8_000, 8_000), "says that it has 8,000 x 8,000 pixels, and would become 192 MB"),
    "no pixels": (lambda: png(9_000, 9_000, 0), "says that it has 9,000 x 9,000 pixels"),
    "more than Pillow takes": (lambda: png(30_000, 30_000, 1), "has too many pixels: Image size (900000000 pixels)"),
    "WEBP": (lambda: picture("WEBP", lossless=True), "says that it has 9,000 x 8,000 pixels"),
    "WEBP, lossy": (lambda: picture("WEBP", quality=0), "says that it has 9,000 x 8,000 pixels"),
    "WEBP, extended": (lambda: picture("WEBP", exif=b"Exif\0\0"), "says that it has 9,000 x 8,000 pixels"),
    "TIFF": (lambda: picture("TIFF", compression="tiff_adobe_deflate"), "says that it has 9,000 x 8,000 pixels"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_a_few_bytes_and_many_pixels_are_refused(inputs: Path, name: str) -> None:
    make, sentence = PICTURES[name]
    put(inputs / "few", ALL_DIGITS)
    (inputs / "few/test/3/many.png").write_bytes(make())
    command = (*VALIDATE, "-j", "0", "--dataset", f"folder:{inputs / 'few'}")
    assert sentence in sentence_within_limits(*command)
    assert limited(*command, "--skip-unreadable", "1").code == 0


def test_arrays_that_are_deflated_to_nothing_are_refused(inputs: Path) -> None:
    images, labels = np.zeros((100_000, 32, 32, 3), np.uint8), np.zeros(100_000, int)
    np.savez_compressed(inputs / "images.npz", test_images=images, test_labels=labels)
    said = sentence_within_limits(*VALIDATE, "--dataset", f"npz:{inputs / 'images.npz'}")
    assert "would become 307 MB, of 0.3 MB in the file" in said
    features = np.zeros((1_200_000, 64), np.float32)
    np.savez_compressed(inputs / "features.npz", train_x=features, train_y=np.zeros(1_200_000, int))
    said = sentence_within_limits("sparsify", "-k", "2", "--features", str(inputs / "features.npz"))
    assert "would become 307 MB, of 0.3 MB in the file" in said


def test_not_every_file_is_tried_where_none_is_an_image(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (inputs / "none/test/3").mkdir(parents=True)
    for number in range(300):
        (inputs / f"none/test/3/a{number:03}.png").touch()
    tried: list[object] = []
    opened = stored.open_image
    monkeypatch.setattr(stored, "_MOST_LOOKED_AT", 100)
    monkeypatch.setattr(stored, "open_image", lambda file: (tried.append(file), opened(file))[1])
    said = refused(
        [*VALIDATE, "-j", "0", "--dataset", f"folder:{inputs / 'none'}"], 2, "None of the first 100 images can"
    )
    assert "a000.png is not an image that can be read" in said
    assert len(tried) < 300


# --- text -------------------------------------------------------------------------------------------------------------


RESULT = {
    "schema_version": 1,
    "command": "validate",
    "arguments": {},
    "environment": {},
    "started_at": "",
    "seconds": 1.0,
}
TEXTS = {
    "twice": ("{" + ",".join(['"0":[1]'] * 100_000) + "}", "the key '0' stands twice"),
    "last twice": ("{" + ",".join(f'"{n % 99_999}":[1]' for n in range(100_000)) + "}", "the key '0' stands twice"),
    "deep": ("[" * 10_000 + "]" * 10_000, "its lists lie too deep in one another"),
    "digits": ('{"0":[' + "9" * 1_000_000 + "]}", "a number in it has thousands of digits"),
    "long key, twice": ('{"' + "k" * 1_000_000 + '":1,"' + "k" * 1_000_000 + '":1}', "kkk... stands twice"),
    "NaN": ('{"0":[NaN]}', "NaN is not a JSON number"),
    "objects": ("[" + "{}," * 2_000_000 + "{}]", "lists and objects, and no such file has more than 1,000,000"),
    "numbers": ("[" + "0," * 20_000_000 + "0]", "values, and no such file has more than 15,000,000"),
}
# What commands wrote has an end where memory has one.
OF_RESULTS = {"objects": "x.json is no result of decompose", "numbers": "x.json takes 0.6 GB of memory at least"}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("arguments", [(*VALIDATE, "-i"), ("report",)], ids=["index file", "result"])
def test_json_that_would_take_minutes_or_gigabytes_is_refused(
    inputs: Path, name: str, arguments: tuple[str, ...]
) -> None:
    text, sentence = TEXTS[name]
    (inputs / "x.json").write_text(text)
    said = sentence_within_limits(*arguments, str(inputs / "x.json"))
    assert (OF_RESULTS.get(name, sentence) if arguments == ("report",) else sentence) in said
    assert len(said) < 500


def test_a_file_of_a_terabyte_that_takes_no_room_is_refused(inputs: Path) -> None:
    with (inputs / "x.json").open("wb") as handle:
        handle.truncate(10**12)
    assert "takes 1,000.0 GB of memory at least" in sentence_within_limits("report", str(inputs / "x.json"))


def result_with(references: list[dict[str, Any]], folder: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(folder / "x.npz", **arrays)  # type: ignore[arg-type]
    sha256 = hashlib.sha256((folder / "x.npz").read_bytes()).hexdigest()
    results = [{"file": "x.npz", "sha256": sha256, **reference} for reference in references]
    (folder / "x.json").write_text(json.dumps({**RESULT, "results": results}))
    return folder / "x.json"


def test_matrices_that_a_few_bytes_become_are_refused(inputs: Path) -> None:
    zeros = np.zeros((3000, 3000), dtype=np.int64)
    path = result_with([{"array": "m", "shape": [3000, 3000]}] * 100, inputs, m=zeros)
    assert "x.json takes 28.8 GB of memory at least" in sentence_within_limits("report", str(path))
    path = result_with([{"array": "m", "shape": [200, 200]}], inputs, m=np.zeros((9000, 9000), dtype=bool))
    assert "does not hold the matrix 'm'" in sentence_within_limits("report", str(path))
    path = result_with([{"array": "m", "sizes": "s"}], inputs, m=np.zeros(0), s=np.zeros(1 << 25, dtype=int))
    assert "x.json takes 1.1 GB of memory at least" in sentence_within_limits("report", str(path))
    path = result_with([{"array": "m", "sizes": "s"}], inputs, m=np.zeros(0), s=np.array([10**9]))
    assert "does not hold the matrix 'm'" in sentence_within_limits("report", str(path))


def test_a_class_map_has_no_more_lines_than_there_are_classes(inputs: Path) -> None:
    (inputs / "map.csv").write_text("a,b\n" * 1_100_000)
    said = sentence_within_limits(*VALIDATE, "--class-map", str(inputs / "map.csv"))
    assert "has 1,100,000 lines, and no network has more than 1,048,576 classes" in said


# --- options ----------------------------------------------------------------------------------------------------------


MANY = str(4 * cores() + 1)
OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "repeats": (("essential", "--repeats", "1000000000"), "--repeats 1,000,000,000 is more than 1,000,000"),
    "controls": (("essential", "--controls", "100000000"), "--controls 100,000,000 is more than 100,000"),
    "workers": ((*VALIDATE, "-j", MANY), f"--workers {MANY} is more than {4 * cores()}, four times the cores"),
    "threads": ((*VALIDATE, "--threads", "1000000000000"), "--threads 1,000,000,000,000 is more than"),
    "devices": ((*VALIDATE, "--device", "cpu", "--devices", "1000"), "--devices 1,000 is more than"),
    "runs": (("train", "resnet8", "--runs", "1000000000"), "--runs 1,000,000,000 is more than 10,000"),
    "steps": (("lr-find", "resnet8", "--steps", "1000000000"), "at most 1,000,000 steps, not 1,000,000,000"),
    "resize": ((*VALIDATE, "--resize", "4096x4096"), "resized to 4096x4096 a crop of 32x32 leaves less than 1/100."),
    "resize by its shorter side": (
        (*VALIDATE, "--resize", "2241", "--crop", "224"),
        "crop of 224x224 leaves less",
    ),
    "crop of a few": ((*VALIDATE, "--input-size", "512", "--crop", "8x40"), "a crop of 8x40 leaves less than"),
    "input size": ((*VALIDATE, "--input-size", "4096x4096"), "A network on images of 4096x4096 pixels takes"),
    "crop": ((*VALIDATE, "--crop", "4096x4096"), "A network on images of 4096x4096 pixels takes"),
    "k": (
        ("extract-indices", "-k", ",".join(map(str, range(1, 100_001)))),
        "-k lists 100,000 numbers, and at most 10,000 are read",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_counts_and_sizes_that_nobody_means_or_that_cannot_fit_are_refused(warm: None, name: str) -> None:
    arguments, sentence = OPTIONS[name]
    assert sentence in sentence_within_limits(*arguments)


def test_an_image_that_is_one_pixel_high_cannot_be_resized_by_that_side(inputs: Path) -> None:
    put(inputs / "few", ALL_DIGITS)
    from PIL import Image

    Image.new("RGB", (60_000, 1)).save(inputs / "few/test/3/2.png")
    arguments = (*VALIDATE, "-j", "0", "--dataset", f"folder:{inputs / 'few'}", "--resize", "64", "--crop", "32")
    assert "An image of 1x60000 pixels is too long" in sentence_within_limits(*arguments)


def test_large_images_are_resized_in_parts_as_they_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from decompose_cli.datasets import chunks
    from decompose_cli.preprocessing import CIFAR, Preprocessing

    pixels = torch.randint(0, 256, (7, 3, 9, 8), dtype=torch.uint8)
    preprocessing = Preprocessing(CIFAR.mean, CIFAR.std, resize=(12, 12), crop=(10, 10))

    def cut() -> Tensor:
        (chunk,) = chunks.chunks_in_memory(pixels, preprocessing, [range(7)])
        return chunk.images

    whole = cut()
    monkeypatch.setattr(chunks, "_VALUES_AT_ONCE", 2 * 3 * 12 * 12)
    assert torch.equal(cut(), whole)


def test_cache_refuses_an_age_where_nothing_is_deleted() -> None:
    assert "--older-than has no effect without --clear" in sentence_within_limits("cache", "--older-than", "3")
