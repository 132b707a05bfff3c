"""How many processes, and what is said where that cannot be."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any, cast

import pytest
import torch
from lightning_fabric import Fabric

from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.processes import launch
from decompose_cli.processes.cluster import Machines, Processes
from decompose_cli.processes.cores import cores
from decompose_cli.processes.launch import start
from decompose_cli.processes.team import on_first, sum_over_processes

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"devices": 0}, "32", "devices 0 is not at least 1"),
    ({"num_nodes": 0}, "32", "num_nodes 0 is not at least 1"),
    ({"num_nodes": 2}, "32", "num_nodes 2 needs to know the other machines"),
    ({}, "16", "precision 16 needs a GPU; on a CPU use precision bf16"),
]


@pytest.mark.parametrize(("machines", "precision", "fragment"), REFUSED)
def test_what_this_machine_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, machines: dict[str, Any], precision: str, fragment: str
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError) as caught:
        start("cpu", Machines(**machines), precision)
    assert fragment in caught.value.message


@pytest.mark.parametrize("machines", [{"devices": 4}, {"num_nodes": 1}, {"devices": 1, "num_nodes": 4}])
def test_what_contradicts_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch, machines: dict[str, Any]) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="torchrun started 2 processes on each of 2 machines, which is not devices"):
        start("cpu", Machines(**machines), "32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(InputError, match="cuda"):
        start("cuda", Machines(), "32")


def test_one_process_needs_no_communication() -> None:
    fabric = start("cpu", Machines(), "32")
    assert (fabric.world_size, fabric.is_global_zero) == (1, True)
    assert fabric.device == torch.device("cpu")
    assert on_first(fabric, lambda: 3) == 3
    values = torch.ones(2)
    assert sum_over_processes(fabric, values) is values
    with pytest.raises(DecomposeError, match="no"):
        on_first(fabric, lambda: (_ for _ in ()).throw(DecomposeError("no")))


def test_what_a_library_has_to_say_of_precision_is_not_for_the_terminal(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        start("cpu", Machines(), "bf16")
    assert caplog.messages == []


def test_several_processes_leave_each_others_statistics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class Recorded(Fabric):
        def __init__(self, **options: Any) -> None:
            made.append(options)
            super().__init__(**{**options, "devices": 1, "strategy": "auto"})

    monkeypatch.setattr(launch, "Fabric", Recorded)
    start("cpu", Machines(devices=2))
    assert made[0]["devices"] == 2
    assert made[0]["strategy"]._ddp_kwargs == {"broadcast_buffers": False}
    assert made[0]["strategy"]._process_group_backend is None
    start("cpu", Machines(devices=2), trains=False)
    assert made[1]["strategy"]._process_group_backend == "gloo"
    start("cpu", Machines(devices=1))
    assert made[2]["strategy"] == "auto"


@pytest.fixture(autouse=True)
def shares_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many processes share the cores is forgotten after a test."""
    monkeypatch.setattr("decompose_cli.processes.cores._sharing", 1)


class Slow:
    """Stands for processes that take a while to be there."""

    device = torch.device("cpu")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def launch(self) -> None:
        time.sleep(self.seconds)
        if self.seconds > 1:
            raise ZeroDivisionError


@pytest.mark.parametrize(("launcher", "said"), [("SLURM", 1), ("torchrun", 1), ("options", 0)])
def test_a_process_says_that_others_are_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, launcher: Any, said: int
) -> None:
    monkeypatch.setattr(launch, "_SECONDS_OF_SILENCE", 0.01)
    monkeypatch.setattr(launch, "_SECONDS_BETWEEN_LOOKS", 0.02)
    launch._launched(cast(Fabric, Slow(0.2)), Processes(2, 1, launcher))
    assert [f"the 2 processes that {launcher} is to start" in message for message in caplog.messages] == [True] * said
    launch._launched(cast(Fabric, Slow(0)), Processes(2, 1, launcher))
    assert len(caplog.messages) == said


def test_an_error_at_the_start_is_that_of_the_command() -> None:
    with pytest.raises(ZeroDivisionError):
        launch._launched(cast(Fabric, Slow(1.1)), Processes(2, 1, "options"))


def test_waiting_for_others_can_be_interrupted() -> None:
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        launch._launched(cast(Fabric, Slow(1.0)), Processes(2, 1, "SLURM"))


@pytest.mark.parametrize(("given", "expected"), [({}, 2), ({"SLURM_CPUS_PER_TASK": "4"}, 4)])
def test_tasks_of_slurm_may_have_cores_of_their_own(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: int
) -> None:
    tasks = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    for name, value in {**tasks, **given}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "Fabric", Stopped)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    with pytest.raises(ZeroDivisionError):
        start("cpu", Machines())
    assert cores() == expected


def test_processes_share_the_cores_that_they_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that this one starts, which find it in their environment."""
    monkeypatch.setattr(launch, "Fabric", Stopped)
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
        with pytest.raises(ZeroDivisionError):
            start("cpu", Machines(devices=4))
        assert torch.get_num_threads() == 2
        assert os.environ.pop("OMP_NUM_THREADS") == "2"
    finally:
        torch.set_num_threads(before)
        os.environ.pop("OMP_NUM_THREADS", None)


class Stopped:
    def __init__(self, **_: object) -> None:
        raise ZeroDivisionError
