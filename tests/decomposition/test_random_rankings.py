"""Heads of features that were drawn at random, against a loop over draws, classes and images."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from decompose_cli.decomposition import random_rankings as module
from decompose_cli.decomposition.random_rankings import floor_ks, random_rankings, winners
from decompose_cli.models.network import HeadTensors


def case(
    seed: int, classes: int = 4, features: int = 9, images: int = 40
) -> tuple[HeadTensors, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, features, generator=random)
    bias = torch.randn(classes, generator=random)
    values = torch.randn(images, features, generator=random)
    head = HeadTensors("dense", "fc", weight, bias, features)
    return head, values, (values @ weight.t() + bias).argmax(1)


def slow(
    head: HeadTensors, values: torch.Tensor, labels: torch.Tensor, ks: list[int], seed: int, held: list[int], draws: int
) -> dict[int, list[float]]:
    """The same draws, in Python's own numbers."""
    random = torch.Generator().manual_seed(seed)
    weight, bias = head.weight.tolist(), head.bias.tolist()
    shares: dict[int, list[float]] = {k: [] for k in ks}
    for _ in range(draws):
        orders = torch.rand(head.num_classes, head.num_features, generator=random).argsort(1).tolist()
        for k in ks:
            right = 0
            for row, label in zip(values.tolist(), labels.tolist(), strict=True):
                logits = [
                    bias[c] + math.fsum(weight[c][j] * row[j] for j in (order if c in held else order[:k]))
                    for c, order in enumerate(orders)
                ]
                right += max(range(len(logits)), key=lambda c: logits[c]) == label
            shares[k].append(100 * right / len(labels))
    return shares


@pytest.mark.parametrize("held", [[], [2]])
@pytest.mark.parametrize("seed", range(3))
def test_every_draw_against_the_slow_twin(seed: int, held: list[int]) -> None:
    head, values, labels = case(seed)
    mask = torch.tensor([number in held for number in range(4)]) if held else None
    found = random_rankings(head, values, labels, [1, 2, 5, 9], seed, held=mask, draws=7)
    expected = slow(head, values, labels, [1, 2, 5, 9], seed, held, 7)
    assert (found.draws, found.images) == (7, 40)
    for k, shares in expected.items():
        drawn = found.by_k[str(k)]
        assert (drawn.min, drawn.max) == (min(shares), max(shares))
        assert drawn.mean == pytest.approx(sum(shares) / 7)
    assert found.by_k["9"].min == found.by_k["9"].max == 100, "all features are the full head"


def test_of_very_many_images_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    head, values, labels = case(0, images=500)
    monkeypatch.setattr(module, "MOST_IMAGES", 100)
    assert random_rankings(head, values, labels, [3], 0, draws=2).images == 100
    monkeypatch.setattr(module, "_FEWEST_IMAGES", 30)
    monkeypatch.setattr(module, "_MOST_PRODUCTS", 50 * 2 * 4 * 3)
    assert random_rankings(head, values, labels, [3], 0, draws=2).images == 50


def test_the_seed_decides() -> None:
    head, values, labels = case(0)
    first, again, other = (random_rankings(head, values, labels, [1, 2], seed, draws=5) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_dozen_sizes_spread_by_factors() -> None:
    assert floor_ks(range(1, 65)) == [1, 2, 3, 5, 7, 10, 14, 21, 30, 44, 64]
    assert floor_ks([2, 5]) == [2, 5]
    found = floor_ks(range(1, 2049))
    assert (found[0], found[-1]) == (1, 2048)
    assert len(found) == 12
    factors = [later / earlier for earlier, later in itertools.pairwise(found[2:])]
    assert max(factors) / min(factors) < 1.3


def test_a_winner_wins_until_another_one_does() -> None:
    a, b = {1: 5, 2: 6, 3: 8, 4: 9}, {1: 4, 2: 6, 3: 9, 4: 9}
    assert winners({"a": a, "b": b}) == [(("a",), [1, 2]), (("b",), [3, 4])]
    assert winners({"a": a}) == [(("a",), [1, 2, 3, 4])]
    assert winners({"a": {1: 5}, "b": {1: 5, 7: 3}}) == [(("b",), [1, 7])]
