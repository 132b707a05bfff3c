"""Two ways of training over several seeds, against sums in plain Python and against drawn trainings."""

from __future__ import annotations

import math
import random

import pytest
import torch
from scipy import stats

from decompose_cli.decomposition.over_seeds import difference_over_seeds, differences_over_seeds

NAMES = ("plain", "other")


def drawn(draw: random.Random, images: int, chance: float) -> torch.Tensor:
    return torch.tensor([draw.random() < chance for _ in range(images)])


def test_intervals_are_those_of_plain_python() -> None:
    draw = random.Random(0)
    first, second = ({seed: drawn(draw, 40, share) for seed in range(4)} for share in (0.5, 0.7))
    del first[1]
    second[9] = second.pop(0)
    found = difference_over_seeds(NAMES, first, second)
    assert found is not None
    assert (found.first, found.second, found.seeds) == (*NAMES, [2, 3]), "seeds that one alone has count in neither"
    by_seed = []
    by_image = [0.0] * 40
    for seed in (2, 3):
        each = [100 * (int(b) - int(a)) for a, b in zip(first[seed].tolist(), second[seed].tolist(), strict=True)]
        by_seed.append(sum(each) / 40)
        by_image = [total + value / 2 for total, value in zip(by_image, each, strict=True)]
    mean = sum(by_seed) / 2
    assert found.by_seed == pytest.approx(by_seed)
    assert found.points == pytest.approx(mean)
    variances = []
    for values, interval in ((by_seed, found.ci95_seeds), (by_image, found.ci95_images)):
        n = len(values)
        variances.append((sum((value - mean) ** 2 for value in values) / (n - 1) / n, n - 1))
        reach = stats.t.ppf(0.975, n - 1) * math.sqrt(variances[-1][0])
        assert interval == pytest.approx((max(mean - reach, -100), min(mean + reach, 100)))
    reach = stats.t.ppf(0.975, 1) * math.sqrt(sum(variance for variance, _ in variances))
    assert found.ci95 == pytest.approx((max(mean - reach, -100), min(mean + reach, 100)))


def test_no_difference_has_no_width() -> None:
    right = torch.tensor([True, False, True])
    found = difference_over_seeds(NAMES, {0: right, 1: ~right}, {0: right, 1: ~right})
    assert found is not None
    assert (found.points, found.ci95, found.ci95_seeds, found.ci95_images) == (0.0, (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))


@pytest.mark.parametrize(("seeds", "images"), [((0,), 5), ((), 5), ((0, 1), 1)])
def test_one_seed_or_image_says_nothing_of_others(seeds: tuple[int, ...], images: int) -> None:
    group = {seed: torch.ones(images, dtype=torch.bool) for seed in (0, 1)}
    assert difference_over_seeds(NAMES, group, {seed: group[seed] for seed in seeds}) is None


def test_every_two_groups_are_compared() -> None:
    group = {seed: torch.tensor([True, False]) for seed in (0, 1)}
    found = differences_over_seeds({"a": group, "b": group, "alone": {5: torch.tensor([True, False])}, "c": group})
    assert [(one.first, one.second) for one in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert differences_over_seeds({}) == []


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("of_seeds", "of_images"), [(0.0, 0.0), (0.1, 0.1), (0.4, 0.1), (0.1, 1.0), (0.4, 1.0)])
def test_the_interval_covers_new_seeds_and_new_images(seeds: int, of_seeds: float, of_images: float) -> None:
    """Seeds and images are drawn anew each time: of 95% intervals 95% or more have to hold the true difference."""
    torch.manual_seed(0)
    images, rounds, covered = 200, 300, 0
    for _ in range(rounds):
        # Right where ability of the training + ease of the image + noise > 0; an image may suit one training better.
        ease, shift = torch.randn(images), of_images * torch.randn(images)
        ability = of_seeds * torch.randn(2, seeds, 1)
        right = ability + ease + torch.stack([0 * shift, shift])[:, None] + torch.randn(2, seeds, images) > 0
        found = difference_over_seeds(NAMES, *(dict(enumerate(group)) for group in right))
        assert found is not None
        low, high = found.ci95
        covered += low <= 0 <= high  # by symmetry the true difference is none
        assert low <= found.ci95_seeds[0] + 1e-9
        assert found.ci95_seeds[1] <= high + 1e-9
    assert covered >= 0.925 * rounds, "two standard errors below 95%"
