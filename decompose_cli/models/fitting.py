"""Fit the weights of a file to a network: account for every key, and say in a sentence what does not fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from decompose_cli.errors import InputError, first_few, param
from decompose_cli.messages import note
from decompose_cli.models.averages import EXCHANGED, put_in_place, separated
from decompose_cli.models.checkpoint import Checkpoint, check_kind, kind_of
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.entry import DEFAULT_MODEL, ModelEntry, is_user_code, registered_models
from decompose_cli.models.names import covering, is_of_loss, plain_name, renamed, without_prefix
from decompose_cli.preprocessing import IMAGENET


def state_for(module: nn.Module, checkpoint: Checkpoint, entry: ModelEntry) -> dict[str, Tensor]:
    """The state dict in the names of the module, with all that reading took for something else put back."""
    state = {
        name: value for name, value in checkpoint.state_dict.items() if not name.startswith(entry.unread or ("\0",))
    }
    if len(state) < len(checkpoint.state_dict):
        note(f"{checkpoint.source}: {', '.join(entry.unread)} are heads that are not needed, and left out.")
    names = module.state_dict()
    if checkpoint.csg is not None and "csg" in names:
        state["csg"] = checkpoint.csg
    state = _in_names_of(module, state, checkpoint.source)
    if checkpoint.averages is None:
        return state
    averages = checkpoint.averages
    if isinstance(averages.tensors, Mapping):
        read = {name: value for name, value in averages.tensors.items() if not name.startswith(entry.unread or ("\0",))}
        averages = replace(averages, tensors=_in_names_of(module, read, f"{checkpoint.source}, {averages.place}"))
    return put_in_place(module, state, averages, checkpoint.source)


def _in_names_of(module: nn.Module, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights in the names of the module, without a prefix that it does not have, and averages among them.

    Raises:
        InputError: The file has the whole network under several prefixes.
    """
    names = module.state_dict().keys()
    found = _by_names(names, state, source)
    if found is not None:
        return found
    own = {name: value for name, value in state.items() if name in names or not is_of_loss(name)}
    if len(own) < len(state) and (found := _by_names(names, own, source)) is not None:
        _say_left_out(state.keys() - own.keys(), source)
        return found
    rest, averages = separated(state)
    if not averages:
        return _under_prefix(names, state, source)
    if not rest and len(averages) == 1:
        (only,) = averages
        note(f"{source} holds averaged weights only ({only.place}), which are taken.")
        assert isinstance(only.tensors, dict)
        return _in_names_of(module, without_prefix(only.tensors), source)
    raw = _in_names_of(module, rest, source)
    if not raw.keys() <= names:
        return state
    places = first_few(one.place for one in averages)
    how = f"{param('ema')} takes averaged ones"
    if any(one.place == EXCHANGED for one in averages):
        how = "either may be the averages, which mmcv exchanges when an epoch ends"
    note(f"{source} also holds other weights of this network ({places}); {how}.")
    return raw


def _by_names(names: Collection[str], state: dict[str, Tensor], source: str) -> dict[str, Tensor] | None:
    """The weights in the names of a network, where all have one, perhaps without a prefix that all have."""
    known = renamed(state, names)
    if known is not None:
        return known
    prefix = next(iter(state), "").split(".")[0] + "."
    inner = {name.removeprefix(prefix): value for name, value in state.items()}
    if all(name.startswith(prefix) for name in state) and not state.keys() & set(names):
        known = renamed(inner, names)
        if known is not None:
            note(f"{source}: the {prefix!r} that all names begin with was left off.")
            return known
    return None


def _under_prefix(names: Collection[str], state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights under the only prefix that has the whole network; all of them where no prefix has it."""
    found = covering(state, names)
    if len(found) > 1:
        raise InputError(
            f"{source} holds several networks of these names: {first_few(prefix[:-1] for prefix in found)}.",
            hint=f"{param('weights_key')} names the one that you mean.",
        )
    for prefix, whole in found.items():
        left = [name for name in state if not name.startswith(prefix)]
        if {plain_name(name) for name in left} & {plain_name(name) for name in names}:
            raise InputError(
                f"{source} holds this network under {prefix[:-1]}, and other weights of its names beside that "
                f"({first_few(sorted(left))}).",
                hint=f"{param('weights_key')} {prefix[:-1]} takes the former.",
            )
        note(f"{source}: of names with different beginnings, those with {prefix!r} are this network.")
        _say_left_out(left, source)
        return whole
    return state


def _say_left_out(names: Iterable[str], source: str) -> None:
    note(f"{source}: left out, as no part of this network: {first_few(sorted(names))}.")


def decomposed_head_name(state: dict[str, Tensor]) -> str | None:
    """Name of the module in whose place a state dict has a decomposed head, if it has one."""
    names = [name.removesuffix(".indices") for name in state if name.endswith(".indices")]
    return next((name for name in names if f"{name}.mask" in state), None)


def take_decomposed_head(state: dict[str, Tensor], name: str, num_features: int, source: str) -> DecomposedLinear:
    """Take a decomposed head (``weight``, ``bias``, ``indices``, ``mask``) out of a state dict.

    Args:
        state: The state dict, which loses these entries.
        name: Name of the head in it.
        num_features: Number of features D that enter the head.
        source: The file, for messages.

    Raises:
        InputError: The parts of the head do not fit each other or the network.
    """
    parts = {part: state.pop(f"{name}.{part}", None) for part in ("weight", "bias", "indices", "mask")}
    weight, bias, indices, mask = parts["weight"], parts["bias"], parts["indices"], parts["mask"]
    if weight is None or bias is None or indices is None or mask is None:
        raise InputError(f"{source}: the decomposed head lacks its weight, bias, indices or mask.")
    for part, value in (("weight", weight), ("bias", bias)):
        check_kind(value, "real", f"{source}: {name}.{part}")
    fits = (
        weight.ndim == 2
        and weight.shape[1] > 0
        and weight.shape == indices.shape == mask.shape
        and bias.shape == weight.shape[:1]
        and indices.dtype == torch.int64
        and mask.dtype == torch.bool
        and bool(mask.all(1).any())
        and not bool((mask[:, 1:] & ~mask[:, :-1]).any())  # padding is at the end
        and bool((indices >= 0).all())
        and bool((indices < num_features).all())
    )
    if not fits:
        raise InputError(f"{source}: the parts of the decomposed head do not fit each other or the network.")
    rows = [[int(i) for i in row[keep]] for row, keep in zip(indices, mask, strict=True)]
    module = DecomposedLinear(rows, num_features)
    module.load_state_dict({"weight": weight, "bias": bias, "indices": indices, "mask": mask})
    return module


def check_description(checkpoint: Checkpoint, num_classes: int) -> None:
    """Refuse a file that says it has another number of classes than its head.

    Raises:
        InputError: Its description says so.
    """
    metadata = checkpoint.metadata
    if metadata is None:
        return
    counts = {metadata.num_classes, len(metadata.class_names or range(num_classes))}
    if counts != {num_classes}:
        raise InputError(
            f"{checkpoint.source} says that it has {max(counts - {num_classes})} classes, but its head has "
            f"{num_classes}."
        )
    if metadata.class_ids is not None and len(metadata.class_ids) != num_classes:
        raise InputError(f"{checkpoint.source} has {len(metadata.class_ids)} ids of its {num_classes} classes.")


def classes_in(state: dict[str, Tensor], module: nn.Module, built: int, decomposed: str | None) -> int:
    """The number of classes of a state dict, where the network was built for another one, else that one.

    Args:
        state: The state dict.
        module: The network, whose parameters differ from the state dict in the number of classes at most.
        built: The number of classes that the network was built for.
        decomposed: Name of the decomposed head in the state dict, if it has one.
    """
    if decomposed is not None:
        bias = state.get(f"{decomposed}.bias")
        return len(bias) if bias is not None and bias.ndim == 1 else built
    pairs = [(value.shape, state[name].shape) for name, value in module.state_dict().items() if name in state]
    weights = [(ours, theirs) for ours, theirs in pairs if len(ours) >= 2 and len(theirs) == len(ours)]
    others = {theirs[0] for ours, theirs in weights if ours[0] == built != theirs[0] and ours[1:] == theirs[1:]}
    return others.pop() if len(others) == 1 else built


def load_state(
    module: nn.Module, state: dict[str, Tensor], checkpoint: Checkpoint, model: str, without: str | None = None
) -> None:
    """Copy a state dict into the module; every key has to match, but for counters that inference never reads.

    Args:
        module: Module of the network.
        state: State dict from :func:`state_for`.
        checkpoint: Checkpoint that holds the weights, for messages.
        model: Name of the network, for messages.
        without: Prefix of parameters of the module that the state dict does not hold.

    Raises:
        InputError: Something is missing, not expected or of another shape; the hint names networks that would fit.
    """
    expected = {
        name: value for name, value in module.state_dict().items() if without is None or not name.startswith(without)
    }
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    misshaped = [name for name in expected if name in state and expected[name].shape != state[name].shape]
    if missing or unexpected or misshaped:
        raise _mismatch(checkpoint, model, expected, state, missing, unexpected, misshaped)
    for name, value in expected.items():
        is_counter = name.endswith("num_batches_tracked")  # which a cast of all tensors has made real in some files
        if name in state and (not is_counter or kind_of(state[name]) in ("complex", "quantised")):
            check_kind(state[name], kind_of(value), f"{checkpoint.source}: {name}")
    module.load_state_dict(state, strict=False)


def _mismatch(
    checkpoint: Checkpoint,
    model: str,
    expected: dict[str, Tensor],
    state: dict[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    misshaped: list[str],
) -> InputError:
    shapes = [f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}" for name in misshaped]
    groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    details = "; ".join(f"{len(names)} {what} ({first_few(names)})" for what, names in groups if names)
    described = checkpoint.metadata.model if checkpoint.metadata is not None else model
    source = checkpoint.source
    fitting = [name for name in _fitting_models(state) if name != model]
    hint = "'decompose models' lists the known networks."
    if described != model:
        hint = f"The file says that it belongs to {described}."
    elif fitting:
        hint = f"These weights fit {' or '.join(fitting)}."
    elif misshaped and len(misshaped) == sum(state[name].dim() == 3 for name in misshaped) and not missing + unexpected:
        hint = (
            "The network has weights for each position in an image: give the size that it was trained on with "
            f"{param('input_size')}."
        )
    elif missing and not unexpected + misshaped and all("bn" in name or "norm" in name for name in missing):
        command = f"train {model} --evaluate -w {source} --norm-mode MODE"
        hint = f"If it was trained with another normalisation than batch norm, say so: 'decompose {command}'."
    elif is_user_code(model):
        hint = f"Is this file of the network that {model} returns?"
    return InputError(f"{source} does not fit {model}: {details}.", hint=hint)


def _fitting_models(state: dict[str, Tensor]) -> list[str]:
    """Registered networks whose parameters have the names and shapes of this state dict, whatever the classes."""
    wanted = {name: value.shape[1:] for name, value in state.items() if not name.endswith("num_batches_tracked")}
    total = sum(value.numel() for value in state.values())
    names: list[str] = []
    for entry in registered_models():
        # Building a network of quite another size could not end in a match, and the large ones take seconds.
        if entry.name == DEFAULT_MODEL or entry.parameters is None or not 0.5 < total / entry.parameters < 2:
            continue
        try:
            as_trained = entry.configured(**entry.shown_by(state))
        except InputError:  # the network has no bottlenecks, say
            continue
        with torch.device("meta"):
            module = as_trained.make(entry.num_classes, (entry.preprocessing or IMAGENET).crop)
        shapes = {k: v.shape[1:] for k, v in module.state_dict().items()}
        if {k: v for k, v in shapes.items() if not k.endswith("num_batches_tracked")} == wanted:
            names.append(entry.name)
    return names
