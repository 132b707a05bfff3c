"""What cannot be used is refused before images are opened, which may mean to fetch them."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command_line import FAILED, run, sentence_of

from decompose_cli.features.inputs import Inputs
from decompose_cli.training.configure import configure

ABSENT = ["--dataset", "cifar10", "--data-dir", "nowhere", "--no-download", "-o", "run"]
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
    (["lr-find", "resnet8", "--recipe", "nosuch"], "--recipe 'nosuch' is unknown"),
    (["lr-find", "resnet8", "--set", "momentum=1"], "--momentum 1: "),
    (["finetune", "resnet20", "-w", "random", "--val-split", "1"], "--val-split 1: "),
    (["finetune", "resnet20", "-w", "random", "--epochs", "0"], "--epochs 0: "),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_settings_are_refused_before_images_are_opened(words: list[str], sentence: str) -> None:
    assert sentence_of([*words, *ABSENT]).startswith(sentence)


@pytest.mark.parametrize("words", [["train", "resnet8"], ["train-gate", "resnet14"], ["lr-find", "resnet8"]])
def test_with_right_settings_the_images_are_what_is_missing(words: list[str]) -> None:
    assert "cifar10" in sentence_of([*words, "--batch-size", "64", *ABSENT], FAILED)


def test_what_images_of_one_size_allow_is_left_to_the_images(make_images: Callable[..., Path]) -> None:
    dataset = f"folder:{make_images(Path('set'), ['a', 'b'], n=2, side=8)}"
    small = Inputs(model="resnet18", dataset=dataset, input_size="32")
    overrides = {"weight_decay": 0.0, "nesterov": True}
    assert configure(small, overrides, "transfer", {})[1].lr == 1e-3
    assert configure(dataclasses.replace(small, input_size="65"), overrides, "transfer", {})[1].lr == 2e-4


DIGITS = ["train", "resnet8", "--dataset", "digits", "--device", "cpu", "-o", "run", "--recipe", "cifar-resnet"]
WARM_UP = ["--set", "warmup_epochs=1", "--set", "warmup_lr=0.01"]


def test_a_run_that_is_all_warm_up_says_so() -> None:
    said = " ".join(run(*DIGITS, "--epochs", "1", *WARM_UP).stderr.split())
    assert "The warm-up is as long as the run, whose rate is 0.01 all along." in said
    assert "The rate stays" not in said
    with Path("run/log.csv").open() as file:
        assert {row["lr"] for row in csv.DictReader(file)} == {"0.01"}


@pytest.mark.parametrize("options", [[], WARM_UP], ids=["none", "warm-up"])
def test_the_rate_that_stays_is_said(options: list[str]) -> None:
    said = " ".join(run(*DIGITS, "--epochs", "2", *options).stderr.split())
    after = " after the warm-up" if options else ""
    assert f"The rate stays 0.1{after}: the first milestone, epoch 100, is not before the end." in said
