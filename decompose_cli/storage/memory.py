"""How much memory there is, so that what cannot fit is refused before the work and not by the system."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

from decompose_cli.errors import InputError


def free_memory() -> float:
    """Bytes that this process may still take, by the machine and by its limits; unlimited where nothing says."""
    return min(_left_on_machine(), _left_to_process())


def check_fits(needed: float, what: str, hint: str) -> None:
    """Refuse work that takes more memory than is left.

    Args:
        needed: Bytes that it takes at least.
        what: The work, as the beginning of a sentence.
        hint: What to do instead.

    Raises:
        InputError: It takes more.
    """
    if needed > (left := free_memory()):
        raise InputError(
            f"{what} takes {needed / 1e9:,.1f} GB of memory at least, and {left / 1e9:,.1f} GB are left.", hint=hint
        )


def _left_on_machine() -> float:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return 1024.0 * int(value.split()[0])
    with suppress(AttributeError, ValueError, OSError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return math.inf


def _left_to_process() -> float:
    with suppress(ImportError, OSError, ValueError):
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            return max(0.0, float(most) - pages * os.sysconf("SC_PAGE_SIZE"))
    return math.inf
