"""Several images in one: which pixels, which targets, and that the loss is the papers' sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from decompose_cli.datasets.counter_random import Stream, derived_seed
from decompose_cli.datasets.mixing import Rows, cutmix, mix, mixup, ricap, rows_of
from decompose_cli.errors import InputError

WAYS = [ricap, mixup, cutmix]
N, H, W, C = 6, 8, 10, 4


def labelled(n: int = N, height: int = H, width: int = W) -> tuple[Tensor, Tensor]:
    """Images in which every pixel tells from which image, row and column it is: 10000 m + 100 y + x."""
    places = 10_000 * torch.arange(n).view(-1, 1, 1) + 100 * torch.arange(height).view(-1, 1) + torch.arange(width)
    images = places[:, None].expand(-1, 3, -1, -1).float().contiguous(memory_format=torch.channels_last)
    return images, (torch.arange(n) * 3 + 1) % C


def fields(mixed: Tensor) -> list[tuple[int, int, int, int]]:
    """Where the four patches of RICAP are, read off the pixels: neighbours in a patch differ by 1 or by 100."""
    plane = mixed[:, 0].double()
    rows = [y for y in range(1, plane.shape[1]) if not bool((plane[:, y] - plane[:, y - 1] == 100).all())]
    columns = [x for x in range(1, plane.shape[2]) if not bool((plane[:, :, x] - plane[:, :, x - 1] == 1).all())]
    assert len(rows) <= 1
    assert len(columns) <= 1
    tops, lefts = [0, *rows, plane.shape[1]], [0, *columns, plane.shape[2]]
    return [(top, bottom, left, right) for top, bottom in pairwise(tops) for left, right in pairwise(lefts)]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ricap_is_four_patches_and_its_loss_the_sum_over_them(seed: int, smoothing: float) -> None:
    images, targets = labelled()
    mixed, soft = ricap(images, targets, C, seed=seed)
    logits = torch.randn(N, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    parts = fields(mixed)
    assert sum((bottom - top) * (right - left) for top, bottom, left, right in parts) == H * W
    for top, bottom, left, right in parts:
        corner = mixed[:, 0, top, left].long()
        source, place = corner // 10_000, corner % 10_000
        assert sorted(source.tolist()) == list(range(N)), "every image gives one patch to every field"
        assert len(set(place.tolist())) == 1, "the place is drawn once for the field"
        y, x = int(place[0]) // 100, int(place[0]) % 100
        assert torch.equal(
            mixed[:, :, top:bottom, left:right], images[source][:, :, y : y + bottom - top, x : x + right - left]
        )
        weight = (bottom - top) * (right - left) / (H * W)
        expected += weight * F.cross_entropy(logits, targets[source], label_smoothing=smoothing)
    found = F.cross_entropy(logits, soft.double(), label_smoothing=smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_ricap_draws_its_boundary_from_the_beta_distribution() -> None:
    torch.manual_seed(0)
    images, _ = labelled(2, 32, 32)
    areas = []
    for beta in (0.3, 1.0, 20.0):
        drawn = torch.stack([ricap(images, torch.tensor([0, 1]), 2, beta, seed=seed)[0] for seed in range(400)])
        heights = torch.tensor([fields(mixed)[0][1] for mixed in drawn], dtype=torch.float64)
        whole = heights == 32
        share = torch.where(whole, torch.zeros(()).double(), heights / 32)  # 0 and 1 look alike: no boundary inside
        exact = torch.distributions.Beta(beta, beta)
        inside = (share > 0.25) & (share < 0.75)
        sample = exact.sample((20_000,))
        probability = float((((sample * 32).round() > 8) & ((sample * 32).round() < 24)).double().mean())
        assert abs(float(inside.double().mean()) - probability) < 5 * (probability * (1 - probability) / 400) ** 0.5
        areas.append(float(inside.double().mean()))
    assert areas[0] < areas[1] < areas[2]


def test_ricap_patches_come_from_everywhere() -> None:
    images, targets = labelled(2)
    seen: set[tuple[int, int]] = set()
    for seed in range(300):
        mixed, _ = ricap(images, targets, C, 5.0, seed=seed)
        for top, _, left, _ in fields(mixed):
            place = int(mixed[0, 0, top, left]) % 10_000
            seen.add((place // 100, place % 100))
    assert {y for y, _ in seen} >= set(range(H - 1))
    assert {x for _, x in seen} >= set(range(W - 1))


@pytest.mark.parametrize("seed", range(10))
def test_mixup_is_the_weighted_mean_of_neighbours(seed: int) -> None:
    images, targets = labelled()
    mixed, soft = mixup(images.double(), targets, C, 1.0, seed=seed)
    before = (torch.arange(N) - 1) % N
    weight = float(soft[1, targets[1]])
    expected = weight * images.double() + (1 - weight) * images.double()[before]
    torch.testing.assert_close(mixed, expected, rtol=1e-6, atol=1e-2)
    one_hot = F.one_hot(targets, C).double()
    torch.testing.assert_close(soft.double(), weight * one_hot + (1 - weight) * one_hot[before], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_cutmix_weighs_classes_by_area(seed: int) -> None:
    images, targets = labelled()
    mixed, soft = cutmix(images, targets, C, seed=seed)
    own = (mixed[:, 0] // 10_000).long() == torch.arange(N).view(-1, 1, 1)
    assert torch.equal(mixed % 10_000, images % 10_000)
    weight = own.double().mean((1, 2))
    assert bool((weight == weight[0]).all())
    torch.testing.assert_close(soft[torch.arange(N), targets].double(), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_out(way: Callable[..., tuple[Tensor, Tensor]]) -> None:
    images, targets = labelled()
    kept = images.clone(), targets.clone()
    for given in (images, images.contiguous()):
        mixed, soft = way(given, targets, C, seed=3)
        assert mixed.dtype == torch.float32
        assert mixed.shape == images.shape
        assert mixed.stride() == given.stride()
        assert (soft.dtype, soft.shape) == (torch.float32, (N, C))
        torch.testing.assert_close(soft.sum(1), torch.ones(N))
    assert torch.equal(images, kept[0])
    assert torch.equal(targets, kept[1])


@pytest.mark.parametrize("way", WAYS)
def test_draws_depend_on_the_seed_and_leave_the_global_generator_alone(
    way: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    images, targets = labelled()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = way(images, targets, C, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again = way(images, targets, C, seed=5)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert any(not torch.equal(first[0], way(images, targets, C, seed=seed)[0]) for seed in range(6, 10))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_no_and_of_one_image(way: Callable[..., tuple[Tensor, Tensor]], n: int) -> None:
    images, targets = labelled(n)
    mixed, soft = way(images, targets, C, seed=0)
    assert mixed.shape == (n, 3, H, W)
    torch.testing.assert_close(soft, F.one_hot(targets, C).float())


def shares(name: str, batch: int, processes: int) -> Iterator[Rows]:
    """What each of several processes makes of a batch; a process without a row makes nothing."""
    for numbers in torch.arange(batch).tensor_split(processes):
        if len(numbers):
            own = range(int(numbers[0]), int(numbers[-1]) + 1)
            yield rows_of(name, batch, own, (H, W), 1, 2, 3)


@pytest.mark.parametrize("name", ["none", "ricap", "mixup", "cutmix"])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_processes_make_together_what_one_makes(name: str, batch: int, processes: int) -> None:
    images, targets = labelled(batch)
    images = images + 0.1  # so that mixing rounds
    expected = mix(name, images, targets, C, 1, 2, 3)
    made = [
        mix(name, images[rows.sources], targets[rows.sources], C, 1, 2, 3, rows=rows)
        for rows in shares(name, batch, processes)
    ]
    assert len(made) == min(batch, processes)
    for number, whole in enumerate(expected):
        assert torch.equal(torch.cat([part[number] for part in made]), whole), "to the last bit"
    assert all(part[0].stride() == expected[0].stride() for part in made)


@pytest.mark.parametrize("seed", range(10))
def test_only_images_that_are_seen_have_to_be_at_hand(seed: int) -> None:
    images, targets = labelled(20)
    for own in (range(1), range(3), range(7, 12), range(19, 20)):
        before = {(own.start - 1) % 20}
        for name in ("none", "mixup", "cutmix"):
            sources = rows_of(name, 20, own, (H, W), seed).sources.tolist()
            assert sources == sorted({*own, *(before if name != "none" else ())})
        for strength in (None, 0.01, 5.0):
            rows = rows_of("ricap", 20, own, (H, W), seed, strength=strength)
            mixed, _ = mix("ricap", images, targets, C, seed, strength=strength)
            seen = (mixed[own.start : own.stop, 0] // 10_000).long().unique()
            assert torch.equal(rows.sources, seen), "those of fields without a pixel are left out"


@pytest.mark.parametrize(("way", "usual"), [(ricap, 0.3), (mixup, 1.0), (cutmix, 1.0)])
def test_dispatcher(way: Callable[..., tuple[Tensor, Tensor]], usual: float) -> None:
    images, targets = labelled()
    for strength in (None, 0.7):
        seed = derived_seed(Stream.MIXING, 1, 2, 3)
        expected = way(images, targets, C, usual if strength is None else strength, seed=seed)
        found = mix(way.__name__, images, targets, C, 1, 2, 3, strength=strength)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
    others = [mix(way.__name__, images, targets, C, 1, 2, part)[0] for part in range(4, 8)]
    assert not any(torch.equal(other, expected[0]) for other in others)


def test_without_mixing_nothing_is_touched() -> None:
    images, targets = labelled()
    found = mix("none", images, targets, C, 0, 0, 0)
    assert found[0] is images
    assert found[1] is targets


def test_unknown_mixing() -> None:
    with pytest.raises(InputError, match="There is no mixing 'blend'; choose none, ricap, mixup or cutmix"):
        mix("blend", *labelled(), C, 0)
