"""Orders in which those that belong together stand together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from decompose_cli.page.ordering import clustered, clustered_sets, shared_first


def test_groups_stand_together_in_the_best_order_of_all() -> None:
    """Beside all orders in which no two clusters mix, each with the similarity of its neighbours added up."""
    random = np.random.default_rng(0)
    similarity = random.random((6, 6))
    similarity = (similarity + similarity.T) / 2
    np.fill_diagonal(similarity, 1)
    clusters: list[tuple[int, ...]] = [(number,) for number in range(6)]
    known = list(clusters)
    while len(clusters) > 1:
        one, other = max(
            itertools.combinations(clusters, 2), key=lambda pair: np.mean(similarity[np.ix_(pair[0], pair[1])])
        )
        clusters = [cluster for cluster in clusters if cluster not in (one, other)] + [one + other]
        known.append(one + other)

    def is_whole(order: tuple[int, ...]) -> bool:
        places = [sorted(order.index(member) for member in cluster) for cluster in known]
        return all(found[-1] - found[0] == len(found) - 1 for found in places)

    def neighbours(order: tuple[int, ...]) -> float:
        return float(sum(similarity[a, b] for a, b in itertools.pairwise(order)))

    best = max(filter(is_whole, itertools.permutations(range(6))), key=neighbours)
    assert tuple(clustered(similarity)) in (best, best[::-1])


def test_few_rows_and_many_have_an_order() -> None:
    assert clustered(np.eye(1)) == [0]
    assert clustered(np.eye(2)) == [0, 1]
    assert sorted(clustered(np.eye(400))) == [*range(400)]


def test_very_many_sets_are_put_in_order_without_their_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decompose_cli.page.ordering.clustered", None)
    sets = [[number % 7, 9 + number] for number in range(2001)]
    order = clustered_sets(sets)
    assert sorted(order) == list(range(2001))
    assert [sets[row][0] for row in order] == sorted(one[0] for one in sets)


def test_sets_that_share_stand_together() -> None:
    order = clustered_sets([[0, 1], [7, 8], [1, 2], [8, 9], []])
    assert abs(order.index(0) - order.index(2)) == 1
    assert abs(order.index(1) - order.index(3)) == 1


def test_features_of_several_classes_come_first_each_near_its_classes() -> None:
    assert shared_first({4: [0], 9: [2, 3], 1: [0, 1], 7: [3], 2: [0, 1, 2]}) == [1, 2, 9, 4, 7]
