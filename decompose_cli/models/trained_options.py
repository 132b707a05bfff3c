"""The options that a network was trained with: what its weights say or show of them, and what was given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace

from decompose_cli.errors import InputError, param
from decompose_cli.messages import note, warn
from decompose_cli.models.checkpoint import Checkpoint
from decompose_cli.models.entry import ANY, ModelEntry, is_user_code
from decompose_cli.models.gate_entry import GATE_DETAILS
from decompose_cli.models.gate_kinds import GATES, NO_GATE


def as_trained(entry: ModelEntry, checkpoint: Checkpoint, given: Mapping[str, str]) -> ModelEntry:
    """The entry with the options that the weights say they were trained with, else with those given or shown."""
    metadata = checkpoint.metadata
    if metadata is not None and metadata.model == entry.name:
        try:
            trained = entry.configured(**(metadata.model_options or {}))
        except InputError as error:
            raise InputError(
                f"The description inside {checkpoint.source} does not fit: {error.sentence}", hint=error.advice
            ) from error
        return _checked(trained, given, may_differ=("afwd", "abkw"))
    if has_default_hash(entry, checkpoint):
        return _checked(entry, given)
    if metadata is not None and not is_user_code(metadata.model):
        with suppress(InputError):  # the weights name another network, which may have been built alike
            return entry.configured(**(metadata.model_options or {})).configured(**given)
    told = _as_given(entry.shown_by(checkpoint.state_dict), given, checkpoint)
    shown = {name: value for name, value in told.items() if name not in given}
    seen = {name: value for name, value in shown.items() if name not in entry.unseen}
    if seen:
        text = ", ".join(f"{name} {value!r}" for name, value in seen.items())
        note(f"The names in {checkpoint.source} are those of {entry.name} with {text}; it is loaded as that.")
    for name in shown:
        if name in entry.unseen:
            others = [value for value in entry.options[name] if value not in (shown[name], ANY)]
            note(
                f"No weight in {checkpoint.source} shows {name}: {shown[name]!r} is taken, as in published networks; "
                f"{param('model_options')} {name}={'|'.join(others) or 'VALUE'} takes another."
            )
    if "ecm" in shown:
        warn(
            f"{checkpoint.source} does not say which error compensation it was made with; {shown['ecm']} is assumed, "
            f"as the published commands do; {param('model_options')} norm_mode=online,ecm=... takes another."
        )
    configured = entry.configured(**shown, **given)
    published = entry.of_published_gates
    if "gate" in told and published is not None:
        configured = replace(configured, preprocessing=published)
        mean, std = (", ".join(map(str, values)) for values in (published.mean, published.std))
        note(f"Its images are normalised as those of the published gated networks: mean {mean}, std {std}.")
    taken = shown.get("gate")
    alike = [kind.name for kind in GATES.values() if kind.shown_by(checkpoint.state_dict)] if taken is not None else []
    if len(alike) > 1:
        different = " or ".join(name for name in alike if name != taken)
        warn(
            f"{checkpoint.source} does not say whether its gate is {taken} or {different}, which have the same "
            f"weights: {taken} is assumed, and {param('model_options')} gate=NAME takes another."
        )
    return configured


def _as_given(shown: dict[str, str], given: Mapping[str, str], checkpoint: Checkpoint) -> dict[str, str]:
    """The options that weights show, with the gate that was named, which has to have the same weights."""
    gate, named = shown.get("gate"), given.get("gate")
    if gate is None or named is None or named == gate:
        return shown
    if named not in GATES or not GATES[named].shown_by(checkpoint.state_dict):
        raise InputError(
            f"The weights in {checkpoint.source} are of gate {gate}, not {named}.", hint=f"Leave {param('gate')} out."
        )
    others = {name: value for name, value in shown.items() if name not in GATE_DETAILS}
    return {**others, "gate": named, **GATES[named].published_for(checkpoint.state_dict)}


def _checked(entry: ModelEntry, given: Mapping[str, str], *, may_differ: Collection[str] = ()) -> ModelEntry:
    """The entry of weights with the given options; refuse options that contradict the weights."""
    configured = entry.configured(**given)
    defaults = {"norm_mode": "batch", **{name: values[0] for name, values in entry.options.items()}}
    for name, value in given.items():
        trained = entry.chosen.get(name, defaults.get(name))
        if name not in may_differ and configured.chosen.get(name, defaults.get(name)) != trained:
            raise InputError(
                f"The weights were trained with {param(name)} {trained}, not {value}.",
                hint=f"To begin with a plain network, give it with {param('baseline')}."
                if (name, trained) == ("gate", NO_GATE)
                else f"Leave {param(name)} out.",
            )
    return configured


def has_default_hash(entry: ModelEntry, checkpoint: Checkpoint) -> bool:
    """Whether a file is the one that the registry names as default weights."""
    return entry.sha256 is not None and checkpoint.sha256.startswith(entry.sha256)
