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
from decompose_cli.models.names import without_prefix
from decompose_cli.models.weights_key import at_key

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "model_state", "module", "weights")
_AVERAGED = (
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model_state_dict"),
    *("ema_model", "ema_weights", "averaged_model", "swa_model", "swa_state_dict"),
)
_DEEPEST = 4  # mappings in mappings in which other weights are looked for
_NO_WEIGHTS = {"opt", "optim", "optimizer", "optimizers", "scaler", "scheduler", "schedulers"}


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


def chosen_state(content: Any, path: Path, *, ema: bool, key: str | None = None) -> Choice:
    """Choose the state dict of a file that does not describe itself.

    Args:
        content: Content of the file.
        path: The file, for messages.
        ema: Whether averaged weights are wanted, in place of the raw ones beside them.
        key: The place of the weights in the file, where one was named; see :func:`.weights_key.at_key`.

    Raises:
        InputError: There is no state dict, or none that ``ema`` asks for, or several.
    """
    if key is not None:
        content = at_key(content, key, path)
    place, found = _place_of_raw(content, path)
    raw = None if found is None or (key is not None and not isinstance(found, dict)) else unwrapped(found, path)
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
        if key is not None:
            raise InputError(f"{path} holds no state dict at {param('weights_key')} {key}.", hint=SAVE_STATE_DICT)
        return Choice(unwrapped(content, path))
    remarks = []
    if places := first_few(other.place for other in averaged if seem_whole(without_prefix(raw), other)):
        remarks.append(f"also holds other weights of this network ({places}); {param('ema')} takes averaged ones.")
    if beside := [other.place for other in others if other not in averaged]:
        remarks.append(
            f"holds several weights of this network: those under {place} are taken, not {first_few(beside)}. "
            f"{_name_one()}"
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
                hint="Save those that you mean alone, with torch.save.",
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


def _name_one() -> str:
    return f"{param('weights_key')} names those that you mean by their place in the file."


def _several(path: Path, found: Sequence[Averages], *, ema: bool = True) -> InputError:
    places = first_few(other.place for other in found)
    if all(isinstance(other.tensors, tuple) for other in found):
        return InputError(
            f"{path} holds tensors without names ({places}), and no state dict that they could belong to."
        )
    if all(is_average(other.place) for other in found):
        if not ema:
            return InputError(f"{path} holds several averaged weights ({places}), and no others.", hint=_name_one())
        return InputError(f"{path} holds several weights that {param('ema')} could mean: {places}.", hint=_name_one())
    return InputError(f"{path} holds several state dicts: {places}.", hint=_name_one())


def _place_of_raw(content: Any, path: Path, at: str = "") -> tuple[str, Any]:
    """Where the weights are that are no averages, "" for the file itself, and what is there, None if there are none.

    Args:
        content: Content of the file, or a part of it.
        path: The file, for messages.
        at: Where the part stands in the file.

    Raises:
        InputError: There are several, and nothing says which are the network.
    """
    if not isinstance(content, dict):
        return at, content
    usual = [Averages(place, state) for place, state in _under_wrappers(content, path, at)]
    if len(usual) > 1:
        usual = [found for found in usual if _is_state_dict(found.tensors)] or usual
        if any(not _same(found.tensors, usual[0].tensors) for found in usual[1:]):
            raise _several(path, usual)
    if usual:
        return usual[0].place, usual[0].tensors
    if any(isinstance(value, Tensor) for value in content.values()):
        return at, content
    whole = [other for other in _others(None, content) if isinstance(other.tensors, dict)]
    unusual = list(_unusual(content, at))
    if len(unusual) == 1:
        ((name, state),) = unusual
        plain = name.removeprefix(f"{at}.") in content  # a name that is no text, or an empty one, cannot be spoken of
        if not whole or (plain and all(_shapes(without_prefix(state)) == _shapes(other.tensors) for other in whole)):
            return name, state
    if unusual:
        raise _several(path, [*(Averages(name, state) for name, state in unusual), *_placed(at, whole)])
    return at, None


def _under_wrappers(content: dict[Any, Any], path: Path, at: str) -> Iterator[tuple[str, Any]]:
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            place, found = _place_of_raw(content[wrapper], path, _joined(at, wrapper))
            if found is not None:
                yield place, found


def _unusual(content: dict[Any, Any], place: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    """State dicts of whatever name, but those of averages and what optimisers keep."""
    for name, value in content.items():
        if not isinstance(value, dict) or is_average(str(name)) or words_of(str(name)) & _NO_WEIGHTS:
            continue
        inner = _joined(place, _shown(name))
        if _is_state_dict(value):
            yield inner, value
        elif depth < _DEEPEST:
            yield from _unusual(value, inner, depth + 1)


def _same(one: Any, other: Any) -> bool:
    """Whether two mappings hold the same weights."""
    if not _is_state_dict(one) or not _is_state_dict(other):
        return False
    one, other = without_prefix(one), without_prefix(other)
    shapes = _shapes(one)
    return shapes == _shapes(other) and all(torch.equal(one[name], other[name]) for name in shapes)


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if not all(isinstance(name, str) and isinstance(part, Tensor) for name, part in value.items()):
        return False
    return len([name for name in value if name.endswith("weight")]) > 1


def holds_tensors(content: Any, depth: int = 0) -> bool:
    """Whether there are named tensors anywhere in a file, but for what optimisers keep."""
    if not isinstance(content, dict) or depth > _DEEPEST:
        return False
    return any(
        isinstance(value, Tensor) or holds_tensors(value, depth + 1)
        for name, value in content.items()
        if isinstance(name, str) and not words_of(name) & _NO_WEIGHTS
    )


def _placed(at: str, found: Sequence[Averages]) -> list[Averages]:
    return [Averages(_joined(at, one.place), one.tensors) for one in found]


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


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
            yield from look(part, _joined(place, _shown(name)), depth + 1)

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
