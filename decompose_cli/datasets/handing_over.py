"""How images get from the processes that decode them to the one that uses them, also where shared memory is short."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from decompose_cli.errors import first_line
from decompose_cli.messages import note

_Item = TypeVar("_Item")


class HandedOver:
    """Images on their way out of a process: in shared memory, or through the pipe where that cannot be had.

    Containers have 64 MB of it by default. Where a tensor does not fit, torch fails in a thread that loses it without a
    word, and the reader would wait for ever.

    Attributes:
        images: The images, uint8, of any shape.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __reduce__(self) -> tuple[Callable[..., HandedOver], tuple[Any, ...]]:
        """Called in the process that hands the images over."""
        try:
            return _from_shared_memory, (bytes(ForkingPickler.dumps(self.images)),)
        except (OSError, RuntimeError) as error:  # it is full or missing, or a socket has no place
            return _from_pipe, (self.images.numpy(), first_line(error).rpartition(": ")[2])

    def pin_memory(self) -> HandedOver:
        """The same in memory that a GPU reads from; the loader calls it."""
        return HandedOver(self.images.pin_memory())


def _from_shared_memory(handle: bytes) -> HandedOver:
    return HandedOver(pickle.loads(handle))


def _from_pipe(images: NDArray[np.uint8], reason: str) -> HandedOver:
    note(f"Processes that decode images cannot use shared memory ({reason}); they send them through pipes instead.")
    return HandedOver(torch.from_numpy(images))


def begun(loader_with: Callable[[int], DataLoader[_Item]], workers: int) -> Iterator[_Item]:
    """Let worker processes begin; where none can be started, this process does their work.

    Args:
        loader_with: Makes the loader, for a number of worker processes.
        workers: How many there should be.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # torch's iterator, half made, fails again as it goes
    try:
        return iter(loader_with(workers))
    except (OSError, ImportError) as error:  # no semaphores, no memory for them, too many processes
        if workers == 0:
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    finally:
        sys.unraisablehook = hook
    note(f"No processes that decode images can be started here ({reason}); this one decodes them itself.")
    return iter(loader_with(0))
