"""The images of each step: chosen, ordered, augmented and mixed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor

from decompose_cli.datasets.mixing import mix
from decompose_cli.datasets.sampling import epoch_order, share
from decompose_cli.datasets.training_images import TrainingImages
from decompose_cli.training.data import TrainingData
from decompose_cli.training.settings import Settings


class StepBatches:
    """The batches of each step of this process.

    The batches are a function of (seed, epoch, image) and the settings alone, so they do not depend on the number of
    processes.

    Args:
        fabric: The launched processes; they say which share of a batch is this process's.
        data: The images, their labels, and which of them are trained on.
        settings: Batch size, augmentation, mixing, seed.
        workers: Processes that decode images.
    """

    def __init__(self, fabric: Fabric, data: TrainingData, settings: Settings, workers: int = 0) -> None:
        self._fabric, self._settings = fabric, settings
        self.indices, self.labels, self._num_classes = data.indices, data.labels, len(data.class_names)
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
        settings, fabric = self._settings, self._fabric
        order = epoch_order(self.indices, settings.seed, epoch)
        size = settings.images_per_step
        groups = [order[step * size : (step + 1) * size] for step in range(first, last)]
        batches = [list(torch.split(group, settings.batch_size)) for group in groups]
        flat = list(itertools.chain(*batches))
        own = [share(batch, fabric.global_rank, fabric.world_size) for batch in flat]
        # Mixing pairs images, so every process makes the whole batch and keeps its share. Without mixing it makes its
        # share; a process without a share still takes part in the step, with an image that counts nothing.
        mixes = settings.mix != "none"
        made = flat if mixes else [part if len(part) else batch[:1] for part, batch in zip(own, flat, strict=True)]
        ready = zip(own, made, self.images.batches(epoch, made), strict=True)
        for number, group in enumerate(groups):
            step = []
            for part in range(len(batches[number])):
                kept, indices, images = next(ready)
                targets = self.labels[indices].to(fabric.device)
                if mixes:
                    key = (settings.seed, epoch, first + number, part)
                    images, targets = mix(
                        settings.mix, images, targets, self._num_classes, *key, strength=settings.mix_beta
                    )
                    images, targets = (
                        share(whole, fabric.global_rank, fabric.world_size) if len(kept) else whole[:1]
                        for whole in (images, targets)
                    )
                step.append((images, targets, fabric.world_size / len(group) if len(kept) else 0.0))
            yield step
