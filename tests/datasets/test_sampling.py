"""Which images are held out, in which order the others come, and who gets which of them."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from decompose_cli.datasets.sampling import epoch_order, hold_out, share
from decompose_cli.errors import InputError


def labels_of(*sizes: int, seed: int = 0) -> Tensor:
    """So many images of each class, shuffled."""
    ordered = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return ordered[torch.randperm(len(ordered), generator=torch.Generator().manual_seed(seed))]


def largest_remainders(sizes: list[int], total: int) -> list[int]:
    """Quotas by the rule for seats in a parliament, with exact fractions."""
    exact = [Fraction(total * size, sum(sizes)) for size in sizes]
    quotas = [int(quota) for quota in exact]
    order = sorted(range(len(sizes)), key=lambda number: (quotas[number] - exact[number], number))
    for number in order[: total - sum(quotas)]:
        quotas[number] += 1
    return quotas


def test_cifar_is_split_into_45000_and_5000() -> None:
    labels = labels_of(*[5000] * 10)
    train, val = hold_out(labels, 0.1, seed=0)
    assert (len(train), len(val)) == (45_000, 5_000)
    assert labels[val].bincount().tolist() == [500] * 10
    assert labels[train].bincount().tolist() == [4500] * 10


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 1 / 3, 0.5, 0.77])
@pytest.mark.parametrize("sizes", [(7,), (10, 10), (3, 50, 17, 101), (30,) * 13, (5, 0, 9), (143, 142, 146, 144, 139)])
def test_parts_are_sorted_disjoint_complete_and_stratified(sizes: tuple[int, ...], fraction: float) -> None:
    labels = labels_of(*sizes)
    train, val = hold_out(labels, fraction, seed=4)
    assert train.dtype == val.dtype == torch.int64
    assert train.tolist() == sorted(train.tolist())
    assert val.tolist() == sorted(val.tolist())
    assert sorted(train.tolist() + val.tolist()) == list(range(len(labels)))
    assert len(val) == round(fraction * len(labels))
    assert labels[val].bincount(minlength=len(sizes)).tolist() == largest_remainders(list(sizes), len(val))


def test_no_class_is_left_without_training_images() -> None:
    chooser = random.Random(0)
    refused = 0
    for _ in range(400):
        sizes = [chooser.randrange(0, 6) for _ in range(chooser.randrange(1, 8))]
        if not sum(sizes):
            continue
        labels, fraction = labels_of(*sizes), chooser.random()
        present = sum(size > 0 for size in sizes)
        if round(fraction * sum(sizes)) > sum(sizes) - present:
            with pytest.raises(InputError, match="would leave a class without training images"):
                hold_out(labels, fraction, seed=0)
            refused += 1
            continue
        train, val = hold_out(labels, fraction, seed=0)
        assert len(val) == round(fraction * sum(sizes))
        kept = labels[train].bincount(minlength=len(sizes)).tolist()
        assert all(left >= 1 for left, size in zip(kept, sizes, strict=True) if size)
    assert 20 < refused < 300


def test_choice_depends_on_the_seed_alone_and_is_even() -> None:
    labels = labels_of(60, 60)
    chosen = [hold_out(labels, 0.25, seed)[1] for seed in range(400)]
    torch.manual_seed(1)
    assert torch.equal(hold_out(labels, 0.25, 0)[1], chosen[0])
    assert not torch.equal(chosen[0], chosen[1])
    often = torch.cat(chosen).bincount(minlength=120)
    assert int(often.min()) > 60
    assert int(often.max()) < 140  # 100 times each, with a standard deviation of 9


def test_choice_never_changes() -> None:
    assert hold_out(torch.arange(20) % 2, 0.3, seed=0)[1].tolist() == [0, 1, 7, 10, 12, 17]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(InputError, match="must be at least 0 and below 1"):
        hold_out(torch.zeros(10).long(), fraction, seed=0)


def test_order_is_a_shuffle_of_what_was_given() -> None:
    indices = torch.tensor([5, 9, 2, 40, 41, 42, 77, 3])
    orders = {tuple(epoch_order(indices, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    assert all(sorted(order) == sorted(indices.tolist()) for order in orders)
    assert indices.tolist() == [5, 9, 2, 40, 41, 42, 77, 3]
    assert epoch_order(torch.empty(0, dtype=torch.int64), 0, 0).shape == (0,)


def test_order_neither_uses_nor_changes_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = epoch_order(torch.arange(50), 1, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(epoch_order(torch.arange(50), 1, 2), first)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 65])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_make_up_the_batch(count: int, world: int) -> None:
    batch = torch.arange(100, 100 + count)
    parts = [share(batch, rank, world) for rank in range(world)]
    assert torch.equal(torch.cat(parts), batch)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
