"""Work that one process of several leads: the others wait, and help where it asks them to."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from decompose_cli.errors import DecomposeError, first_line

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

Value = TypeVar("Value")
Task = Callable[[int, int], Any]
"""A part of some work, called with the number of the process and the number of processes."""

_led: ContextVar[Fabric | None] = ContextVar("decompose_led_processes", default=None)
_joined: ContextVar[Fabric | None] = ContextVar("decompose_joined_processes", default=None)


def on_first(fabric: Fabric, work: Callable[[], Value]) -> Value:
    """Do something in the first process only; every process gets its result, or its error.

    Meanwhile the others do the tasks of :func:`together`.
    """
    if fabric.world_size == 1:
        return work()
    joined = _joined.set(fabric)
    try:
        return _leading(fabric, work) if fabric.is_global_zero else _helping(fabric)
    finally:
        _joined.reset(joined)


def _leading(fabric: Fabric, work: Callable[[], Value]) -> Value:
    token = _led.set(fabric)
    try:
        result = work()
    except DecomposeError as error:
        fabric.broadcast((None, None, error))
        raise
    except Exception as error:  # else the other processes would wait for ever
        fabric.broadcast((None, None, DecomposeError(f"The first process failed: {first_line(error)}.")))
        raise
    finally:
        _led.reset(token)
    fabric.broadcast((None, result, None))
    return result


def _helping(fabric: Fabric) -> Any:
    while True:
        message: tuple[Task | None, Any, DecomposeError | None] = (None, None, None)
        task, result, failure = fabric.broadcast(message)
        if failure is not None:
            raise failure
        if task is None:
            return result
        _outcomes(fabric, task)  # errors are for the first process, which says how it goes on


def together(task: Task) -> list[Any]:
    """Do a task in every process that the first one leads, and in this one alone where it leads none.

    Args:
        task: A function that can be pickled.

    Returns:
        What each process returned, in the order of the processes.

    Raises:
        DecomposeError: The error of the first process that raised one; the others have come to their end.
    """
    fabric = _led.get()
    if fabric is None:
        return [task(0, 1)]
    fabric.broadcast((task, None, None))
    outcomes = _outcomes(fabric, task)
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    return [value for value, _ in outcomes]


def processes_led() -> int:
    """Number of processes that would take part in :func:`together`."""
    fabric = _led.get()
    return 1 if fabric is None else fabric.world_size


def device_led() -> torch.device | None:
    """The device of this process among those that work together; None for one that works alone."""
    fabric = _joined.get()
    return None if fabric is None else fabric.device


def _outcomes(fabric: Fabric, task: Task) -> list[tuple[Any, Exception | None]]:
    """The value or the error of each process; none of them waits for one that has failed."""
    import torch

    own: tuple[Any, Exception | None]
    try:
        own = task(fabric.global_rank, fabric.world_size), None
    except DecomposeError as error:
        own = None, error
    except Exception as error:
        what = (
            f"Process {fabric.global_rank} of {fabric.world_size} failed: {type(error).__name__}: {first_line(error)}."
        )
        own = None, error if fabric.is_global_zero else DecomposeError(what)
    outcomes: list[Any] = [None] * fabric.world_size
    sent = own if own[1] is None or isinstance(own[1], DecomposeError) else (None, DecomposeError(first_line(own[1])))
    torch.distributed.all_gather_object(outcomes, sent)
    outcomes[fabric.global_rank] = own
    return outcomes


def sum_over_processes(fabric: Fabric, values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes; the tensor itself where there is one process."""
    if fabric.world_size == 1:
        return values
    return fabric.all_reduce(values.clone(), reduce_op="sum")  # type: ignore[return-value]
