"""Random numbers as a function of their place: against plain Python integers, and against chance."""

from __future__ import annotations

import math
import random

import pytest
import torch
from scipy import stats
from torch import Tensor

from decompose_cli.datasets.counter_random import Stream, derived_seed, random_integers, random_uniform, seeded

WORD = 2**64
INCREMENT = 0x9E3779B97F4A7C15


def finaliser(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % WORD
    return word ^ (word >> 31)


def key_of(*integers: int) -> int:
    key = 0
    for integer in integers:
        key = finaliser(((key ^ (integer % WORD)) + INCREMENT) % WORD)
    return key


def word_of(seed: int, epoch: int, index: int, stream: int) -> int:
    return finaliser((key_of(stream, seed, epoch) + (index + 1) * INCREMENT) % WORD)


def test_finaliser_is_that_of_splitmix64() -> None:
    """The first outputs for the seed 1234567, as published with the algorithm."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [finaliser((1234567 + (i + 1) * INCREMENT) % WORD) for i in range(4)] == published


PLACES = [(0, 0, 0), (1, 7, 3), (-5, 10**6, 8), (2**63, 2**40, 0), (2**64 - 1, 0, 1), (123456789, 199, 2**70)]


@pytest.mark.parametrize(("seed", "epoch", "stream"), PLACES)
@pytest.mark.parametrize("high", [1, 2, 9, 1000, 2**31 + 11, 2**62 + 1, 2**63 - 1])
def test_integers_are_those_of_plain_python(seed: int, epoch: int, stream: int, high: int) -> None:
    chooser = random.Random(high)
    indices = [*range(200), *(chooser.randrange(2**62) for _ in range(100)), 2**63 - 1]
    ours = random_integers(seed, epoch, torch.tensor(indices), stream, high)
    assert ours.dtype == torch.int64
    assert ours.tolist() == [(word_of(seed, epoch, index, stream) >> 1) % high for index in indices]


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.float64, 53)])
@pytest.mark.parametrize(("seed", "epoch", "stream"), PLACES)
def test_fractions_are_those_of_plain_python(dtype: torch.dtype, bits: int, seed: int, epoch: int, stream: int) -> None:
    ours = random_uniform(seed, epoch, torch.arange(2000), stream, dtype=dtype)
    assert ours.dtype == dtype
    assert ours.tolist() == [(word_of(seed, epoch, i, stream) >> (64 - bits)) / 2**bits for i in range(2000)]
    assert float(ours.min()) >= 0
    assert float(ours.max()) < 1


def test_seeds_are_those_of_plain_python() -> None:
    chooser = random.Random(0)
    for _ in range(2000):
        integers = [chooser.randrange(-(2**64), 2**64) for _ in range(chooser.randrange(5))]
        assert derived_seed(*integers) == key_of(*integers) >> 1
        assert 0 <= derived_seed(*integers) < 2**63


def test_seeds_tell_order_and_number_of_their_parts() -> None:
    parts = [(), (0,), (0, 0), (0, 0, 0), (1, 2), (2, 1), (1, 2, 0), (-1,), (1,)]
    assert len({derived_seed(*part) for part in parts}) == len(parts)


def test_numbers_that_are_known() -> None:
    """Were they to change, runs that were interrupted would go on with other images."""
    assert random_integers(0, 0, torch.arange(5), Stream.CROP_TOP, 9).tolist() == [1, 2, 7, 8, 3]
    assert derived_seed(Stream.ORDER, 0, 0) == 6396520470166291297
    assert {stream.name: int(stream) for stream in Stream} == {
        "HOLD_OUT": 0,
        "ORDER": 1,
        "CROP_TOP": 2,
        "CROP_LEFT": 3,
        "FLIP": 4,
        "CUTOUT_ROW": 5,
        "CUTOUT_COLUMN": 6,
        "IMAGE": 7,
        "MIXING": 8,
        "LABEL_NOISE": 9,
    }


def test_shape_kind_and_order_of_the_indices_do_not_matter() -> None:
    flat = random_integers(3, 4, torch.arange(60), 5, 1000)
    shaped = torch.arange(60).view(3, 4, 5)
    assert torch.equal(random_integers(3, 4, shaped, 5, 1000), flat.view(3, 4, 5))
    assert torch.equal(
        random_integers(3, 4, shaped.permute(2, 0, 1).to(torch.int32), 5, 1000).permute(1, 2, 0), flat.view(3, 4, 5)
    )
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(random_integers(3, 4, order, 5, 1000), flat[order])
    assert random_integers(3, 4, torch.empty(0, dtype=torch.int64), 5, 1000).shape == (0,)


@pytest.mark.parametrize("high", [0, -1, 2**63])
def test_bound_out_of_range(high: int) -> None:
    with pytest.raises(ValueError, match="not in 1"):
        random_integers(0, 0, torch.arange(3), 0, high)


def test_fractions_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="neither float32 nor float64"):
        random_uniform(0, 0, torch.arange(3), 0, dtype=torch.float16)


def chi_square(observed: Tensor) -> float:
    """Probability of counts as uneven as these if all are equally likely."""
    return float(stats.chisquare(observed.flatten().numpy()).pvalue)


# Fixed seeds, so these either always pass or never; 1e-4 is what bad luck would have to beat at the first attempt.
@pytest.mark.parametrize("high", [2, 9, 81, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_integers_are_uniform(high: int, seed: int) -> None:
    numbers = random_integers(seed, 0, torch.arange(200_000), Stream.CROP_TOP, high)
    assert chi_square(numbers.bincount(minlength=high)) > 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fractions_are_uniform(seed: int) -> None:
    numbers = random_uniform(seed, 5, torch.arange(100_000), Stream.FLIP, dtype=torch.float64)
    assert float(stats.kstest(numbers.numpy(), "uniform").pvalue) > 1e-4
    assert chi_square((numbers * 97).long().bincount(minlength=97)) > 1e-4


def grid(seed: int, epoch: int, stream: int, first: int = 0) -> Tensor:
    return random_integers(seed, epoch, torch.arange(first, first + 200_000), stream, 9)


@pytest.mark.parametrize(
    "other",
    [(0, 0, 3, 0), (0, 1, 2, 0), (1, 0, 2, 0), (2, 0, 0, 0), (0, 0, 2, 1), (0, 0, 2, 50_000), (-1, 0, 2, 0)],
    ids=["stream", "epoch", "seed", "seed for stream", "next index", "far index", "negative seed"],
)
def test_numbers_for_different_purposes_are_independent(other: tuple[int, int, int, int]) -> None:
    pairs = grid(0, 0, 2) * 9 + grid(*other)
    assert chi_square(pairs.bincount(minlength=81)) > 1e-4


def test_epochs_of_one_image_are_uniform_and_independent() -> None:
    index = torch.tensor([12345])
    over_epochs = torch.cat([random_integers(0, epoch, index, 2, 9) for epoch in range(20_000)])
    assert chi_square(over_epochs.bincount(minlength=9)) > 1e-4
    assert chi_square((over_epochs[1:] * 9 + over_epochs[:-1]).bincount(minlength=81)) > 1e-4


def test_every_bit_is_set_half_of_the_time() -> None:
    numbers = random_integers(0, 0, torch.arange(100_000), 2, 2**63 - 1)
    for bit in range(63):
        ones = int(((numbers >> bit) & 1).sum())
        assert abs(ones - 50_000) < 5 * math.sqrt(25_000), bit


def test_seeded_code_draws_from_the_seed_and_leaves_the_generator_as_it_was() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with seeded(7):
        first = torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    with pytest.raises(ZeroDivisionError), seeded(7):
        torch.rand(5)[1 // 0]
    torch.manual_seed(7)
    assert torch.equal(torch.rand(5), first)
