"""Cores that a process may use, with the files of control groups made here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from helpers.control_groups import in_groups

from decompose_cli.errors import InputError
from decompose_cli.processes import cores as module
from decompose_cli.processes.cores import cores, threads_for, use_threads


def fake(
    monkeypatch: pytest.MonkeyPatch, root: Path, groups: str | None, files: Mapping[str, str], bound: int = 8
) -> None:
    """A system whose process is in these groups, bound to so many cores."""
    in_groups(monkeypatch, root, groups, files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)))


V1 = "11:memory:/job\n5:cpu,cpuacct:/job\n1:name=systemd:/job\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (None, {}, 8),
        ("", {}, 8),
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),  # two and a half
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        ("0::/job/step\n", {"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
        ("0::/job/step\n", {"job/cpu.max": "300000 100000", "job/step/cpu.max": "200000 100000"}, 2),
        ("0::/seen/from/outside\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "200000 0"}, 8),
        ("0::/\n", {"cpu.max": "nonsense"}, 8),
        ("0::/\n", {"cpu.max": ""}, 8),
        ("nonsense\n", {"cpu.max": "200000 100000"}, 8),
        (V1, {"cpu,cpuacct/job/cpu.cfs_quota_us": "200000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, 2),
        (V1, {"cpu,cpuacct/job/cpu.cfs_quota_us": "-1", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "150000", "cpu,cpuacct/cpu.cfs_period_us": "50000"}, 3),
        (V1, {"cpu,cpuacct/job/cpu.cfs_quota_us": "200000"}, 8),
        (V1, {"memory/job/cpu.cfs_quota_us": "100000", "memory/job/cpu.cfs_period_us": "100000"}, 8),
        (V1 + "0::/job\n", {"job/cpu.max": "100000 100000"}, 1),
    ],
)
def test_limits_of_control_groups_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str | None, files: dict[str, str], expected: int
) -> None:
    fake(monkeypatch, tmp_path / "cgroup", groups, files)
    assert cores() == expected


def test_a_process_that_is_bound_uses_no_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch, tmp_path / "cgroup", "0::/\n", {"cpu.max": "400000 100000"}, bound=3)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert cores() == 4
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_threads_are_those_asked_for() -> None:
    assert threads_for(3) == 3
    assert threads_for(None) == torch.get_num_threads()
    for count in (0, -1):
        with pytest.raises(InputError, match=f"^threads {count} is not at least 1"):
            threads_for(count)


@pytest.mark.parametrize(
    ("asked", "here", "environment", "before", "expected"),
    [
        (3, 1, None, 1, 3),
        (3, 4, "2", 2, 3),
        (None, 1, None, 8, 6),  # what the cgroup has
        (None, 2, None, 8, 3),
        (None, 7, None, 8, 1),
        (None, 1, None, 4, 4),  # torch knows of fewer
        (None, 2, "5", 5, 5),  # as the environment says
    ],
)
def test_operators_use_a_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    asked: int | None,
    here: int,
    environment: str | None,
    before: int,
    expected: int,
) -> None:
    fake(monkeypatch, tmp_path / "cgroup", "0::/\n", {"cpu.max": "600000 100000"})
    used = [before]
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr(module, "_sharing", here)
    use_threads(asked)
    assert used[-1] == expected
