"""Find the state dict in what a checkpoint holds, whatever it is wrapped in and whatever else lies beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decompose_cli.errors import InputError, first_few, param
from decompose_cli.models.averages import EXCHANGED, Averages, are_of, is_average, seem_whole, separated, words_of

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_AVERAGED = (
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model_state_dict"),
    *("ema_model", "ema_weights", "averaged_model", "swa_model", "swa_state_dict"),
)
_DEEPEST = 4  # mappings in mappings in which other weights are looked for
_NO_WEIGHTS = {"optim", "optimizer", "optimizers", "scheduler"}
_PREFIXES = ("module.", "_orig_mod.")  # added by DataParallel and by torch.compile
_ALONE = "Save those that you mean alone, with torch.save."


@dataclass(frozen=True)
class Choice:
    """What is taken of a file.

    Attributes:
        state: The state dict.
        averages: What the network has to put in the place of its parameters, if that was asked for.
        remark: What has to be said of the file, after its name.
    """

    state: dict[str, Tensor]
    averages: Averages | None = None
    remark: str | None = None


def chosen_state(content: Any, path: Path, *, ema: bool) -> Choice:
    """Choose the state dict of a file that does not describe itself.

    Args:
        content: Content of the file.
        path: The file, for messages.
        ema: Whether averaged weights are wanted, in place of the raw ones beside them.

    Raises:
        InputError: There is no state dict, or none that ``ema`` asks for, or several.
    """
    place, found = _place_of_raw(content, path)
    raw = None if found is None else unwrapped(found, path)
    exchanged = _exchanged(content)
    if exchanged is not None and raw is not None:
        said = f"holds averaged weights under {place}, which are taken; the raw ones are under {exchanged}."
        return Choice(raw, remark=None if ema else said)
    others = list(_others(raw, content))
    averaged = [other for other in others if is_average(other.place)]
    if ema:
        return _averaged(path, raw, averaged, others)
    if raw is None:
        if len(others) == 1 and isinstance(others[0].tensors, dict):
            only = others[0]
            return Choice(others[0].tensors, remark=f"holds averaged weights only ({only.place}), which are taken.")
        if others:
            raise _several(path, others, ema=False)
        return Choice(unwrapped(content, path))
    remarks = []
    if places := first_few(other.place for other in averaged if seem_whole(without_prefix(raw), other)):
        remarks.append(f"also holds other weights of this network ({places}); {param('ema')} takes averaged ones.")
    if beside := [other.place for other in others if other not in averaged]:
        remarks.append(
            f"holds several weights of this network: those under {place} are taken, not {first_few(beside)}. {_ALONE}"
        )
    return Choice(raw, remark=" It ".join(remarks) or None)


def _averaged(
    path: Path, raw: dict[str, Tensor] | None, averaged: Sequence[Averages], others: Sequence[Averages]
) -> Choice:
    """The averages of a file: those under a usual name, else the only ones."""
    if raw is not None:
        averaged = [other for other in averaged if seem_whole(without_prefix(raw), other)] or averaged
    named = [other for other in averaged if {*other.place.split(".")} & {*_AVERAGED}] or averaged
    rest = raw
    if not named and raw is not None:
        rest, named = separated(raw)
        if any(other.place == EXCHANGED for other in named):
            raise InputError(
                f"{path} does not say whether its {EXCHANGED} or its other tensors are averages; mmcv exchanges them.",
                hint=_ALONE,
            )
    if not named:
        raise without_averages(path, [other.place for other in others])
    if len(named) > 1:
        raise _several(path, named)
    (only,) = named
    if not isinstance(only.tensors, dict):
        if not rest:
            raise _several(path, named)
        return Choice(rest, only)
    state = without_prefix(only.tensors)
    if not rest or _shapes(state) == _shapes(without_prefix(rest)):
        return Choice(state)
    return Choice(rest, Averages(only.place, state))


def _several(path: Path, found: Sequence[Averages], *, ema: bool = True) -> InputError:
    places = first_few(other.place for other in found)
    if all(isinstance(other.tensors, tuple) for other in found):
        return InputError(
            f"{path} holds tensors without names ({places}), and no state dict that they could belong to."
        )
    if all(is_average(other.place) for other in found):
        if not ema:
            return InputError(f"{path} holds several averaged weights ({places}), and no others.", hint=_ALONE)
        return InputError(f"{path} holds several weights that {param('ema')} could mean: {places}.", hint=_ALONE)
    return InputError(f"{path} holds several state dicts: {places}.", hint=_ALONE)


def _place_of_raw(content: Any, path: Path) -> tuple[str, Any]:
    """Where the weights are that are no averages, "" for the file itself, and what is there, None if there are none.

    Raises:
        InputError: There are several under unusual names, and nothing says which are the network.
    """
    if not isinstance(content, dict):
        return "", content
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            return wrapper, content[wrapper]
    if any(isinstance(value, Tensor) for value in content.values()):
        return "", content
    whole = [other for other in _others(None, content) if isinstance(other.tensors, dict)]
    unusual = [
        (name, value)
        for name, value in content.items()
        if not is_average(str(name)) and not words_of(str(name)) & _NO_WEIGHTS and _is_state_dict(value)
    ]
    if len(unusual) == 1 and whole:
        ((name, state),) = unusual
        is_named = isinstance(name, str) and name != ""
        if is_named and all(_shapes(without_prefix(state)) == _shapes(other.tensors) for other in whole):
            return name, state
    if unusual and (whole or len(unusual) > 1):
        raise _several(path, [*(Averages(_shown(name), state) for name, state in unusual), *whole])
    return "", None


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if not all(isinstance(name, str) and isinstance(part, Tensor) for name, part in value.items()):
        return False
    return len([name for name in value if name.endswith("weight")]) > 1


def _shown(key: Any) -> str:
    """A key of a file as a place; one without text is not taken for the file itself."""
    return str(key) or "''"


def _exchanged(content: Any) -> str | None:
    """Where the raw weights are if averages have taken their place, as Lightning and mmengine save them."""
    if not isinstance(content, dict):
        return None
    if "averaging_state" in content and isinstance(content.get("current_model_state"), dict):
        return "current_model_state"
    beside = content.get("ema_state_dict")
    if isinstance(beside, dict) and "steps" in beside and any(str(name).startswith("module.") for name in beside):
        return "ema_state_dict"
    return None


def _others(taken: dict[str, Tensor] | None, content: Any) -> Iterator[Averages]:
    """Other weights of a file: of the names and shapes of those that are taken, or a part of them that are averages.

    Where none are taken, those under a name of averages.
    """
    wanted = None if taken is None else without_prefix(taken)

    def look(value: Any, place: str, depth: int) -> Iterator[Averages]:
        if isinstance(value, list | tuple):
            if value and is_average(place) and all(isinstance(part, Tensor) for part in value):
                yield Averages(place, tuple(value))
            return
        if not isinstance(value, dict) or depth > _DEEPEST or words_of(place.rpartition(".")[2]) & _NO_WEIGHTS:
            return
        tensors = {name: part for name, part in value.items() if isinstance(part, Tensor) and isinstance(name, str)}
        state = without_prefix(tensors)
        if place and state and is_other(place, state, wanted):
            if wanted is None or not all(state.get(name) is part for name, part in wanted.items()):
                yield Averages(place, state)
            return
        for name, part in value.items():
            yield from look(part, f"{place}.{_shown(name)}" if place else _shown(name), depth + 1)

    def is_other(place: str, state: dict[str, Tensor], wanted: dict[str, Tensor] | None) -> bool:
        if wanted is None:
            return is_average(place)
        return _shapes(state) == _shapes(wanted) or (is_average(place) and are_of(wanted, state))

    return look(content, "", 0)


def _shapes(state: Any) -> dict[str, torch.Size]:
    """The shapes of what every state dict of the network has; counters of batches are not saved by all."""
    return {name: value.shape for name, value in state.items() if not name.endswith("num_batches_tracked")}


def without_averages(path: Path, others: Sequence[str] = ()) -> InputError:
    """The error for a file without the averaged weights that were asked for; ``others`` are there and no averages."""
    names = first_few(_AVERAGED, len(_AVERAGED))
    beside = f" The weights under {first_few(others)} are no averages by that name." if others else ""
    return InputError(
        f"{path} holds no averaged weights, which {param('ema')} asks for.",
        hint=f"They would stand under {names}.{beside}",
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

    The counter beside it is that of ``torch.optim.swa_utils.AveragedModel``, or of mmengine's averages.
    """
    counter = next((name for name in ("n_averaged", "steps") if name in state), None)
    if counter is not None and all(name.startswith("module.") for name in state if name != counter):
        state = {name: value for name, value in state.items() if name != counter}
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return without_prefix({name.removeprefix(prefix): value for name, value in state.items()})
    return state
