"""Files of a sparse head alone, for features that came from elsewhere: there is no network in them."""

from __future__ import annotations

from pathlib import Path

from decompose_cli.errors import InputError, first_few
from decompose_cli.models.checkpoint import Checkpoint, read_checkpoint
from decompose_cli.models.fitting import check_description, take_decomposed_head
from decompose_cli.models.network import HeadTensors

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
            hint="'decompose validate' measures it on a file of such features.",
        )


def read_lone_head(path: Path, source: str | None = None) -> tuple[HeadTensors, Checkpoint]:
    """Read a file of a head alone; a note names classes that have their bias alone.

    Args:
        path: The file.
        source: Name of the file in messages; the path by default.

    Returns:
        The head, of the kind ``decomposed``, with the dense head as its reference; and the file, with its description.

    Raises:
        InputError: The file cannot be read, holds a network, or its parts do not fit each other.
    """
    checkpoint = read_checkpoint(path, source)
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
