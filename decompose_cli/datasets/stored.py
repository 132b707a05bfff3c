"""Labelled images that are stored one by one, encoded as image files are, whatever they lie in."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Self, override

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.chunks import Chunk, chunks_in_memory
from decompose_cli.datasets.decoding import Encoded, open_image
from decompose_cli.datasets.reading import READING, ImageFiles
from decompose_cli.datasets.streaming import decoded_chunks
from decompose_cli.errors import InputError
from decompose_cli.messages import track
from decompose_cli.preprocessing import CIFAR, IMAGENET, Preprocessing
from decompose_cli.storage.fingerprints import digest_of, pixel_fingerprint, remembered

SMALL_SIDE = 64
"""Pixels of the longer side of images that are seen as they are; larger ones are resized as ImageNet's are."""
_MOST_BYTES = 4 << 30
_MOST_LOOKED_AT = 10_000  # for one that can be opened
_STREAMED = "0" * 64  # remembered instead of a pixel fingerprint where the images do not make one tensor


class ImageList(Protocol):
    """Where images are, in the order in which they are read; it can be pickled."""

    @property
    def files(self) -> Sequence[Path] | Sequence[Encoded] | Sequence[Path | Encoded]:
        """The images as :func:`.decoding.open_image` takes them. Asking for one that is damaged raises InputError."""

    @property
    def digest(self) -> str:
        """A digest that changes when the images do, wherever they lie."""

    def name(self, number: int) -> str:
        """An image by a name that tells a person which it is."""

    def take(self, numbers: np.ndarray) -> Self:
        """The images with these numbers, in this order."""

    def stamp(self, images: range) -> str | None:
        """A digest of some images where they lie, which changes with any change; None where that is not known."""


def usual_preprocessing_of(width: int, height: int) -> Preprocessing:
    """Preprocessing of images of this size for networks that bring none: small ones are seen whole."""
    if max(width, height) > SMALL_SIDE:
        return IMAGENET
    side = min(width, height)
    return Preprocessing(CIFAR.mean, CIFAR.std, resize=side, crop=(side, side))


class StoredImages(ImageDataset):
    """Images that are decoded as they are needed, by worker processes.

    Those that are all of one size, at most 64 pixels a side, are decoded once and kept in memory.

    Args:
        name: Name of the data set as written on the command line.
        split: ``train``, ``val`` or ``test``.
        root: The folder or file that the images lie in.
        images: Where they are.
        labels: Labels of the images, in 0..len(class_names) - 1.
        class_names: All classes of the data set, also those of which this split has no image.
        class_ids: Other names of the classes (WordNet ids), in the same order, where there are any.
        preprocessing: Preprocessing for networks that bring none; by default CIFAR's for small images, ImageNet's for
            others.
        reference: Images the first of which decides between the two; by default these.
    """

    def __init__(
        self,
        name: str,
        split: str,
        root: Path,
        images: ImageList,
        labels: Sequence[int] | Tensor,
        class_names: Sequence[str],
        class_ids: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
        reference: Sequence[Any] | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self.root = root
        self.images = images
        self.files: Sequence[Any] = images.files
        self._images = ImageFiles(self.files, root)
        self._labels = torch.as_tensor(labels, dtype=torch.int64)
        self.class_names = tuple(class_names)
        self.class_ids = tuple(class_ids) if class_ids else None
        self._preprocessing = preprocessing
        self._reference = reference

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]
        """Preprocessing for networks that bring none, the same for all splits."""
        if self._preprocessing is not None:
            return self._preprocessing
        return usual_preprocessing_of(*self._deciding[1])

    @property
    @override
    def labels(self) -> Tensor:
        return self._labels

    def __len__(self) -> int:
        return len(self.files)

    @property
    def decided_by(self) -> object:  # type: ignore[override]
        """The image whose size decided the preprocessing."""
        return self._deciding[0] if self._preprocessing is None else None

    @cached_property
    def _deciding(self) -> tuple[object, tuple[int, int]]:
        """The first image of the reference that can be opened, and its (width, height)."""
        return self._first if self._reference is None else (_first_of(self._reference) or self._first)

    @cached_property
    def _by_files(self) -> str:
        """A digest of the files, of their labels, and of how they are read."""
        return digest_of(["files", READING, self.images.digest, self.labels.tolist()])

    @cached_property
    def _first(self) -> tuple[object, tuple[int, int]]:
        """The first image that can be opened, and its (width, height)."""
        if (found := _first_of(self.files)) is not None:
            return found
        try:
            with open_image(self.files[0]) as image:  # which says what is wrong with it
                return self.images.name(0), image.size
        except InputError as error:
            if len(self.files) <= _MOST_LOOKED_AT:
                raise
            raise InputError(
                f"None of the first {_MOST_LOOKED_AT:,} images can be opened. {error.sentence}", hint=error.advice
            ) from error

    @cached_property
    def _whole(self) -> tuple[Tensor, dict[int, str]] | None:
        """All images, uint8 (N, 3, H, W), if they are small and of one size, and what is wrong with those of zeros."""
        size = width, height = self._first[1]
        if max(size) > SMALL_SIDE or len(self.files) * 3 * height * width > _MOST_BYTES:
            return None
        pixels = np.zeros((len(self.files), 3, height, width), dtype=np.uint8)
        unreadable = {}
        # Images are read one after another: for small ones, threads would spend three times as long on waiting.
        with track("Reading images", len(self.files)) as advance:
            for number in range(len(self.files)):
                try:
                    image = self._images.read(number)
                except InputError as error:
                    unreadable[number] = error.sentence
                else:
                    if image.size != size:
                        return None
                    pixels[number] = np.asarray(image).transpose(2, 0, 1)
                advance(1)
        self.remark()
        return torch.from_numpy(pixels), unreadable

    @override
    def fingerprint(self) -> str:
        if max(self._first[1]) > SMALL_SIDE:
            return self._by_files

        def compute() -> str:
            if self._whole is None or self._whole[1]:
                return _STREAMED
            return pixel_fingerprint(self._whole[0], self.labels)

        fingerprint = remembered(["folder", self._by_files], compute)
        return self._by_files if fingerprint == _STREAMED else fingerprint

    @override
    def chunks(
        self, preprocessing: Preprocessing, wanted: Sequence[range], workers: int
    ) -> Generator[Chunk, None, None]:
        if self._whole is not None:
            pixels, unreadable = self._whole
            return chunks_in_memory(pixels, preprocessing, wanted, unreadable)
        return decoded_chunks(self._images.read, preprocessing, wanted, workers, self.remark)

    @override
    def subset(self, numbers: Tensor) -> Self:
        chosen = type(self)(
            self.name,
            self.split,
            self.root,
            self.images.take(numbers.numpy()),
            self.labels[numbers],
            self.class_names,
            self.class_ids,
            self.preprocessing,
        )
        chosen.chosen, chosen.is_numbered = self.chosen, self.is_numbered
        return chosen

    @override
    def remark(self) -> None:
        self._images.say()

    @override
    def in_memory(self) -> Tensor | None:
        if self._whole is None:
            return None
        pixels, unreadable = self._whole
        if unreadable:
            self.refuse(unreadable)
        return pixels

    @override
    def stamps(self, ranges: Sequence[range]) -> list[str] | None:
        stamps = [self.images.stamp(numbers) for numbers in ranges]
        known = [digest_of([READING, str(self.root.resolve()), stamp]) for stamp in stamps if stamp is not None]
        return known if len(known) == len(stamps) else None

    @override
    def file_of(self, number: int) -> str | None:
        return self.images.name(number)

    @override
    def image(self, index: int) -> Image.Image:
        return self._images.read(index)


def _first_of(files: Sequence[Any]) -> tuple[object, tuple[int, int]] | None:
    for number in range(min(len(files), _MOST_LOOKED_AT)):
        with suppress(InputError):
            file = files[number]
            with open_image(file) as image:
                return file if isinstance(file, Path) else str(file), image.size
    return None
