"""Single images to look at, from files or by their numbers in a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from decompose_cli.errors import InputError
from decompose_cli.features.study import Study
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.printable import printable

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ChosenImage:
    """One image.

    Attributes:
        name: Path of the image as given, or its number in the data set.
        pixels: Pixels as the network sees them before normalisation, uint8 (3, H, W).
        label: The network's class number, if it is known.
    """

    name: str
    pixels: Tensor
    label: int | None


def from_files(paths: Sequence[Path], preprocessing: Preprocessing) -> list[ChosenImage]:
    """Read image files, turned as their EXIF data say, transparent parts on white.

    Raises:
        InputError: A file is missing, no image, damaged, or given twice.
    """
    from decompose_cli.datasets.transforms import image_to_tensor

    repeated = [
        path for number, path in enumerate(paths) if path.resolve() in [earlier.resolve() for earlier in paths[:number]]
    ]
    if repeated:
        raise InputError(f"The image {repeated[0]} is given twice.")
    return [ChosenImage(printable(str(path)), image_to_tensor(_upright(path), preprocessing), None) for path in paths]


def _upright(path: Path) -> Image:
    from PIL import Image, ImageOps

    from decompose_cli.datasets.decoding import open_image
    from decompose_cli.datasets.pixels import numbers_in, to_rgb

    with open_image(path) as opened:
        numbers = numbers_in(opened)
        opened.load()
        image = ImageOps.exif_transpose(opened)
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and "transparency" in image.info):
        whole = image.convert("RGBA")
        ground = Image.new("RGBA", whole.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, whole).convert("RGB")
    return to_rgb(image, numbers, path)


def from_dataset(study: Study, numbers: Sequence[int]) -> list[ChosenImage]:
    """Read images of a data set by their numbers in the split, from 0.

    Raises:
        InputError: There is no image of such a number, or a number is given twice.
    """
    from decompose_cli.datasets.transforms import image_to_tensor

    if len(set(numbers)) < len(numbers):
        twice = next(number for place, number in enumerate(numbers) if number in numbers[:place])
        raise InputError(f"Image number {twice} is given twice.")
    count = len(study.dataset)
    for number in numbers:
        if not 0 <= number < count:
            raise InputError(
                f"{study.dataset.name} {study.dataset.split} has no image number {number}; it has {count:,}, from 0."
            )
    return [
        ChosenImage(
            str(number),
            image_to_tensor(study.dataset.image(number).convert("RGB"), study.preprocessing),
            int(study.labels[number]),
        )
        for number in numbers
    ]
