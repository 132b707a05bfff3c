"""Intervals and tests against published values, SciPy and an independent twin."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, sem
from scipy.stats import t as student

from decompose_cli.statistics import (
    mcnemar_p,
    mean_interval,
    paired_difference_interval,
    paired_difference_intervals,
    wilson_interval,
)

# ----------------------------------------------------------------------------------------------------------- Wilson


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_values(successes: int, total: int, low: float, high: float) -> None:
    """Table I, method 3 of Newcombe, Statistics in Medicine 17 (1998) 857-872."""
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "total"), [(0, 1), (1, 1), (3, 7), (353, 360), (360, 360), (9172, 10000)])
def test_wilson_limits_solve_its_equation(successes: int, total: int, confidence: float) -> None:
    """Each limit p is where the score statistic |share - p| / sqrt(p (1 - p) / n) equals z."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / total
    for limit in wilson_interval(successes, total, confidence):
        assert (share - limit) ** 2 == pytest.approx(z * z * limit * (1 - limit) / total, abs=1e-12)
    scipy = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, total, confidence) == pytest.approx((scipy.low, scipy.high), abs=1e-12)


@pytest.mark.parametrize("total", [1, 2, 10, 1000])
def test_wilson_stays_within_limits_and_is_symmetric(total: int) -> None:
    for successes in {0, 1, total // 2, total - 1, total}:
        low, high = wilson_interval(successes, total)
        assert 0 <= low < high <= 1
        assert low - 1e-15 <= successes / total <= high + 1e-15
        other = wilson_interval(total - successes, total)
        assert (1 - other[1], 1 - other[0]) == pytest.approx((low, high), abs=1e-12)


def test_wilson_covers_about_as_often_as_it_says() -> None:
    """Averaged over shares, coverage is known to be close to nominal, for small samples too."""
    random = np.random.default_rng(0)
    shares = random.uniform(0, 1, 4000)
    covered = 0
    for share, successes in zip(shares, random.binomial(30, shares), strict=True):
        low, high = wilson_interval(int(successes), 30)
        covered += low <= share <= high
    assert 0.94 < covered / 4000 < 0.965


# ---------------------------------------------------------------------------------------------------------- McNemar


def test_mcnemar_is_the_exact_binomial_test() -> None:
    for first, second in itertools.product(range(13), repeat=2):
        if first + second:
            expected = binomtest(first, first + second, 0.5).pvalue
            assert mcnemar_p(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("first", "second"), [(37, 5), (500, 430), (1000, 1000), (300, 0), (2000, 1700)])
def test_mcnemar_for_many_images(first: int, second: int) -> None:
    expected = binomtest(first, first + second, 0.5).pvalue
    assert mcnemar_p(first, second) == pytest.approx(expected, rel=1e-6)
    assert mcnemar_p(second, first) == mcnemar_p(first, second)


@pytest.mark.parametrize(
    ("first", "second", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (1, 5, 14 / 64), (4, 4, 1.0), (3, 4, 1.0)]
)
def test_mcnemar_on_paper(first: int, second: int, p: float) -> None:
    assert mcnemar_p(first, second) == pytest.approx(p, abs=1e-15)
    assert mcnemar_p(first, second) <= 1


# --------------------------------------------------------------------------------------------------------- Newcombe


def twin(both: int, only_first: int, only_second: int, neither: int, confidence: float = 0.95) -> tuple[float, float]:
    """Method 10, written from the paper in its letters e, f, g, h and for its difference, first minus second."""
    e, f, g, h = both, only_first, only_second, neither
    n = e + f + g + h
    z = NormalDist().inv_cdf(1 - (1 - confidence) / 2)

    def score_limits(x: int) -> tuple[float, float]:
        root = z * math.sqrt(z**2 + 4 * x * (n - x) / n)
        return (2 * x + z**2 - root) / (2 * (n + z**2)), (2 * x + z**2 + root) / (2 * (n + z**2))

    p1, p2 = (e + f) / n, (e + g) / n
    (l1, u1), (l2, u2) = score_limits(e + f), score_limits(e + g)
    product = (e + f) * (g + h) * (e + g) * (f + h)
    numerator = float(e * h - f * g)
    if numerator > n / 2:
        numerator -= n / 2
    elif numerator >= 0:
        numerator = 0.0
    phi = numerator / math.sqrt(product) if product else 0.0
    delta = math.sqrt(max(0.0, (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2))
    epsilon = math.sqrt(max(0.0, (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2))
    low, high = p1 - p2 - delta, p1 - p2 + epsilon
    return -high, -low


TABLES = [
    (36, 2, 12, 0),
    (20, 2, 12, 16),
    (1, 7, 1, 12),
    (880, 35, 3, 82),
    (9000, 172, 30, 798),
    (3, 4, 5, 6),
    (1, 9, 8, 2),
    (0, 5, 7, 0),
    (50, 0, 1, 49),
    (5, 0, 0, 5),
    (10, 0, 0, 0),
    (0, 0, 0, 10),
    (0, 10, 0, 0),
    (0, 0, 10, 0),
    (1, 0, 0, 0),
    (0, 0, 1, 0),
    (4, 3, 0, 0),
    (0, 3, 0, 4),
]


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("table", TABLES)
def test_paired_interval_against_the_twin(table: tuple[int, int, int, int], confidence: float) -> None:
    expected = twin(*table, confidence)
    limited = (max(-1.0, expected[0]), min(1.0, expected[1]))
    assert paired_difference_interval(*table, confidence) == pytest.approx(limited, abs=1e-9)


def test_paired_interval_against_the_twin_on_all_small_tables() -> None:
    """Every table of up to five images, with and without empty margins."""
    for table in itertools.product(range(6), repeat=4):
        if 0 < sum(table) <= 5:
            low, high = paired_difference_interval(*table)
            expected = twin(*table)
            assert (low, high) == pytest.approx((max(-1.0, expected[0]), min(1.0, expected[1])), abs=1e-9)


@pytest.mark.parametrize(
    ("table", "low", "high", "digits"),
    [
        ((36, 2, 12, 0), 0.0569, 0.3404, 4),  # Newcombe 1998
        ((1, 1, 7, 12), 0.026, 0.507, 3),  # Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014), airways
    ],
)
def test_paired_interval_against_published_values(
    table: tuple[int, int, int, int], low: float, high: float, digits: int
) -> None:
    found = paired_difference_interval(*table)
    assert tuple(round(limit, digits) for limit in found) == (low, high)


@pytest.mark.parametrize("table", TABLES)
def test_paired_interval_holds_the_difference_and_stays_within_limits(table: tuple[int, int, int, int]) -> None:
    _, only_first, only_second, _ = table
    low, high = paired_difference_interval(*table)
    assert -1 <= low <= (only_second - only_first) / sum(table) <= high <= 1
    assert low < high


@pytest.mark.parametrize("table", TABLES)
def test_paired_interval_is_symmetric(table: tuple[int, int, int, int]) -> None:
    """Swapping the classifiers, or right and wrong, mirrors the interval."""
    both, only_first, only_second, neither = table
    low, high = paired_difference_interval(*table)
    swapped = paired_difference_interval(both, only_second, only_first, neither)
    assert swapped == pytest.approx((-high, -low), abs=1e-12)
    negated = paired_difference_interval(neither, only_second, only_first, both)
    assert negated == pytest.approx((-high, -low), abs=1e-12)


def test_paired_intervals_of_many_groups_are_those_of_each() -> None:
    tables = [table for table in itertools.product(range(4), repeat=4) if sum(table)]
    tables += [(950, 0, 0, 50), (0, 40, 1, 0), (10**6, 3, 5, 10**5), (7, 10**5, 3, 1)]
    for confidence in (0.9, 0.95, 1 - 1e-4):
        low, high = paired_difference_intervals(*torch.tensor(tables).unbind(1), confidence)
        for number, table in enumerate(tables):
            expected = paired_difference_interval(*table, confidence)
            assert (float(low[number]), float(high[number])) == pytest.approx(expected, abs=1e-12)


def test_paired_interval_does_not_collapse_where_both_agree_on_everything() -> None:
    low, high = paired_difference_interval(950, 0, 0, 50)
    assert low < -0.0005
    assert high > 0.0005


def test_more_confidence_is_a_wider_interval() -> None:
    widths = [high - low for low, high in (paired_difference_interval(88, 4, 1, 7, c) for c in (0.5, 0.9, 0.95, 0.99))]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


@pytest.mark.parametrize(
    ("shares", "n"),
    [((0.85, 0.07, 0.03, 0.05), 100), ((0.4, 0.1, 0.3, 0.2), 60), ((0.9, 0.01, 0.01, 0.08), 1000)],
)
def test_paired_interval_covers_about_as_often_as_it_says(shares: tuple[float, ...], n: int) -> None:
    truth = shares[2] - shares[1]
    tables = np.random.default_rng(1).multinomial(n, shares, size=3000).tolist()
    limits = [paired_difference_interval(*table) for table in tables]
    covered = sum(low <= truth <= high for low, high in limits) / len(tables)
    assert 0.935 < covered < 0.98


# ------------------------------------------------------------------------------------------------------ Student's t


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 5, 30, 1000])
def test_mean_interval_against_scipy(n: int, confidence: float) -> None:
    values = np.random.default_rng(n).normal(3, 2, n).tolist()
    mean, error, limits = mean_interval(values, confidence)
    assert mean == pytest.approx(math.fsum(values) / n, rel=1e-14)
    assert error == pytest.approx(float(sem(values)), rel=1e-12)
    assert limits == pytest.approx(student.interval(confidence, n - 1, loc=mean, scale=sem(values)), rel=1e-10)


def test_mean_interval_has_95_percent_unless_told_otherwise() -> None:
    values = [1.0, 4.0, 2.0, 7.0]
    assert mean_interval(values) == mean_interval(values, 0.95)
    assert mean_interval(values) != mean_interval(values, 0.9)


def test_mean_interval_on_paper() -> None:
    """Two values a, b: mean (a + b) / 2, error |a - b| / 2, and t with one degree of freedom is tan(pi * 0.475)."""
    mean, error, limits = mean_interval([1, 4])
    assert (mean, error) == pytest.approx((2.5, 1.5), rel=1e-15)
    half = 1.5 * math.tan(math.pi * 0.475)
    assert limits == pytest.approx((2.5 - half, 2.5 + half), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e300, 7])
def test_a_single_value_has_a_mean_but_no_error(value: float) -> None:
    assert mean_interval([value]) == (value, None, None)


@pytest.mark.parametrize("n", [2, 30])
def test_equal_values_have_an_interval_without_width(n: int) -> None:
    assert mean_interval([0.1] * n) == (0.1, 0.0, (0.1, 0.1))


def test_a_small_spread_on_a_large_mean_is_not_lost() -> None:
    mean, error, limits = mean_interval([1e9 + 1, 1e9 + 2, 1e9 + 3])
    assert mean == 1e9 + 2
    assert error == pytest.approx(1 / math.sqrt(3), rel=1e-12)
    assert limits is not None
    assert limits[0] < mean < limits[1]


def test_the_order_of_the_values_does_not_matter() -> None:
    values = np.random.default_rng(0).normal(size=50).tolist()
    assert mean_interval(values) == mean_interval(sorted(values))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("n", [2, 5, 30])
def test_mean_interval_covers_as_often_as_it_says(n: int, confidence: float) -> None:
    repeats = 4000
    samples = np.random.default_rng(n).normal(5, 3, (repeats, n)).tolist()
    covered = 0
    for values in samples:
        limits = mean_interval(values, confidence)[2]
        assert limits is not None
        covered += limits[0] <= 5 <= limits[1]
    deviation = math.sqrt(confidence * (1 - confidence) / repeats)
    assert abs(covered / repeats - confidence) < 4 * deviation
