"""Which image files lie below the class folders of a split, and what of its files is left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from decompose_cli.datasets.decoding import FORMATS
from decompose_cli.errors import InputError, first_few
from decompose_cli.progress import note, warn

_EXTENSIONS = frozenset(name for name, kind in Image.registered_extensions().items() if kind in FORMATS)


@dataclass
class Remarks:
    """What there is to say of the files of a split, counted while they are listed.

    Attributes:
        others: Files that are not images by their extension.
        loose: Images that lie in no class folder, or that no list gives a class.
        nested: Number of images that lie in a folder below their class folder.
    """

    others: list[Path] = field(default_factory=list)
    loose: list[Path] = field(default_factory=list)
    nested: int = 0

    def say(self, root: Path) -> None:
        """Say what is left out of a split, and what one might not expect to be read."""
        if self.loose:
            names = first_few(path.name for path in self.loose)
            warn(f"{root}: images of no class are left out: {len(self.loose):,} ({names}).")
        if self.others:
            kinds = first_few(sorted({path.suffix or path.name for path in self.others}))
            note(f"{root}: files that are not images by their extension are left out: {len(self.others):,} ({kinds}).")
        if self.nested:
            note(f"{root}: images in folders below a class folder count as of that class: {self.nested:,}.")


def class_folders(root: Path, remarks: Remarks | None = None) -> list[str]:
    """The names of the class folders of a split, in the order of the class numbers.

    This is the alphabetical order, but folders that are named 0 to C-1 are class numbers.

    Args:
        root: Folder of the split.
        remarks: Told of the files that lie beside the class folders.

    Raises:
        InputError: There are no class folders, or a link leads nowhere.
    """
    names = []
    for path, kind in _content(root):
        if kind == "folder":
            names.append(path.name)
        elif remarks is not None:
            (remarks.loose if kind == "image" else remarks.others).append(path)
    if not names:
        raise InputError(f"{root} has no class folders.", hint="The layout is PATH/train|val|test/<class>/<image>.")
    numbers = [str(number) for number in range(len(names))]
    return numbers if set(names) == set(numbers) else names


def images_below(folder: Path, remarks: Remarks | None = None) -> list[Path]:
    """All image files in a folder and in those below it, links followed, in the order of their paths.

    Args:
        folder: A class folder.
        remarks: Told of files that are no images, and of folders below.

    Raises:
        InputError: A folder cannot be read, or a link leads nowhere or back.
    """
    remarks = remarks if remarks is not None else Remarks()
    files = list(_images(folder, remarks, ()))
    remarks.nested += sum(file.parent != folder for file in files)
    return files


def _images(folder: Path, remarks: Remarks, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    content = _content(folder)
    status = folder.stat()
    here = status.st_dev, status.st_ino
    if here in above:
        raise InputError(f"{folder} leads back to a folder that it lies in.", hint="Remove the link.")
    for path, kind in content:
        if kind == "folder":
            yield from _images(path, remarks, (*above, here))
        elif kind == "image":
            yield path
        else:
            remarks.others.append(path)


def _content(folder: Path) -> list[tuple[Path, Literal["folder", "image", "other"]]]:
    """What is in a folder, in the order of the names, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            content = sorted((entry.name, _kind(entry)) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read: {error.strerror or error}.") from error
    return [(folder / name, kind) for name, kind in content]


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "image", "other"]:
    refuse_dangling(entry)
    if entry.is_dir():
        return "folder"
    return "image" if entry.is_file() and Path(entry.name).suffix.lower() in _EXTENSIONS else "other"


def refuse_dangling(path: Path | os.DirEntry[str]) -> None:
    """Refuse a link that leads nowhere, or in a circle.

    Raises:
        InputError: The path is such a link.
    """
    if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where it may not look
        raise InputError(
            f"{os.fspath(path)} is a link to {Path(path).readlink()}, which cannot be followed.",
            hint="Bring back what it leads to, or remove the link.",
        )
