"""Which files of a folder are images of which class: nothing vanishes without a word."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.image_kinds import open_folder
from PIL import Image

from decompose_cli.datasets.folders import FolderImages
from decompose_cli.datasets.registry import available_splits
from decompose_cli.errors import InputError

MakeImages = Callable[..., Path]


@pytest.fixture
def root(make_images: MakeImages, tmp_path: Path) -> Path:
    return make_images(tmp_path / "set", ["a", "b"], n=2)


def opened(root: Path, split: str = "test") -> FolderImages:
    return open_folder(f"folder:{root}", split)


def names(dataset: FolderImages) -> list[str]:
    return [file.relative_to(dataset.root).as_posix() for file in dataset.files]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ([str(number) for number in range(12)], [str(number) for number in range(12)]),
        (["0", "1"], ["0", "1"]),
        # Whatever is not exactly 0 to C-1 is in the order of the alphabet, also where it holds numbers.
        (["1", "2", "10"], ["1", "10", "2"]),
        (["0", "2", "10"], ["0", "10", "2"]),
        ([f"{number:02d}" for number in range(11)], [f"{number:02d}" for number in range(11)]),
        (
            [f"class{number}" for number in range(11)],
            ["class0", "class1", "class10", *(f"class{n}" for n in range(2, 10))],
        ),
        (["0", "1", "\N{SUPERSCRIPT TWO}"], ["0", "1", "\N{SUPERSCRIPT TWO}"]),
    ],
)
def test_folders_that_are_exactly_the_class_numbers_are_in_their_order(
    folders: list[str], expected: list[str], make_images: MakeImages, tmp_path: Path
) -> None:
    dataset = opened(make_images(tmp_path / "set", folders, n=1))
    assert list(dataset.class_names) == expected
    assert [name.split("/")[0] for name in names(dataset)] == expected
    assert dataset.labels.tolist() == list(range(len(folders)))


def test_images_in_folders_below_a_class_folder_are_of_that_class(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    deep = root / "test" / "a" / "2020" / "may"
    deep.mkdir(parents=True)
    for name in ("1.png", ".hidden.png"):
        shutil.copy(root / "test" / "a" / "000.png", deep / name)
    (root / "test" / "b" / "linked").symlink_to(deep)
    dataset = opened(root)
    expected = ["a/000.png", "a/001.png", "a/2020/may/1.png", "b/000.png", "b/001.png", "b/linked/1.png"]
    assert names(dataset) == expected
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert caplog.messages == [f"{root / 'test'}: images in folders below a class folder count as of that class: 2."]


def test_what_is_left_out_is_counted_and_said_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for name in ("a/x.txt", "a/y.txt", "b/z.avif", "readme"):
        (root / "test" / name).write_bytes(b"")
    for name in ("1.png", "2.png"):
        Image.new("RGB", (2, 2)).save(root / "test" / name)
    os.mkfifo(root / "test" / "b" / "pipe.png")
    assert len(opened(root)) == 4
    assert caplog.messages == [
        f"{root / 'test'}: images of no class are left out: 2 (1.png, 2.png).",
        f"{root / 'test'}: files that are not images by their extension are left out: 5 (.avif, .png, .txt, ...).",
    ]
    caplog.clear()
    opened(root, "train")
    assert caplog.messages == []


DANGLING = {
    "image": "test/a/2.png",
    "class": "test/c",
    "file that could be a folder": "test/a/more",
    "folder below": "test/a/000/b",
    "split": "test",
    "other split": "val",
    "circle": "test/c",
}


@pytest.mark.parametrize("kind", DANGLING)
def test_links_that_lead_nowhere_are_refused_by_name(kind: str, root: Path) -> None:
    link = root / DANGLING[kind]
    if kind == "split":
        link.rename(root / "elsewhere")
    link.parent.mkdir(exist_ok=True)
    target = link if kind == "circle" else root / "gone"
    link.symlink_to(target)
    with pytest.raises(InputError, match="which cannot be followed") as refusal:
        opened(root)
    assert refusal.value.message == f"{link} is a link to {target}, which cannot be followed."


def test_a_split_that_is_a_link_to_nowhere_does_not_vanish(root: Path) -> None:
    (root / "val").symlink_to("gone")
    with pytest.raises(InputError, match="val is a link to gone"):
        available_splits(f"folder:{root}")


def test_links_that_lead_somewhere_are_followed(root: Path, make_images: MakeImages, tmp_path: Path) -> None:
    more = make_images(tmp_path / "more", ["x"], n=2, splits=("test",))
    for split in ("train", "test"):
        (root / split / "c").symlink_to(more / "test" / "x")
    (root / "test" / "a" / "002.png").symlink_to(more / "test" / "x" / "000.png")
    assert opened(root).labels.tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_a_link_back_to_a_folder_above_is_refused(root: Path) -> None:
    (root / "test" / "a" / "again").symlink_to(root / "test" / "a")
    with pytest.raises(InputError, match="a/again leads back to a folder that it lies in"):
        opened(root)
