"""What chance gives, beside counts over all pairs of sets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from statistics import fmean

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from decompose_cli.decomposition.chance import by_pairs, expected_information, expected_jaccard, mean_jaccard


def over_all_pairs(measure: Callable[[set[int], set[int]], float], first: int, second: int, features: int) -> float:
    """The mean over all sets of one size beside all of another."""
    sets = [[set(one) for one in itertools.combinations(range(features), size)] for size in (first, second)]
    return fmean(measure(one, other) for one in sets[0] for other in sets[1])


def jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0


CASES = [(1, 1, 1), (1, 1, 5), (3, 3, 7), (2, 4, 6), (4, 5, 6), (0, 0, 3), (0, 2, 4), (6, 6, 6)]


@pytest.mark.parametrize(("first", "second", "features"), CASES)
def test_what_is_expected_is_the_mean_over_all_pairs_of_sets(first: int, second: int, features: int) -> None:
    def information(one: set[int], other: set[int]) -> float:
        return float(mutual_info_score(*([number in some for number in range(features)] for some in (one, other))))

    expected = over_all_pairs(jaccard, first, second, features)
    assert expected_jaccard(first, second, features) == pytest.approx(expected)
    expected = over_all_pairs(information, first, second, features)
    assert expected_information(first, second, features) == pytest.approx(expected, abs=1e-12)


def test_pairs_of_classes_of_several_sizes() -> None:
    sizes = [2, 3, 2, 5]
    table = by_pairs(expected_jaccard, sizes, 9)
    for (row, first), (column, second) in itertools.product(enumerate(sizes), repeat=2):
        assert table[row, column] == expected_jaccard(first, second, 9)
    assert mean_jaccard(sizes, 9) == pytest.approx(fmean(table[~np.eye(4, dtype=bool)]))
    assert mean_jaccard([3], 9) is None


@pytest.mark.parametrize("sizes", [(3, 1), (1, 3), (-1, 1)])
def test_sets_larger_than_all_features_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="of 2 features"):
        expected_jaccard(*sizes, 2)
