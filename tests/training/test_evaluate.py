"""Measuring between epochs: right, and without a trace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.no_values import META
from torch import Tensor, nn

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.preprocessing import CIFAR
from decompose_cli.training import evaluate as evaluation
from decompose_cli.training.evaluate import LabelledImages, batches_on, evaluate, score_of, score_over_processes
from decompose_cli.training.objective import Objective

CPU = torch.device("cpu")


def images_of(count: int, classes: int) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    data = InMemoryImages("toy", "test", [f"c{n}" for n in range(classes)], CIFAR, lambda: (pixels, labels), "stamp")
    return LabelledImages("test", data, labels, CIFAR)


def network(classes: int) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, classes)
    )


@pytest.mark.parametrize("classes", [3, 12])
def test_scores_are_those_of_a_loop_over_images(classes: int) -> None:
    module, images = network(classes), images_of(23, classes)
    score = score_of(evaluate(module, images, num_classes=classes, device=CPU), "test")
    reference = network(classes).double().eval()
    pixels = images.dataset.in_memory()
    assert pixels is not None
    mean, std = (torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in (CIFAR.mean, CIFAR.std))
    correct, top5, loss = 0, 0, 0.0
    for image, label in zip(pixels, images.labels, strict=True):
        logits = reference(((image.double() / 255 - mean) / std)[None])[0].detach()
        ranked = sorted(range(classes), key=lambda number: -float(logits[number]))
        correct += ranked[0] == int(label)
        top5 += int(label) in ranked[:5]
        loss -= float(F.log_softmax(logits, 0)[label])
    assert (score.split, score.images, score.correct) == ("test", 23, correct)
    assert score.top1 == pytest.approx(100 * correct / 23)
    assert score.top5 == (pytest.approx(100 * top5 / 23) if classes > 10 else None)
    assert score.loss == pytest.approx(loss / 23, rel=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was_found(fails: bool) -> None:
    module, images = network(3), images_of(5, 3)
    module.train()
    module[1].eval()
    module[0].weight.requires_grad_(False)
    assert isinstance(module[4], nn.Linear)
    module[4].weight.grad = torch.ones_like(module[4].weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    if fails:

        def broken(_: nn.Module, __: object) -> None:
            raise ValueError("broken")

        handle = module[3].register_forward_pre_hook(broken)
        with pytest.raises(ValueError, match="broken"):
            evaluate(module, images, num_classes=3, device=CPU)
        handle.remove()
    else:
        evaluate(module, images, num_classes=3, device=CPU)
    assert [part.training for part in module.modules()] == [True, True, False, True, True, True]
    assert [parameter.requires_grad for parameter in module.parameters()] == [False, True, True, True, True, True]
    assert torch.equal(module[4].weight.grad, torch.ones_like(module[4].weight))
    assert module[4].bias.grad is None
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module._forward_hooks


def test_scores_do_not_depend_on_autocast_around_them() -> None:
    module, images = network(3), images_of(9, 3)
    plain = score_of(evaluate(module, images, num_classes=3, device=CPU), "test")
    assert math.isfinite(plain.loss)
    kinds: list[torch.dtype] = []

    def note(_: nn.Module, __: object, output: Tensor) -> None:
        kinds.append(output.dtype)

    handle = module.register_forward_hook(note)
    assert score_of(evaluate(module, images, num_classes=3, device=CPU), "test") == plain
    handle.remove()
    assert kinds == [torch.float32]


def test_a_device_gets_as_many_images_at_a_time_as_it_is_trained_with() -> None:
    images = images_of(23, 3)
    on_device = list(batches_on(META, images, 5, workers=0))
    assert [len(batch) for batch in on_device] == [5, 5, 5, 5, 3]
    assert all(batch.device == META and batch.is_contiguous(memory_format=torch.channels_last) for batch in on_device)
    assert [len(batch) for batch in batches_on(CPU, images, 5, workers=0)] == [23], "a CPU takes what suits its caches"


@pytest.mark.parametrize(("processes", "batch_size", "share"), [(1, 9, 9), (2, 9, 5), (4, 2, 1)])
def test_a_process_measures_as_many_at_a_time_as_are_its_share_of_a_batch(
    monkeypatch: pytest.MonkeyPatch, processes: int, batch_size: int, share: int
) -> None:
    asked: list[int] = []

    def spied(device: torch.device, images: LabelledImages, size: int, workers: int) -> Iterator[Tensor]:
        asked.append(size)
        return batches_on(device, images, size, workers)

    monkeypatch.setattr(evaluation, "batches_on", spied)
    monkeypatch.setattr(evaluation, "sum_over_processes", lambda _, values: values)
    fabric: Any = SimpleNamespace(world_size=processes, global_rank=0, device=CPU)
    images = images_of(23, 3)
    how: dict[str, Any] = {"batch_size": batch_size, "objective": Objective()}
    score = score_over_processes(fabric, network(3), images, 3, 0, **how)
    assert score.images == math.ceil(23 / processes)
    assert asked == [share]
