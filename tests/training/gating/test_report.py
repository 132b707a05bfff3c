"""What is told of gates: tables, contrasts, skipping."""

from __future__ import annotations

import csv
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.datasets.label_noise import randomise_labels
from decompose_cli.datasets.sampling import hold_out
from decompose_cli.errors import InputError
from decompose_cli.models.gate_kinds import GATES
from decompose_cli.models.registry import get_entry
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.statistics import mean_difference_interval
from decompose_cli.training.data import TrainingData, divide
from decompose_cli.training.evaluate import LabelledImages
from decompose_cli.training.gating.report import (
    GateReadings,
    check_skipping,
    contrast,
    gates_csv,
    read_gates,
    skip,
    splits_of,
    study,
    summarise,
)

CLASSES, SIDE = 3, 8
SEEN = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), SIDE, (SIDE, SIDE))
CPU = torch.device("cpu")


def network(gate: str) -> Any:
    torch.manual_seed(4)
    module = get_entry("resnet14").configured(gate=gate).make(CLASSES, (SIDE, SIDE)).eval()
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.mul_(0.5)
    return module


def dataset(split: str = "train", count: int = 20) -> InMemoryImages:
    generator = torch.Generator().manual_seed(len(split))
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return InMemoryImages("toy", split, list("abc"), SEEN, lambda: (pixels, torch.arange(count) % CLASSES), split)


def all_of(data: InMemoryImages) -> LabelledImages:
    return LabelledImages(data.split, data, data.labels, SEEN)


def normalised(data: InMemoryImages) -> Tensor:
    return (data.in_memory() / 255 - 0.5) / 0.25


def divided(val_split: float = 0.25) -> TrainingData:
    train, test = dataset(), dataset("test", 9)
    return divide(train, train.labels, all_of(test), ("a", "b", "c"), SEEN, val_split=val_split, seed=2)


@pytest.mark.parametrize("gate", GATES)
def test_a_line_for_each_image_with_what_its_gates_say(gate: str) -> None:
    module, data = network(gate), dataset("test", 9)
    readings = read_gates(module, all_of(data), torch.arange(100, 109), device=CPU)
    rows = list(csv.DictReader(gates_csv([readings], gate).splitlines()))
    assert [row["image"] for row in rows] == [str(number) for number in range(100, 109)]
    assert {row["split"] for row in rows} == {"test"}
    with torch.no_grad():
        singles = [module.read(image[None]) for image in normalised(data)]
    assert [int(row["label"]) for row in rows] == data.labels.tolist()
    assert [int(row["prediction"]) for row in rows] == [int(found.logits.argmax()) for found in singles]
    ends = ["_b2", "_b3"] if gate.endswith("b3b2") else [""]
    for row, found in zip(rows, singles, strict=True):
        values = [float(reading.g.mean()) for reading in found.readings]
        if GATES[gate].level == "layer":
            assert [float(row[f"g_{unit + 1}"]) for unit in range(6)] == pytest.approx(values, rel=1e-4)
            assert float(row["g"]) == pytest.approx(sum(values) / 6, rel=1e-4)
            assert row["entropy"] == ""
        else:
            assert [float(row[f"g{end}"]) for end in ends] == pytest.approx(values, rel=1e-4)
            entropies = [r.entropy for r in found.readings]
            shown = [row[f"entropy{end}"] for end in ends]
            if entropies[0] is None:
                assert shown == [""]
            else:
                assert [float(text) for text in shown] == pytest.approx([float(e) for e in entropies], rel=1e-4)


def test_splits_are_all_images_by_their_numbers() -> None:
    data = divided()
    (train, numbers), (val, held), (test, tested) = splits_of(data)
    kept, out = hold_out(data.labels, 0.25, 2)
    assert (numbers.tolist(), held.tolist(), tested.tolist()) == (kept.tolist(), out.tolist(), list(range(9)))
    assert (train.split, val.split, test.split) == ("train", "held-out", "test")
    pixels = data.train.in_memory()
    assert pixels is not None
    for images, found in ((train, numbers), (val, held)):
        inner = images.dataset.in_memory()
        assert inner is not None
        assert torch.equal(inner, pixels[found])
        assert torch.equal(images.labels, data.labels[found])
    ((whole, numbers), _) = splits_of(divided(0.0))
    assert whole.dataset is not None
    assert numbers.tolist() == list(range(20))


def test_changed_labels_count_as_right_and_the_originals_are_beside_them() -> None:
    data = divided()
    before = data.labels
    labels, changed = randomise_labels(before, data.indices, 0.4, CLASSES, seed=1)
    noisy = TrainingData(**{**vars(data), "labels": labels})
    module = network("l2")
    report, found = study(module, splits_of(noisy), changed=changed, original_labels=before, device=CPU, workers=0)
    rows = list(csv.DictReader(gates_csv(found, "l2", before).splitlines()))
    train = [row for row in rows if row["split"] == "train"]
    assert {int(row["image"]) for row in train if row["label"] != row["original_label"]} == set(changed.tolist())
    assert all(row["label"] == row["original_label"] for row in rows if row["split"] != "train")
    assert report.splits[0].correct == sum(row["label"] == row["prediction"] for row in train)
    by_hand = {
        wrong: [float(row["g"]) for row in train if (row["label"] != row["original_label"]) is wrong]
        for wrong in (True, False)
    }
    noise = report.label_noise
    assert noise is not None
    assert (noise.first.images, noise.second.images) == (len(changed), len(data.indices) - len(changed))
    expected = stats.ttest_ind(by_hand[True], by_hand[False], equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert noise.ci95 == pytest.approx((interval.low, interval.high), abs=1e-5)
    assert noise.difference == pytest.approx(sum(interval) / 2, abs=1e-5)
    of_changed = [row for row in train if row["label"] != row["original_label"]]
    assert noise.given == sum(row["prediction"] == row["label"] for row in of_changed)
    assert noise.original == sum(row["prediction"] == row["original_label"] for row in of_changed)
    assert noise.correct == sum(row["prediction"] == row["original_label"] for row in train)


def test_welchs_interval_is_scipys() -> None:
    generator = torch.Generator().manual_seed(0)
    first = (torch.randn(13, generator=generator) * 3 + 1).tolist()
    second = torch.randn(40, generator=generator).tolist()
    difference, interval = mean_difference_interval(first, second, 0.9)
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.9)
    assert interval == pytest.approx((expected.low, expected.high))
    assert difference == pytest.approx((expected.low + expected.high) / 2)
    assert mean_difference_interval([1.0], [2.0, 3.0]) == (-1.5, None)
    assert mean_difference_interval([1.0, 1.0], [0.5, 0.5]) == (0.5, (0.5, 0.5))


def test_contrasts_need_both_groups() -> None:
    g = torch.tensor([0.1, 0.2, 0.9])
    assert contrast(g, torch.tensor([True, True, True])) is None
    assert contrast(g, torch.tensor([False, False, False])) is None
    found = contrast(g, torch.tensor([False, False, True]))
    assert found is not None
    assert (found.first.images, found.first.ci95, found.ci95) == (1, None, None)
    assert found.difference == pytest.approx(0.75)


def test_right_and_wrong_are_told_apart() -> None:
    data = dataset("test", 6)
    images = all_of(data)
    g = torch.tensor([[0.1], [0.2], [0.3], [0.4], [0.5], [0.6]])
    predictions = images.labels.clone()
    predictions[4:] = (predictions[4:] + 1) % CLASSES
    split = summarise(GateReadings(images, torch.arange(6), predictions, g, None))
    assert (split.correct, split.images, split.top1) == (4, 6, pytest.approx(200 / 3))
    assert split.right_and_wrong is not None
    assert split.right_and_wrong.first.g == pytest.approx(0.25)
    assert split.right_and_wrong.second.g == pytest.approx(0.55)
    assert split.by_gate == []
    assert split.range == pytest.approx((0.1, 0.6))


@pytest.mark.parametrize("gate", ["entropy-classifier", "entropy-classifier-b3b2", "softmax"])
def test_skipping_counts_images_and_answers(gate: str) -> None:
    module, data = network(gate), dataset("test", 30)
    readings = read_gates(module, all_of(data), torch.arange(30), device=CPU)
    below = float(readings.g.flatten().sort().values[readings.g.numel() // 2 :][:2].mean())
    found = skip(module, all_of(data), below, device=CPU)
    with torch.no_grad():
        read = [module.read(image[None], below) for image in normalised(data)]
        logits = torch.cat([single.logits for single in read])
        closed = [sum(float(single.readings[n].g) < below for single in read) / 30 for n in range(readings.g.shape[1])]
        full = module(normalised(data)).argmax(1)
    assert found.skipped == pytest.approx(closed)
    assert found.correct == int((logits.argmax(1) == data.labels).sum())
    assert found.full_correct == int((full == data.labels).sum())
    assert (found.images, found.split, found.below) == (30, "test", below)
    saves = GATES[gate].reads_first
    assert (found.images_per_second is not None) is saves
    assert (found.full_images_per_second is not None) is saves
    assert not module.training


@pytest.mark.parametrize("gate", ["exclusive", "exclusive-tube-3x3"])
def test_gates_in_units_cannot_be_skipped(gate: str) -> None:
    with pytest.raises(InputError, match=f"skip_below leaves out .*, but gate {gate} closes only parts of"):
        check_skipping(gate, 0.5)
    check_skipping(gate, None)


@pytest.mark.parametrize("below", [0.0, -0.5, 1.01, float("nan")])
def test_thresholds_where_no_g_is(below: float) -> None:
    with pytest.raises(InputError, match=f"skip_below {below:g} is not above 0 and up to 1"):
        check_skipping("l2", below)
