"""How many processes a command has: as its options say, or as ``torchrun`` or SLURM started it.

Nothing here imports torch, so that a command that runs alone need not wait for what connects processes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from decompose_cli.errors import InputError, param

Launcher = Literal["options", "torchrun", "SLURM"]
_RANKS_OF_MPI = {
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "PMI_SIZE": "PMI_RANK",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
}
"""Variables for the number of processes and the number of this one: of Open MPI, of MPICH and Intel MPI, of MVAPICH."""


@dataclass(frozen=True)
class Machines:
    """How many processes the user asks for.

    Attributes:
        devices: Processes on each machine, each with a device of its own; None for one, or what a launcher started.
        num_nodes: Machines; None for one, or what a launcher started.
    """

    devices: int | None = None
    num_nodes: int | None = None


@dataclass(frozen=True)
class Processes:
    """The processes of a command.

    Attributes:
        here: Processes on each machine.
        nodes: Machines.
        launcher: Who starts them: ``torchrun`` and ``SLURM`` have done so already.
    """

    here: int
    nodes: int
    launcher: Launcher

    @property
    def sharing_cores(self) -> int:
        """Processes that are bound to the same cores."""
        return 1 if self.launcher == "SLURM" and "SLURM_CPUS_PER_TASK" in os.environ else self.here

    @property
    def count(self) -> int:
        """Number of processes."""
        return self.here * self.nodes


def processes_of(machines: Machines) -> Processes:
    """The processes of this command.

    Raises:
        InputError: A number is out of range, or is not what the launcher has started.
    """
    for name in ("devices", "num_nodes"):
        count = getattr(machines, name)
        if count is not None and count < 1:
            raise InputError(f"{param(name)} {count} is not at least 1.")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        here, everywhere = _variable("LOCAL_WORLD_SIZE", "torchrun"), _variable("WORLD_SIZE", "torchrun")
        return _agreeing(machines, Processes(here, everywhere // here, "torchrun"))
    tasks = _variable("SLURM_NTASKS", "SLURM", 1)
    if tasks > 1:
        return _agreeing(machines, _of_slurm(tasks))
    _refuse_others()
    nodes = machines.num_nodes or 1
    if nodes > 1 and "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"{param('num_nodes')} {nodes} needs to know the other machines.",
            hint=f"Start the command on each of them with torchrun or srun, which need no {param('devices')} and no "
            f"{param('num_nodes')}.",
        )
    return Processes(machines.devices or 1, nodes, "options")


def rank_here() -> int:
    """Number of this process among those of the command, as the launcher numbers it; 0 for one that runs alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ and _variable("SLURM_NTASKS", "SLURM", 1) > 1:
        rank = _variable("SLURM_PROCID", "SLURM", 0, smallest=0)
        return rank if rank < _variable("SLURM_NTASKS", "SLURM") else 0  # else nobody would say that it is none
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", *_RANKS_OF_MPI.values()):
        if os.environ.get(name, "0") not in ("0", ""):
            return _variable(name, "The launcher", smallest=0)
    return 0


def _refuse_others() -> None:
    """Refuse to be one of several processes that a launcher started which is not understood here.

    Each of them would do all of the work, and write the same files.

    Raises:
        InputError: It is.
    """
    hint = f"Start the command with torchrun or srun, or once with {param('devices')} and the number of processes."
    if "LOCAL_RANK" in os.environ:  # as those have that this program starts
        return
    for size, rank in _RANKS_OF_MPI.items():
        if (count := _variable(size, "MPI", 1)) > 1 and rank in os.environ:
            raise InputError(f"MPI started {count} processes ({size}), and each would do all of the work.", hint=hint)
    if "RANK" in os.environ and (count := _variable("WORLD_SIZE", "The launcher", 1)) > 1:
        raise InputError(
            f"This is process {os.environ['RANK']} (RANK) of {count} (WORLD_SIZE), but not all "
            "variables of torchrun are set, such as LOCAL_RANK, so each would do all of the work.",
            hint=hint,
        )


def _of_slurm(tasks: int) -> Processes:
    """The processes that ``srun`` started.

    Raises:
        InputError: The variables of SLURM do not fit each other, or this is no process that ``srun`` started.
    """
    for name in ("SLURM_PROCID", "SLURM_LOCALID"):
        if name not in os.environ:
            raise InputError(
                f"SLURM has {tasks} tasks (SLURM_NTASKS), but this process is none of them: {name} is not set.",
                hint="Start the command with srun, or ask SLURM for one task.",
            )
    rank = _variable("SLURM_PROCID", "SLURM", smallest=0)
    rank_on_node = _variable("SLURM_LOCALID", "SLURM", smallest=0)
    if rank >= tasks:
        raise InputError(f"SLURM says that this is task {rank} (SLURM_PROCID) of {tasks} (SLURM_NTASKS).")
    here = _variable("SLURM_NTASKS_PER_NODE", "SLURM", 0, smallest=0)
    nodes = _variable("SLURM_NNODES", "SLURM", max(1, tasks // here) if here else 1)
    here = here or tasks // nodes
    if here * nodes != tasks:
        raise InputError(
            f"SLURM has {tasks} tasks (SLURM_NTASKS), which is not {here} on each of {nodes} machines "
            "(SLURM_NTASKS_PER_NODE, SLURM_NNODES).",
            hint="Ask SLURM for a number of tasks on each machine.",
        )
    if rank_on_node >= here:
        raise InputError(
            f"SLURM says that this is task {rank_on_node} (SLURM_LOCALID) of {here} on its machine, counted from 0."
        )
    return Processes(here, nodes, "SLURM")


def _agreeing(machines: Machines, started: Processes) -> Processes:
    asked = (machines.devices or started.here, machines.num_nodes or started.nodes)
    if asked != (started.here, started.nodes):
        raise InputError(
            f"{started.launcher} started {started.here} processes on each of {started.nodes} machines, which is not "
            f"{param('devices')} {asked[0]} and {param('num_nodes')} {asked[1]}.",
            hint=f"Leave both options out under {started.launcher}"
            + (
                f", or ask it for one task, of which {param('devices')} makes several processes."
                if started.launcher == "SLURM"
                else "."
            ),
        )
    return started


def _variable(name: str, of: str, usual: int | None = None, *, smallest: int = 1) -> int:
    """The number in a variable of the environment.

    Raises:
        InputError: It is not there and has no usual value, or is no number, or too small.
    """
    text = os.environ.get(name, "")
    if not text and usual is not None:
        return usual
    if not text.isascii() or not text.isdigit() or int(text) < smallest:
        raise InputError(f"{of} says {name}={text!r}, which is not a number from {smallest} on.")
    return int(text)
