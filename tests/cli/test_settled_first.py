"""What cannot be used is refused before images are opened, which may mean to fetch them."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from helpers.command_line import FAILED, run, sentence_of

from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.training.configure import configure
from decompose_cli.training.recipes import check_for_any_images

ABSENT = ["--dataset", "cifar10", "--data-dir", "nowhere", "--no-download", "-o", "run"]
WARM_UP = ["--set", "warmup_epochs=1", "--set", "warmup_lr=0.01"]
WRONG: list[tuple[list[str], str]] = [
    (["train", "resnet8", "--scale-epochs", "0"], "--scale-epochs 0: "),
    (["train", "resnet8", "--scale-epochs", "1e9"], "--scale-epochs 1000000000: "),
    (["train", "resnet8", "--recipe", "nosuch"], "--recipe 'nosuch' is unknown"),
    (["train", "resnet8", "--lr", "-1"], "--lr -1: "),
    (["train", "resnet8", "--set", "flip=perhaps"], "flip perhaps: "),
    (["train", "resnet8", "--schedule", "one-cycle", "--milestones", "3"], "--milestones has no effect"),
    (["train", "resnet8", "--scale-epochs", "0.1", "--epochs", "1"], "--scale-epochs multiplies"),
    (["train", "resnet8", "--set", "shortcut=none"], "There is no setting 'shortcut'"),
    (["train", "resnet8", "--shortcut", "none"], "--shortcut 'none' is not known to resnet8"),
    (["train", "resnet8", "--norm-mode", "group", "--gn-num-groups", "0"], "--gn-num-groups 0 is not at least 1."),
    (["train", "resnet18", "--scale-epochs", "nan"], "--scale-epochs nan: "),
    (["train-gate", "resnet14", "--lr", "0"], "--lr 0: "),
    (["train-gate", "resnet14", "--label-noise", "2"], "--label-noise 2 is not a share"),
    (["train-gate", "resnet14", "--skip-below", "0"], "--skip-below 0 is not above 0"),
    (["train-gate", "resnet14", "--gate", "l2", "--gate-iters", "2"], "--gate-iters has no effect with gate l2"),
    (["train-gate", "resnet14", "--init", "baseline"], "--init baseline needs --baseline"),
    (["train", "resnet8", "--device", "foo"], "--device 'foo' is unknown"),
    (["train", "resnet8", "--mean", "1,2"], "--mean '1,2' is not three"),
    (["train-gate", "resnet14", "--input-size", "0"], "--input-size '0' is out of range"),
    (["lr-find", "resnet8", "--device", "foo"], "--device 'foo' is unknown"),
    (["lr-find", "resnet8", "--set", "rise=0.5"], "--rise has no effect here"),
    (["lr-find", "resnet8", "--set", "milestones=3"], "--milestones has no effect here"),
    (["lr-find", "resnet8", "--recipe", "nosuch"], "--recipe 'nosuch' is unknown"),
    (["lr-find", "resnet8", "--set", "momentum=1"], "--momentum 1: "),
    (["train-gate", "resnet14", "--baseline", "missing.pt"], "The weights file missing.pt does not exist."),
    (["train", "resnet8", "--schedule", "one-cycle", *WARM_UP], "warmup-epochs has no effect with schedule one-cycle"),
    (["finetune", "resnet20", "-w", "random", "--diversity", "1", "--compile"], "--diversity does not go together"),
    (["finetune", "resnet20", "-w", "random", "--val-split", "1"], "--val-split 1: "),
    (["finetune", "resnet20", "-w", "random", "--epochs", "0"], "--epochs 0: "),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_settings_are_refused_before_images_are_opened(words: list[str], sentence: str) -> None:
    assert sentence_of([*words, *ABSENT]).startswith(sentence)


@pytest.mark.parametrize("words", [["train", "resnet8"], ["train-gate", "resnet14"], ["lr-find", "resnet8"]])
def test_with_right_settings_the_images_are_what_is_missing(words: list[str]) -> None:
    assert "cifar10" in sentence_of([*words, "--batch-size", "64", *ABSENT], FAILED)


def test_the_size_of_images_decides_the_rate(make_images: Callable[..., Path]) -> None:
    dataset = f"folder:{make_images(Path('set'), ['a', 'b'], n=2, side=8)}"
    small = Inputs(model="resnet18", dataset=dataset, input_size="32")
    assert configure(small, {}, "transfer", {})[1].lr == 1e-3
    assert configure(dataclasses.replace(small, input_size="65"), {}, "transfer", {})[1].lr == 2e-4


@pytest.mark.parametrize(("size", "recipe"), [("32", "cifar-resnet"), ("65", "imagenet")])
def test_a_refusal_that_names_the_recipe_is_left_to_the_images(
    make_images: Callable[..., Path], size: str, recipe: str
) -> None:
    dataset = f"folder:{make_images(Path('set'), ['a', 'b'], n=2, side=8)}"
    with pytest.raises(InputError, match=f"The milestones of recipe {recipe} are epochs"):
        configure(Inputs(model="resnet18", dataset=dataset, input_size=size), {"iterations": 9}, None, {})


@pytest.mark.parametrize(
    ("of_small", "of_large", "refused"),
    [(None, None, False), ("a", None, False), (None, "b", False), ("a", "b", False), ("a", "a", True)],
)
def test_only_what_is_wrong_with_images_of_any_size_is_refused_at_once(
    of_small: str | None, of_large: str | None, refused: bool
) -> None:
    def plan(is_large: bool) -> None:
        if (said := of_large if is_large else of_small) is not None:
            raise InputError(said)

    with pytest.raises(InputError, match=r"^a$") if refused else nullcontext():
        check_for_any_images(plan)


DIGITS = ["train", "resnet8", "--dataset", "digits", "--device", "cpu", "-o", "run", "--recipe", "cifar-resnet"]


def test_a_run_that_is_all_warm_up_says_so() -> None:
    said = " ".join(run(*DIGITS, "--epochs", "1", *WARM_UP).stderr.split())
    assert "All of the run is warm-up, at a rate of 0.01." in said
    assert "The rate stays" not in said
    with Path("run/log.csv").open() as file:
        assert {row["lr"] for row in csv.DictReader(file)} == {"0.01"}


def test_a_run_that_ends_within_the_warm_up_says_so_too() -> None:
    options = ["--iterations", "5", "--milestones", "3", "--schedule", "steps", *WARM_UP]
    assert "All of the run is warm-up, at a rate of 0.01." in " ".join(run(*DIGITS, *options).stderr.split())


@pytest.mark.parametrize(
    ("length", "milestones", "unit", "rates"),
    [
        (["--epochs", "3"], "1,2", "epoch 1", ["0.01", "0.01", "0.001"]),
        (["--epochs", "3", "--set", "warmup_epochs=2"], "1,9", "epoch 1", ["0.01", "0.01", "0.01"]),
        (["--iterations", "33", "--schedule", "steps"], "11,22", "step 11", ["0.01", "0.01", "0.001"]),
    ],
)
def test_a_milestone_within_the_warm_up_is_said(
    length: list[str], milestones: str, unit: str, rates: list[str]
) -> None:
    warm_up = WARM_UP[2:] if "warmup_epochs=2" in length else WARM_UP
    said = " ".join(run(*DIGITS, *length, "--milestones", milestones, *warm_up).stderr.split())
    assert f"The rate is never 0.1: the warm-up does not end before {unit}, a milestone." in said
    assert ("The rate does not drop after epoch 9, as that is not before the end." in said) == ("9" in milestones)
    with Path("run/log.csv").open() as file:
        assert [f"{float(row['lr']):g}" for row in csv.DictReader(file)] == rates


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (["--scale-epochs", "0.006"], "is divided by ten after epoch 1."),
        (["--scale-epochs", "0.01"], "is divided by ten after epoch 1, 2."),
        (["--iterations", "3", "--milestones", "2"], "does not drop before the end."),
    ],
)
def test_when_the_rate_of_a_gate_drops_is_said(length: list[str], said: str, make_images: Callable[..., Path]) -> None:
    make_images(Path("images"), ["a", "b"], n=10, side=8)
    gate = ["train-gate", "resnet14", "--dataset", "folder:images", "--input-size", "8", "--gate-schedule", "step50"]
    shown = run(*gate, *length, "--device", "cpu", "-j", "0", "-o", "run").stderr
    assert f"The gate's rate of 0.01 {said}" in " ".join(shown.split())


def test_few_images_of_which_most_are_held_out(make_images: Callable[..., Path]) -> None:
    """How long the warm-up is, is not asked of images that are not there."""
    make_images(Path("images"), ["a", "b"], n=5, side=8)
    wrong = ["train", "resnet8", "--dataset", "folder:images", "--val-split", "0.96", *WARM_UP]
    assert "Holding out 10 of 10 images" in sentence_of([*wrong, "--recipe", "cifar-resnet", "--device", "cpu"])


@pytest.mark.parametrize("options", [[], WARM_UP], ids=["none", "warm-up"])
def test_the_rate_that_stays_is_said(options: list[str]) -> None:
    said = " ".join(run(*DIGITS, "--epochs", "2", *options).stderr.split())
    after = " after the warm-up" if options else ""
    assert f"The rate stays 0.1{after}: the first milestone, epoch 100, is not before the end." in said
