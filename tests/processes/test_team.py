"""Work that one process leads, in two and three real processes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.forks import Ended, Forks

COMMON = """
import json, os, sys, time
import torch
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.processes.cluster import Machines
from decompose_cli.processes.launch import start
from decompose_cli.processes.team import device_led, on_first, processes_led, sum_over_processes, together

RANK = int(os.environ["SLURM_PROCID"])

def square(rank, world):
    return [rank, world, processes_led(), str(device_led()), os.getpid() != PARENT]

def failing(rank, world):
    if rank == 1:
        raise InputError("the second cannot")
    return rank

def breaking(rank, world):
    if rank == 1:
        raise KeyError("unforeseen there")
    time.sleep(0.2)
    return rank

def failing_everywhere(rank, world):
    raise DecomposeError(f"number {rank} cannot")

def leaving(rank, world):
    if rank == 1:
        os.kill(os.getpid(), 9)
    return rank

def nested(rank, world):
    return [rank, together(square)[0][:3], on_first(FABRIC, lambda: rank)]

def outcome(work):
    try:
        return on_first(FABRIC, work)
    except DecomposeError as error:
        return [type(error).__name__, error.message]
    except Exception as error:
        return ["unforeseen", type(error).__name__, str(error)]

def refuse():
    raise InputError("bad input", hint="Give another.")

def break_off():
    raise ValueError("no such thing")

PARENT = os.getppid()
FABRIC = start("cpu", Machines(), trains=False)
"""


def run(forks: Forks, code: str, processes: int = 2) -> list[Any]:
    """What each process prints, as JSON, at the end of a script."""
    ended = forks.script(COMMON + code, processes)
    assert [each.code for each in ended] == [0] * processes, ended
    return [json.loads(each.stdout) for each in ended]


def test_every_process_gets_the_value_and_only_the_first_works(forks: Forks) -> None:
    code = """
work = lambda: [RANK, processes_led(), device_led() is not None]
print(json.dumps([outcome(work), outcome(work), processes_led(), device_led() is None]))
"""
    assert run(forks, code, 3) == [[[0, 3, True], [0, 3, True], 1, True]] * 3


def test_all_help_with_a_task_and_the_first_gets_what_they_return(forks: Forks) -> None:
    code = "print(json.dumps(outcome(lambda: [together(square), together(square)])))"
    expected = [[rank, 3, 1, "cpu", True] for rank in range(3)]
    assert run(forks, code, 3) == [[expected, expected]] * 3


def test_errors_are_everybodys(forks: Forks) -> None:
    code = """
print(json.dumps([
    outcome(refuse),
    outcome(break_off),
    outcome(lambda: together(failing)),
    outcome(lambda: together(breaking)),
    outcome(lambda: together(failing_everywhere)),
    outcome(lambda: together(lambda rank, world: rank)),
    outcome(lambda: "still there"),
]))
"""
    first, second = run(forks, code)
    assert first[0] == second[0] == ["InputError", "bad input"]
    assert first[1] == ["unforeseen", "ValueError", "no such thing"]
    assert second[1] == ["DecomposeError", "The first process failed: ValueError: no such thing."]
    assert first[2] == second[2] == ["InputError", "the second cannot"]
    assert first[3] == second[3] == ["DecomposeError", "Process 1 of 2 failed: KeyError: 'unforeseen there'."]
    assert first[4] == second[4] == ["DecomposeError", "number 0 cannot"]
    assert first[5] == second[5]
    assert first[5][1].startswith("The work cannot be sent to the other processes: ")
    assert first[6] == second[6] == "still there"


def test_an_error_keeps_its_hint_and_its_exit_code(forks: Forks) -> None:
    code = """
try:
    on_first(FABRIC, refuse)
except InputError as error:
    print(json.dumps([error.hint, error.exit_code, error.sentence]))
"""
    assert run(forks, code) == [["Give another.", 2, "bad input"]] * 2


def test_a_task_works_by_itself(forks: Forks) -> None:
    """What it would have done together, or by the first, it does alone: nobody listens to it."""
    code = "print(json.dumps(outcome(lambda: [together(nested), on_first(FABRIC, lambda: together(square)[1][:2])])))"
    assert run(forks, code) == [[[[rank, [0, 1, 1], rank] for rank in range(2)], [1, 2]]] * 2


def test_a_process_that_is_killed_is_told_of_in_a_sentence(forks: Forks) -> None:
    code = """
print(json.dumps(outcome(lambda: together(leaving))))
"""
    first, second = forks.script(COMMON + code)
    assert second.code == -9
    assert first.code == 0, first
    kind, sentence = json.loads(first.stdout)
    assert kind == "DecomposeError"
    assert sentence.startswith("Another process of this command ended before its work was done.")


def test_helpers_end_where_the_first_is_killed(forks: Forks) -> None:
    code = """
def leave():
    together(square)  # all have started
    os.kill(os.getpid(), 9)
print(json.dumps(outcome(leave)))
"""
    first, second, third = forks.script(COMMON + code, 3)
    assert first.code == -9
    for each in (second, third):
        assert each.code == 0, each
        assert json.loads(each.stdout)[1].startswith("Another process of this command ended before its work was done")


def test_values_are_added_up(forks: Forks) -> None:
    code = """
values = torch.tensor([RANK + 1.0, 2.0])
print(json.dumps([sum_over_processes(FABRIC, values).tolist(), values.tolist()]))
"""
    assert run(forks, code, 3) == [[[6.0, 6.0], [rank + 1.0, 2.0]] for rank in range(3)]


@pytest.mark.parametrize("threads", ["", "3"])
def test_the_connection_is_over_when_the_process_ends(forks: Forks, threads: str) -> None:
    """What was registered first is done last. With the connection still there, a process may be aborted."""
    before = "import atexit, torch\natexit.register(lambda: print(torch.distributed.is_initialized()))\n"
    ended: list[Ended] = forks.script(f"{before}{COMMON}torch.set_num_threads({threads or 1})\nprint(RANK)")
    assert ended == [Ended(0, f"{rank}\nFalse\n", "") for rank in range(2)]
