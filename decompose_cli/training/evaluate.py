"""Measuring a network between epochs: always in float32, evaluation mode, every image once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.sampling import share
from decompose_cli.decomposition.metrics import MIN_CLASSES_FOR_TOP5, Evaluation, evaluate_head
from decompose_cli.features.extraction import device_memory, normalised_batches
from decompose_cli.models.inference import copies_of
from decompose_cli.models.tracing import evaluating
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.processes.team import sum_over_processes
from decompose_cli.processes.threads import WorkerThreads
from decompose_cli.training.objective import Objective
from decompose_cli.training.records import GateScore, Score

BATCH = 256
"""Images that are read at a time where nothing else is said, and always for a CPU."""


@dataclass(frozen=True)
class LabelledImages:
    """Images with the network's class numbers.

    Attributes:
        split: Name of the images: ``train``, ``val``, ``test``.
        dataset: N images.
        labels: Class numbers, int64 (N,).
        preprocessing: The preprocessing of evaluation.
    """

    split: str
    dataset: ImageDataset
    labels: Tensor
    preprocessing: Preprocessing


def evaluate(
    module: nn.Module,
    images: LabelledImages,
    *,
    num_classes: int,
    device: torch.device,
    batch_size: int = BATCH,
    workers: int = 0,
) -> Evaluation:
    """Compute the logits of every image, in the order of the data set, and evaluate them.

    Args:
        module: The network, on the device; left as it was.
        images: At least one image.
        num_classes: Number of classes.
        device: The device of the network.
        batch_size: Images at a time; a CPU takes as many as suit its caches instead.
        workers: Processes that decode images.
    """
    how: dict[str, Any] = {"num_classes": num_classes, "device": device, "batch_size": batch_size, "workers": workers}
    return measure(module, images, Objective(), **how)[0]


def measure(
    module: nn.Module,
    images: LabelledImages,
    objective: Objective,
    *,
    num_classes: int,
    device: torch.device,
    batch_size: int = BATCH,
    workers: int = 0,
) -> tuple[Evaluation, Tensor]:
    """Do as :func:`evaluate` does, and sum what the objective counts over the images: float64 (counted,)."""
    logits: list[Tensor] = []
    counts = torch.zeros(objective.counted, dtype=torch.float64)

    def read(network: nn.Module, batch: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():  # which is each thread's own
            output = objective.read(network, batch)
            counted = objective.counts(output, classes.to(device)).cpu().double()
            return objective.logits(output).float().cpu().flatten(1), counted

    with evaluating(module), device_memory(device):
        networks = copies_of(module, torch.get_num_threads() if device.type == "cpu" else 1)
        running: deque[Future[tuple[Tensor, Tensor]]] = deque()
        with WorkerThreads(networks, torch.get_num_threads()) as threads:
            done = 0
            for batch in batches_on(device, images, batch_size, workers):
                running.append(threads.submit(read, batch, images.labels[done : done + len(batch)]))
                done += len(batch)
                if len(running) > 2 * len(networks):
                    _take(running, logits, counts)
            while running:
                _take(running, logits, counts)
    return evaluate_head(lambda part: part, torch.cat(logits), images.labels, num_classes), counts


def _take(running: deque[Future[tuple[Tensor, Tensor]]], logits: list[Tensor], counts: Tensor) -> None:
    scores, counted = running.popleft().result()
    logits.append(scores)
    counts += counted


def batches_on(device: torch.device, images: LabelledImages, batch_size: int, workers: int) -> Iterator[Tensor]:
    """Yield the normalised images on the device, ``batch_size`` at a time, or on a CPU as many as suit its caches."""
    read_at_once = BATCH if device.type == "cpu" else batch_size
    batches = normalised_batches(
        images.dataset, images.preprocessing, device=device, precision="32", batch_size=read_at_once, workers=workers
    )
    return (batch.to(device, memory_format=torch.channels_last) for batch, _ in batches)


def score_of(evaluation: Evaluation, split: str, gates: Sequence[GateScore] = ()) -> Score:
    """The score of an evaluation, as records keep it."""
    total = evaluation.total
    return Score(
        split=split,
        images=total,
        correct=evaluation.correct,
        top1=100 * evaluation.correct / total,
        top5=None if evaluation.top5 is None else 100 * evaluation.top5 / total,
        loss=evaluation.loss,
        gates=list(gates),
    )


def score_over_processes(
    fabric: Fabric,
    module: nn.Module,
    images: LabelledImages,
    num_classes: int,
    workers: int,
    *,
    batch_size: int,
    objective: Objective,
) -> Score:
    """How a network does, each process measuring its share of the images; no image counts twice.

    ``batch_size`` counts the images of all processes, as in training.
    """
    how: dict[str, Any] = {"num_classes": num_classes, "device": fabric.device, "workers": workers}
    how["batch_size"] = math.ceil(batch_size / fabric.world_size)
    if fabric.world_size == 1:
        result, sums = measure(module, images, objective, **how)
        return score_of(result, images.split, objective.gate_scores(sums.tolist(), result.total))
    own = share(torch.arange(len(images.labels)), fabric.global_rank, fabric.world_size)
    counts = torch.zeros(4 + objective.counted, dtype=torch.float64)
    if len(own):
        part = LabelledImages(images.split, images.dataset.subset(own), images.labels[own], images.preprocessing)
        result, sums = measure(module, part, objective, **how)
        top5 = 0 if result.top5 is None else result.top5
        usual = torch.tensor((result.correct, top5, result.loss * result.total, result.total), dtype=torch.float64)
        counts = torch.cat([usual, sums])
    correct, total5, loss, total, *more = sum_over_processes(fabric, counts.to(fabric.device)).tolist()
    return Score(
        split=images.split,
        images=int(total),
        correct=int(correct),
        top1=100 * correct / total,
        top5=100 * total5 / total if num_classes >= MIN_CLASSES_FOR_TOP5 else None,
        loss=loss / total,
        gates=objective.gate_scores(more, int(total)),
    )
