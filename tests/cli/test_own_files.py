"""``--overwrite`` replaces what decompose wrote: no file of the user's, none that is being read, no run's result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.command_line import run

from decompose_cli.storage.ownership import holds_run, obstacle

RESULT = {"schema_version": 1, "command": "validate", "results": {}}


@pytest.mark.parametrize(
    ("name", "content", "own"),
    [
        ("empty", b"", True),
        ("result.json", json.dumps(RESULT).encode(), True),
        ("trained.json", json.dumps({**RESULT, "command": "train"}).encode(), False),
        ("indices.json", b'{"0": [1, 2], "1": []}', True),
        ("list.json", b"[[1, 2], [3]]", True),
        ("document.json", b'{"format": "decompose-index-set", "classes": []}', True),
        ("other.json", b'{"format": "notebook", "cells": []}', False),
        ("package.json", b'{"name": "mine", "command": "x"}', False),
        ("broken.json", b'{"schema_version": 1,', False),
        ("numbers.json", b"[1, 2]", False),
        ("nothing.json", b"{}", False),
        ("of-train.json", b'{"command": "train"}', False),
        ("page.html", b'<!doctype html><meta name="generator" content="decompose 0.1">', True),
        ("mine.html", b"<!doctype html><title>My page</title>", False),
        ("network.py", b"import torch\n", False),
        ("thesis.docx", b"PK\x03\x04", False),
        ("weights.pt", b"PK\x03\x04", False),
        ("mine.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", False),
    ],
)
def test_files_are_told_by_their_content(tmp_path: Path, name: str, content: bytes, own: bool) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = obstacle(path)
    assert (found is None) == own
    assert found in (None, "is the result of a training" if name == "trained.json" else "was not written by decompose")


def test_files_of_the_user_are_not_replaced() -> None:
    Path("thesis.docx").write_text("years")
    Path("page.html").write_text("<html>mine</html>")
    for words in (
        ("validate", "-o", "thesis.docx"),
        ("extract-indices", "-o", "thesis.docx"),
        ("report", "-o", "page.html", "."),
    ):
        said = run(*words, "--overwrite", code=2).stderr
        assert "was not written by decompose, so it is not overwritten" in said
    assert Path("thesis.docx").read_text() == "years"
    assert Path("page.html").read_text() == "<html>mine</html>"


def test_what_a_command_reads_is_not_its_output() -> None:
    run("extract-indices", "-k", "2", "-o", "ix.json")
    before = Path("ix.json").read_bytes()
    for given in ("ix.json", str(Path("ix.json").absolute())):
        said = run("validate", "-i", given, "-o", "ix.json", "--overwrite", code=2).stderr
        assert f"{given} is read by this command, so it is not overwritten" in said
    said = run("mutual-info", "-i", "a=ix.json", "-o", "ix.json", "--overwrite", code=2).stderr
    assert "ix.json is read by this command" in said
    said = run("compare", "a=ix.json", "ix.json", "-o", "ix.json", "--overwrite", code=2).stderr
    assert "ix.json is read by this command" in said
    assert Path("ix.json").read_bytes() == before
    run("validate", "-i", "ix.json", "-o", "r.json")
    run("validate", "-i", "ix.json", "-o", "r.json", "--overwrite")


def test_studies_do_not_go_into_the_folder_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert not holds_run(folder)
    (folder / "config.json").write_text('{"command": "train"}')
    (folder / "result.json").write_text(json.dumps({**RESULT, "command": "train"}))
    assert holds_run(folder)
    before = (folder / "result.json").read_bytes()
    for words in (("explain", "--worst", "1", "-o", str(folder)), ("sweep", "--ks", "1", "-o", str(folder))):
        said = run(*words, "--overwrite", code=2).stderr
        assert "holds the run of a training, and takes no other results" in said
    said = run("validate", "-o", str(folder / "result.json"), "--overwrite", code=2).stderr
    assert "is the result of a training, so it is not overwritten" in said
    assert (folder / "result.json").read_bytes() == before
    shutil.rmtree(folder)


def test_what_a_command_reads_does_not_go_with_the_folder_that_it_writes() -> None:
    run("sweep", "--ks", "1-2", "--max-drop", "20", "-o", "out", "-q")
    before = Path("out/indices.json").read_bytes()
    said = run("sweep", "-i", "out/indices.json", "--ks", "1", "-o", "out", "--overwrite", code=2).stderr
    assert "out/indices.json is read by this command, so it is not overwritten" in said
    assert Path("out/indices.json").read_bytes() == before
    Path("mine.json").write_bytes(before)
    Path("out/mine.json").write_bytes(before)  # no file of the result, so it stays
    run("sweep", "-i", "out/mine.json", "--ks", "1", "-o", "out", "--overwrite", "-q")
    assert Path("out/mine.json").read_bytes() == before


def test_weights_of_a_run_do_not_go_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text('{"command": "train"}')
    (folder / "last.pt").write_bytes(b"weights")
    for words in (("finetune", "-w"), ("train", "resnet20", "-w"), ("train-gate", "resnet20", "--baseline")):
        said = run(*words, str(folder / "last.pt"), "--dataset", "digits", "-o", str(folder), "--overwrite", code=2)
        assert "last.pt is read by this command, so it is not overwritten" in said.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "last.pt"]
