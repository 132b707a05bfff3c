"""Images of a Python program: batches of normalised images and class numbers, such as a DataLoader yields."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import Channels, ImageOptions, Preprocessing
from decompose_cli.storage.fingerprints import pixel_fingerprint
from decompose_cli.storage.memory import check_fits

_WHITE = 255
_NEAR = 1e-3
"""How far from a whole level a pixel may be, in levels, by the rounding of who normalised it."""
UNCHANGED: tuple[Channels, Channels] = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
"""Mean and standard deviation where nobody says how images were normalised."""


class BatchImages(ImageDataset):
    """Images that were read from batches, held in memory as pixels: values times deviation plus mean, times 255.

    Pixels are uint8 (N, 3, H, W) where all are whole levels, as normalised photographs are, and float32 otherwise; the
    network sees the values that it was given, but for their rounding.

    Args:
        name: What the batches are called.
        split: ``train``, ``val`` or ``test``.
        class_names: Names of the classes, in the order of the class numbers.
        pixels: As described, of one size.
        labels: Class numbers, int64 (N,).
        normalised: Mean and deviation by which the values were made pixels.
    """

    are_outputs = True

    def __init__(
        self,
        name: str,
        split: str,
        class_names: Sequence[str],
        pixels: Tensor,
        labels: Tensor,
        normalised: tuple[Channels, Channels],
    ) -> None:
        self.name, self.split, self.class_names = name, split, tuple(class_names)
        self.pixels, self._labels = pixels, labels
        height, width = pixels.shape[-2:]
        mean, std = normalised
        self.preprocessing = Preprocessing(mean=mean, std=std, resize=(height, width), crop=(height, width))
        seen = self.preprocessing
        self.chosen = ImageOptions(mean=mean, std=std, resize=(height, width), crop=seen.crop)

    @property
    def has_levels(self) -> bool:
        """Whether every pixel is one of 256 levels."""
        return self.pixels.dtype == torch.uint8

    @override
    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        if self.has_levels:
            return pixel_fingerprint(self.pixels, self._labels)
        return hashlib.sha256(self.pixels.numpy().tobytes() + self._labels.numpy().tobytes()).hexdigest()

    @property
    @override
    def labels(self) -> Tensor:
        return self._labels

    @override
    def __len__(self) -> int:
        return len(self._labels)

    @override
    def in_memory(self) -> Tensor:
        return self.pixels

    @override
    def image(self, index: int) -> Image.Image:
        return Image.fromarray(shown_levels(self.pixels[index]).permute(1, 2, 0).numpy())

    @override
    def subset(self, numbers: Tensor) -> ImageDataset:
        normalised = self.preprocessing.mean, self.preprocessing.std
        names = self.class_names
        return BatchImages(self.name, self.split, names, self.pixels[numbers], self._labels[numbers], normalised)


def shown_levels(pixels: Tensor) -> Tensor:
    """Pixels (3, H, W) as uint8 for people: as they are, or with their smallest as black and their largest as white."""
    if pixels.dtype == torch.uint8:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > _WHITE:
        pixels = (pixels - low) * (_WHITE / max(high - low, 1e-12))
    return pixels.round().to(torch.uint8)


def read_batches(
    batches: Iterable[Any],
    checked: Callable[[object, int], tuple[Tensor, Tensor]],
    split: str,
    class_names: Sequence[str],
    known: Sequence[tuple[Channels, Channels]] = (),
) -> BatchImages:
    """Read all batches, once, into memory.

    Args:
        batches: Pairs of images (n, 3, H, W) and class numbers (n,).
        checked: Takes a batch and its number; returns images and labels, or raises what is wrong with them.
        split: Name of the split.
        class_names: Names of the classes.
        known: Means and deviations by which the images may have been normalised; the first that makes every pixel one
            of 256 levels is taken. Without such a one pixels are taken as they are, by the first that is known.

    Raises:
        InputError: There are no images, they are of several sizes or of another number of channels than three, or take
            more memory than there is.
    """
    images: list[Tensor] = []
    labels: list[Tensor] = []
    size = None
    for number, batch in enumerate(batches):
        values, truth = checked(batch, number)
        if size not in (None, values.shape[1:]):
            raise InputError(
                f"The images of batch {number} are of shape {tuple(values.shape[1:])}, those before of "
                f"{tuple(size or ())}."
            )
        size = values.shape[1:]
        if len(size) != 3 or size[0] != 3:
            raise InputError(f"The images of batch {number} are not of three channels: {tuple(values.shape)}.")
        check_fits(
            4.0 * values.numel(),
            "Keeping these batches",
            "Open the images with load_dataset, which reads them when they are needed.",
        )
        images.append(values.detach().cpu().float())
        labels.append(truth)
    if not labels or not sum(map(len, labels)):
        raise InputError("There are no images.")
    together, truth = torch.cat(images), torch.cat(labels)
    candidates = list(dict.fromkeys([*known, UNCHANGED]))
    for normalised in candidates:
        levels = _levels(together, normalised)
        if levels is not None:
            break
    else:
        normalised = candidates[0]
        levels = _as_pixels(together, normalised)
    return BatchImages(name_of(batches), split, class_names, levels, truth, normalised)


def name_of(batches: object) -> str:
    """What to call batches: the class of the data set of a loader, where it has one."""
    dataset = getattr(batches, "dataset", None)
    return "batches" if dataset is None else type(dataset).__name__


def _as_pixels(values: Tensor, normalised: tuple[Channels, Channels]) -> Tensor:
    mean, std = (torch.tensor(constants).view(3, 1, 1) for constants in normalised)
    return (values * std + mean) * _WHITE


def _levels(values: Tensor, normalised: tuple[Channels, Channels]) -> Tensor | None:
    """The pixels as uint8; None where some are no levels."""
    levels = torch.empty(values.shape, dtype=torch.uint8)
    for start in range(0, len(values), 256):  # so that no second copy is in memory
        pixels = _as_pixels(values[start : start + 256], normalised)
        whole = pixels.round()
        if not bool(((pixels - whole).abs() < _NEAR).all()) or bool(((whole < 0) | (whole > _WHITE)).any()):
            return None
        levels[start : start + 256] = whole.to(torch.uint8)
    return levels
