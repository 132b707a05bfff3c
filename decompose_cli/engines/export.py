"""``export``: write the network of any weights to one file, for other programs or for this one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decompose_cli.datasets.registry import usual_preprocessing
from decompose_cli.errors import InputError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.seen import class_names_of
from decompose_cli.features.study import open_network
from decompose_cli.messages import note
from decompose_cli.models.backbones import no_head
from decompose_cli.models.checkpoint import Metadata
from decompose_cli.models.classifier import Classifier
from decompose_cli.models.read_back import check_read_back
from decompose_cli.preprocessing import known_fields
from decompose_cli.storage.files import sha256_of
from decompose_cli.training.export import SUFFIXES, Kind, check_export, export_network


@dataclass(frozen=True)
class Exported:
    """A network in a file.

    Attributes:
        file: The file.
        format: Its kind.
        sha256: SHA-256 of the file.
        model: Name of the network.
        weights: Where its weights were from.
        input_size: (height, width) of the images that it takes.
        num_classes: Number of its classes.
        is_decomposed: Whether each class has a head of its own features.
        error: How far logits of the file are from the network's on random images, as a share of the largest; None for
            safetensors, which is read back instead.
    """

    file: str
    format: Kind
    sha256: str
    model: str
    weights: str
    input_size: tuple[int, int]
    num_classes: int
    is_decomposed: bool
    error: float | None


def format_of(path: Path | None, given: str | None) -> Kind:
    """The kind of file to write: the given one, else that of the path's ending, else safetensors.

    Raises:
        InputError: There is no such kind, a package for it is missing, or the path ends as another kind does.
    """
    by_ending: Kind | None = None
    for known, suffix in SUFFIXES.items():
        if path is not None and path.name.endswith(suffix):
            by_ending = known
    if given is None and by_ending is None and path is not None:
        raise InputError(
            f"The ending of {path} does not say what to write.", hint=f"Give {param('format')} {'|'.join(SUFFIXES)}."
        )
    kind = check_export(given or by_ending or "safetensors", "format")
    if path is not None and by_ending != kind and (by_ending is not None or kind == "safetensors"):
        raise InputError(f"{path} cannot be of {param('format')} {kind}: it does not end in {SUFFIXES[kind]}.")
    return kind


def export(inputs: Inputs, path: Path, format: str | None = None) -> Exported:
    """Write the network of any weights, full, decomposed or sparse, to one file, whole or not at all.

    A checkpoint (``safetensors``) keeps the dense head and the few values of a sparse one, and class-specific gates;
    programs have no use for them. What is written is compared with the network.

    Args:
        inputs: The network; of the images only what its input is.
        path: The file; an existing one is replaced.
        format: ``onnx``, ``safetensors`` or ``torchscript``; by default what the ending of the path says.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        DecomposeError: The network cannot be exported, or the file not be written; nothing is left behind.
    """
    kind = format_of(path, format)
    classifier = open_network(inputs)
    checkpoint, usual = classifier.checkpoint, usual_preprocessing(classifier.entry.dataset)
    options = classifier.image_options, inputs.image_options()
    size = usual.overridden(*options).crop
    network = classifier.load(size)
    if classifier.lacks_head:
        raise no_head("export", classifier.name)
    if network.tensors.kind == "subspaces":
        raise InputError(
            f"The decomposed head in {classifier.weights_source} is without its indices, so it cannot be exported.",
            hint=f"'decompose finetune' with {param('indices')} makes a checkpoint that has them.",
        )
    sparse = checkpoint.sparse if checkpoint is not None else None
    if sparse is not None and kind != "safetensors":
        note(f"{kind} holds the network with its sparse head; the dense head and the few values stay behind.")
    error = export_network(
        network.module,
        size,
        path,
        kind,
        _described(classifier, network.tensors.num_classes, known_fields(options, usual)),
        sparse=sparse,
        gates=checkpoint.csg if checkpoint is not None else None,
    )
    if error is None:
        check_read_back(path, network.module, size)
    return Exported(
        str(path),
        kind,
        sha256_of(path),
        classifier.name,
        classifier.weights_source,
        size,
        network.tensors.num_classes,
        network.is_decomposed,
        error,
    )


def _described(classifier: Classifier, num_classes: int, images: dict[str, Any]) -> Metadata:
    """The description of the network, as far as its weights or the registry say what they are."""
    before = classifier.checkpoint.metadata if classifier.checkpoint is not None else None
    known = class_names_of(classifier)
    usual = classifier.entry.dataset if classifier.uses_default_weights else None
    more = {} if before is None else {name: getattr(before, name) for name in ("class_ids", "part", "class_map")}
    return Metadata(
        model=classifier.name,
        num_classes=num_classes,
        model_options=dict(classifier.entry.chosen) or None,
        class_names=list(known.names) if known is not None and len(known.names) == num_classes else None,
        dataset=(before.dataset if before is not None else None) or usual,
        command=before.command if before is not None else None,
        **more,
        **images,
    )
