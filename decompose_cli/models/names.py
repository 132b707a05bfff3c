"""Names of weights: what programs that wrap a network add to them, and how names of a file find those of a network."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping

from torch import Tensor

from decompose_cli.models.averages import words_of

_COMPILED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What torch itself puts into names, anywhere: it is the name of no layer."""
_WRAPPING = ("module", "model", "net")
"""What DataParallel, Lightning and programs of many people put before names, which may be the name of a layer too."""
_COUNTERS = ("n_averaged", "steps")
"""What ``torch.optim.swa_utils.AveragedModel`` and mmengine's averages keep beside the network."""
_LOSSES = {"criterion", "loss"}


def is_of_loss(name: str) -> bool:
    """Whether a weight is a loss's by the first part of its name: ``criterion.weight``, ``loss_fn.weight``."""
    first, dot, _ = name.partition(".")
    return bool(dot) and bool(words_of(first) & _LOSSES)


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that all names but those of losses have, again and again; one that only some have is a layer's.

    ``_orig_mod.`` and its like are removed from within names too, and so is a counter of averages, where all else
    begins with ``module.``.
    """
    inner = {without_parts(name, _COMPILED): value for name, value in state.items()}
    state = inner if len(inner) == len(state) else dict(state)
    own = [name for name in state if not is_of_loss(name)]
    if any(name in _COUNTERS for name in own) and all(name.startswith("module.") or name in _COUNTERS for name in own):
        return without_prefix({name: value for name, value in state.items() if name not in _COUNTERS})
    for word in _WRAPPING:
        if own and all(name.startswith(f"{word}.") for name in own):
            return without_prefix({name.removeprefix(f"{word}."): value for name, value in state.items()})
    return state


def without_parts(name: str, parts: Collection[str]) -> str:
    """A name without some of the parts between its dots."""
    return ".".join(part for part in name.split(".") if part not in parts)


def renamed(state: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor] | None:
    """The weights by the names of a network, which are the same but for what wraps, and for how accents are written.

    Args:
        state: Weights of a file.
        names: Names of the network.

    Returns:
        All weights; None where one has no such name, or where two names would be one.
    """
    if state.keys() <= set(names):
        return dict(state)
    known = {plain_name(name): name for name in names}
    given = {plain_name(name): value for name, value in state.items()}
    if len(known) < len(names) or len(given) < len(state) or not given.keys() <= known.keys():
        return None
    return {known[name]: value for name, value in given.items()}


def plain_name(name: str) -> str:
    """A name without what wraps a network, and with its accents written in one way."""
    return without_parts(composed(name), (*_COMPILED, *_WRAPPING))


def composed(name: str) -> str:
    """A name with its accents written in one way (NFC): the same letters may be one sign or two."""
    return unicodedata.normalize("NFC", name)


def covering(state: Mapping[str, Tensor], names: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """The weights under each prefix that are the whole network, by the prefix, and by the names of the network.

    Args:
        state: Weights of a file, which has others beside them.
        names: Names of the network.
    """
    needed = {name for name in names if not name.endswith("num_batches_tracked")}
    found: dict[str, dict[str, Tensor]] = {}
    for prefix in dict.fromkeys(name[: place + 1] for name in state for place, sign in enumerate(name) if sign == "."):
        inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if len(inner) < len(needed):
            continue
        whole = renamed(inner, names)
        if whole is not None and needed <= whole.keys():
            found[prefix] = whole
    return {
        prefix: whole
        for prefix, whole in found.items()
        if not any(prefix != other and prefix.startswith(other) for other in found)
    }
