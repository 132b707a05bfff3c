"""Training images as the network sees them, in any batches that a caller asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from decompose_cli.datasets.augment import Augmentation, ImageTransform
from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.chunks import chunks_in_memory, in_ranges
from decompose_cli.datasets.crops import Normaliser, PixelTable, cut_out, draw_crops
from decompose_cli.datasets.handing_over import HandedOver, begun
from decompose_cli.datasets.streaming import without_worker_traces
from decompose_cli.messages import report_by_logging
from decompose_cli.preprocessing import Preprocessing

_MOST_BYTES = 4 << 30
_RESIZED_AT_ONCE = 512


class TrainingImages:
    """Augmented, normalised images of a data set.

    The pixels of an image are a function of (seed, epoch, index): they depend neither on the batches, nor on the number
    of workers, nor on earlier calls, and nothing is drawn from a global random generator.

    Small images in memory that are augmented by ``none`` or ``crop-flip`` are kept as bytes on the device and made in
    whole batches. Others are decoded and transformed one by one, by worker processes.

    Args:
        dataset: N images.
        preprocessing: Size and normalisation of the images.
        augmentation: Random changes to the images.
        seed: Seed of all random changes.
        device: Device that the batches are put on.
        workers: Processes that decode images, where these are not made in whole batches; 0 for none.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        seed: int,
        device: torch.device,
        workers: int,
    ) -> None:
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self.device = device
        self.workers = workers
        self._normalise = Normaliser(preprocessing, device)

    def batches(self, epoch: int, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each tensor of indices, in order.

        Args:
            epoch: Number of the epoch, which decides the random changes.
            batches: Indices of images, int64 (n,) each, in 0..N-1 and in any order; n may be 0.

        Yields:
            Images, float32 (n, 3, H, W) in the memory format channels_last, on the device.

        Raises:
            InputError: An image cannot be read.
        """
        if not batches:
            return
        # One draw and one transfer serve all batches: for 64 images, a call costs more than its computation.
        indices = torch.cat(list(batches)).to(self.device)
        crops = None
        if self.augmentation.kind == "crop-flip":
            crops = draw_crops(self.augmentation, self.seed, epoch, indices)
        decoded = self._decoded(epoch, batches) if self._table is None else None
        start = 0
        for batch in batches:
            part = slice(start, start + len(batch))
            start += len(batch)
            if decoded is None:
                assert self._table is not None
                table, numbers = self._table, indices[part]
            else:
                table = self._tabled([next(decoded)] if len(batch) else [], len(batch))
                numbers = torch.arange(len(batch), device=self.device)
            if crops is None:
                pixels = table.whole(numbers)
            else:
                pixels = table.cropped(numbers, crops[part], self.augmentation.padding, self.augmentation.padding_mode)
            images = self._normalise(pixels)
            if self.augmentation.cutout and self.augmentation.kind != "none":
                cut_out(images, indices[part], self.augmentation.cutout, self.seed, epoch)
            yield images
        self.dataset.remark()

    @cached_property
    def _table(self) -> PixelTable | None:
        """The images on the device, after resize and crop, if they are made in whole batches."""
        if not self.augmentation.whole_batches:
            return None
        pixels = self.dataset.in_memory()
        height, width = self.preprocessing.crop
        if pixels is None or len(pixels) * 3 * height * width > _MOST_BYTES:
            return None
        parts = chunks_in_memory(pixels, self.preprocessing, in_ranges(len(pixels), _RESIZED_AT_ONCE))
        return self._tabled((part.images for part in parts), len(pixels))

    def _tabled(self, parts: Iterable[Tensor], count: int) -> PixelTable:
        return PixelTable(parts, count, self.preprocessing.crop, self.device)

    def _decoded(self, epoch: int, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The uint8 pixels (n, 3, H, W) of each batch that is not empty, before the changes to whole batches."""
        images = _Images(self.dataset, ImageTransform(self.augmentation, self.preprocessing), self.seed, epoch)

        def loader_with(processes: int) -> DataLoader[HandedOver]:
            return DataLoader(
                images,  # type: ignore[arg-type]
                batch_sampler=[batch.tolist() for batch in batches if len(batch)],
                num_workers=processes,
                collate_fn=_stacked,
                worker_init_fn=report_by_logging,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # otherwise the loader draws a seed for its workers from the global one
            )

        return (batch.images for batch in without_worker_traces(begun(loader_with, self.workers)))


def _stacked(images: list[Tensor]) -> HandedOver:
    return HandedOver(torch.stack(images))


class _Images(Dataset[Tensor]):
    """Reads and transforms one image at a time, in a worker process."""

    def __init__(self, dataset: ImageDataset, transform: ImageTransform, seed: int, epoch: int) -> None:
        # A data set in memory may not survive the way to a worker that is not forked; its pixels do.
        self.pixels = dataset.in_memory()
        self.dataset = dataset if self.pixels is None else None
        self.transform = transform
        self.seed = seed
        self.epoch = epoch

    def __getitem__(self, index: int) -> Tensor:
        if self.dataset is not None:
            return self.transform(self.dataset.image(index), self.seed, self.epoch, index)
        assert self.pixels is not None
        return self.transform(self.pixels[index], self.seed, self.epoch, index)
