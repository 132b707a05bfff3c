"""The images of each step: chosen, ordered, augmented and mixed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from decompose_cli.datasets.mixing import Rows, mix, rows_of
from decompose_cli.datasets.sampling import epoch_order, share
from decompose_cli.datasets.training_images import TrainingImages
from decompose_cli.training.data import TrainingData
from decompose_cli.training.settings import Settings


@dataclass(frozen=True)
class _Batch:
    """A batch, as one of the processes makes it.

    Attributes:
        key: What decides how it is mixed: seed, epoch, step, and which batch of the step it is.
        rows: The rows that this process makes; None for none.
        made: Indices of the images that it makes for that.
        weight: Weight of their summed loss.
    """

    key: tuple[int, int, int, int]
    rows: Rows | None
    made: Tensor
    weight: float


class StepBatches:
    """The batches of each step of this process.

    The batches are a function of (seed, epoch, image) and the settings alone, so they do not depend on the number of
    processes. Each process reads its share of the images, and those of other shares that are mixed into it.

    Args:
        fabric: The launched processes; they say which share of a batch is this process's.
        data: The images, their labels, and which of them are trained on.
        settings: Batch size, augmentation, mixing, seed.
        workers: Processes that decode images.
    """

    def __init__(self, fabric: Fabric, data: TrainingData, settings: Settings, workers: int = 0) -> None:
        self._fabric, self._settings = fabric, settings
        self.indices, self.labels = data.indices, data.labels.to(fabric.device)
        self._num_classes, self._size = len(data.class_names), data.preprocessing.crop
        self.images = TrainingImages(
            data.train,
            data.preprocessing,
            settings.augmentation,
            seed=settings.seed,
            device=fabric.device,
            workers=workers,
        )

    def steps(self, epoch: int, first: int, last: int) -> Iterator[list[tuple[Tensor, Tensor, float]]]:
        """The batches of each step: this process's images, their targets, and the weight of their summed loss."""
        if first == last:
            return
        order = epoch_order(self.indices, self._settings.seed, epoch)
        size = self._settings.images_per_step
        steps = [self._planned(epoch, step, order[step * size : (step + 1) * size]) for step in range(first, last)]
        made = [batch.made for batch in itertools.chain(*steps)]
        # One transfer serves all batches: else each step would wait for its labels.
        chosen = self.labels[torch.cat(made).to(self._fabric.device)]
        labels = torch.split(chosen, [len(indices) for indices in made])
        ready = zip(self.images.batches(epoch, made), labels, strict=True)
        for step in steps:
            yield [(*self._mixed(batch, *next(ready)), batch.weight) for batch in step]

    def _planned(self, epoch: int, step: int, group: Tensor) -> list[_Batch]:
        """What this process makes of the batches of a step."""
        settings, fabric = self._settings, self._fabric
        batches = []
        for part, indices in enumerate(torch.split(group, settings.batch_size)):
            own = share(torch.arange(len(indices)), fabric.global_rank, fabric.world_size).tolist()
            key = settings.seed, epoch, step, part
            if not own:  # the process still takes part in the step, with an image that counts nothing
                batches.append(_Batch(key, None, indices[:1], 0.0))
                continue
            rows = rows_of(
                settings.mix, len(indices), range(own[0], own[-1] + 1), self._size, *key, strength=settings.mix_beta
            )
            batches.append(_Batch(key, rows, indices[rows.sources], fabric.world_size / len(group)))
        return batches

    def _mixed(self, batch: _Batch, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if batch.rows is None:
            return images, targets
        settings = self._settings
        return mix(
            settings.mix,
            images,
            targets,
            self._num_classes,
            *batch.key,
            strength=settings.mix_beta,
            rows=batch.rows,
        )
