"""Why an image is taken for another class."""

from __future__ import annotations

import torch
from torch import nn

from decompose_cli.decomposition.reasons import MOST_REASONS, reasons
from decompose_cli.models.decomposed import DecomposedLinear

VALUES = torch.tensor([2.0, 1.0, 0.0, 3.0, 1.0])
WEIGHT = torch.tensor([[1.0, 0.5, 9.0, -1.0, 0.25], [0.5, 1.0, -9.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0]])


def test_the_strongest_for_the_predicted_class_come_first() -> None:
    """By hand: differences to class 1 are 1, -0.5, 0, -3, -0.25, in the order of the features."""
    linear = nn.Linear(5, 3)
    linear.weight.data = WEIGHT
    assert [tuple(one.model_dump().values()) for one in reasons(linear, VALUES, 0, 1)] == [(0, 2.0, 1.0)]
    assert [tuple(one.model_dump().values()) for one in reasons(linear, VALUES, 1, 0)] == [
        (3, 0.0, -3.0),
        (1, 1.0, 0.5),
        (4, 0.5, 0.25),
    ]


def test_of_a_decomposed_head_only_its_features_count() -> None:
    head = DecomposedLinear.from_dense(WEIGHT, torch.zeros(3), [[0], [1, 3], []])
    assert [tuple(one.model_dump().values()) for one in reasons(head, VALUES, 0, 1)] == [(0, 2.0, None)]
    assert [tuple(one.model_dump().values()) for one in reasons(head, VALUES, 1, 0)] == [(1, 1.0, None)]
    assert reasons(head, VALUES, 2, 1) == []


def test_they_say_what_moves_the_difference_of_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    linear, values = nn.Linear(20, 4), torch.randn(20, generator=generator)
    found = reasons(linear, values, 3, 1)
    assert len(found) == MOST_REASONS
    without = values.clone()
    without[[one.feature for one in found]] = 0
    change = (linear(values) - linear(without)).double()
    expected = sum(one.to_predicted - one.to_label for one in found)
    assert abs(float(change[3] - change[1]) - expected) < 1e-5
