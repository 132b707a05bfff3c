"""Large matrices of a result, in one file beside the document: a thousand classes have a million pairs.

In the document a matrix of more than 100 rows and columns is replaced by where it is:

    {"file": "validate.npz", "array": "original/confusion", "shape": [1000, 1000], "sha256": "..."}

with the name of the file, in the folder of the document, and the SHA-256 of its bytes. The file is an archive of numpy
arrays, each under the names that lead to it in the results. A table that has a list of real numbers for each of more
than 100 classes, such as their weights, is set apart as well if there are more than 10,000 numbers: its array has one
row after the other, and ``sizes`` in place of ``shape`` is the name of the array that says how long each row is.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.errors import InputError
from decompose_cli.storage.memory import check_fits
from decompose_cli.storage.ordinary_files import check_ordinary

if TYPE_CHECKING:
    import numpy as np

SUFFIX = ".npz"
INLINE = 100
"""Rows and columns up to which a matrix stands in the document itself."""
_BYTES_OF_A_NUMBER = 32  # of a list in memory, at least; what a few bytes of an archive may become has an end
_HEADER = 1 << 16  # bytes before the numbers of an array, at most
_KEYS = {"file", "array", "sha256"}  # and shape or sizes


def set_apart(results: Any, file: str) -> tuple[Any, bytes | None]:
    """Take large matrices out of results.

    Args:
        results: Plain values, as JSON has them; they are left as they are.
        file: The name that the file beside the document will have.

    Returns:
        The results with a reference in place of each matrix, and the content of the file; None without any.
    """
    arrays: dict[str, np.ndarray] = {}
    references: list[dict[str, Any]] = []

    def visit(value: Any, names: tuple[str, ...]) -> Any:
        name = "/".join(names)
        matrix, rows = _matrix(value), _rows(value)
        if matrix is not None:
            arrays[name] = matrix
            references.append({"file": file, "array": name, "shape": list(matrix.shape)})
            return references[-1]
        if rows is not None:
            arrays[name], arrays[f"{name}/sizes"] = rows
            references.append({"file": file, "array": name, "sizes": f"{name}/sizes"})
            return references[-1]
        if isinstance(value, dict):
            return {key: visit(item, (*names, str(key))) for key, item in value.items()}
        if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            return [visit(item, (*names, str(number))) for number, item in enumerate(value)]
        return value

    rest = visit(results, ())
    if not arrays:
        return results, None
    import numpy as np

    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    content = stream.getvalue()
    for reference in references:
        reference["sha256"] = hashlib.sha256(content).hexdigest()
    return rest, content


def _matrix(value: Any) -> np.ndarray | None:
    """The matrix that a value is, if it is a large one."""
    if not isinstance(value, list) or len(value) <= INLINE or not isinstance(value[0], list):
        return None
    width = len(value[0])
    if width <= INLINE or not all(isinstance(row, list) and len(row) == width for row in value):
        return None
    kinds = {type(item) for row in value for item in row}
    if not kinds <= {int, float}:
        return None
    import numpy as np

    return np.asarray(value, dtype=np.float64 if float in kinds else np.int64)


def _rows(value: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The numbers of a large table by class, row after row, and the sizes of the rows; None for anything else."""
    if not isinstance(value, dict) or len(value) <= INLINE or not all(isinstance(row, list) for row in value.values()):
        return None
    sizes, numbers = [len(row) for row in value.values()], [item for row in value.values() for item in row]
    is_real = len(numbers) > INLINE**2 and {type(item) for item in numbers} == {float}
    if not is_real or list(value) != [str(number) for number in range(len(value))]:
        return None
    import numpy as np

    return np.asarray(numbers), np.asarray(sizes)


def put_back(content: Any, path: Path) -> Any:
    """Put the matrices that lie beside a document into its content.

    Args:
        content: The document as JSON has it.
        path: Its file.

    Raises:
        InputError: The file beside it is missing or is another one, or what the document says of it is not so.
    """
    files: dict[tuple[str, str], zipfile.ZipFile | None] = {}
    references: list[tuple[zipfile.ZipFile | None, dict[str, Any]]] = []

    def find(value: Any) -> None:
        if _is_reference(value):
            key = (str(value["file"]), str(value["sha256"]))
            if key not in files:
                files[key] = _opened(path, *key)
            references.append((files[key], value))
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                if isinstance(item, dict | list):
                    find(item)

    find(content)
    check_fits(
        _BYTES_OF_A_NUMBER * sum(_size(archive, reference) for archive, reference in references),
        f"Reading the matrices of {path}",
        "Read it where there is more memory.",
    )
    found = iter(references)

    def visit(value: Any) -> Any:
        if _is_reference(value):
            return _found(path, *next(found))
        if isinstance(value, dict):
            return {name: visit(item) for name, item in value.items()}
        if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            return [visit(item) for item in value]
        return value

    return visit(content) if references else content


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() > _KEYS and value.keys() - _KEYS in ({"shape"}, {"sizes"})


def _opened(path: Path, name: str, sha256: str) -> zipfile.ZipFile | None:
    """The archive of this name beside a document; None if it is none."""
    if Path(name).name != name or not name.endswith(SUFFIX):
        raise InputError(f"{path} names {name!r} as the file of its matrices, which is no file beside it.")
    beside = path.parent / name
    what = f"The file of the matrices of {path},"
    try:
        check_ordinary(beside, what)
        check_fits(beside.stat().st_size, f"Reading {beside}", "Read it where there is more memory.")
        content = beside.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} keeps its matrices in {beside}, which cannot be read: {error.strerror or error}.",
            hint="Move and copy the two files together, or run the command again.",
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(
            f"{beside} is not the file that was written together with {path}: it is damaged, or of another result.",
            hint="Copy both files again, or run the command again.",
        )
    with suppress(zipfile.BadZipFile, ValueError, NotImplementedError):
        return zipfile.ZipFile(io.BytesIO(content))
    return None


def _size(archive: zipfile.ZipFile | None, reference: dict[str, Any]) -> int:
    """How many numbers an archive says that what a reference names has; 0 where it has no such arrays."""
    names = [f"{reference[name]}.npy" for name in ("array", "sizes") if name in reference]
    with suppress(KeyError):
        return 0 if archive is None else sum(archive.getinfo(name).file_size for name in names) // 8
    return 0


def _array(archive: zipfile.ZipFile, name: str, shape: list[int] | None = None) -> np.ndarray:
    """An array of an archive, which has numbers of eight bytes, and this shape if one is given."""
    import numpy as np

    file = f"{name}.npy"
    if shape is not None and archive.getinfo(file).file_size > 8 * math.prod(shape) + _HEADER:
        raise ValueError(f"{name} is larger than what stands for it")
    found = np.asarray(np.lib.format.read_array(io.BytesIO(archive.read(file)), allow_pickle=False))
    if found.dtype not in (float, int) or (shape is not None and list(found.shape) != shape):
        raise ValueError(f"{name} is another array than what stands for it")
    return found


def _found(path: Path, archive: zipfile.ZipFile | None, reference: dict[str, Any]) -> Any:
    """What a reference stands for, as the results had it."""
    name = str(reference["array"])
    try:
        if archive is not None and "sizes" in reference:
            sizes = _array(archive, str(reference["sizes"])).tolist()
            numbers = _array(archive, name)
            if numbers.shape == (sum(sizes),) and numbers.dtype == float and min(sizes) >= 0:
                rows = iter(numbers.tolist())
                return {str(number): list(itertools.islice(rows, size)) for number, size in enumerate(sizes)}
        elif archive is not None and _is_shape(reference["shape"]):
            return _array(archive, name, reference["shape"]).tolist()
    except (OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error):
        pass
    beside = path.parent / str(reference["file"])
    raise InputError(f"{beside} does not hold the matrix {name[:100]!r} as {path} says.")


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)
