"""Geometry of images before they reach the network, with torchvision's v2 transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from decompose_cli.errors import InputError, param
from decompose_cli.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_VALUES = 3 << 27
"""Of an image that was resized: 134 million pixels, eight times the largest square."""


def resize_and_crop(images: Any, preprocessing: Preprocessing) -> Any:
    """Resize, then centre-crop a PIL image, or all images of a uint8 tensor (..., H, W) at once.

    A PIL image is resized by Pillow, as the published code does it; tensors by torch with antialiasing, which differs
    from Pillow by at most a few grey levels.

    Raises:
        InputError: An image is so much longer than wide, or wider than high, that it would fill the memory.
    """
    shape = images.shape[-2:] if isinstance(images, Tensor) else images.size[::-1]
    if values_of_resized(shape, preprocessing) > _MOST_VALUES:
        raise InputError(
            f"An image of {shape[0]}x{shape[1]} pixels is too long to be resized by its shorter side.",
            hint=f"Give both sides, as in {param('resize')} 224x224.",
        )
    size = preprocessing.resize
    mode = InterpolationMode(preprocessing.interpolation)
    resized = F.resize(images, [size] if isinstance(size, int) else list(size), mode, antialias=True)
    return F.center_crop(resized, list(preprocessing.crop))


def values_of_resized(shape: Sequence[int], preprocessing: Preprocessing) -> int:
    """How many values an image of this (height, width) has after it was resized, before the crop."""
    size = preprocessing.resize
    height, width = shape
    if isinstance(size, int):
        return 3 * size * (size * max(height, width) // min(height, width))
    return 3 * size[0] * size[1]


def image_to_tensor(image: Image, preprocessing: Preprocessing) -> Tensor:
    """Resize and crop an RGB image into uint8 (3, H, W)."""
    tensor: Tensor = F.pil_to_tensor(resize_and_crop(image, preprocessing))
    return tensor
