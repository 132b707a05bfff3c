"""Memory that is left, with the files of control groups made here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers.control_groups import in_groups

from decompose_cli.errors import InputError
from decompose_cli.storage import memory
from decompose_cli.storage.memory import check_fits, free_memory

V1 = "memory/job/memory."


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (None, {}, 1000),
        ("0::/\n", {}, 1000),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "10\n"}, 1000),
        ("0::/\n", {"memory.max": "500\n", "memory.current": "100\n"}, 400),
        ("0::/\n", {"memory.max": "500\n", "memory.current": "600\n"}, 0),
        ("0::/\n", {"memory.max": "5000\n", "memory.current": "100\n"}, 1000),
        ("0::/\n", {"memory.max": "500\n"}, 1000),
        ("0::/\n", {"memory.max": "nonsense\n", "memory.current": "100\n"}, 1000),
        (
            "0::/\n",
            {
                "memory.max": "500",
                "memory.current": "450",
                "memory.stat": "anon 50\nactive_file 100\ninactive_file 300\n",
            },
            450,
        ),
        ("0::/\n", {"memory.max": "500", "memory.current": "450", "memory.stat": "nonsense"}, 50),
        (
            "0::/job/step\n",
            {
                "job/memory.max": "500",
                "job/memory.current": "300",
                "job/step/memory.max": "400",
                "job/step/memory.current": "10",
            },
            200,
        ),
        ("11:memory:/job\n", {f"{V1}limit_in_bytes": "500", f"{V1}usage_in_bytes": "200"}, 300),
        (
            "11:memory:/job\n",
            {f"{V1}limit_in_bytes": "500", f"{V1}usage_in_bytes": "200", f"{V1}stat": "total_inactive_file 150\n"},
            450,
        ),
        ("11:memory:/job\n", {f"{V1}limit_in_bytes": str(2**63 - 4096), f"{V1}usage_in_bytes": "200"}, 1000),
        ("11:cpu:/job\n", {f"{V1}limit_in_bytes": "500", f"{V1}usage_in_bytes": "200"}, 1000),
    ],
)
def test_limits_of_control_groups_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str | None, files: Mapping[str, str], expected: float
) -> None:
    monkeypatch.setattr(memory, "_left_on_machine", lambda: 1000.0)
    monkeypatch.setattr(memory, "_left_to_process", lambda: math.inf)
    in_groups(monkeypatch, tmp_path / "cgroup", groups, files)
    assert free_memory() == expected
    check_fits(expected, "The work", "Do less.")
    with pytest.raises(InputError, match=r"^The work takes .* of memory at least"):
        check_fits(expected + 1, "The work", "Do less.")
