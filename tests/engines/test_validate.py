"""What validate says of single images; its counts are tested on published networks and through the command line."""

from __future__ import annotations

import pytest
import torch

from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.engines.validate import MOST_MISTAKES, measure
from decompose_cli.errors import InputError
from decompose_cli.models.network import HeadTensors

# Two classes, three features; class 0 keeps feature 0, class 1 feature 1, so feature 2 is lost to both.
HEAD = HeadTensors("dense", "fc", torch.tensor([[1.0, 0.0, 4.0], [0.0, 1.0, 0.0]]), torch.zeros(2), 3)
INDICES = IndexSet(((0,), (1,)), 3)
FEATURES = torch.tensor(
    [
        [2.0, 0.0, 0.0],  # 0: both right
        [0.0, 3.0, 1.0],  # 1: lost with feature 2, by 3
        [0.0, 1.0, 1.0],  # 2: lost with feature 2, by 1
        [0.0, 5.0, 0.0],  # 3: both wrong, by 5
        [0.0, 2.0, 1.0],  # 4: of class 1, right only without feature 2
        [0.0, 6.0, 0.0],  # 5: both wrong, by 6
    ]
)
LABELS = torch.tensor([0, 0, 0, 0, 1, 0])


def test_images_that_only_the_full_head_gets_right_come_first_and_the_most_confident_errors_lead() -> None:
    found = measure(HEAD, FEATURES, LABELS, ("a", "b"), INDICES)
    assert [mistake.image for mistake in found.mistakes] == [1, 2, 5, 3]
    first = found.mistakes[0]
    assert first.label == 0
    assert first.original is not None
    assert first.decomposed is not None
    assert (first.original.predicted, first.decomposed.predicted) == (0, 1)
    assert first.original.probability == pytest.approx(1 / (1 + torch.e**-1.0))
    assert first.decomposed.probability == pytest.approx(1 / (1 + torch.e**-3.0))


def test_without_indices_they_are_those_of_the_full_head() -> None:
    found = measure(HEAD, FEATURES, LABELS, ("a", "b"))
    assert [mistake.image for mistake in found.mistakes] == [5, 3, 4]
    assert all(mistake.decomposed is None for mistake in found.mistakes)


def test_there_are_no_more_than_can_be_looked_at() -> None:
    found = measure(HEAD, FEATURES[5:].expand(40, -1), LABELS[5:].expand(40), ("a", "b"))
    assert [mistake.image for mistake in found.mistakes] == list(range(MOST_MISTAKES))


def test_no_images_are_no_accuracy() -> None:
    with pytest.raises(InputError, match="There are no images"):
        measure(HEAD, FEATURES[:0], LABELS[:0], ("a", "b"))
