"""Image files have one reading, torchvision's, and what it passes over is counted and said once."""

from __future__ import annotations

import contextvars
import dataclasses
import io
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command_line import run, warnings_in
from helpers.image_kinds import open_folder
from helpers.inputs import GOOD, noise, put, read_rgb
from PIL import Image
from torchvision.datasets.folder import pil_loader

from decompose_cli.datasets import folders, stored
from decompose_cli.datasets.augment import Augmentation
from decompose_cli.datasets.decoding import open_image
from decompose_cli.datasets.folders import FolderImages
from decompose_cli.datasets.training_images import TrainingImages
from decompose_cli.decomposition.chosen_images import from_files
from decompose_cli.engines.explain import ExplainSettings, explain
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.messages import LoggingReporter, use_reporter
from decompose_cli.preprocessing import CIFAR, Preprocessing
from decompose_cli.storage.fingerprints import digest_of, file_stamp, pixel_fingerprint

RGB = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
HALF = np.where(np.arange(24) < 12, 0, 255).astype(np.uint8)[None].repeat(32, 0)
RGBA = np.dstack([RGB, HALF])
SEEN = Preprocessing(CIFAR.mean, CIFAR.std, 20, (20, 16))

TURNED = "Images that are turned by their EXIF data are read unturned, as torchvision reads them: "
TRANSPARENT = (
    "Images with transparent parts are read without their transparency, in the colours that are stored there: "
)
SEVERAL = "Of files with several pictures or pages the first is read: "


def saved(kind: str, image: Any = RGB, *, orientation: int | None = None, **how: Any) -> bytes:
    buffer = io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        how["exif"] = exif
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **how)
    return buffer.getvalue()


def pages(kind: str, **how: Any) -> bytes:
    return saved(kind, save_all=True, append_images=[Image.fromarray(255 - RGB)], **how)


PALETTE = Image.fromarray(RGB).quantize(16)
ORDINARY = {
    **{kind: saved(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")},
    **{f"{mode} PNG": saved("PNG", Image.fromarray(RGB).convert(mode)) for mode in ("1", "L", "LA", "P", "RGBA")},
    **{f"{mode} JPEG": saved("JPEG", Image.fromarray(RGB).convert(mode)) for mode in ("L", "CMYK")},
    "orientation 1": saved("JPEG", orientation=1),
    "orientation 9": saved("JPEG", orientation=9),
    "TIFF, which Pillow turns": saved("TIFF", orientation=6),
    "TIFF of LZW, which Pillow turns": saved("TIFF", orientation=6, compression="tiff_lzw"),
    "colour of a palette that is transparent and not used": saved("PNG", PALETTE, transparency=200),
    "opaque WebP": saved("WEBP", Image.fromarray(RGB).convert("RGBA"), lossless=True),
}
SAID = {
    **{f"orientation {number}": (TURNED, saved("JPEG", orientation=number)) for number in range(2, 9)},
    "orientation 6, PNG": (TURNED, saved("PNG", orientation=6)),
    "orientation 6, WebP": (TURNED, saved("WEBP", orientation=6)),
    "orientation 6 in XMP": (TURNED, saved("JPEG", xmp=b'<x tiff:Orientation="6"/>')),
    "transparent PNG": (TRANSPARENT, saved("PNG", RGBA)),
    "transparent grey": (TRANSPARENT, saved("PNG", Image.fromarray(RGBA).convert("LA"))),
    "transparent WebP": (TRANSPARENT, saved("WEBP", RGBA, lossless=True, exact=True)),
    "transparent TIFF": (TRANSPARENT, saved("TIFF", RGBA)),
    "one transparent colour": (TRANSPARENT, saved("PNG", transparency=tuple(RGB[0, 0].tolist()))),
    "one transparent grey": (TRANSPARENT, saved("PNG", RGB[..., 0], transparency=int(RGB[0, 0, 0]))),
    "palette with a transparent colour": (TRANSPARENT, saved("PNG", PALETTE, transparency=3)),
    "palette with shares": (TRANSPARENT, saved("PNG", PALETTE, transparency=bytes(range(16)))),
    "transparent GIF": (TRANSPARENT, saved("GIF", PALETTE, transparency=3)),
    **{f"several, {kind}": (SEVERAL, pages(kind)) for kind in ("GIF", "TIFF", "PNG", "WEBP", "MPO")},
    "several, TIFF of LZW": (SEVERAL, pages("TIFF", compression="tiff_lzw")),
    "several, APNG with a picture of its own": (SEVERAL, pages("PNG", default_image=True)),
}
ALL = {**{name: (None, content) for name, content in ORDINARY.items()}, **SAID}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("sentence", "content"), ALL.values(), ids=ALL)
def test_every_way_reads_what_torchvision_reads(
    sentence: str | None, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    put(Path("images"), {"test/a/1.png": content})
    file = Path("images/test/a/1.png")
    expected = np.asarray(pil_loader(file))
    assert np.array_equal(np.asarray(read_rgb(file)), expected)
    caplog.clear()
    dataset = open_folder("folder:images", "test")
    stored = dataset.in_memory()
    assert stored is not None
    assert np.array_equal(stored[0].permute(1, 2, 0).numpy(), expected)
    found = [record.getMessage() for record in caplog.records if "gave a warning" not in record.getMessage()]
    assert [text.split(":")[0] for text in found] == ([] if sentence is None else [sentence.split(":")[0]])
    assert all(f": 1 of 1 ({file}); " in text for text in found)
    same = Preprocessing(CIFAR.mean, CIFAR.std, expected.shape[:2], expected.shape[:2])
    caplog.clear()
    (explained,) = from_files([file], same)
    assert torch.equal(explained.pixels, stored[0])
    assert [record.getMessage() for record in caplog.records if "gave a" not in record.getMessage()] == found


@pytest.mark.parametrize("name", ["orientation 6", "transparent PNG", "several, GIF"])
def test_an_image_is_explained_alike_by_its_path_and_by_its_number(name: str, caplog: pytest.LogCaptureFixture) -> None:
    sentence, content = SAID[name]
    put(Path("images"), {f"test/{digit}/1.png": content if digit == 3 else GOOD for digit in range(10)})
    inputs = Inputs(input_size="32", workers=0, use_cache=False)
    by_path = explain(inputs, ExplainSettings(images=[Path("images/test/3/1.png")]))
    assert sum(record.getMessage().startswith(sentence) for record in caplog.records) == 1
    caplog.clear()
    inputs = dataclasses.replace(inputs, dataset="folder:images")
    by_number = explain(inputs, ExplainSettings(indices_of=[3]))
    assert sum(record.getMessage().startswith(sentence) for record in caplog.records) == 1
    (first,), (second,) = by_path.results.explanations, by_number.results.explanations
    assert (first.original, first.sums) == (second.original, second.sums)


@pytest.mark.parametrize("colour", [40 * 256, 200 * 256 + 7])
def test_a_transparent_grey_of_16_bits_counts_where_it_is(colour: int, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.array([[40, 90], [120, 250]], dtype=np.uint16) * 256
    put(Path("images"), {"test/a/1.png": saved("PNG", pixels, transparency=colour)})
    stored = open_folder("folder:images", "test").in_memory()
    assert stored is not None
    assert stored[0, 0].tolist() == [[40, 90], [120, 250]]
    assert [text.startswith(TRANSPARENT) for text in caplog.messages] == ([True] if colour in pixels else [])


# --- once, counted ----------------------------------------------------------------------------------------------------


def odd_folder(*, side: int = 0) -> dict[str, bytes]:
    """Of 5 images 2 are to be turned, 1 is transparent and 1 has several pictures."""
    plain = noise(side, "PNG") if side else saved("PNG")
    large = {"image": Image.fromarray(RGB).resize((side, side))} if side else {}
    return {
        "train/a/0.png": plain,
        "train/a/1.jpg": saved("JPEG", orientation=3, **large),
        "train/a/2.gif": pages("GIF", **large),
        "train/b/3.jpg": saved("JPEG", orientation=8, **large),
        "train/b/4.png": saved("PNG", Image.fromarray(RGBA).resize((side, side)) if side else RGBA),
    }


def expected_of(read: int) -> list[str]:
    return [
        f"{TURNED}2 of {read} (images/train/a/1.jpg, images/train/b/3.jpg); save them turned where they should be.",
        f"{TRANSPARENT}1 of {read} (images/train/b/4.png); put them on a ground where those are not meant to be seen.",
        f"{SEVERAL}1 of {read} (images/train/a/2.gif); save the others as files of their own where they count.",
    ]


def opened(side: int) -> FolderImages:
    put(Path("images"), odd_folder(side=side))
    return open_folder("folder:images", "train")


@pytest.mark.parametrize(("side", "workers"), [(0, 0), (80, 0), (80, 1), (80, 2)])
def test_files_are_counted_and_said_once(side: int, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    dataset = opened(side)
    assert (dataset.in_memory() is None) == bool(side)
    for _ in range(2):
        assert sum(len(labels) for _, labels in dataset.batches(SEEN, 2, workers)) == 5
        assert caplog.messages == expected_of(5)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_says_once_what_its_images_were(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    images = TrainingImages(
        opened(80), SEEN, Augmentation("resized-crop"), seed=0, device=torch.device("cpu"), workers=workers
    )
    for epoch in range(3):
        order = torch.randperm(5, generator=torch.Generator().manual_seed(epoch))
        assert len(list(images.batches(epoch, order.split(2)))) == 3
        assert caplog.messages == expected_of(5)


def test_a_split_that_is_opened_twice_or_divided_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    first = opened(80)
    for dataset in (first, open_folder("folder:images", "train"), first.subset(torch.arange(1, 5))):
        list(dataset.batches(SEEN, 2, 0))
        assert caplog.messages == expected_of(5)


def test_one_of_several_processes_says_that_it_read_a_share(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"is_initialized": True, "get_world_size": 2, "get_rank": 0}.items():
        monkeypatch.setattr(torch.distributed, name, lambda *_, value=value: value)
    images = TrainingImages(
        opened(80), SEEN, Augmentation("resized-crop"), seed=0, device=torch.device("cpu"), workers=0
    )
    list(images.batches(0, [torch.arange(2)]))
    assert caplog.messages == [
        f"{TURNED}1 of 2 that this process read (images/train/a/1.jpg); save them turned where they should be."
    ]


def test_the_terminal_says_it_once(tmp_path: Path) -> None:
    put(
        tmp_path / "images", {f"test/{digit}/{n}.jpg": saved("JPEG", orientation=6) for digit in (1, 2) for n in (1, 2)}
    )
    said = run("validate", "--no-cache", "-j", "2", "--dataset", f"folder:{tmp_path / 'images'}").stderr
    (line,) = [line for line in warnings_in(said) if line.startswith(TURNED)]
    names = ", ".join(str(tmp_path / "images/test" / name) for name in ("1/1.jpg", "1/2.jpg", "2/1.jpg"))
    assert line == f"{TURNED}4 of 4 ({names}, ...); save them turned where they should be."


def test_without_shared_memory_this_process_reads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("unable to open shared memory object")

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)
    list(opened(80).batches(SEEN, 2, 0))
    assert caplog.messages == expected_of(5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "content",
    [
        saved("GIF", PALETTE)[:-1] + b"\x2c\0\0\0",  # a second picture that breaks off
        saved("PNG", exif=b"Exif\0\0no such thing"),
        saved("WEBP", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        saved("JPEG", xmp=b'<x tiff:Orientation="\xff"/>'),
    ],
    ids=["second picture", "EXIF of a PNG", "EXIF of a WebP", "XMP"],
)
def test_what_is_not_read_may_be_damaged(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    Path("1.png").write_bytes(content)
    (explained,) = from_files([Path("1.png")], Preprocessing(CIFAR.mean, CIFAR.std, (32, 24), (32, 24)))
    assert np.array_equal(explained.pixels.permute(1, 2, 0).numpy(), np.asarray(pil_loader("1.png")))
    assert caplog.messages == []


# --- the version ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 80])
def test_features_of_an_earlier_reading_are_not_taken(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    put(Path("images"), {f"test/{digit}/1.png": noise(side, "PNG") if side else GOOD for digit in range(2)})

    def state() -> str:
        study = Study(Inputs(dataset="folder:images", input_size="32", workers=0), ("test",))
        _ = study.bank
        return study.describe_cache().features

    assert [state(), state()] == ["miss", "hit"]
    for module in (folders, stored):
        monkeypatch.setattr(module, "READING", stored.READING + 1)
    if side:
        assert [state(), state()] == ["miss", "hit"], "of streamed images files are looked at, and not pixels"
    else:  # the pixels themselves are looked at again, and are the same
        reads = []
        monkeypatch.setattr(stored, "pixel_fingerprint", lambda *_: reads.append(1) or pixel_fingerprint(*_))
        assert [state(), state()] == ["hit", "hit"]
        assert reads == [1]


def test_what_earlier_versions_called_streamed_images_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else runs that were begun then could not be gone on with; before readings were counted, nothing said which."""
    dataset = opened(80)
    stamps = file_stamp(dataset.files, dataset.root)
    former = digest_of([str(dataset.root.resolve()), stamps, dataset.labels.tolist()])
    assert dataset.has_fingerprint(former)
    assert dataset.has_fingerprint(dataset.fingerprint())
    assert not dataset.has_fingerprint(digest_of([]))
    for module in (folders, stored):
        monkeypatch.setattr(module, "READING", stored.READING + 1)
    again = open_folder("folder:images", "train")
    assert not again.has_fingerprint(former)
    assert not again.has_fingerprint(dataset.fingerprint())
    assert again.has_fingerprint(digest_of([folders.READING, former]))


# --- damaged TIFF -----------------------------------------------------------------------------------------------------


def damaged(mode: str, compression: str) -> bytes:
    content = bytearray(saved("TIFF", Image.fromarray(RGB).convert(mode), compression=compression))
    with Image.open(io.BytesIO(content)) as image:
        start = image.tag_v2[273][0]  # type: ignore[attr-defined]
    content[start : start + 20] = b"\xff" * 20
    return bytes(content)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd", "lzma"])
def test_libtiff_prints_nothing(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("1.tif").write_bytes(damaged("RGB", compression))
    with pytest.raises(InputError, match=r"^The image 1\.tif is damaged and cannot be decoded\.$"):
        read_rgb(Path("1.tif"))
    assert capfd.readouterr() == ("", "")
    with pytest.raises(OSError, match="decoder error"), Image.open("1.tif") as image:
        image.load()
    assert capfd.readouterr().err != "", "elsewhere libtiff says what it did before"


def damaged_fax() -> bytes:
    content = bytearray(saved("TIFF", Image.fromarray(RGB).convert("1"), compression="group4"))
    with Image.open(io.BytesIO(content)) as image:
        start, size = (image.tag_v2[tag][0] for tag in (273, 279))  # type: ignore[attr-defined]
    for place in np.random.default_rng(1).integers(start, start + size, 8):
        content[place] ^= 0x55
    return bytes(content)


def test_damage_that_libtiff_passes_over_is_said_once(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    put(Path("images"), {"test/a/1.tif": damaged_fax(), "test/a/2.tif": damaged_fax()})
    dataset = open_folder("folder:images", "test")
    with use_reporter(LoggingReporter()):
        assert dataset.in_memory() is not None
    assert caplog.messages == ["Decoding images/test/a/1.tif gave a warning: Fax4Decode finds damaged data."]
    assert capfd.readouterr() == ("", "")


def test_images_may_be_read_in_threads_whose_blocks_overlap(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("1.tif", "2.tif", "3.tif"):
        Path(name).write_bytes(damaged_fax())
    before = warnings.showwarning, list(warnings.filters)
    with use_reporter(LoggingReporter()), open_image(Path("1.tif")) as first:
        first.load()
        is_open, may_load = threading.Event(), threading.Event()

        def read_second() -> None:
            with open_image(Path("2.tif")) as second:
                is_open.set()
                assert may_load.wait(60)
                second.load()

        thread = threading.Thread(target=contextvars.copy_context().run, args=(read_second,))
        thread.start()
        assert is_open.wait(60)
        assert caplog.messages == [], "warnings are said when a block ends"
    assert caplog.messages == ["Decoding 1.tif gave a warning: Fax4Decode finds damaged data."]
    caplog.clear()
    may_load.set()
    thread.join()
    with use_reporter(LoggingReporter()):
        read_rgb(Path("3.tif"))
    assert caplog.messages == ["Decoding 3.tif gave a warning: Fax4Decode finds damaged data."]
    assert capfd.readouterr() == ("", "")
    assert (warnings.showwarning, warnings.filters) == before
    with Image.open("3.tif") as image:
        image.load()
    assert "Fax4Decode" in capfd.readouterr().err, "elsewhere libtiff says what it did before"


def test_a_warning_of_another_thread_goes_where_it_went() -> None:
    Path("1.png").write_bytes(GOOD)
    with warnings.catch_warnings(record=True) as heard, open_image(Path("1.png")):
        thread = threading.Thread(target=warnings.warn, args=("of another thread",))
        thread.start()
        thread.join()
    assert [str(warning.message) for warning in heard] == ["of another thread"]
