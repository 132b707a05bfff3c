"""The input of a trainer: a network, a division of the images, and the upkeep of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from decompose_cli.models.checkpoint import Metadata
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.training.data import TrainingData
from decompose_cli.training.objective import Objective


@dataclass(frozen=True)
class Job:
    """One network to train on one division of the images.

    Attributes:
        module: The network, with the weights from which training starts; changed in place.
        metadata: Description of the network, for its checkpoints.
        data: Images and labels.
        frozen: Modules that stay in evaluation mode.
        objective: What is minimised, and by which optimizers; the cross-entropy of the output by default.
        held: Rows that stay as they are, bool (rows,), by the name of their parameter.
        sparse: What belongs to its sparse head beside the network and stays true, for its checkpoints.
    """

    module: nn.Module
    metadata: Metadata
    data: TrainingData
    frozen: Sequence[nn.Module] = ()
    objective: Objective | None = None
    held: Mapping[str, Tensor] = field(default_factory=dict)
    sparse: SparseRecord | None = None


@dataclass(frozen=True)
class Upkeep:
    """How a run is kept up, which changes nothing of what is learned.

    Attributes:
        workers: Processes that decode images.
        checkpoint_every: Also save after so many steps within an epoch.
        print_freq: Also add a row to the table after so many steps within an epoch.
    """

    workers: int = 0
    checkpoint_every: int | None = None
    print_freq: int | None = None
