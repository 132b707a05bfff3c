"""Presets of settings by name, as published trainings used them; every value can be overridden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from decompose_cli.datasets.registry import DATASETS
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.training.scaling import scaled_lengths
from decompose_cli.training.settings import Settings, make_settings

_SMALL_IMAGES = {"augment": "crop-flip", "padding": 4, "flip": True}
_UPRIGHT = {"padding": 3, "padding_mode": "border", "flip": False}
"""Values for images such as digits, which fill their frame and mean something else, or nothing, in a mirror."""
_LARGE_IMAGES = {"augment": "resized-crop", "flip": True}
LARGEST_SMALL_SIDE = 64
"""Pixels of the largest images on which networks are trained as on CIFAR."""
_DEEP = 110
"""Depth from which a CIFAR ResNet begins with a small rate (arXiv 1512.03385, section 4.2)."""


@dataclass(frozen=True)
class Recipe:
    """A preset of settings.

    Attributes:
        source: Where the values are from.
        values: Settings; those for small images where the source has both sizes.
        imagenet: Settings that differ for ImageNet.
    """

    source: str
    values: Mapping[str, Any]
    imagenet: Mapping[str, Any] | None = None


RECIPES: dict[str, Recipe] = {
    "cifar-resnet": Recipe(
        "akamaster/pytorch_resnet_cifar10",
        {
            **_SMALL_IMAGES,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch_size": 128,
            "epochs": 200,
            "schedule": "steps",
            "milestones": (100, 150),
            "val_split": 0.1,
        },
    ),
    "he2015": Recipe(
        "arXiv 1512.03385, section 4.2",
        {
            **_SMALL_IMAGES,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch_size": 128,
            "iterations": 64_000,
            "schedule": "steps",
            "milestones": (32_000, 48_000),
            "val_split": 0.1,
        },
    ),
    "online-norm": Recipe(
        "arXiv 1905.05894 and its code",
        {
            **_SMALL_IMAGES,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 2e-4,
            "batch_size": 128,
            "epochs": 250,
            "schedule": "steps",
            "milestones": (100, 150, 200),
            "val_split": 0.1,
        },
        {**_LARGE_IMAGES, "weight_decay": 1e-4, "batch_size": 256, "epochs": 90, "milestones": (30, 60, 80, 90)},
    ),
    "custom-resnet": Recipe(
        "the one-cycle CIFAR-10 training of the custom ResNet",
        {
            **_SMALL_IMAGES,
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
            "val_split": 0.1,
        },
    ),
    "soft-gates": Recipe(
        "the published training of soft gates",
        {
            **_SMALL_IMAGES,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch_size": 128,
            "epochs": 333,
            "schedule": "steps",
            "milestones": (133, 200),
            "val_split": 0.1,
        },
    ),
    "imagenet": Recipe(
        "torchvision's reference for ResNets",
        {
            **_LARGE_IMAGES,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 90,
            "schedule": "steps",
            "milestones": (30, 60),
            "val_split": 0.02,
        },
    ),
    "digits": Recipe(
        "this project: the network that ships with it",
        {
            "lr": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 2e-3,
            "batch_size": 64,
            "epochs": 30,
            "drop_last": True,
            "schedule": "one-cycle",
            "augment": "crop-flip",
            **_UPRIGHT,
        },
    ),
    "finetune": Recipe(
        "arXiv 2112.07719 and its code",
        {
            **_SMALL_IMAGES,
            "optimizer": "adam",
            "lr": 2e-4,
            "weight_decay": 0.0,
            "batch_size": 64,
            "epochs": 10,
            "schedule": "constant",
        },
        {"augment": "affine", "lr": 1e-6},
    ),
    "transfer": Recipe(
        "this project: from given weights to other classes",
        {
            **_SMALL_IMAGES,
            "optimizer": "adam",
            "lr": 1e-3,
            "weight_decay": 0.0,
            "batch_size": 64,
            "epochs": 10,
            "schedule": "cosine",
            "val_split": 0.1,
        },
        {**_LARGE_IMAGES, "lr": 2e-4},
    ),
}


_OF_SMALL_IMAGES, _OF_LARGE_IMAGES = "cifar10", "imagenet"
"""The data sets from which others take the decays of online normalisation, by the size of the images."""
_SELECTING_ONLINE_NORM = ("norm_mode", "afwd", "abkw", "ecm")


def complete_norm(options: Mapping[str, str], dataset: str, *, large_images: bool) -> dict[str, str]:
    """Options of a network, with the publication's values for such images where a detail of the norm was left open.

    Args:
        options: Options of the network, as given.
        dataset: Name of the data set; unknown ones are taken as CIFAR-10 or ImageNet, by the size of the images.
        large_images: Whether images are as large as in ImageNet.
    """
    forward, backward = _norm_decays(dataset, large_images=large_images)
    details = {
        "group": {"gn_num_groups": "32" if large_images else "8"},
        "online": {"afwd": str(forward), "abkw": str(backward), "ecm": "ls"},
    }
    return {**details.get(options.get("norm_mode", ""), {}), **options}


def _norm_decays(dataset: str, *, large_images: bool) -> tuple[float, float]:
    """The forward and the backward decay, for each sample."""
    known = DATASETS.get(dataset)
    if known is not None and known.norm_decays is not None:
        return known.norm_decays
    decays = DATASETS[_OF_LARGE_IMAGES if large_images else _OF_SMALL_IMAGES].norm_decays
    assert decays is not None
    return decays


def default_recipe(model: str, dataset: str, *, large_images: bool, options: Mapping[str, str]) -> str:
    """The recipe to use where none was named; ``options`` are the given options of the network."""
    if any(name in options for name in _SELECTING_ONLINE_NORM):
        return "online-norm"
    known = DATASETS.get(dataset)
    if known is not None and known.recipe is not None:
        return known.recipe
    if "gate" in options:
        return "soft-gates"
    if model == "custom_resnet":
        return "custom-resnet"
    return "imagenet" if large_images else "cifar-resnet"


def resolve(
    recipe: str,
    overrides: Mapping[str, Any],
    *,
    large_images: bool = False,
    depth: int | None = None,
    dataset: str | None = None,
) -> Settings:
    """The settings of a recipe with some values replaced.

    Args:
        recipe: Name of a preset.
        overrides: Values to replace, by the name of the setting. With ``scale_epochs`` the lengths of the recipe are
            multiplied; what is replaced is taken as given.
        large_images: Whether images are as large as in ImageNet.
        depth: Depth of a CIFAR ResNet; deep ones begin with an epoch at a rate of 0.01.
        dataset: Name of the data set; images that mean something else in a mirror, such as digits, are not mirrored.

    Raises:
        InputError: There is no such recipe, or a value cannot be used.
    """
    preset = RECIPES[one_of(recipe, tuple(RECIPES), "recipe")]
    values = {**preset.values, **((preset.imagenet or {}) if large_images else {})}
    schedule = overrides.get("schedule", values["schedule"])
    if (
        recipe in ("cifar-resnet", "he2015", "soft-gates")
        and depth is not None
        and depth >= _DEEP
        and schedule == "steps"
    ):
        values |= {"warmup_epochs": 1, "warmup_lr": 0.01}
    if overrides.get("scale_epochs") is not None:
        values |= _scaled(values, overrides)
    known = DATASETS.get(dataset or "")
    if known is not None and known.is_upright and values.get("augment") == "crop-flip":
        values |= _UPRIGHT
    for given, other in (("epochs", "iterations"), ("iterations", "epochs")):
        is_other = overrides.get(given) is not None and values.pop(other, None) is not None
        if is_other and schedule == "steps" and "milestones" not in overrides:
            raise InputError(
                f"The milestones of recipe {recipe} are {other}; with {param(given)} they have to be {given} too.",
                hint=f"Give {param('milestones')} as well, or another {param('schedule')}.",
            )
    settings = make_settings({**values, **overrides})
    for name in ("milestones", "gamma"):
        if name in overrides and settings.schedule != "steps":
            raise InputError(
                f"{param(name)} has no effect with schedule {settings.schedule}; add {param('schedule')} steps."
            )
    if overrides.get("warmup_epochs") and settings.schedule == "one-cycle":
        raise InputError(
            "warmup-epochs has no effect with schedule one-cycle, which begins with a rise of its own; "
            f"{param('set')} rise=SHARE sets its length."
        )
    if "momentum" in overrides and settings.optimizer != "sgd":
        raise InputError(
            f"{param('momentum')} has no effect with {settings.optimizer}; it goes with {param('optimizer')} sgd."
        )
    return settings


def _scaled(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The lengths of a recipe times the factor that was given."""
    for name in ("epochs", "iterations"):
        if overrides.get(name) is not None:
            raise InputError(
                f"{param('scale_epochs')} multiplies the length of the recipe, and {param(name)} gives a length; leave "
                "one of them out."
            )
    factor = make_settings({"epochs": 1, "scale_epochs": overrides["scale_epochs"]}).scale_epochs
    assert factor is not None
    return scaled_lengths(values, factor)


def check_for_any_images(plan: Callable[[bool], object]) -> None:
    """Refuse what is wrong for the same reason with images of any size, before they are opened and perhaps fetched.

    Args:
        plan: Settles what depends on whether images are large.

    Raises:
        InputError: What ``plan`` says of both; where it says different things, the images are to decide.
    """
    try:
        plan(False)
    except InputError as of_small:
        try:
            plan(True)
        except InputError as of_large:
            if of_large.sentence == of_small.sentence:
                raise
