"""What ``compare`` compares: index sets and heads, from files or from memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decompose_cli.decomposition.heads import own_index_set
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.checkpoint import Checkpoint, read_checkpoint
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.entry import is_user_code
from decompose_cli.models.lone_head import FEATURES, read_lone_head

FULL = "full head"
"""What the full head is called beside the heads that were given."""


@dataclass(frozen=True)
class Origin:
    """What a file says of the network and the images that it is about.

    Attributes:
        model: Name of the network.
        sha256: Hash of its weights.
        options: Options of :class:`.features.inputs.Inputs` that name both.
        images: Name, split and fingerprint of the images that were measured; None where none were.
    """

    model: str
    sha256: str
    options: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class TrainedRun:
    """The run of a training that the network of an entry is of.

    Attributes:
        training: What results call the training, which may have several runs.
        document: Its document.
        seed: Seed of the run.
        command: The command that made it.
        checkpoint: ``best`` or ``last``.
        conditions: Network, recipe and settings, by option.
        images: The images that it was trained on, named as from here; None where those that were measured are known.
        fingerprint: Of these images.
    """

    training: str
    document: str
    seed: int
    command: str
    checkpoint: str
    conditions: Mapping[str, Any]
    images: str | None = None
    fingerprint: str | None = None

    @property
    def is_fine_tuning(self) -> bool:
        """Whether it went on from a network; its seed then means another thing than that of the network's training."""
        return self.command == "finetune"


@dataclass(frozen=True)
class Entry:
    """One of what is compared.

    With a ``checkpoint``, or ``inputs``, it is the head that this network computes with; with a ``head`` that one;
    otherwise with an index set the full head cut to it, and without one the head of the network of ``origin``.

    Attributes:
        name: What results call it.
        source: The file.
        sha256: Hash of the file.
        index_set: The features of each class; beside a checkpoint those that its head must have.
        origin: What the file says of network and images.
        checkpoint: A file of weights.
        inputs: A network in memory, over the same images.
        head: A head in memory.
        run: The run of a training that the network is of.
        missing: Why no head can be measured, as the end of a sentence about the entry; None where one can.
    """

    name: str
    source: str
    sha256: str | None = None
    index_set: IndexSet | None = None
    origin: Origin | None = None
    checkpoint: Checkpoint | None = None
    inputs: Inputs | None = None
    head: DecomposedLinear | None = None
    run: TrainedRun | None = None
    missing: str | None = None

    def __str__(self) -> str:
        """As it would be typed."""
        return f"{self.name}={self.source}"

    @property
    def described(self) -> bool:
        """Whether the checkpoint says which network it belongs to, and the program knows that one."""
        metadata = self.checkpoint.metadata if self.checkpoint is not None else None
        return metadata is not None and not is_user_code(metadata.model)


def entry_of_checkpoint(name: str, path: Path, origin: Origin | None = None, expected: IndexSet | None = None) -> Entry:
    """The entry of a checkpoint.

    Args:
        name: What results call it.
        path: The file.
        origin: What a document says of the network that it was made from.
        expected: The features that a document says its head has.

    Raises:
        InputError: The file cannot be read as weights.
    """
    checkpoint = read_checkpoint(path)
    metadata = checkpoint.metadata
    if metadata is not None and metadata.model == FEATURES:
        head, _ = read_lone_head(path)
        index_set = own_index_set(head, str(path))
        return Entry(name, str(path), checkpoint.sha256, index_set, missing="holds a head without a network")
    return Entry(name, str(path), checkpoint.sha256, expected, origin, checkpoint)


def check_names(entries: Sequence[Entry]) -> None:
    """Refuse fewer than two entries, and names that would be taken for one another.

    Raises:
        InputError: There is nothing to compare, or two entries, or two trainings, have one name.
    """
    if not entries:
        raise InputError("There is nothing to compare.", hint="Name two index files, results or checkpoints.")
    if len(entries) == 1:
        raise InputError(f"There is nothing to compare {entries[0].source} with.", hint="Name a second file.")
    known: dict[str, str] = {}
    trainings: dict[str, str] = {}
    for entry in entries:
        if entry.name == FULL:
            raise InputError(f"{entry.source} cannot be named {FULL!r}, which is the head of the network.")
        if entry.name in known:
            raise _same_name(entry.name, known[entry.name], entry.source)
        known[entry.name] = entry.source
        if entry.run is not None:
            name, document = entry.run.training, entry.run.document
            if trainings.setdefault(name, document) != document:
                raise _same_name(name, trainings[name], document)


def _same_name(name: str, first: str, second: str) -> InputError:
    return InputError(f"Two are named {name!r}: {first} and {second}.", hint="Name them apart: NAME=FILE.")
