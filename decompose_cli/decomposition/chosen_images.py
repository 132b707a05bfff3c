"""Single images to look at, from files or by their numbers in a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from decompose_cli.datasets.batches import BatchImages
from decompose_cli.datasets.reading import ImageFiles
from decompose_cli.errors import InputError
from decompose_cli.features.study import Study
from decompose_cli.preprocessing import Preprocessing, Size
from decompose_cli.printable import printable

if TYPE_CHECKING:
    from PIL.Image import Image


_LONGEST = 512


@dataclass(frozen=True)
class ChosenImage:
    """One image.

    Attributes:
        name: Path of the image as given, or its number in the data set.
        pixels: Pixels as the network sees them before normalisation, uint8 (3, H, W).
        label: The network's class number, if it is known.
        size: (height, width) of the image as it was given.
        whole: The image as it was given, at most 512 pixels long, uint8 (3, h, w); None where the network sees it pixel
            for pixel.
        file: Its file, relative to the data set, where it has one.
    """

    name: str
    pixels: Tensor
    label: int | None
    size: Size
    whole: Tensor | None = None
    file: str | None = None


def from_files(paths: Sequence[Path], preprocessing: Preprocessing) -> list[ChosenImage]:
    """Read image files as those of a data set are read; see :mod:`decompose_cli.datasets.reading`.

    Raises:
        InputError: A file is missing, no image, damaged, or given twice.
    """
    repeated = [
        path for number, path in enumerate(paths) if path.resolve() in [earlier.resolve() for earlier in paths[:number]]
    ]
    if repeated:
        raise InputError(f"The image {repeated[0]} is given twice.")
    images = ImageFiles(paths)
    chosen = [
        _chosen(printable(str(path)), images.read(number), None, preprocessing) for number, path in enumerate(paths)
    ]
    images.say()
    return chosen


def _chosen(name: str, image: Image, label: int | None, preprocessing: Preprocessing) -> ChosenImage:
    """An RGB image, as it is and as the network sees it."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    from decompose_cli.datasets.transforms import image_to_tensor

    pixels, size = image_to_tensor(image, preprocessing), (image.height, image.width)
    if preprocessing.keeps(*size):
        return ChosenImage(name, pixels, label, size)
    whole = image.copy()
    whole.thumbnail((_LONGEST, _LONGEST))
    return ChosenImage(name, pixels, label, size, pil_to_tensor(whole))


def from_dataset(study: Study, numbers: Sequence[int]) -> list[ChosenImage]:
    """Read images of a data set by their numbers in the split, from 0.

    Raises:
        InputError: There is no image of such a number, or a number is given twice.
    """
    if len(set(numbers)) < len(numbers):
        twice = next(number for place, number in enumerate(numbers) if number in numbers[:place])
        raise InputError(f"Image number {twice} is given twice.")
    count = len(study.split)
    for number in numbers:
        if not 0 <= number < count:
            raise InputError(
                f"{study.split.name} {study.split.split} has no image number {number}; it has {count:,}, from 0."
            )
    chosen = []
    for number in numbers:
        label, file = study.label_in_split(number), study.split.file_of(number)
        if isinstance(study.split, BatchImages) and not study.split.has_levels:  # a picture would round what was given
            pixels = study.split.pixels[number]
            chosen.append(ChosenImage(str(number), pixels, label, (pixels.shape[1], pixels.shape[2])))
            continue
        image = study.split.image(number).convert("RGB")
        chosen.append(dataclasses.replace(_chosen(str(number), image, label, study.preprocessing), file=file))
    study.split.remark()
    return chosen
