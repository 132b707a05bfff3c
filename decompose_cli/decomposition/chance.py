"""How much two feature sets overlap by chance: what is expected of sets that are drawn at random."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch

from decompose_cli.decomposition.overlap import information_of


def expected_jaccard(first: int, second: int, num_features: int) -> float:
    """The expected Jaccard index of two sets of k and l features of D that are drawn at random.

    Their overlap o is hypergeometric, and the index o / (k + l - o); two empty sets are equal.

    Args:
        first: Size k of the one set, 0..D.
        second: Size l of the other.
        num_features: Number of features D.
    """
    overlaps, chances = _overlaps(first, second, num_features)
    union = first + second - overlaps
    return float(chances @ np.where(union > 0, overlaps / np.maximum(union, 1), 1.0))


def expected_information(first: int, second: int, num_features: int) -> float:
    """The expected mutual information, in nats, of the membership vectors of two such sets.

    It is above 0, although such sets are independent, as no overlap of a few features is exactly k l / D.
    """
    overlaps, chances = _overlaps(first, second, num_features)
    both = torch.from_numpy(overlaps.astype(np.float64))
    one, other = torch.full_like(both, first), torch.full_like(both, second)
    return float(chances @ information_of(both, one, other, num_features).numpy())


def by_pairs(expected: Callable[[int, int, int], float], sizes: Sequence[int], num_features: int) -> np.ndarray:
    """What is expected of each pair of classes, float64 (C, C).

    Args:
        expected: :func:`expected_jaccard` or :func:`expected_information`.
        sizes: Number of features of each of C classes.
        num_features: Number of features D.
    """
    known, place = np.unique(np.asarray(sizes, dtype=np.int64), return_inverse=True)
    table = np.zeros((len(known), len(known)))
    for row, column in itertools.combinations_with_replacement(range(len(known)), 2):
        table[row, column] = table[column, row] = expected(int(known[row]), int(known[column]), num_features)
    return table[np.ix_(place, place)]


def mean_jaccard(sizes: Sequence[int], num_features: int) -> float | None:
    """The mean of :func:`expected_jaccard` over pairs of different classes; None for a single class.

    Args:
        sizes: Number of features of each class.
        num_features: Number of features D.
    """
    if len(sizes) < 2:
        return None
    return float(by_pairs(expected_jaccard, sizes, num_features)[~np.eye(len(sizes), dtype=bool)].mean())


@cache
def _overlaps(first: int, second: int, num_features: int) -> tuple[np.ndarray, np.ndarray]:
    """The sizes that the overlap can have, and their probabilities.

    Raises:
        ValueError: A set is larger than the number of features.
    """
    from scipy.stats import hypergeom

    if not (0 <= first <= num_features and 0 <= second <= num_features):
        raise ValueError(f"sets of {first} and {second} of {num_features} features")
    overlaps = np.arange(max(0, first + second - num_features), min(first, second) + 1)
    return overlaps, hypergeom.pmf(overlaps, num_features, first, second)
