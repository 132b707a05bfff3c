"""Files of a sparse head alone, for features that came from elsewhere: there is no network in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from decompose_cli.errors import InputError, first_few
from decompose_cli.models.checkpoint import Checkpoint, Metadata, write_checkpoint
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.fitting import check_description, take_decomposed_head
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.models.weights import read_named

FEATURES = "features"
"""Name of the network in the description of such a file."""
HEAD = "head"
"""Name of the head in such a file."""


def refuse_lone_head(checkpoint: Checkpoint) -> None:
    """Refuse a file of a head alone, where a network is needed.

    Raises:
        InputError: The file is one.
    """
    if _is_alone(checkpoint):
        raise InputError(
            f"{checkpoint.source} holds a head for features from elsewhere and no network, which this needs.",
            hint="'decompose validate -w FILE --features FEATURES' measures it.",
        )


def write_lone_head(
    path: Path,
    head: DecomposedLinear,
    record: SparseRecord,
    class_names: Sequence[str],
    feature_names: Sequence[str] | None = None,
) -> None:
    """Write a file of a head alone, whole or not at all; :func:`read_lone_head` reads it.

    Args:
        path: The file, which ends in ``.safetensors``.
        head: The sparse head, C classes and D features.
        record: The dense head that it is compared with, and the few values that its weights come from, if they do.
        class_names: Names of the C classes.
        feature_names: Names of the D features, if they have some.

    Raises:
        DecomposeError: The file cannot be written.
    """
    metadata = Metadata(
        model=FEATURES,
        num_classes=len(head.bias),
        class_names=list(class_names),
        feature_names=None if feature_names is None else list(feature_names),
    )
    state = {f"{HEAD}.{name}": value for name, value in head.state_dict().items()}
    write_checkpoint(path, state, metadata, record)


def read_lone_head(weights: str | Path, *, allow_download: bool = True) -> tuple[HeadTensors, Checkpoint]:
    """Read a file of a head alone; a note names classes that have their bias alone.

    Args:
        weights: Path or URL of the file.
        allow_download: Whether it may be downloaded.

    Returns:
        The head, of the kind ``decomposed``, with the dense head as its reference; and the file, with its description.

    Raises:
        InputError: The file cannot be read, holds a network, or its parts do not fit each other.
        DownloadError: The file cannot be fetched.
    """
    checkpoint = read_named(str(weights), allow_download=allow_download)
    if not _is_alone(checkpoint):
        raise InputError(
            f"{checkpoint.source} is no file of a head for features from elsewhere.",
            hint="A network makes its own features: measure it without a file of them.",
        )
    record, state = checkpoint.sparse, dict(checkpoint.state_dict)
    if record is None:
        raise InputError(f"{checkpoint.source} does not say how many features its head takes: sparse.* is missing.")
    module = take_decomposed_head(state, HEAD, record.num_features, checkpoint.source)
    if state:
        raise InputError(f"{checkpoint.source} holds more than a head: {first_few(state)}.")
    check_description(checkpoint, len(module.bias))
    names = checkpoint.metadata.feature_names if checkpoint.metadata is not None else None
    if names is not None and len(names) != module.num_features:
        raise InputError(f"{checkpoint.source} names {len(names)} features, but its head takes {module.num_features}.")
    checkpoint.say_bias_alone()
    head = HeadTensors(
        "decomposed",
        HEAD,
        module.weight.detach(),
        module.bias.detach(),
        module.num_features,
        module.indices,
        module.mask,
    )
    return record.joined(head, checkpoint.source), checkpoint


def _is_alone(checkpoint: Checkpoint) -> bool:
    return checkpoint.metadata is not None and checkpoint.metadata.model == FEATURES
