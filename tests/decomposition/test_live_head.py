"""Heads that a page computes anew: what of it is exact, how far the rest can be off, and whether that is said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from decompose_cli.decomposition.heads import highest_weights
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.live_head import (
    MOST_CLASSES,
    SHOWN_OF_MANY,
    Figures,
    LiveHead,
    live_head,
    quantised,
    sample,
)
from decompose_cli.decomposition.metrics import Predictions, predict
from decompose_cli.errors import DecomposeError
from decompose_cli.features.recalled import Recalled
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.network import HeadTensors

ROOM = 1_000_000


def images(count: int = 900, classes: int = 10, features: int = 24) -> Recalled:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(classes, features, generator=generator)
    head = HeadTensors("dense", "fc", weight, torch.randn(classes, generator=generator), features)
    values = torch.randn(count, features, generator=generator).relu() ** 2
    labels = (values @ weight.T + 2 * torch.randn(count, classes, generator=generator)).argmax(1)
    return Recalled(head, labels, torch.arange(count), values)


def chosen(found: Recalled, k: int = 4) -> IndexSet:
    return highest_weights(found.head, [str(number) for number in range(found.head.num_classes)], k)


def said(found: Recalled, rows: Sequence[Sequence[int]]) -> Predictions:
    """What a head with these features says, as the commands compute it."""
    head = DecomposedLinear.from_dense(found.head.weight, found.head.bias, rows)
    return predict(head, found.features, found.labels, found.head.num_classes)


def right(found: Recalled, rows: Sequence[Sequence[int]]) -> Tensor:
    return said(found, rows).is_correct


def made(found: Recalled, index_set: IndexSet, room: int = ROOM) -> LiveHead:
    live = live_head(found, index_set, room, Figures(int(right(found, index_set.classes).sum())))
    assert live is not None
    return live


def computed(live: LiveHead, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """What the head says where the classes have other features, and what could be otherwise; image by image."""
    found, is_open = [], []
    logits, levels, weight = live.logits.tolist(), live.levels.tolist(), live.weight.tolist()
    values, errors = live.values.tolist(), (live.errors * live.error_step[:, None]).tolist()
    for i in range(live.images):
        scores, off = {}, {}
        if live.best_other is not None:
            number = int(live.best_other[1][i])
            scores[number], off[number] = float(live.best_other[0][i]), 0.0
        for row, number in enumerate(live.classes):
            before = {live.features[place] for place in live.order[row][: live.sizes[row]]}
            score, error = logits[i][row], 0.0
            for place, feature in enumerate(live.features):
                change = (feature in rows[number]) - (feature in before)
                score += change * weight[row][place] * values[place][levels[i][place]]
                error += abs(change * weight[row][place]) * errors[place][levels[i][place]]
            scores[number], off[number] = score, error
        best = max(scores, key=lambda number: (scores[number], -number))
        found.append(best)
        is_open.append(any(scores[n] + off[n] >= scores[best] - off[best] for n in scores if n != best))
    return torch.tensor(found), torch.tensor(is_open)


def test_the_start_is_exact() -> None:
    found = images()
    index_set = chosen(found)
    live = made(found, index_set)
    assert (live.images, live.total) == (900, 900)
    assert live.logits.argmax(1).equal(predict(_head(found, index_set), found.features, found.labels, 10).predictions)
    assert live.full is not None
    assert int(live.full.sum()) == int(
        (found.features @ found.head.weight.T + found.head.bias).argmax(1).eq(found.labels).sum()
    )
    own = [[live.features[place] for place in row[:size]] for row, size in zip(live.order, live.sizes, strict=True)]
    assert own == [list(row) for row in index_set.classes]
    assert all(sorted(row) == list(range(len(live.features))) for row in live.order)


def _head(found: Recalled, index_set: IndexSet) -> DecomposedLinear:
    return DecomposedLinear.from_dense(found.head.weight, found.head.bias, index_set.classes)


@pytest.mark.parametrize("k", [1, 2, 6, 12])
def test_changes_are_right_on_all_images_but_those_that_are_said(k: int) -> None:
    found = images(400)
    live = made(found, chosen(found))
    rows = [[live.features[place] for place in order[:k]] for order in live.order]
    answers, is_open = computed(live, rows)
    differs = answers != said(found, rows).predictions
    assert not bool((differs & ~is_open).any())
    assert int(differs.sum()) <= 0.003 * len(differs)
    assert int(is_open.sum()) <= 0.02 * len(differs)


def test_levels_are_as_close_as_they_say() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.stack(
        [torch.randn(3000, generator=generator).exp(), torch.rand(3000, generator=generator).round()], 1
    )
    levels, known, steps, step = quantised(values)
    errors = steps * step[:, None]
    assert levels.dtype == torch.uint8
    assert known.shape == errors.shape == (2, 256)
    for place in range(2):
        off = (values[:, place] - known[place][levels[:, place].long()]).abs()
        assert bool((off <= errors[place][levels[:, place].long()] + 1e-6).all())
    assert known[1][levels[:, 1].long()].equal(values[:, 1]), "what has few values is exact"
    even = (values[:, 0].max() - values[:, 0].min()) / 255
    off = values[:, 0] - known[0][levels[:, 0].long()]
    assert float(off.square().mean()) < 0.3 * float(even**2 / 12), "and else closer than levels of one size"


def test_of_many_images_each_class_has_the_same_share() -> None:
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    rows = sample(labels, 100, 0)
    assert torch.bincount(labels[rows]).tolist() == [60, 30, 10]
    assert rows.equal(rows.unique())
    assert sample(labels, 1000, 0).equal(torch.arange(1000))
    assert not sample(labels, 100, 1).equal(rows)


def test_a_sample_is_taken_where_room_is_short_and_none_where_it_is_too_short() -> None:
    found = images()
    index_set = chosen(found)
    tables = 1284 * len(made(found, index_set).features)
    live = made(found, index_set, tables + 30_000)
    assert 100 <= live.images < 900
    assert live.total == 900
    with pytest.raises(DecomposeError, match="no room left"):
        made(found, index_set, tables + 3000)


def test_of_many_classes_those_that_lose_most_are_changed() -> None:
    found = images(500, MOST_CLASSES + 10)
    index_set = chosen(found, 3)
    live = made(found, index_set)
    assert len(live.classes) == SHOWN_OF_MANY
    before, after = (int(one.sum()) for one in (_full_right(found), right(found, index_set.classes)))
    assert after < before
    lost = torch.bincount(found.labels[_full_right(found)], minlength=50)
    lost -= torch.bincount(found.labels[right(found, index_set.classes)], minlength=50)
    assert min(int(lost[number]) for number in live.classes) >= int(lost.sort(descending=True).values[SHOWN_OF_MANY])
    rows = [list(row) for row in index_set.classes]
    for number in live.classes:
        rows[number] = rows[number][:1]
    answers, is_open = computed(live, rows)
    assert not bool(((answers != said(found, rows).predictions) & ~is_open).any())
    assert set(live.rest) == set(range(50)) - set(live.classes)


def _full_right(found: Recalled) -> Tensor:
    return (found.features @ found.head.weight.T + found.head.bias).argmax(1).eq(found.labels)


def test_other_features_than_those_of_the_result_are_refused() -> None:
    """Another number of right images, or as many of others."""
    found = images()
    index_set = chosen(found)
    count = int(right(found, index_set.classes).sum())
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    for label, answer in zip(found.labels, said(found, index_set.classes).predictions, strict=True):
        confusion[label, answer] += 1
    full = torch.zeros(10, 10, dtype=torch.int64)
    for label, answer in zip(found.labels, said(found, [range(24)] * 10).predictions, strict=True):
        full[label, answer] += 1
    assert live_head(found, index_set, ROOM, Figures(count, confusion.tolist(), full.tolist())) is not None
    for wrong in (confusion, full):
        wrong[0, 0] -= 1
        wrong[1, 1] += 1
        assert live_head(found, index_set, ROOM, Figures(count, confusion.tolist(), full.tolist())) is None
        wrong[0, 0] += 1
        wrong[1, 1] -= 1
    assert live_head(found, index_set, ROOM, Figures(1 + int(right(found, index_set.classes).sum()))) is None


def test_a_head_of_its_own_has_no_other_features_and_whole_classes_stay_as_they_are() -> None:
    found = images()
    own = _head(found, chosen(found))
    head = HeadTensors(
        "decomposed", "fc", own.weight.detach(), own.bias.detach(), 24, indices=own.indices, mask=own.mask
    )
    of_its_own = Recalled(head, found.labels, found.numbers, found.whole)
    live = live_head(of_its_own, None, ROOM, Figures(int(right(found, own.classes()).sum())))
    assert live is not None
    assert live.full is None
    assert live.is_open.sum(1).tolist() == [4] * 10
    assert [len(row) for row in live.order] == [4] * 10
    part = chosen(found).of_classes(range(8)).spread(10, range(8))
    held = made(found, part)
    assert (held.classes, held.whole) == (tuple(range(8)), frozenset({8, 9}))
    assert held.best_other is not None


def test_a_head_without_features_to_switch_is_refused() -> None:
    found = images()
    index_set = IndexSet(((), *((tuple(range(24)),) * 9)), 24, whole=frozenset(range(1, 10)))
    with pytest.raises(DecomposeError, match="no class has features"):
        made(found, index_set)
