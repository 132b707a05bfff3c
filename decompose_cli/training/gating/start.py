"""The network and the labels that a gated network begins to learn with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from decompose_cli.datasets.label_noise import randomise_labels
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.messages import note
from decompose_cli.models.classifier import Classifier, open_classifier
from decompose_cli.models.entry import ModelEntry
from decompose_cli.models.gate_kinds import gate_shown_by
from decompose_cli.models.gated_resnet import GatedNetwork, from_plain
from decompose_cli.models.weights import DEFAULT, RANDOM, read_weights
from decompose_cli.preprocessing import Size
from decompose_cli.storage.csv_text import csv_text
from decompose_cli.training.data import TrainingData


def open_baseline(weights: str, entry: ModelEntry) -> Classifier:
    """Open a plain network whose weights a gated one can begin with.

    Args:
        weights: File or URL of the plain network's weights.
        entry: The gated network.

    Raises:
        InputError: The weights cannot be read, or their depth, blocks, normalisation or shortcuts do not fit.
        DownloadError: The weights cannot be fetched.
    """
    if weights in (RANDOM, DEFAULT):
        raise InputError(
            f"{param('baseline')} {weights} is no file or URL of weights of a network with projection shortcuts."
        )
    command = f"decompose train {entry.name} --shortcut projection --recipe soft-gates"
    hint = f"Train one that fits, on the same images, with: {command}"
    checkpoint = read_weights(entry, weights)
    assert checkpoint is not None
    source, state, metadata = checkpoint.source, checkpoint.state_dict, checkpoint.metadata
    if gate_shown_by(state) is not None:
        raise InputError(f"{source} has gates already.", hint=f"To begin with it: {param('weights')} {weights}")
    if metadata is not None and metadata.model != entry.name:
        raise InputError(
            f"The baseline {source} is of {metadata.model}, and the gated network is {entry.name}.", hint=hint
        )
    units, own = _units(state), entry.architecture["depth"]
    layers = 9 if "layer1.0.conv3.weight" in state else 6
    if units and layers * units + 2 != own:
        raise InputError(
            f"The baseline {source} has a depth of {layers * units + 2}, and the gated network of {own}.", hint=hint
        )
    plain = open_classifier(entry.name, weights)
    if plain.entry.chosen.get("shortcut", plain.entry.options["shortcut"][0]) == "identity":
        raise InputError(
            f"The baseline {source} has identity shortcuts, and gated networks have projections, so its weights do not "
            "fit.",
            hint=hint,
        )
    if plain.entry.norm.mode != "batch":
        raise InputError(f"The baseline {source} has {plain.entry.norm.mode} norm, and gated networks have batch norm.")
    usual = entry.options["block"][0]
    blocks = plain.entry.chosen.get("block", usual), entry.chosen.get("block", usual)
    if blocks[0] != blocks[1]:
        raise InputError(
            f"The baseline {source} is made of {blocks[0]} blocks, and the gated network of {blocks[1]} ones."
        )
    return plain


def _units(state: dict[str, Tensor]) -> int:
    """The number of units in the last stage."""
    numbers = [name.split(".")[1] for name in state if name.startswith("layer3.")]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def begin_with(network: GatedNetwork, baseline: Classifier, num_classes: int, size: Size) -> None:
    """Copy the weights of a plain network into a gated one; its gates stay as they are.

    Raises:
        InputError: The baseline has other classes, or its weights do not fit.
    """
    plain = baseline.load(size)
    if plain.tensors.kind != "dense":
        raise InputError(
            f"The baseline {baseline.weights_source} has a decomposed head, and a gated network a full one."
        )
    if plain.tensors.num_classes != num_classes:
        raise InputError(
            f"The baseline {baseline.weights_source} has {plain.tensors.num_classes} classes, and the images have "
            f"{num_classes}."
        )
    missing, unexpected = network.load_state_dict(from_plain(plain.module.state_dict(), network), strict=False)
    gates = {id(gate) for gate in network.gates()}
    of_gates = tuple(f"{name}." for name, part in network.named_modules() if id(part) in gates)
    strange = [name for name in missing if not name.startswith(of_gates)]
    if strange or unexpected:
        raise InputError(f"The baseline {baseline.weights_source} does not fit: {first_few([*strange, *unexpected])}.")


def with_label_noise(data: TrainingData, share: float | None, seed: int) -> tuple[TrainingData, Tensor | None]:
    """Give a share of the images that are trained on other labels; the labels of held-out images stay right.

    Returns:
        The images, and the numbers of the changed ones; without a share the images as they are, and None.

    Raises:
        InputError: The share cannot be used.
    """
    if share is None:
        return data, None
    labels, changed = randomise_labels(data.labels, data.indices, share, len(data.class_names), seed)
    note(f"Label noise: {len(changed):,} of {len(data.indices):,} training images get another label.")
    return dataclasses.replace(data, labels=labels), changed


def label_noise_csv(
    changed: Tensor, before: Tensor, after: Tensor, names: Sequence[str], files: Sequence[str] | None
) -> str:
    """List the images with other labels: ``image,label,original_label`` by number, names of both classes, files."""
    columns = ["image", "label", "original_label", "label_name", "original_label_name", "file"]
    rows = [
        [image, new, old, names[new], names[old], "" if files is None else files[image]]
        for image, new, old in zip(changed.tolist(), after[changed].tolist(), before[changed].tolist(), strict=True)
    ]
    return csv_text(columns, rows)
