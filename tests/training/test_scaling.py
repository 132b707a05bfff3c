"""Recipes made shorter or longer as a whole."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import pytest

from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.training.gating.configuration import with_defaults
from decompose_cli.training.gating.objective import classifier_settings
from decompose_cli.training.gating.settings import GateSettings
from decompose_cli.training.recipes import RECIPES, resolve
from decompose_cli.training.scaling import scaled, scaled_milestones
from decompose_cli.training.session import Request

FACTORS = (1e-9, 0.004, 0.01, 0.03, 0.05, 0.29, 0.5, 1.0, 1.5, 20)


def rounded(count: int, factor: float) -> int:
    """The slow twin, on the decimal digits of the factor."""
    return max(1, floor(Fraction(str(factor)) * count + Fraction(1, 2)))


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_length_of_a_recipe_is_scaled_and_nothing_else(recipe: str, large: bool, factor: float) -> None:
    plain, short = (
        resolve(recipe, given, large_images=large, depth=110).model_dump() for given in ({}, {"scale_epochs": factor})
    )
    assert short["scale_epochs"] == factor
    for name in ("epochs", "iterations"):
        assert short[name] == (None if plain[name] is None else rounded(plain[name], factor))
    assert short["warmup_epochs"] == (rounded(plain["warmup_epochs"], factor) if plain["warmup_epochs"] else 0)
    assert len(short["milestones"]) == len(plain["milestones"]), "no drop of the rate is made twice at once"
    assert list(short["milestones"]) == sorted(set(short["milestones"]))
    lengths = ("epochs", "iterations", "warmup_epochs", "milestones", "scale_epochs")
    assert {k: v for k, v in short.items() if k not in lengths} == {k: v for k, v in plain.items() if k not in lengths}


@pytest.mark.parametrize(
    ("recipe", "factor", "length", "milestones"),
    [
        ("cifar-resnet", 0.05, 10, (5, 8)),  # 100 and 150 of 200: 5 and 7.5
        ("he2015", 0.05, 3200, (1600, 2400)),
        ("online-norm", 0.04, 10, (4, 6, 8)),
        ("soft-gates", 0.03, 10, (4, 6)),  # 3.99 and 6 of 9.99
        ("imagenet", 0.05, 5, (2, 3)),  # 1.5 and 3 of 4.5: halves are rounded upwards
        ("online-norm", 0.004, 1, (1, 2, 3)),  # 0.4, 0.6 and 0.8 of 1: the drops lie behind the end, one by one
    ],
)
def test_scaled_recipes(recipe: str, factor: float, length: int, milestones: tuple[int, ...]) -> None:
    found = resolve(recipe, {"scale_epochs": factor})
    assert (found.epochs or found.iterations, found.milestones) == (length, milestones)


def test_the_digits_of_the_factor_count() -> None:
    assert 0.29 * 50 < 14.5, "in binary"
    assert (scaled(50, 0.29), scaled(0, 0.29), scaled(1, 1e-300)) == (15, 0, 1)
    assert scaled_milestones((30, 60, 80, 90), 0.01) == (1, 2, 3, 4)


def test_what_is_given_beside_a_factor_stays() -> None:
    found = resolve("cifar-resnet", {"scale_epochs": 0.05, "milestones": (3, 4), "warmup_epochs": 2, "warmup_lr": 0.01})
    assert (found.epochs, found.milestones, found.warmup_epochs) == (10, (3, 4), 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": 3}, "epochs gives a length"),
        ({"iterations": 3}, "iterations gives a length"),
        ({"scale_epochs": 0}, "scale_epochs 0: input should be greater than 0"),
        ({"scale_epochs": -1}, "greater than 0"),
        ({"scale_epochs": float("nan")}, "finite number"),
        ({"scale_epochs": float("inf")}, "finite number"),
        ({"scale_epochs": 1001}, "less than or equal to 1000"),
        ({"scale_epochs": "half"}, "valid number"),
    ],
)
def test_wrong_factors_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        resolve("cifar-resnet", {"scale_epochs": 0.1, **given})


@pytest.mark.parametrize(
    ("factor", "drops"), [(1.0, (49, 99, 149, 199, 249, 299)), (0.1, (5, 10, 15, 20, 25, 30)), (0.01, (1, 2))]
)
def test_the_rate_of_a_gates_classifier_is_scaled_too(factor: float, drops: tuple[int, ...]) -> None:
    settings = resolve("soft-gates", {"scale_epochs": factor})
    gates = GateSettings(gate_schedule="step50").completed("entropy-classifier")
    assert classifier_settings(settings, gates, 7).milestones == drops


def test_a_first_look_has_the_length_that_was_asked_for() -> None:
    request = with_defaults(Request(Inputs(), {"scale_epochs": 0.1}))
    assert request.overrides == {"scale_epochs": 0.1}
    assert with_defaults(Request(Inputs())).overrides == {"epochs": 3}
