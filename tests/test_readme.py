"""What the READMEs show is what the program prints, and what was measured."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from helpers.command_line import content, document_of, run
from helpers.markdown import table_after
from helpers.processes import PROGRAM

ROOT = Path(__file__).parents[1]


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.mark.usefixtures("warm")
def test_demo_output_in_the_readme_is_real() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- demo output.*?```text\n(.*?)```", readme, flags=re.DOTALL)
    assert block is not None
    printed = iter(lines_of(run("demo").stderr))
    shown = lines_of(block.group(1))
    assert len(shown) >= 12
    for line in shown:
        assert line in printed, f"the demo does not print (in this order): {line!r}"


def test_what_the_readme_says_of_the_demo_is_what_it_shows() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.search(r"Five of 64 features per class keep ([\d.]+)% of the images right, (\d+) keep as many", readme)
    full = re.search(r"^ full +(\d+) of 360 ", readme, flags=re.MULTILINE)
    assert said is not None
    assert full is not None
    correct = {int(k): (int(count), float(top1)) for k, count, top1 in re.findall(r" (\d+) +(\d+) +(\d+\.\d+)", readme)}
    assert correct[5][1] == float(said[1])
    assert min(k for k, (count, _) in correct.items() if count >= int(full[1])) == int(said[2])


def test_commands_in_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"decompose ([a-z][a-z-]+)", readme))
    assert {"validate", "extract-indices", "sweep"} <= commands
    for name in commands - {"takes", "does"}:
        run(name, "--help")


def test_the_table_of_reproduced_counts_is_what_was_measured() -> None:
    measured = content(ROOT / "docs" / "reproduced.json")["tables"]["counts"]["rows"]
    shown = table_after((ROOT / "README.md").read_text(encoding="utf-8"), "| network and indices |")
    assert shown == [[str(cell) for cell in row] for row in measured[:-1]]  # the last is a finding of ours alone
    assert len(shown) == 8


def test_shipped_weights_are_those_described() -> None:
    digest = hashlib.sha256((ROOT / "weights" / "resnet20-digits.safetensors").read_bytes()).hexdigest()
    assert digest in (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    assert (ROOT / "weights" / "resnet20-digits.safetensors").stat().st_size < 1_500_000


@pytest.mark.usefixtures("warm")
def test_shipped_network_is_as_accurate_as_stated() -> None:
    found = document_of("validate")["results"]
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
    command = [*PROGRAM, *line.split(), "-o", "run", "-q"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"}, timeout=600)
    found = json.loads(Path("run/result.json").read_text(encoding="utf-8"))["results"]["last"]["test"]
    assert found["images"] == 360
    assert 353 <= found["correct"] <= 360
    shipped, made = ROOT / "weights" / "resnet20-digits.safetensors", Path("run/model.safetensors")
    assert read_checkpoint(made).metadata == read_checkpoint(shipped).metadata
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and cores() >= 2:
        assert made.read_bytes() == shipped.read_bytes()
