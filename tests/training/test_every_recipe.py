"""A twentieth of every recipe, with every normalisation: it runs to its end, also over an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import content, run
from helpers.power_cut import PowerCut

from decompose_cli.norms.modes import NORM_MODES
from decompose_cli.training.recipes import RECIPES, resolve

FACTOR = 0.05
QUICK = ("cifar-resnet", "custom-resnet")
LONG = "he2015"
"""3,200 steps, which take minutes where every epoch is measured and saved."""


def cases(names: tuple[str, ...], quick: tuple[str, ...]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in names]


def check(options: list[str], length: int, power_cut: PowerCut) -> None:
    """A run that the power failed in, and one that it did not, end alike to the last bit, after so many epochs."""
    run("train", "resnet8", *options, "-o", "whole")
    with power_cut("last.pt", max(1, length // 2)):
        run("train", "resnet8", *options, "-o", "cut")
    assert not Path("cut/result.json").exists()
    run("train", "--resume", "cut", "--scale-epochs", str(FACTOR), "-q")
    whole, cut = (content(f"{name}/result.json")["results"]["epochs"] for name in ("whole", "cut"))
    assert len(whole) == length
    assert [(one["lr"], one["train"], one["val"], one["test"]) for one in whole] == [
        (one["lr"], one["train"], one["val"], one["test"]) for one in cut
    ]
    assert all(one["images_per_second"] > 0 for one in whole)
    saved = [torch.load(f"{name}/last.pt", weights_only=True)["state_dict"] for name in ("whole", "cut")]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    settings = content("whole/result.json")["arguments"]["settings"]
    assert settings["scale_epochs"] == FACTOR


@pytest.mark.parametrize("recipe", cases(tuple(name for name in RECIPES if name != LONG), QUICK))
def test_a_twentieth_of_every_recipe(recipe: str, make_images: Callable[..., Path], power_cut: PowerCut) -> None:
    make_images(Path("images"), ["a", "b"], n=33)  # one full batch of the smallest recipe, held-out images aside
    length = resolve(recipe, {"scale_epochs": FACTOR}).epochs
    assert length is not None
    # A network of two stages learns nothing of random pixels at a rate of 0.45 but numbers that are not finite.
    more = ["--lr", "0.01"] if recipe == "custom-resnet" else []
    options = ["--dataset", "folder:images", "--recipe", recipe, "--scale-epochs", str(FACTOR), *more, "-q"]
    check(options if length > 1 else [*options, "-b", "16", "--checkpoint-every", "1"], length, power_cut)


@pytest.mark.parametrize("mode", cases(NORM_MODES, ("online", "group")))
def test_a_twentieth_with_every_norm(mode: str, make_images: Callable[..., Path], power_cut: PowerCut) -> None:
    make_images(Path("images"), ["a", "b"], n=20)
    # Without any normalisation 0.1 is too high a rate.
    options = ["--dataset", "folder:images", "--norm-mode", mode, "--shortcut", "projection", "--lr", "0.003", "-q"]
    check([*options, "--scale-epochs", str(FACTOR)], 13, power_cut)


@pytest.mark.slow
def test_a_twentieth_of_many_steps(power_cut: PowerCut) -> None:
    """3,200 steps of 80 an epoch; the rate drops after 1,600 and 2,400."""
    options = ["--dataset", "digits", "--recipe", LONG, "--scale-epochs", str(FACTOR), "-b", "16", "-q"]
    check(options, 40, power_cut)
    epochs = content("whole/result.json")["results"]["epochs"]
    assert epochs[-1]["steps"] == 3200
    assert {round(one["lr"], 9) for one in epochs} == {0.1, 0.01, 0.001}
