"""Images in folders, one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from decompose_cli.datasets.decoding import open_image
from decompose_cli.datasets.listing import class_folders, images_of_classes, images_of_first, refuse_dangling
from decompose_cli.datasets.manifest import Manifest
from decompose_cli.datasets.reading import READING
from decompose_cli.datasets.stored import StoredImages
from decompose_cli.errors import InputError, param
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.storage.files import user_path
from decompose_cli.storage.fingerprints import digest_of

SPLITS = ("train", "val", "test")
_FIRST_READING = 2  # of which earlier fingerprints of streamed images said nothing


class FolderImages(StoredImages):
    """A list of image files with labels; see :class:`.stored.StoredImages`.

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
        reference: Folder of the split whose first image decides between the two, or that image in a list; by default
            this split's.

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
        reference: Path | Sequence[Path] | None = None,
    ) -> None:
        self.manifest = files if isinstance(files, Manifest) else Manifest.of_paths(root, files)
        listed = None if isinstance(reference, Path) else reference
        super().__init__(name, split, root, self.manifest, labels, class_names, class_ids, preprocessing, listed)
        self._reference_folder = reference if isinstance(reference, Path) and reference != root else None

    @override
    @cached_property
    def _deciding(self) -> tuple[object, tuple[int, int]]:
        if self._reference_folder is not None:
            with suppress(InputError):
                folder = self._reference_folder / class_folders(self._reference_folder)[0]
                for found in images_of_first(folder):
                    with suppress(InputError), open_image(folder / found.name) as image:
                        return folder / found.name, image.size
        return super()._deciding

    @property
    def _by_place(self) -> str:
        """What earlier versions made of them, to go on with what those began."""
        former = self.manifest.former_digest(self.labels.tolist())
        return former if READING == _FIRST_READING else digest_of([READING, former])

    @override
    def has_fingerprint(self, fingerprint: str) -> bool:
        now = self.fingerprint()
        return fingerprint == now or (now == self._by_files and fingerprint == self._by_place)


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
