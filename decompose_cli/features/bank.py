"""Features of images on disk: written chunk by chunk by one or several processes, read by mapping the file into memory.

A bank is a folder::

    header.json           what the features are of, how many, and where the chunks lie
    head.safetensors      labels, and the parameters of the head that the features enter
    features.f32          float32 (N, D), raw, little-endian
    done/<writer>         a line for each chunk that is there: its number, the CRC-32 of its bytes, unreadable images

Images n * size up to (n + 1) * size are chunk n, whoever computes them, so features do not depend on the number of
processes. Chunks begin on pages of the file, so that processes on several machines never write to the same one. A chunk
counts once its line is complete, which is written after the features; what was only begun is computed again.
"""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from decompose_cli.features.bank_header import FORMAT_VERSION, HEADER, header_text, read_header
from decompose_cli.features.blocks import in_blocks
from decompose_cli.models.network import HeadTensors
from decompose_cli.storage.files import check_trusted, write_text, write_with
from decompose_cli.storage.ordinary_files import would_be_waited_for
from decompose_cli.storage.system_errors import explained

_PAGE, _USUAL_CHUNK = 4096, 256
_MOST_IN_MEMORY = 1 << 26
_HEAD, _FEATURES, _DONE = "head.safetensors", "features.f32", "done"
DAMAGED = (
    *(SafetensorError, ValueError, KeyError, TypeError, AttributeError),
    *(OverflowError, RecursionError, MemoryError),
)
"""What reading a damaged bank raises, beside OSError; brackets nested too deep make the one before the last."""
_NO_RESERVATIONS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_OPTIONAL = ("indices", "mask", "reference", "reference_bias")


@dataclass(frozen=True)
class FeatureBank:
    """Penultimate features of a labelled set of images, and the head that they enter.

    Attributes:
        features: Features, float32 (N, D); read only, as they may be a file that is mapped into memory.
        labels: Labels of the data set, int64 (N,).
        head: Parameters of the head.
    """

    features: Tensor
    labels: Tensor
    head: HeadTensors


def chunk_size(num_features: int) -> int:
    """Images of a chunk: 256, or the next number whose features fill whole pages."""
    step = _PAGE // 4 // gcd(_PAGE // 4, num_features)
    return -(-_USUAL_CHUNK // step) * step


def chunks_of(count: int, num_features: int) -> list[range]:
    """The chunks of ``count`` images, as the numbers of their images."""
    size = chunk_size(num_features)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@dataclass
class Written:
    """What the lines of a bank say.

    Attributes:
        checksums: CRC-32 of each chunk that is there, by its number.
        unreadable: Images of these chunks that could not be read, whose features are NaN.
    """

    checksums: dict[int, int] = field(default_factory=dict)
    unreadable: dict[int, list[int]] = field(default_factory=dict)


class BankFolder:
    """A bank that is complete, or that is being filled.

    Args:
        path: The folder; see :meth:`create`.

    Attributes:
        header: What :meth:`create` was told.
        chunks: The numbers of the images of each chunk.

    Raises:
        OSError: There is no bank, or it cannot be read.
        ValueError: It is damaged; also the other errors of :data:`DAMAGED`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_trusted(path)
        if any(map(would_be_waited_for, (*(path / name for name in (HEADER, _HEAD, _FEATURES)), *self._writers()))):
            raise ValueError("kind of a file")
        self.header = read_header(path)
        self.shape = (self.header["images"], self.header["features"])
        if (path / _FEATURES).stat().st_size != self.shape[0] * self.shape[1] * 4:
            raise ValueError("size of the features")
        self.chunks = chunks_of(*self.shape)

    @classmethod
    def create(
        cls,
        path: Path,
        labels: Tensor,
        head: HeadTensors,
        *,
        key: Mapping[str, Any],
        description: str,
        computed_on: str,
        stamps: Sequence[str] | None = None,
    ) -> BankFolder:
        """Make a bank without features.

        Args:
            path: A folder that is not there.
            labels: Labels of the N images, int64 (N,).
            head: Parameters of the head.
            key: What the features depend on, JSON-ready.
            description: What the features are of, for people.
            computed_on: The device that computes.
            stamps: For each chunk a digest of its images, where there is one.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
            DecomposeError: The same.
        """
        header = {
            "format": FORMAT_VERSION,
            "images": len(labels),
            "features": head.num_features,
            "kind": head.kind,
            "head": head.name,
            "description": description,
            "computed_on": computed_on,
            "stamps": None if stamps is None else list(stamps),
            "key": dict(key),
        }
        tensors = {"labels": labels, "weight": head.weight.contiguous(), "bias": head.bias.contiguous()}
        tensors |= {part: value.contiguous() for part in _OPTIONAL if (value := getattr(head, part)) is not None}
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            (temporary / _DONE).mkdir(parents=True)
            _reserve(temporary / _FEATURES, len(labels) * head.num_features * 4)
            write_with(temporary / _HEAD, lambda file: file.write_bytes(save(tensors, {"decompose": "head"})))
            header["head_checksum"] = _crc((temporary / _HEAD).read_bytes())
            write_text(temporary / HEADER, header_text(header))
            temporary.replace(path)
        except BaseException:
            remove(temporary)
            raise
        return cls(path)

    def read_head(self) -> tuple[Tensor, HeadTensors]:
        """Labels and head.

        Raises:
            OSError: They cannot be read.
            ValueError: They are damaged; also the other errors of :data:`DAMAGED`.
        """
        if _crc(content := (self.path / _HEAD).read_bytes()) != self.header["head_checksum"]:
            raise ValueError("checksum of the head")
        tensors = load(content)
        if tensors["labels"].shape != self.shape[:1]:
            raise ValueError("number of labels")
        kind, name = self.header["kind"], self.header["head"]
        parts = {part: tensors.get(part) for part in _OPTIONAL}
        return tensors["labels"], HeadTensors(kind, name, tensors["weight"], tensors["bias"], self.shape[1], **parts)

    def written(self) -> Written:
        """What is there, as its lines say; lines that are cut off or damaged do not count."""
        found = Written()
        for line in self._lines():
            text, _, checksum = line.rpartition(b" ")
            if checksum != b"%08x" % _crc(text):
                continue
            number, crc, *unreadable = map(int, text.split())
            if not 0 <= number < len(self.chunks) or not set(unreadable) <= set(self.chunks[number]):
                raise ValueError("numbers of chunks and images")
            found.checksums[number], found.unreadable[number] = crc, unreadable
        return found

    def _lines(self) -> list[bytes]:
        files = self._writers()
        while True:
            try:
                return [line for file in files for line in file.read_bytes().split(b"\n")]
            except FileNotFoundError:
                # Another process may be forgetting chunks, and has put one file in the place of several.
                before, files = files, self._writers()
                if before == files:
                    raise

    def _writers(self) -> list[Path]:
        return sorted((self.path / _DONE).iterdir())

    def pending(self) -> list[int]:
        """Chunks that are not there, in order."""
        there = self.written().checksums
        return [number for number in range(len(self.chunks)) if number not in there]

    def damaged(self) -> list[int]:
        """Chunks whose features are not those that were written."""
        checksums, data = self.written().checksums, memoryview(self.mapped().numpy()).cast("B")  # type: ignore[arg-type]
        row = self.shape[1] * 4

        def is_damaged(number: int) -> bool:
            chunk = self.chunks[number]
            return _crc(data[chunk.start * row : chunk.stop * row]) != checksums[number]

        with ThreadPoolExecutor(2) as pool:  # zlib releases the lock of the interpreter
            return [number for number, bad in zip(checksums, pool.map(is_damaged, checksums), strict=True) if bad]

    def forget(self, chunks: Sequence[int]) -> None:
        """Have chunks computed again.

        Raises:
            OSError: The folder cannot be written.
        """
        if not chunks:
            return
        before, written = self._writers(), self.written()
        kept = [
            _line(number, crc, written.unreadable[number])
            for number, crc in sorted(written.checksums.items())
            if number not in set(chunks)
        ]
        write_text(self.path / _DONE / uuid.uuid4().hex, "".join(kept))
        for file in before:
            file.unlink()

    def take_over(self, other: BankFolder) -> None:
        """Copy the chunks that this bank misses and another has of the same images.

        Raises:
            OSError: A folder cannot be read or written.
        """
        with self.writer() as writer:
            for number, features in self._shared_with(other):
                writer.write(number, features)

    def _shared_with(self, other: BankFolder) -> Iterator[tuple[int, Tensor]]:
        """The chunks, and their features, that another bank has of the same images; none where it is damaged."""
        with suppress(OSError, *DAMAGED):
            ours, theirs, written = self.header["stamps"], other.header["stamps"], other.written()
            if not ours or not theirs or self.shape[1] != other.shape[1]:
                return
            missing, mapped = self.pending(), other.mapped()
            for number in missing:
                is_there = number in written.checksums and not written.unreadable[number]
                if is_there and number < len(theirs) and ours[number] == theirs[number]:
                    features = mapped[self.chunks[number].start : self.chunks[number].stop].clone()
                    if _crc(memoryview(features.numpy()).cast("B")) == written.checksums[number]:  # type: ignore[arg-type]
                        yield number, features

    @contextmanager
    def writer(self) -> Iterator[BankWriter]:
        """Open the bank to put chunks into it, beside other processes.

        Raises:
            OSError: The folder cannot be written.
        """
        with (
            (self.path / _FEATURES).open("r+b", buffering=0) as features,
            (self.path / _DONE / uuid.uuid4().hex).open("xb", buffering=0) as lines,
        ):
            yield BankWriter(self, features.fileno(), lines.fileno())

    def mapped(self) -> Tensor:
        """The features (N, D) as they are on disk; to write to them is an error."""
        return _mapped(np.memmap(self.path / _FEATURES, dtype="<f4", mode="r", shape=self.shape))

    def bank(self) -> FeatureBank:
        """The features, mapped, with labels and head; errors as in :meth:`read_head`."""
        labels, head = self.read_head()
        return FeatureBank(self.mapped(), labels, head)


class BankWriter:
    """Puts chunks into a bank; see :meth:`BankFolder.writer`."""

    def __init__(self, bank: BankFolder, features: int, lines: int) -> None:
        self._bank, self._features, self._lines = bank, features, lines

    def write(self, number: int, features: Tensor, unreadable: Sequence[int] = ()) -> None:
        """Put the features (n, D), float32, of a chunk in its place.

        Args:
            number: Number of the chunk.
            features: Its features; NaN for images that could not be read.
            unreadable: Numbers of the images that could not be read.

        Raises:
            OSError: The disk is full, or fails.
        """
        data = memoryview(features.contiguous().numpy()).cast("B")  # type: ignore[arg-type]
        _write(self._features, data, self._bank.chunks[number].start * self._bank.shape[1] * 4)
        _write(self._lines, memoryview(_line(number, _crc(data), unreadable).encode()), None)


def _line(number: int, crc: int, unreadable: Sequence[int]) -> str:
    text = " ".join(map(str, (number, crc, *unreadable)))
    return f"{text} {_crc(text.encode()):08x}\n"


def _write(descriptor: int, data: memoryview, place: int | None) -> None:
    while data:
        done = os.write(descriptor, data) if place is None else os.pwrite(descriptor, data, place)
        data, place = data[done:], None if place is None else place + done


def _crc(data: bytes | memoryview) -> int:
    return zlib.crc32(data)


def _reserve(path: Path, size: int) -> None:
    """Make a file of this size for which the disk has room."""
    with path.open("xb") as handle:
        if size and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(handle.fileno(), 0, size)
            except OSError as error:
                if error.errno not in _NO_RESERVATIONS:
                    raise
        handle.truncate(size)


def rows_of(features: Tensor, wanted: Tensor, folder: Path) -> Tensor:
    """Some rows (n, D) of features (N, D); many of them lie in a file without a name, which is mapped.

    Args:
        features: Features (N, D).
        wanted: Which rows, bool (N,).
        folder: Where that file is, as the usual place may be in memory.

    Raises:
        DecomposeError: There is no room for them.
    """
    count, width = int(wanted.sum()), features.shape[1]
    if count * width <= _MOST_IN_MEMORY:
        return features[wanted]
    with explained(folder), ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        for rows, block in in_blocks(features):
            file.write(block[wanted[rows]].numpy().tobytes())
        file.flush()
        return _mapped(np.memmap(file, dtype="<f4", mode="r", shape=(count, width)))


def _mapped(array: np.memmap[Any, np.dtype[np.float32]]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch, that such an array must not be written to
        return torch.from_numpy(array)


def remove(path: Path) -> int:
    """Remove a bank, or whatever is in its place, as far as that goes; return the bytes that its files had."""
    freed = 0
    with suppress(OSError):
        status = path.lstat()
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return status.st_size
    # The header goes first: without it there is no bank.
    for file in (path / HEADER, *sorted(path.rglob("*"), reverse=True)):
        with suppress(OSError):
            status = file.lstat()
            if file.is_dir() and not file.is_symlink():
                file.rmdir()
            else:
                file.unlink()
                freed += status.st_size
    with suppress(OSError):
        path.rmdir()
    return freed
