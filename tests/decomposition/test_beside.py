"""A class beside another, against loops over images and features."""

from __future__ import annotations

import math

import pytest
import torch

from decompose_cli.decomposition.beside import beside, neighbours
from decompose_cli.models.decomposed import DecomposedLinear

ROWS = ((0, 2, 3), (3, 4), (1, 2, 3), (0, 2, 5))
NAMES = ("cat", "dog", "fox", "cow")


def case(seed: int) -> tuple[DecomposedLinear, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(4, 6, generator=random), torch.randn(4, generator=random)
    features, labels = torch.randn(30, 6, generator=random), torch.randint(0, 3, (30,), generator=random)
    return DecomposedLinear.from_dense(weight, bias, ROWS), features, labels


@pytest.mark.parametrize("seed", range(3))
def test_contributions_against_a_plain_loop(seed: int) -> None:
    head, features, labels = case(seed)
    found = beside(head, features, labels, 0, 1, NAMES)
    assert (found.class_name, found.both, found.only_first, found.only_second) == ("dog", 1, 2, 1)
    assert {one.feature: one.used_by for one in found.features} == {0: "first", 2: "first", 3: "both", 4: "second"}
    weights = {c: dict(zip(ROWS[c], head.weight[c].tolist(), strict=False)) for c in (0, 1)}
    values, truth = features.tolist(), labels.tolist()
    for one in found.features:
        means = [
            math.fsum(row[one.feature] for row, label in zip(values, truth, strict=True) if label == c) / truth.count(c)
            for c in (0, 1)
        ]
        first, second = weights[0].get(one.feature, 0.0), weights[1].get(one.feature, 0.0)
        assert one.weights == (first, second)
        assert (one.to_first.first, one.to_first.second) == pytest.approx(
            (first * means[0], first * means[1]), abs=1e-9
        )
        assert (one.to_second.first, one.to_second.second) == pytest.approx(
            (second * means[0], second * means[1]), abs=1e-9
        )
        assert one.apart == pytest.approx((first - second) * (means[0] - means[1]), abs=1e-9)
    apart = [one.apart or 0.0 for one in found.features]
    assert apart == sorted(apart, reverse=True)


def test_what_they_give_adds_up_to_the_logits() -> None:
    head, features, labels = case(0)
    found = beside(head, features, labels, 0, 1, NAMES)
    mean = head(features)[labels == 0].mean(0).tolist()
    assert sum(one.to_first.first or 0 for one in found.features) + found.biases[0] == pytest.approx(mean[0], abs=1e-5)
    assert sum(one.to_second.first or 0 for one in found.features) + found.biases[1] == pytest.approx(mean[1], abs=1e-5)


def test_a_class_without_images_has_no_means() -> None:
    head, features, labels = case(0)
    found = beside(head, features, labels, 0, 3, NAMES)
    assert all(one.to_first.second is None and one.apart is None for one in found.features)
    assert all(one.to_first.first is not None for one in found.features)


def test_classes_that_differ_in_one_feature_come_first() -> None:
    found = neighbours(ROWS, 0, NAMES)
    assert [one.class_name for one in found] == ["fox", "cow", "dog"]
    assert [(one.both, one.only_first, one.only_second) for one in found] == [(2, 1, 1), (2, 1, 1), (1, 2, 1)]
    assert [one.class_name for one in neighbours(ROWS, 0, NAMES, left_out={2})] == ["cow", "dog"]
