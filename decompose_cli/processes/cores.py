"""How many cores of the processor a process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

from decompose_cli.errors import InputError, param
from decompose_cli.storage.control_groups import own_groups

_MOST_FOR_A_CORE = 4


_sharing = 1


def share_cores(processes: int) -> None:
    """From now on, leave the other processes of the command their parts of the cores that all of them are bound to."""
    global _sharing
    _sharing = processes


def cores() -> int:
    """Processor cores for this process: of those it is bound to, or fewer where its cgroup gets less time, its part."""
    return max(1, _usable() // _sharing)


def check_count(count: int, name: str) -> None:
    """Refuse more processes or threads than keep the cores busy: each takes memory, and they only wait for one another.

    Args:
        count: How many.
        name: The parameter that says so.

    Raises:
        InputError: They are more than four times the cores that this command may use.
    """
    if count > (most := _MOST_FOR_A_CORE * _usable()):
        raise InputError(
            f"{param(name)} {count:,} is more than {most}, four times the cores that this command may use.",
            hint=f"Give {param(name)} at most {most}, or leave it out.",
        )


def _usable() -> int:
    """Cores of all processes of the command on this machine."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, bound if quota is None else min(bound, math.ceil(quota)))


def _quota() -> float | None:
    """Cores whose time the control groups of this process may take, the least of them; None for no limit."""
    of_version = {1: _of_version_1, 2: _of_version_2}
    limits = [of_version[version](group) for version, group in own_groups("cpu")]
    return min(filter(math.isfinite, limits), default=None)


def _of_version_2(group: Path) -> float:
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        return float("inf") if quota == "max" else int(quota) / int(period)
    return float("inf")


def _of_version_1(group: Path) -> float:
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return float("inf") if quota < 0 else quota / int((group / "cpu.cfs_period_us").read_text())
    return float("inf")


def threads_for(asked: int | None) -> int:
    """Threads that compute on the processor: as many as were asked for, else what torch has been told to use.

    Raises:
        InputError: The number is not at least 1.
    """
    import torch

    if asked is not None and asked < 1:
        raise InputError(f"{param('threads')} {asked} is not at least 1.")
    return asked or torch.get_num_threads()


def use_threads(asked: int | None) -> None:
    """Let torch's operators use so many threads; by default one per core, if the environment says nothing.

    Args:
        asked: Threads, or None.

    Raises:
        InputError: The number is not at least 1.
    """
    import torch

    count = threads_for(asked)
    if asked is None and "OMP_NUM_THREADS" not in os.environ:
        count = min(count, cores())
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
