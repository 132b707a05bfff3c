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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.errors import InputError
from decompose_cli.storage.ordinary_files import read_ordinary

if TYPE_CHECKING:
    import numpy as np

    _Reader = Callable[[str, int], np.ndarray]

SUFFIX = ".npz"
INLINE = 100
"""Rows and columns up to which a matrix stands in the document itself."""
_MOST = 1 << 25  # entries of all matrices of a document: what a few bytes of an archive may become has an end
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
    files: dict[tuple[str, str], _Reader] = {}
    found = 0

    def visit(value: Any) -> Any:
        if isinstance(value, dict):
            if not (value.keys() > _KEYS and value.keys() - _KEYS in ({"shape"}, {"sizes"})):
                return {name: visit(item) for name, item in value.items()}
            key = (str(value["file"]), str(value["sha256"]))
            if key not in files:
                files[key] = _opened(path, *key)
            nonlocal found
            matrix, entries = _found(path, files[key], value, _MOST - found)
            found += entries
            return matrix
        if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            return [visit(item) for item in value]
        return value

    return visit(content)


def _opened(path: Path, name: str, sha256: str) -> _Reader:
    """The arrays of the file of this name beside a document, by their names."""
    if Path(name).name != name or not name.endswith(SUFFIX):
        raise InputError(f"{path} names {name!r} as the file of its matrices, which is no file beside it.")
    beside = path.parent / name
    try:
        content = read_ordinary(beside, f"The file of the matrices of {path},")
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
    return lambda array, most: _array(content, array, most)


def _array(content: bytes, name: str, most: int) -> np.ndarray:
    """An array of an archive that has at most so many numbers of eight bytes."""
    import zipfile

    import numpy as np

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if archive.getinfo(f"{name}.npy").file_size > 8 * most + _HEADER:
            raise ValueError(f"{name} is larger than what stands for it")
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False)[name])


def _found(path: Path, read: _Reader, reference: dict[str, Any], most: int) -> tuple[Any, int]:
    """What a reference stands for, as the results had it, and how many numbers that are, ``most`` of which may be."""
    import zipfile
    import zlib

    name = str(reference["array"])
    beside = path.parent / str(reference["file"])
    try:
        if "sizes" in reference:
            sizes = read(str(reference["sizes"]), most).tolist()
            numbers = read(name, most)
            if numbers.shape == (sum(sizes),) and numbers.dtype == float and min(sizes) >= 0:
                rows = iter(numbers.tolist())
                table = {str(number): list(itertools.islice(rows, size)) for number, size in enumerate(sizes)}
                return table, len(numbers) + len(sizes)
        elif _is_shape(reference["shape"]):
            entries = math.prod(reference["shape"])
            if entries > most:
                raise InputError(f"{path} has more than {_MOST:,} numbers in its matrices, as no result has.")
            array = read(name, entries)
            if array.shape == tuple(reference["shape"]) and array.dtype in (float, int):
                return array.tolist(), entries
    except (OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error):
        pass
    raise InputError(f"{beside} does not hold the matrix {name[:100]!r} as {path} says.")


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)
