"""The batches of a step, made by one process or by several, and what a step has to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.no_values import META, Transfers
from torch import Tensor

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.training.batches import StepBatches
from decompose_cli.training.data import TrainingData
from decompose_cli.training.settings import make_settings

COUNT, CLASSES, SIDE = 31, 3, 6
SEEN = Preprocessing((0.4, 0.5, 0.6), (0.3, 0.2, 0.1), SIDE, (SIDE, SIDE))
Step = list[tuple[Tensor, Tensor, float]]


def batches_of(rank: int = 0, processes: int = 1, device: torch.device | None = None, **values: Any) -> StepBatches:
    pixels = torch.randint(
        0, 256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    labels = torch.arange(COUNT) % CLASSES
    images = InMemoryImages("toy", "train", list("abc"), SEEN, lambda: (pixels, labels), "stamp")
    data = TrainingData(images, labels, torch.arange(COUNT), None, None, class_names=tuple("abc"), preprocessing=SEEN)
    fabric: Any = SimpleNamespace(global_rank=rank, world_size=processes, device=device or torch.device("cpu"))
    return StepBatches(fabric, data, make_settings({"epochs": 2, "batch_size": 5, **values}))


CASES = [{}, {"accumulate": 2}, {"augment": "affine"}, {"augment": "crop-flip", "cutout": 2}]


@pytest.mark.parametrize("mix", ["none", "ricap", "mixup", "cutmix"])
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("more", CASES, ids=str)
def test_processes_see_together_what_one_sees(mix: str, processes: int, more: dict[str, Any]) -> None:
    """31 images in batches of 5: shares of 2 and 3 or of 2, 2 and 1, and in the last batch, of one image, of none."""
    values = {"mix": mix, **more}
    steps = 31 // (5 * more.get("accumulate", 1)) + 1
    alone: list[Step] = list(batches_of(**values).steps(1, 0, steps))
    shared = [list(batches_of(rank, processes, **values).steps(1, 0, steps)) for rank in range(processes)]
    for number, whole in enumerate(alone):
        group = sum(len(images) for images, _, _ in whole)
        for part, (images, targets, weight) in enumerate(whole):
            assert weight == pytest.approx(1 / group)
            mine = [steps_of_rank[number][part] for steps_of_rank in shared]
            counted = [batch for batch in mine if batch[2]]
            assert all(batch[2] == pytest.approx(processes / group) for batch in counted)
            assert all(len(batch[0]) == 1 for batch in mine if not batch[2]), "it takes part with an image for nothing"
            assert torch.equal(torch.cat([batch[0] for batch in counted]), images)
            assert torch.equal(torch.cat([batch[1] for batch in counted]), targets)
    assert sum(len(images) for step in alone for images, _, _ in step) == 31
    assert any(not weight for steps_of_rank in shared for step in steps_of_rank for _, _, weight in step)


@pytest.mark.parametrize(("mix", "more"), [("none", 0), ("mixup", 1), ("cutmix", 1)])
def test_a_process_reads_its_own_images_and_at_most_one_more(mix: str, more: int) -> None:
    for rank in range(3):
        batches = batches_of(rank, 3, mix=mix, batch_size=9)
        read: list[int] = []
        inner = batches.images.batches

        def spied(epoch: int, parts: Sequence[Tensor], read: list[int] = read, inner: Any = inner) -> Any:
            read.extend(len(part) for part in parts)
            return inner(epoch, parts)

        batches.images.batches = spied  # type: ignore[method-assign]
        assert [len(images) for ((images, _, _),) in batches.steps(0, 0, 3)] == [3, 3, 3]
        assert read == [3 + more] * 3


def test_there_may_be_no_step_left() -> None:
    assert list(batches_of().steps(0, 7, 7)) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_labels_and_pixels_in_memory_are_on_the_device_before_the_first_step(processes: int) -> None:
    counts = []
    for steps in (1, 6):
        batches = batches_of(0, processes, device=META)
        with Transfers() as seen:
            made = list(batches.steps(0, 0, steps))
        assert all(images.device == targets.device == META for ((images, targets, _),) in made)
        counts.append(seen.count)
    assert counts[0] == counts[1] > 0
