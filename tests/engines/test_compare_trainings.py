"""Trainings with several seeds side by side."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import REFUSED, content, refused, run

from decompose_cli.decomposition.compare_results import ComparedHead, CompareResults, HeadDifference, differences_figure
from decompose_cli.decomposition.compared import Entry, TrainedRun
from decompose_cli.decomposition.compared_files import read_entries
from decompose_cli.decomposition.compared_trainings import conditions_of, described_trainings
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
    assert differing["norm_mode"] == ("batch", "group")
    assert not {"seed", "lr", "batch_size", "scale_epochs", "model"} & differing.keys()
    shown = run("compare", "plain", "more").stderr
    _, table = shown.split("What the trainings differ in")
    rows = [line.split() for line in table.split("Second minus")[0].splitlines()]
    assert ["mix", "none", "ricap"] in rows
    assert ["norm_mode", "batch", "group"] in rows
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
    pairs = [f"{second} minus {first}" for first, second in shown]
    assert names == pairs, "an interval over two seeds would make all others points"
    (one,) = found.seed_differences
    third = one.model_copy(update={"seeds": [0, 1, 2]})
    (axes,) = differences_figure(found.shown_differences, [third]).axes
    names = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert names == ["more minus plain, mean over seeds", *pairs]
    text = run("compare", "plain", "more").stderr
    whole, rest = text.split("Second minus first network, on the same images")
    assert "mean over seeds" in whole
    assert "Of trainings with common seeds the pairs of one seed; 4 more pairs in the result." in rest
    assert "No model was named" not in text
    assert "Accuracy of each network" in rest


@pytest.mark.parametrize(
    ("command", "arguments", "changed", "expected"),
    [
        ("train-gate", {"lambda": 0.1, "init": "scratch"}, {"lambda": 0.2, "init": "baseline"}, {"lambda", "init"}),
        ("finetune", {"ranking": {"k": 5, "method": "weight"}}, {"ranking": {"k": 10, "method": "weight"}}, {"k"}),
        ("finetune", {"only": "all"}, {"only": "head"}, {"only"}),
        ("train", {"input_size": None}, {"input_size": "64"}, {"input_size"}),
        ("train", {"settings": {"lr": 0.1, "seed": 0}}, {"settings": {"lr": 0.2, "seed": 5}}, {"lr"}),
        ("train", {"weights": "a.pt", "workers": 1}, {"weights": "b.pt", "workers": 2}, set()),
        ("train", {}, {"refit": False, "label_noise": None, "new_head": False}, set()),
        ("train", {"settings": None}, {"settings": 3, "recipe": 4}, {"recipe"}),
    ],
)
def test_conditions_of_every_command(
    command: str, arguments: dict[str, Any], changed: dict[str, Any], expected: set[str]
) -> None:
    documents = [{"command": command, "arguments": given} for given in (arguments, {**arguments, **changed})]
    runs = [
        TrainedRun(name, name, 0, command, "last", conditions_of(one))
        for name, one in zip("ab", documents, strict=True)
    ]
    found = described_trainings([Entry(run.training, run.document, run=run) for run in runs])
    assert found["a"].differs_in.keys() == found["b"].differs_in.keys() == expected


def test_pairs_with_a_training_that_is_no_whole_are_all_shown() -> None:
    """Two with seeds 0 and 1 in common, and a third with another seed."""
    heads = {
        f"{name} seed {seed}": (name, seed)
        for name, seeds in (("a", (0, 1)), ("b", (0, 1)), ("c", (7,)))
        for seed in seeds
    }
    whole = difference_over_seeds(("a", "b"), *[{seed: torch.tensor([True, False]) for seed in (0, 1)}] * 2)
    assert whole is not None
    found = CompareResults(
        total=2,
        heads={
            name: ComparedHead(
                correct=1, top1=50.0, top1_ci95=(0, 100), top5=None, loss=0.0, kind="full", weights="", sha256="",
                own_features=True, training=training, seed=seed,
            )
            for name, (training, seed) in heads.items()
        },
        differences=[
            HeadDifference(
                first=first, second=second, points=0.0, ci95=(-1, 1), mcnemar_p=1.0, only_first_correct=0,
                only_second_correct=0, worst_class=None, halved_classes=[],
            )
            for first, second in itertools.combinations([*heads, "gone"], 2)
        ],
        sets={}, set_differences=[], unmeasured={}, seed_differences=[whole],
    )  # fmt: skip
    shown = {(one.first, one.second) for one in found.shown_differences if "gone" not in (one.first, one.second)}
    same = {(f"a seed {seed}", f"b seed {seed}") for seed in (0, 1)}
    assert shown == same | {(name, "c seed 7") for name in heads if name != "c seed 7"}


def test_fine_tunings_are_compared_as_wholes_with_each_other_only(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    more = ("--dataset", "digits", "-k", "5", "--epochs", "1", "--runs", "2", "-q")
    run("finetune", "-w", "plain/seed-0/best.pt", *more, "-o", "tuned")
    run("finetune", "-w", "plain/seed-0/best.pt", *more, "--lr", "0.001", "-o", "faster")
    found = results_of("plain", "tuned", "faster")
    assert [(one.first, one.second) for one in found.seed_differences] == [("tuned", "faster")]
    assert "in common" not in caplog.text
    assert found.trainings["tuned"].differs_in["lr"] != found.trainings["faster"].differs_in["lr"]


def test_a_head_without_a_network_is_cut_from_none(trained: Path) -> None:
    """Its set is compared with networks of several trainings."""
    run("extract-indices", "resnet8", "-w", "plain/seed-0/best.pt", "--dataset", "digits", "-k", "5", "-o", "k5.json")
    entries = [one for given in ("k5.json", "plain") for one in read_entries(given)]
    entries[0] = dataclasses.replace(entries[0], missing="holds a head without a network")
    found = compare(Inputs(), entries).results
    assert list(found.unmeasured) == ["k5"]
    assert list(found.sets) == ["k5"]
    checkpoints = ("plain/seed-0/best.pt", "b=plain/seed-1/best.pt")
    refused(["compare", "k5.json", *checkpoints], REFUSED, "k5.json does not say which network it is of")


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


def test_sets_are_cut_from_the_network_that_documents_name_also_beside_checkpoints(trained: Path) -> None:
    weights = ("-w", "plain/seed-0/best.pt", "--dataset", "digits", "-q")
    run("extract-indices", *weights, "-k", "5", "-o", "k5.json")
    run("validate", *weights, "-o", "full.json")
    run("finetune", *weights, "-k", "5", "--epochs", "1", "-o", "tuned")
    found = results_of("k5.json", "full.json", "tuned/last.pt")
    assert found.heads["k5"].weights == "plain/seed-0/best.pt"
    assert results_of("k5.json", "plain/seed-0/best.pt", "tuned/last.pt").heads["k5"].weights == "plain/seed-0/best.pt"
