"""Geometry of images before they reach the network, with torchvision's v2 transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from decompose_cli.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image


def resize_and_crop(images: Any, preprocessing: Preprocessing) -> Any:
    """Resize, then centre-crop a PIL image, or all images of a uint8 tensor (..., H, W) at once.

    A PIL image is resized by Pillow, as the published code does it; tensors by torch with antialiasing, which differs
    from Pillow by at most a few grey levels.
    """
    size = preprocessing.resize
    mode = InterpolationMode(preprocessing.interpolation)
    resized = F.resize(images, [size] if isinstance(size, int) else list(size), mode, antialias=True)
    return F.center_crop(resized, list(preprocessing.crop))


def image_to_tensor(image: Image, preprocessing: Preprocessing) -> Tensor:
    """Resize and crop an RGB image into uint8 (3, H, W)."""
    tensor: Tensor = F.pil_to_tensor(resize_and_crop(image, preprocessing))
    return tensor
