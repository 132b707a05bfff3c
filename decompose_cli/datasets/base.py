"""The common interface of data sets: batches of labelled images, names of the classes, and a fingerprint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from decompose_cli.preprocessing import ImageOptions, Preprocessing
from decompose_cli.storage.fingerprints import pixel_fingerprint, remembered

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

Batches = Iterator[tuple["Tensor", "Tensor"]]


class ImageDataset(ABC):
    """One split of a labelled set of images.

    Attributes:
        name: Name of the data set as written on the command line.
        split: ``train``, ``val`` or ``test``.
        class_names: Names of the classes in the order of the labels that :meth:`batches` yields.
        class_ids: Other names of the classes (WordNet ids), in the same order, where there are any.
        preprocessing: Preprocessing for networks that do not bring their own.
        decided_by: The image whose size decided ``preprocessing``, where one did.
        chosen: Preprocessing that was chosen for these images, whatever the network brings.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None = None
    preprocessing: Preprocessing
    decided_by: Path | None = None
    chosen: ImageOptions = ImageOptions()

    @abstractmethod
    def fingerprint(self) -> str:
        """A hexadecimal digest that changes when the images or labels do."""

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """Class of each image, int64 (N,), in the order of :meth:`batches`."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def batches(self, preprocessing: Preprocessing, batch_size: int, workers: int) -> Batches:
        """Yield ``(images, labels)`` in a fixed order: uint8 (n, 3, H, W) after resize and crop, int64 (n,)."""

    @abstractmethod
    def in_memory(self) -> Tensor | None:
        """All images as stored, uint8 (N, 3, H, W), if they are kept in memory; else None. Callers only read them."""

    @abstractmethod
    def image(self, index: int) -> Image:
        """One image as stored, RGB.

        Raises:
            InputError: The image cannot be read.
        """

    def remark(self) -> None:  # noqa: B027 - most have nothing to say
        """Say, once, what a user might not expect of the images that have been read, where that can be told."""


class InMemoryImages(ImageDataset):
    """Small images, held as one uint8 tensor (N, 3, H, W) that is read when first needed.

    Args:
        stamp: Paths, sizes and times of the files; while the stamp stays the same, the fingerprint of the pixels is
            remembered instead of computed, so that a cached analysis need not read the images.
        count: Number of images if known without reading them.
    """

    def __init__(
        self,
        name: str,
        split: str,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        read: Callable[[], tuple[Tensor, Tensor]],
        stamp: Any,
        count: int | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self._read = read
        self._stamp = stamp
        self._count = count

    @cached_property
    def pixels_and_labels(self) -> tuple[Tensor, Tensor]:
        """The images, uint8 (N, 3, H, W), and their labels, int64 (N,)."""
        return self._read()

    @property
    @override
    def labels(self) -> Tensor:
        return self.pixels_and_labels[1]

    @override
    def __len__(self) -> int:
        return self._count if self._count is not None else len(self.pixels_and_labels[1])

    @override
    def fingerprint(self) -> str:
        return remembered(["pixels", self._stamp], lambda: pixel_fingerprint(*self.pixels_and_labels))

    @override
    def batches(self, preprocessing: Preprocessing, batch_size: int, workers: int) -> Batches:
        pixels, labels = self.pixels_and_labels
        return batches_in_memory(pixels, labels, preprocessing, batch_size)

    @override
    def in_memory(self) -> Tensor:
        return self.pixels_and_labels[0]

    @override
    def image(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(self.pixels_and_labels[0][index].permute(1, 2, 0).numpy())


def batches_in_memory(pixels: Tensor, labels: Tensor, preprocessing: Preprocessing, batch_size: int) -> Batches:
    """Cut a uint8 tensor of images into batches, resizing and cropping whole batches where the network needs it."""
    untouched = preprocessing.keeps(*pixels.shape[-2:])
    for start in range(0, len(labels), batch_size):
        images = pixels[start : start + batch_size]
        if not untouched:
            from decompose_cli.datasets.transforms import resize_and_crop

            images = resize_and_crop(images, preprocessing)
        yield images, labels[start : start + batch_size]
