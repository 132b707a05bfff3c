"""What the README shows is what the program prints."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from decompose_cli.cli.app import app

ROOT = Path(__file__).parents[1]


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_demo_output_in_the_readme_is_real() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- demo output.*?```text\n(.*?)```", readme, flags=re.DOTALL)
    assert block is not None
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 0, result.stderr
    printed = iter(lines_of(result.stderr))
    for line in lines_of(block.group(1)):
        assert line in printed, f"the demo does not print (in this order): {line!r}"


def test_commands_in_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"decompose ([a-z][a-z-]+)", readme))
    assert {"validate", "extract-indices", "sweep"} <= commands
    for name in commands - {"takes", "does"}:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0, name


def test_shipped_weights_are_those_described() -> None:
    digest = hashlib.sha256((ROOT / "weights" / "resnet20-digits.safetensors").read_bytes()).hexdigest()
    assert digest in (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    assert (ROOT / "weights" / "resnet20-digits.safetensors").stat().st_size < 1_500_000


def test_shipped_network_is_as_accurate_as_stated() -> None:
    result = CliRunner().invoke(app, ["validate", "--json", "--quiet"])
    found = json.loads(result.stdout)["results"]
    assert found["total"] == 360
    assert found["original"]["correct"] == 358


@pytest.mark.slow
def test_shipped_network_is_what_its_command_makes() -> None:
    """The same bytes on a machine like the one it was made on, elsewhere an accuracy within noise."""
    import torch

    from decompose_cli.models.checkpoint import read_checkpoint
    from decompose_cli.storage.files import cores

    text = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    decompose (train .*)$", text, flags=re.MULTILINE)
    command = [sys.executable, "-m", "decompose_cli", *line.split(), "-o", "run", "-q"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"}, timeout=600)
    found = json.loads(Path("run/result.json").read_text(encoding="utf-8"))["results"]["last"]["test"]
    assert found["images"] == 360
    assert 353 <= found["correct"] <= 360
    shipped, made = ROOT / "weights" / "resnet20-digits.safetensors", Path("run/model.safetensors")
    assert read_checkpoint(made).metadata == read_checkpoint(shipped).metadata
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and cores() >= 2:
        assert made.read_bytes() == shipped.read_bytes()


def test_benchmark_table_is_what_the_scripts_printed() -> None:
    table = re.findall(r"^\| .+x .*\|$", (ROOT / "benchmarks" / "README.md").read_text(), flags=re.MULTILINE)
    printed = (ROOT / "benchmarks" / "results.txt").read_text()
    figures = [figure for row in table for figure in re.findall(r"\d+\.\d+x", row)]
    assert len(figures) >= 14
    assert [figure for figure in figures if figure not in printed] == []


def test_speeds_beside_the_benchmark_table_are_those_printed() -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    printed = (ROOT / "benchmarks" / "results.txt").read_text()
    speeds = re.findall(r"[\d,.]+ (?:images/s|GFLOP/s)", " ".join(readme.split()))
    assert len(speeds) >= 5
    assert [speed for speed in speeds if speed not in printed] == []
