"""Control groups of this process that are files made here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from decompose_cli.storage import control_groups


def in_groups(monkeypatch: pytest.MonkeyPatch, root: Path, groups: str | None, files: Mapping[str, str]) -> None:
    """Let this process be in these groups, as its ``/proc/self/cgroup`` says, which have these files below a root."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    read = Path.read_text

    def of_process(path: Path, *arguments: str, **options: str) -> str:
        if str(path) != "/proc/self/cgroup":
            return read(path, *arguments, **options)
        if groups is None:
            raise FileNotFoundError(path)
        return groups

    monkeypatch.setattr(Path, "read_text", of_process)
    monkeypatch.setattr(control_groups, "_CGROUPS", root)
