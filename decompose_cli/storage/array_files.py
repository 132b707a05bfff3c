"""Arrays in ``.npz`` and ``.safetensors`` files: kinds and shapes first, then what is wanted; nothing is executed."""

from __future__ import annotations

import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from decompose_cli.errors import InputError, UnsafeFileError, first_line
from decompose_cli.storage.files import sha256_of
from decompose_cli.storage.journal import settle
from decompose_cli.storage.memory import free_memory
from decompose_cli.storage.tensor_files import readable_path

SUFFIXES = (".npz", ".safetensors")
REAL, WHOLE, TEXT = "real numbers", "whole numbers", "text"
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, SafetensorError, tokenize.TokenError,
    EOFError, ValueError, SyntaxError, RuntimeError, MemoryError, LookupError, OverflowError, TypeError,
)  # fmt: skip
"""What reading a damaged file raises; encrypted and exotic archives raise a RuntimeError or a subclass of it."""
_SMALLER = "Use fewer images, or numbers of fewer bits."
_UNPACKED, _TIMES = 1 << 28, 200
"""Bytes that any array may become, and how many times as long as in the file larger ones may be."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_KINDS = {"F16": REAL, "BF16": REAL, "F32": REAL, "F64": REAL}
_KINDS |= {f"{sign}{bits}": WHOLE for sign in "IU" for bits in (8, 16, 32, 64)}


@dataclass(frozen=True)
class Stored:
    """An array in a file.

    Attributes:
        shape: Its shape.
        kind: What its numbers are: :data:`REAL`, :data:`WHOLE`, :data:`TEXT`, or the name of another type.
        nbytes: Bytes that it takes in memory.
        read: Reads it: a tensor, or a list of texts.
    """

    shape: tuple[int, ...]
    kind: str
    nbytes: int
    read: Callable[[], Any]


@dataclass(frozen=True)
class ArrayFile:
    """A file that is open.

    Attributes:
        path: The file.
        sha256: SHA-256 of its bytes.
        names: Names of all arrays in it.
        stored: The arrays that were asked for, by name, as far as they are there.
    """

    path: Path
    sha256: str
    names: tuple[str, ...]
    stored: Mapping[str, Stored]

    def read(self, names: Sequence[str]) -> dict[str, Any]:
        """Read arrays.

        Raises:
            InputError: They are damaged, or do not fit into the memory that is left.
        """
        needed, most = sum(self.stored[name].nbytes for name in names), free_memory()
        if needed > most:
            raise InputError(
                f"{self.path} holds {needed / 1e9:,.1f} GB in {', '.join(names)}, which is more than the "
                f"{most / 1e9:,.1f} GB of memory that are left.",
                hint=_SMALLER,
            )
        found = {}
        for name in names:
            with _explained(self.path, name):
                try:
                    found[name] = self.stored[name].read()
                except MemoryError:
                    raise InputError(f"{name} in {self.path} does not fit into memory.", hint=_SMALLER) from None
        return found


@contextmanager
def open_arrays(path: Path, wanted: Sequence[str], what: str, texts: Sequence[str] = ()) -> Iterator[ArrayFile]:
    """Open a file of arrays and look at the headers of those that are wanted.

    A ``.safetensors`` file has no text among its tensors: there, texts are lists in JSON in its metadata.

    Args:
        path: The file.
        wanted: Names of arrays.
        what: What the file is, for messages: ``The features file``.
        texts: Names of wanted lists of texts.

    Raises:
        InputError: The file is missing, empty, damaged, of another ending, or has an array of Python objects.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{what} {path} ends neither in .npz nor in .safetensors.")
    settle(path.parent)
    try:
        if not path.is_file():
            if path.exists():
                raise InputError(f"{what} {path} is a folder or a device, not a file.")
            raise InputError(f"{what} {path} does not exist.")
        if path.stat().st_size == 0:
            raise InputError(f"{what} {path} is empty.")
        digest = sha256_of(path)
        with ExitStack() as stack:
            with _explained(path):
                opened = (_open_npz if path.suffix.lower() == ".npz" else _open_safetensors)(path, stack, wanted, texts)
            yield ArrayFile(path, digest, *opened)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}.") from error


def tensor_of(values: np.ndarray[Any, Any]) -> Tensor:
    """A tensor with the numbers of an array, in the byte order of this machine; without a copy where that can be."""
    return torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))


def kind_of(dtype: np.dtype[Any]) -> str:
    """The kind of the numbers of an array."""
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return REAL
    return {"i": WHOLE, "u": WHOLE, "U": TEXT}.get(dtype.kind, str(dtype))


@contextmanager
def _explained(path: Path, name: str | None = None) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except _DAMAGED as error:
        where = f"{path} is damaged, or no {path.suffix} at all" if name is None else f"{name} in {path} is damaged"
        raise InputError(f"{where}: {first_line(error)}.") from error


_Opened = tuple[tuple[str, ...], Mapping[str, Stored]]


def _open_npz(path: Path, stack: ExitStack, wanted: Sequence[str], texts: Sequence[str]) -> _Opened:
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    stored = {}
    for name in (*wanted, *texts):
        if name in members:
            with _explained(path, name), archive.open(members[name]) as handle:
                stored[name] = _stored_in_npz(archive, members[name], handle, f"{name} in {path}")
    return tuple(members), stored


def _stored_in_npz(archive: zipfile.ZipFile, info: zipfile.ZipInfo, handle: IO[bytes], what: str) -> Stored:
    version = np.lib.format.read_magic(handle)
    if version not in _HEADERS:
        raise ValueError(f"format {version} of NumPy is for arrays with named columns")
    shape, _, dtype = _HEADERS[version](handle)
    if dtype.hasobject:
        raise UnsafeFileError(
            f"{what} holds Python objects, which could only be read by executing code.",
            hint="Save numbers, and names as an array of text: np.array(names, dtype=str).",
        )
    nbytes = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or nbytes != info.file_size - handle.tell():
        raise ValueError(f"its header says {shape} of {dtype}, but it has {info.file_size - handle.tell()} bytes")

    if nbytes > max(_UNPACKED, _TIMES * info.compress_size):
        raise InputError(
            f"{what} would become {nbytes / 1e6:,.0f} MB, of {info.compress_size / 1e6:,.1f} MB in the file.",
            hint="If that is meant, write it with np.savez, which does not compress.",
        )

    def read() -> Any:
        with archive.open(info) as again:
            values = np.lib.format.read_array(again, allow_pickle=False)
        return values.tolist() if dtype.kind == "U" else tensor_of(values)

    return Stored(shape, kind_of(dtype), nbytes, read)


def _open_safetensors(path: Path, stack: ExitStack, wanted: Sequence[str], texts: Sequence[str]) -> _Opened:
    handle = stack.enter_context(safe_open(stack.enter_context(readable_path(path)), framework="pt"))
    present, metadata = list(handle.keys()), handle.metadata() or {}
    stored = {name: _stored_tensor(handle, name) for name in wanted if name in present}
    for name in texts:
        if name in metadata:
            stored[name] = _stored_texts(metadata[name], f"{name} in the metadata of {path}")
    return (*present, *(name for name in texts if name in metadata)), stored


def _stored_tensor(handle: Any, name: str) -> Stored:
    header = handle.get_slice(name)
    shape, dtype = tuple(header.get_shape()), header.get_dtype()
    bits = int("".join(filter(str.isdigit, dtype.split("_")[0])) or 8)
    # Copied: the file maps tensors at odd addresses, where matrix products round differently.
    return Stored(
        shape, _KINDS.get(dtype, dtype), math.prod(shape) * bits // 8, lambda: handle.get_tensor(name).clone()
    )


def _stored_texts(text: str, what: str) -> Stored:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is no JSON: {first_line(error)}.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{what} is no list of texts in JSON.")
    return Stored((len(names),), TEXT, len(text), lambda: names)
