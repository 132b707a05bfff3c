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
from decompose_cli.datasets.listed_once import once
from decompose_cli.datasets.listing import class_folders, images_of_classes, images_of_first, refuse_dangling
from decompose_cli.datasets.manifest import Manifest
from decompose_cli.datasets.reading import READING
from decompose_cli.datasets.source import Source
from decompose_cli.datasets.splits import SPLITS, in_preferred_order, say_others, split_called
from decompose_cli.datasets.stored import StoredImages
from decompose_cli.datasets.wnids import named_by_wnid
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.messages import note
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.storage.files import user_path
from decompose_cli.storage.fingerprints import digest_of

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


class Folders:
    """Images in ``PATH/<split>/<class>/*``, or a folder deeper; a split may have another spelling of :mod:`.splits`.

    Args:
        source: The folder.

    Raises:
        InputError: There is no such folder, a split is there twice, or a link leads nowhere.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.root = _root_of(source)
        self._folders = once("splits", self.root, lambda: _split_folders(self.root))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have a folder; there may be none."""
        return in_preferred_order(self._folders)

    def open(self, split: str) -> FolderImages:
        """The images of a split.

        Classes are numbered by the names of the training split's folders (of this split's, if there is no ``train``),
        so that a class that one split lacks does not shift the others; see :func:`.listing.class_folders`. In the same
        way one image decides the usual preprocessing of all splits.

        Raises:
            InputError: There is no such split, a class is not in the training split, or there are no images.
        """
        folders = self._folders
        if split not in folders:
            available = [name for name in SPLITS if name in folders]
            raise InputError(
                f"{self.root} has no folder {split!r}; of train, val and test it has "
                f"{', '.join(available) or 'none of them'}.",
                hint="The layout is PATH/train|val|test/<class>/<image>.",
            )
        names = class_folders(folders.get("train", folders[split]))
        class_names, class_ids = named_by_wnid(tuple(names))
        reference = next(folders[name] for name in SPLITS if name in folders)
        return folder_images(
            self.source.name, split, folders[split], names, class_names, class_ids, reference=reference
        )


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
            + (" which the training split does not have." if names is not class_ids else " which is no class of it.")
        )
    manifest, counts = images_of_classes(root, present)
    if 0 in counts:
        raise InputError(f"The class folder {root / present[counts.index(0)]} has no images.")
    labels = torch.tensor([numbers[folder] for folder in present]).repeat_interleave(torch.tensor(counts))
    return FolderImages(name, split, root, manifest, labels, class_names or names, class_ids, reference=reference)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; those a folder deeper, and said, where there are none here."""
    if here := _folders_called(root):
        return here
    deeper = {folder: here for folder in _folders_in(root) if (here := _folders_called(folder))}
    if not deeper:
        return {}
    first, *others = deeper
    if others:
        raise InputError(
            f"{root} has none of the folders train, val and test, but several of its folders have: "
            f"{first_few(folder.name for folder in deeper)}.",
            hint=f"Name one of them: folder:{first}.",
        )
    note(f"{root} has none of the folders train, val and test; they are in {first}, which is used.")
    return deeper[first]


def _folders_called(root: Path) -> dict[str, Path]:
    called: dict[str, list[Path]] = {}
    for folder in _folders_in(root):
        split = split_called(folder.name)
        if split is not None:
            called.setdefault(split, []).append(folder)
    found: dict[str, Path] = {}
    for split, folders in called.items():
        usual = [folder for folder in folders if folder.name == split]
        if len(folders) > 1 and not usual:
            raise InputError(
                f"{root} has two folders that may be the split {split}: {folders[0].name} and {folders[1].name}.",
                hint=f"Name the one that is meant {split}.",
            )
        found[split] = (usual or folders)[0]
        say_others(found[split].name, [folder.name for folder in folders], split, root)
    return found


def _folders_in(root: Path) -> list[Path]:
    try:
        children = sorted(child for child in root.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise InputError(f"The folder {root} cannot be read: {error.strerror or error}.") from error
    for child in children:
        if split_called(child.name) is not None:
            refuse_dangling(child)
    return [child for child in children if child.is_dir()]


def _root_of(source: Source) -> Path:
    spec, text = source.name, source.rest
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
