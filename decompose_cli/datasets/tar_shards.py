"""Images in tar files, one sample after another: ``wds:PATTERN``, the format of WebDataset, read by offset."""

from __future__ import annotations

import json
import os
import tarfile
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from typing_extensions import override

from decompose_cli.datasets.decoding import Encoded
from decompose_cli.datasets.listing import is_image_name
from decompose_cli.datasets.manifest import digests_of
from decompose_cli.datasets.paths import PathTable
from decompose_cli.errors import InputError, first_few, first_line, param
from decompose_cli.storage.fingerprints import content_sample, digest_of, file_stamp

_BLOCK = 512
_MOST_OPEN = 64
_LONGEST_LABEL = 1 << 16
LABELS = ("cls", "label", "class", "json")
"""Endings of the members that hold labels, the first that there is; of JSON the field ``label``, else ``cls``."""


@dataclass(frozen=True)
class Shard:
    """What one tar file holds.

    Attributes:
        path: The file.
        names: Names of the images in it.
        offsets: Where the content of each begins, and how long it is, in bytes: int64 (N, 2).
        labels: The label of each image, as it is written.
    """

    path: Path
    names: list[str]
    offsets: np.ndarray
    labels: list[str]


def read_shard(path: Path, image: str | None, label: str | None) -> Shard:
    """List the samples of a tar file; only headers and labels are read.

    Members whose paths agree up to the first dot of the name are one sample; what follows the dot says what they are.

    Args:
        path: The file.
        image: Ending of the members that are images, in any case of letters; by default any that image files have.
        label: Ending of the members that hold labels, for JSON with the field: ``json.label``.

    Raises:
        InputError: The file is compressed, damaged or cut off, or a sample lacks its image or its label.
    """
    names: list[str] = []
    offsets, labels = array("q"), []
    image = None if image is None else image.lower()
    with closing(_Handles()) as handles:
        for key, members in _samples(path):
            found = [end for end in members if (end == image if image is not None else is_image_name(f"x.{end}"))]
            if len(found) != 1:
                what = "no image" if not found else "several images"
                raise InputError(
                    f"The sample {key} in {path} has {what}; its members end in {first_few(members)}.",
                    hint=f"Say which with {param('columns')} image=ENDING." if found or image is None else None,
                )
            member = members[found[0]]
            names.append(member.name)
            offsets.extend((member.offset_data, member.size))
            labels.append(_label(path, key, members, label, handles))
    if not names:
        raise InputError(f"{path} has no samples.")
    return Shard(path, names, np.array(offsets, dtype=np.int64).reshape(-1, 2), labels)


def _label(path: Path, key: str, members: dict[str, tarfile.TarInfo], label: str | None, handles: _Handles) -> str:
    end, name = ("" if label is None else label.lower()), ""
    if label is not None and end not in members:
        end, _, name = label.partition(".")
    end = end.lower() or next((known for known in LABELS if known in members), "")
    if end not in members:
        raise InputError(
            f"The sample {key} in {path} has no label{'' if label is None else f' {label}'}; its members end in "
            f"{first_few(members)}.",
            hint=f"Members with labels end in {', '.join(LABELS)}; {param('columns')} label=ENDING says another.",
        )
    member = members[end]
    where = f"The label {member.name} in {path}"
    if member.size > _LONGEST_LABEL:
        raise InputError(f"{where} has {member.size:,} bytes, which is no label.")
    try:
        text = handles.read(path, member.offset_data, member.size).decode("utf-8")
        if end != "json":
            return text.strip()
        fields = json.loads(text)
        found: Any = fields
        if isinstance(fields, dict):
            found = next((fields[each] for each in ((name,) if name else ("label", "cls")) if each in fields), None)
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{where} cannot be read: {first_line(error)}.") from error
    if isinstance(found, bool) or not isinstance(found, int | str):
        raise InputError(
            f"{where} has no field {name or 'label'!r} with a number or a name.",
            hint=f"Say which with {param('columns')} label=json.FIELD.",
        )
    return str(found).strip()


def _samples(path: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The samples of a tar file: what they are called, and their members by ending."""
    key = ""
    members: dict[str, tarfile.TarInfo] = {}
    for member in _members(path):
        folder, slash, name = member.name.rpartition("/")
        start, dot, end = name.partition(".")
        if not member.isreg() or not start or not dot:  # a folder, a hidden file, or one that says not what it is
            continue
        own = f"{folder}{slash}{start}"
        if own != key:
            if members:
                yield key, members
            key, members = own, {}
        if members.setdefault(end.lower(), member) is not member:
            raise InputError(f"The sample {own} in {path} has two members that end in {end}.")
    if members:
        yield key, members


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file, which has to end as such files do."""
    try:
        size = path.stat().st_size
        with path.open("rb") as handle, _opened(handle, path, size) as archive:
            last = 0
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # a list of all would take a gigabyte
                if member.size < 0:  # which leads back, in a circle
                    raise ValueError(f"{member.name} has a negative size")
                last = member.offset_data + member.size
                if last > size:
                    break
                yield member
            handle.seek(min(archive.offset, size))
            end = handle.read(_BLOCK)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InputError(f"{path} is no tar file, or damaged: {first_line(error)}.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if last > size or not end:
        raise InputError(f"{path} is cut off after {size:,} bytes.", hint="Fetch or write it again.")
    if any(end):
        raise InputError(f"{path} is damaged at byte {archive.offset:,}.", hint="Fetch or write it again.")


def _opened(handle: IO[bytes], path: Path, size: int) -> tarfile.TarFile:
    if size == 0:
        raise InputError(f"{path} is empty.")
    start = handle.read(6)
    handle.seek(0)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise InputError(
            f"{path} is compressed, so that its images cannot be read one by one.",
            hint="Uncompress it; images are compressed by themselves.",
        )
    return tarfile.TarFile(fileobj=handle)


@dataclass
class _Handles:
    """Open files, the latest of them; reading does not move in them, so that processes may share them."""

    opened: OrderedDict[Path, IO[bytes]] = field(default_factory=OrderedDict)

    def __getstate__(self) -> dict[str, Any]:
        return {"opened": OrderedDict()}

    def read(self, path: Path, start: int, size: int) -> bytes:
        handle = self.opened.pop(path, None) or path.open("rb")
        self.opened[path] = handle
        if len(self.opened) > _MOST_OPEN:
            self.opened.popitem(last=False)[1].close()
        return os.pread(handle.fileno(), size, start)

    def close(self) -> None:
        """Close them all; they are opened again where they are needed again."""
        while self.opened:
            self.opened.popitem()[1].close()


@dataclass(frozen=True)
class ShardImages(Sequence[Encoded]):
    """Images in tar files, each read when it is asked for.

    Attributes:
        shards: The files.
        names: Names of the images in them.
        of: Number of the shard that each image is in, int32 (N,).
        offsets: Where the content of each begins, and how long it is, in bytes: int64 (N, 2).
    """

    shards: tuple[Path, ...]
    names: PathTable
    of: np.ndarray
    offsets: np.ndarray
    _handles: _Handles = field(default_factory=_Handles, repr=False)

    @classmethod
    def within(cls, shards: Sequence[Shard]) -> ShardImages:
        """All images of some shards."""
        names = PathTable.of(Path(), (name for shard in shards for name in shard.names))
        of = np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard.names) for shard in shards])
        offsets = np.concatenate([shard.offsets for shard in shards])
        return cls(tuple(shard.path for shard in shards), names, of, offsets)

    @override
    def __len__(self) -> int:
        return len(self.of)

    @overload
    def __getitem__(self, number: int) -> Encoded: ...

    @overload
    def __getitem__(self, number: slice) -> ShardImages: ...

    @override
    def __getitem__(self, number: int | slice) -> Encoded | ShardImages:
        if isinstance(number, slice):
            return self.take(np.arange(len(self))[number])
        shard, (start, size) = self.shards[self.of[number]], self.offsets[number].tolist()
        name = f"{shard}/{self.names.name(number)}"
        try:
            content = self._handles.read(shard, start, size)
        except OSError as error:
            raise InputError(f"The image {name} cannot be read: {error.strerror or error}.") from error
        return Encoded(name, content)

    @property
    def files(self) -> ShardImages:
        """The images themselves."""
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 of where images lie in their shards, of sizes and times of these, and of a sample of their bytes."""
        placed = digests_of(self.names.text, self.names.ends, self.of, self.offsets)
        return digest_of([placed, self._stamps, content_sample(self.shards)])

    @cached_property
    def _stamps(self) -> list[tuple[str, int, int]]:
        stamps = file_stamp(self.shards, Path())
        return [(Path(name).name, size, time) for name, size, time in stamps]

    def name(self, number: int) -> str:
        """The shard of an image, and its name there."""
        return f"{self.shards[self.of[number]].name}/{self.names.name(number)}"

    def take(self, numbers: np.ndarray) -> ShardImages:
        """The images with these numbers, in this order."""
        return ShardImages(
            self.shards, self.names.take(numbers), self.of[numbers], self.offsets[numbers], self._handles
        )

    def stamp(self, images: range) -> str | None:
        """A digest of some images where they lie, which changes with any change of their shards."""
        part = slice(images.start, images.stop)
        used = sorted({self.shards[number] for number in self.of[part].tolist()})
        status = [path.stat() for path in used]
        where = [(str(path.resolve()), each.st_size, each.st_mtime_ns, each.st_ctime_ns)
                 for path, each in zip(used, status, strict=True)]  # fmt: skip
        return digest_of([where, self.of[part].tolist(), self.offsets[part].tolist()])
