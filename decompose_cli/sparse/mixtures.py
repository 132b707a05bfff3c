"""Mixtures of two Gaussians, one for the values of each feature, and how far the two overlap."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

_VALUES_AT_ONCE = 1 << 20  # and their powers: 24 MB; smaller blocks only wait for each other on several cores
_TOLERANCE = 1e-3
_MOST_STEPS = 100
_RIDGE = 1e-6


@dataclass(frozen=True)
class Mixtures:
    """w_0 N(m_0, v_0) + w_1 N(m_1, v_1) of each of U columns; all float64 (2, U).

    Attributes:
        weights: w, which sum to one.
        means: m.
        variances: v.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor


def fit_mixtures(columns: Tensor, *, tolerance: float = _TOLERANCE, most_steps: int = _MOST_STEPS) -> Mixtures:
    """Fit two Gaussians to each column by expectation maximisation.

    Published figures are of scikit-learn's ``GaussianMixture(2)``, whose settings these are: from the two groups of
    k-means, until the mean log-likelihood rises by less than 1e-3, at most 100 steps, 1e-6 added to variances. The
    groups are the best there are, found by trying all splits of the sorted values, so that nothing is drawn.

    Args:
        columns: Standardised values, (n, U) with n >= 2; each column has at least two different ones.
        tolerance: Rise of the mean log-likelihood at which a fit ends.
        most_steps: Largest number of steps.
    """
    width = max(1, _VALUES_AT_ONCE // len(columns))
    parts = [
        _fit(columns[:, start : start + width].t().double().contiguous(), tolerance, most_steps)
        for start in range(0, columns.shape[1], width)
    ]
    return Mixtures(*(torch.cat([getattr(part, each.name) for part in parts], 1) for each in fields(Mixtures)))


def _fit(x: Tensor, tolerance: float, most_steps: int) -> Mixtures:
    """Fit the rows of x (u, n), leaving out those that have ended."""
    powers = torch.stack([torch.ones_like(x), x, x.square()], 2)
    weights, means, variances = _moments(powers, _upper_group(x))
    found = x.new_empty(3, 2, len(x))
    left = torch.arange(len(x), device=x.device)
    before = x.new_full((len(x),), -torch.inf)
    for _ in range(most_steps):
        # The logarithm of a weighted density is a polynomial of x; (2, u, 3).
        logs = weights.log() - variances.log() / 2 - means.square() / (2 * variances)
        polynomials = torch.stack([logs, means / variances, -1 / (2 * variances)], 2)
        difference = (powers @ (polynomials[1] - polynomials[0])[:, :, None])[:, :, 0]
        likelihood = (powers.mean(1) * polynomials[0]).sum(1) + torch.nn.functional.softplus(difference).mean(1)
        weights, means, variances = _moments(powers, difference.sigmoid_())
        found[:, :, left] = torch.stack([weights, means, variances])
        goes_on = (likelihood - before).abs() >= tolerance
        if not bool(goes_on.any()):
            break
        before = likelihood
        if not bool(goes_on.all()):
            powers, left, before = powers[goes_on], left[goes_on], before[goes_on]
            weights, means, variances = weights[:, goes_on], means[:, goes_on], variances[:, goes_on]
    return Mixtures(*found)


def _upper_group(x: Tensor) -> Tensor:
    """1 for the values of each row of x that are in the upper of the two groups with the least squares within them."""
    ordered = x.sort(1).values
    sums = ordered.cumsum(1)
    count = torch.arange(1, x.shape[1], dtype=x.dtype, device=x.device)
    below, above = sums[:, :-1], sums[:, -1:] - sums[:, :-1]
    # What lies between the groups is what does not lie within them.
    between = below.square() / count + above.square() / (x.shape[1] - count)
    between[ordered[:, 1:] == ordered[:, :-1]] = -torch.inf  # equal values stay together
    last = ordered.gather(1, between.argmax(1, keepdim=True))
    return (x > last).double()


def _moments(powers: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and variances (2, u) of both Gaussians.

    Args:
        powers: 1, x and x^2 of each value, (u, n, 3).
        share: How much of each value is the second's, (u, n).
    """
    second = (share[:, None] @ powers)[:, 0]
    sums = torch.stack([powers.sum(1) - second, second])
    mass = sums[:, :, 0].clamp(min=0) + 10 * torch.finfo(torch.float64).eps
    means = sums[:, :, 1] / mass
    variances = (sums[:, :, 2] / mass - means.square()).clamp(min=0) + _RIDGE
    return mass / mass.sum(0), means, variances


def overlap(means: Tensor, deviations: Tensor) -> Tensor:
    """The integral of the smaller of two normal densities, between 0 and 1.

    With t in deviations of the first from its mean, towards the other's, d the distance of the means and r the second
    variance by the first, the densities are equal where (1 - r) t^2 - 2 d t + d^2 + r log r = 0, and the overlap is
    1 - sum over both roots of |Phi(t) - Phi((t - d) / sqrt(r))|. With r = 1 one root is infinite, and adds nothing.

    Args:
        means: (2, U).
        deviations: Positive, (2, U).

    Returns:
        (U,).
    """
    means, deviations = means.double(), deviations.double()
    d = (means[1] - means[0]).abs() / deviations[0]
    root = deviations[1] / deviations[0]
    r = root.square()
    q = d + (r * (d.square() - (1 - r) * r.log())).sqrt()
    outside = torch.zeros_like(d)
    for t in (q / (1 - r), (d.square() + r * r.log()) / q):
        outside += (torch.special.ndtr(t) - torch.special.ndtr((t - d) / root)).abs()
    # Two densities that are the same are equal everywhere.
    return torch.where(q > 0, 1 - outside, 1.0).clamp(0, 1)
