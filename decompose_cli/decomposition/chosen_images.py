"""Single images to look at: files, or numbers of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from decompose_cli.decomposition.study import Study
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ChosenImage:
    """One image.

    Attributes:
        name: Its path as given, or its number in the data set.
        pixels: As the network sees it before normalisation, uint8 (3, H, W).
        label: The network's class number, if it is known.
    """

    name: str
    pixels: Tensor
    label: int | None


def from_files(paths: Sequence[Path], preprocessing: Preprocessing) -> list[ChosenImage]:
    """Image files, turned as their EXIF data say; what is transparent is on white.

    Raises:
        InputError: One is missing, no image, or damaged.
    """
    from decompose_cli.datasets.transforms import image_to_tensor

    return [ChosenImage(str(path), image_to_tensor(_upright(path), preprocessing), None) for path in paths]


def _upright(path: Path) -> Image:
    from PIL import Image, ImageOps

    from decompose_cli.datasets.folders import open_image, read_rgb

    image = read_rgb(path)  # first, as it refuses what is damaged
    with open_image(path) as opened:
        is_transparent = opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info
        orientation = opened.getexif().get(_ORIENTATION, 1)
        if is_transparent:
            whole = opened.convert("RGBA")
            ground = Image.new("RGBA", whole.size, (255, 255, 255, 255))
            image = Image.alpha_composite(ground, whole).convert("RGB")
    image.getexif()[_ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


_ORIENTATION = 0x0112


def from_dataset(study: Study, numbers: Sequence[int]) -> list[ChosenImage]:
    """Images of a data set by their numbers in the split, from 0.

    Raises:
        InputError: There is no image of such a number.
    """
    from decompose_cli.datasets.transforms import image_to_tensor

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
