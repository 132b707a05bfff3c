"""The common interface of data sets: labelled images in chunks, names of the classes, and a fingerprint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from typing_extensions import override

from decompose_cli.datasets.chunks import Chunk as Chunk
from decompose_cli.datasets.chunks import chunks_in_memory, in_ranges
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import ImageOptions, Preprocessing
from decompose_cli.storage.fingerprints import digest_of, pixel_fingerprint, remembered

if TYPE_CHECKING:
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
        is_numbered: Whether the names of the classes are only the class numbers of a network.
        are_outputs: Whether the labels are numbers of a network's outputs, whatever these are called.
        preprocessing: Preprocessing for networks that do not bring their own.
        decided_by: The image whose size decided ``preprocessing``, where one did, by its name; else None.
        chosen: Preprocessing that was chosen for these images, whatever the network brings.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None = None
    is_numbered: bool = False
    are_outputs: bool = False
    preprocessing: Preprocessing
    decided_by: object = None
    chosen: ImageOptions = ImageOptions()

    @abstractmethod
    def fingerprint(self) -> str:
        """A hexadecimal digest that changes when the images or labels do, wherever they lie.

        Images that cannot be read do not keep it from being made.
        """

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Whether this is the fingerprint, or one that an earlier version gave to these images."""
        return fingerprint == self.fingerprint()

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """Class of each image, int64 (N,), in the order of :meth:`batches`."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    def chunks(
        self, preprocessing: Preprocessing, wanted: Sequence[range], workers: int
    ) -> Generator[Chunk, None, None]:
        """The images of each range of numbers, in the order of ``wanted``.

        An image that cannot be read is no error here: the chunk says which it is. Every other error is one. Processes
        that decode begin at once, while the caller may prepare what it needs the images for.

        Args:
            preprocessing: Decides the pixels.
            wanted: Numbers of images, in 0..N-1.
            workers: Processes that decode images which are not in memory; 0 for none.
        """
        pixels = self.in_memory()
        if pixels is not None:
            return chunks_in_memory(pixels, preprocessing, wanted)
        from decompose_cli.datasets.streaming import decoded_chunks

        return decoded_chunks(self.image, preprocessing, wanted, workers, self.remark)

    def batches(self, preprocessing: Preprocessing, batch_size: int, workers: int) -> Batches:
        """Yield ``(images, labels)`` in a fixed order: uint8 (n, 3, H, W) after resize and crop, int64 (n,).

        Raises:
            InputError: An image cannot be read.
        """
        for chunk in self.chunks(preprocessing, in_ranges(len(self), batch_size), workers):
            if chunk.unreadable:
                self.refuse(chunk.unreadable)
            yield chunk.images, self.labels[chunk.numbers.start : chunk.numbers.stop]

    def refuse(self, unreadable: Mapping[int, str]) -> NoReturn:
        """Raise the error of the first of some images that cannot be read.

        Args:
            unreadable: Sentences by the numbers of the images; at least one.
        """
        first = min(unreadable)
        self.image(first)  # raises it with its hint, unless the image can be read by now
        raise InputError(unreadable[first])

    @abstractmethod
    def in_memory(self) -> Tensor | None:
        """All images as stored, uint8 (N, 3, H, W), if they are kept in memory; else None. Callers only read them.

        Raises:
            InputError: An image cannot be read.
        """

    @abstractmethod
    def image(self, index: int) -> Image:
        """One image as stored, RGB.

        Raises:
            InputError: The image cannot be read.
        """

    def subset(self, numbers: Tensor) -> ImageDataset:
        """The images with these numbers, in this order, as a data set with a fingerprint of its own.

        Args:
            numbers: Numbers of images, int64 (n,), in 0..N-1.
        """
        stamp = ["subset", self.fingerprint(), digest_of(numbers.tolist())]

        def read() -> tuple[Tensor, Tensor]:
            pixels = self.in_memory()
            if pixels is None:
                raise TypeError(f"a {type(self).__name__} that is not in memory has to bring its own subset()")
            return pixels[numbers], self.labels[numbers]

        chosen = InMemoryImages(
            self.name, self.split, self.class_names, self.preprocessing, read, stamp, count=len(numbers)
        )
        chosen.class_ids, chosen.chosen, chosen.is_numbered = self.class_ids, self.chosen, self.is_numbered
        return chosen

    def without(self, numbers: Iterable[int]) -> ImageDataset:
        """All images but those with these numbers, in their order; see :meth:`subset`."""
        import torch

        stays = torch.ones(len(self), dtype=torch.bool)
        stays[list(numbers)] = False
        return self.subset(stays.nonzero()[:, 0])

    def stamps(self, ranges: Sequence[range]) -> list[str] | None:
        """For each range of images a digest that changes when one of them does; None where that cannot be told."""
        return None

    def called(self, number: int) -> str:
        """An image by a name that tells a person which it is."""
        return self.file_of(number) or f"image {number}"

    def file_of(self, number: int) -> str | None:
        """The file of an image, relative to the data set, or its place in a file; None where it has no name."""
        return None

    def remark(self) -> None:  # noqa: B027 - most have nothing to say
        """Say, once, what a user might not expect of the images that have been read, where that can be told."""


class InMemoryImages(ImageDataset):
    """Small images, held as one uint8 tensor (N, 3, H, W) that is read when first needed.

    Args:
        stamp: Names, sizes and times of the files; while the stamp stays the same, the fingerprint of the pixels is
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

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the images, not the way to read them, which may be anything."""
        state = {**self.__dict__, "pixels_and_labels": self.pixels_and_labels}
        del state["_read"]
        return state

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
    def in_memory(self) -> Tensor:
        return self.pixels_and_labels[0]

    @override
    def image(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(self.pixels_and_labels[0][index].permute(1, 2, 0).numpy())
