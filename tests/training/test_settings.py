"""Hyper-parameters: what can be given, and what is said of what cannot."""

from __future__ import annotations

from typing import Any

import pytest

from decompose_cli.datasets.augment import Augmentation
from decompose_cli.datasets.mixing import mix
from decompose_cli.errors import InputError
from decompose_cli.training.settings import Settings, make_settings, parse_settings

BAD: list[tuple[dict[str, Any], str]] = [
    ({"lr": 0}, "lr 0: "),
    ({"lr": -1}, "lr -1: "),
    ({"lr": float("nan")}, "lr nan: "),
    ({"lr": float("inf")}, "lr inf: "),
    ({"lr": "fast"}, "lr fast: "),
    ({"epochs": 0}, "epochs 0: "),
    ({"epochs": "1.5"}, "epochs 1.5: "),
    ({"epochs": 10**10}, "epochs 10000000000: "),
    ({"iterations": 0}, "iterations 0: "),
    ({"batch_size": 0}, "batch_size 0: "),
    ({"batch_size": "many"}, "batch_size many: "),
    ({"accumulate": 0}, "accumulate 0: "),
    ({"precision": "64"}, "precision 64: "),
    ({"optimizer": "lion"}, "optimizer lion: "),
    ({"schedule": "linear"}, "schedule linear: "),
    ({"milestones": (2, 1)}, "milestones must rise"),
    ({"milestones": (1, 1)}, "milestones must rise"),
    ({"milestones": (0,)}, "milestones 0: "),
    ({"milestones": ("one",)}, "milestones one: "),
    ({"momentum": 1.0}, "momentum 1: "),
    ({"momentum": -0.1}, "momentum -0.1: "),
    ({"weight_decay": -1e-4}, "weight_decay -0.0001: "),
    ({"label_smoothing": 1}, "label_smoothing 1: "),
    ({"clip_norm": 0}, "clip_norm 0: "),
    ({"ema_decay": 1}, "ema_decay 1: "),
    ({"gamma": 0}, "gamma 0: "),
    ({"augment": "flop"}, "augment flop: "),
    ({"padding": -1}, "padding -1: "),
    ({"cutout": -1}, "cutout -1: "),
    ({"mix": "stir"}, "mix stir: "),
    ({"mix_beta": 0}, "mix-beta 0: "),
    ({"val_split": 1}, "val_split 1: "),
    ({"val_split": -0.1}, "val_split -0.1: "),
    ({"seed": -1}, "seed -1: "),
    ({"seed": 2**63}, "seed 9223372036854775808: "),
    ({"rise": 1.0}, "rise 1: "),
    ({"cycle_momentum": (0.9,)}, "cycle-momentum"),
    ({"nesterov": True, "momentum": 0}, "nesterov needs momentum"),
    ({"warmup_epochs": 1}, "warmup-epochs needs warmup-lr"),
    ({"iterations": 5}, "either epochs or iterations"),
    ({"epochs": None}, "either epochs or iterations"),
    ({"speed": 3}, "There is no setting 'speed'; known are optimizer, lr"),
]


@pytest.mark.parametrize(("values", "fragment"), BAD, ids=[str(values) for values, _ in BAD])
def test_a_bad_value_is_named_in_one_sentence(values: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        make_settings({"epochs": 1, **values})
    assert fragment in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


def test_texts_are_read_as_what_they_stand_for() -> None:
    texts = ["lr=0.5", "flip=false", "milestones=3, 4", "cycle-momentum=0.8,0.9", "clip_norm=none", "mix=none"]
    found = make_settings({"epochs": 9, **parse_settings(texts)})
    assert found == make_settings(
        {"epochs": 9, "lr": 0.5, "flip": False, "milestones": (3, 4), "cycle_momentum": (0.8, 0.9)}
    )


@pytest.mark.parametrize("text", ["lr", "=3", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not NAME=VALUE"):
        parse_settings([text])


def test_an_unknown_setting_is_named_with_one_like_it() -> None:
    with pytest.raises(InputError, match=r"There is no setting 'momntum' \(did you mean momentum\?\)") as caught:
        parse_settings(["momntum=0.5"])
    assert "Known are optimizer, lr" in (caught.value.hint or "")
    with pytest.raises(InputError, match=r"There is no setting 'LR'"):
        parse_settings(["LR=1"])


def test_one_setting_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="twice"):
        parse_settings(["lr=0.1", "lr=0.2"])


def test_steps_of_an_epoch_and_of_a_run() -> None:
    settings = make_settings({"epochs": 3, "batch_size": 4, "accumulate": 2})
    assert settings.images_per_step == 8
    assert [settings.steps_per_epoch(images) for images in (1, 8, 9, 16)] == [1, 1, 2, 2]
    assert (settings.total_steps(9), settings.total_epochs(9)) == (6, 3)
    whole = make_settings({"iterations": 7, "batch_size": 4, "drop_last": True})
    assert [whole.steps_per_epoch(images) for images in (4, 7, 8)] == [1, 1, 2]
    assert (whole.total_steps(8), whole.total_epochs(8)) == (7, 4), "the last pass is one in part"


def test_a_batch_larger_than_the_data_leaves_nothing_with_drop_last() -> None:
    with pytest.raises(InputError, match="leaves none of the 3 training images"):
        make_settings({"epochs": 1, "batch_size": 4, "drop_last": True}).steps_per_epoch(3)


def test_augmentation_is_that_of_the_settings() -> None:
    values = {"augment": "crop-flip", "padding": 2, "padding_mode": "border", "flip": False, "cutout": 3}
    expected = Augmentation("crop-flip", 2, "border", False, 3)
    assert make_settings({"epochs": 1, **values}).augmentation == expected


def test_what_is_shown_is_what_matters() -> None:
    shown = make_settings({"epochs": 2, "lr": 0.1, "nesterov": True}).shown()
    assert shown.startswith("sgd, lr 0.1, momentum 0.9, nesterov, ")
    assert "epochs 2" in shown
    assert not any(word in shown for word in ("milestones", "rise", "cutout", "mix", "accumulate", "iterations"))
    adam = make_settings({"epochs": 2, "optimizer": "adam", "flip": False, "schedule": "steps", "milestones": (1,)})
    assert "momentum" not in adam.shown()
    assert "flip False" in adam.shown()
    assert "milestones 1, gamma 0.1" in adam.shown()


def test_the_documented_defaults_of_mixing_are_those_that_are_used() -> None:
    """The docstring says which Beta distribution each way of mixing draws from."""
    import torch

    images, targets = torch.rand(8, 3, 6, 6), torch.arange(8) % 3
    for way, value in (("ricap", 0.3), ("mixup", 1.0), ("cutmix", 1.0)):
        usual = mix(way, images, targets, 3, 1)
        assert all(
            torch.equal(a, b) for a, b in zip(usual, mix(way, images, targets, 3, 1, strength=value), strict=True)
        )
    assert Settings.__doc__ is not None
    assert "by default 0.3, 1 and 1" in " ".join(Settings.__doc__.split())


def test_settings_come_back_from_json_as_they_were() -> None:
    import json

    settings = make_settings({"epochs": 1, "milestones": (1, 2), "cycle_momentum": (0.8, 0.9), "precision": "bf16"})
    assert make_settings(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings
