"""Images in folders, one folder a class."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.chunks import Chunk, chunks_in_memory
from decompose_cli.datasets.decoding import open_image
from decompose_cli.datasets.listing import class_folders, images_of_classes, images_of_first, refuse_dangling
from decompose_cli.datasets.manifest import Manifest
from decompose_cli.datasets.reading import READING, ImageFiles
from decompose_cli.datasets.streaming import decoded_chunks
from decompose_cli.errors import InputError, param
from decompose_cli.preprocessing import CIFAR, IMAGENET, Preprocessing
from decompose_cli.progress import track
from decompose_cli.storage.files import user_path
from decompose_cli.storage.fingerprints import digest_of, pixel_fingerprint, remembered

SPLITS = ("train", "val", "test")
_SMALL_SIDE = 64
_MOST_BYTES = 4 << 30
_FIRST_READING = 2  # of which earlier fingerprints of streamed images said nothing
_STREAMED = "0" * 64  # remembered instead of a pixel fingerprint where the images do not make one tensor


class FolderImages(ImageDataset):
    """A list of image files with labels.

    Images that are all of one size, at most 64 pixels a side, are decoded once and kept in memory; others are decoded,
    resized and cropped as they are needed, by worker processes.

    Args:
        name: Name of the data set as written on the command line.
        split: ``train``, ``val`` or ``test``.
        root: Folder of the split; file names in fingerprints are relative to it.
        files: Image files in the order in which they are read, as they were listed or as they are now.
        labels: Labels of the files, in 0..len(class_names) - 1.
        class_names: All classes of the data set, also those of which this split has no image.
        class_ids: Other names of the classes (WordNet ids), in the same order, where there are any.
        preprocessing: Preprocessing for networks that bring none; by default CIFAR's for small images, ImageNet's for
            others.
        reference: Folder of the split whose first image decides between the two; this split's by default.

    Raises:
        InputError: A file is not there.
    """

    def __init__(
        self,
        name: str,
        split: str,
        root: Path,
        files: Manifest | Sequence[Path],
        labels: Sequence[int] | Tensor,
        class_names: Sequence[str],
        class_ids: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
        reference: Path | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self.root = root
        self.manifest = files if isinstance(files, Manifest) else Manifest.of_paths(root, files)
        self.files = self.manifest.paths
        self._images = ImageFiles(self.files, root)
        self._labels = torch.as_tensor(labels, dtype=torch.int64)
        self.class_names = tuple(class_names)
        self.class_ids = tuple(class_ids) if class_ids else None
        self._preprocessing = preprocessing
        self._reference = reference or root

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]
        """Preprocessing for networks that bring none, the same for all splits."""
        if self._preprocessing is not None:
            return self._preprocessing
        width, height = self._deciding[1]
        if max(width, height) > _SMALL_SIDE:
            return IMAGENET
        side = min(width, height)
        return Preprocessing(CIFAR.mean, CIFAR.std, resize=side, crop=(side, side))

    @property
    @override
    def labels(self) -> Tensor:
        return self._labels

    def __len__(self) -> int:
        return len(self.files)

    @property
    def decided_by(self) -> Path | None:  # type: ignore[override]
        """The image whose size decided the preprocessing."""
        return self._deciding[0] if self._preprocessing is None else None

    @cached_property
    def _deciding(self) -> tuple[Path, tuple[int, int]]:
        """The first image of the reference that can be opened, and its (width, height)."""
        if self._reference != self.root:
            with suppress(InputError):
                folder = self._reference / class_folders(self._reference)[0]
                for found in images_of_first(folder):
                    with suppress(InputError), open_image(folder / found.name) as image:
                        return folder / found.name, image.size
        return self._first

    @cached_property
    def _by_files(self) -> str:
        """A digest of the files, of their labels, and of how they are read."""
        return digest_of(["files", READING, self.manifest.digest, self.labels.tolist()])

    @property
    def _by_place(self) -> str:
        """What earlier versions made of them, to go on with what those began."""
        former = self.manifest.former_digest(self.labels.tolist())
        return former if READING == _FIRST_READING else digest_of([READING, former])

    @cached_property
    def _first(self) -> tuple[Path, tuple[int, int]]:
        """The first image that can be opened, and its (width, height)."""
        for file in self.files:
            with suppress(InputError), open_image(file) as image:
                return file, image.size
        with open_image(self.files[0]) as image:
            return self.files[0], image.size

    @cached_property
    def _whole(self) -> tuple[Tensor, dict[int, str]] | None:
        """All images, uint8 (N, 3, H, W), if they are small and of one size, and what is wrong with those of zeros."""
        size = width, height = self._first[1]
        if max(size) > _SMALL_SIDE or len(self.files) * 3 * height * width > _MOST_BYTES:
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
        if max(self._first[1]) > _SMALL_SIDE:
            return self._by_files

        def compute() -> str:
            if self._whole is None or self._whole[1]:
                return _STREAMED
            return pixel_fingerprint(self._whole[0], self.labels)

        fingerprint = remembered(["folder", self._by_files], compute)
        return self._by_files if fingerprint == _STREAMED else fingerprint

    @override
    def has_fingerprint(self, fingerprint: str) -> bool:
        now = self.fingerprint()
        return fingerprint == now or (now == self._by_files and fingerprint == self._by_place)

    @override
    def chunks(
        self, preprocessing: Preprocessing, wanted: Sequence[range], workers: int
    ) -> Generator[Chunk, None, None]:
        if self._whole is not None:
            pixels, unreadable = self._whole
            return chunks_in_memory(pixels, preprocessing, wanted, unreadable)
        return decoded_chunks(self._images.read, preprocessing, wanted, workers, self.remark)

    @override
    def subset(self, numbers: Tensor) -> FolderImages:
        files, labels = self.manifest.take(numbers.numpy()), self.labels[numbers]
        chosen = FolderImages(
            self.name, self.split, self.root, files, labels, self.class_names, self.class_ids, self.preprocessing
        )
        chosen.chosen = self.chosen
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
        stamps = [self.manifest.stamp(images) for images in ranges]
        known = [digest_of([READING, str(self.root.resolve()), stamp]) for stamp in stamps if stamp is not None]
        return known if len(known) == len(stamps) else None

    @override
    def called(self, number: int) -> str:
        return self.files[number].relative_to(self.root).as_posix()

    @override
    def image(self, index: int) -> Image.Image:
        return self._images.read(index)


def open_folder(spec: str, split: str) -> FolderImages:
    """Open ``PATH/<split>/<class>/*`` for ``folder:PATH``.

    Classes are numbered by the names of the training split's folders (of this split's, if there is no ``train``), so
    that a class that one split lacks does not shift the others; see :func:`.listing.class_folders`. In the same way one
    image decides the usual preprocessing of all splits.

    Raises:
        InputError: There is no such folder or split, a class is not in the training split, or there are no images.
    """
    root = _root_of(spec)
    available = folder_splits(spec)
    if split not in available:
        shown = ", ".join(available) or "none of them"
        raise InputError(
            f"{root} has no folder {split!r}; of train, val and test it has {shown}.",
            hint="The layout is PATH/train|val|test/<class>/<image>.",
        )
    names = class_folders(root / ("train" if "train" in available else split))
    return folder_images(spec, split, root / split, names, reference=root / available[0])


def folder_images(
    name: str,
    split: str,
    root: Path,
    names: Sequence[str],
    class_names: Sequence[str] | None = None,
    class_ids: Sequence[str] | None = None,
    *,
    reference: Path,
) -> FolderImages:
    """List the images below ``root``, whose class folders must be among ``names``; see :class:`FolderImages`.

    What is left out is counted and said.
    """
    present = class_folders(root)
    numbers = {folder: number for number, folder in enumerate(names)}
    unknown = [folder for folder in present if folder not in numbers]
    if unknown:
        raise InputError(
            f"{root} has the class folder {unknown[0]!r}"
            + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
            + (" which the training split does not have." if class_ids is None else " which is no class of it.")
        )
    manifest, counts = images_of_classes(root, present)
    if 0 in counts:
        raise InputError(f"The class folder {root / present[counts.index(0)]} has no images.")
    labels = torch.tensor([numbers[folder] for folder in present]).repeat_interleave(torch.tensor(counts))
    return FolderImages(name, split, root, manifest, labels, class_names or names, class_ids, reference=reference)


def folder_splits(spec: str) -> list[str]:
    """Return which of train, val and test are below ``folder:PATH``.

    Raises:
        InputError: There is no such folder, or one of the three is a link that leads nowhere.
    """
    root = _root_of(spec)
    for split in SPLITS:
        refuse_dangling(root / split)
    return [split for split in SPLITS if (root / split).is_dir()]


def _root_of(spec: str) -> Path:
    text = spec.removeprefix("folder:")
    root = user_path(text)
    try:
        exists, is_folder = bool(text) and root.exists(), root.is_dir()
    except OSError as error:
        raise InputError(
            f"The folder of {param('dataset')} {spec} cannot be read: {error.strerror or error}."
        ) from error
    if not exists:
        raise InputError(f"The folder {text!r} of {param('dataset')} {spec} does not exist.")
    if not is_folder:
        raise InputError(f"{root} of {param('dataset')} {spec} is a file, not a folder.")
    return root
