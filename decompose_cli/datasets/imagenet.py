"""ImageNet (ILSVRC 2012) in the layout of its archive, without the devkit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.datasets.classes import ClassNames
from decompose_cli.datasets.entry import DatasetEntry
from decompose_cli.datasets.wnids import imagenet_classes as imagenet_classes
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import IMAGENET

if TYPE_CHECKING:
    from decompose_cli.datasets.folders import FolderImages

_LAYOUT = "imagenet/ILSVRC/{train,val}/<wnid>/*.JPEG"
_FLAT_HINT = (
    "Sort the validation images into one folder per WordNet id (n01440764, ...), as the usual valprep script does; the "
    f"layout is {_LAYOUT}."
)


def _class_names() -> ClassNames:
    wnids, names = imagenet_classes()
    return ClassNames(names, wnids)


def _places(data_dir: Path) -> list[Path]:
    """Folders that may hold ``train`` and ``val``."""
    return [data_dir / "imagenet" / "ILSVRC", data_dir / "ILSVRC", data_dir / "imagenet"]


def _find(data_dir: Path) -> Path | None:
    places = _places(data_dir)
    return next((place for place in places if (place / "train").is_dir() or (place / "val").is_dir()), None)


def open_imagenet(split: str, data_dir: Path) -> FolderImages:
    """Open ``imagenet/ILSVRC/<split>/<wnid>/``; a subset of the 1000 classes keeps its true class numbers.

    Raises:
        InputError: The folder is not there, or not sorted into classes.
    """
    from decompose_cli.datasets.folders import folder_images
    from decompose_cli.datasets.listing import class_folders

    root = _find(data_dir)
    if root is None or not (root / split).is_dir():
        looked = ", ".join(str(place / split) for place in _places(data_dir))
        raise InputError(
            f"ImageNet is not there; looked for {looked}.",
            hint=f"Fetch it by hand from image-net.org; the layout is {_LAYOUT}.",
        )
    wnids, names = imagenet_classes()
    folder = root / split
    try:
        class_folders(folder)
    except InputError as error:
        if any(child.is_dir() for child in folder.iterdir()):
            raise
        raise InputError(f"{folder} is not sorted into class folders.", hint=_FLAT_HINT) from error
    reference = next(each for each in (root / "train", folder) if each.is_dir())
    return folder_images("imagenet", split, folder, wnids, names, wnids, reference=reference)


ENTRY = DatasetEntry(
    name="imagenet",
    splits=("val", "train"),
    num_classes=1000,
    description="1,281,167 + 50,000 photographs, or any subset of the class folders",
    how_to_get=f"by hand from image-net.org, as {_LAYOUT}",
    open=lambda split, data_dir, _: open_imagenet(split, data_dir),
    find=_find,
    places=_places,
    class_names=_class_names,
    preprocessing=IMAGENET,
    norm_decays=(0.999, 0.99),
)
