"""Places that cannot be written, or that are taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import FAILED, REFUSED, invoke, names_in, refused
from helpers.rows import Rows, cases, results, words

COMMANDS = ["mutual-info -i {m}/document.json", "essential", "selectivity", "sweep"]


OUTPUTS: Rows = [
    ("folder for a file", "validate -o {m}/held", "held: it is a folder"),
    ("file that exists", "validate -o {m}/taken/file.json", "file.json exists already"),
    ("in a file", "validate -o {m}/taken/file.json/new.json", "file.json is not a folder"),
    ("far down in a file", "validate -o {m}/taken/file.json/a/b/new.json", "file.json is not a folder"),
    ("name too long", "validate -o " + "n" * 300, "nnn"),
    ("neither file nor folder", "validate --overwrite -o {m}/pipe", "pipe"),
    ("index file that exists", "extract-indices -o {m}/taken/file.json", "file.json exists already"),
    ("index file in a file", "extract-indices -o {m}/taken/file.json/k5.json", "file.json is not a folder"),
    ("index file in a folder that has it", "extract-indices -o {m}/held", "_k5_indices.json exists already"),
    (
        "several index files in a file",
        "extract-indices -k 5,10 -o {m}/taken/file.json",
        "file.json is named as a file",
    ),
    ("demo into a file", "demo -o {m}/taken/file.json", "file.json is not a folder"),
    ("demo into a full folder", "demo -o {m}/held", "held is not empty"),
    *((f"{command}: exists", f"{command} -o {{m}}/taken/file.json", "file.json") for command in COMMANDS),
    *((f"{command}: in a file", f"{command} -o {{m}}/taken/file.json/new", "is not a folder") for command in COMMANDS),
    *((f"{command}: far down", f"{command} -o {{m}}/taken/file.json/a/b", "is not a folder") for command in COMMANDS),
    *((f"{command}: folder", f"{command} -o {{m}}/taken", "taken: it is a folder") for command in COMMANDS[:3]),
    *((f"{command}: pipe", f"{command} -o {{m}}/pipe --overwrite", "pipe") for command in COMMANDS),
    *((f"{command}: name too long", f"{command} -o {'n' * 300}", "nnn", "File name too long") for command in COMMANDS),
    ("sweep: result there", "sweep -o {m}/result", "result.json exists already"),
    ("sweep: curve there", "sweep -o {m}/curve", "curve.png exists already"),
    ("sweep: indices there", "sweep --max-drop 1 -o {m}/chosen", "indices.json exists already"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(OUTPUTS))
def test_bad_output(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    refused(words(line, material), REFUSED, *fragments)


@pytest.mark.parametrize("command", ["validate", *COMMANDS])
def test_output_is_refused_before_any_work_is_done(
    material: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def work_nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("something was read before the output was looked at")

    monkeypatch.setattr("decompose_cli.models.classifier.read_weights", work_nothing)
    monkeypatch.setattr("decompose_cli.decomposition.index_set.read_json", work_nothing)
    refused(words(f"{command} -o {{m}}/taken/file.json", material), REFUSED, "file.json")


def test_failed_sweep_leaves_no_folder(material: Path) -> None:
    for line in (
        "sweep --ks 65",
        "sweep --ks 65 -o new",
        "sweep --ks 3 --methods weight -i weight={m}/plain.json",
        "sweep --ks 1 networks:NotANumber --dataset digits --no-cache",
    ):
        assert invoke(*words(line, material)).exit_code in (REFUSED, FAILED)
        assert not list(Path.cwd().iterdir()), line


def test_overwritten_sweep_that_chooses_nothing_leaves_no_set_of_the_one_before(material: Path) -> None:
    results("sweep --methods weight --ks 64 --max-drop 50 -o run", material)
    assert names_in("run") == ["curve.png", "indices.json", "result.json"]
    found, _ = results("sweep --methods weight --ks 1 --max-drop 0 -o run --overwrite", material)
    assert found["chosen"] is None
    assert names_in("run") == ["curve.png", "result.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to this user")
@pytest.mark.parametrize("command", ["validate", "extract-indices", "demo", *COMMANDS])
def test_output_that_may_not_be_written(material: Path, inputs: Path, command: str) -> None:
    folder = inputs / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    refused([*words(command, material), "-o", str(folder / "new")], REFUSED, "permission denied")
