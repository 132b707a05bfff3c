"""A command looks through each folder once and asks for each file once; a program that goes on sees what changed."""

from __future__ import annotations

import collections
import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import run
from helpers.image_kinds import open_folder

from decompose_cli.datasets.folders import FolderImages
from decompose_cli.datasets.listed_once import listed_once
from decompose_cli.datasets.registry import open_dataset

MakeImages = Callable[..., Path]


class Counted:
    """How often each folder was listed and each file asked for, by its path."""

    def __init__(self) -> None:
        self.listed: collections.Counter[str] = collections.Counter()
        self.asked: collections.Counter[str] = collections.Counter()


class _Entry:
    def __init__(self, entry: os.DirEntry[str], counted: Counted) -> None:
        self._entry, self._counted = entry, counted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def __fspath__(self) -> str:
        return self._entry.path

    def stat(self) -> os.stat_result:
        self._counted.asked[self._entry.path] += 1
        return self._entry.stat()


@contextmanager
def counting(root: Path) -> Iterator[Counted]:
    counted, scandir, stat, start = Counted(), os.scandir, os.stat, str(root.resolve())

    @contextmanager
    def entries_of(folder: Path) -> Iterator[Iterator[_Entry]]:
        with scandir(folder) as entries:
            yield (_Entry(entry, counted) for entry in entries)

    def listed(folder: Any = ".") -> Any:
        if not isinstance(folder, (str, Path)) or not str(Path(folder).resolve()).startswith(start):
            return scandir(folder)
        counted.listed[str(Path(folder).resolve())[len(start) + 1 :]] += 1
        return entries_of(Path(folder))

    def asked(path: Any, *more: Any, **how: Any) -> os.stat_result:
        if isinstance(path, (str, Path)) and os.path.abspath(path).startswith(start):  # noqa: PTH100 - it asks nothing
            counted.asked[str(path)] += 1
        return stat(path, *more, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", listed)
        patch.setattr(os, "stat", asked)
        yield counted


def of_images(counted: Counted) -> dict[str, int]:
    return {path: times for path, times in counted.asked.items() if path.endswith(".png")}


def opened(root: Path, split: str) -> FolderImages:
    dataset = open_folder(f"folder:{root}", split)
    _ = dataset.preprocessing
    return dataset


@pytest.fixture
def root(make_images: MakeImages, tmp_path: Path) -> Path:
    return make_images(tmp_path / "set", list("abc"), n=3, side=80)


@pytest.mark.parametrize("order", [["test", "train", "test", "train"], ["train", "test", "train"]])
def test_within_a_block_every_folder_is_listed_once_and_every_file_asked_for_once(order: list[str], root: Path) -> None:
    with counting(root) as counted, listed_once():
        prints = [opened(root, split).fingerprint() for split in order]
    folders = [split + below for split in ("train", "test") for below in ("", "/a", "/b", "/c")]
    assert counted.listed == dict.fromkeys(folders, 1)
    files = [str(root / folder / f"00{n}.png") for folder in folders if "/" in folder for n in range(3)]
    assert of_images(counted) == dict.fromkeys(files, 1)
    assert prints == [opened(root, split).fingerprint() for split in order]


def test_without_a_block_and_after_it_changes_are_seen(root: Path) -> None:
    before = opened(root, "test")
    with listed_once():
        assert len(opened(root, "test")) == 9
        (root / "test" / "a" / "000.png").unlink()
        assert len(opened(root, "test")) == 9
        with listed_once():  # a part of the block around it
            assert len(opened(root, "test")) == 9
        assert len(opened(root, "test")) == 9
    assert len(opened(root, "test")) == 8
    assert opened(root, "test").fingerprint() != before.fingerprint()
    with listed_once():
        assert len(opened(root, "test")) == 8


def test_what_is_left_out_is_said_once_within_a_block(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "train" / "a" / "x.txt").write_text("")
    (root / "train" / "loose.png").write_bytes((root / "train/a/000.png").read_bytes())
    caplog.set_level("INFO")
    with listed_once():
        for split in ("test", "train", "train"):  # the first looks at class folders and first class of train
            opened(root, split)
    assert caplog.messages == [
        f"{root / 'train'}: images of no class are left out: 1 (loose.png).",
        f"{root / 'train'}: files that are not images by their extension are left out: 1 (.txt).",
    ]


def test_another_process_takes_over_what_was_found(root: Path) -> None:
    with listed_once() as listings:
        expected = opened(root, "test")
        sent = pickle.dumps(listings)
    assert len(sent) < 10_000
    with counting(root) as counted, listed_once() as listings:
        listings.update(pickle.loads(sent))
        dataset = opened(root, "test")
    assert counted.listed == {}
    assert of_images(counted) == {}
    assert list(dataset.files) == list(expected.files)
    assert dataset.fingerprint() == expected.fingerprint()


def test_folders_are_told_apart_by_the_path_that_was_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listed_once():
        absolute = opened(root, "test")
        monkeypatch.chdir(root)
        relative = opened(Path(), "test")
    assert (absolute.files[0], relative.files[0]) == (root / "test/a/000.png", Path("test/a/000.png"))
    assert absolute.fingerprint() == relative.fingerprint()


def test_tiny_imagenet_is_listed_once(tmp_path: Path, make_images: MakeImages) -> None:
    root = tmp_path / "tiny-imagenet-200"
    make_images(root, ["n01440764/images", "n02123045/images"], ("train",), side=64)
    make_images(root, ["images"], ("val",), side=64)
    (root / "wnids.txt").write_text("n01440764\nn02123045\n")
    (root / "words.txt").write_text("")
    (root / "val/val_annotations.txt").write_text("002.png\tn01440764\n000.png\tn02123045\n001.png\tn02123045\n")
    with counting(root) as counted, listed_once():
        for _ in range(2):
            datasets = [open_dataset("tiny-imagenet", split, tmp_path) for split in ("train", "val")]
    assert all(times == 1 for times in (counted.listed + collections.Counter(of_images(counted))).values())
    assert len(counted.listed) == 4
    assert len(of_images(counted)) == 9
    train, val = (list(dataset.files.names()) for dataset in datasets)  # type: ignore[attr-defined]
    assert val == [f"val/images/00{n}.png" for n in (2, 0, 1)]
    assert train == [f"train/{name}/images/00{n}.png" for name in ("n01440764", "n02123045") for n in range(3)]
    assert all(path.is_file() for dataset in datasets for path in dataset.files)  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", [["sweep", "--ks", "1,2"], ["finetune", "--epochs", "1"]])
def test_a_command_lists_once(arguments: list[str], make_images: MakeImages) -> None:
    make_images(Path("images"), list(map(str, range(10))), n=2, side=40)
    with counting(Path("images")) as counted:
        result = run(*arguments, "--dataset", "folder:images", "--input-size", "32", "-j", "0", "--json")
    json.loads(result.stdout)
    assert set(counted.listed.values()) == {1}
    assert len(counted.listed) == 22
    assert set(of_images(counted).values()) == {1}
    assert len(of_images(counted)) == 40
