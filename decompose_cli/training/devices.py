"""Setting up Lightning Fabric, for one process or many."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from decompose_cli.errors import DecomposeError, InputError, first_line, param
from decompose_cli.features.device import resolve_device

Value = TypeVar("Value")


@dataclass(frozen=True)
class Machines:
    """How many processes train.

    Attributes:
        devices: Processes on this machine, each with a device of its own; None for one, or what ``torchrun`` says.
        num_nodes: Machines; more than one are started with ``torchrun``.
    """

    devices: int | None = None
    num_nodes: int | None = None


def start(device: str, machines: Machines, precision: str) -> Fabric:
    """Start the processes, and return what connects them. The other processes run the command line from its start.

    Args:
        device: The device, as ``--device`` takes it.
        machines: How many processes, on how many machines.
        precision: Number format: ``32``, ``bf16`` or ``16``.

    Raises:
        InputError: This machine, or ``torchrun``, does not have what was asked for.
    """
    count, nodes = _counts(machines)
    first = resolve_device(device)
    if precision == "16" and first.type == "cpu":
        raise InputError(f"{param('precision')} 16 needs a GPU; on a CPU use {param('precision')} bf16.")
    if first.type == "mps" and count * nodes > 1:
        raise InputError(f"Several processes cannot share mps; use {param('devices')} 1 or {param('device')} cpu.")
    if first.type == "cuda" and count > torch.cuda.device_count():
        raise InputError(f"{param('devices')} {count}: this machine has {torch.cuda.device_count()} CUDA devices.")
    several = count * nodes > 1
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # else Fabric announces what was asked for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator={"cpu": "cpu", "cuda": "cuda", "mps": "mps"}[first.type],
            devices=[first.index or 0] if first.type == "cuda" and not several else count,
            num_nodes=nodes,
            # Each process keeps its own buffers: statistics are those of the images that the process has seen.
            strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
            precision={"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[precision],  # type: ignore[arg-type]
        )
        fabric.launch()
    return fabric


def _counts(machines: Machines) -> tuple[int, int]:
    """(processes on each machine, machines), as asked for or as ``torchrun`` started them."""
    if machines.devices is not None and machines.devices < 1:
        raise InputError(f"{param('devices')} {machines.devices} is not at least 1.")
    if machines.num_nodes is not None and machines.num_nodes < 1:
        raise InputError(f"{param('num_nodes')} {machines.num_nodes} is not at least 1.")
    if not torch.distributed.is_torchelastic_launched():
        nodes = machines.num_nodes or 1
        if nodes > 1 and "MASTER_ADDR" not in os.environ:
            raise InputError(
                f"{param('num_nodes')} {nodes} needs to know the other machines.",
                hint=f"Start the command on each of them with torchrun, which needs no {param('devices')} and no "
                f"{param('num_nodes')}.",
            )
        return machines.devices or 1, nodes
    # Fabric takes devices=1 at its word even under torchrun, and every process would train a network of its own.
    here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    nodes = everywhere // here
    asked = (machines.devices or here, machines.num_nodes or nodes)
    if asked != (here, nodes):
        raise InputError(
            f"torchrun started {here} processes on each of {nodes} machines, which is not "
            f"{param('devices')} {asked[0]} and {param('num_nodes')} {asked[1]}.",
            hint="Leave both options out under torchrun.",
        )
    return here, nodes


def on_first(fabric: Fabric, work: Callable[[], Value]) -> Value:
    """Do something in the first process only; every process gets its result, or its error."""
    if fabric.world_size == 1:
        return work()
    outcome: list[Any] = [None, None]
    if fabric.is_global_zero:
        try:
            outcome[0] = work()
        except DecomposeError as error:
            outcome[1] = error
        except Exception as error:  # else the other processes would wait for ever
            fabric.broadcast([None, DecomposeError(f"The first process failed: {first_line(error)}.")])
            raise
    result, failure = fabric.broadcast(outcome)
    if failure is not None:
        raise failure
    return result  # type: ignore[no-any-return]


def sum_over_processes(fabric: Fabric, values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes; the tensor itself where there is one process."""
    if fabric.world_size == 1:
        return values
    return fabric.all_reduce(values.clone(), reduce_op="sum")  # type: ignore[return-value]
