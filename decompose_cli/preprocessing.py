"""What happens to an image between the file and the network: geometry and normalisation constants, as plain data."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from decompose_cli.errors import InputError, param

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Size = tuple[int, int]
LARGEST_SIDE = 4096
_LARGEST_CONSTANT = 4.0


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre-crop, scale to [0, 1], subtract ``mean`` and divide by ``std`` (per RGB channel).

    Attributes:
        mean: Per channel, for pixel values in [0, 1].
        std: Per channel, for pixel values in [0, 1].
        resize: Length of the shorter side in pixels (aspect ratio kept), or (height, width).
        crop: (height, width) of the centre crop; what the network sees.
        interpolation: Used for the resize, with antialiasing.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int | Size
    crop: Size
    interpolation: Interpolation = "bilinear"

    def keeps(self, height: int, width: int) -> bool:
        """Whether images of this size reach the network pixel for pixel."""
        shorter = min(height, width)
        unresized = self.resize == shorter if isinstance(self.resize, int) else self.resize == (height, width)
        return unresized and self.crop == (height, width)

    def geometry(self) -> dict[str, Any]:
        """The part that decides which pixels the network sees, as JSON-ready values."""
        resize = self.resize if isinstance(self.resize, int) else list(self.resize)
        return {"resize": resize, "crop": list(self.crop), "interpolation": self.interpolation}

    def described(self) -> dict[str, Any]:
        """All of it, as JSON-ready values."""
        return {"mean": list(self.mean), "std": list(self.std), **self.geometry()}

    def overridden(
        self,
        *,
        mean: str | None = None,
        std: str | None = None,
        input_size: str | None = None,
        resize: str | None = None,
        crop: str | None = None,
        interpolation: str | None = None,
    ) -> Preprocessing:
        """Apply what the user wrote on the command line.

        ``input_size`` alone changes the crop and scales the resize with it, so that the same share of the image is
        seen; ``crop`` and ``resize`` set one of the two.

        Raises:
            InputError: A value cannot be read or is out of range.
        """
        result = self
        if input_size is not None:
            size = parse_size(input_size, "input_size")
            factor = max(size[0] / self.crop[0], size[1] / self.crop[1])
            scaled = math.ceil(self.resize * factor) if isinstance(self.resize, int) else size
            result = replace(result, crop=size, resize=scaled)
        if resize is not None:
            exact = parse_size(resize, "resize")
            result = replace(result, resize=exact if "x" in resize else exact[0])
        if crop is not None:
            result = replace(result, crop=parse_size(crop, "crop"))
        if mean is not None:
            result = replace(result, mean=parse_channels(mean, "mean"))
        if std is not None:
            result = replace(result, std=parse_channels(std, "std", positive=True))
        if interpolation is not None:
            result = replace(result, interpolation=parse_interpolation(interpolation))
        return result


def parse_interpolation(text: str) -> Interpolation:
    """Check the name of an interpolation.

    Raises:
        InputError: The name is unknown.
    """
    for name in get_args(Interpolation):
        if text == name:
            return name  # type: ignore[no-any-return]
    raise InputError(f"{param('interpolation')} {text!r} is unknown; choose nearest, bilinear or bicubic.")


def parse_size(text: str, parameter: str) -> Size:
    """Read ``224`` or ``224x192`` (height x width) in pixels.

    Raises:
        InputError: Not one or two whole numbers between 1 and 4096, or a single pixel, which torch cannot resize to.
    """
    parts = text.split("x")
    if len(parts) not in (1, 2) or not all(re.fullmatch(r"\d{1,9}", part, re.ASCII) for part in parts):
        raise InputError(f"{param(parameter)} {text!r} is not a size; write 224 or 224x224.")
    sides = [int(part) for part in parts]
    if not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise InputError(f"{param(parameter)} {text!r} is out of range; sides go from 1 to {LARGEST_SIDE} pixels.")
    if max(sides) == 1:
        raise InputError(f"{param(parameter)} {text!r} is a single pixel, which is no image.")
    return sides[0], sides[-1]


def parse_channels(text: str, parameter: str, *, positive: bool = False) -> tuple[float, float, float]:
    """Read three comma-separated numbers, one per RGB channel.

    Raises:
        InputError: Not three finite numbers, or not positive where that is required.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not all(math.isfinite(value) for value in values):
        raise InputError(f"{param(parameter)} {text!r} is not three comma-separated numbers such as 0.491,0.482,0.447.")
    if max(map(abs, values)) > _LARGEST_CONSTANT:
        raise InputError(
            f"{param(parameter)} {text!r} is not for pixel values in [0, 1]; divide numbers for 0 to 255 by 255."
        )
    if positive and min(values) <= 0:
        raise InputError(f"{param(parameter)} {text!r} must be positive in every channel.")
    return values[0], values[1], values[2]


CIFAR = Preprocessing(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.261), resize=32, crop=(32, 32))
"""CIFAR networks, constants as in the code of arXiv 2112.07719; used on whatever dataset such a network meets."""

CIFAR_OF_GATES = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010), resize=32, crop=(32, 32))
"""As the published networks with soft gates were trained."""

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=(224, 224))
"""ImageNet networks, as torchvision evaluates them."""
