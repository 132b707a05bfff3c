"""The program in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

PROGRAM = (sys.executable, "-m", "decompose_cli")


def environment(**changes: str | None) -> dict[str, str]:
    """Of this process, with changes; None takes a variable out."""
    values = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **changes}
    return {name: value for name, value in values.items() if value is not None}


def python(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script."""
    return _done([sys.executable, "-c", code, *arguments], **options)


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    return _done([*PROGRAM, *arguments], **options)


def _done(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "env": environment(), "timeout": 100, **options}
    return subprocess.run(command, text=True, check=False, **options)
