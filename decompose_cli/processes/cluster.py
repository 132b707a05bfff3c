"""How many processes a command has: as its options say, or as ``torchrun`` or SLURM started it.

Nothing here imports torch, so that a command that runs alone need not wait for what connects processes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from decompose_cli.errors import InputError, param, shortened

Launcher = Literal["options", "torchrun", "SLURM"]
_RANKS_OF_MPI = {
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "PMI_SIZE": "PMI_RANK",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
}
"""Variables for the number of processes and the number of this one: of Open MPI, of MPICH and Intel MPI, of MVAPICH."""

_MOST, _DIGITS = 1_000_000, 20
"""Of processes, far beyond any machine; and of the digits of a number, for which Python has a limit of its own."""


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
    processes = _counted(machines)
    if processes.count > 1 and "MASTER_PORT" in os.environ:
        _variable("MASTER_PORT", "The environment", largest=65535)
    return processes


def _counted(machines: Machines) -> Processes:
    for name in ("devices", "num_nodes"):
        count = getattr(machines, name)
        if count is not None and count < 1:
            raise InputError(f"{param(name)} {count} is not at least 1.")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _agreeing(machines, _of_torchrun())
    tasks = _variable("SLURM_NTASKS", "SLURM", 1)
    if tasks > 1:
        started = _of_slurm(tasks)
        if (found := _of_mpi()) and found[2] != os.environ["SLURM_PROCID"]:  # those of srun's own agree with it
            raise _each_would_do_all(f"MPI started {found[1]} processes ({found[0]}) in a task of SLURM", found[0])
        return _agreeing(machines, started)
    _refuse_others(machines)
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
    mpi = _of_mpi()
    is_told = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    if is_told and _variable("RANK", "The launcher", 0, smallest=0) >= _variable("WORLD_SIZE", "The launcher", 1):
        return 0  # as above
    count = _variable("WORLD_SIZE", "The launcher", _MOST)
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK"):
        most = _MOST if name == "NODE_RANK" and "MASTER_ADDR" in os.environ else count
        if 0 < (rank := _variable(name, "The launcher", 0, smallest=0)) < most:
            return rank
    if mpi and mpi[2] != "0":
        return _variable(_RANKS_OF_MPI[mpi[0]], "The launcher", smallest=0)
    return 0


def _of_mpi() -> tuple[str, int, str] | None:
    """What MPI says of this process where it is one of several: how the number of processes is called, and both."""
    for size, rank in _RANKS_OF_MPI.items():
        if os.environ.get(rank) and (count := _variable(size, "MPI", 1)) > 1:
            return size, count, os.environ[rank]
    return None


def _refuse_others(machines: Machines) -> None:
    """Refuse to be one of several processes that a launcher started which is not understood here.

    Each of them would do all of the work, and write the same files.

    Raises:
        InputError: It is.
    """
    if (machines.num_nodes or 1) > 1 or ("LOCAL_RANK" in os.environ and (machines.devices or 1) > 1):
        return  # one of a machine each, as it was asked for, or one that this program has started
    if found := _of_mpi():
        raise _each_would_do_all(f"MPI started {found[1]} processes ({found[0]})", found[0])
    if (rank := os.environ.get("RANK")) and (count := _variable("WORLD_SIZE", "The launcher", 1)) > 1:
        raise _each_would_do_all(f"This is process {rank} (RANK) of {count} (WORLD_SIZE), but not by torchrun", "RANK")


def _each_would_do_all(what: str, name: str) -> InputError:
    return InputError(
        f"{what}, and each would do all of the work.",
        hint=f"Start the command with torchrun or srun, or once with {param('devices')} and the number of processes. "
        f"If each has a command of its own, unset {name}.",
    )


def _of_torchrun() -> Processes:
    """The processes that ``torchrun`` started.

    Raises:
        InputError: Its variables do not fit each other.
    """
    here, everywhere = _variable("LOCAL_WORLD_SIZE", "torchrun"), _variable("WORLD_SIZE", "torchrun")
    if everywhere % here:
        raise InputError(
            f"torchrun says that there are {everywhere} processes (WORLD_SIZE), which is not {here} on each machine "
            "(LOCAL_WORLD_SIZE)."
        )
    for name, of, count in (("RANK", "WORLD_SIZE", everywhere), ("LOCAL_RANK", "LOCAL_WORLD_SIZE", here)):
        if (rank := _variable(name, "torchrun", smallest=0)) >= count:
            raise InputError(f"torchrun says that this is process {rank} ({name}) of {count} ({of}), counted from 0.")
    return Processes(here, everywhere // here, "torchrun")


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


def _variable(name: str, of: str, usual: int | None = None, *, smallest: int = 1, largest: int = _MOST) -> int:
    """The number in a variable of the environment.

    Raises:
        InputError: It is not there and has no usual value, or is no number, or out of range.
    """
    text = os.environ.get(name, "")
    if not text and usual is not None:
        return usual
    if not text.isascii() or not text.isdigit() or int(text[:_DIGITS]) < smallest:
        raise InputError(f"{of} says {name}={shortened(text)!r}, which is not a number from {smallest} on.")
    if int(text[:_DIGITS]) > largest:
        raise InputError(f"{of} says {name}={shortened(text)!r}, which is more than {largest:,}.")
    return int(text[:_DIGITS])
