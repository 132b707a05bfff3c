"""Mixtures of two Gaussians against scikit-learn's, and their overlap against the standard library and quadrature."""

from __future__ import annotations

import math
import warnings
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from decompose_cli.sparse import mixtures
from decompose_cli.sparse.mixtures import Mixtures, fit_mixtures, overlap

IMAGES = 400


def columns() -> Tensor:
    """Standardised features of many shapes, (n, U)."""
    generator = np.random.default_rng(0)
    normal = generator.standard_normal((IMAGES, 8))
    rare = generator.random(IMAGES) < 0.1
    shapes = [
        normal[:, 0],
        np.where(rare, 8, 0) + normal[:, 1],
        np.where(generator.random(IMAGES) < 0.5, 3, 0) + normal[:, 2],
        normal[:, 3].clip(min=0),  # half the values are the same
        np.where(rare, normal[:, 4] + 3, 0).clip(min=0),  # nearly all are
        np.exp(normal[:, 5]),
        np.where(rare, 5, 1) * normal[:, 6],  # one mean, two variances
        generator.random(IMAGES),
        rare.astype(float),  # two values
        np.floor(2 * normal[:, 7]),
    ]
    x = torch.tensor(np.stack(shapes, 1))
    return (x - x.mean(0)) / x.std(0, correction=0)


def best_groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two groups of k-means, by trying every place between two different values."""
    places = np.unique(values)[1:]
    splits = [(values[values < place], values[values >= place]) for place in places]
    return min(splits, key=lambda pair: sum(((group - group.mean()) ** 2).sum() for group in pair))


def by_scikit_learn(values: np.ndarray, **settings: object) -> GaussianMixture:
    groups = best_groups(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(
            2,
            weights_init=[len(group) / len(values) for group in groups],
            means_init=[[group.mean()] for group in groups],
            precisions_init=[[[1 / (group.var() + 1e-6)]] for group in groups],
            **settings,
        ).fit(values[:, None])


@pytest.mark.parametrize("settings", [{}, {"tolerance": 1e-9, "most_steps": 2000}, {"most_steps": 2}])
def test_mixtures_are_those_of_scikit_learn_from_the_best_groups(
    settings: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = columns()
    theirs = {"tol": settings.get("tolerance", 1e-3), "max_iter": int(settings.get("most_steps", 100))}
    every = [by_scikit_learn(values, **theirs) for values in x.numpy().T]
    for at_once in (1 << 20, 3 * IMAGES):
        monkeypatch.setattr(mixtures, "_VALUES_AT_ONCE", at_once)
        found = fit_mixtures(x, **settings)  # type: ignore[arg-type]
        for number, expected in enumerate(every):
            for ours, their in (
                (found.weights, expected.weights_),
                (found.means, expected.means_),
                (found.variances, expected.covariances_),
            ):
                np.testing.assert_allclose(
                    ours[:, number].numpy(), their.ravel(), rtol=1e-5, atol=1e-7, err_msg=f"{number}"
                )


def mean_log_likelihood(values: np.ndarray, fitted: Mixtures, number: int) -> float:
    density = sum(
        float(fitted.weights[k, number])
        * np.exp(-((values - float(fitted.means[k, number])) ** 2) / (2 * float(fitted.variances[k, number])))
        / math.sqrt(2 * math.pi * float(fitted.variances[k, number]))
        for k in (0, 1)
    )
    return float(np.log(density).mean())


def test_the_start_leads_to_the_best_fit_that_random_starts_find() -> None:
    x = columns()[:, :3]
    found = fit_mixtures(x, tolerance=1e-9, most_steps=2000)
    for number, values in enumerate(x.numpy().T):
        drawn = GaussianMixture(
            2, tol=1e-7, max_iter=5000, n_init=3, init_params="random_from_data", random_state=0
        ).fit(values[:, None])
        if number > 0:  # where there are two groups to be found
            assert mean_log_likelihood(values, found, number) >= drawn.score(values[:, None]) - 1e-5
        assert mean_log_likelihood(values, found, number) >= one_gaussian(values) - 1e-9


def one_gaussian(values: np.ndarray) -> float:
    """The mean log-likelihood of a single Gaussian."""
    return -(math.log(2 * math.pi * values.var()) + 1) / 2


@pytest.mark.parametrize(
    ("means", "deviations"),
    [
        ((0, 1), (1, 1)),
        ((0, 1), (1, 2)),
        ((3, -2), (0.5, 4)),
        ((0, 0), (1, 2)),
        ((1, 1), (2, 2)),
        ((0, 1e-9), (1, 1 + 1e-12)),
        ((0, 0.3), (1, 1 + 1e-9)),
        ((0, 30), (1, 1.5)),
        ((5, 5.5), (1e-3, 2)),
    ],
)
def test_the_overlap_is_the_integral_of_the_smaller_density(
    means: tuple[float, float], deviations: tuple[float, float]
) -> None:
    first, second = (NormalDist(*pair) for pair in zip(means, deviations, strict=True))
    both = torch.tensor([means, deviations], dtype=torch.float64)[:, :, None]
    found, other_way = float(overlap(*both)), float(overlap(*both.flip(1)))
    places = [mean + at * deviation for mean, deviation in zip(means, deviations, strict=True) for at in (-9, -1, 1, 9)]
    integral, _ = quad(
        lambda t: min(first.pdf(t), second.pdf(t)), min(places), max(places), points=sorted(places), limit=1000
    )
    assert found == pytest.approx(integral, abs=1e-6)
    assert found == pytest.approx(other_way, abs=1e-8)
    if deviations[0] == deviations[1] or abs(deviations[0] - deviations[1]) > 1e-3:  # theirs cancels in between
        assert found == pytest.approx(first.overlap(second), abs=1e-12)
    assert 0 <= found <= 1
