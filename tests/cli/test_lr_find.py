"""``lr-find`` as it is typed: what is said and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.command_line import content, names_in, run
from helpers.runs import RATES


@pytest.mark.usefixtures("told_apart")
def test_lr_find_suggests_and_writes() -> None:
    said = run(*RATES, "--steps", "60", "-o", "found").stderr
    found = content("found/result.json")["results"]
    assert f"Learning rate: {found['lr']:.2g}" in said
    assert f"the delay of the average taken off: {found['minimum_tenth']:.2g}" in said
    assert "Written to found: curve.png, result.json" in said
    run(*RATES, "--steps", "60", "-o", "found", "-q", code=2)
    run(*RATES, "--steps", "60", "-o", "found", "-q", "--overwrite")


@pytest.mark.usefixtures("told_apart")
def test_lr_find_json_writes_no_file_and_the_default_is_a_new_folder() -> None:
    result = run(*RATES, "--steps", "60", "--json", "-q")
    assert json.loads(result.stdout)["command"] == "lr-find"
    assert result.stderr == ""
    assert names_in(".") == ["images"]
    run(*RATES, "--steps", "60", "-q")
    (folder,) = Path("results").iterdir()
    assert folder.name.startswith("lr-find-resnet8-images-")
    assert names_in(str(folder)) == ["curve.png", "result.json"]
