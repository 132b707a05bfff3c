"""Read files of ``torch.save`` without executing anything in them, whatever stands beside the tensors."""

from __future__ import annotations

import errno
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from decompose_cli.errors import InputError, UnsafeFileError, param
from decompose_cli.models.inert import RunsCodeError, TooLongError, stand_ins
from decompose_cli.models.pickle_names import ShortLines, check_names
from decompose_cli.models.state_dicts import SAVE_STATE_DICT, holds_tensors
from decompose_cli.models.torch_content import check_archive, check_content
from decompose_cli.storage.ordinary_files import FREE
from decompose_cli.storage.system_errors import is_out_of_memory


def read_torch(path: Path, *, has_others: bool = True) -> Any:
    """The content of a file of ``torch.save``: tensors and plain values; objects of other classes are inert.

    Args:
        path: The file.
        has_others: Whether there may be objects of other classes, as our own files have none.

    Raises:
        InputError: The file is damaged, no such file, or holds far more than its bytes.
        UnsafeFileError: Reading it would execute code, or it holds objects and no tensors.
        OSError: The file cannot be read.
    """
    _check_kind(path)
    content = _read(path, has_others=has_others)
    check_content(content, path)
    return content


def _read(path: Path, *, has_others: bool) -> Any:
    try:
        return _loaded(path, _numpy_scalars())
    except pickle.UnpicklingError as error:
        refusal = _refusal(path, str(error))
        if not has_others:
            raise refusal from error
        return _loaded_with_stand_ins(path, refusal)
    except Exception as error:  # a damaged file can raise nearly anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a jump to before its beginning
            raise
        if is_out_of_memory(error) and path.stat().st_size > FREE:  # a damaged one may ask for anything
            raise
        raise _no_checkpoint(path) from error


def _loaded(path: Path, allowed: list[Any]) -> Any:
    check_names(path)
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's warnings about odd pickles do not help the user, who gets a sentence
        with ShortLines(path) as file:  # as torch tells safetensors by the name of a path
            return torch.load(file, map_location="cpu", weights_only=True)


def _loaded_with_stand_ins(path: Path, refusal: InputError) -> Any:
    """The content of a file that names what torch does not know, which becomes plain data.

    Raises:
        InputError: The refusal, where no tensors are found then; where code would run, with its name.
    """
    try:
        content = _loaded(path, stand_ins(path))
    except RunsCodeError as error:
        raise _refusal(path, f"GLOBAL {error}") from error
    except TooLongError as error:
        raise InputError(
            f"The weights file {path} holds more than {error} plain values beside its tensors, "
            "too many to be followed.",
            hint=SAVE_STATE_DICT,
        ) from error
    except Exception as error:
        raise refusal from error
    if not holds_tensors(content):
        raise refusal
    return content


def _numpy_scalars() -> list[Any]:
    """The globals needed to rebuild NumPy numbers, which some checkpoints hold among their metrics; nothing else."""
    import numpy as np
    from numpy._core import multiarray

    scalar = multiarray.scalar
    kinds = (
        np.dtypes.Int64DType,
        np.dtypes.Int32DType,
        np.dtypes.Float64DType,
        np.dtypes.Float32DType,
        np.dtypes.BoolDType,
    )
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # of NumPy 1 and 2
    return [*((scalar, name) for name in names), np.dtype, *kinds]


def _check_kind(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise UnsafeFileError(f"{path} is a TorchScript program, not a checkpoint.", hint=SAVE_STATE_DICT)
            check_archive(archive, path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        pass  # a file of torch before 1.6, or a damaged one


def _refusal(path: Path, reason: str) -> InputError:
    if "global" in reason.lower():
        wanted = re.search(r"GLOBAL (\S+)", reason)
        name = wanted.group(1) if wanted else "Python objects"
        return UnsafeFileError(
            f"{path} is refused: reading it would execute code ({name}), and only tensors and plain values are read.",
            hint="Save the weights alone, with torch.save(model.state_dict(), ...) or as .safetensors.",
        )
    if f"Unsupported operand {pickle.FRAME[0]}" in reason:
        return InputError(
            f"The weights file {path} was saved with a pickle protocol of 4 or above, which is not read.",
            hint="Save it again without pickle_protocol, which is 2 in torch.save by default.",
        )
    return _no_checkpoint(path)


def _no_checkpoint(path: Path) -> InputError:
    with path.open("rb") as file:
        beginning = file.read(64)
    if beginning.lstrip()[:1] in (b"{", b"[") and beginning.isascii() and b"\0" not in beginning:
        return InputError(
            f"The weights file {path} is a text, such as JSON, not a checkpoint.",
            hint=f"Is it an index file? 'decompose validate' takes it with {param('indices')}."
            if path.suffix == ".json"
            else None,
        )
    return InputError(f"The weights file {path} is damaged or truncated, or not a checkpoint at all.")
