"""A copy of a data set is the data set; another data set is not, however much alike their files are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.image_kinds import open_folder
from helpers.inputs import noise, put
from PIL import Image

from decompose_cli.datasets.cifar import ARCHIVES, open_cifar
from decompose_cli.datasets.folders import FolderImages
from decompose_cli.datasets.manifest import Manifest
from decompose_cli.datasets.reading import ImageFiles
from decompose_cli.datasets.registry import open_dataset
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.storage.fingerprints import content_sample

MakeImages = Callable[..., Path]


def copied(source: str, target: str) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)


def opened(root: str, split: str = "test") -> FolderImages:
    return open_folder(f"folder:{root}", split)


def refuse(*_: object) -> None:
    raise AssertionError("an image was decoded")


@pytest.mark.parametrize("side", [32, 80])
def test_a_copy_has_the_fingerprint_without_a_look_at_its_pixels(
    side: int, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_images(Path("one/images"), ["b", "a"], ("test",), side=side)
    Path("one/images/test/c").symlink_to("../test/a")
    Path("one/images/test/b/linked.png").symlink_to("000.png")
    expected = opened("one/images").fingerprint()
    copied("one/images", "copy")
    copied("one/images", str(tmp_path / "scratch"))
    monkeypatch.setattr(ImageFiles, "read", refuse)
    for place in ("copy", str(tmp_path / "scratch"), "copy/../one/images"):
        assert opened(place).fingerprint() == expected
    monkeypatch.chdir("copy")
    assert opened(".").fingerprint() == expected


@pytest.mark.parametrize("side", [0, 80])
def test_features_of_a_data_set_serve_its_copy(side: int) -> None:
    put(Path("images"), {f"test/{digit}/1.png": noise(side or 32, "PNG") for digit in range(3)})

    def state(place: str) -> str:
        study = Study(Inputs(dataset=f"folder:{place}", input_size="32", workers=0), ("test",))
        _ = study.bank
        return study.describe_cache().features

    assert state("images") == "miss"
    copied("images", "scratch")
    assert state("scratch") == "hit"
    Image.open("scratch/test/1/1.png").transpose(Image.Transpose.ROTATE_180).save("scratch/test/1/1.png")
    assert state("scratch") == "miss"
    assert state("images") == "hit"


def stamped(root: Path) -> None:
    """Give all files the time of an archive."""
    for file in root.rglob("*.*"):
        os.utime(file, ns=(10**18, 10**18))


def test_images_that_differ_in_content_alone_differ() -> None:
    """As uncompressed images of one size do that were unpacked with the times of their archives."""
    prints = []
    for seed in range(2):
        pixels = np.zeros((4, 150, 100, 3), dtype=np.uint8)
        pixels[2, 70:80] = seed * 100  # within what is read of the files, which are long
        for number, image in enumerate(pixels):
            file = Path(f"{seed}/test/a/{number}.bmp")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
        stamped(Path(str(seed)))
        prints.append(opened(str(seed)).fingerprint())
    assert prints[0] != prints[1]


def change_name(root: Path) -> None:
    (root / "test/a/000.png").rename(root / "test/a/00.png")


def change_class(root: Path) -> None:
    (root / "test/a/000.png").rename(root / "test/b/zzz.png")


def change_order(root: Path) -> None:
    (root / "test/a").rename(root / "test/c")


def change_time(root: Path) -> None:
    os.utime(root / "test/a/001.png", ns=(10**18, 10**18 + 1))


def change_size(root: Path) -> None:
    with (root / "test/a/001.png").open("ab") as handle:
        handle.write(b"\0")
    stamped(root)


def leave_out(root: Path) -> None:
    (root / "test/b/002.png").unlink()


@pytest.mark.parametrize("change", [change_name, change_class, change_order, change_time, change_size, leave_out])
def test_files_that_differ_make_another_set(change: Callable[[Path], None], make_images: MakeImages) -> None:
    root = make_images(Path("set"), ["a", "b"], ("test",), side=80)
    stamped(root)
    before = opened("set").fingerprint()
    change(root)
    assert opened("set").fingerprint() != before


def test_a_digest_is_of_names_and_their_ends_of_sizes_and_of_times() -> None:
    """Also where no file is read."""
    manifests = [
        [("ab", 1, 1), ("c", 1, 1)],
        [("a", 1, 1), ("bc", 1, 1)],
        [("ab", 1, 1), ("d", 1, 1)],
        [("ab", 1, 1), ("c", 2, 1)],
        [("ab", 1, 1), ("c", 1, 2)],
        [("c", 1, 1), ("ab", 1, 1)],
    ]
    assert len({Manifest.of(Path("none"), files).digest for files in manifests}) == len(manifests)
    assert Manifest.of(Path("none"), manifests[0]).digest == Manifest.of(Path("elsewhere"), manifests[0]).digest


def test_the_same_files_under_other_labels_are_another_set(make_images: MakeImages) -> None:
    dataset = opened(str(make_images(Path("set"), ["a", "b"], side=80)))
    files = [dataset.root, list(dataset.files)]
    again = FolderImages("x", "test", *files, dataset.labels.tolist(), ["a", "b"])
    other = FolderImages("x", "test", *files, (1 - dataset.labels).tolist(), ["a", "b"])
    assert again.fingerprint() == dataset.fingerprint() != other.fingerprint()


def test_files_outside_the_root_are_part_of_a_set(make_images: MakeImages) -> None:
    root = make_images(Path("set"), ["a"], side=80).resolve()
    files = [root / "test/a/000.png", root / "train/a/001.png"]
    dataset = FolderImages("x", "test", root / "test", files, [0, 0], ["a"])
    assert list(dataset.files) == files
    assert dataset.fingerprint() != FolderImages("x", "test", root / "test", files[:1], [0], ["a"]).fingerprint()


def test_a_sample_reads_all_of_few_small_files_and_some_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (0, 1, 2, 32, 33, 100):
        paths = [Path(f"{number}.bin") for number in range(count)]
        for number, path in enumerate(paths):
            path.write_bytes(bytes([number]))
        before = content_sample(paths)
        noticed = []
        for path in paths:
            content = path.read_bytes()
            path.write_bytes(b"another")
            noticed.append(content_sample(paths) != before)
            path.write_bytes(content)
        assert sum(noticed) == min(count, 32)
        assert all(noticed[:1] + noticed[-1:])
    assert content_sample([Path("none")]) != content_sample([])


def test_batch_files_of_cifar_are_known_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "one" / ARCHIVES["cifar10"].folder
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(b"some content")
    copied(str(tmp_path / "one"), str(tmp_path / "copy"))
    first, second = (open_cifar("cifar10", "test", tmp_path / place, False) for place in ("one", "copy"))
    assert first._stamp == second._stamp
    time = (folder / "test_batch").stat().st_mtime_ns
    (folder / "test_batch").write_bytes(b"SOME CONTENT")
    os.utime(folder / "test_batch", ns=(time, time))
    assert open_cifar("cifar10", "test", tmp_path / "one", False)._stamp != first._stamp


def test_digits_are_known_wherever_they_are_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from decompose_cli.datasets import digits

    first = open_dataset("digits", "test", tmp_path)
    copied(str(digits._data_file()), str(tmp_path / "digits.csv.gz"))
    monkeypatch.setattr(digits, "_data_file", lambda: tmp_path / "digits.csv.gz")
    assert open_dataset("digits", "test", tmp_path)._stamp == first._stamp  # type: ignore[attr-defined]
