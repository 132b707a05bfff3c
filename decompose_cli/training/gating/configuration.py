"""The configuration of a gated network's training, settled from what was given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from decompose_cli.datasets.label_noise import check_share
from decompose_cli.errors import InputError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.messages import note
from decompose_cli.models.classifier import find_entry
from decompose_cli.models.entry import ModelEntry
from decompose_cli.models.gate_kinds import DEFAULT_GATE, NO_GATE
from decompose_cli.models.weights import RANDOM
from decompose_cli.training.configure import DEFAULT_DATASET, DEFAULT_NETWORK, configure
from decompose_cli.training.gating.report import check_skipping
from decompose_cli.training.gating.settings import GateSchedule, GateSettings, Start
from decompose_cli.training.session import Request
from decompose_cli.training.settings import Settings
from decompose_cli.training.setup import TrainConfig

PUBLISHED_DEPTH = 110
_DEFAULT_EPOCHS = 3


class TrainGateConfig(TrainConfig):
    """Fields that do not apply to the gate are null; ``init`` is null where training begins with gated weights."""

    penalty: Annotated[float | None, Field(alias="lambda")]
    lr_gate: float | None
    gate_schedule: GateSchedule | None
    gate_iters: int | None
    init: Start | None
    baseline: str | None
    baseline_weights: str | None
    label_noise: float | None
    skip_below: float | None


def resolve_network(inputs: Inputs, depth: int | None) -> Inputs:
    """The network that ``MODEL``, ``--depth`` and the data set name together.

    Raises:
        InputError: The names contradict each other, or there is no such network.
    """
    if inputs.model is not None:
        known = find_entry(inputs.model).architecture.get("depth")
        if depth is not None and known is None:
            raise InputError(
                f"{inputs.model} is no CIFAR ResNet, to which {param('depth')} belongs; leave one of them out."
            )
        if depth is not None and depth != known:
            raise InputError(f"{inputs.model} has a depth of {known}, not {depth}; leave one of them out.")
        return inputs
    if depth is None and (inputs.weights is not None or inputs.dataset in (None, DEFAULT_DATASET)):
        return inputs
    name = f"resnet{depth or PUBLISHED_DEPTH}"
    if depth is not None and find_entry(name).architecture.get("family") != "cifar_resnet":
        raise InputError(f"There is no gated network of depth {depth}: {name} is the one of torchvision.")
    if depth is None:
        note(f"No model was named: training {name}, as published.")
    return dataclasses.replace(inputs, model=name)


def with_defaults(request: Request) -> Request:
    """The request, with what comes with decompose where no network and perhaps no images were named: a first look."""
    inputs = request.inputs
    if inputs.model is not None or inputs.weights is not None:
        return request
    is_first_look = inputs.dataset is None
    inputs = dataclasses.replace(inputs, model=DEFAULT_NETWORK, dataset=inputs.dataset or DEFAULT_DATASET)
    note(f"No model was named: training {inputs.model} on {inputs.dataset}.")
    overrides = dict(request.overrides)
    if is_first_look and all(overrides.get(name) is None for name in ("epochs", "iterations", "scale_epochs")):
        note(f"For a first look it is trained for {_DEFAULT_EPOCHS} epochs; {param('epochs')} says otherwise.")
        overrides["epochs"] = _DEFAULT_EPOCHS
    return dataclasses.replace(request, inputs=inputs, overrides=overrides)


def configure_gates(
    inputs: Inputs,
    overrides: Mapping[str, Any],
    recipe: str | None,
    gates: GateSettings,
    open_baseline: Callable[[ModelEntry], object],
) -> tuple[Inputs, Settings, dict[str, Any]]:
    """Settle what is left open, as :func:`decompose_cli.training.configure.configure` does, and the gate.

    Args:
        inputs: Network and images, as given.
        overrides: Settings that were given, by name.
        recipe: Preset of the settings; None for the one that suits network and images.
        gates: The gate, as given.
        open_baseline: Opens the baseline that a network begins with, if any.

    Raises:
        InputError: Something given cannot be used, or does not go together.
    """
    options = gates.network_options()
    is_new = inputs.weights in (None, RANDOM)
    if is_new:
        options.setdefault("gate", DEFAULT_GATE)
    elif gates.baseline is not None or gates.init is not None:
        name = "init" if gates.baseline is None else "baseline"
        raise InputError(f"{param(name)} and {param('weights')} both say what to begin with; give one of them.")
    if gates.label_noise is not None:
        check_share(gates.label_noise)
    init = gates.init or ("scratch" if gates.baseline is None else "baseline")
    if init == "baseline" and gates.baseline is None:
        raise InputError(f"{param('init')} baseline needs {param('baseline')} CHECKPOINT.")
    if init == "scratch" and gates.baseline is not None:
        raise InputError(f"{param('init')} scratch does not go together with {param('baseline')}.")

    def check(entry: ModelEntry) -> None:
        gate = entry.chosen.get("gate", NO_GATE)
        if gate == NO_GATE:
            raise InputError(
                f"{inputs.weights} has no gate.",
                hint=f"To begin with a plain network, give it with {param('baseline')}.",
            )
        gates.completed(gate)  # refuses what the gate has no use for
        check_skipping(gate, gates.skip_below)
        open_baseline(entry)

    filled, settings, choices = configure(inputs, overrides, recipe, options, check=check)
    completed = gates.completed(choices["model_options"]["gate"])
    own = {"init": init if is_new else None, "baseline_weights": None}
    return filled, settings, {**choices, **completed.as_configuration(), **own}
