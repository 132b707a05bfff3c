"""What happens to an image between the file and the network: geometry and normalisation constants, as plain data."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from decompose_cli.errors import InputError, param

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Size = tuple[int, int]
Channels = tuple[float, float, float]
LARGEST_SIDE = 4096
_LARGEST_CONSTANT = 4.0


_LEAST_SEEN = 100
"""The share of a square image that a crop has to leave, as the denominator of one over it."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre-crop, scale to [0, 1], subtract ``mean`` and divide by ``std`` (per RGB channel).

    Attributes:
        mean: Number subtracted from each channel, for pixel values in [0, 1].
        std: Number that each channel is divided by, for pixel values in [0, 1].
        resize: Length of the shorter side in pixels (aspect ratio kept), or (height, width).
        crop: (height, width) of the centre crop, which is what the network sees.
        interpolation: Interpolation of the resize, with antialiasing.
    """

    mean: Channels
    std: Channels
    resize: int | Size
    crop: Size
    interpolation: Interpolation = "bilinear"

    def keeps(self, height: int, width: int) -> bool:
        """Whether images of (height, width) reach the network pixel for pixel."""
        shorter = min(height, width)
        unresized = self.resize == shorter if isinstance(self.resize, int) else self.resize == (height, width)
        return unresized and self.crop == (height, width)

    def resized(self, height: int, width: int) -> Size:
        """(height, width) to which an image of (height, width) is resized, before the middle is cut out of it."""
        if not isinstance(self.resize, int):
            return self.resize
        shorter, longer = sorted((height, width))
        other = int(self.resize * longer / shorter)
        return (self.resize, other) if height <= width else (other, self.resize)

    def seen_part(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Top, left, bottom and right of what the network sees of an image, as shares of its height and width.

        Where the network takes more pixels than there are after the resize, black ones are put around them, and it is
        the whole image.
        """
        resized = self.resized(height, width)
        edges = []
        for side, seen in zip(resized, self.crop, strict=True):
            start = max(0, round((side - seen) / 2))
            edges.append((start / side, min(1.0, (start + seen) / side)))
        (top, bottom), (left, right) = edges
        return top, left, bottom, right

    def geometry(self) -> dict[str, Any]:
        """The fields that decide which pixels the network sees, as JSON-ready values."""
        resize = self.resize if isinstance(self.resize, int) else list(self.resize)
        return {"resize": resize, "crop": list(self.crop), "interpolation": self.interpolation}

    def described(self) -> dict[str, Any]:
        """All fields, as JSON-ready values."""
        return {"mean": list(self.mean), "std": list(self.std), **self.geometry()}

    def overridden(self, *chosen: ImageOptions) -> Preprocessing:
        """Return a copy in which the chosen options replace the fields, one after another.

        ``input_size`` alone changes the crop and scales the resize with it, so that the same share of the image is
        seen; ``crop`` and ``resize`` set one of the two.

        Raises:
            InputError: Next to nothing of a square image is left by the crop, so that its resize is work for nothing.
        """
        result = self
        for options in chosen:
            fields = options.given()
            size = fields.pop("input_size", None)
            if size is not None:
                factor = max(size[0] / result.crop[0], size[1] / result.crop[1])
                scaled = math.ceil(result.resize * factor) if isinstance(result.resize, int) else size
                result = replace(result, crop=size, resize=scaled)
            result = replace(result, **fields)
        sides = (result.resize, result.resize) if isinstance(result.resize, int) else result.resize
        if math.prod(sides) > _LEAST_SEEN * math.prod(result.crop) and any(one.given() for one in chosen):
            whole, seen = ("x".join(map(str, size)) for size in (sides, result.crop))
            raise InputError(
                f"Of an image that is resized to {whole} a crop of {seen} leaves less than 1/{_LEAST_SEEN}.",
                hint=f"{param('input_size')} sets both; {param('resize')} and {param('crop')} set one each.",
            )
        return result


@dataclass(frozen=True)
class ImageOptions:
    """The fields of a :class:`Preprocessing` that were chosen, under their names; None leaves a field as it is.

    Attributes:
        input_size: (height, width) of the images that the network takes; see :meth:`Preprocessing.overridden`.
    """

    mean: Channels | None = None
    std: Channels | None = None
    input_size: Size | None = None
    resize: int | Size | None = None
    crop: Size | None = None
    interpolation: Interpolation | None = None

    def given(self) -> dict[str, Any]:
        """The fields that were chosen, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def known_fields(options: Sequence[ImageOptions], usual: Preprocessing) -> dict[str, Any]:
    """What options say of the preprocessing, whatever the data set: the fields that a checkpoint is described by.

    Args:
        options: What is known of a network's images and what was chosen for them, the later before the earlier.
        usual: The preprocessing where these say none.
    """
    known: dict[str, Any] = {}
    for each in options:
        known |= each.given()
    if "crop" in known and "resize" in known:  # then no data set changes the size, and it can be said in full
        known = {name: value for name, value in known.items() if name in ("mean", "std")}
        known |= usual.overridden(*options).geometry()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}


def check_image_options(
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | Sequence[int] | None = None,
    resize: int | Sequence[int] | None = None,
    crop: int | Sequence[int] | None = None,
    interpolation: str | None = None,
) -> ImageOptions:
    """Check image options that a Python program gives; a size is a number of pixels, or (height, width).

    >>> check_image_options(resize=256, crop=(224, 192))
    ImageOptions(mean=None, std=None, input_size=None, resize=256, crop=(224, 192), interpolation=None)

    Raises:
        InputError: A value is of another kind, or out of range.
    """
    sides = None if resize is None else check_size(resize, "resize")
    return ImageOptions(
        mean=None if mean is None else check_channels(mean, "mean"),
        std=None if std is None else check_channels(std, "std", positive=True),
        input_size=None if input_size is None else check_size(input_size, "input_size"),
        resize=sides if sides is None or isinstance(resize, Sequence) else sides[0],
        crop=None if crop is None else check_size(crop, "crop"),
        interpolation=None if interpolation is None else parse_interpolation(interpolation),
    )


def parse_image_options(
    *,
    mean: str | None = None,
    std: str | None = None,
    input_size: str | None = None,
    resize: str | None = None,
    crop: str | None = None,
    interpolation: str | None = None,
) -> ImageOptions:
    """Read image options from the texts that the user typed.

    >>> parse_image_options(mean="0.5,0.5,0.5", resize="256", crop="224x192")
    ImageOptions(mean=(0.5, 0.5, 0.5), std=None, input_size=None, resize=256, crop=(224, 192), interpolation=None)

    Raises:
        InputError: A value cannot be read or is out of range.
    """
    return ImageOptions(
        input_size=None if input_size is None else parse_size(input_size, "input_size"),
        resize=None if resize is None else _parse_resize(resize),
        crop=None if crop is None else parse_size(crop, "crop"),
        mean=None if mean is None else parse_channels(mean, "mean"),
        std=None if std is None else parse_channels(std, "std", positive=True),
        interpolation=None if interpolation is None else parse_interpolation(interpolation),
    )


def as_typed(options: ImageOptions) -> dict[str, str]:
    """The options that were chosen as :func:`parse_image_options` reads them.

    >>> as_typed(ImageOptions(mean=(0.5, 0.5, 0.5), resize=256, crop=(224, 192)))
    {'mean': '0.5,0.5,0.5', 'resize': '256', 'crop': '224x192'}
    """
    texts = {}
    for name, value in options.given().items():
        sign = "," if name in ("mean", "std") else "x"
        texts[name] = sign.join(map(str, value)) if isinstance(value, tuple) else str(value)
    return texts


def _parse_resize(text: str) -> int | Size:
    size = parse_size(text, "resize")
    return size if "x" in text else size[0]


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
        InputError: The text is not one or two whole numbers, or :func:`check_size` refuses them.
    """
    parts = text.split("x")
    if len(parts) not in (1, 2) or not all(re.fullmatch(r"\d{1,9}", part, re.ASCII) for part in parts):
        raise InputError(f"{param(parameter)} {text!r} is not a size; write 224 or 224x224.")
    return check_size((int(parts[0]), int(parts[-1])), parameter, repr(text))


def check_size(size: int | Sequence[int], parameter: str, shown: str | None = None) -> Size:
    """Check a size and return its (height, width) in pixels; a single number is both.

    Args:
        size: The size to check.
        parameter: Name of the parameter that gave it.
        shown: The size as the error sentence shows it, if not as ``size`` itself.

    Raises:
        InputError: The size is not one or two whole numbers between 1 and 4096, or it is a single pixel, which torch
            cannot resize to.
    """
    what = f"{param(parameter)} {shown or repr(size)}"
    try:
        sides = tuple(map(operator.index, size if isinstance(size, Sequence) else (size, size)))
    except TypeError:
        sides = ()
    if len(sides) != 2:
        raise InputError(f"{what} is not a size; write 224 or (224, 224).")
    if not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise InputError(f"{what} is out of range; sides go from 1 to {LARGEST_SIDE} pixels.")
    if max(sides) == 1:
        raise InputError(f"{what} is a single pixel, which is no image.")
    return sides[0], sides[1]


def parse_channels(text: str, parameter: str, *, positive: bool = False) -> Channels:
    """Read three comma-separated numbers, one per RGB channel.

    Raises:
        InputError: The text is not three numbers, or :func:`check_channels` refuses them.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    return check_channels(values, parameter, positive=positive, shown=repr(text))


def check_channels(
    values: Sequence[float], parameter: str, *, positive: bool = False, shown: str | None = None
) -> Channels:
    """Check three numbers, one per RGB channel, and return them.

    Args:
        values: The numbers to check.
        parameter: Name of the parameter that gave them.
        positive: Whether the numbers have to be positive.
        shown: The numbers as the error sentence shows them, if not as ``values`` themselves.

    Raises:
        InputError: The values are not three finite numbers, one is too large for pixel values in [0, 1], or one is not
            positive where that is required.
    """
    numbers = tuple(map(float, values))
    what = f"{param(parameter)} {shown or numbers}"
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise InputError(f"{what} is not three comma-separated numbers such as 0.491,0.482,0.447.")
    if max(map(abs, numbers)) > _LARGEST_CONSTANT:
        raise InputError(f"{what} is not for pixel values in [0, 1]; divide numbers for 0 to 255 by 255.")
    if positive and min(numbers) <= 0:
        raise InputError(f"{what} must be positive in every channel.")
    return numbers[0], numbers[1], numbers[2]


CIFAR = Preprocessing(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.261), resize=32, crop=(32, 32))
"""Preprocessing of CIFAR networks, whatever their data set; the constants are those of the code of arXiv 2112.07719."""

CIFAR_OF_GATES = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010), resize=32, crop=(32, 32))
"""Preprocessing with which the published networks with soft gates were trained."""

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=(224, 224))
"""Preprocessing of ImageNet networks, as torchvision evaluates them."""
