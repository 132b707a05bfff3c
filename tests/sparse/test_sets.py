"""Distinct sets of the largest scores, against all assignments."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
import torch

from decompose_cli.sparse.sets import distinct_sets, enough_sets


@pytest.mark.parametrize(
    ("classes", "features", "k"), [(3, 3, 1), (3, 5, 1), (3, 5, 2), (4, 4, 2), (3, 5, 4), (4, 4, 3)]
)
@pytest.mark.parametrize("alike", [0.0, 0.9, 1.0])
def test_distinct_sets_have_the_largest_sum_of_all(classes: int, features: int, k: int, alike: float) -> None:
    """The more alike the classes are, the more of them want the same set; at 1.0 all of them do."""
    sets = list(combinations(range(features), k))
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        shared, own = torch.randn(features, generator=generator), torch.randn(classes, features, generator=generator)
        scores = (alike * shared + (1 - alike) * own).double()
        best = max(
            sum(float(scores[number, list(one)].sum()) for number, one in enumerate(chosen))
            for chosen in permutations(sets, classes)
        )
        found = distinct_sets(scores, k)
        assert found.sum(1).tolist() == [k] * classes
        assert len(found.unique(dim=0)) == classes
        assert float(scores[found].sum()) == pytest.approx(best, rel=1e-12, abs=1e-12)


def test_ties_go_to_the_lower_index() -> None:
    found = distinct_sets(torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 2.0, 2.0, 2.0]]), 2)
    assert found.tolist() == [[True, True, False, False], [False, True, True, False]]


def test_many_classes_that_want_the_same_set() -> None:
    scores = torch.linspace(1, 0, 20).double().expand(200, 20)
    found = distinct_sets(scores, 3)
    assert len(found.unique(dim=0)) == 200
    every = sorted((float(scores[0, list(one)].sum()) for one in combinations(range(20), 3)), reverse=True)
    assert float(scores[found].sum()) == pytest.approx(sum(every[:200]))


def test_too_few_sets_are_told() -> None:
    assert enough_sets(20, 6, 3)
    assert not enough_sets(21, 6, 3)
    with pytest.raises(ValueError, match="3 features have fewer than 4 sets of 2"):
        distinct_sets(torch.rand(4, 3), 2)
