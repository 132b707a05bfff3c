"""Tiny ImageNet (Stanford CS231n) in the layout of its archive, ``tiny-imagenet-200``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.datasets.entry import DatasetEntry
from decompose_cli.errors import InputError, first_few
from decompose_cli.preprocessing import IMAGENET, Preprocessing

if TYPE_CHECKING:
    from decompose_cli.datasets.folders import FolderImages

_PREPROCESSING = Preprocessing(IMAGENET.mean, IMAGENET.std, resize=64, crop=(64, 64))
_ARCHIVE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def _places(data_dir: Path) -> list[Path]:
    return [data_dir / "tiny-imagenet-200"]


def _find(data_dir: Path) -> Path | None:
    return next((place for place in _places(data_dir) if place.is_dir()), None)


def open_tiny_imagenet(split: str, data_dir: Path) -> FolderImages:
    """Open Tiny ImageNet: 200 classes, 64x64 pixels.

    Raises:
        InputError: The folder or one of its lists is missing, or a list is not as expected.
    """
    from decompose_cli.datasets.folders import FolderImages
    from decompose_cli.datasets.listing import Remarks, class_folders, images_below

    root = _find(data_dir)
    if root is None:
        raise InputError(
            f"Tiny ImageNet is not there; looked for {_places(data_dir)[0]}.",
            hint=f"Unpack {_ARCHIVE} into {data_dir}.",
        )
    wnids = sorted(_lines(root / "wnids.txt"))
    words = dict(line.split("\t", 1) for line in _lines(root / "words.txt") if "\t" in line)
    names = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    remarks = Remarks()
    if split == "train":
        table = root / "train"
        images = {name: images_below(table / name / "images", remarks) for name in class_folders(table, remarks)}
        files = [file for found in images.values() for file in found]
        classes = [name for name, found in images.items() for _ in found]
    else:
        table = root / "val" / "val_annotations.txt"
        rows = [[*line.split("\t"), ""][:2] for line in _lines(table)]
        files = [root / "val" / "images" / row[0] for row in rows]
        classes = [row[1] for row in rows]
        remarks.loose = sorted({*images_below(root / "val" / "images", remarks)} - {*files})
    unknown = sorted({*classes} - {*wnids})
    if unknown:
        raise InputError(f"{table} names a class that is not in wnids.txt: {first_few(map(repr, unknown))}.")
    labels = [numbers[name] for name in classes]
    if not files:
        raise InputError(f"{root / split} has no images.")
    remarks.say(root / split)
    return FolderImages("tiny-imagenet", split, root, files, labels, names, wnids, _PREPROCESSING)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not there or cannot be read.") from error


ENTRY = DatasetEntry(
    name="tiny-imagenet",
    splits=("val", "train"),
    num_classes=200,
    description="100,000 + 10,000 photographs of 64x64 pixels",
    how_to_get=f"unpack {_ARCHIVE}",
    open=lambda split, data_dir, _: open_tiny_imagenet(split, data_dir),
    find=_find,
    places=_places,
    preprocessing=_PREPROCESSING,
)
