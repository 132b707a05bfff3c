"""Averaged weights beside raw ones: which they are by name, and how those without the network's names get them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from decompose_cli.errors import InputError, first_few, param

_AVERAGED = {"ema", "avg", "average", "averaged", "averages", "polyak", "shadow", "swa", "target", "teacher"}
_NOT_AVERAGED = {"backup", "collected", "current", "optim", "optimizer", "optimizers", "original", "raw", "saved"}
COUNTERS = {"decay", "initted", "n_averaged", "num_updates", "step", "steps"}
"""What the classes that average keep beside the weights."""
EXCHANGED = "ema_*"
"""The buffers of mmcv's hook, which exchanges them with the weights when an epoch ends."""


@dataclass(frozen=True, eq=False)
class Averages:
    """Averaged weights that need the network, or the raw weights, to become a state dict.

    Attributes:
        place: Where they stand in the file.
        tensors: By name, perhaps only parameters and perhaps without the dots of names; or, without names, in the order
            of ``parameters()`` or of the state dict.
    """

    place: str
    tensors: Mapping[str, Tensor] | tuple[Tensor, ...]

    def named(self) -> dict[str, Tensor]:
        """The tensors by their place in the file, for messages."""
        parts = self.tensors.items() if isinstance(self.tensors, Mapping) else enumerate(self.tensors)
        return {f"{self.place}.{part}": value for part, value in parts}


def words_of(place: str) -> set[str]:
    """The words of a name: ``callbacks.ModelEMA_weights`` has callbacks, model, ema and weights."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", place)}


def is_average(place: str) -> bool:
    """Whether weights are averages by the name of the place where they stand."""
    words = words_of(place)
    return bool(words & _AVERAGED) and not words & _NOT_AVERAGED


def separated(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Averages]]:
    """Divide a state dict that has averages among its names, as ``ema_model.conv.weight`` beside ``model.conv.weight``.

    Returns:
        The other weights, and the averages; if there are none, all weights.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for name, value in state.items():
        first, dot, inner = name.partition(".")
        if dot and is_average(first):
            groups.setdefault(first, {})[inner] = value
        elif not dot and name.startswith("ema_"):
            groups.setdefault(EXCHANGED, {})[name.removeprefix("ema_")] = value
        else:
            rest[name] = value
    if not groups:
        return rest, []
    return (
        {name: value for name, value in rest.items() if name not in COUNTERS},
        [Averages(place, group) for place, group in groups.items()],
    )


def are_of(taken: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    """Whether all these tensors are of the names, but for their dots, and shapes of those that are taken."""
    found = _matched(taken, tensors)
    return bool(found) and all(
        name is not None and tensors[given].shape == taken[name].shape for given, name in found.items()
    )


def seem_whole(taken: Mapping[str, Tensor], averages: Averages) -> bool:
    """Whether these seem to be of all parameters; :func:`put_in_place`, which knows the network, is sure.

    Names of parameters end with weight or bias in nearly all networks, and those of buffers in none. A parameter that
    has several of them has one average.
    """
    groups: dict[int, set[str]] = {}
    for name, value in taken.items():
        if name.endswith(("weight", "bias")):
            groups.setdefault(value.data_ptr(), set()).add(name)
    if isinstance(averages.tensors, tuple):
        shapes, known = (Counter(value.shape for value in part) for part in (averages.tensors, taken.values()))
        return len(groups) <= len(averages.tensors) and shapes <= known
    found = set(_matched(taken, averages.tensors).values())
    return all(group & found for group in groups.values())


def put_in_place(module: nn.Module, state: dict[str, Tensor], averages: Averages, source: str) -> dict[str, Tensor]:
    """Put averages in the place of the raw parameters; buffers that are not among them stay as they are.

    Args:
        module: The network, for the order of its parameters and for those that have several names.
        state: The raw weights, in the names of the network.
        averages: The averages.
        source: The file, for messages.

    Raises:
        InputError: A parameter has no average, or their number, names or shapes do not fit.
    """
    same: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        same.setdefault(id(parameter), []).append(name)
    parameters = list(same.values())
    if isinstance(averages.tensors, tuple):
        found = _by_order(state, parameters, averages.tensors)
        if found is None:
            raise InputError(
                f"{source}: {averages.place} has no names, and its {len(averages.tensors)} tensors are not of the "
                f"number and shapes of the network's {len(parameters)} parameters in their order.",
                hint=f"Without {param('ema')} the raw weights are taken.",
            )
        return {**state, **found}
    found = {name or given: averages.tensors[given] for given, name in _matched(state, averages.tensors).items()}
    for group in parameters:
        known = next((found[name] for name in group if name in found), None)
        found |= {} if known is None else dict.fromkeys(group, known)
    missing = [group[0] for group in parameters if group[0] not in found]
    strange = [name for name, value in found.items() if name not in state or value.shape != state[name].shape]
    if missing or strange:
        what = f"lacks {first_few(missing)}" if missing else f"has other names or shapes ({first_few(strange)})"
        raise InputError(
            f"{source}: the averages in {averages.place} do not fit the network: {averages.place} {what}.",
            hint=f"Without {param('ema')} the raw weights are taken.",
        )
    return {**state, **found}


def _by_order(
    state: Mapping[str, Tensor], parameters: list[list[str]], tensors: tuple[Tensor, ...]
) -> dict[str, Tensor] | None:
    for groups in (parameters, [[name] for name in state]):
        shapes = [state[group[0]].shape if group[0] in state else None for group in groups]
        if shapes == [value.shape for value in tensors]:
            return {name: value for group, value in zip(groups, tensors, strict=True) for name in group}
    return None


def _matched(names: Iterable[str], given: Iterable[str]) -> dict[str, str | None]:
    """For names of averages those of the network: the same ones, or else those that are alike but for their dots.

    None stands for those that are like no name, or like several, and for several that are like one; counters are left
    out.
    """
    names, given = set(names), list(given)
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_plain(name), []).append(name)
    others = [name for name in given if name not in names and name not in COUNTERS]
    times = Counter(map(_plain, others))
    found: dict[str, str | None] = {name: name for name in given if name in names}
    for name in others:
        fitting = alike.get(_plain(name), [])
        is_clear = len(fitting) == times[_plain(name)] == 1 and fitting[0] not in found
        found[name] = fitting[0] if is_clear else None
    return found


def _plain(name: str) -> str:
    """A name without what names of buffers cannot have, or have in its place."""
    return re.sub("[._]", "", name)
