"""Trainings with several seeds side by side."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import REFUSED, content, refused, run

from decompose_cli.decomposition.compare_results import CompareResults
from decompose_cli.decomposition.over_seeds import difference_over_seeds
from decompose_cli.engines.compare import compare
from decompose_cli.errors import InputError
from decompose_cli.features.study import Inputs

SHORT = ("--dataset", "digits", "--iterations", "4", "--val-split", "0.3", "-q")

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def trained(made_once: Callable[..., Path]) -> Path:
    """The working directory with three trainings of two seeds, and one with a gate."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("DECOMPOSE_CACHE", str(folder / "cache"))
            run("train", "resnet8", *SHORT, "--runs", "2", "-o", "plain")
            run("train", "resnet8", *SHORT, "--runs", "2", "--seed", "1", "--mix", "cutmix", "-o", "mixed")
            more = ("--recipe", "digits", "--norm-mode", "group", "--mix", "ricap")
            run("train", "resnet8", *SHORT, "--runs", "2", *more, "-o", "more")
            run("train-gate", "resnet14", *SHORT, "--gate", "l2", "--seed", "1", "-o", "gated")
            shutil.rmtree(folder / "cache", ignore_errors=True)

    shutil.copytree(made_once("trained", make), Path.cwd(), dirs_exist_ok=True)
    return Path.cwd()


def results_of(*given: str, **inputs: Any) -> CompareResults:
    return compare(Inputs(**inputs), given).results


def edited(path: str, change: Callable[[dict[str, Any]], object]) -> None:
    document = content(path)
    change(document)
    Path(path).write_text(json.dumps(document), encoding="utf-8")


def test_trainings_are_compared_over_their_seeds(trained: Path) -> None:
    """As image-by-image counts of the networks say; the statistics have a twin of their own."""
    found = results_of("plain", "mixed", "gated")
    names = ["plain seed 0", "plain seed 1", "mixed seed 1", "mixed seed 2"]
    assert list(found.heads) == [*names, "gated"], "the network that is compared on is named once"
    for name, folder in (("mixed seed 2", "mixed/seed-2"), ("gated", "gated")):
        run("validate", "-w", f"{folder}/best.pt", "-o", "one.json", "--overwrite", "-q")
        assert content("one.json")["results"]["original"]["correct"] == found.heads[name].correct
    assert found.seed_differences == [], "a single seed in common says nothing of others"
    (one,) = results_of("plain", "again=plain").seed_differences
    assert (one.first, one.second, one.seeds, one.by_seed) == ("plain", "again", [0, 1], [0, 0])
    found = results_of("plain", "more")
    pairs = {(each.first, each.second): each.points for each in found.differences}
    by_seed = [pairs[f"plain seed {seed}", f"more seed {seed}"] for seed in (0, 1)]
    (one,) = found.seed_differences
    assert one.by_seed == pytest.approx(by_seed, abs=1e-9)
    assert one.points == pytest.approx(sum(by_seed) / 2, abs=1e-9)
    assert found.tables()["seeds"][0]["points"] == one.points


def test_what_trainings_differ_in_is_said(trained: Path) -> None:
    found = results_of("plain", "more").trainings
    assert {name: (one.seeds, one.checkpoint) for name, one in found.items()} == {
        "plain": ([0, 1], "best"),
        "more": ([0, 1], "best"),
    }
    assert found["plain"].differs_in.keys() == found["more"].differs_in.keys()
    differing = {option: (one, found["more"].differs_in[option]) for option, one in found["plain"].differs_in.items()}
    assert differing["mix"] == ("none", "ricap")
    assert differing["norm_mode"] == (None, "group")
    assert not {"seed", "lr", "batch_size", "scale_epochs", "model"} & differing.keys()
    shown = run("compare", "plain", "more").stderr
    _, table = shown.split("What the trainings differ in")
    rows = [line.split() for line in table.split("Second minus")[0].splitlines()]
    assert ["mix", "none", "ricap"] in rows
    assert ["norm_mode", "-", "group"] in rows
    assert ["seeds", "0,", "1", "0,", "1"] in rows


def test_networks_of_the_same_seed_are_shown_and_all_are_in_the_result(trained: Path) -> None:
    found = results_of("plain", "more")
    assert len(found.differences) == 6
    shown = [(one.first, one.second) for one in found.shown_differences]
    assert shown == [("plain seed 0", "more seed 0"), ("plain seed 1", "more seed 1")]
    figure = found.drawn()
    assert figure is not None
    (axes,) = figure.axes
    names = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert names == [
        "more minus plain, mean over seeds",
        *(f"{second} minus {first}" for first, second in shown),
    ]
    text = run("compare", "plain", "more").stderr
    whole, rest = text.split("Second minus first network of the same seed")
    assert "mean over seeds" in whole
    assert "The differences of 4 more pairs are in the result." in rest
    assert "No model was named" not in text
    assert "Accuracy of each network" in rest


def test_trainings_without_two_common_seeds_are_not_wholes_and_that_is_said(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = results_of("plain", "mixed")
    assert not found.seed_differences
    assert len(found.shown_differences) == 6
    assert "plain and mixed have 1 seed in common: their networks are compared one by one" in caplog.text
    edited("mixed/result.json", lambda d: [run.update(seed=run["seed"] + 5) for run in d["results"]["runs"]])
    results_of("plain", "mixed")
    assert "plain and mixed have no seed in common" in caplog.text


def test_trainings_on_different_images_are_refused_unless_images_are_named(
    trained: Path, make_images: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the training images are the same: the test images need not be."""
    caplog.set_level(logging.INFO)
    make_images(Path("images"), [str(number) for number in range(10)], n=4)
    edited("more/result.json", lambda d: d["dataset"].update(name="folder:images"))
    for first, second in (("plain", "more"), ("more", "plain")):
        with pytest.raises(InputError, match=f"{first} was trained on .*, but {second} on "):
            results_of(first, second)
    assert results_of("plain", "more", dataset="digits").total == 360
    edited("more/result.json", lambda d: d["dataset"].update(name="digits", fingerprint="0" * 64))
    results_of("plain", "more")
    assert "The training images of plain and more differ, though both are digits." in caplog.text


def test_a_path_may_be_written_in_several_ways(trained: Path, make_images: Callable[..., Path]) -> None:
    make_images(Path("images"), ["a", "b"], n=12)
    short = ("--epochs", "1", "--schedule", "constant", "-q", "-b", "4")
    run("train", "resnet8", "--dataset", "folder:images", *short, "-o", "one")
    run("train", "resnet8", "--dataset", f"folder:{Path('images').resolve()}", *short, "-o", "two")
    assert list(results_of("one", "two").heads) == ["one", "two"]


def test_an_index_file_needs_to_say_which_of_several_networks_it_is_of(trained: Path) -> None:
    run("extract-indices", "resnet8", "-w", "plain/seed-0/best.pt", "--dataset", "digits", "-k", "5", "-o", "k5.json")
    refused(["compare", "k5.json", "plain"], REFUSED, "k5.json does not say which network it is of")
    named = results_of("k5.result.json", "plain")
    assert "k5" in named.heads
    assert results_of("k5.json", "plain", weights="plain/seed-1/best.pt").heads["k5"].weights == "plain/seed-1/best.pt"


@pytest.mark.parametrize("command", ["compare", "report"])
def test_a_run_that_is_not_finished_is_said_to_be(command: str, trained: Path) -> None:
    for path in ("more/result.json", "more/seed-0/result.json", "more/seed-1/result.json"):
        Path(path).unlink(missing_ok=True)
    given = ["plain", "more"] if command == "compare" else ["more"]
    assert "--resume more" in refused([command, *given], REFUSED, "The run in more is not finished.")


def test_the_settings_of_a_run_are_no_result(trained: Path) -> None:
    refused(["compare", "plain", "more/config.json"], REFUSED, "more/config.json has the settings of a run.")


def test_no_interval_leaves_what_is_possible() -> None:
    """Two seeds, one of them wholly right and one wholly wrong: Student's t with one degree of freedom is 12.7."""
    right, wrong = torch.ones(50, dtype=torch.bool), torch.zeros(50, dtype=torch.bool)
    mixed = torch.arange(50) % 2 == 0
    one = difference_over_seeds(("a", "b"), {0: wrong, 1: wrong}, {0: right, 1: mixed})
    assert one is not None
    assert one.points == 75
    assert one.ci95 == one.ci95_seeds == (-100, 100)
    assert one.ci95_images[1] <= 100
