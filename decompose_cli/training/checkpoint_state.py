"""The state of a run between two steps, as plain values, and that of the random generators of its processes."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from lightning_fabric import Fabric
from pydantic import Field, TypeAdapter
from torch import Tensor

from decompose_cli.models.checkpoint import kind_of
from decompose_cli.training.objective import Objective
from decompose_cli.training.records import EpochRecord

_PLAIN = ("epoch", "step", "global_step", "tally", "seconds", "rate", "made")

_USED = frozenset(
    (
        *("params", "lr", "weight_decay", "momentum", "dampening", "betas", "eps"),
        *("base_lrs", "last_epoch", "_step_count", "_last_lr"),
    )
)
"""What optimizers and schedules of every version of torch have and cannot do without; versions add others."""

_Count = Annotated[int, Field(ge=0, strict=True)]


@dataclass
class State:
    """Where a run is: ``step`` steps into epoch ``epoch``, counted from 0.

    ``tally`` holds, for the images of this epoch so far, sum of losses, correct answers, images, and what the objective
    counts; nothing before the first step. ``rate``: learning rate of the last step that was made; ``made``: its epoch
    and number.
    """

    epoch: _Count = 0
    step: _Count = 0
    global_step: _Count = 0
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
        """The state that :meth:`content` turned into plain values.

        Raises:
            ValueError: A value is of another kind, or out of range.
            KeyError: One is missing.
        """
        state = _STATES.validate_python({name: content[name] for name in (*_PLAIN, "records", "best")})
        json.dumps(state.content(), allow_nan=False)  # what becomes of it has no NaN
        return state


_STATES = TypeAdapter(State)


def check_measures(records: Sequence[EpochRecord], objective: Objective) -> None:
    """Refuse records of epochs whose passes measured other things than an objective counts, or fewer, or more.

    Raises:
        ValueError: There is such a record.
    """
    counts = [0.0] * objective.counted
    has_diversity = objective.diversity(counts, 1) is not None
    gates = [score.name for score in objective.gate_scores(counts, 1)]
    for train in (record.train for record in records):
        if (train.diversity is not None) != has_diversity or [score.name for score in train.gates] != gates:
            raise ValueError("its records are of other measures")


def check_like(saved: Any, now: Any, where: str) -> None:
    """Refuse plain values that are not of the kinds that such values have.

    Args:
        saved: What was read.
        now: The same of a run that begins.
        where: What it is, for the sentence.

    Raises:
        ValueError: A value is of another kind, or one is missing.
    """
    if isinstance(now, dict):
        if not isinstance(saved, dict) or saved.keys() != now.keys():
            raise ValueError(f"{where} does not have the parts that it should")
        for name, value in now.items():
            check_like(saved[name], value, f"{where}.{name}")
    elif isinstance(now, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(now):
            raise ValueError(f"{where} is not a list of {len(now)}")
        for number, value in enumerate(now):
            check_like(saved[number], value, f"{where}.{number}")
    elif type(now) in (int, float):
        if type(saved) not in (int, float) or not math.isfinite(saved):
            raise ValueError(f"{where} is no finite number")
    elif type(now) in (bool, str) and type(saved) is not type(now):
        raise ValueError(f"{where} is a {type(saved).__name__}, not a {type(now).__name__}")


def check_known(saved: Any, now: dict[str, Any], where: str) -> None:
    """Refuse options that torch has written, as :func:`check_like` does, but let another version have more, or fewer.

    Raises:
        ValueError: One that is used is missing, or one that is known is of another kind.
    """
    if not isinstance(saved, dict) or not saved.keys() >= now.keys() & _USED:
        raise ValueError(f"{where} does not have the parts that it should")
    for name in now.keys() & saved.keys():
        check_like(saved[name], now[name], f"{where}.{name}")
        if now[name] is None and isinstance(saved[name], Tensor):
            raise ValueError(f"{where}.{name} is a tensor")


def check_numbers(saved: Any, now: dict[str, Tensor], where: str) -> None:
    """Refuse tensors that hold other kinds of numbers than they have to; torch would drop what does not fit.

    Raises:
        ValueError: One is complex, quantised, or otherwise no such number.
    """
    for name in now.keys() & saved.keys():
        if kind_of(saved[name]) != kind_of(now[name]):
            raise ValueError(f"{where} {name} holds {kind_of(saved[name])} numbers")


def check_optimizer(saved: Any, optimizer: torch.optim.Optimizer, where: str) -> None:
    """Refuse the state of an optimizer that it could not go on with.

    Raises:
        ValueError: It is of another optimizer or network, or damaged.
    """
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        raise ValueError(f"{where} does not have the parts that it should")
    groups, now = saved.get("param_groups"), optimizer.state_dict()["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(now):
        raise ValueError(f"{where} does not have {len(now)} groups of parameters")
    for number, group in enumerate(now):
        check_known(groups[number], group, f"{where}.param_groups.{number}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = _state_of_one(optimizer)
    for number, state in saved["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters):
            raise ValueError(f"{where} has the state of a parameter that is not there")
        if not isinstance(state, dict) or (state and state.keys() != wanted.keys()):
            raise ValueError(f"{where} does not have the state of parameter {number} that it should")
        for name, value in state.items():
            shape = parameters[number].shape if wanted[name].ndim else ()
            is_fit = isinstance(value, Tensor) and value.shape == shape and kind_of(value) == "real"
            may_lack = name == "momentum_buffer"  # which is none before the first step, and without momentum
            if not (is_fit or (value is None and may_lack)):
                raise ValueError(f"{where} has another {name} of parameter {number} than it should")


def complete_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give parameters without momentum, as an unused or damaged one is, a momentum of zero beside others that have one.

    SGD's kernels for many parameters take either momenta for all of them or none.
    """
    states = optimizer.state
    for group in optimizer.param_groups:
        of_all = [states[one].get("momentum_buffer") if one in states else None for one in group["params"]]
        if all(momentum is None for momentum in of_all):
            continue
        for one, momentum in zip(group["params"], of_all, strict=True):
            if momentum is None:
                states[one]["momentum_buffer"] = torch.zeros_like(one)


def _state_of_one(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What such an optimizer keeps of a parameter, by name."""
    one = torch.nn.Parameter(torch.zeros(1))
    one.grad = torch.zeros(1)
    kind: Any = type(optimizer)
    options = inspect.signature(kind).parameters.keys() & optimizer.defaults.keys()  # the defaults have more
    other = kind([one], **{name: optimizer.defaults[name] for name in options})
    other.step()
    return {name: torch.as_tensor(0.0 if value is None else value) for name, value in other.state[one].items()}


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
