"""Networks of the user, named as ``package.module:callable``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from decompose_cli.errors import InputError, first_line, raised
from decompose_cli.models.entry import ModelEntry
from decompose_cli.models.sources import source_digest


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
        hint = (
            f"Write it without .py: {module_name.removesuffix('.py')}:{attribute}."
            if module_name.endswith(".py")
            else None
        )
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(
                f"There is no Python module {module_name!r} in {here} or on the Python path.", hint=hint
            ) from error
        raise InputError(f"Importing {module_name} failed: {first_line(error)}.") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"Importing {module_name} failed: {raised(error)}.") from error
    for part in attribute.split("."):
        target = getattr(target, part, None)
    if isinstance(target, nn.Module):
        raise InputError(f"{model} is a network already; name a function or class that returns one when called.")
    if not callable(target):
        raise InputError(f"{module_name} has no callable {attribute!r}.")
    return ModelEntry(
        name=model,
        build=_user_build(model, target),
        dataset=None,
        num_classes=0,
        preprocessing=None,
        source="user",
        architecture={"family": "user", "name": model, "source": source_digest(module_name)},
    )


def _user_build(model: str, target: Callable[[], Any]) -> Callable[..., nn.Module]:
    def build(_: int, *, pretrained: bool = False) -> nn.Module:
        try:
            module = target()
        except (Exception, SystemExit) as error:
            raise InputError(f"{model}() failed: {raised(error)}.") from error
        if not isinstance(module, nn.Module):
            raise InputError(f"{model}() returned a {type(module).__name__}, not a torch.nn.Module.")
        return module

    return build
