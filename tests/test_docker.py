"""The container's recipe: what it is built on, whom it runs as, and what gets into it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """The instructions of the recipe, each on one line."""
    text = re.sub(r"^#.*\n", "", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    lines = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(name, " ".join(rest.split())) for name, rest in lines]


def all_of(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def test_the_base_is_slim_and_pinned() -> None:
    (base,) = all_of("FROM")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base), base
    assert "latest" not in FILE.read_text(encoding="utf-8")


def test_it_runs_as_a_user_without_rights() -> None:
    names = [name for name, _ in instructions()]
    assert all_of("USER") == ["decompose"]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name == "RUN")
    assert names.index("USER") < names.index("ENTRYPOINT")


def test_torch_is_that_for_the_processor_unless_another_index_is_named() -> None:
    assert all_of("ARG") == ["TORCH_INDEX=https://download.pytorch.org/whl/cpu"]
    assert sum('--index-url "$TORCH_INDEX"' in run for run in all_of("RUN")) == 1


def test_what_is_copied_is_there_and_is_not_left_out() -> None:
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = [name for line in all_of("COPY") for name in line.split()[:-1]]
    assert {"requirements.txt", "pyproject.toml", "decompose_cli"} <= set(copied)
    assert kept[0] == "*"
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in kept, name


def test_shared_memory_is_spoken_of() -> None:
    assert "--shm-size" in FILE.read_text(encoding="utf-8")
    assert "--shm-size" in (ROOT / "docker" / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(["hadolint", str(FILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
