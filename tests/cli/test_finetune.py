"""``finetune`` as it is typed: what is said and what is written."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from helpers.command_line import content, row_of, run
from helpers.power_cut import PowerCut
from helpers.runs import BRIEF, SHORT_TRAIN


@pytest.fixture
def learned(images: Path) -> str:
    run(*SHORT_TRAIN, "-o", "start", "-q", "--val-split", "0")
    return "start/last.pt"


def test_finetune_shows_before_after_and_what_the_difference_means(learned: str) -> None:
    said = run("finetune", "-w", learned, *BRIEF, "-k", "2", "-o", "tuned").stderr
    results = content("tuned/result.json")["results"]
    assert "Recipe finetune (arXiv 2112.07719 and its code): adam, lr 0.0002" in said
    assert "2 features per class by frequency, ranked over 24 images." in said
    rows = (
        ("full head, original", "original"),
        ("decomposed, before", "before"),
        ("decomposed, last (epoch 2)", "after"),
    )
    for row, name in rows:
        found = results[name]
        assert row_of(said, row)[1:] == [
            "test",
            f"{found['correct']} of 15",
            f"{found['top1']:.2f}",
            f"{found['loss']:.4f}",
        ]
    difference = results["difference"]
    low, high = difference["ci95"]
    assert f"After minus original: {difference['points']:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}" in said
    verdict = "no significant difference" if difference["mcnemar_p"] >= 0.05 else "a significant difference"
    assert f"{verdict} at the 5% level" in said


def test_finetune_and_validate_and_its_options(learned: str) -> None:
    run("extract-indices", "-w", learned, "--input-size", "8", "-k", "3", "-o", "indices.json", "-q", "-j", "0")
    run("finetune", "-w", learned, *BRIEF, "-i", "indices.json", "--only", "head", "-o", "tuned", "-q", "--json")
    after = content("tuned/result.json")["results"]["after"]
    found = json.loads(run("validate", "-w", "tuned/last.pt", "--input-size", "8", "--json", "-q", "-j", "0").stdout)
    assert found["results"]["decomposed"]["correct"] == after["correct"]
    assert found["results"]["indices"]["k"] == [3, 3]
    assert content("tuned/config.json")["only"] == "head"


def test_the_command_that_is_recommended_names_the_class_map(learned: str) -> None:
    for folder in Path("images").glob("*/a"):
        folder.rename(folder.with_name("another a"))
    Path("my map.csv").write_text("another a,a\n")
    said = run("finetune", "-w", learned, *BRIEF, "-k", "2", "--class-map", "my map.csv", "-o", "tuned").stderr
    (line,) = [line for line in said.splitlines() if line.startswith("Use it: decompose ")]
    assert line.endswith(" --class-map 'my map.csv'")
    run(*shlex.split(line.removeprefix("Use it: decompose ")), "--input-size", "8", "-q", "-j", "0", "--no-cache")


def test_finetune_is_resumed_without_being_told_anything(learned: str, power_cut: PowerCut) -> None:
    with power_cut("last.pt"):
        run("finetune", "-w", learned, *BRIEF, "-k", "2", "-o", "tuned", "-q")
    said = run("finetune", "--resume", "tuned").stderr
    assert "Going on after 3 of 6 steps." in said
    assert content("tuned/config.json")["ranking"]["k"] == 2


def test_finetune_measures_the_test_images_anyway() -> None:
    assert "--final-test" not in run("finetune", "--help").stdout
    assert "--final-test" in run("train", "--help").stdout
