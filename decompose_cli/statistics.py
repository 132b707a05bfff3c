"""Intervals and tests for counts of correct answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (E. B. Wilson 1927).

    Args:
        successes: Number of successes, 0..total.
        total: Number of trials, at least 1.
        confidence: Two-sided coverage aimed at.

    Returns:
        Lower and upper limit, in [0, 1].
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the borders the limit is exact; rounding would leave it a hair beside it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return low, high


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test: are the images that one of two classifiers alone gets right evenly divided?

    p = min(1, 2 P(X <= min(b, c))) for X binomial with b + c trials of probability 1/2, where b and c count the images
    that only the first and only the second classifier gets right. Without any such image p = 1.
    """
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    # Whole numbers make the sum exact, and need no library whose import would take longer than the sum.
    term = tail = 1
    for successes in range(min(only_first, only_second)):
        term = term * (discordant - successes) // (successes + 1)
        tail += term
    p: float = 2 * tail / 2**discordant
    return min(1.0, p)


def paired_difference_interval(
    both: int, only_first: int, only_second: int, neither: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval for the difference second minus first of two proportions measured on the same images.

    R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10: Wilson intervals of the two proportions,
    combined with the correlation phi between them (continuity-corrected where positive). Unlike the Wald interval it
    stays within [-1, 1] and does not collapse to a point when the two classifiers agree on every image.

    Args:
        both: Images that both classify correctly.
        only_first: Images that only the first classifies correctly.
        only_second: Images that only the second classifies correctly.
        neither: The other images; there is at least one image in all.
        confidence: Two-sided coverage aimed at.

    Returns:
        Lower and upper limit of the difference, as a share of the images.
    """
    total = both + only_first + only_second + neither
    first, second = (both + only_first) / total, (both + only_second) / total
    low1, high1 = wilson_interval(both + only_first, total, confidence)
    low2, high2 = wilson_interval(both + only_second, total, confidence)
    phi = _phi(both, only_first, only_second, neither, total)

    def distance(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    difference = second - first
    lower = difference - distance(second - low2, high1 - first)
    upper = difference + distance(high2 - second, first - low1)
    return max(-1.0, lower), min(1.0, upper)


def paired_difference_intervals(
    both: Tensor, only_first: Tensor, only_second: Tensor, neither: Tensor, confidence: float = 0.95
) -> tuple[Tensor, Tensor]:
    """:func:`paired_difference_interval` of many groups of images at once.

    Args:
        both: Images of each group that both classify correctly, (m,).
        only_first: Likewise those that only the first does.
        only_second: Likewise those that only the second does.
        neither: The others; no group is empty.
        confidence: Two-sided coverage aimed at, of each interval.

    Returns:
        Lower and upper limits, float64 (m,).
    """
    both, only_first, only_second, neither = (each.double() for each in (both, only_first, only_second, neither))
    total = both + only_first + only_second + neither
    first, second = (both + only_first) / total, (both + only_second) / total
    low1, high1 = _wilson(both + only_first, total, confidence)
    low2, high2 = _wilson(both + only_second, total, confidence)
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    covariance = both * neither - only_first * only_second
    covariance = covariance.where(covariance <= 0, (covariance - total / 2).clamp(min=0))
    phi = (covariance / margins.sqrt()).where(margins > 0, 0.0)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a * a - 2 * phi * a * b + b * b).clamp(min=0).sqrt()

    difference = second - first
    lower = difference - distance(second - low2, high1 - first)
    upper = difference + distance(high2 - second, first - low1)
    return lower.clamp(min=-1), upper.clamp(max=1)


def _wilson(successes: Tensor, total: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (share * (1 - share) / total + z * z / (4 * total * total)).sqrt()
    low = (centre - half).clamp(min=0).where(successes > 0, 0.0)
    return low, (centre + half).clamp(max=1).where(successes < total, 1.0)


def _phi(both: int, only_first: int, only_second: int, neither: int, total: int) -> float:
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if margins == 0:
        return 0.0
    covariance: float = both * neither - only_first * only_second
    if covariance > 0:
        covariance = max(covariance - total / 2, 0.0)
    return covariance / math.sqrt(margins)


def mean_difference_interval(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> tuple[float, tuple[float, float] | None]:
    """Difference first minus second of the means of independent values, and Welch's interval of it (Welch 1947).

    (m1 - m2) -+ t sqrt(e1 + e2) with e = s^2 / n and Satterthwaite's (e1 + e2)^2 / (e1^2/(n1 - 1) + e2^2/(n2 - 1))
    degrees of freedom.

    Args:
        first: At least one value.
        second: At least one value.
        confidence: Two-sided coverage aimed at.

    Returns:
        The difference, and its (lower, upper) limit; None where a single value is on either side.
    """
    difference = fmean(first) - fmean(second)
    if min(len(first), len(second)) < 2:
        return difference, None
    from scipy.special import stdtrit

    errors = [stdev(values) ** 2 / len(values) for values in (first, second)]
    if sum(errors) == 0:
        return difference, (difference, difference)
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(values) - 1) for error, values in zip(errors, (first, second), strict=True)
    )
    half = float(stdtrit(freedom, 0.5 + confidence / 2)) * math.sqrt(sum(errors))
    return difference, (difference - half, difference + half)


def mean_interval(
    values: Sequence[float], confidence: float = 0.95
) -> tuple[float, float | None, tuple[float, float] | None]:
    """Mean of independent values, its standard error s / sqrt(n), and Student's t interval of the mean.

    Args:
        values: At least one value.
        confidence: Two-sided coverage aimed at.

    Returns:
        Mean, standard error and (lower, upper) limit; the last two are None for a single value.
    """
    mean = fmean(values)
    if len(values) < 2:
        return mean, None, None
    from scipy.special import stdtrit

    error = stdev(values, mean) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * error
    return mean, error, (mean - half, mean + half)
