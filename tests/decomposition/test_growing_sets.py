"""Predictions of many heads, each from the logits of the one before, against making each head by itself."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from decompose_cli.decomposition import growing_sets
from decompose_cli.decomposition.growing_sets import predictions_of_orders
from decompose_cli.features import blocks
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.network import HeadTensors

C, D, N = 7, 40, 300
KS = [1, 2, 3, 7, 8, 30, 40]
Orders = list[tuple[int, Tensor]]


def make_head(generator: torch.Generator, *, with_bias: bool = True) -> HeadTensors:
    bias = torch.randn(C, generator=generator) if with_bias else torch.zeros(C)
    return HeadTensors("dense", "fc", torch.randn(C, D, generator=generator), bias, D)


def drifting(seed: int) -> Orders:
    """For each k other features, of which most are those of the k before, in another order."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(C, D, generator=generator)
    found = []
    for k in KS:
        scores = scores + 0.2 * torch.rand(C, D, generator=generator)
        found.append((k, scores.argsort(1, descending=True)[:, :k]))
    return found


def one_by_one(features: Tensor, head: HeadTensors, orders: Orders) -> dict[int, list[int]]:
    found = {}
    for k, order in orders:
        module = DecomposedLinear.from_dense(head.weight, head.bias, order.tolist())
        with torch.no_grad():
            found[k] = module(features).argmax(1).tolist()
    return found


def together(features: Tensor, head: HeadTensors, orders: Orders) -> dict[int, list[int]]:
    return {k: predicted.tolist() for k, predicted in predictions_of_orders(features, head, iter(orders))}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dense_share", [0, 12, 10_000])
def test_sets_that_gain_and_lose_features_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch, seed: int, dense_share: int
) -> None:
    """By changes alone, by both ways, and by products with all weights alone."""
    monkeypatch.setattr(growing_sets, "_DENSE_SHARE", dense_share)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(N, D, generator=generator).relu()
    head = make_head(generator)
    found = together(features, head, drifting(seed))
    assert found == one_by_one(features, head, drifting(seed))
    assert list(found) == KS


def test_sets_lose_features_here() -> None:
    pairs = itertools.pairwise(drifting(0))
    assert any(
        set(row) - set(after) for (_, a), (_, b) in pairs for row, after in zip(a.tolist(), b.tolist(), strict=True)
    )


@pytest.mark.parametrize(
    ("indices", "predictions", "differences"),
    [
        (1, 1 << 26, 1 << 28),
        (C * 20, 1 << 26, 1 << 28),
        (1 << 26, N, 1 << 28),
        (1 << 26, 3 * N, 1 << 28),
        (1 << 26, 1 << 26, 1),
        (1 << 26, 1 << 26, 20 * C),
    ],
)
@pytest.mark.parametrize("at_once", [1, 4 * C * 50, 1 << 22])
def test_how_many_heads_and_images_are_taken_together_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, indices: int, predictions: int, differences: int, at_once: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(N, D, generator=generator).relu()
    head, orders = make_head(generator), drifting(1)
    whole = together(features, head, orders)
    monkeypatch.setattr(growing_sets, "_INDICES_AT_ONCE", indices)
    monkeypatch.setattr(growing_sets, "_PREDICTIONS_AT_ONCE", predictions)
    monkeypatch.setattr(growing_sets, "_CHANGES_AT_ONCE", differences)
    monkeypatch.setattr(growing_sets, "_WEIGHTS_AT_ONCE", differences)
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", at_once)
    assert together(features, head, orders) == whole


def test_what_classes_gain_and_lose_takes_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    evaluated = growing_sets._evaluated

    def watched(features, group, device):
        changes = [len(step.weights) for step in group.steps if not isinstance(step, torch.Tensor)]
        made.append((sum(changes), sum(step.numel() for step in group.steps if isinstance(step, torch.Tensor))))
        return evaluated(features, group, device)

    monkeypatch.setattr(growing_sets, "_evaluated", watched)
    monkeypatch.setattr(growing_sets, "_CHANGES_AT_ONCE", C * D // 4)
    monkeypatch.setattr(growing_sets, "_WEIGHTS_AT_ONCE", 2 * C * D)
    generator = torch.Generator().manual_seed(4)
    together(torch.rand(N, D, generator=generator), make_head(generator), drifting(4))
    assert len(made) > 1
    assert 0 < max(changes for changes, _ in made) <= C * D // 4
    assert 0 < max(weights for _, weights in made) <= 2 * C * D


def test_no_more_heads_are_asked_for_than_are_evaluated_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_sets, "_PREDICTIONS_AT_ONCE", 2 * N)
    orders = iter(drifting(2))
    generator = torch.Generator().manual_seed(2)
    found = predictions_of_orders(torch.rand(N, D, generator=generator), make_head(generator), orders)
    assert next(found)[0] == 1
    assert [k for k, _ in orders] == KS[3:]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_logits_that_differ_by_rounding_alone_are_those_of_the_head_itself(seed: int, scale: float) -> None:
    """All classes have the same weights and in the end the same features, which they gain in other orders."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(N, D, generator=generator)
    weight = torch.randn(1, D, generator=generator).repeat(C, 1) * scale
    head = HeadTensors("dense", "fc", weight, torch.full((C,), 3 * scale), D)
    orders = [*drifting(seed)[:-1], (D, torch.stack([torch.randperm(D, generator=generator) for _ in range(C)]))]
    expected = one_by_one(features, head, orders)
    assert len(set(expected[D])) > 2  # which class is predicted is a matter of rounding
    assert together(features, head, orders) == expected


def test_images_with_equal_logits_go_to_the_lowest_class() -> None:
    features = torch.zeros(20, D)
    features[:10, 3] = 1.0
    head = make_head(torch.Generator().manual_seed(0), with_bias=False)
    orders = [(k, torch.arange(4, 4 + k).repeat(C, 1)) for k in (1, 5)]
    assert together(features, head, orders) == {1: [0] * 20, 5: [0] * 20}


def test_a_head_of_one_class_predicts_it() -> None:
    head = HeadTensors("dense", "fc", torch.ones(1, D), torch.zeros(1), D)
    assert together(torch.rand(5, D), head, [(1, torch.tensor([[3]]))]) == {1: [0] * 5}
