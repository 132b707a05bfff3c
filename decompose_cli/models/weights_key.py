"""The place in a file that a user names: keys of its mappings, with dots between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from decompose_cli.errors import InputError, first_few, param
from decompose_cli.models.names import composed, plain_name

_DEEPEST = 8


def at_key(content: Any, key: str, path: Path) -> Any:
    """What stands at a place in a file.

    Args:
        content: Content of the file.
        key: The place: ``teacher``, ``callbacks.EMA.weights``, or what the names of weights begin with, as
            ``state_dict.encoder_q``; for that ``encoder_q`` is enough where only one state dict has such names.
            Positions in lists count from 0.
        path: The file, for messages.

    Raises:
        InputError: There is no such place, or several have this name.
    """
    top = _entries(content)
    found = [top[composed(key)]] if composed(key) in top else list(_at(content, composed(key), 0))
    found = found or list(_among_names(content, plain_name(key), 0))
    if len(found) > 1:
        raise InputError(
            f"{path} has {len(found)} places that {param('weights_key')} {key} could mean.",
            hint="Save the weights that you mean alone, with torch.save.",
        )
    if not found:
        places = first_few(dict.fromkeys(_places(content)), 6)
        raise InputError(
            f"{path} has nothing at {param('weights_key')} {key}.",
            hint=f"It has tensors at {places}." if places else "It has tensors only at its top.",
        )
    return found[0]


def _at(value: Any, key: str, depth: int) -> Iterator[Any]:
    entries = _entries(value)
    if depth > _DEEPEST or not entries:
        return
    for name, part in entries.items():
        if name == key:
            yield part
        elif key.startswith(f"{name}."):
            yield from _at(part, key[len(name) + 1 :], depth + 1)
    inner = {
        name[len(key) + 1 :]: part
        for name, part in entries.items()
        if name.startswith(f"{key}.") and isinstance(part, Tensor)
    }
    inner = inner or _beginning_with(entries, plain_name(key))
    if inner:
        yield inner


def _beginning_with(entries: dict[str, Any], key: str) -> dict[str, Any]:
    """The weights whose names begin with the key, but for what wraps a network."""
    names = {name: plain_name(name) for name, part in entries.items() if isinstance(part, Tensor)}
    return {plain[len(key) + 1 :]: entries[name] for name, plain in names.items() if plain.startswith(f"{key}.")}


def _among_names(value: Any, key: str, depth: int) -> Iterator[dict[str, Any]]:
    """The weights whose names begin with the key, in whatever mapping, but for what wraps a network."""
    entries = _entries(value)
    inner = _beginning_with(entries, key)
    if inner:
        yield inner
    if depth < _DEEPEST:
        for part in entries.values():
            yield from _among_names(part, key, depth + 1)


def _places(value: Any, place: str = "", depth: int = 0) -> Iterator[str]:
    """The places of mappings with tensors; of a mapping alone, what the names in it begin with."""
    entries = _entries(value)
    tensors = [name for name, part in entries.items() if isinstance(part, Tensor)]
    if tensors:
        firsts = dict.fromkeys(name.partition(".")[0] for name in tensors if "." in name)
        yield from [place] if place else firsts
    if depth < _DEEPEST:
        for name, part in entries.items():
            yield from _places(part, f"{place}.{name}" if place else name, depth + 1)


def _entries(value: Any) -> dict[str, Any]:
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    return {composed(str(name)): part for name, part in value.items()} if isinstance(value, dict) else {}
