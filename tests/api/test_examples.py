"""The whole study on a module and loaders of one's own: the figures of the commands, to the last digit."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.command_line import invoke

import decompose_cli as dc

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMANDS: dict[str, list[str]] = {
    "validate": ["validate", "-i", "k5.json", "--temperature", "fit", "--coverage", "0.9"],
    "sweep": [
        *("sweep", "--methods", "frequency,weight", "--ks", "1-10"),
        *("--max-drop", "1", "--max-class-drop", "20"),
    ],
    "sparsify": ["sparsify", "-k", "2,3", "--method", "backward"],
    "essential": ["essential", "-i", "k5.json", "--repeats", "10"],
    "mutual_info": ["mutual-info", "resnet20-digits", "-i", "frequency=k5.json"],
    "selectivity": ["selectivity", "--layers", "layer3.2"],
    "filters": ["filters", "-c", "4", "-i", "k5.json", "--against", "9"],
    "explain": ["explain", "--worst", "2", "-i", "k5.json"],
    "finetune": ["finetune", "-k", "2", "--epochs", "2", "--augment", "none", "--only", "head"],
}
ELSEWHERE = {
    *("file", "sheet", "plot", "source", "sha256", "indices_sha256", "weights_source", "checkpoint", "checkpoints"),
    *("indices", "seconds", "images_per_second", "layer"),
}
"""Where things came from and went to, and how long they took."""
NAMES = {"body.layer3.2": "layer3.2"}


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("whole_study", EXAMPLES / "whole_study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same(found: Any, expected: Any, place: str) -> None:
    """Whole numbers, names and signs are equal; other numbers but for the rounding of batches of other sizes."""
    if isinstance(expected, dict):
        kept = [{NAMES.get(key, key): one for key, one in d.items() if key not in ELSEWHERE} for d in (found, expected)]
        assert kept[0].keys() == kept[1].keys(), place
        for key, one in kept[1].items():
            assert_same(kept[0][key], one, f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{place}.{number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4), place
    else:
        assert found == expected, place


def test_every_figure_is_that_of_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    module = example()
    found = module.study(module.Net().eval(), module.loader_of("train"), module.loader_of("test"))
    dc.write_index_set(found["indices"], "k5.json")
    assert invoke("extract-indices", "-k", "5", "-o", "by-command.json").exit_code == 0
    assert dc.read_index_set("by-command.json").classes == found["indices"].classes
    for name, command in COMMANDS.items():
        done = invoke(*command, "-o", name)
        assert done.exit_code == 0, done.stderr
        path = Path(name)
        written = json.loads((path / "result.json" if path.is_dir() else path).read_text())
        results = json.loads(found[name].model_dump_json())
        assert_same(results, written["results"], name)
        assert found[name].document.command == written["command"]
    capsys.readouterr()
    module.tell(found)
    printed = capsys.readouterr().out
    expected_page = json.loads(Path("validate").read_text())["results"]
    assert f"{expected_page['decomposed']['correct']} of 360 right" in printed
    assert len(re.findall(r"image \d+: a \d taken for a \d", printed)) == 2


def test_the_script_runs_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().iterdir())
    example().main()
    assert capsys.readouterr().out.startswith("five features per digit: 351 of 360 right")
    assert sorted(Path().iterdir()) == before, "no file"
