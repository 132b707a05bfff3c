"""What the gates of a trained network say of each image, and what it means."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from decompose_cli.datasets.subset import subset
from decompose_cli.errors import InputError, param
from decompose_cli.features.extraction import device_memory, normalised_batches
from decompose_cli.models.gate_kinds import GATES
from decompose_cli.models.gated_resnet import GatedNetwork, StageGatedResNet
from decompose_cli.models.head import evaluating
from decompose_cli.progress import track
from decompose_cli.statistics import mean_difference_interval, mean_interval
from decompose_cli.training.data import HELD_OUT, TrainingData
from decompose_cli.training.evaluate import LabelledImages
from decompose_cli.training.gating.objective import image_gates

_TIMED = 2048
"""Images on which speeds are compared."""
_ROUNDS = 3
BATCH = 256


@dataclass(frozen=True)
class GateReadings:
    """What the gates say of N images, without augmentation.

    Attributes:
        images: Which ones, with the class numbers that count as right.
        numbers: Of the images in their data set, int64 (N,).
        predictions: Class numbers, int64 (N,).
        g: Of each gate (N, G) float32; of gates in single units the mean over channels and positions.
        entropy: Of gates by entropy (N, G) float32, else None.
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
    """Mean of g over images, and over gates where there are several, with Student's interval."""

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
    """Training images with labels made wrong (``first``) and others (``second``).

    ``given``: images of the first kind that the network gives the wrong label, so has memorised; ``original``: those
    that it gives the label they had. ``correct``: of all training images, by their original labels.
    """

    given: int
    original: int
    correct: int


class GateSplit(BaseModel):
    """One set of images; correct are those whose label, changed or not, the network gives. ``range``: of g by image.

    ``by_gate``: mean g of each gate, if there are several. ``right_and_wrong``: images that the network gets right, and
    others, if there are both.
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
    """Gated stages left with o1 where g is below ``below``.

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
    """What the gates do."""

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
        module: On the device; left as it was found.
        images: N >= 1.
        numbers: Of the images in their data set, int64 (N,).
        device: Where the network is.
        workers: Processes that decode images.
        batch_size: Images at a time.
    """
    predictions, gates, entropies = [], [], []
    watched = track(f"Gates on {images.split} images", len(images.labels))
    with evaluating(module), torch.inference_mode(), device_memory(device), watched as advance:
        for batch in _batches(images, device, workers, batch_size):
            found = module.read(batch)
            advance(len(batch))
            predictions.append(found.logits.argmax(1).cpu())
            gates.append(image_gates(found.readings).cpu())
            own = [reading.entropy.float() for reading in found.readings if reading.entropy is not None]
            if own:
                entropies.append(torch.stack(own, 1).cpu())
    return GateReadings(
        images, numbers, torch.cat(predictions), torch.cat(gates), torch.cat(entropies) if entropies else None
    )


def _batches(images: LabelledImages, device: torch.device, workers: int, batch_size: int) -> Iterator[Tensor]:
    found = normalised_batches(
        images.dataset, images.preprocessing, device=device, precision="32", batch_size=batch_size, workers=workers
    )
    return (batch.to(device, memory_format=torch.channels_last) for batch, _ in found)


def splits_of(data: TrainingData) -> list[tuple[LabelledImages, Tensor]]:
    """Images that are trained on, held out, and tested on, as far as there are any, and their numbers."""
    is_all = len(data.indices) == len(data.labels)
    chosen = data.train if is_all else subset(data.train, data.indices)
    found = [(LabelledImages("train", chosen, data.labels[data.indices], data.preprocessing), data.indices)]
    if data.val is not None:
        is_held_out = torch.ones(len(data.labels), dtype=torch.bool)
        is_held_out[data.indices] = False
        found.append((data.val, is_held_out.nonzero()[:, 0]))
    if data.test is not None:
        found.append((data.test, torch.arange(len(data.test.labels))))
    return found


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
    """What the gates say of images, in figures and image by image.

    Args:
        network: On the device; left as it was found.
        splits: Images with their numbers in their data set; training images first.
        changed: Numbers of the training images with labels made wrong.
        original_labels: Of all training images, given with ``changed``.
        skip_below: Also leave gated stages of the images of the last split with o1 where g is below this.
        device: Where the network is.
        workers: Processes that decode images.
        batch_size: Images at a time.
    """
    how: dict[str, Any] = {"device": device, "workers": workers, "batch_size": batch_size}
    found = [read_gates(network, images, numbers, **how) for images, numbers in splits]
    report = GateReport(splits=[summarise(readings) for readings in found])
    if changed is not None and original_labels is not None:
        report.label_noise = _noise(found[0], changed, original_labels)
    if skip_below is not None:
        assert isinstance(network, StageGatedResNet)
        report.skipping = skip(network, splits[-1][0], skip_below, **how)
    return report, found


def summarise(readings: GateReadings) -> GateSplit:
    """Mean g, and that of right and wrong predictions."""
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
    found = contrast(train.g.mean(1), is_changed)
    if found is None:
        return None
    is_original = train.predictions == original_labels[train.numbers]
    return LabelNoise(
        **dict(found),
        given=int((train.is_right & is_changed).sum()),
        original=int((is_original & is_changed).sum()),
        correct=int(is_original.sum()),
    )


def contrast(g: Tensor, is_first: Tensor) -> GateContrast | None:
    """g (N,) of one group of images and of the others; None where there are not both."""
    first, second = g[is_first], g[~is_first]
    if len(first) == 0 or len(second) == 0:
        return None
    difference, interval = mean_difference_interval(first.tolist(), second.tolist())
    return GateContrast(first=_mean(first), second=_mean(second), difference=difference, ci95=interval)


def _mean(g: Tensor) -> MeanGate:
    mean, _, interval = mean_interval(g.tolist())
    return MeanGate(images=len(g), g=mean, ci95=interval)


def gates_csv(
    found: Sequence[GateReadings],
    gate: str,
    original_labels: Tensor | None = None,
    files: Mapping[str, Sequence[str] | None] | None = None,
) -> str:
    """A line for each image: ``split,image,file,label,prediction,g,entropy``, classes by number.

    ``image`` counts the images of the data set's split (those held out are numbered among the training images).

    With several gates ``g`` and ``entropy`` end in the stage, as in ``_b2``, ``_b3``; with gates in single units ``g``
    is their mean, and ``g_1``, ``g_2``, ... follow. ``entropy`` is empty where the gate has none.

    Args:
        found: One for each split.
        gate: Its name.
        original_labels: Class number of each training image before any was changed; adds ``original_label``.
        files: By split the file of each image, where images are files.
    """
    is_layer, ends = GATES[gate].level == "layer", GATES[gate].place.ends
    count = found[0].g.shape[1]
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    for readings in found:
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
        if readings is found[0]:
            writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return target.getvalue()


def _texts(values: Tensor) -> list[object]:
    return [f"{value:.6g}" for value in values.tolist()]


def check_skipping(gate: str, below: float | None) -> None:
    """Refuse a threshold that cannot be used.

    Raises:
        InputError: It is out of range, or the gate is of single units.
    """
    if below is None:
        return
    if not 0 < below <= 1:
        raise InputError(f"{param('skip_below')} {below} is not above 0 and up to 1, where g is.")
    if GATES[gate].level == "layer":
        raise InputError(
            f"{param('skip_below')} has no effect with gate {gate}: a gate in a single unit closes parts of it."
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
        module: On the device; left as it was found.
        images: N >= 1.
        below: The threshold.
        device: Where the network is.
        workers: Processes that decode images.
        batch_size: Images at a time.
    """
    full, skipped, closed = 0, 0, torch.zeros(len(module.gates()))
    kept: list[Tensor] = []
    done = 0
    with evaluating(module), torch.inference_mode(), device_memory(device):
        for batch in _batches(images, device, workers, batch_size):
            truth = images.labels[done : done + len(batch)]
            done += len(batch)
            full += int((module.read(batch).logits.argmax(1).cpu() == truth).sum())
            found = module.read(batch, below)
            skipped += int((found.logits.argmax(1).cpu() == truth).sum())
            closed += torch.stack([(reading.g < below).sum().cpu() for reading in found.readings])
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
