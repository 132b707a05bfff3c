"""Tiny ImageNet (Stanford CS231n) in the layout of its archive, ``tiny-imagenet-200``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.datasets.entry import DatasetEntry
from decompose_cli.errors import InputError, first_few
from decompose_cli.preprocessing import IMAGENET, Preprocessing
from decompose_cli.storage.ordinary_files import MOST_TEXT, check_ordinary

if TYPE_CHECKING:
    from decompose_cli.datasets.folders import FolderImages
    from decompose_cli.datasets.manifest import Manifest

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
    from decompose_cli.datasets.listed_once import once
    from decompose_cli.datasets.listing import class_folders, images_of_classes

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
    if split == "train":
        table = root / "train"
        folders = class_folders(table)
        _check_known(folders, wnids, table)
        files, counts = images_of_classes(table, [f"{name}/images" for name in folders], base=root)
        classes = [name for name, count in zip(folders, counts, strict=True) for _ in range(count)]
    else:
        table = root / "val" / "val_annotations.txt"
        rows = [[*line.split("\t"), ""][:2] for line in _lines(table)]
        classes = [row[1] for row in rows]
        _check_known(classes, wnids, table)
        files = once("annotated images", root / "val", lambda: _annotated(root, [row[0] for row in rows]))
    labels = [numbers[name] for name in classes]
    if not labels:
        raise InputError(f"{root / split} has no images.")
    return FolderImages("tiny-imagenet", split, root, files, labels, names, wnids, _PREPROCESSING)


def _check_known(names: list[str], wnids: list[str], table: Path) -> None:
    unknown = sorted({*names} - {*wnids})
    if unknown:
        raise InputError(f"{table} names a class that is not in wnids.txt: {first_few(map(repr, unknown))}.")


def _annotated(root: Path, names: list[str]) -> Manifest:
    """The validation images that the list names, in its order; others are left out, and said."""
    from decompose_cli.datasets.listing import Remarks, images_below
    from decompose_cli.datasets.manifest import Manifest
    from decompose_cli.storage.fingerprints import file_stamp

    folder = root / "val" / "images"
    remarks = Remarks()
    found = {image.name: image for image in images_below(folder, remarks)}
    # A file of the list that is no image by its extension is asked for by its path, as is one that is not there.
    listed = [found[name] if name in found else (*file_stamp([folder / name], folder)[0], 0) for name in names]
    remarks.loose = [folder / name for name in found.keys() - {*names}]
    remarks.loose.sort()
    remarks.say(root / "val")
    return Manifest.of(root, ((f"val/images/{name}", *numbers) for name, *numbers in listed))


def _lines(path: Path) -> list[str]:
    try:
        check_ordinary(path, "The list", MOST_TEXT)
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as text.") from error


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
