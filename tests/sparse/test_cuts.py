"""Cuts of an elastic-net path, on heads with numbers that can be checked by eye."""

from __future__ import annotations

import torch
from torch import Tensor

from decompose_cli.sparse.cuts import exactly, largest_per_class, nearest_the_mean, sldd, ternary
from decompose_cli.sparse.elastic_net import Path, PathPoint

NONE = [[0, 0, 0, 0, 7.0], [0, 0, 0, 0, 8.0]]
ONE = [[0, 0, 0, 0.5, 1.0], [0, 0, 0, 0, 2.0]]
THREE = [[0, -2, 0, 1, 1.5], [0, 0, 0.5, 0, -2.5]]
FIVE = [[0, -3, 0.5, 1, 3.0], [0, 0, 2, -1, -4.0]]
SIX = [[1, -3, 0.5, 1, 3.0], [0, 0, 2, -1, -4.0]]


def path(*heads: list[list[float]]) -> Path:
    points = []
    for number, rows in enumerate(heads):
        head = torch.tensor(rows).double()
        weights = int((head[:, :-1] != 0).sum())
        points.append(PathPoint(1 / (number + 1), 1.0, 1.0, 0.0, weights, 1, head.to_sparse()))
    return Path(0.99, tuple(points))


def places(support: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in support]


def test_the_largest_weights_of_every_class_stay() -> None:
    weight = torch.tensor([[1.0, -3, 0, 2], [2, -2, 2, 0]])
    assert places(largest_per_class(weight, 2)) == [[1, 3], [0, 1]]
    assert places(largest_per_class(weight, 4)) == [[0, 1, 2, 3]] * 2
    then = torch.tensor([[0.0, 0, 0, 0], [1, 2, 3, 4]])
    assert places(largest_per_class(weight, 2, then)) == [[1, 3], [1, 2]]
    assert places(largest_per_class(torch.zeros(2, 4), 1, then)) == [[0], [3]]


def test_exactly_k_are_taken_where_every_class_has_them() -> None:
    whole = path(NONE, ONE, THREE, FIVE, SIX)
    assert places(exactly(whole, 1)) == [[1], [2]]  # of THREE, the first with one weight in both classes
    assert places(exactly(whole, 2)) == [[1, 3], [2, 3]]  # of FIVE
    # No point has three in the second class: of SIX, and of features never used the lower index.
    assert places(exactly(whole, 3)) == [[0, 1, 3], [0, 2, 3]]
    # A feature that was used once comes first.
    assert places(exactly(path(NONE, [[0, 0, 0, 1, 0], [0, 4, 0, 0, 0]], FIVE), 3))[1] == [1, 2, 3]


def test_the_point_nearest_a_mean_is_found() -> None:
    whole = path(NONE, ONE, THREE, FIVE, SIX)
    for mean, weights in ((0, 0), (0.6, 1), (1, 1), (1.1, 3), (2.6, 5), (50, 6)):
        assert nearest_the_mean(whole, mean).weights == weights


def test_the_cut_of_sldd_keeps_the_largest_of_all_classes_together() -> None:
    whole = path(NONE, ONE, THREE, FIVE, SIX)
    # Up to 2 per class on average: THREE, of which the two largest are in the first class.
    assert sldd(whole, 1).tolist() == [[0, -2, 0, 1, 1.5], [0, 0, 0, 0, -2.5]]
    # Up to 4: SIX, of which the four largest; among weights of the same size the first.
    assert sldd(whole, 2).tolist() == [[1, -3, 0, 1, 3.0], [0, 0, 2, 0, -4.0]]
    assert sldd(path(NONE, SIX), 1).tolist() == NONE  # nothing else has few enough


def test_the_ternary_cut_has_one_size_and_biases_by_the_count() -> None:
    whole = path(NONE, ONE, THREE, FIVE, SIX)
    a = (1 + 3 + 1 + 2) / 4
    # Positive minus negative: 1 and 1, so that no class has more than another.
    assert ternary(whole, 2).tolist() == [[a, -a, 0, a, 0.0], [0, 0, a, 0, 0.0]]
    a = (3 + 2) / 2
    # -1 and 1: from max|b| = 4 down to -4.
    assert ternary(whole, 1).tolist() == [[0, -a, 0, 0, 4.0], [0, 0, a, 0, -4.0]]
    three = path([[1, 1, 0, 2.0], [1, -1, 0, -6.0], [2, 0, 0, 0.0]])
    # 2, 0 and 1: the bias in the middle is 0.
    assert ternary(three, 9)[:, -1].tolist() == [-6.0, 6.0, 0.0]
    assert ternary(path(NONE), 3).tolist() == [[0, 0, 0, 0, 0.0]] * 2
