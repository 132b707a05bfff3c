"""Rates and momentum of every step, against plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from decompose_cli.training.optimizers import make_optimizer
from decompose_cli.training.recipes import resolve
from decompose_cli.training.schedules import make_schedule
from decompose_cli.training.settings import Settings, make_settings


def walked(settings: Settings, steps_per_epoch: int) -> list[tuple[float, float]]:
    """(rate, momentum) with which each step is made."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer(settings, [parameter])
    total = settings.total_steps(steps_per_epoch * settings.images_per_step)
    schedule = make_schedule(optimizer, settings, steps_per_epoch=steps_per_epoch, total_steps=total)
    found = []
    for _ in range(total):
        group = optimizer.param_groups[0]
        found.append((group["lr"], group.get("momentum", group.get("betas", (0.0,))[0])))
        parameter.grad = torch.zeros(1)
        optimizer.step()
        schedule.step()
    return found


def rates(settings: Settings, steps_per_epoch: int) -> list[float]:
    return [rate for rate, _ in walked(settings, steps_per_epoch)]


Twin = Callable[[int], float]
CASES: list[tuple[str, dict[str, Any], int, Twin]] = [
    ("constant", {"epochs": 3}, 4, lambda step: 0.1),
    (
        "steps in epochs",
        {"epochs": 5, "schedule": "steps", "milestones": (2, 4)},
        3,
        lambda step: 0.1 * 0.1 ** ((step >= 6) + (step >= 12)),
    ),
    (
        "steps in iterations",
        {"iterations": 10, "schedule": "steps", "milestones": (2, 4), "gamma": 0.5},
        3,
        lambda step: 0.1 * 0.5 ** ((step >= 2) + (step >= 4)),
    ),
    ("milestones are for steps only", {"epochs": 3, "milestones": (1,)}, 2, lambda step: 0.1),
    (
        "warm-up in epochs",
        {"epochs": 4, "schedule": "steps", "milestones": (3,), "warmup_epochs": 2, "warmup_lr": 0.01},
        3,
        lambda step: 0.01 if step < 6 else 0.1 if step < 9 else 0.01,
    ),
    (
        "warm-up with iterations",
        {"iterations": 9, "schedule": "steps", "milestones": (8,), "warmup_epochs": 1, "warmup_lr": 0.02},
        4,
        lambda step: 0.02 if step < 4 else 0.1 if step < 8 else 0.01,
    ),
    ("cosine", {"epochs": 4, "schedule": "cosine"}, 5, lambda step: 0.05 * (1 + math.cos(math.pi * step / 20))),
    (
        "cosine after a warm-up",
        {"epochs": 4, "schedule": "cosine", "warmup_epochs": 1, "warmup_lr": 0.01},
        5,
        lambda step: 0.01 if step < 5 else 0.05 * (1 + math.cos(math.pi * step / 20)),
    ),
]


@pytest.mark.parametrize(("values", "steps", "twin"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_rates(values: dict[str, Any], steps: int, twin: Twin, optimizer: str) -> None:
    found = rates(make_settings({"lr": 0.1, "batch_size": 1, "optimizer": optimizer, **values}), steps)
    assert found == pytest.approx([twin(step) for step in range(len(found))], rel=1e-12)


def test_two_drops_are_two_products() -> None:
    """A resumed run recomputes the rate from the number of steps; the last bit has to agree with multiplying twice."""
    found = rates(make_settings({"iterations": 3, "schedule": "steps", "milestones": (1, 2), "batch_size": 1}), 1)
    assert found == [0.1, 0.1 * 0.1, 0.1 * (0.1 * 0.1)]


def one_cycle(step: int, total: int, settings: Settings) -> tuple[float, float]:
    """(rate, momentum) of arXiv 1708.07120 with two phases: up until the step numbered rise * total - 1, then down."""
    peak, last = settings.rise * total - 1, total - 1
    start, end = settings.lr / settings.start_divisor, settings.lr / settings.end_divisor
    low, high = settings.cycle_momentum or (settings.momentum,) * 2

    def between(a: float, b: float, share: float) -> float:
        if settings.anneal == "cos":
            return b + (a - b) / 2 * (1 + math.cos(math.pi * share))
        return a + (b - a) * share

    if step <= peak:
        return between(start, settings.lr, step / peak), between(high, low, step / peak)
    share = (step - peak) / (last - peak)
    return between(settings.lr, end, share), between(low, high, share)


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 10},
        {"epochs": 10, "anneal": "linear"},
        {"iterations": 37, "rise": 0.4, "start_divisor": 3, "end_divisor": 7},
        {"epochs": 8, "cycle_momentum": (0.7, 0.9), "anneal": "linear", "rise": 0.5},
        {"epochs": 8, "cycle_momentum": (0.7, 0.9), "optimizer": "adam"},
    ],
)
def test_one_cycle(values: dict[str, Any]) -> None:
    settings = make_settings({"lr": 0.3, "batch_size": 1, "schedule": "one-cycle", **values})
    found = walked(settings, 3)
    for step, (rate, momentum) in enumerate(found):
        expected_rate, expected_momentum = one_cycle(step, len(found), settings)
        assert rate == pytest.approx(expected_rate, rel=1e-9), step
        if settings.optimizer == "sgd" or settings.cycle_momentum is not None:
            assert momentum == pytest.approx(expected_momentum, rel=1e-9), step


def test_the_published_cycle_of_the_custom_resnet() -> None:
    steps = 98  # 50,000 images in batches of 512
    found = walked(resolve("custom-resnet", {}), steps)
    assert len(found) == 24 * steps
    first, peak, last = found[0], found[7 * steps - 1], found[-1]
    assert first == pytest.approx((0.045, 0.95))
    assert peak == pytest.approx((0.45, 0.85))
    assert last == pytest.approx((0.045 / 40, 0.95))
    assert max(rate for rate, _ in found) == peak[0]
    for step, (rate, _) in enumerate(found):  # straight lines between the three, after the last step of each epoch
        expected = 0.045 + 0.405 * step / (7 * steps - 1)
        if step >= 7 * steps:
            expected = 0.45 + (0.045 / 40 - 0.45) * (step - 7 * steps + 1) / (17 * steps)
        assert rate == pytest.approx(expected, rel=1e-9), step


@pytest.mark.parametrize("iterations", [1, 2, 3, 4])
@pytest.mark.parametrize("rise", [0.25, 0.3, 0.5])
def test_a_cycle_of_few_steps_has_rates_too(iterations: int, rise: float) -> None:
    settings = make_settings({"schedule": "one-cycle", "iterations": iterations, "rise": rise, "batch_size": 1})
    found = rates(settings, 1)
    assert all(0 < rate <= settings.lr * (1 + 1e-9) for rate in found)


def test_rates_after_a_restart_are_those_of_a_run_without() -> None:
    for schedule in ("steps", "cosine", "one-cycle"):
        settings = make_settings(
            {
                "iterations": 12,
                "schedule": schedule,
                "milestones": (3, 7),
                "cycle_momentum": (0.8, 0.9),
                "batch_size": 1,
            }
        )
        whole = walked(settings, 4)
        parameter = nn.Parameter(torch.zeros(1))
        saved: Any = None
        found = []
        for start, end in ((0, 5), (5, 12)):
            optimizer = make_optimizer(settings, [parameter])
            made = make_schedule(optimizer, settings, steps_per_epoch=4, total_steps=12)
            if saved is not None:
                optimizer.load_state_dict(saved[0])
                made.load_state_dict(saved[1])
            for _ in range(start, end):
                group = optimizer.param_groups[0]
                found.append((group["lr"], group["momentum"]))
                parameter.grad = torch.zeros(1)
                optimizer.step()
                made.step()
            saved = (optimizer.state_dict(), made.state_dict())
        assert found == whole, schedule


@pytest.mark.parametrize("values", [case[1] for case in CASES] + [{"epochs": 5, "schedule": "one-cycle"}])
def test_begun_later_it_is_where_it_would_have_been(values: dict[str, Any]) -> None:
    settings = make_settings(values)
    whole = walked(settings, 3)
    optimizer = make_optimizer(settings, [nn.Parameter(torch.zeros(1))])
    total = settings.total_steps(3 * settings.images_per_step)
    schedule = make_schedule(optimizer, settings, steps_per_epoch=3, total_steps=total, first_step=6)
    assert schedule.get_last_lr()[0] == pytest.approx(whole[6][0], rel=1e-12)
    assert schedule.last_epoch == 6
