"""What every data set offers: batches of labelled images, names for its classes, and a fingerprint."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.files import cache_root, write_text
from decompose_cli.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

Batches = Iterator[tuple["Tensor", "Tensor"]]


class ImageDataset(ABC):
    """One split of a labelled set of images.

    Attributes:
        name: As written on the command line.
        split: ``train``, ``val`` or ``test``.
        class_names: In the order of the labels that :meth:`batches` yields.
        class_ids: Other names of the classes (WordNet ids), in the same order, where there are any.
        preprocessing: For networks that do not bring their own.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None = None
    preprocessing: Preprocessing

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


class InMemoryImages(ImageDataset):
    """Small images, held as one uint8 tensor (N, 3, H, W) that is read when first needed.

    Args:
        stamp: What the files look like from outside (paths, sizes, times); while it stays the same, the fingerprint of
            the pixels is remembered instead of computed, so that a cached analysis need not read the images.
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
        """uint8 (N, 3, H, W) and int64 (N,)."""
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


def batches_in_memory(pixels: Tensor, labels: Tensor, preprocessing: Preprocessing, batch_size: int) -> Batches:
    """Cut a uint8 tensor of images into batches, resizing and cropping whole batches where the network needs it."""
    untouched = preprocessing.keeps(*pixels.shape[-2:])
    for start in range(0, len(labels), batch_size):
        images = pixels[start : start + batch_size]
        if not untouched:
            from decompose_cli.datasets.transforms import resize_and_crop

            images = resize_and_crop(images, preprocessing)
        yield images, labels[start : start + batch_size]


def pixel_fingerprint(pixels: Tensor, labels: Tensor) -> str:
    """SHA-256 of shape, pixels and labels."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    digest.update(memoryview(pixels.contiguous().numpy()))  # type: ignore[arg-type]
    digest.update(memoryview(labels.contiguous().numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()


def file_stamp(paths: Sequence[Path], root: Path | None = None) -> list[tuple[str, int, int]]:
    """(path, size, modification time in ns) of each file; paths relative to ``root`` if given."""
    stamps = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path} is listed but cannot be read: {error.strerror or error}.") from error
        name = path.relative_to(root).as_posix() if root else str(path.resolve())
        stamps.append((name, status.st_size, status.st_mtime_ns))
    return stamps


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def remembered(key: Any, compute: Callable[[], str]) -> str:
    """Look a digest up in the cache folder, or compute and note it; a cache that cannot be written is no error."""
    path = cache_root() / "fingerprints" / digest_of(key)
    try:
        value = path.read_text(encoding="ascii").strip()
        if len(value) == 64 and set(value) <= set("0123456789abcdef"):
            return value
    except (OSError, UnicodeDecodeError):
        pass
    value = compute()
    with suppress(DecomposeError):
        write_text(path, value + "\n")
    return value
