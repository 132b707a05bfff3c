"""Threads that each have a worker of their own, such as a copy of a network, and operators that use one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch

Worker = TypeVar("Worker")
Value = TypeVar("Value")


class WorkerThreads(Generic[Worker]):
    """A thread for each worker, as a context. When it ends, what is under way is finished, and the rest is dropped.

    The threads of an operator meet at every layer of a network; on a busy machine they spend most of the time waiting
    for one another. Threads that compute different images have nothing to wait for, and what a thread computes does not
    depend on how many there are.

    Args:
        workers: What the functions of :meth:`submit` work with, one at a time for each.
        alone: Threads of operators where there is one worker, as of a network of which there are no copies.

    Attributes:
        workers: The same.
    """

    def __init__(self, workers: Sequence[Worker], alone: int = 1) -> None:
        self._alone = alone
        self.workers = list(workers)
        self._free: SimpleQueue[Worker] = SimpleQueue()
        for worker in workers:
            self._free.put(worker)

    def __enter__(self) -> WorkerThreads[Worker]:
        self._outside = torch.get_num_threads()
        # A worker that is alone has the threads of the operators.
        each = 1 if len(self.workers) > 1 else self._alone
        self._pool = ThreadPoolExecutor(len(self.workers), initializer=torch.set_num_threads, initargs=(each,))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._outside)  # what threads set for themselves is what later threads begin with

    def submit(self, function: Callable[..., Value], *args: Any) -> Future[Value]:
        """Call a function with a worker that is free, and these arguments, in one of the threads."""
        return self._pool.submit(self._called, function, args)

    def _called(self, function: Callable[..., Value], args: tuple[Any, ...]) -> Value:
        worker = self._free.get()
        try:
            return function(worker, *args)
        finally:
            self._free.put(worker)
