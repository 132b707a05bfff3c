"""Find the state dict in what a checkpoint holds, whatever it is wrapped in and whatever else lies beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decompose_cli.errors import InputError, first_few, param
from decompose_cli.progress import note

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_AVERAGED = (
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model_state_dict"),
    *("ema_model", "ema_weights", "averaged_model", "swa_model", "swa_state_dict"),
)
_DEEPEST = 4  # mappings in mappings in which other weights are looked for
_PREFIXES = ("module.", "_orig_mod.")  # added by DataParallel and by torch.compile


def chosen_state(content: Any, path: Path, *, ema: bool) -> tuple[dict[str, Tensor], str | None]:
    """Choose the state dict of a file that does not describe itself.

    Args:
        content: Content of the file.
        path: The file, for messages.
        ema: Whether averaged weights are wanted, in place of the raw ones beside them.

    Returns:
        The state dict, and the places of others with the same names and shapes, as text; None if there are none.

    Raises:
        InputError: There is no state dict, or none that ``ema`` asks for, or several.
    """
    has_raw = _has_raw(content)
    raw = unwrapped(content, path) if has_raw else None
    others = _states_like(raw, content)
    if ema:
        named = [name for name in others if {*name.split(".")} & {*_AVERAGED}] or list(others)
        if not named:
            raise without_averages(path)
        if len(named) > 1:
            raise InputError(f"{path} holds several weights that {param('ema')} could mean: {', '.join(named)}.")
        return others[named[0]], None
    if raw is None and others:
        name = next(iter(others))
        note(f"{path} holds averaged weights only ({name}), which are taken.")
        return others[name], None
    return raw if raw is not None else unwrapped(content, path), first_few(others) or None


def _has_raw(content: Any) -> bool:
    """Whether a file has weights at the top or under a usual name, rather than under names of averages alone."""
    if not isinstance(content, dict) or any(isinstance(content.get(name), dict) for name in _WRAPPERS):
        return True
    return any(isinstance(value, Tensor) for value in content.values())


def _states_like(taken: dict[str, Tensor] | None, content: Any) -> dict[str, dict[str, Tensor]]:
    """Other state dicts of a file, by where they stand: of the names and shapes of the one that is taken.

    Where none is taken, those under a name of averages.
    """
    found: dict[str, dict[str, Tensor]] = {}

    def look(value: Any, place: str, depth: int) -> None:
        if not isinstance(value, dict) or depth > _DEEPEST:
            return
        tensors = {name: part for name, part in value.items() if isinstance(part, Tensor) and isinstance(name, str)}
        state = without_prefix(tensors)
        if (
            place
            and state
            and (_shapes(state) == wanted if taken is not None else set(place.split(".")) & {*_AVERAGED})
        ):
            if taken is None or not all(value.get(name) is part for name, part in taken.items()):
                found[place] = state
            return
        for name, part in value.items():
            look(part, f"{place}.{name}" if place else str(name), depth + 1)

    wanted = _shapes(without_prefix(taken)) if taken is not None else {}
    look(content, "", 0)
    return found


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def without_averages(path: Path) -> InputError:
    """The error for a file without the averaged weights that were asked for."""
    names = first_few(_AVERAGED, len(_AVERAGED))
    return InputError(
        f"{path} holds no averaged weights, which {param('ema')} asks for.", hint=f"They would stand under {names}."
    )


def unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict: the tensors of the outermost mapping, or of the one inside a known wrapper."""
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict.", hint=SAVE_STATE_DICT)
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no tensors.", hint=SAVE_STATE_DICT)
    strays = [str(name) for name in content if name not in tensors]
    if strays:
        raise InputError(
            f"{path} mixes tensors with other values ({first_few(strays)}), so its layout is unclear.",
            hint="Put the weights under 'state_dict'.",
        )
    return tensors


SAVE_STATE_DICT = "A checkpoint is what torch.save(model.state_dict(), ...) writes, bare or under 'state_dict'."


def without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove a prefix that all names have; a prefix that only some have belongs to the network.

    The counter beside it is that of ``torch.optim.swa_utils.AveragedModel``.
    """
    if "n_averaged" in state and all(name.startswith("module.") for name in state if name != "n_averaged"):
        state = {name: value for name, value in state.items() if name != "n_averaged"}
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return without_prefix({name.removeprefix(prefix): value for name, value in state.items()})
    return state
