"""Parts of very many images: how many, of which classes, and the same each time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decompose_cli.decomposition import sampling
from decompose_cli.decomposition.choosing import SHARE, chooser_for
from decompose_cli.decomposition.sampling import held_by_feature, part_of, searched_numbers, searched_part
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.sparse.strength import stratified_part


def uneven(seed: int = 0) -> Tensor:
    """A thousand images of twelve classes, in any order: one class has one image, one none, one nearly half."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor([1, 2, 3, 0, 480, 100, 100, 100, 100, 60, 30, 24])
    return torch.arange(12).repeat_interleave(counts)[torch.randperm(1000, generator=generator)]


def slow_part(labels: Tensor, share: float, seed: int) -> list[int]:
    """Class by class: the numbers that are drawn."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for number in range(int(labels.max()) + 1):
        own = [image for image, label in enumerate(labels.tolist()) if label == number]
        if own:
            count = max(round(share * len(own)), 1 if len(own) > 1 else 0)
            drawn += [own[place] for place in torch.randperm(len(own), generator=generator)[:count].tolist()]
    return sorted(drawn)


@pytest.mark.parametrize("share", [0.0, 0.004, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 5])
def test_images_are_drawn_class_by_class(share: float, seed: int) -> None:
    labels = uneven(seed)
    rest, drawn = stratified_part(labels, share, seed)
    assert drawn.tolist() == slow_part(labels, share, seed)
    assert sorted(rest.tolist() + drawn.tolist()) == list(range(1000))


@pytest.mark.parametrize("share", [0.0, 0.004, 0.2])
def test_of_every_class_the_first_image_is_there_too(share: float) -> None:
    labels = uneven()
    firsts = [labels.tolist().index(number) for number in sorted(set(labels.tolist()))]
    assert part_of(labels, share, 0).tolist() == sorted({*slow_part(labels, share, 0), *firsts})


@pytest.mark.parametrize("most", [11, 12, 50, 333, 999])
def test_searches_look_at_no_more_images_than_they_may(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(sampling, "MOST_SEARCHED", most)
    labels = uneven()
    drawn = searched_numbers(labels)
    assert drawn is not None
    assert most - 2 * 11 <= len(drawn) <= max(most, 2 * 11)
    assert set(labels[drawn].tolist()) == set(labels.tolist())
    assert drawn.tolist() == searched_numbers(labels).tolist()
    assert most < 300 or abs(float((labels[drawn] == 4).double().mean()) - 0.48) < 0.05


def test_a_search_that_holds_much_for_each_image_looks_at_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_SEARCHED", 500)
    monkeypatch.setattr(sampling, "_VALUES_HELD", 10_000)
    labels = uneven()
    drawn = searched_numbers(labels, 0, 50)
    assert drawn is not None
    assert 200 - 2 * 11 <= len(drawn) <= 200
    monkeypatch.setattr(sampling, "MOST_SEARCHED", 1000)
    assert searched_numbers(labels, 0, 50) is None  # of no more than that many images, all are looked at


@pytest.mark.parametrize("at_once", [1, 9, 1 << 22])
def test_images_held_by_feature_are_those_images(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(sampling, "VALUES_AT_ONCE", at_once)
    features = torch.rand(30, 4)
    numbers = torch.tensor([0, 3, 4, 11, 12, 20, 29])
    held = held_by_feature(features, numbers)
    assert torch.equal(held, features[numbers])
    assert held.t().is_contiguous()


def test_no_more_images_take_part_in_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_SEARCHED", 300)
    labels = uneven()
    data = LabelledFeatures(torch.arange(1000.0)[:, None], labels, None, [*"abcdefghijkl"])
    chooser = chooser_for(data, None, 3)
    taking_part = searched_numbers(labels, 3)
    assert taking_part is not None
    rest, drawn = stratified_part(labels[taking_part], SHARE, 3)
    assert chooser.fitted.features[:, 0].long().tolist() == taking_part[rest].tolist()
    assert chooser.features[:, 0].long().tolist() == taking_part[drawn].tolist()
    assert torch.equal(chooser.labels, labels[taking_part[drawn]])
    others = torch.ones(5, 1), torch.zeros(5, dtype=torch.int64)
    apart = chooser_for(data, others, 3)
    assert apart.features is others[0]
    assert apart.fitted.features[:, 0].long().tolist() == taking_part.tolist()


def test_smaller_sets_are_searched_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_SEARCHED", 1000)
    labels = uneven()
    data = LabelledFeatures(torch.arange(1000.0)[:, None], labels, None, [*"abcdefghijkl"])
    assert searched_numbers(labels) is None
    assert searched_part(data) is data
    monkeypatch.setattr(sampling, "MOST_SEARCHED", 100)
    part = searched_part(data)
    numbers = searched_numbers(labels)
    assert numbers is not None
    assert part.features[:, 0].tolist() == numbers.tolist()
    assert torch.equal(part.labels, labels[numbers])
