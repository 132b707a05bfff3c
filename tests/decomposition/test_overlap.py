"""Overlap of the classes' feature sets against scikit-learn, pair by pair."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score, mutual_info_score, normalized_mutual_info_score

from decompose_cli.decomposition.overlap import Overlap, mean_off_diagonal, membership, overlap

Classes = list[list[int]]


def bits(row: list[int], num_features: int) -> list[int]:
    return [int(feature in row) for feature in range(num_features)]


def make_sets(seed: int, c: int, d: int) -> Classes:
    """Sets of all sizes from one feature to all, in no particular order."""
    source = random.Random(seed)
    return [source.sample(range(d), source.randint(1, d)) for _ in range(c)]


def plain_information(a: list[int], b: list[int], num_features: int) -> float:
    """The definition, term by term."""
    left, right = bits(a, num_features), bits(b, num_features)
    terms = []
    for u in (0, 1):
        for v in (0, 1):
            n_uv = sum(x == u and y == v for x, y in zip(left, right, strict=True))
            if n_uv:
                n_u, n_v = left.count(u), right.count(v)
                terms.append(n_uv / num_features * math.log(num_features * n_uv / (n_u * n_v)))
    return math.fsum(terms)


def assert_as_scikit_learn_has_it(found: Overlap, classes: Classes, d: int) -> None:
    assert found.information.shape == found.normalized.shape == found.jaccard.shape == (len(classes), len(classes))
    for i, a in enumerate(classes):
        for j, b in enumerate(classes[: i + 1]):  # the rest mirrors these, which has a test of its own
            left, right = bits(a, d), bits(b, d)
            information = float(found.information[i, j])
            assert information == pytest.approx(mutual_info_score(left, right), abs=1e-12)
            assert information == pytest.approx(max(0.0, plain_information(a, b, d)), abs=1e-12)
            expected = normalized_mutual_info_score(left, right)
            assert float(found.normalized[i, j]) == pytest.approx(expected, abs=1e-12)
            assert float(found.jaccard[i, j]) == pytest.approx(jaccard_score(left, right), abs=1e-15)


@pytest.mark.parametrize(("c", "d"), [(1, 1), (3, 1), (1, 6), (4, 2), (5, 3), (8, 7), (6, 64)])
def test_every_pair_against_scikit_learn(c: int, d: int) -> None:
    for seed in range(2):
        classes = make_sets(seed, c, d)
        assert_as_scikit_learn_has_it(overlap(classes, d), classes, d)


@st.composite
def sets_of_classes(draw: st.DrawFn) -> tuple[Classes, int]:
    d = draw(st.integers(1, 12))
    row = st.lists(st.integers(0, d - 1), min_size=1, max_size=d, unique=True)
    return draw(st.lists(row, min_size=1, max_size=4)), d


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(case=sets_of_classes())
def test_any_small_sets_against_scikit_learn(case: tuple[Classes, int]) -> None:
    classes, d = case
    assert_as_scikit_learn_has_it(overlap(classes, d), classes, d)


def test_many_features_and_small_sets_against_scikit_learn() -> None:
    source = random.Random(0)
    classes = [source.sample(range(2048), 50) for _ in range(6)]
    assert_as_scikit_learn_has_it(overlap(classes, 2048), classes, 2048)


def test_numbers_that_can_be_checked_on_paper() -> None:
    found = overlap([[0, 1], [2, 3], [0, 2], [0], [1]], 4)
    log = math.log
    one_apart = 2 / 4 * log(4 / 3) + 2 / 4 * log(8 / 9)  # [0] and [1]: cells 0, 1, 1, 2
    inside = 1 / 4 * log(2) + 1 / 4 * log(4 / 6) + 2 / 4 * log(8 / 6)  # [0, 1] and [0]: cells 1, 1, 0, 2
    assert found.information[0].tolist() == pytest.approx([log(2), log(2), 0, inside, inside], abs=1e-15)
    assert float(found.information[3, 4]) == pytest.approx(one_apart, abs=1e-15)
    assert found.normalized[0, :3].tolist() == pytest.approx([1, 1, 0], abs=1e-15)
    quarter = -(1 / 4 * log(1 / 4) + 3 / 4 * log(3 / 4))
    assert float(found.normalized[0, 3]) == pytest.approx(inside / ((log(2) + quarter) / 2), abs=1e-15)
    assert found.jaccard[0].tolist() == pytest.approx([1, 0, 1 / 3, 1 / 2, 1 / 2], abs=1e-15)
    assert found.classes_per_feature.tolist() == [3, 2, 2, 1]


def test_a_set_and_its_complement_tell_all_about_each_other() -> None:
    found = overlap([[0, 1, 2], [3, 4, 5, 6, 7]], 8)
    assert found.information[0, 1] == pytest.approx(float(found.information[0, 0]), abs=1e-15)
    assert found.normalized[0, 1] == pytest.approx(1, abs=1e-15)
    assert found.jaccard[0, 1] == 0


def test_the_information_of_a_set_with_itself_is_its_entropy() -> None:
    found = overlap([list(range(k)) for k in range(1, 11)], 10)
    for k, value in enumerate(found.information.diagonal().tolist(), start=1):
        p = k / 10
        expected = -p * math.log(p) - ((1 - p) * math.log(1 - p) if k < 10 else 0)
        assert value == pytest.approx(expected, abs=1e-15)


def test_sets_of_all_features_say_nothing_and_are_the_same() -> None:
    found = overlap([[0, 1, 2], [2, 1, 0], [1]], 3)
    assert found.information[:2].abs().max() == 0
    assert found.normalized[:2].tolist() == [[1, 1, 0], [1, 1, 0]]
    assert found.jaccard[0].tolist() == pytest.approx([1, 1, 1 / 3])


def test_empty_sets_say_nothing_and_are_the_same() -> None:
    found = overlap([[], [0, 2], []], 3)
    assert found.information[0].tolist() == [0, 0, 0]
    assert found.normalized[0].tolist() == found.jaccard[0].tolist() == [1, 0, 1]
    assert (found.unused, found.exclusive) == (1, 2)


def test_rounding_makes_nothing_negative_or_larger_than_one() -> None:
    """Independent pairs of every size: rows and columns of a grid."""
    for height in range(1, 12):
        for width in range(1, 12):
            d = height * width
            found = overlap([list(range(width)), list(range(0, d, width)), list(range(d))], d)
            assert float(found.information.min()) >= 0
            assert float(found.information[0, 1]) == pytest.approx(0, abs=1e-15)
            assert 0 <= float(found.normalized.min()) <= float(found.normalized.max()) <= 1
            assert bool(torch.isfinite(found.normalized).all())


def test_matrices_are_symmetric_and_in_double_precision() -> None:
    found = overlap(make_sets(3, 9, 20), 20)
    for matrix in (found.information, found.normalized, found.jaccard):
        assert matrix.dtype == torch.float64
        assert torch.allclose(matrix, matrix.T, rtol=0, atol=1e-15)
    assert found.classes_per_feature.dtype == torch.int64


def test_matrices_are_made_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = make_sets(3, 23, 40)
    whole = overlap(classes, 40)
    monkeypatch.setattr("decompose_cli.decomposition.overlap._PAIRS_AT_ONCE", 23 * 5)
    blocked = overlap(classes, 40)
    for name in ("information", "normalized", "jaccard"):
        assert torch.equal(getattr(blocked, name), getattr(whole, name))


def test_the_order_inside_a_set_and_the_names_of_the_features_do_not_matter() -> None:
    classes = make_sets(5, 6, 15)
    source = random.Random(1)
    renamed = source.sample(range(15), 15)
    other = [[renamed[feature] for feature in source.sample(row, len(row))] for row in classes]
    first, second = overlap(classes, 15), overlap(other, 15)
    assert torch.equal(first.information, second.information)
    assert torch.equal(first.normalized, second.normalized)
    assert torch.equal(first.jaccard, second.jaccard)
    assert first.classes_per_feature.tolist() == [int(second.classes_per_feature[new]) for new in renamed]


@pytest.mark.parametrize(("c", "d"), [(2, 5), (5, 9), (10, 64)])
def test_means_against_plain_loops(c: int, d: int) -> None:
    classes = make_sets(7, c, d)
    found = overlap(classes, d)
    pairs = {(i, j): mutual_info_score(bits(classes[i], d), bits(classes[j], d)) for i in range(c) for j in range(c)}
    assert found.mean == pytest.approx(math.fsum(pairs.values()) / c**2, abs=1e-12)
    others = [value for (i, j), value in pairs.items() if i != j]
    assert found.off_diagonal_mean == pytest.approx(math.fsum(others) / len(others), abs=1e-12)
    assert found.mean != pytest.approx(found.off_diagonal_mean, abs=1e-3)


def test_a_single_class_has_no_mean_over_different_classes() -> None:
    found = overlap([[0, 2]], 4)
    assert found.off_diagonal_mean is None
    assert found.mean == pytest.approx(math.log(2))
    assert mean_off_diagonal(torch.ones(1, 1)) is None


def test_the_mean_over_different_classes_leaves_out_just_the_diagonal() -> None:
    matrix = torch.tensor([[100.0, 1, 2], [3, 200, 4], [5, 6, 300]], dtype=torch.float64)
    assert mean_off_diagonal(matrix) == pytest.approx(21 / 6)
    generator = np.random.default_rng(0)
    values = generator.random((7, 7))
    expected = values[~np.eye(7, dtype=bool)].mean()
    assert mean_off_diagonal(torch.from_numpy(values)) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_features_by_number_of_classes_that_use_them(seed: int) -> None:
    source = random.Random(seed)
    classes = [source.sample(range(30), source.randint(3, 12)) for _ in range(5)]
    found = overlap(classes, 30)
    uses = [sum(feature in row for row in classes) for feature in range(30)]
    assert found.classes_per_feature.tolist() == uses
    assert (found.unused, found.exclusive) == (uses.count(0), uses.count(1))
    assert found.shared == sum(use >= 2 for use in uses)
    assert min(found.unused, found.exclusive, found.shared) > 0


def test_membership_marks_the_indices_of_each_class() -> None:
    found = membership([[2, 0], [1], (0, 1, 2, 3)], 4)
    assert found.dtype == torch.bool
    assert found.int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1]]
