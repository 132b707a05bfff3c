"""How many processes a command has, by its options and by what torchrun and SLURM say."""

from __future__ import annotations

import os

import pytest

from decompose_cli.errors import InputError
from decompose_cli.processes.cluster import Machines, Processes, processes_of, rank_here

Environment = dict[str, str]


def slurm(tasks: object = None, rank: object = None, local: object = None, **more: object) -> Environment:
    values = {"NTASKS": tasks, "PROCID": rank, "LOCALID": local, **more}
    return {f"SLURM_{name}": str(value) for name, value in values.items() if value is not None}


def torchrun(world: object = 4, here: object = 2, rank: object = 1) -> Environment:
    values = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": here, "RANK": rank, "LOCAL_RANK": 0}
    return {"TORCHELASTIC_RUN_ID": "x", **{name: str(value) for name, value in values.items() if value is not None}}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_", "MASTER_")) or name.endswith(("RANK", "WORLD_SIZE")):
            monkeypatch.delenv(name)


def told(monkeypatch: pytest.MonkeyPatch, environment: Environment, machines: Machines) -> Processes:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return processes_of(machines)


ACCEPTED: list[tuple[Environment, Machines, Processes]] = [
    ({}, Machines(), Processes(1, 1, "options")),
    ({}, Machines(1, 1), Processes(1, 1, "options")),
    ({}, Machines(3), Processes(3, 1, "options")),
    ({"MASTER_ADDR": "there"}, Machines(2, 2), Processes(2, 2, "options")),
    # One task: we start the processes.
    (slurm(1, 0, 0), Machines(), Processes(1, 1, "options")),
    (slurm(1, 0, 0, NTASKS_PER_NODE=1, NNODES=1), Machines(2), Processes(2, 1, "options")),
    (slurm(1), Machines(2), Processes(2, 1, "options")),
    # One process of MPI, and variables that say nothing of this one.
    ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, Machines(2), Processes(2, 1, "options")),
    ({"WORLD_SIZE": "1", "RANK": "0"}, Machines(), Processes(1, 1, "options")),
    ({"WORLD_SIZE": "2"}, Machines(), Processes(1, 1, "options")),
    ({"PMI_SIZE": "2", "PMI_RANK": "1", "LOCAL_RANK": "1"}, Machines(2), Processes(2, 1, "options")),
    ({"PMI_SIZE": "many"}, Machines(), Processes(1, 1, "options")),
    ({"PMI_SIZE": "2", "PMI_RANK": ""}, Machines(), Processes(1, 1, "options")),
    ({"WORLD_SIZE": "2", "RANK": ""}, Machines(), Processes(1, 1, "options")),
    # One process of each machine is started by another launcher, as it was asked for.
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "there"}, Machines(8, 2), Processes(8, 2, "options")),
    (slurm(4, 3, 1, NNODES=2) | {"PMI_SIZE": "4", "PMI_RANK": "3"}, Machines(), Processes(2, 2, "SLURM")),
    (slurm(""), Machines(2), Processes(2, 1, "options")),
    (slurm(None, 0, 0, NNODES=1), Machines(2), Processes(2, 1, "options")),
    # Several tasks: they are the processes.
    (slurm(2, 0, 0), Machines(), Processes(2, 1, "SLURM")),
    (slurm(2, 1, 1, NTASKS_PER_NODE=2, NNODES=1), Machines(), Processes(2, 1, "SLURM")),
    (slurm(2, 1, 1, NTASKS_PER_NODE=2, NNODES=1), Machines(2), Processes(2, 1, "SLURM")),
    (slurm(2, 1, 1, NTASKS_PER_NODE=2, NNODES=1), Machines(2, 1), Processes(2, 1, "SLURM")),
    (slurm(4, 3, 1, NTASKS_PER_NODE=2, NNODES=2), Machines(), Processes(2, 2, "SLURM")),
    (slurm(4, 3, 1, NTASKS_PER_NODE=2, NNODES=2), Machines(2, 2), Processes(2, 2, "SLURM")),
    (slurm(4, 3, 1, NNODES=2), Machines(), Processes(2, 2, "SLURM")),
    (slurm(4, 3, 1, NTASKS_PER_NODE=2), Machines(), Processes(2, 2, "SLURM")),
    (slurm(4, 3, 0, NTASKS_PER_NODE=1, NNODES=4), Machines(num_nodes=4), Processes(1, 4, "SLURM")),
    (slurm(2, 1, 1, NTASKS_PER_NODE="", NNODES=""), Machines(), Processes(2, 1, "SLURM")),
    # torchrun has the last word, also within SLURM.
    (torchrun(), Machines(), Processes(2, 2, "torchrun")),
    (torchrun(), Machines(2, 2), Processes(2, 2, "torchrun")),
    (torchrun(1, 1, 0), Machines(), Processes(1, 1, "torchrun")),
    (torchrun(2, 2) | slurm(8, 3, 3, NTASKS_PER_NODE=8), Machines(2), Processes(2, 1, "torchrun")),
    (torchrun(2, 2) | slurm("garbage"), Machines(), Processes(2, 1, "torchrun")),
    (torchrun(2, 2) | slurm(1, 0, 0), Machines(), Processes(2, 1, "torchrun")),
]


@pytest.mark.parametrize(("environment", "machines", "expected"), ACCEPTED)
def test_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, machines: Machines, expected: Processes
) -> None:
    found = told(monkeypatch, environment, machines)
    assert found == expected
    assert found.count == expected.here * expected.nodes


REFUSED: list[tuple[Environment, Machines, str]] = [
    ({}, Machines(0), "devices 0 is not at least 1."),
    ({}, Machines(-2), "devices -2 is not at least 1."),
    ({}, Machines(1, 0), "num_nodes 0 is not at least 1."),
    ({}, Machines(1, 2), "num_nodes 2 needs to know the other machines."),
    (
        slurm(2, 0, 0, NTASKS_PER_NODE=2, NNODES=1),
        Machines(1),
        "SLURM started 2 processes on each of 1 machines, which is not devices 1 and num_nodes 1.",
    ),
    (
        slurm(4, 0, 0, NTASKS_PER_NODE=2, NNODES=2),
        Machines(4),
        "SLURM started 2 processes on each of 2 machines, which is not devices 4 and num_nodes 2.",
    ),
    (
        slurm(4, 0, 0, NTASKS_PER_NODE=2, NNODES=2),
        Machines(2, 1),
        "SLURM started 2 processes on each of 2 machines, which is not devices 2 and num_nodes 1.",
    ),
    (slurm(2, None, 0), Machines(), "SLURM has 2 tasks (SLURM_NTASKS), but this process is none of them: SLURM_PROCID"),
    (
        slurm(2, 0, None),
        Machines(),
        "SLURM has 2 tasks (SLURM_NTASKS), but this process is none of them: SLURM_LOCALID",
    ),
    (slurm(2, 2, 0), Machines(), "SLURM says that this is task 2 (SLURM_PROCID) of 2 (SLURM_NTASKS)."),
    (slurm(2, 1, 2), Machines(), "SLURM says that this is task 2 (SLURM_LOCALID) of 2 on its machine, counted from 0."),
    (slurm(3, 0, 0, NTASKS_PER_NODE=2, NNODES=2), Machines(), "SLURM has 3 tasks"),
    (
        slurm(3, 0, 0, NNODES=2),
        Machines(),
        "SLURM has 3 tasks",
    ),
    (slurm(3, 0, 0, NTASKS_PER_NODE=2), Machines(), "SLURM has 3 tasks (SLURM_NTASKS), which is not 2 on each of 1"),
    (slurm(3, 0, 0, NTASKS_PER_NODE=4), Machines(), "SLURM has 3 tasks (SLURM_NTASKS), which is not 4 on each of 1"),
    (slurm("many"), Machines(), "SLURM says SLURM_NTASKS='many', which is not a number from 1 on."),
    (slurm(0), Machines(), "SLURM says SLURM_NTASKS='0', which is not a number from 1 on."),
    (slurm(-2), Machines(), "SLURM says SLURM_NTASKS='-2', which is not a number from 1 on."),
    (slurm("2.0"), Machines(), "SLURM says SLURM_NTASKS='2.0', which is not a number from 1 on."),
    (slurm("٢"), Machines(), "SLURM says SLURM_NTASKS='٢', which is not a number from 1 on."),
    (slurm(2, "x", 0), Machines(), "SLURM says SLURM_PROCID='x', which is not a number from 0 on."),
    (slurm(2, "", 0), Machines(), "SLURM says SLURM_PROCID='', which is not a number from 0 on."),
    (slurm(2, -1, 0), Machines(), "SLURM says SLURM_PROCID='-1', which is not a number from 0 on."),
    (slurm(2, 0, "x"), Machines(), "SLURM says SLURM_LOCALID='x', which is not a number from 0 on."),
    (slurm(2, 0, 0, NTASKS_PER_NODE="x"), Machines(), "SLURM says SLURM_NTASKS_PER_NODE='x', which is not a number"),
    (slurm(2, 0, 0, NNODES="0"), Machines(), "SLURM says SLURM_NNODES='0', which is not a number from 1 on."),
    (torchrun(), Machines(4), "torchrun started 2 processes on each of 2 machines, which is not devices 4"),
    (torchrun(1, 1, 0), Machines(2), "torchrun started 1 processes on each of 1 machines, which is not devices 2"),
    (torchrun(None), Machines(), "torchrun says WORLD_SIZE='', which is not a number from 1 on."),
    (torchrun("x"), Machines(), "torchrun says WORLD_SIZE='x', which is not a number from 1 on."),
    (torchrun(here=0), Machines(), "torchrun says LOCAL_WORLD_SIZE='0', which is not a number from 1 on."),
    (torchrun(3, here=2), Machines(), "torchrun says that there are 3 processes (WORLD_SIZE), which is not 2 on each"),
    (torchrun(rank=7), Machines(), "torchrun says that this is process 7 (RANK) of 4 (WORLD_SIZE), counted from 0."),
    (torchrun() | {"LOCAL_RANK": "2"}, Machines(), "torchrun says that this is process 2 (LOCAL_RANK) of 2 (LOCAL"),
    (
        torchrun() | {"MASTER_PORT": "text"},
        Machines(),
        "The environment says MASTER_PORT='text', which is not a number",
    ),
    (torchrun() | {"MASTER_PORT": "99999"}, Machines(), "The environment says MASTER_PORT='99999', which is more than"),
    (slurm("9" * 29), Machines(), f"SLURM says SLURM_NTASKS='{'9' * 29}', which is more than 1,000,000."),
    (slurm("9" * 5000), Machines(), f"SLURM says SLURM_NTASKS='{'9' * 60}...', which is more than 1,000,000."),
    ({"WORLD_SIZE": "text", "RANK": "0"}, Machines(), "The launcher says WORLD_SIZE='text', which is not a number"),
    ({"MASTER_PORT": "text"}, Machines(2), "The environment says MASTER_PORT='text', which is not a number from 1 on."),
    # Launchers that are not understood.
    (
        {"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1"},
        Machines(),
        "MPI started 3 processes (OMPI_COMM_WORLD_SIZE), and each would do all of the work.",
    ),
    ({"PMI_SIZE": "2", "PMI_RANK": "0"}, Machines(2), "MPI started 2 processes (PMI_SIZE)"),
    ({"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "0"}, Machines(), "MPI started 2 processes (MV2_COMM"),
    ({"PMI_SIZE": "many", "PMI_RANK": "0"}, Machines(), "MPI says PMI_SIZE='many', which is not a number"),
    (
        {"WORLD_SIZE": "4", "RANK": "1", "MASTER_ADDR": "there"},
        Machines(),
        "This is process 1 (RANK) of 4 (WORLD_SIZE)",
    ),
]


@pytest.mark.parametrize(("environment", "machines", "sentence"), REFUSED)
def test_what_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, machines: Machines, sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        told(monkeypatch, environment, machines)
    assert caught.value.message.startswith(sentence)


RANKS: list[tuple[Environment, int]] = [
    ({}, 0),
    (slurm(1, 0, 0), 0),
    (slurm(4, 3, 1), 3),
    (slurm(4, 0, 0), 0),
    (slurm(1, 5, 5), 0),  # one task has no others
    (torchrun(rank=3), 3),
    (torchrun(rank=0), 0),
    (torchrun(rank=0) | slurm(4, 3, 1), 0),
    ({"WORLD_SIZE": "1", "RANK": "1"}, 0),  # none of its one process
    ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "1"}, 0),
    ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "-1", "NODE_RANK": "2"}, 0),
    ({"WORLD_SIZE": "1", "RANK": "", "LOCAL_RANK": "1"}, 0),
    ({"WORLD_SIZE": "1", "LOCAL_RANK": "1"}, 0),
    ({"WORLD_SIZE": "1", "RANK": "0", "NODE_RANK": "1", "MASTER_ADDR": "there"}, 1),  # the second machine of several
    ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "1"}, 1),  # the options of a process that was alone have started it
    ({"LOCAL_RANK": "1"}, 1),  # started by the options of the first
    ({"LOCAL_RANK": "0"}, 0),
    ({"RANK": "2", "LOCAL_RANK": "0"}, 2),
    ({"RANK": "9", "WORLD_SIZE": "4"}, 0),  # else nobody would say that it is none of them
    ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "2"}, 2),
    ({"PMI_SIZE": "3", "PMI_RANK": "1"}, 1),
    ({"PMI_RANK": "3"}, 0),
]


@pytest.mark.parametrize(("environment", "rank"), RANKS)
def test_the_number_of_this_process(monkeypatch: pytest.MonkeyPatch, environment: Environment, rank: int) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank_here() == rank
