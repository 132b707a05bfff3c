"""The published objective against all choices on small cases, and each of its parts written out."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.qpm import correlations, locality, select
from decompose_cli.sparse.redundancy import _can_be_left_out, redundancy


def images(seed: int, classes: int, features: int, count: int = 60) -> tuple[Tensor, Tensor]:
    """Features in groups that say the same of the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    groups = torch.randn(classes, 3, generator=generator)
    centres = groups[:, torch.arange(features) % 3] + 0.4 * torch.randn(classes, features, generator=generator)
    return centres[labels] + torch.randn(count, features, generator=generator), labels


def pearson(x: Tensor, labels: Tensor, classes: int) -> np.ndarray:
    return np.array(
        [[np.corrcoef(x[:, f].numpy(), (labels == c).numpy())[0, 1] for f in range(x.shape[1])] for c in range(classes)]
    )


def slow_redundancy(a: np.ndarray, size: int) -> np.ndarray:
    features = a.shape[1]
    cosine = np.array(
        [
            [a[:, f] @ a[:, g] / np.linalg.norm(a[:, f]) / np.linalg.norm(a[:, g]) for g in range(features)]
            for f in range(features)
        ]
    )
    pairs = list(combinations(range(features), 2))
    least = min(
        max((cosine[f, g] for f, g in combinations(one, 2)), default=-2.0)
        for one in combinations(range(features), size)
    )
    above = [cosine[f, g] for f, g in pairs if cosine[f, g] > least + 1e-12]
    threshold = min(above, default=np.inf)
    result = np.zeros_like(cosine)
    for f, g in pairs:
        if cosine[f, g] >= threshold - 1e-12:
            result[f, g] = result[g, f] = max(0.0, cosine[f, g])
    return result / result.max() if result.max() > 0 else result


def best_of_all(x: Tensor, labels: Tensor, classes: int, k: int, size: int, b: np.ndarray) -> float:
    """Every pool with every assignment of distinct sets."""
    a = pearson(x, labels, classes)
    r = slow_redundancy(a, size)
    scaled = a / np.abs(a).max()
    best = -np.inf
    for pool in combinations(range(x.shape[1]), size):
        rest = sum(b[f] for f in pool) - sum(r[f, g] for f, g in combinations(pool, 2))
        sets = list(combinations(pool, k))
        worth = np.array([[scaled[c, list(one)].sum() for one in sets] for c in range(classes)])
        most = max(
            sum(worth[c, place] for c, place in enumerate(places)) for places in permutations(range(len(sets)), classes)
        )
        best = max(best, 1000 / (k * classes) * most + rest)
    return best


@pytest.mark.parametrize(
    ("classes", "features", "k", "size", "scale"),
    [(3, 7, 2, 4, 0.0), (3, 7, 1, 4, 50.0), (4, 6, 2, 4, 5.0), (3, 8, 2, 3, 0.3)],
)
def test_the_choice_is_the_best_of_all(classes: int, features: int, k: int, size: int, scale: float) -> None:
    for seed in range(6):
        x, labels = images(seed, classes, features)
        b = scale * torch.randn(features, generator=torch.Generator().manual_seed(seed)).double()
        best = best_of_all(x, labels, classes, k, size, b.numpy())
        found = select(Problem(x, labels, classes), k, size=size, locality=b)
        assert found.objective == pytest.approx(best, rel=1e-6)
        assert found.objective == pytest.approx(found.similarity - found.redundancy + found.locality)
        assert len(found.pool) == size
        assert found.support.sum(1).tolist() == [k] * classes
        assert len(torch.unique(found.support, dim=0)) == classes
        assert set(found.support.any(0).nonzero()[:, 0].tolist()) <= set(found.pool.tolist())


def test_restarts_find_what_swaps_miss() -> None:
    gains = []
    for seed in range(6):
        x, labels = images(seed, 6, 20, 120)
        problem = Problem(x, labels, 6)
        without, whole = (select(problem, 2, size=6, restarts=count).objective for count in (0, 10))
        gains.append(whole - without)
    assert min(gains) >= 0
    assert max(gains) > 5


def test_correlations_are_those_of_pearson() -> None:
    x, labels = images(0, 4, 6, 61)
    x = x * 5 + 100
    x[:, 3] = 7.0
    found = correlations(x, labels, 5)
    others = [0, 1, 2, 4, 5]
    torch.testing.assert_close(
        found[:4, others], torch.from_numpy(pearson(x[:, others], labels, 4)), rtol=1e-5, atol=1e-6
    )
    assert not found[:, 3].any()
    assert not found[4].any()


@pytest.mark.parametrize("size", [2, 3, 5, 7, 8])
def test_redundancy_begins_where_a_pool_cannot_avoid_it(size: int) -> None:
    for seed in range(6):
        x, labels = images(seed, 5, 8)
        found = redundancy(correlations(x, labels, 5), size)
        expected = slow_redundancy(pearson(x, labels, 5), size)
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def test_locality_is_the_written_out_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(7, 9, 3, 4, generator=generator) * torch.logspace(-1, 1.5, 9)[:, None, None]
    maps[2] = 0  # an image on which nothing is active counts as nothing
    x = maps.mean((2, 3))
    expected = np.zeros(9)
    for image in range(7):
        for f in range(9):
            powers = np.exp(maps[image, f].double().numpy())
            share = float(x[image, f] / x[image].sum()) if float(x[image].sum()) > 0 else 0.0
            expected[f] += share * (powers / powers.sum()).max() / 7
    low, high = np.quantile(expected, [0.25, 0.75])
    clipped = np.clip(expected, low - 1.5 * (high - low), high + 1.5 * (high - low))
    assert (clipped != expected).any()
    centred = clipped - clipped.mean()
    expected = centred / np.abs(centred).max() * 0.316
    for size in (1, 3, 7):
        found = locality(zip(x.split(size), maps.split(size), strict=True))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert float(locality([(torch.ones(2, 3), torch.ones(2, 3, 2, 2))]).abs().max()) == 0
    with pytest.raises(ValueError, match="no images"):
        locality([])


def test_a_pool_too_small_is_refused() -> None:
    x, labels = images(0, 4, 6)
    with pytest.raises(ValueError, match="k 3 is not in 1 to 2"):
        select(Problem(x, labels, 4), 3, size=2)
    with pytest.raises(ValueError, match="3 features have fewer than 4 sets of 2"):
        select(Problem(x, labels, 4), 2, size=3)


def test_all_features_are_the_pool_where_there_are_fewer_and_constant_ones_are_none() -> None:
    x, labels = images(0, 4, 6)
    x[:, 1] = 2.0
    found = select(Problem(x, labels, 5), 2)
    assert found.pool.tolist() == [0, 2, 3, 4, 5]
    assert found.redundancy == 0
    assert found.support.sum(1).tolist() == [2, 2, 2, 2, 0]


def test_the_fewest_that_are_left_out_are_exact() -> None:
    """Graphs on which always leaving out the feature with most edges takes too many are among these."""
    for seed in range(80):
        generator = np.random.default_rng(seed)
        edges = np.triu(generator.random((9, 9)) < (0.25 if seed % 2 else 0.45), 1)
        edges = edges | edges.T
        fewest = next(
            count
            for count in range(9)
            for out in combinations(range(9), count)
            if not np.delete(np.delete(edges, out, 0), out, 1).any()
        )
        assert [_can_be_left_out(edges, most) for most in range(9)] == [most >= fewest for most in range(9)]
