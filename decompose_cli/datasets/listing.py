"""Which image files lie below the class folders of a split, and what of its files is left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from decompose_cli.datasets.decoding import FORMATS
from decompose_cli.datasets.listed_once import once
from decompose_cli.datasets.manifest import Manifest
from decompose_cli.errors import InputError, first_few
from decompose_cli.messages import note, warn

_EXTENSIONS = frozenset(name for name, kind in Image.registered_extensions().items() if kind in FORMATS)


class Found(NamedTuple):
    """An image file: its name relative to the folder that was looked through, bytes, and two times in ns.

    The first is that of the content as the owner may set it, the second that at which the system last saw a change.
    """

    name: str
    size: int
    time: int
    changed: int


class _Entry(NamedTuple):
    name: str
    kind: Literal["folder", "image", "other"]
    size: int
    time: int
    changed: int


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

    def add(self, other: Remarks) -> None:
        """Take over what was counted elsewhere."""
        self.others += other.others
        self.loose += other.loose
        self.nested += other.nested


def class_folders(root: Path, remarks: Remarks | None = None) -> list[str]:
    """The names of the class folders of a split, in the order of the class numbers.

    This is the alphabetical order, but folders that are named 0 to C-1 are class numbers.

    Args:
        root: Folder of the split.
        remarks: Told of the files that lie beside the class folders.

    Raises:
        InputError: There are no class folders, or a link leads nowhere.
    """
    names, beside = once("classes", root, lambda: _class_folders(root))
    if remarks is not None:
        remarks.add(beside)
    return names


def _class_folders(root: Path) -> tuple[list[str], Remarks]:
    names, beside = [], Remarks()
    for entry in _content(root):
        if entry.kind == "folder":
            names.append(entry.name)
        else:
            (beside.loose if entry.kind == "image" else beside.others).append(root / entry.name)
    if not names:
        raise InputError(f"{root} has no class folders.", hint="The layout is PATH/train|val|test/<class>/<image>.")
    numbers = [str(number) for number in range(len(names))]
    return (numbers if set(names) == set(numbers) else names), beside


def images_of_classes(root: Path, folders: Sequence[str], base: Path | None = None) -> tuple[Manifest, list[int]]:
    """All image files of some class folders, one folder after another, and how many are of each.

    What is left out is counted and said.

    Args:
        root: Folder of the split.
        folders: Class folders of it.
        base: Folder that the names of the files are relative to, ``root`` or one above it; ``root`` by default.

    Raises:
        InputError: A folder cannot be read, or a link leads nowhere or back.
    """

    def look() -> tuple[Manifest, list[int]]:
        remarks = Remarks()
        class_folders(root, remarks)
        counts: list[int] = []

        def found() -> Iterator[Found]:
            prefix = "" if base is None else f"{root.relative_to(base).as_posix()}/"
            for folder in folders:
                images = images_below(root / folder, remarks) if counts else images_of_first(root / folder, remarks)
                counts.append(len(images))
                for image in images:
                    yield image._replace(name=f"{prefix}{folder}/{image.name}")

        manifest = Manifest.of(base or root, found())
        remarks.say(root)
        return manifest, counts

    return once("images of classes", root, look)


def images_of_first(folder: Path, remarks: Remarks | None = None) -> list[Found]:
    """As :func:`images_below`, for the class folder that may be asked for before the others are."""

    def look() -> tuple[list[Found], Remarks]:
        said = Remarks()
        return images_below(folder, said), said

    found, said = once("images of the first class", folder, look)
    if remarks is not None:
        remarks.add(said)
    return found


def images_below(folder: Path, remarks: Remarks) -> list[Found]:
    """All image files in a folder and in those below it, links followed, in the order of their paths.

    Args:
        folder: A class folder.
        remarks: Told of files that are no images, and of folders below.

    Raises:
        InputError: A folder cannot be read, or a link leads nowhere or back.
    """
    files = list(_images(folder, "", remarks, ()))
    remarks.nested += sum("/" in file.name for file in files)
    return files


def _images(folder: Path, prefix: str, remarks: Remarks, above: tuple[tuple[int, int], ...]) -> Iterator[Found]:
    content = _content(folder)
    status = folder.stat()
    here = status.st_dev, status.st_ino
    if here in above:
        raise InputError(f"{folder} leads back to a folder that it lies in.", hint="Remove the link.")
    for name, kind, size, time, changed in content:
        if kind == "folder":
            yield from _images(folder / name, f"{prefix}{name}/", remarks, (*above, here))
        elif kind == "image":
            yield Found(f"{prefix}{name}", size, time, changed)
        else:
            remarks.others.append(folder / name)


def _content(folder: Path) -> list[_Entry]:
    """What is in a folder, in the order of the names, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            return sorted(_looked_at(entry) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read: {error.strerror or error}.") from error


def _looked_at(entry: os.DirEntry[str]) -> _Entry:
    """The kind of an entry, which costs nothing, and of an image, size and time, which cost a system call."""
    refuse_dangling(entry)
    if entry.is_dir():
        return _Entry(entry.name, "folder", 0, 0, 0)
    if not (entry.is_file() and is_image_name(entry.name)):
        return _Entry(entry.name, "other", 0, 0, 0)
    status = entry.stat()
    return _Entry(entry.name, "image", status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def is_image_name(name: str) -> bool:
    """Whether a file of this name should be an image, by its extension."""
    return os.path.splitext(name)[1].lower() in _EXTENSIONS  # noqa: PTH122 - twice as fast


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
