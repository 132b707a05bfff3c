"""The range test on losses whose answer is known."""

from __future__ import annotations

import math
import random

import pytest

from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.training import lr_range
from decompose_cli.training.lr_range import FEWEST, Suggestion, diverged, ramp, smooth, suggest

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 100
RATES = ramp(LOWEST, HIGHEST, STEPS)


def losses(fall_at: float, rise_at: float = 3.0, noise: float = 0.0, steps: int = STEPS, seed: int = 0) -> list[float]:
    """Falls from 2.3 to 0.3 around one rate, most steeply over log(rate) there, and rises around another."""
    generator = random.Random(seed)
    curve = []
    for rate in ramp(LOWEST, HIGHEST, steps):
        fall = 1 / (1 + math.exp(-3 * (math.log(rate) - math.log(fall_at)) / math.log(10)))
        rise = math.exp(2 * (math.log(rate) - math.log(rise_at)))
        curve.append(2.3 - 2 * fall + rise + generator.gauss(0, noise))
    return curve


def decades(a: float, b: float) -> float:
    return abs(math.log10(a / b))


# ------------------------------------------------------------------------------------------------------------- rates


def test_rates_grow_by_one_factor() -> None:
    rates = ramp(1e-4, 1e-1, 31)
    assert rates[0] == 1e-4
    assert rates[-1] == 1e-1
    assert rates[10] == pytest.approx(1e-3)
    assert rates == pytest.approx([1e-4 * 1000 ** (i / 30) for i in range(31)], rel=1e-12)


@pytest.mark.parametrize(
    ("lowest", "highest"), [(0, 1), (-1, 1), (1, 1), (2, 1), (1e-3, math.inf), (math.nan, 1), (1e-3, math.nan)]
)
def test_a_range_that_is_none_is_refused(lowest: float, highest: float) -> None:
    with pytest.raises(InputError, match="goes from a positive one to a higher one"):
        ramp(lowest, highest, 100)


def test_too_few_steps_are_refused() -> None:
    assert len(ramp(1e-3, 1, FEWEST)) == FEWEST
    with pytest.raises(InputError, match=f"at least {FEWEST} steps, not {FEWEST - 1}"):
        ramp(1e-3, 1, FEWEST - 1)


# ---------------------------------------------------------------------------------------------------------- averages


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.8, 0.98])
def test_average_against_its_definition(beta: float) -> None:
    values = losses(0.01, noise=0.1)
    for t, average in enumerate(smooth(values, beta)):
        weights = [beta**i for i in range(t + 1)]
        expected = math.fsum(w * values[t - i] for i, w in enumerate(weights)) / math.fsum(weights)
        assert average == pytest.approx(expected, rel=1e-12)


def test_an_average_of_equal_losses_is_that_loss_from_the_beginning() -> None:
    assert smooth([2.5] * 7) == pytest.approx([2.5] * 7, rel=1e-15)
    assert smooth([]) == []


def test_numbers_that_can_be_checked_on_paper() -> None:
    assert smooth([4.0, 1.0, 1.0], beta=0.5) == pytest.approx([4.0, (1 + 2) / 1.5, (1 + 0.5 + 1) / 1.75])


# -------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("later", [[], [1.0, 1.0]])
def test_a_loss_that_is_not_finite_has_diverged(bad: float, later: list[float]) -> None:
    assert diverged([2.3, 2.2, bad, *later])


def test_divergence_is_a_rise_of_the_average() -> None:
    steady = [1.0] * 30
    assert not diverged([])
    assert not diverged([2.3])
    assert not diverged(steady)
    assert not diverged([*steady, 10.0]), "one odd batch: the average rises to 0.8 + 0.2 * 10 = 2.8"
    assert diverged([*steady, 10.0, 10.0]), "0.8 * 2.8 + 2 = 4.24 is more than four"
    assert not diverged([*steady, 10.0, 10.0], factor=5)
    assert diverged([*steady, 10.0], factor=2.5)


def test_divergence_is_measured_from_the_lowest_average() -> None:
    fallen = [2.0] * 10 + [0.1] * 60
    assert not diverged([*fallen, 0.3, 0.3])
    assert diverged([*fallen, 1.0, 1.0, 1.0])


def test_a_high_loss_at_the_beginning_is_not_divergence() -> None:
    assert not diverged([50.0, 20, 10, 5, 2, 1, 0.5])


# -------------------------------------------------------------------------------------------------------- suggestion


@pytest.mark.parametrize("fall_at", [1e-4, 1e-3, 1e-2, 1e-1])
def test_the_steepest_descent_is_found(fall_at: float) -> None:
    found = suggest(RATES, losses(fall_at))
    assert decades(found.steepest, fall_at) < 0.12, "a step is 0.07 decades"
    assert found.rate == found.steepest
    assert not found.still_falling


@pytest.mark.parametrize("steps", [40, 100, 400, 1000])
def test_noise_hardly_moves_it_however_many_steps(steps: int) -> None:
    rates = ramp(LOWEST, HIGHEST, steps)
    for seed in range(10):
        found = suggest(rates, losses(1e-2, noise=0.1, steps=steps, seed=seed))
        assert decades(found.steepest, 1e-2) < 0.6


@pytest.mark.parametrize("rise_at", [0.3, 1.0, 3.0])
def test_the_minimum_is_found(rise_at: float) -> None:
    fine = ramp(LOWEST, HIGHEST, 5000)
    curve = losses(1e-2, rise_at, steps=5000)
    lowest = fine[curve.index(min(curve))]
    found = suggest(RATES, losses(1e-2, rise_at))
    assert decades(found.minimum_tenth, lowest / 10) < 0.15


def test_what_comes_after_divergence_plays_no_part() -> None:
    curve = losses(1e-2)
    wild = [*curve[:90], 500.0, 900.0, 300.0, 20.0, 0.01, 0.01, 0.01, math.nan, 0.0, -5.0]
    assert suggest(RATES, wild) == suggest(RATES[:90], curve[:90])
    assert suggest(RATES[:95], wild[:95]) == suggest(RATES, wild)


def test_a_steeper_descent_after_the_minimum_plays_no_part() -> None:
    curve = losses(1e-2)
    lowest = curve.index(min(curve))
    curve[lowest + 1 :] = [*[1.3] * 8, *[0.45] * (STEPS - lowest - 9)]
    assert not diverged(curve)
    assert decades(suggest(RATES, curve).steepest, 1e-2) < 0.12


@pytest.mark.parametrize("beta", [0.5, 0.8, 0.98])
@pytest.mark.parametrize("step", [0, 1, 5, 300])
def test_the_age_of_an_average_against_its_definition(step: int, beta: float) -> None:
    weights = [beta**i for i in range(step + 1)]
    expected = math.fsum(i * weight for i, weight in enumerate(weights)) / math.fsum(weights)
    assert lr_range._age(step, beta) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_first_losses_are_no_descent() -> None:
    curve = losses(1e-2)
    assert suggest(RATES, [9.0, 6.0, 4.0, *curve[3:]]).steepest == pytest.approx(
        suggest(RATES, curve).steepest, rel=0.3
    )


def test_a_loss_that_falls_to_the_end_is_said_to() -> None:
    assert suggest(RATES, losses(1.0, rise_at=1e6)).still_falling
    assert not suggest(RATES, losses(1e-2, rise_at=1.0)).still_falling


@pytest.mark.parametrize("count", [0, 1, FEWEST - 1])
def test_too_few_losses_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"{count} losses are too few to suggest a learning rate; {FEWEST} are needed"):
        suggest(RATES[:count], losses(1e-2)[:count])


def test_the_fewest_losses_are_enough() -> None:
    rates = ramp(LOWEST, HIGHEST, FEWEST)
    assert decades(suggest(rates, losses(1e-2, steps=FEWEST)).steepest, 1e-2) < 0.4, "a step is 0.37 decades"


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e9])
def test_losses_that_diverge_at_once_allow_no_suggestion(bad: float) -> None:
    curve = losses(1e-2)
    with pytest.raises(DecomposeError, match=r"diverged after 10 steps, at a learning rate of 5\.1e-06"):
        suggest(RATES, [*curve[:10], bad, *curve[11:]])


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_is_no_descent(seed: int) -> None:
    generator = random.Random(seed)
    with pytest.raises(DecomposeError, match="did not fall by more than its noise at learning rates from 1e-06 to 10"):
        suggest(RATES, [2.3 + generator.gauss(0, 0.1) for _ in RATES])


@pytest.mark.parametrize("change", [0.0, 0.01])
def test_a_loss_that_never_falls_allows_no_suggestion(change: float) -> None:
    with pytest.raises(DecomposeError, match="did not fall"):
        suggest(RATES, [2.3 + change * step for step in range(STEPS)])


def test_one_rate_for_each_loss() -> None:
    with pytest.raises(ValueError, match="100 rates and 99 losses"):
        suggest(RATES, losses(1e-2)[:99])


def test_what_is_suggested_is_the_steepest() -> None:
    assert Suggestion(0.1, 0.02, still_falling=False).rate == 0.1
