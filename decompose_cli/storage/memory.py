"""How much memory there is, so that what cannot fit is refused before the work and not by the system."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

from decompose_cli.errors import InputError
from decompose_cli.storage.control_groups import own_groups

_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"), 2: ("memory.max", "memory.current", "")}
"""The limit of a control group, what it has taken of it, and how names of all groups below it begin; by version."""


def free_memory() -> float:
    """Bytes that this process may still take, by the machine and by its limits and those of its control groups.

    Infinite where nothing says.
    """
    groups = [_left_to_group(group, version) for version, group in own_groups("memory")]
    return min(_left_on_machine(), _left_to_process(), *groups)


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


def _left_to_group(group: Path, version: int) -> float:
    limit, taken, below = _FILES[version]
    with suppress(OSError, ValueError):
        most = float((group / limit).read_text(encoding="ascii").replace("max", "inf"))
        used = float((group / taken).read_text(encoding="ascii"))
        with suppress(OSError, ValueError):
            stored = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            # Pages of files that were read are given back when memory is wanted, as MemAvailable counts them.
            used -= sum(float(stored.get(f"{below}{name}_file", 0)) for name in ("active", "inactive"))
        return max(0.0, most - max(0.0, used))
    return math.inf
