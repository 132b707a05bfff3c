"""Selectivity of layers against a slow twin, on paper, and as measured inside networks."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean, median

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.selectivity import measure_selectivity
from torch import Tensor, nn

from decompose_cli.decomposition.selectivity import (
    STEM,
    LayerCounters,
    LayerSelectivity,
    SelectivityCounter,
    class_selectivity,
    layers_passed_over,
    selectable_layers,
)
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.models import imagenet
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.outputs import LayerOutput, trace_outputs
from decompose_cli.models.tracing import example_images

NAN = float("nan")


def make_maps(seed: int = 0, n: int = 40, d: int = 12, c: int = 4, side: int = 3) -> tuple[Tensor, Tensor]:
    """Random maps after a ReLU, each filter stronger for some class; all classes have images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(c), torch.randint(0, c, (n - c,), generator=generator)])
    strength = torch.rand(c, d, generator=generator) * 2
    maps = torch.randn(n, d, side, side, generator=generator) + strength[labels][:, :, None, None] - 1
    return maps.relu(), labels[torch.randperm(n, generator=generator)]


def count(
    activations: Tensor, labels: Tensor, num_classes: int, fraction: float = 0.5, batch: int = 1000
) -> LayerSelectivity:
    counter = SelectivityCounter("layer", num_classes, fraction)
    for start in range(0, len(labels), batch):
        counter.add(activations[start : start + batch], labels[start : start + batch])
    return counter.result()


# ------------------------------------------------------------------------------------------------------------- twin


def twin_filters(activations: Sequence[float], fraction: float) -> int:
    """n of one image."""
    total = math.fsum(activations)
    if total == 0:
        return 0
    descending = sorted(activations, reverse=True)
    n = 0
    while n < len(descending) and math.fsum(descending[: n + 1]) / total < fraction:
        n += 1
    return n


def twin_index(rows: Sequence[Sequence[float]], labels: Sequence[int]) -> float | None:
    """The index of Leavitt & Morcos, filter by filter."""
    present = sorted(set(labels))
    if len(present) < 2:
        return None
    found = []
    for j in range(len(rows[0])):
        means = [fmean(row[j] for row, label in zip(rows, labels, strict=True) if label == c) for c in present]
        best = max(range(len(means)), key=lambda position, means=means: means[position])
        rest = fmean(value for position, value in enumerate(means) if position != best)
        found.append((means[best] - rest) / (means[best] + rest + 1e-7))
    return fmean(found)


def check_against_twin(found: LayerSelectivity, values: Tensor, labels: Tensor, c: int, fraction: float) -> None:
    """Compare with what loops over the images make of maps (n, D, H, W) or values (n, D)."""
    exact = values.double().numpy()
    rows = [[float(np.mean(channel)) for channel in image] for image in exact]
    d = len(rows[0])
    numbers = [twin_filters(row, fraction) for row in rows]
    assert found.num_filters == d
    for number in range(c):
        mine = [n for n, label in zip(numbers, labels.tolist(), strict=True) if label == number]
        assert int(found.images[number]) == len(mine)
        silent = [row for row, label in zip(rows, labels.tolist(), strict=True) if label == number and not any(row)]
        assert int(found.silent[number]) == len(silent)
        mean, middle = (fmean(mine), median(mine)) if mine else (NAN, NAN)
        for ours, expected in (
            (found.mean_filters, mean),
            (found.median_filters, middle),
            (found.psi_mean, (d - mean) / d),
            (found.psi_median, (d - middle) / d),
        ):
            assert ours.dtype == torch.float64
            assert ours.shape == (c,)
            assert float(ours[number]) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    index = twin_index(rows, labels.tolist())
    assert found.class_selectivity == (None if index is None else pytest.approx(index, abs=1e-6))


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.77, 0.99])
@pytest.mark.parametrize("side", [1, 3, 4])
def test_maps_against_the_twin(side: int, fraction: float) -> None:
    for seed in range(3):
        maps, labels = make_maps(seed, side=side)
        check_against_twin(count(maps, labels, 4, fraction), maps, labels, 4, fraction)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_values_per_filter_against_the_twin(fraction: float) -> None:
    maps, labels = make_maps(5, n=61, d=30)
    values = maps.mean((2, 3))
    found = count(values, labels, 4, fraction)
    check_against_twin(found, values, labels, 4, fraction)
    assert torch.equal(found.mean_filters, count(maps, labels, 4, fraction).mean_filters)


def test_many_filters_against_the_twin() -> None:
    maps, labels = make_maps(6, n=30, d=512, side=2)
    check_against_twin(count(maps, labels, 4), maps, labels, 4, 0.5)


@pytest.mark.parametrize("convert", [Tensor.double, lambda maps: maps.to(memory_format=torch.channels_last)])
def test_number_type_and_memory_layout_change_nothing(convert: Callable[[Tensor], Tensor]) -> None:
    maps, labels = make_maps(7)
    check_against_twin(count(convert(maps), labels, 4), maps, labels, 4, 0.5)


def test_bfloat16_is_taken_at_its_values() -> None:
    maps, labels = make_maps(8)
    low = maps.to(torch.bfloat16)
    check_against_twin(count(low, labels, 4), low.float(), labels, 4, 0.5)


@pytest.mark.parametrize("batch", [1, 3, 7, 40])
def test_batch_size_changes_nothing(batch: int) -> None:
    maps, labels = make_maps(9)
    maps[5] = 0
    whole, parts = count(maps, labels, 5), count(maps, labels, 5, batch=batch)
    for name in ("images", "silent", "mean_filters", "median_filters", "psi_mean", "psi_median"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=0, atol=0, equal_nan=True)
    assert whole.class_selectivity is not None
    assert parts.class_selectivity == pytest.approx(whole.class_selectivity, abs=1e-12)


@pytest.mark.parametrize("shares", [(40,), (1, 39), (0, 7, 20, 13), (13, 13, 13, 1)])
def test_the_images_can_be_shared_out_in_any_way(shares: tuple[int, ...]) -> None:
    """Counters that see some of the images each, in batches of their own, come to the same bits when they are merged.

    Activations are of very different sizes, so that sums in another order would differ in their last digits.
    """
    maps, labels = make_maps(4)
    maps = maps * torch.logspace(-6, 5, 40)[:, None, None, None]
    expected = count(maps, labels, 4)
    merged = SelectivityCounter("layer", 4, 0.5)
    for start, share in zip(np.cumsum((0, *shares[:-1])).tolist(), shares, strict=True):
        own = SelectivityCounter("layer", 4, 0.5)
        for batch in torch.arange(start, start + share).split(share // 3 + 1):
            if len(batch):
                own.add(maps[batch.flip(0)], labels[batch.flip(0)])
        merged.merge(own)
    found = merged.result()
    assert found.class_selectivity == expected.class_selectivity
    for ours, theirs in (
        (found.images, expected.images),
        (found.silent, expected.silent),
        (found.mean_filters, expected.mean_filters),
        (found.median_filters, expected.median_filters),
    ):
        assert torch.equal(ours, theirs)
    sums = torch.zeros(4, 12, dtype=torch.float64)
    sums.index_add_(0, labels, maps.mean((2, 3)).double())
    assert found.class_selectivity == pytest.approx(class_selectivity(sums, found.images), rel=1e-12)


def test_networks_that_share_the_images_come_to_the_same() -> None:
    """Whether their counters are shared, or merged after they were sent from another process."""
    module, (images, labels) = CifarResNet(8, 4).eval(), make_images()
    outputs = traced(module, 16)
    names = selectable_layers(module, outputs)
    shares = [(images[rows], labels[rows]) for rows in (slice(0, 7), slice(7, 9), slice(9, 10))]
    expected = measure_selectivity(module, shares, names, outputs, 4, 0.5)
    copies = [copy.deepcopy(module) for _ in range(4)]
    first = LayerCounters(copies[0], names, outputs, 4, 0.5)
    second = LayerCounters(copies[1], names, outputs, 4, 0.5, shared=first)
    third, idle = (LayerCounters(one, names, outputs, 4, 0.5) for one in copies[2:])
    with torch.inference_mode():
        for part, share in zip((first, second, third), shares, strict=True):
            with part.watching():
                part.add(*share)
    assert not any(any(hooks(one)) for one in copies)
    for other in (third, idle):  # the last one has seen no image
        for name, counter in pickle.loads(pickle.dumps(other.by_layer)).items():
            first.by_layer[name].merge(counter)
    for name, counter in first.by_layer.items():
        found = counter.result()
        assert torch.equal(found.mean_filters, expected[name].mean_filters)
        assert torch.equal(found.silent, expected[name].silent)
        assert found.class_selectivity == expected[name].class_selectivity


def test_order_of_images_and_filters_changes_nothing() -> None:
    maps, labels = make_maps(10)
    generator = torch.Generator().manual_seed(1)
    images, filters = torch.randperm(40, generator=generator), torch.randperm(12, generator=generator)
    found, turned = count(maps, labels, 4), count(maps[images][:, filters], labels[images], 4)
    assert torch.equal(found.mean_filters, turned.mean_filters)
    assert torch.equal(found.median_filters, turned.median_filters)
    assert found.class_selectivity == pytest.approx(turned.class_selectivity, abs=1e-12)


def test_sums_are_kept_in_double_precision() -> None:
    """In float32 the many small values would vanish beside the first one."""
    values = torch.full((4097, 2), 1.0)
    values[0] = 2.0**26
    labels = torch.zeros(4097).long()
    labels[-1] = 1
    found = count(values, labels, 2, batch=1)
    assert found.class_selectivity == pytest.approx(twin_index(values.tolist(), labels.tolist()), abs=1e-12)


# --------------------------------------------------------------------------------------------------------- on paper


@pytest.mark.parametrize(
    ("fraction", "n"), [(0.4, 0), (0.5, 0), (0.51, 1), (0.75, 1), (0.76, 2), (0.875, 2), (0.9, 3), (0.999, 3)]
)
def test_number_of_filters_on_paper(fraction: float, n: int) -> None:
    """Shares 1/2, 1/4, 1/8, 1/8, so cumulative 1/2, 3/4, 7/8, 1: those that reach the fraction do not count."""
    found = count(torch.tensor([[1.0, 4.0, 1.0, 2.0]]), torch.tensor([0]), 1, fraction)
    assert (float(found.mean_filters), float(found.median_filters)) == (n, n)
    assert float(found.psi_mean) == float(found.psi_median) == (4 - n) / 4


def test_maps_are_averaged_before_shares_are_taken() -> None:
    """Filter 0 has the brightest pixel, filter 1 the largest mean; the means are 2, 3 and 1."""
    maps = torch.tensor([[[[8.0, 0.0], [0.0, 0.0]], [[3.0, 3.0], [3.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]]]])
    assert float(count(maps, torch.tensor([0]), 1, 0.5).mean_filters) == 0  # 3 / 6 is not below a half
    assert float(count(maps, torch.tensor([0]), 1, 0.51).mean_filters) == 1
    assert float(count(maps, torch.tensor([0]), 1, 0.9).mean_filters) == 2  # 5 / 6 is below 0.9


@pytest.mark.parametrize(
    ("numbers", "mean", "middle"),
    [([2], 2, 2), ([0, 3], 1.5, 1.5), ([3, 0, 3], 2, 3), ([0, 0, 1, 3], 1, 0.5), ([1, 1, 3, 3, 3, 1], 2, 2)],
)
def test_mean_and_median_on_paper(numbers: list[int], mean: float, middle: float) -> None:
    """An image with m + 1 equal filters out of four has n = m at the fraction 0.999."""
    values = torch.tensor([[1.0] * (m + 1) + [0.0] * (3 - m) for m in numbers])
    found = count(values, torch.zeros(len(numbers)).long(), 1, 0.999)
    assert (float(found.mean_filters), float(found.median_filters)) == (mean, middle)
    assert (float(found.psi_mean), float(found.psi_median)) == ((4 - mean) / 4, (4 - middle) / 4)


def test_class_selectivity_on_paper() -> None:
    """Filter 0: means 4, 1, 3, so (4 - 2) / (4 + 2); filter 1: 5, 5, 5, so 0; filter 2: 0, 6, 0, so 1."""
    values = torch.tensor([[3.0, 5.0, 0.0], [5.0, 5.0, 0.0], [1.0, 5.0, 6.0], [3.0, 5.0, 0.0]])
    found = count(values, torch.tensor([0, 0, 1, 2]), 3)
    assert found.class_selectivity == pytest.approx((2 / 6 + 0 + 1) / 3, abs=1e-7)
    assert class_selectivity(torch.tensor([[8.0], [1.0], [3.0]]), torch.tensor([2, 1, 1])) == pytest.approx(2 / 6)


def test_class_selectivity_of_a_filter_that_never_responds_is_zero() -> None:
    found = count(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]), 2)
    assert found.class_selectivity == pytest.approx(0.5, abs=1e-6)


def test_class_selectivity_has_the_published_constant() -> None:
    """With activations about as small as the 1e-7 in the denominator it shows."""
    values = torch.tensor([[3e-7], [1e-7]])
    assert count(values, torch.tensor([0, 1]), 2).class_selectivity == pytest.approx(2 / (3 + 1 + 1), rel=1e-5)


# ---------------------------------------------------------------------------------------------------- special cases


def test_images_without_any_response_are_silent_and_need_no_filters() -> None:
    maps = torch.zeros(5, 6, 2, 2)
    maps[3] = 1
    found = count(maps, torch.tensor([0, 0, 1, 1, 0]), 2, 0.6, batch=2)
    assert found.silent.tolist() == [3, 1]
    assert found.images.tolist() == [3, 2]
    assert found.mean_filters.tolist() == [0, 1.5]  # 3 of 6 equal filters stay below 0.6, and 0
    assert found.psi_mean.tolist() == [1, 0.75]
    check_against_twin(found, maps, torch.tensor([0, 0, 1, 1, 0]), 2, 0.6)


def test_one_image_per_class() -> None:
    maps, _ = make_maps(11, n=4)
    check_against_twin(count(maps, torch.arange(4), 4), maps, torch.arange(4), 4, 0.5)


def test_a_class_without_images_is_nan_and_left_out_of_the_index() -> None:
    maps, labels = make_maps(12, c=4)
    spread = torch.tensor([0, 2, 3, 5])[labels]
    found = count(maps, spread, 6)
    check_against_twin(found, maps, spread, 6, 0.5)
    assert found.images[[1, 4]].tolist() == [0, 0]
    for values in (found.mean_filters, found.median_filters, found.psi_mean, found.psi_median):
        assert values.isnan().tolist() == [False, True, False, False, True, False]
    assert found.class_selectivity == count(maps, labels, 4).class_selectivity


def test_less_than_two_classes_have_no_index() -> None:
    maps, _ = make_maps(13)
    assert count(maps, torch.full((40,), 2), 4).class_selectivity is None
    assert count(maps, torch.zeros(40).long(), 1).class_selectivity is None
    assert count(maps, torch.arange(40) % 2, 4).class_selectivity is not None


def test_a_single_filter() -> None:
    found = count(torch.tensor([[2.0], [0.0], [6.0]]), torch.tensor([0, 0, 1]), 2)
    assert (found.num_filters, found.mean_filters.tolist(), found.psi_mean.tolist()) == (1, [0, 0], [1, 1])
    assert found.class_selectivity == pytest.approx(5 / 7, abs=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 2)])
def test_negative_outputs_are_refused_by_name(shape: tuple[int, ...]) -> None:
    """Even where the mean over the map is positive."""
    values = torch.ones(shape)
    values.view(-1)[5] = -0.25
    counter = SelectivityCounter("layer1.0.bn2", 2, 0.5)
    with pytest.raises(InputError) as caught:
        counter.add(values, torch.tensor([0, 1, 0]))
    assert caught.value.message == ("The layer 'layer1.0.bn2' has negative outputs (-0.25), which have no shares.")
    assert caught.value.hint is not None
    assert "with layers" in caught.value.hint


def test_negative_zero_is_no_negative_output() -> None:
    values = torch.tensor([[-0.0, 1.0]])
    assert float(count(values, torch.tensor([0]), 1).mean_filters) == 0


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 2)])
def test_values_that_are_no_numbers_are_refused(shape: tuple[int, ...], value: float) -> None:
    values = torch.ones(shape)
    values.view(-1)[5] = value
    with pytest.raises(DecomposeError) as caught:
        SelectivityCounter("relu", 2, 0.5).add(values, torch.tensor([0, 1, 0]))
    assert caught.value.message == "The layer 'relu' yields NaN or infinity."
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 6), (3, 4, 5, 6, 7)])
def test_maps_whose_filters_cannot_be_told_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        SelectivityCounter("encoder", 2, 0.5).add(torch.ones(shape), torch.tensor([0, 1, 0]), None)
    assert caught.value.message == (
        f"The layer 'encoder' yields values of shape {shape[1:]}, and it cannot be told which axis counts filters."
    )


@pytest.mark.parametrize("shape", [(3,), (12, 4), (12, 4, 2, 2)])
def test_what_is_no_row_per_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        SelectivityCounter("windows", 2, 0.5).add(torch.ones(shape), torch.tensor([0, 1, 0]))
    assert caught.value.message == (
        f"The layer 'windows' yields values of shape {shape} for 3 images, not a row for each."
    )


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_filters_are_counted_along_the_axis_that_has_them(axis: int) -> None:
    maps, labels = make_maps(15)
    counter = SelectivityCounter("layer", 4, 0.5)
    counter.add(maps.movedim(1, axis), labels, axis)
    check_against_twin(counter.result(), maps, labels, 4, 0.5)


def test_what_is_given_is_left_as_it_was() -> None:
    maps, labels = make_maps(14)
    before = maps.clone(), labels.clone()
    count(maps, labels, 4)
    assert torch.equal(maps, before[0])
    assert torch.equal(labels, before[1])


def held(counter: SelectivityCounter) -> int:
    """Bytes of all tensors that a counter keeps alive, shared memory counted in full."""
    parts = [part for name, part in vars(counter).items() if name != "_lock"]
    assert all(isinstance(part, Tensor | str | int | float) for part in parts)
    return sum(part.untyped_storage().nbytes() for part in parts if isinstance(part, Tensor))


@pytest.mark.parametrize("flat", [False, True])
def test_memory_does_not_grow_with_the_number_of_images(flat: bool) -> None:
    counter = SelectivityCounter("layer", 4, 0.5)
    sizes = []
    for seed in range(30):
        maps, labels = make_maps(seed)
        counter.add(maps.mean((2, 3)) if flat else maps, labels)
        sizes.append(held(counter))
    assert set(sizes) == {8 * (2 * 4 * 12 + 4 * 13 + 4)}
    assert int(counter.result().images.sum()) == 30 * 40


# ------------------------------------------------------------------------------------------------- choice of layers


def traced(module: nn.Module, side: int = 32) -> list[LayerOutput]:
    return trace_outputs(module, example_images((side, side), model=module))


def torchvision(name: str) -> nn.Module:
    return imagenet.build(name, 10).eval()


def units(stages: Iterable[int]) -> list[str]:
    return [f"layer{stage}.{unit}" for stage, length in enumerate(stages, 1) for unit in range(length)]


def test_layers_of_a_cifar_resnet_are_stem_and_units() -> None:
    network = CifarResNet(20)
    assert selectable_layers(network, traced(network)) == [STEM, *units((3, 3, 3))]


@pytest.mark.parametrize(("name", "stages"), [("resnet18", (2, 2, 2, 2)), ("resnet50", (3, 4, 6, 3))])
def test_the_stem_of_a_torchvision_resnet_is_its_relu(name: str, stages: tuple[int, ...]) -> None:
    network = torchvision(name)
    assert selectable_layers(network, traced(network)) == ["relu", *units(stages)]


def test_layers_of_a_network_without_units_are_its_relus() -> None:
    network = torchvision("vgg11")
    features = [f"features.{number}" for number in (1, 4, 7, 9, 12, 14, 17, 19)]
    assert selectable_layers(network, traced(network)) == [*features, "classifier.1", "classifier.4"]


class SharedRelu(nn.Module):
    """Uses one ReLU module twice and another once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.conv2 = nn.Conv2d(6, 6, 3)
        self.relu = nn.ReLU()
        self.once = nn.ReLU()
        self.unused = nn.ReLU()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv2(self.relu(self.conv1(x))))
        return self.linear(self.once(x.mean((2, 3)) - 0.1))


def test_each_use_of_a_relu_is_a_layer_and_one_that_is_not_used_is_none() -> None:
    torch.manual_seed(0)
    network = SharedRelu().eval()
    outputs = traced(network, 8)
    assert selectable_layers(network, outputs) == ["relu#1", "relu#2", "once"]
    images, labels = make_images(side=8)
    with torch.no_grad():
        first = F.relu(network.conv1(images))
        second = F.relu(network.conv2(first))
    for names in (["relu"], ["relu#2", "relu#1"]):
        found = measure_selectivity(network, batched(images, labels), names, outputs, 4, 0.5)
        assert sorted(found) == ["relu#1", "relu#2"]
        check_against_twin(found["relu#1"], first, labels, 4, 0.5)
        check_against_twin(found["relu#2"], second, labels, 4, 0.5)


class Mixer(nn.Module):
    """A composite unit on tokens (n, D), not maps."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.linear(x))


def test_units_that_yield_no_maps_are_not_chosen() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Mixer(), nn.Linear(6, 3)).eval()
    assert selectable_layers(network, traced(network, 8)) == ["3.relu"]


class Outer(nn.Module):
    """A unit that holds a Sequential with a unit of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Inner())
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.inner(x))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_only_the_outermost_units_are_chosen() -> None:
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), Outer(), Outer())
    network = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()
    assert selectable_layers(network, traced(network, 8)) == ["0.1", "0.2", "0.3"]


class Beside(nn.Module):
    """Two ReLUs and a composite part outside any Sequential, then a unit."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.first = nn.ReLU()
        self.second = nn.ReLU()
        self.beside = Inner()
        self.body = nn.Sequential(Outer())
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.conv(x)) - 0.1)
        return self.linear(self.body(x + self.beside(x)).mean((2, 3)))


def test_units_stand_in_a_sequential_and_the_stem_is_the_last_relu_before_them() -> None:
    network = Beside().eval()
    assert selectable_layers(network, traced(network, 8)) == ["second", "body.0"]


# -------------------------------------------------------------------------------------------- measured in a network


def make_images(n: int = 10, side: int = 16, c: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 3, side, side, generator=generator), torch.arange(n) % c


def batched(images: Tensor, labels: Tensor, size: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(labels), size):
        yield images[start : start + size], labels[start : start + size]


def hooks(module: nn.Module) -> list[int]:
    return [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]


def test_a_network_is_measured_as_its_layers_one_by_one() -> None:
    torch.manual_seed(0)
    network = CifarResNet(8, 4).eval()
    images, labels = make_images()
    names = [STEM, *units((1, 1, 1))]
    found = measure_selectivity(network, batched(images, labels), names, traced(network), 4, 0.5)
    assert list(found) == names
    with torch.no_grad():
        maps = F.relu(network.bn1(network.conv1(images)))
        check_against_twin(found[STEM], maps, labels, 4, 0.5)
        for name in names[1:]:
            maps = network.get_submodule(name)(maps)
            check_against_twin(found[name], maps, labels, 4, 0.5)
    assert len({tuple(layer.mean_filters.tolist()) for layer in found.values()}) == 4
    assert set(hooks(network)) == {0}


def test_a_torchvision_resnet_is_measured_as_its_layers_one_by_one() -> None:
    """Its ReLUs work in place."""
    torch.manual_seed(0)
    network = imagenet.build("resnet18", 4).eval()
    images, labels = make_images(5, 32)
    names = ["relu", "layer1.0", "layer2.1"]
    found = measure_selectivity(network, batched(images, labels), names, traced(network), 4, 0.5)
    with torch.no_grad():
        stem = F.relu(network.bn1(network.conv1(images)))
        first = network.layer1[0](network.maxpool(stem))
        last = network.layer2(network.layer1[1](first.clone()))
        for name, maps in zip(names, (stem, first, last), strict=True):
            check_against_twin(found[name], maps, labels, 4, 0.5)


def test_the_batches_change_nothing() -> None:
    torch.manual_seed(0)
    network = CifarResNet(8, 4).eval()
    images, labels = make_images()
    calls = traced(network)
    whole, single = (
        measure_selectivity(network, batched(images, labels, size), [STEM, "layer3.0"], calls, 4, 0.5)
        for size in (10, 1)
    )
    for name in whole:
        assert torch.equal(whole[name].mean_filters, single[name].mean_filters)
        assert whole[name].class_selectivity == pytest.approx(single[name].class_selectivity, abs=1e-6)


class Overwriting(nn.Module):
    """What the layers yield is overwritten by later ones; ``flat`` yields (n, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.relu(self.conv(x))
        pooled = self.pool(maps)
        maps.mul_(torch.arange(6.0).view(6, 1, 1) - 3)
        flat = self.flat(pooled.clone())
        values = flat * 1
        flat.fill_(-1)
        return self.linear(values)


def test_layers_that_work_in_place_do_not_change_what_was_measured() -> None:
    torch.manual_seed(0)
    network = Overwriting().eval()
    images, labels = make_images()
    found = measure_selectivity(network, batched(images, labels), ["relu", "flat"], traced(network), 4, 0.5)
    with torch.no_grad():
        maps = F.relu(network.conv(images))
    check_against_twin(found["relu"], maps, labels, 4, 0.5)
    check_against_twin(found["flat"], maps.mean((2, 3)), labels, 4, 0.5)


def test_what_the_network_says_is_not_changed() -> None:
    torch.manual_seed(0)
    network = CifarResNet(8, 4).eval()
    images, labels = make_images()
    seen: list[Tensor] = []
    handle = network.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    measure_selectivity(network, batched(images, labels, 10), [STEM, "layer1.0"], traced(network), 4, 0.5)
    handle.remove()
    with torch.no_grad():
        torch.testing.assert_close(seen[-1], network(images))
    assert not torch.is_inference_mode_enabled()


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(x, dim=(1, 2, 3)).abs()


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(x, x)


class Refused(nn.Module):
    """A ReLU that is never used, and layers whose outputs cannot be measured."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fine = nn.ReLU()
        self.unused = nn.ReLU()
        self.pieces = nn.Flatten(0, 2)
        self.spectrum, self.complex = Spectrum(), Complex()
        self.backwards, self.sums = nn.Identity(), nn.ReLU()
        self.pool = nn.AdaptiveMaxPool2d(1, return_indices=True)
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fine(self.conv(x))
        self.pieces(x.permute(0, 2, 3, 1))
        self.spectrum(x)
        self.complex(x)
        self.sums(self.backwards(x.flip(0)).mean((2, 3)) - 0.1)
        return self.linear(self.pool(x)[0].flatten(1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layer9", "There is no layer 'layer9' in this network."),
        ("", "There is no layer '' in this network."),
        ("unused", "There is no layer 'unused' in this network."),
        (STEM, "There is no layer 'stem' in this network."),
        ("fine#2", "There is no layer 'fine#2' in this network."),
        ("pool", "The layer 'pool' yields a tuple, not a tensor."),
        ("pieces", "The layer 'pieces' yields values of shape (144, 6) for 4 images, not a row for each."),
        ("spectrum", "The layer 'spectrum' yields values of shape (6, 6, 6), and it cannot be told which axis counts"),
        ("backwards", "The layer 'backwards' cannot be measured: its images are in another order after the operation "),
        ("sums", "The layer 'sums' cannot be measured: its images are in another order after the operation flip."),
        ("complex", "The layer 'complex' yields complex numbers, which have no shares."),
        ("conv", "The layer 'conv' has negative outputs (-"),
    ],
)
def test_layers_that_cannot_be_measured_are_refused_and_no_hook_stays(name: str, message: str) -> None:
    torch.manual_seed(0)
    network = Refused().eval()
    calls = traced(network, 8)
    images, labels = make_images(side=8)
    with pytest.raises(InputError) as caught:
        measure_selectivity(network, batched(images, labels), ["fine", name, "linear"], calls, 4, 0.5)
    assert caught.value.message.startswith(message)
    assert set(hooks(network)) == {0}
    found = measure_selectivity(network, batched(images, labels), ["fine"], calls, 4, 0.5)
    assert int(found["fine"].images.sum()) == 10


def test_layers_whose_images_are_in_another_order_are_passed_over() -> None:
    torch.manual_seed(0)
    network = Refused().eval()
    calls = traced(network, 8)
    assert selectable_layers(network, calls) == ["fine"]
    assert [use.name for use in layers_passed_over(network, calls)] == ["sums"]


def test_no_hook_stays_after_a_network_or_its_images_fail() -> None:
    torch.manual_seed(0)
    network = CifarResNet(8, 4).eval()
    calls = traced(network)
    images, labels = make_images()
    images[9] = NAN
    with pytest.raises(DecomposeError, match="'stem' yields NaN or infinity"):
        measure_selectivity(network, batched(images, labels), [STEM, "layer1.0"], calls, 4, 0.5)
    assert set(hooks(network)) == {0}
    with pytest.raises(RuntimeError):
        measure_selectivity(network, [(images[:, :1], labels)], [STEM, "layer1.0"], calls, 4, 0.5)
    assert set(hooks(network)) == {0}
    assert not torch.is_inference_mode_enabled()


def test_stem_is_no_name_where_the_stem_is_a_module() -> None:
    network = torchvision("resnet18")
    with pytest.raises(InputError, match="There is no layer 'stem'"):
        measure_selectivity(network, [], [STEM], traced(network), 10, 0.5)


def test_a_layer_that_is_called_stem_is_that_layer() -> None:
    torch.manual_seed(0)
    parts = {"stem": nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), "body": nn.Sequential(Outer())}
    network = nn.Sequential()
    for name, part in parts.items():
        network.add_module(name, part)
    network.add_module("end", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)))
    network.eval()
    images, labels = make_images(side=8)
    calls = traced(network, 8)
    assert selectable_layers(network, calls) == ["stem.1", "body.0"]
    found = measure_selectivity(network, batched(images, labels), ["stem"], calls, 4, 0.5)
    with torch.no_grad():
        check_against_twin(found["stem"], parts["stem"](images), labels, 4, 0.5)


class Named(nn.Module):
    """Has a submodule called stem, which yields negative values: its ReLU is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.linear = nn.Conv2d(3, 6, 3), nn.Sequential(Outer()), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.body(self.stem(x).relu()).mean((2, 3)))


def test_chosen_layers_can_be_measured_where_a_module_is_called_stem() -> None:
    torch.manual_seed(0)
    network = Named().eval()
    calls = traced(network, 8)
    images, labels = make_images(side=8)
    names = selectable_layers(network, calls)
    assert names == ["stem output", "body.0"]
    found = measure_selectivity(network, batched(images, labels), names, calls, 4, 0.5)
    with torch.no_grad():
        check_against_twin(found["stem output"], network.stem(images).relu(), labels, 4, 0.5)


class Late(nn.Module):
    """Registers its units in another order than it runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.late, self.early = nn.Sequential(Outer()), nn.Sequential(Outer())
        self.conv, self.linear = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.late(self.early(self.conv(x).relu())).mean((2, 3)))


def test_units_are_in_the_order_in_which_they_run() -> None:
    network = Late().eval()
    assert selectable_layers(network, traced(network, 8)) == [STEM, "early.0", "late.0"]


def test_a_layer_named_twice_is_measured_once() -> None:
    torch.manual_seed(0)
    network = Late().eval()
    images, labels = make_images(side=8)
    found = measure_selectivity(network, batched(images, labels), [STEM, STEM], traced(network, 8), 4, 0.5)
    assert int(found[STEM].images.sum()) == len(labels)
