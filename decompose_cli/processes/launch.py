"""Starting the processes of a command, with Lightning Fabric."""

from __future__ import annotations

import atexit
import logging
import os
import re
import signal
import threading
import time
import warnings
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.launchers import subprocess_script
from typing_extensions import override

from decompose_cli.errors import DecomposeError, InputError, param
from decompose_cli.messages import warn
from decompose_cli.processes.cluster import Machines, Processes, processes_of
from decompose_cli.processes.cores import check_count, share_cores, use_threads
from decompose_cli.processes.device import resolve_device
from decompose_cli.processes.lost import LOST
from decompose_cli.processes.team import ENDED, is_lost_connection

_PATIENCE = timedelta(days=30)
"""How long processes wait for the first, whose statistics may take hours; one that ends takes the others with it."""
_SECONDS_OF_SILENCE, _SECONDS_BETWEEN_LOOKS = 30.0, 0.1


class _Observer(subprocess_script._ChildProcessObserver):
    """Fabric's, but the first process is asked to end, and can put its things in order, rather than killed."""

    @override
    def _terminate_all(self) -> None:
        for process in self._child_processes:
            process.kill()
        LOST.set()
        os.kill(self._main_pid, signal.SIGTERM)


class _Slurm(SLURMEnvironment):
    """Fabric's, for variables that have been looked through; it refuses some that say enough."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        if not re.fullmatch(r"\d+", os.environ.get("SLURM_JOB_ID", "0"), re.ASCII):
            os.environ.setdefault("MASTER_PORT", "12910")
        super().__init__()

    @staticmethod
    @override
    def _validate_srun_used() -> None:
        pass

    @staticmethod
    @override
    def _validate_srun_variables() -> None:
        pass

    @property
    @override
    def main_port(self) -> int:
        port = os.environ.get("MASTER_PORT")  # Fabric's reads the number of the job in any case
        return int(port) if port else super().main_port

    @override
    def node_rank(self) -> int:
        return self.global_rank() // self._processes.here

    @override
    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        pass


def start(device: str, machines: Machines, precision: str = "32", *, trains: bool = True) -> Fabric:
    """Start the processes, and return what connects them. The other processes run the command line from its start.

    Args:
        device: The device, as ``--device`` takes it.
        machines: How many processes, on how many machines.
        precision: Number format of training: ``32``, ``bf16`` or ``16``.
        trains: Whether gradients are exchanged; if not, the processes talk over their processors alone.

    Raises:
        InputError: This machine, or the launcher, does not have what was asked for.
    """
    processes = processes_of(machines)
    first = resolve_device(device)
    if precision == "16" and first.type == "cpu":
        raise InputError(f"{param('precision')} 16 needs a GPU; on a CPU use {param('precision')} bf16.")
    if ":" in device and processes.count > 1:
        raise InputError(
            f"{param('device')} {device} names one GPU, and there are {processes.count} processes.",
            hint=f"Leave it out, or give {param('device')} {first.type}; each process takes a GPU of its own.",
        )
    if first.type == "mps" and processes.count > 1:
        raise InputError(f"Several processes cannot share mps; use {param('devices')} 1 or {param('device')} cpu.")
    if first.type == "cuda" and processes.here > torch.cuda.device_count():
        raise InputError(
            f"{param('devices')} {processes.here}: this machine has {torch.cuda.device_count()} CUDA devices."
        )
    if first.type == "cpu" and processes.launcher == "options":
        check_count(processes.here, "devices")
    several = processes.count > 1
    warnings.filterwarnings("ignore", message=".*broadcast_buffers`? is deprecated", module="lightning_fabric.*")
    share_cores(processes.sharing_cores)
    if several and "OMP_NUM_THREADS" not in os.environ:  # else Fabric counts cores, whatever the process may use
        use_threads(None)
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # else Fabric announces what was asked for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator={"cpu": "cpu", "cuda": "cuda", "mps": "mps"}[first.type],
            devices=[first.index or 0] if first.type == "cuda" and not several else processes.here,
            num_nodes=processes.nodes,
            strategy=_strategy(trains=trains, on_cuda=first.type == "cuda") if several else "auto",
            precision={"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[precision],  # type: ignore[arg-type]
            plugins=_environment(processes),
        )
        if several:
            _launched(fabric, processes)
        else:
            fabric.launch()
    if several:
        atexit.register(_disconnect)
    return fabric


def _disconnect() -> None:
    """End the threads of the connection: the process would be aborted if it ended while they still run."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _launched(fabric: Fabric, processes: Processes) -> None:
    """Start the processes and wait until all are there; a signal still interrupts, and after a while it is said.

    Of tasks that were asked for, only one may have been started.
    """
    failures: list[BaseException] = []

    def launch() -> None:
        try:
            subprocess_script._ChildProcessObserver = _Observer  # type: ignore[misc]
            fabric.launch()
        except BaseException as error:
            failures.append(error)

    waiting = threading.Thread(target=launch, daemon=True)
    waiting.start()
    begun, is_said = time.monotonic(), processes.launcher == "options"
    while waiting.is_alive():  # what waits for a connection hears no signal; this does
        waiting.join(_SECONDS_BETWEEN_LOOKS)
        if not is_said and time.monotonic() - begun > _SECONDS_OF_SILENCE and waiting.is_alive():
            is_said = True
            how = "start the command with srun" if processes.launcher == "SLURM" else "start it on every machine"
            warn(
                f"Waiting for the rest of the {processes.count} processes that {processes.launcher} is to start; if "
                f"there are none, {how}."
            )
    for error in failures:
        if isinstance(error, RuntimeError) and is_lost_connection(error):
            raise DecomposeError(ENDED, hint="It had not started its work: start the command again.") from error
        raise error
    if fabric.device.type == "cuda":
        torch.cuda.set_device(fabric.device)  # it was set for the other thread


def _strategy(*, trains: bool, on_cuda: bool) -> DDPStrategy:
    # What is not on a GPU goes by gloo, which notices at once that a process has gone; by NCCL others wait for long.
    usual = {"process_group_backend": "cpu:gloo,cuda:nccl"} if on_cuda else {}
    backend: dict[str, Any] = usual if trains else {"process_group_backend": "gloo"}
    # Each process keeps its own buffers: statistics are those of the images that the process has seen.
    return DDPStrategy(broadcast_buffers=False, timeout=_PATIENCE, **backend)


def _environment(processes: Processes) -> list[Any]:
    """What tells Fabric of the processes, where it would look for itself and find something else."""
    if processes.launcher == "torchrun":
        return []
    return [_Slurm(processes) if processes.launcher == "SLURM" else LightningEnvironment()]
