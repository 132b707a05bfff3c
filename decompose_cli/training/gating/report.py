"""What the gates of a trained network say of each image, and figures made of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from decompose_cli.errors import InputError, param
from decompose_cli.features.extraction import device_memory
from decompose_cli.messages import track
from decompose_cli.models.gate_kinds import GATES
from decompose_cli.models.gated_resnet import GatedNetwork, StageGatedResNet
from decompose_cli.models.tracing import evaluating
from decompose_cli.printable import shortest
from decompose_cli.statistics import mean_difference_interval, mean_interval
from decompose_cli.storage.csv_text import csv_text
from decompose_cli.training.data import HELD_OUT, TrainingData
from decompose_cli.training.evaluate import BATCH, LabelledImages, batches_on
from decompose_cli.training.gating.objective import image_gates

_TIMED = 2048
"""Images on which speeds are compared."""
_ROUNDS = 3


@dataclass(frozen=True)
class GateReadings:
    """What the gates say of N images, without augmentation.

    Attributes:
        images: The images, with the class numbers that count as right.
        numbers: Numbers of the images in their data set, int64 (N,).
        predictions: Predicted class numbers, int64 (N,).
        g: g of each gate, (N, G) float32; for gates in single units its mean over channels and positions.
        entropy: Entropy of each gate, (N, G) float32; None where gates have none.
    """

    images: LabelledImages
    numbers: Tensor
    predictions: Tensor
    g: Tensor
    entropy: Tensor | None

    @property
    def is_right(self) -> Tensor:
        """Whether each prediction is the label, bool (N,)."""
        return self.predictions == self.images.labels


class MeanGate(BaseModel):
    """The mean of g over images, and over gates where there are several, with Student's interval."""

    images: int
    g: float
    ci95: tuple[float, float] | None


class GateContrast(BaseModel):
    """g of two groups of images; ``difference`` first minus second, with Welch's interval."""

    first: MeanGate
    second: MeanGate
    difference: float
    ci95: tuple[float, float] | None


class LabelNoise(GateContrast):
    """g of training images with labels made wrong (``first``) and of the others (``second``).

    ``given``: images of the first kind that the network gives the wrong label, so has memorised; ``original``: those
    that it gives the label they had. ``correct``: training images of both kinds that it gives their original label.
    """

    given: int
    original: int
    correct: int


class GateSplit(BaseModel):
    """One set of images; ``correct`` are those that the network gives their label, changed or not.

    ``range``: lowest and highest g of an image. ``by_gate``: mean g of each gate, if there are several.
    ``right_and_wrong``: g of images that the network gets right and of the others, if there are both.
    """

    split: str
    images: int
    correct: int
    top1: float
    g: MeanGate
    range: tuple[float, float]
    by_gate: list[float] = []
    right_and_wrong: GateContrast | None


class Skipping(BaseModel):
    """The costs and savings of leaving gated stages with o1 where g is below ``below``.

    ``skipped``: share of the images, by gate. ``images_per_second``: with and without skipping, on the same images in
    turn; null where the gate reads the last unit, so that nothing is saved.
    """

    split: str
    below: float
    images: int
    skipped: list[float]
    correct: int
    top1: float
    full_correct: int
    full_top1: float
    images_per_second: float | None
    full_images_per_second: float | None


class GateReport(BaseModel):
    """What the gates do: figures for each split, and those of label noise and of skipping, where asked for."""

    splits: list[GateSplit]
    label_noise: LabelNoise | None = None
    skipping: Skipping | None = None


def read_gates(
    module: GatedNetwork,
    images: LabelledImages,
    numbers: Tensor,
    *,
    device: torch.device,
    workers: int = 0,
    batch_size: int = BATCH,
) -> GateReadings:
    """Run a network over images and write down what its gates say.

    Args:
        module: The network, on the device; left as it was.
        images: At least one image.
        numbers: Numbers of the images in their data set, int64 (N,).
        device: The device of the network.
        workers: Processes that decode images.
        batch_size: Images at a time.
    """
    predictions, gates, entropies = [], [], []
    watched = track(f"Gates on {images.split} images", len(images.labels))
    with evaluating(module), torch.inference_mode(), device_memory(device), watched as advance:
        for batch in batches_on(device, images, batch_size, workers):
            output = module.read(batch)
            advance(len(batch))
            predictions.append(output.logits.argmax(1).cpu())
            gates.append(image_gates(output.readings).cpu())
            own = [reading.entropy.float() for reading in output.readings if reading.entropy is not None]
            if own:
                entropies.append(torch.stack(own, 1).cpu())
    return GateReadings(
        images, numbers, torch.cat(predictions), torch.cat(gates), torch.cat(entropies) if entropies else None
    )


def splits_of(data: TrainingData) -> list[tuple[LabelledImages, Tensor]]:
    """The images that are trained on, held out, and tested on, as far as there are any, each with their numbers."""
    is_all = len(data.indices) == len(data.labels)
    chosen = data.train if is_all else data.train.subset(data.indices)
    splits = [(LabelledImages("train", chosen, data.labels[data.indices], data.preprocessing), data.indices)]
    if data.val is not None:
        is_held_out = torch.ones(len(data.labels), dtype=torch.bool)
        is_held_out[data.indices] = False
        splits.append((data.val, is_held_out.nonzero()[:, 0]))
    if data.test is not None:
        splits.append((data.test, torch.arange(len(data.test.labels))))
    return splits


def study(
    network: GatedNetwork,
    splits: Sequence[tuple[LabelledImages, Tensor]],
    *,
    changed: Tensor | None = None,
    original_labels: Tensor | None = None,
    skip_below: float | None = None,
    device: torch.device,
    workers: int,
    batch_size: int = BATCH,
) -> tuple[GateReport, list[GateReadings]]:
    """Measure what the gates say of images, in figures and image by image.

    Args:
        network: The network, on the device; left as it was.
        splits: Images with their numbers in their data set; training images first.
        changed: Numbers of the training images with labels made wrong.
        original_labels: Labels of all training images before the change, given with ``changed``.
        skip_below: Also leave gated stages of the images of the last split with o1 where g is below this.
        device: The device of the network.
        workers: Processes that decode images.
        batch_size: Images at a time.
    """
    how: dict[str, Any] = {"device": device, "workers": workers, "batch_size": batch_size}
    read = [read_gates(network, images, numbers, **how) for images, numbers in splits]
    report = GateReport(splits=[summarise(readings) for readings in read])
    if changed is not None and original_labels is not None:
        report.label_noise = _noise(read[0], changed, original_labels)
    if skip_below is not None:
        assert isinstance(network, StageGatedResNet)
        report.skipping = skip(network, splits[-1][0], skip_below, **how)
    return report, read


def summarise(readings: GateReadings) -> GateSplit:
    """Mean g of all images, and of those with right and with wrong predictions."""
    g = readings.g.mean(1)
    right = readings.is_right
    correct = int(right.sum())
    return GateSplit(
        split=readings.images.split,
        images=len(g),
        correct=correct,
        top1=100 * correct / len(g),
        g=_mean(g),
        range=(float(g.min()), float(g.max())),
        by_gate=readings.g.mean(0).tolist() if readings.g.shape[1] > 1 else [],
        right_and_wrong=contrast(g, right),
    )


def _noise(train: GateReadings, changed: Tensor, original_labels: Tensor) -> LabelNoise | None:
    is_changed = torch.isin(train.numbers, changed)
    compared = contrast(train.g.mean(1), is_changed)
    if compared is None:
        return None
    is_original = train.predictions == original_labels[train.numbers]
    return LabelNoise(
        **dict(compared),
        given=int((train.is_right & is_changed).sum()),
        original=int((is_original & is_changed).sum()),
        correct=int(is_original.sum()),
    )


def contrast(g: Tensor, is_first: Tensor) -> GateContrast | None:
    """Compare g (N,) of one group of images with that of the others; None where one group is empty."""
    first, second = g[is_first], g[~is_first]
    if len(first) == 0 or len(second) == 0:
        return None
    difference, interval = mean_difference_interval(first.tolist(), second.tolist())
    return GateContrast(first=_mean(first), second=_mean(second), difference=difference, ci95=interval)


def _mean(g: Tensor) -> MeanGate:
    mean, _, interval = mean_interval(g.tolist())
    return MeanGate(images=len(g), g=mean, ci95=interval)


def gates_csv(
    splits: Sequence[GateReadings],
    gate: str,
    original_labels: Tensor | None = None,
    files: Mapping[str, Sequence[str] | None] | None = None,
) -> str:
    """A line for each image: ``split,image,file,label,prediction,g,entropy``, classes by number.

    ``image`` counts the images of the data set's split (those held out are numbered among the training images).

    With several gates ``g`` and ``entropy`` end in the stage, as in ``_b2``, ``_b3``; with gates in single units ``g``
    is their mean, and ``g_1``, ``g_2``, ... follow. ``entropy`` is empty where the gate has none.

    Args:
        splits: The readings of each split.
        gate: Name of the gate.
        original_labels: Class number of each training image before any was changed; adds ``original_label``.
        files: The file of each image, by split, where images are files.
    """
    is_layer, ends = GATES[gate].level == "layer", GATES[gate].place.ends
    count = splits[0].g.shape[1]
    header: list[str] = []
    rows: list[tuple[object, ...]] = []
    for readings in splits:
        images = readings.images
        by_gate = readings.g.mean(1, keepdim=True) if is_layer else readings.g
        known = (files or {}).get(images.split)
        columns: dict[str, list[object]] = {
            "split": [images.split] * len(by_gate),
            "image": readings.numbers.tolist(),
            "file": [""] * len(by_gate) if known is None else [known[number] for number in readings.numbers.tolist()],
            "label": images.labels.tolist(),
            "prediction": readings.predictions.tolist(),
        }
        for number, end in enumerate(ends):
            columns[f"g{end}"] = _texts(by_gate[:, number])
        for number, end in enumerate(ends):
            none: list[object] = [""] * len(by_gate)
            columns[f"entropy{end}"] = none if readings.entropy is None else _texts(readings.entropy[:, number])
        for number in range(count if is_layer else 0):
            columns[f"g_{number + 1}"] = _texts(readings.g[:, number])
        if original_labels is not None:
            is_training = images.split in ("train", HELD_OUT)
            columns["original_label"] = (original_labels[readings.numbers] if is_training else images.labels).tolist()
        header = list(columns)
        rows += zip(*columns.values(), strict=True)
    return csv_text(header, rows)


def _texts(values: Tensor) -> list[object]:
    return [f"{value:.6g}" for value in values.tolist()]


def check_skipping(gate: str, below: float | None) -> None:
    """Refuse a threshold that cannot be used.

    Raises:
        InputError: The threshold is out of range, or the gate is in single units.
    """
    if below is None:
        return
    if not 0 < below <= 1:
        raise InputError(f"{param('skip_below')} {shortest(below)} is not above 0 and up to 1, where g is.")
    if GATES[gate].level == "layer":
        raise InputError(
            f"{param('skip_below')} leaves out the rest of a gated stage, but gate {gate} closes only parts of single "
            "units."
        )


def skip(
    module: StageGatedResNet,
    images: LabelledImages,
    below: float,
    *,
    device: torch.device,
    workers: int = 0,
    batch_size: int = BATCH,
) -> Skipping:
    """Leave gated stages with o1 where g is below a threshold: how often, at which accuracy, and how fast.

    Args:
        module: The network, on the device; left as it was.
        images: At least one image.
        below: The threshold.
        device: The device of the network.
        workers: Processes that decode images.
        batch_size: Images at a time.
    """
    full, skipped, closed = 0, 0, torch.zeros(len(module.gates()))
    kept: list[Tensor] = []
    done = 0
    with evaluating(module), torch.inference_mode(), device_memory(device):
        for batch in batches_on(device, images, batch_size, workers):
            truth = images.labels[done : done + len(batch)]
            done += len(batch)
            full += int((module.read(batch).logits.argmax(1).cpu() == truth).sum())
            output = module.read(batch, below)
            skipped += int((output.logits.argmax(1).cpu() == truth).sum())
            closed += torch.stack([(reading.g < below).sum().cpu() for reading in output.readings])
            if sum(map(len, kept)) < _TIMED:
                kept.append(batch)
        speeds: dict[float | None, float] = {}
        if module.reads_first:
            speeds = _speeds(module, kept, below)
    total = len(images.labels)
    return Skipping(
        split=images.split,
        below=below,
        images=total,
        skipped=(closed / total).tolist(),
        correct=skipped,
        top1=100 * skipped / total,
        full_correct=full,
        full_top1=100 * full / total,
        images_per_second=speeds.get(below),
        full_images_per_second=speeds.get(None),
    )


def _speeds(module: StageGatedResNet, batches: Sequence[Tensor], below: float) -> dict[float | None, float]:
    """Images per second with and without skipping, the fastest of a few rounds in turn."""
    best: dict[float | None, float] = {}
    for _ in range(_ROUNDS):
        for way in (None, below):
            started = time.perf_counter()
            for batch in batches:
                module.read(batch, way).logits.argmax(1).cpu()
            seconds = time.perf_counter() - started
            best[way] = min(best.get(way, seconds), seconds)
    images = sum(map(len, batches))
    return {way: images / seconds for way, seconds in best.items()}
