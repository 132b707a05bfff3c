"""ImageNet (ILSVRC 2012) and Tiny ImageNet, as they are unpacked; no devkit is needed."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from decompose_cli.datasets.folders import FolderImages, folder_images
from decompose_cli.datasets.locations import find_imagenet, find_tiny_imagenet, imagenet_places, tiny_imagenet_places
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import IMAGENET, Preprocessing

_FLAT_HINT = (
    "Sort the validation images into one folder per WordNet id (n01440764, ...), as the usual valprep script does; the "
    "layout is imagenet/ILSVRC/{train,val}/<wnid>/*.JPEG."
)
_TINY = Preprocessing(IMAGENET.mean, IMAGENET.std, resize=64, crop=(64, 64))


@cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 1000 WordNet ids in the order of the class numbers, and their English names."""
    text = (files("decompose_cli.datasets") / "imagenet_classes.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    return tuple(row[0] for row in rows), tuple(row[1] for row in rows)


def open_imagenet(split: str, data_dir: Path) -> FolderImages:
    """Open ``imagenet/ILSVRC/<split>/<wnid>/``; a subset of the 1000 classes keeps its true class numbers.

    Raises:
        InputError: The folder is not there, or not sorted into classes.
    """
    root = find_imagenet(data_dir)
    if root is None or not (root / split).is_dir():
        looked = ", ".join(str(place / split) for place in imagenet_places(data_dir))
        raise InputError(
            f"ImageNet is not there; looked for {looked}.",
            hint="Fetch it by hand from image-net.org; the layout is imagenet/ILSVRC/{train,val}/<wnid>/*.JPEG.",
        )
    wnids, names = imagenet_classes()
    folder = root / split
    if not any(child.is_dir() for child in folder.iterdir()):
        raise InputError(f"{folder} is not sorted into class folders.", hint=_FLAT_HINT)
    return folder_images("imagenet", split, folder, wnids, names, wnids)


def open_tiny_imagenet(split: str, data_dir: Path) -> FolderImages:
    """Open Tiny ImageNet (Stanford CS231n): 200 classes, 64x64 pixels, ``tiny-imagenet-200`` as the archive unpacks.

    Raises:
        InputError: The folder or one of its lists is not there or not as expected.
    """
    root = find_tiny_imagenet(data_dir)
    if root is None:
        raise InputError(
            f"Tiny ImageNet is not there; looked for {tiny_imagenet_places(data_dir)[0]}.",
            hint=f"Unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip into {data_dir}.",
        )
    wnids = sorted(_lines(root / "wnids.txt"))
    words = dict(line.split("\t", 1) for line in _lines(root / "words.txt") if "\t" in line)
    names = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    if split == "train":
        files = [file for wnid in wnids for file in sorted((root / "train" / wnid / "images").glob("*.JPEG"))]
        labels = [numbers[file.parent.parent.name] for file in files]
    else:
        rows = [line.split("\t")[:2] for line in _lines(root / "val" / "val_annotations.txt")]
        files = [root / "val" / "images" / row[0] for row in rows]
        try:
            labels = [numbers[row[1]] for row in rows]
        except (KeyError, IndexError) as error:
            raise InputError(
                f"{root / 'val' / 'val_annotations.txt'} names a class that is not in wnids.txt."
            ) from error
    if not files:
        raise InputError(f"{root / split} has no images.")
    return FolderImages("tiny-imagenet", split, root, files, labels, names, wnids, _TINY)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not there or cannot be read.") from error
