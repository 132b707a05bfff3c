"""What an image processor of transformers does with an image, measured on images that tell it.

There are dozens of processors, each with its own reading of ``size``, ``crop_size`` and ``crop_pct``. What matters is
which part of an image reaches the network, how large, and with which numbers: black and coloured images show the
normalisation, and ramps from left to right and from top to bottom show the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decompose_cli.errors import InputError, first_line, param
from decompose_cli.messages import warn
from decompose_cli.preprocessing import IMAGENET, Interpolation, Preprocessing, check_channels, check_size

_HEIGHT, _WIDTH = 480, 960
_RESAMPLING: dict[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
_DIGITS = 6  # of what was computed in float32
_OFF = 0.01
"""How far the shape of what an image is resized to may be off for whole pixels, as a share."""


def preprocessing_of(name: str, path: Path | None, image_size: object) -> Preprocessing:
    """The preprocessing of a network of transformers.

    Args:
        name: Name of the network, for messages.
        path: Its ``preprocessor_config.json`` or ``processor_config.json``; without either ImageNet's constants are
            taken, with a warning.
        image_size: Pixels of a side that the network says it takes, or (height, width), or anything else for none.

    Raises:
        InputError: The file cannot be used, or does something that is no :class:`Preprocessing`.
    """
    if path is None:
        sides = image_size if isinstance(image_size, int | list | tuple) else IMAGENET.crop
        size = check_size(sides, "input_size", f"{sides!r}, the image_size of {name},")
        warn(
            f"{name} comes without preprocessor_config.json: ImageNet's mean and standard deviation are taken, and "
            f"images of {'x'.join(map(str, size))} pixels; {param('mean')}, {param('std')} and {param('input_size')} "
            "take others."
        )
        return Preprocessing(IMAGENET.mean, IMAGENET.std, size if size[0] != size[1] else size[0], size)
    from transformers import AutoImageProcessor

    try:
        make: Any = AutoImageProcessor.from_pretrained
        processor = make(path.parent, trust_remote_code=False, local_files_only=True)
        return _measured(processor, name, path)
    except InputError:
        raise
    except Exception as error:  # whatever is in the file
        raise InputError(f"The image processor {path} of {name} cannot be used: {first_line(error)}.") from error


def _measured(processor: Any, name: str, path: Path) -> Preprocessing:
    images = np.zeros((6, _HEIGHT, _WIDTH, 3), np.float32)  # not rounded, as 8 bits would be after the resize
    for colour in range(3):
        images[1 + colour, :, :, colour] = 255
    images[4] = np.linspace(0, 255, _WIDTH)[None, :, None]
    images[5] = np.linspace(0, 255, _HEIGHT)[:, None, None]
    seen = processor(images=list(images), return_tensors="pt")["pixel_values"].double()
    if seen.ndim != 4 or seen.shape[:2] != (6, 3):
        raise InputError(f"{name} does not take RGB images as maps (N, 3, H, W): {path} makes {tuple(seen.shape)}.")
    height, width = seen.shape[2:]
    middle = seen[:4, :, height // 2, width // 2]
    gains = middle[1:] - middle[0]  # row: the colour that was lit
    largest = float(gains.abs().max())
    if not bool((gains - gains.diag().diag()).abs().max() <= 1e-6 * largest):
        raise InputError(f"{name} takes channels in another order than red, green and blue, as {path} says.")
    std = torch.tensor([float(f"{value:.{_DIGITS}g}") for value in (1 / gains.diag()).tolist()], dtype=seen.dtype)
    mean = (-middle[0] * std).round(decimals=_DIGITS)
    levels = (seen[4:] * std[:, None, None] + mean[:, None, None]).mean(1) * 255
    rows, columns = _middle(height), _middle(width)
    resized = _side(levels[0, rows].mean(0), _WIDTH), _side(levels[1, :, columns].mean(1), _HEIGHT)
    if min(resized) <= 0:
        raise InputError(f"{path} of {name} does not keep the middle of an image, so it is no resize and crop.")
    wide, high = resized
    keeps_shape = abs(wide / high - _WIDTH / _HEIGHT) < _OFF * _WIDTH / _HEIGHT
    side = min(height, width)
    return Preprocessing(
        mean=check_channels(mean.tolist(), "mean"),
        std=check_channels(std.tolist(), "std", positive=True),
        resize=round(high) if keeps_shape else (round(high), round(wide)),
        crop=(side, side) if keeps_shape and abs(width - wide) < 1 else (height, width),  # it has no crop of its own
        interpolation=_interpolation(processor, name),
    )


def _middle(length: int) -> slice:
    """The middle half of a side, away from what may have been put around the image."""
    return slice(length // 4, length - length // 4)


def _side(levels: Tensor, length: int) -> float:
    """To how many pixels a side was resized, of which a middle part was kept; 0 where that is not what happened.

    Args:
        levels: The values along the side that a ramp from 0 to 255 over ``length`` pixels has become.
        length: Pixels of the side before.
    """
    part = _middle(len(levels))
    places = torch.arange(len(levels), dtype=torch.float64)[part] - (len(levels) - 1) / 2
    values = levels[part]
    slope = float((places @ (values - values.mean())) / (places @ places))
    steps = 255 / (length - 1)
    off_middle = abs(float(values.mean()) - 127.5)
    if slope <= 0 or off_middle > slope + steps:
        return 0.0
    return steps * length / slope


def _interpolation(processor: Any, name: str) -> Interpolation:
    resample = getattr(processor, "resample", None)
    known = _RESAMPLING.get(2 if resample is None else int(resample))
    if known is None:
        warn(f"The images of {name} are resized with an interpolation that is unknown here; bicubic is taken.")
    return known or "bicubic"
