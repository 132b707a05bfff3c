"""What is left open about a training, settled before anything is trained: network, images, recipe, settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from decompose_cli.errors import InputError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.messages import note
from decompose_cli.models.classifier import find_entry
from decompose_cli.models.entry import ModelEntry
from decompose_cli.training.data import open_splits
from decompose_cli.training.recipes import (
    LARGEST_SMALL_SIDE,
    check_for_any_images,
    complete_norm,
    default_recipe,
    resolve,
)
from decompose_cli.training.settings import Settings
from decompose_cli.training.setup import open_weights, seen_by
from decompose_cli.training.transfer import Transfer, check_transfer

DEFAULT_NETWORK, DEFAULT_DATASET = "resnet20", "digits"


class _Plan(NamedTuple):
    """How a network is trained: with which of its options, by which recipe."""

    entry: ModelEntry
    recipe: str
    settings: Settings


def configure(
    inputs: Inputs,
    overrides: Mapping[str, Any],
    recipe: str | None,
    model_options: Mapping[str, str],
    transfer: Transfer | None = None,
    check: Callable[[ModelEntry], None] = lambda entry: None,
) -> tuple[Inputs, Settings, dict[str, Any]]:
    """Settle what is left open: network, images, recipe.

    Args:
        inputs: Network and images, as given.
        overrides: Settings that were given, by name.
        recipe: Preset of the settings; None for the one that suits network and images.
        model_options: Options of the network.
        transfer: How training goes on from given weights, for a command that offers it.
        check: Refuses a network that the command does not train, with its options.

    Returns:
        Complete inputs, settings, and what else decides what is trained, by name.

    Raises:
        InputError: Something given cannot be used. What would be wrong with images of any size is said before they are
            opened, and perhaps fetched.
    """
    model, dataset = inputs.model, inputs.dataset
    if model is None and inputs.weights is None:
        model, dataset = DEFAULT_NETWORK, dataset or DEFAULT_DATASET
        note(f"No model was named: training {model} on {dataset}.")
    checkpoint, started = None, None
    if overrides.get("start_epoch") and inputs.weights is None:
        raise InputError(
            f"{param('start_epoch')} says how long {param('weights')} have been trained; without weights it means "
            "nothing."
        )
    is_transfer = transfer is not None and bool(transfer.choices())
    if not is_transfer:
        inputs = inputs.without(("head", "use_cache"), ": the whole network is trained")
    going_on = {} if transfer is None else {**dataclasses.asdict(transfer), "only": transfer.only or "all"}
    check_transfer(going_on, inputs.weights)
    if inputs.weights is not None:
        classifier = open_weights(inputs, model_options, 0)
        model, entry, started = classifier.name, classifier.entry, classifier.weights_sha256
        checkpoint = classifier.checkpoint
    else:
        assert model is not None
        entry = find_entry(model, allow_download=inputs.allow_download)
    described = checkpoint.metadata if checkpoint is not None else None
    dataset = dataset or (described.dataset if described is not None else None) or entry.dataset
    if dataset is None:
        raise InputError(f"It is not known which images {model} is for.", hint=f"Say which with {param('dataset')}.")

    def plan(large_images: bool) -> _Plan:
        options = dict(model_options)
        if described is None:  # the weights do not say how their normalisation was made
            options = complete_norm({"norm_mode": entry.norm.mode, **options}, dataset, large_images=large_images)
        made = entry.configured(**options)
        check(made)
        own = default_recipe(model, dataset, large_images=large_images, options={**made.chosen, **model_options})
        chosen = recipe or ("transfer" if is_transfer else own)
        depth = made.architecture.get("depth")
        settings = resolve(chosen, overrides, large_images=large_images, depth=depth, dataset=dataset)
        return _Plan(made, chosen, settings)

    check_for_any_images(plan)
    train, _ = open_splits(inputs, dataset)
    entry, chosen, settings = plan(max(seen_by(inputs, entry, train).crop) > LARGEST_SMALL_SIDE)
    filled = dataclasses.replace(inputs, model=model, dataset=dataset)
    return (
        filled,
        settings,
        {
            "recipe": chosen,
            "model_options": dict(entry.chosen) or None,
            "training_images": train.fingerprint(),
            "starting_weights": started,
            **going_on,
        },
    )
