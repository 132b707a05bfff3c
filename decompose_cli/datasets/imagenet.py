"""ImageNet (ILSVRC 2012) in the layout of its archive, without the devkit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.datasets.classes import ClassNames
from decompose_cli.datasets.entry import DatasetEntry
from decompose_cli.datasets.wnids import imagenet_classes as imagenet_classes
from decompose_cli.errors import InputError
from decompose_cli.messages import note
from decompose_cli.preprocessing import IMAGENET

if TYPE_CHECKING:
    from decompose_cli.datasets.folders import FolderImages

_LAYOUT = "imagenet/ILSVRC/{train,val}/<wnid>/*.JPEG"


def _class_names() -> ClassNames:
    wnids, names = imagenet_classes()
    return ClassNames(names, wnids)


def _places(data_dir: Path) -> list[Path]:
    """Folders that may hold ``train`` and ``val``."""
    roots = [data_dir / "imagenet" / "ILSVRC", data_dir / "ILSVRC", data_dir / "imagenet"]
    return [*roots, *(root / "Data" / "CLS-LOC" for root in roots)]


def _find(data_dir: Path) -> Path | None:
    places = _places(data_dir)
    return next((place for place in places if (place / "train").is_dir() or (place / "val").is_dir()), None)


def open_imagenet(split: str, data_dir: Path) -> FolderImages:
    """Open ``imagenet/ILSVRC/<split>/<wnid>/``; a subset of the 1000 classes keeps its true class numbers.

    The validation images may lie in one folder as in their archive, beside a list of their classes; see
    :mod:`.imagenet_truth`.

    Raises:
        InputError: The folder is not there, or is neither sorted into classes nor has a list of them.
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
    reference = next(each for each in (root / "train", folder) if each.is_dir())
    try:
        class_folders(folder)
    except InputError:
        if split != "val" or any(child.is_dir() for child in folder.iterdir()):
            raise
        return _flat(
            folder, [folder, root, *(each for each in root.parents if each.is_relative_to(data_dir))], reference
        )
    return folder_images("imagenet", split, folder, wnids, names, wnids, reference=reference)


def _flat(folder: Path, places: list[Path], reference: Path) -> FolderImages:
    """The validation images in one folder; those that no list names are left out, and said."""
    from decompose_cli.datasets.folders import FolderImages
    from decompose_cli.datasets.imagenet_truth import validation_wnids
    from decompose_cli.datasets.listed_once import once
    from decompose_cli.datasets.listing import Remarks, images_below
    from decompose_cli.datasets.manifest import Manifest

    def look() -> tuple[Manifest, list[str]]:
        remarks = Remarks()
        found = images_below(folder, remarks)
        if not found:
            raise InputError(f"{folder} has neither class folders nor images.", hint=f"The layout is {_LAYOUT}.")
        truth, table = validation_wnids([image.name for image in found], places)
        note(f"{folder} is not sorted into class folders; {table} says which class an image is of.")
        remarks.loose = [folder / image.name for image, wnid in zip(found, truth, strict=True) if wnid is None]
        remarks.others = [other for other in remarks.others if other != table]
        remarks.say(folder)
        listed = [image for image, wnid in zip(found, truth, strict=True) if wnid is not None]
        return Manifest.of(folder, listed), [wnid for wnid in truth if wnid is not None]

    files, truth = once("images of the list", folder, look)
    wnids, names = imagenet_classes()
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    labels = [numbers[wnid] for wnid in truth]
    return FolderImages("imagenet", "val", folder, files, labels, names, wnids, reference=reference)


ENTRY = DatasetEntry(
    name="imagenet",
    splits=("val", "train"),
    num_classes=1000,
    description="1,281,167 + 50,000 photographs, or any subset of the class folders",
    how_to_get=f"by hand from image-net.org, as {_LAYOUT}, or val flat beside a list of its classes",
    open=lambda split, data_dir, _: open_imagenet(split, data_dir),
    find=_find,
    places=_places,
    class_names=_class_names,
    preprocessing=IMAGENET,
    norm_decays=(0.999, 0.99),
)
