"""What is set for a whole process while blocks run that may overlap, in threads of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any


class Overlapping:
    """Sets something before the first of blocks that overlap, and puts it back after the last.

    If each block put back what it had found, one that began later would put back what an earlier one had set.

    Args:
        make: Makes the context that sets it.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._blocks = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._blocks == 0:
                self._context = self._make()
                self._context.__enter__()
            self._blocks += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                self._context.__exit__(None, None, None)
