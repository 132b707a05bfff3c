"""Presets resolve to the values that were published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from decompose_cli.datasets.registry import open_dataset
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.training.configure import configure
from decompose_cli.training.recipes import RECIPES, complete_norm, default_recipe, resolve

SMALL = {"augment": "crop-flip", "padding": 4, "padding_mode": "zeros", "flip": True}
SGD = {"optimizer": "sgd", "nesterov": False, "accumulate": 1, "clip_norm": None, "ema_decay": None, "mix": "none"}
PLAIN = {**SGD, "cutout": 0, "label_smoothing": 0.0, "precision": "32", "drop_last": False, "warmup_epochs": 0}

PUBLISHED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # name, how it is resolved, what its source says
    (
        "cifar-resnet",
        {},
        {
            **PLAIN,
            **SMALL,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch_size": 128,
            "epochs": 200,
            "iterations": None,
            "schedule": "steps",
            "milestones": (100, 150),
            "gamma": 0.1,
            "val_split": 0.1,
        },
    ),
    (
        "he2015",
        {},
        {
            **PLAIN,
            **SMALL,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch_size": 128,
            "epochs": None,
            "iterations": 64_000,
            "schedule": "steps",
            "milestones": (32_000, 48_000),
            "gamma": 0.1,
            "val_split": 0.1,
        },
    ),
    (
        "online-norm",
        {},
        {
            **PLAIN,
            **SMALL,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 2e-4,
            "batch_size": 128,
            "epochs": 250,
            "schedule": "steps",
            "milestones": (100, 150, 200),
            "gamma": 0.1,
        },
    ),
    (
        "online-norm",
        {"large_images": True},
        {
            **PLAIN,
            "augment": "resized-crop",
            "flip": True,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 90,
            "schedule": "steps",
            "milestones": (30, 60, 80, 90),
        },
    ),
    (
        "soft-gates",
        {},
        {
            **PLAIN,
            **SMALL,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch_size": 128,
            "epochs": 333,
            "schedule": "steps",
            "milestones": (133, 200),
            "gamma": 0.1,
        },
    ),
    (
        "custom-resnet",
        {},
        {
            **SGD,
            **SMALL,
            "lr": 0.45,
            "momentum": 0.95,
            "weight_decay": 5e-4,
            "batch_size": 512,
            "epochs": 24,
            "schedule": "one-cycle",
            "rise": 7 / 24,
            "start_divisor": 10.0,
            "end_divisor": 400.0,
            "anneal": "linear",
            "cycle_momentum": (0.85, 0.95),
            "label_smoothing": 0.1,
            "cutout": 8,
            "precision": "bf16",
        },
    ),
    (
        "imagenet",
        {"large_images": True},
        {
            **PLAIN,
            "augment": "resized-crop",
            "flip": True,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 90,
            "schedule": "steps",
            "milestones": (30, 60),
            "gamma": 0.1,
        },
    ),
    (
        "digits",
        {},
        {
            **SGD,
            "nesterov": True,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 2e-3,
            "batch_size": 64,
            "epochs": 30,
            "drop_last": True,
            "schedule": "one-cycle",
            "rise": 0.3,
            "start_divisor": 25.0,
            "end_divisor": 250_000.0,
            "anneal": "cos",
            "cycle_momentum": None,
            "augment": "crop-flip",
            "padding": 3,
            "padding_mode": "border",
            "flip": False,
            "val_split": 0.0,
        },
    ),
    (
        "finetune",
        {},
        {
            **PLAIN,
            **SMALL,
            "optimizer": "adam",
            "lr": 2e-4,
            "weight_decay": 0.0,
            "batch_size": 64,
            "epochs": 10,
            "schedule": "constant",
            "val_split": 0.0,
        },
    ),
    (
        "finetune",
        {"large_images": True},
        {"optimizer": "adam", "lr": 1e-6, "batch_size": 64, "epochs": 10, "augment": "affine", "val_split": 0.0},
    ),
    (
        "transfer",
        {},
        {**PLAIN, **SMALL, "optimizer": "adam", "lr": 1e-3, "batch_size": 64, "schedule": "cosine", "val_split": 0.1},
    ),
    (
        "transfer",
        {"large_images": True},
        {"optimizer": "adam", "lr": 2e-4, "batch_size": 64, "epochs": 10, "augment": "resized-crop", "val_split": 0.1},
    ),
]


@pytest.mark.parametrize(("name", "how", "expected"), PUBLISHED)
def test_values_are_the_published_ones(name: str, how: dict[str, Any], expected: dict[str, Any]) -> None:
    found = resolve(name, {}, **how).model_dump()
    assert {key: found[key] for key in expected} == expected


def test_every_recipe_is_in_the_table() -> None:
    assert {name for name, _, _ in PUBLISHED} == set(RECIPES)
    assert all(recipe.source for recipe in RECIPES.values())


def test_of_cifars_training_images_45_000_are_left() -> None:
    assert round(0.1 * 50_000) == 5_000
    settings = resolve("he2015", {})
    assert settings.val_split * 50_000 == 5_000
    assert settings.total_epochs(45_000) == 182, "64,000 steps of 128 images"


@pytest.mark.parametrize("name", ["cifar-resnet", "he2015"])
@pytest.mark.parametrize(("depth", "warms_up"), [(None, False), (20, False), (104, False), (110, True), (164, True)])
def test_deep_networks_begin_with_one_epoch_at_a_small_rate(name: str, depth: int | None, warms_up: bool) -> None:
    settings = resolve(name, {}, depth=depth)
    assert (settings.warmup_epochs, settings.warmup_lr) == ((1, 0.01) if warms_up else (0, None))


@pytest.mark.parametrize("name", ["custom-resnet", "finetune", "digits", "online-norm"])
def test_other_recipes_do_not_warm_up(name: str) -> None:
    assert resolve(name, {}, depth=110).warmup_epochs == 0


def test_what_is_given_wins() -> None:
    given = {"lr": 0.3, "milestones": (1, 2), "optimizer": "adamw", "warmup_epochs": 0, "flip": False}
    found = resolve("cifar-resnet", given, depth=110)
    assert {name: getattr(found, name) for name in given} == given
    assert found.weight_decay == 1e-4, "the rest is the recipe's"


def test_epochs_and_iterations_replace_each_other() -> None:
    found = resolve("he2015", {"epochs": 3, "milestones": (1, 2)})
    assert (found.epochs, found.iterations, found.milestones) == (3, None, (1, 2))
    found = resolve("cifar-resnet", {"iterations": 7, "schedule": "cosine"})
    assert (found.epochs, found.iterations) == (None, 7)
    with pytest.raises(InputError, match="either epochs or iterations"):
        resolve("he2015", {"epochs": 3, "iterations": 7, "milestones": (1, 2)})


@pytest.mark.parametrize(("recipe", "given"), [("cifar-resnet", {"iterations": 64000}), ("he2015", {"epochs": 200})])
def test_milestones_are_not_taken_for_others(recipe: str, given: dict[str, Any]) -> None:
    """100 epochs are no 100 steps."""
    with pytest.raises(InputError, match="milestones"):
        resolve(recipe, given)
    assert resolve("digits", {"iterations": 5}).iterations == 5, "recipes without milestones have no such trouble"


@pytest.mark.parametrize("name", ["digits", "finetune", "cifar-resnet"])
def test_digits_are_not_mirrored(name: str) -> None:
    found = resolve(name, {}, dataset="digits")
    assert (found.augment, found.flip, found.padding, found.padding_mode) == ("crop-flip", False, 3, "border")
    assert resolve(name, {"flip": True}, dataset="digits").flip
    assert resolve("finetune", {}, dataset="cifar10").flip


def test_a_warm_up_belongs_to_the_schedule_with_steps() -> None:
    assert resolve("cifar-resnet", {}, depth=110).warmup_epochs == 1
    assert resolve("cifar-resnet", {"schedule": "one-cycle"}, depth=110).warmup_epochs == 0


def test_unknown_recipe_names_those_that_exist() -> None:
    with pytest.raises(InputError, match="recipe 'none' is unknown; choose cifar-resnet, he2015"):
        resolve("none", {})


@pytest.mark.parametrize(
    ("model", "dataset", "large_images", "options", "expected"),
    [
        ("resnet20", "cifar10", False, {}, "cifar-resnet"),
        ("custom_resnet", "cifar10", False, {}, "custom-resnet"),
        ("resnet50", "imagenet", True, {}, "imagenet"),
        ("resnet20", "digits", False, {}, "digits"),
        ("custom_resnet", "digits", False, {}, "digits"),
        ("resnet20", "cifar10", False, {"shortcut": "projection"}, "cifar-resnet"),
        ("resnet20", "cifar10", False, {"norm_mode": "batch"}, "online-norm"),
        ("custom_resnet", "digits", False, {"norm_mode": "group"}, "online-norm"),
        ("resnet50", "imagenet", True, {"afwd": "0.9"}, "online-norm"),
        ("resnet50", "imagenet", True, {"abkw": "0.9"}, "online-norm"),
        ("resnet50", "imagenet", True, {"ecm": "ac"}, "online-norm"),
    ],
)
def test_default_recipe(model: str, dataset: str, large_images: bool, options: dict[str, str], expected: str) -> None:
    assert default_recipe(model, dataset, large_images=large_images, options=options) == expected


@pytest.mark.parametrize(
    ("options", "dataset", "large_images", "expected"),
    [
        ({}, "cifar10", False, {}),
        ({"norm_mode": "layer"}, "cifar10", False, {}),
        ({"norm_mode": "group"}, "cifar10", False, {"gn_num_groups": "8"}),
        ({"norm_mode": "group"}, "imagenet", True, {"gn_num_groups": "32"}),
        ({"norm_mode": "group", "gn_num_groups": "4"}, "imagenet", True, {"gn_num_groups": "4"}),
        ({"norm_mode": "online"}, "cifar10", False, {"afwd": "0.9990234375", "abkw": "0.9921875", "ecm": "ls"}),
        ({"norm_mode": "online"}, "cifar100", False, {"afwd": "0.998046875", "abkw": "0.9375", "ecm": "ls"}),
        ({"norm_mode": "online"}, "imagenet", True, {"afwd": "0.999", "abkw": "0.99", "ecm": "ls"}),
        ({"norm_mode": "online"}, "digits", False, {"afwd": "0.9990234375", "abkw": "0.9921875", "ecm": "ls"}),
        ({"norm_mode": "online"}, "folder:x", True, {"afwd": "0.999", "abkw": "0.99", "ecm": "ls"}),
        (
            {"norm_mode": "online", "abkw": "0.5", "ecm": "ac"},
            "x",
            False,
            {"afwd": "0.9990234375", "abkw": "0.5", "ecm": "ac"},
        ),
    ],
)
def test_published_details_of_norms(
    options: dict[str, str], dataset: str, large_images: bool, expected: dict[str, str]
) -> None:
    assert complete_norm(options, dataset, large_images=large_images) == {**options, **expected}


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        ("resnet20", "32", "cifar-resnet"),
        ("resnet20", "64", "cifar-resnet"),
        ("resnet20", "65", "imagenet"),
        ("resnet18", "32", "cifar-resnet"),
        ("resnet18", None, "imagenet"),
        ("custom_resnet", None, "custom-resnet"),
        ("preresnet110", None, "cifar-resnet"),
    ],
)
def test_size_of_what_the_network_sees_decides(
    make_images: Any, tmp_path: Path, model: str, size: str | None, expected: str
) -> None:
    dataset = f"folder:{make_images(tmp_path / 'set', ['a', 'b'], n=2, side=8)}"
    _, settings, config = configure(Inputs(model=model, dataset=dataset, input_size=size), {}, None, {})
    assert config["recipe"] == expected
    assert settings == resolve(expected, {}, large_images=expected == "imagenet", depth=110 if "110" in model else None)
    assert config["training_images"] == open_dataset(dataset, "train", tmp_path, allow_download=False).fingerprint()
