"""The state of a run between two steps, as plain values, and that of the random generators of its processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from decompose_cli.training.records import EpochRecord

_PLAIN = ("epoch", "step", "global_step", "tally", "seconds", "rate", "made")


@dataclass
class State:
    """Where a run is: ``step`` steps into epoch ``epoch``, counted from 0.

    ``tally`` holds, for the images of this epoch so far, sum of losses, correct answers, images, and what the objective
    counts; nothing before the first step. ``rate``: learning rate of the last step that was made; ``made``: its epoch
    and number.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    tally: list[float] = field(default_factory=list)
    seconds: float = 0.0
    records: list[EpochRecord] = field(default_factory=list)
    best: EpochRecord | None = None
    rate: float = 0.0
    made: str = "epoch 1, step 0"

    def content(self) -> dict[str, Any]:
        """The state as plain values, for a checkpoint."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        best = self.best.model_dump() if self.best else None
        return {**plain, "records": [record.model_dump() for record in self.records], "best": best}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> State:
        """The state that :meth:`content` turned into plain values."""
        return cls(
            **{name: content[name] for name in _PLAIN},
            records=[EpochRecord.model_validate(record) for record in content["records"]],
            best=EpochRecord.model_validate(content["best"]) if content["best"] else None,
        )


def random_states(fabric: Fabric) -> list[dict[str, Tensor]]:
    """The states of torch's generators in each process; every process has to call this."""
    own = {"cpu": torch.get_rng_state()}
    if fabric.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(fabric.device)
    if fabric.world_size == 1:
        return [own]
    gathered: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def restore_random_states(fabric: Fabric, states: list[dict[str, Tensor]]) -> None:
    """Put back what :func:`random_states` returned."""
    if fabric.global_rank >= len(states):  # more processes than before
        return
    own = states[fabric.global_rank]
    torch.set_rng_state(own["cpu"])
    if "cuda" in own and fabric.device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], fabric.device)
