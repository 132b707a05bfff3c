"""``train-gate`` on the command line: its options, their names elsewhere, its refusals."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.command_line import content, document_of, names_in, run, sentence_of

from decompose_cli.cli.app import joined_integers
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.models.registry import get_entry

GATE = ["train-gate", "resnet14", "--dataset", "folder:images", "--input-size", "8", "-j", "0", "--device", "cpu"]
CLASSES = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def images(make_images: Callable[..., Path]) -> None:
    """36 training images and 24 for testing."""
    root = make_images(Path("images"), CLASSES, ("train",), n=12, side=8)
    make_images(root, CLASSES, ("test",), n=8, side=8)


WRONG: list[tuple[list[str], str]] = [
    (
        ["--gate", "l2", "--gate-iters", "2"],
        "--gate-iters has no effect with gate l2; it belongs to gates with a classifier",
    ),
    (["--gate-iters", "0"], "--gate-iters 0 is not at least 1."),
    (
        ["--lambda", "0.5"],
        "--lambda has no effect with gate entropy-classifier; it belongs to gates with a penalty: l2, ",
    ),
    (["--gate", "l2", "--lambda", "nan"], "--lambda nan is not a number from 0 upwards."),
    (["--lr-gate", "-1"], "--lr-gate -1 is not a positive number."),
    (["--gate", "gate"], "--gate 'gate' is unknown; choose entropy-classifier, "),
    (
        ["--gate-map", "flat"],
        "--gate-map 'flat' is not known to resnet14; choose stretched, plain, original, plain-10.",
    ),
    (["--gate-schedule", "2"], "--gate-schedule '2' is unknown; choose constant, step50."),
    (["--scratch", "2"], "--scratch 2 is neither 0 nor 1."),
    (["--scratch", "0"], "--init baseline needs --baseline CHECKPOINT."),
    (["--scratch", "1", "--init", "scratch"], "--init and --scratch say the same thing; give one of them."),
    (["--baseline", "missing.pt"], "The weights file missing.pt does not exist."),
    (["--depth", "110"], "resnet14 has a depth of 14, not 110; leave one of them out."),
    (["--block", "bottleneck"], "--block 'bottleneck' is not known to resnet14; choose basic."),
    (["--skip-below", "0"], "--skip-below 0 is not above 0 and up to 1, where g is."),
    (
        ["--gate", "shortcut", "--skip-below", "0.5"],
        "--skip-below leaves out the rest of a gated stage, but gate shortcut ",
    ),
    (["--label-noise", "2"], "--label-noise 2 is not a share of the images between 0 and 1."),
    (["--schedule", "100,200", "--milestones", "3"], "--schedule and --milestones both give milestones; leave one"),
    (["-e"], "--evaluate needs a network that has been trained: --weights or --resume RUN."),
    (["-e", "-w", "x.pt", "-p", "2"], "--evaluate trains nothing: leave out --print-freq."),
    (["--block-name", "Wide"], "--block 'Wide' is unknown; choose basic, bottleneck."),
    (["--baseline", "random"], "--baseline random is no file or URL of weights"),
    (["--gate-iters", "100000"], "--gate-iters 100000 is more than the 333 steps of the run, so the backbone would"),
    (["--schedule", ","], "--schedule ,: "),
    (["-e", "-w", "x.pt", "--gate-iters", "2"], "--evaluate trains nothing: leave out --gate-iters."),
    (["--recipe", "gates"], "--recipe 'gates'"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=[" ".join(options) for options, _ in WRONG])
def test_wrong_combinations_are_a_sentence_each(options: list[str], sentence: str) -> None:
    assert sentence_of([*GATE, *options]).startswith(sentence)


def test_one_class_is_refused(make_images: Callable[..., Path]) -> None:
    make_images(Path("one"), ["a"], ("train", "test"), n=6, side=8)
    arguments = ["train-gate", "resnet14", "--dataset", "folder:one", "--input-size", "8", "-j", "0", "-b", "4"]
    assert sentence_of(arguments).startswith("A gate needs at least 2 classes to choose between, and there is 1.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["vgg11", "--depth", "20"], "vgg11 is no CIFAR ResNet, to which --depth belongs; leave one of them out."),
        (["resnet50"], "resnet50 has no --gate option; networks with it: resnet20, "),
        (["--depth", "21"], "There is no model 'resnet21'"),
        (["preresnet20"], "preresnet20 has no --gate option"),
    ],
)
def test_networks_without_gates(arguments: list[str], sentence: str) -> None:
    assert sentence_of(["train-gate", *arguments, "--dataset", "digits"]).startswith(sentence)


def test_stages_of_one_unit_are_refused() -> None:
    assert sentence_of(["train-gate", "resnet8", *GATE[2:]]).startswith(
        "resnet8 has stages of one unit, and gate entropy-"
    )


def test_names_of_the_original_mean_the_same() -> None:
    ours = ["--gate", "entropy-classifier", "--lr-gate", "0.02", "--gate-iters", "2", "--gate-schedule", "step50"]
    common = ["--epochs", "2", "-b", "8", "--val-split", "0.25", "-q"]
    run(*GATE, *ours, "--schedule", "1", "--init", "scratch", "--block", "basic", "-o", "runs/ours", *common)
    theirs = ["--lr_gate", "0.02", "--gate_iters", "2", "--schedule_gate", "1", "--schedule", "1", "--scratch", "1"]
    run(*GATE, *theirs, "--block-name", "BasicBlock", "--mod_name_suffix", "theirs", *common)
    first, second = (content(f"runs/{name}/config.json") for name in ("ours", "theirs"))
    assert first == second
    assert first["settings"]["milestones"] == [1]
    assert first["settings"]["schedule"] == "steps"
    assert (first["lr_gate"], first["gate_schedule"], first["gate_iters"]) == (0.02, "step50", 2)
    assert Path("runs/ours/g_values.csv").read_text() == Path("runs/theirs/g_values.csv").read_text()
    run(*GATE, "--gate", "l2", "--lambda_mem", "0.25", "-o", "runs/l2", "--epochs", "1", *common[2:])
    assert content("runs/l2/config.json")["lambda"] == 0.25
    said = run(*GATE, "--test_checkpoint", "runs/ours/last.pt", "-e", "-o", "seen", "--skip-below", "0.3").stderr
    assert "Skipping where g < 0.3" in said
    assert "skipping saves nothing" in said
    assert names_in("seen") == [
        "g_distribution.png",
        "g_extremes.png",
        "g_values.csv",
        "result.json",
    ]


def test_milestones_as_published() -> None:
    assert joined_integers(["--schedule", "3", "5"]) == ["--schedule", "3,5"]
    run(*GATE, "--schedule", "3", "5", "--epochs", "1", "-o", "run", "-q", "-b", "16")
    settings = content("run/config.json")["settings"]
    assert (settings["schedule"], settings["milestones"]) == ("steps", [3, 5])


def test_published_weights_are_validated_and_looked_at() -> None:
    torch.manual_seed(0)
    module = get_entry("resnet14").configured(gate="entropy-classifier", gate_map="original").make(3, (32, 32))
    state = {f"module.{name}": value for name, value in module.state_dict().items()}
    torch.save({"epoch": 333, "state_dict": state, "acc": 93.5}, "model_best.pth.tar")
    images = ["--dataset", "folder:images", "--input-size", "8", "-j", "0"]
    said = run("validate", "resnet14", "-w", "model_best.pth.tar", *images, "-o", "v.json").stderr
    assert "gate entropy-classifier, gate map original" in said
    document = content("v.json")
    assert (document["dataset"]["mean"], document["dataset"]["std"]) == (
        [0.4914, 0.4822, 0.4465],
        [0.2023, 0.1994, 0.201],
    )
    run("train-gate", "resnet14", "-e", "--test_checkpoint", "model_best.pth.tar", *images, "-o", "seen")
    rows = list(csv.DictReader(Path("seen/g_values.csv").read_text().splitlines()))
    assert sum(row["label"] == row["prediction"] for row in rows) == document["results"]["original"]["correct"]
    for row in rows:
        g = 1 / (1 + 2.718281828459045 ** -((float(row["entropy"]) - 1.0986123 / 2 + 1.15) * 8 / 2.3 - 4))
        assert float(row["g"]) == pytest.approx(g, rel=1e-4)


def test_evaluation_without_a_gate_is_refused() -> None:
    torch.save(get_entry("resnet14").configured(shortcut="projection").make(3, (8, 8)).state_dict(), "plain.pt")
    assert sentence_of([*GATE, "-e", "-w", "plain.pt"]) == "plain.pt is of resnet14 without a gate."
    assert sentence_of([*GATE, "-w", "plain.pt"]).startswith("plain.pt has no gate.")


def test_the_gate_that_is_named_has_the_constants_of_published_weights() -> None:
    """Exclusive gates and those of the shortcut look alike, so the second has to be named; nothing else changes."""
    torch.manual_seed(0)
    module = get_entry("resnet14").configured(gate="shortcut").make(3, (32, 32))
    torch.save({f"module.{name}": value for name, value in module.state_dict().items()}, "original.pth")
    images = ["resnet14", "--dataset", "folder:images", "--input-size", "8", "-j", "0"]
    run("train-gate", *images, "-e", "--gate", "shortcut", "-w", "original.pth", "-o", "seen")
    document = content("seen/result.json")
    assert (document["dataset"]["mean"], document["dataset"]["std"]) == (
        [0.4914, 0.4822, 0.4465],
        [0.2023, 0.1994, 0.201],
    )
    assert (document["dataset"]["split"], document["dataset"]["images"]) == ("test", 24)
    assert document["model"]["options"]["gate"] == "shortcut"
    run("train-gate", *images, "-w", "original.pth", "--gate", "shortcut", "--epochs", "1", "-b", "16", "-o", "run")
    metadata = read_checkpoint(Path("run/last.pt")).metadata
    assert metadata is not None
    assert metadata.mean == [0.4914, 0.4822, 0.4465]
    assert sentence_of(["train-gate", *images, "-e", "--gate", "l2", "-w", "original.pth"]) == (
        "The weights in original.pth are of gate exclusive, not l2."
    )


def test_a_run_goes_on_with_its_options_however_they_are_written() -> None:
    scale = ["--gate", "exclusive-tube-1x1", "--gate-scale", "1e-4"]
    run(*GATE, *scale, "--epochs", "1", "-b", "16", "-o", "run", "-q")
    Path("run/result.json").unlink()
    assert sentence_of(["train-gate", "--resume", "run", "--gate-scale", "1"]).startswith(
        "The run in run was begun otherwise: gate-scale 0.0001, now 1.0."
    )
    run("train-gate", "--resume", "run", "--gate-scale", "0.0001", "--gate", "exclusive-tube-1x1", "--block", "basic")


@pytest.mark.parametrize(
    "gate",
    [
        "entropy-classifier",
        pytest.param("softmax", marks=pytest.mark.slow),
        pytest.param("exclusive-tube-1x1", marks=pytest.mark.slow),
    ],
)
def test_the_command_in_a_checkpoint_makes_the_same_network(gate: str) -> None:
    given = ["--label-noise", "0.2"] if gate == "softmax" else []
    run(*GATE, "--gate", gate, *given, "--epochs", "1", "-b", "16", "-o", "run", "-q")
    checkpoint = read_checkpoint(Path("run/last.pt"))
    assert checkpoint.metadata is not None
    words = shlex.split(checkpoint.metadata.command or "")
    assert words[:2] == ["decompose", "train-gate"]
    run(*words[1:], "-j", "0", "--device", "cpu", "-o", "again", "-q")
    again = read_checkpoint(Path("again/last.pt"))
    assert all(torch.equal(value, again.state_dict[name]) for name, value in checkpoint.state_dict.items())


@pytest.mark.slow
def test_training_images_are_evaluated_in_batches_of_any_size() -> None:
    run(*GATE, "--epochs", "1", "-b", "16", "--val-split", "0", "-o", "run", "-q")
    for name, more in (("a", []), ("b", ["-b", "7"])):
        run(*GATE, "-e", "--resume", "run", "--split", "train", "-o", name, *more)
    first, second = (list(csv.DictReader(Path(f"{name}/g_values.csv").read_text().splitlines())) for name in "ab")
    assert [row["prediction"] for row in first] == [row["prediction"] for row in second]
    assert len(first) == 36
    assert {row["split"] for row in first} == {"train"}
    files = [row["file"] for row in first]
    assert all(Path("images/train", file).is_file() or Path("images", file).is_file() for file in files)
    assert [CLASSES.index(Path(file).parent.name) for file in files] == [int(row["label"]) for row in first]
    assert sentence_of([*GATE, "-e", "--resume", "run", "--split", "val"]).startswith(
        "folder:images has no split 'val' here"
    )


def test_evaluation_prints_the_same_as_it_writes() -> None:
    run(*GATE, "--epochs", "1", "-b", "16", "-o", "run", "-q")
    run("train-gate", "-e", "--resume", "run", *GATE[2:], "-o", "seen")  # the checkpoint says which network
    printed, written = document_of(*GATE, "-e", "--resume", "run"), content("seen/result.json")
    assert printed["results"] == written["results"]
    assert sentence_of([*GATE, "-e", "--resume", "run", "-o", "seen"]).startswith("seen/result.json exists")


def test_help_names_every_gate_and_its_defaults() -> None:
    said = " ".join(run("train-gate", "--help").stdout.split())
    from decompose_cli.models.gate_kinds import GATES

    assert all(name in said for name in GATES)
    assert "--final-test" not in said
    assert "--head" not in said
