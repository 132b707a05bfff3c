"""The control groups of this process, which say how much of the machine it may take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def own_groups(controller: str) -> Iterator[tuple[int, Path]]:
    """The folders of the control groups that limit this process, each with the version of its files, 1 or 2.

    Args:
        controller: What is limited, as version 1 calls it: ``cpu``, ``memory``.
    """
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, place = line.split(":", 2)
            if not controllers:
                group = _CGROUPS / place.lstrip("/")
                yield from ((2, each) for each in (group, *group.parents) if each.is_relative_to(_CGROUPS))
            elif controller in controllers.split(","):
                yield from ((1, _CGROUPS / controllers / each) for each in (place.lstrip("/"), ""))
