"""Networks of the user's own, named as ``package.module:callable``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from decompose_cli.errors import InputError
from decompose_cli.files import sha256_of
from decompose_cli.models.registry import ModelEntry


def user_entry(model: str) -> ModelEntry:
    """An entry for ``package.module:callable``; the current directory is importable.

    Raises:
        InputError: There is no such module or callable, or importing it fails.
    """
    module_name, _, attribute = model.partition(":")
    if not module_name or not attribute:
        raise InputError(f"{model!r} is not package.module:callable.")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(f"There is no Python module {module_name!r} in {here} or on the Python path.") from error
        raise InputError(f"Importing {module_name} failed: {error}.") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"Importing {module_name} failed: {type(error).__name__}: {error}.") from error
    for part in attribute.split("."):
        target = getattr(target, part, None)
    if not callable(target):
        raise InputError(f"{module_name} has no callable {attribute!r}.")
    return ModelEntry(
        name=model,
        build=_user_build(model, target),
        dataset=None,
        num_classes=0,
        preprocessing=None,
        source="user",
        architecture={"family": "user", "name": model, "source": _source_sha256(target)},
    )


def _user_build(model: str, target: Callable[[], Any]) -> Callable[..., nn.Module]:
    def build(_: int, *, pretrained: bool = False) -> nn.Module:
        try:
            module = target()
        except (Exception, SystemExit) as error:
            raise InputError(f"{model}() failed: {type(error).__name__}: {error}.") from error
        if not isinstance(module, nn.Module):
            raise InputError(f"{model}() returned a {type(module).__name__}, not a torch.nn.Module.")
        return module

    return build


def _source_sha256(target: Any) -> str:
    for candidate in (target, type(target)):
        with suppress(TypeError):  # built into Python
            file = inspect.getsourcefile(candidate)
            if file:
                return sha256_of(Path(file))
    return ""
