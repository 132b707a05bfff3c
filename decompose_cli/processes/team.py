"""Work that one process of several leads: the others wait, and help where it asks them to."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from decompose_cli.errors import DecomposeError, first_line, param

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

Value = TypeVar("Value")
Task = Callable[[int, int], Any]
"""A part of some work, called with the number of the process and the number of processes."""

ENDED = "Another process of this command ended before its work was done."

_led: ContextVar[Fabric | None] = ContextVar("decompose_led_processes", default=None)
_member: ContextVar[Fabric | None] = ContextVar("decompose_team", default=None)


def on_first(fabric: Fabric, work: Callable[[], Value]) -> Value:
    """Do something in the first process only; every process gets its result, or its error.

    Meanwhile the others do the tasks of :func:`together`. Within such work, a process does further work by itself.

    Raises:
        DecomposeError: The work failed, or another process has ended.
    """
    if fabric.world_size == 1 or _member.get() is not None:
        return work()
    with _set(_member, fabric):
        if not fabric.is_global_zero:
            return _helping(fabric)  # type: ignore[no-any-return]
        try:
            with _set(_led, fabric):
                result = work()
        except DecomposeError as error:
            _tell(fabric, error)
            raise
        except Exception as error:  # else the other processes would wait for ever
            _tell(fabric, DecomposeError(f"The first process failed: {type(error).__name__}: {first_line(error)}."))
            raise
        with suppress(RuntimeError):  # one that has gone by now is missed where it is needed again
            fabric.broadcast((None, result, None))
        return result


def _tell(fabric: Fabric, failure: DecomposeError) -> None:
    with suppress(RuntimeError):  # a process has gone; the others notice when this one ends
        fabric.broadcast((None, None, failure))


@contextmanager
def _set(variable: ContextVar[Fabric | None], value: Fabric | None) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _helping(fabric: Fabric) -> Any:
    while True:
        message: tuple[Task | None, Any, DecomposeError | None] = (None, None, None)
        with _connected():
            task, result, failure = fabric.broadcast(message)
        if failure is not None:
            raise failure
        if task is None:
            return result
        _outcomes(fabric, task)  # errors are for the first process, which says how it goes on


@contextmanager
def _connected() -> Iterator[None]:
    """Say that a process has gone where the connection to it fails."""
    try:
        yield
    except RuntimeError as error:  # among them those of torch.distributed
        raise DecomposeError(
            ENDED,
            hint="Memory may have run out there. What was finished is kept: start the command again.",
        ) from error


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether an error of torch says that another process, with which this one exchanges tensors, has gone."""
    import torch.distributed

    kinds = (torch.distributed.DistBackendError, torch.distributed.DistNetworkError)
    return isinstance(error, kinds) or "gloo" in str(error)


def together(task: Task) -> list[Any]:
    """Do a task in every process that the first one leads, and in this one alone where it leads none.

    Args:
        task: A function that can be pickled.

    Returns:
        What each process returned, in the order of the processes.

    Raises:
        DecomposeError: The error of the first process that raised one; the others have come to their end. Or the task
            cannot be sent to the others, or one of them has ended.
    """
    fabric = _led.get()
    if fabric is None:
        return [task(0, 1)]
    try:
        with _connected():
            fabric.broadcast((task, None, None))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DecomposeError(
            f"The work cannot be sent to the other processes: {first_line(error)}.",
            hint=f"Let one process do it: {param('devices')} 1.",
        ) from error
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
    fabric = _member.get()
    return None if fabric is None else fabric.device


def _outcomes(fabric: Fabric, task: Task) -> list[tuple[Any, Exception | None]]:
    """The value or the error of each process; none of them waits for one that has failed."""
    import torch

    own: tuple[Any, Exception | None]
    try:
        with _set(_led, None):  # the others are busy
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
    with _connected():
        torch.distributed.all_gather_object(outcomes, sent)
    outcomes[fabric.global_rank] = own
    return outcomes


def sum_over_processes(fabric: Fabric, values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes; the tensor itself where there is one process."""
    if fabric.world_size == 1:
        return values
    return fabric.all_reduce(values.clone(), reduce_op="sum")  # type: ignore[return-value]
