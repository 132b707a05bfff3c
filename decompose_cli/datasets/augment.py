"""Random changes to training images, one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from decompose_cli.datasets.counter_random import Stream, derived_seed, seeded
from decompose_cli.datasets.transforms import resize_and_crop
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import Preprocessing

Kind = Literal["none", "crop-flip", "resized-crop", "affine"]
PaddingMode = Literal["zeros", "border"]

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_DEGREES = 25
_TRANSLATION = 0.2
_ZOOM = (0.8, 1.2)
_SHEAR = 8
_CONTRAST = (0.75, 1.5)
_BRIGHTNESS = (0.8, 1.2)


@dataclass(frozen=True)
class Augmentation:
    """The random changes to each training image.

    Attributes:
        kind: ``none``: images are as in evaluation, whatever the other attributes say.
            ``crop-flip``: the image as in evaluation, padded, and a part of its own size cut out of that; for small
            images (arXiv 1512.03385, section 4.2).
            ``resized-crop``: a part of 8 to 100 % of the area, with sides as 3:4 to 4:3, resized to what the network
            sees (arXiv 1409.4842, section 6).
            ``affine``: the image as in evaluation, rotated by up to 25 degrees, moved by up to 0.2 of its sides, scaled
            by 0.8 to 1.2, sheared horizontally by up to 8 degrees (bilinear; black outside), its contrast multiplied by
            0.75 to 1.5 and then each of its three channels by its own 0.8 to 1.2 (arXiv 2112.07719, fine-tuning on
            ImageNet).
        padding: Pixels added on each side, for ``crop-flip``.
        padding_mode: ``zeros``: black before normalisation; ``border``: the nearest pixel of the image.
        flip: Whether half of the images are mirrored left to right.
        cutout: Side in pixels of a square, its centre anywhere in the image, that is set to 0 after normalisation
            (arXiv 1708.04552); the part of it outside of the image is lost. 0 for none.

    Raises:
        InputError: An attribute is out of range.
    """

    kind: Kind
    padding: int = 4
    padding_mode: PaddingMode = "zeros"
    flip: bool = True
    cutout: int = 0

    def __post_init__(self) -> None:
        for what, value, known in (
            ("augmentation", self.kind, get_args(Kind)),
            ("padding mode", self.padding_mode, get_args(PaddingMode)),
        ):
            if value not in known:
                raise InputError(f"There is no {what} {value!r}; choose {', '.join(known[:-1])} or {known[-1]}.")
        for what, pixels in (("padding", self.padding), ("cutout", self.cutout)):
            if pixels < 0:
                raise InputError(f"The {what} is {pixels} pixels; it must not be negative.")

    @property
    def whole_batches(self) -> bool:
        """Whether :mod:`decompose_cli.datasets.crops` makes these images in whole batches."""
        return self.kind in ("none", "crop-flip")


class ImageTransform:
    """Turns an image, PIL or uint8 (3, h, w), into the uint8 tensor (3, H, W) that a network is to see.

    The result is a function of the image and (seed, epoch, index) alone. For ``crop-flip`` only the geometry of
    evaluation is done here: whole batches are cropped at once, and cutout comes after normalisation.
    """

    def __init__(self, augmentation: Augmentation, preprocessing: Preprocessing) -> None:
        self.augmentation = augmentation
        self.preprocessing = preprocessing
        flip = [v2.RandomHorizontalFlip()] if augmentation.flip else []
        self._steps: list[Callable[[Any], Any]] = []
        if augmentation.kind == "resized-crop":
            mode = InterpolationMode(preprocessing.interpolation)
            size = list(preprocessing.crop)
            self._steps = [v2.RandomResizedCrop(size, _AREA, _ASPECT, mode, antialias=True), *flip]
        elif augmentation.kind == "affine":
            moves = v2.RandomAffine(
                _DEGREES,
                translate=(_TRANSLATION, _TRANSLATION),
                scale=_ZOOM,
                shear=_SHEAR,
                interpolation=InterpolationMode.BILINEAR,
            )
            self._steps = [*flip, moves, v2.ColorJitter(contrast=_CONTRAST), _tensor, _channels_brightened]

    def __call__(self, image: Any, seed: int, epoch: int, index: int) -> Tensor:
        """Transform image number ``index`` of the data set."""
        if self.augmentation.kind != "resized-crop":
            image = resize_and_crop(image, self.preprocessing)
        if self.augmentation.kind == "affine":
            # Pillow adds whole grey levels up for the contrast, so that no number of threads changes their mean.
            image = F.to_pil_image(image) if isinstance(image, Tensor) else image
        if self._steps:
            with seeded(derived_seed(Stream.IMAGE, seed, epoch, index)):
                for step in self._steps:
                    image = step(image)
        return _tensor(image)


def _tensor(image: Any) -> Tensor:
    tensor: Tensor = image if isinstance(image, Tensor) else F.pil_to_tensor(image)
    return tensor


def _channels_brightened(image: Tensor) -> Tensor:
    """Multiply each channel of uint8 (3, H, W) by a factor of its own, rounding to the nearest level."""
    factors = torch.empty(3, 1, 1).uniform_(*_BRIGHTNESS)
    return (image * factors).round_().clamp_(0, 255).to(torch.uint8)
