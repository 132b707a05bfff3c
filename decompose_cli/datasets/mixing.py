"""Mix several training images into one, with targets to match: RICAP, mixup, CutMix.

All three give soft targets t (N, C) with rows that add up to 1. Cross-entropy is linear in its target, so
``cross_entropy(logits, t) = sum over k of weight_k * cross_entropy(logits, class_k)``, with label smoothing too: the
loss that the papers write as a sum.

Mixing pairs the images of a batch. Of several processes that share a batch, each makes its own rows from the images
that go into them (:func:`rows_of`), to the same bits as one process that makes all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from decompose_cli.datasets.counter_random import Stream, derived_seed, seeded
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import Size


@dataclass(frozen=True)
class Rows:
    """Some rows of a mixed batch.

    Attributes:
        batch: Images of the whole batch.
        own: Numbers of these rows in the batch.
        sources: Numbers of the images that go into them, int64 and ascending; no other ones need to be at hand.
    """

    batch: int
    own: range
    sources: Tensor

    def places(self, numbers: Tensor) -> Tensor:
        """Where among the sources these images of the batch are."""
        return torch.searchsorted(self.sources, numbers)


@dataclass(frozen=True)
class _Field:
    """A field of RICAP: the rows and columns that it fills, where its patches begin, and the image of each patch."""

    rows: range
    columns: range
    y: int
    x: int
    order: Tensor

    @property
    def pixels(self) -> int:
        return len(self.rows) * len(self.columns)


def _fields(batch: int, size: tuple[int, int], beta: float, seed: int) -> list[_Field]:
    """The fields of RICAP that are not empty, for a batch of so many images."""
    # torch's samplers of Beta and Gamma take no generator except by private names, so its global one is set instead.
    with seeded(seed):
        distribution = torch.distributions.Beta(beta, beta)
        height, width = size
        row, column = (round(length * float(distribution.sample())) for length in (height, width))
        fields = []
        for top, bottom in ((0, row), (row, height)):
            for left, right in ((0, column), (column, width)):
                order = torch.randperm(batch)
                y = int(torch.randint(height - (bottom - top) + 1, ()))
                x = int(torch.randint(width - (right - left) + 1, ()))
                fields.append(_Field(range(top, bottom), range(left, right), y, x, order))
    return [field for field in fields if field.pixels]


def ricap(
    images: Tensor, targets: Tensor, num_classes: int, beta: float = 0.3, *, seed: int, rows: Rows | None = None
) -> tuple[Tensor, Tensor]:
    """Put patches of four images side by side: random image cropping and patching (arXiv 1811.09030).

    A boundary point ``w = round(W * Beta(beta, beta))``, ``h = round(H * Beta(beta, beta))``, one for the batch, makes
    four fields of w or W - w columns and h or H - h rows. Each field takes patches of its size from the images of the
    batch, in an order of its own and from a place that is drawn once for the field; its share of the area is the weight
    of the class of the patch's image.

    Args:
        images: Images, float (N, 3, H, W); of single rows of a batch, their sources.
        targets: Classes, int64 (N,).
        num_classes: Number of classes C.
        beta: Parameter of the Beta distribution; below 1, one of the four images mostly dominates.
        seed: Seed that alone decides all draws.
        rows: The rows n that are made; all N by default.

    Returns:
        Images (n, 3, H, W) in the memory format they had, and soft targets, float32 (n, C).
    """
    height, width = images.shape[-2:]
    rows = rows or _all_rows(len(images))
    fields = _fields(rows.batch, (height, width), beta, seed)
    places = torch.stack([rows.places(field.order[rows.own.start : rows.own.stop]) for field in fields])
    count = len(rows.own)
    mixed = torch.empty_strided((count, *images.shape[1:]), images.stride(), dtype=images.dtype, device=images.device)
    soft = torch.zeros(count, num_classes, device=targets.device)
    for field, place in zip(fields, _moved(places, images.device), strict=True):
        patches = images[:, :, field.y : field.y + len(field.rows), field.x : field.x + len(field.columns)]
        mixed[:, :, field.rows.start : field.rows.stop, field.columns.start : field.columns.stop] = patches[place]
        soft += field.pixels / (height * width) * one_hot(targets[place], num_classes)
    return mixed, soft


def mixup(
    images: Tensor, targets: Tensor, num_classes: int, alpha: float = 1.0, *, seed: int, rows: Rows | None = None
) -> tuple[Tensor, Tensor]:
    """Average neighbours in the batch, with a weight from Beta(alpha, alpha) (arXiv 1710.09412).

    Arguments and result are those of :func:`ricap`.
    """
    return _by_torchvision(v2.MixUp(alpha=alpha, num_classes=num_classes), images, targets, seed, rows)


def cutmix(
    images: Tensor, targets: Tensor, num_classes: int, alpha: float = 1.0, *, seed: int, rows: Rows | None = None
) -> tuple[Tensor, Tensor]:
    """Fill a rectangle of each image, of the area 1 - Beta(alpha, alpha), from its neighbour (arXiv 1905.04899).

    Arguments and result are those of :func:`ricap`.
    """
    return _by_torchvision(v2.CutMix(alpha=alpha, num_classes=num_classes), images, targets, seed, rows)


def _by_torchvision(
    transform: v2.Transform, images: Tensor, targets: Tensor, seed: int, rows: Rows | None
) -> tuple[Tensor, Tensor]:
    first = 0
    if rows is not None and len(rows.own) < rows.batch:  # a row is made of an image and the one before it
        first = 1
        places = _moved(rows.places(_neighbours(rows.batch, rows.own)), images.device)
        images, targets = images[places], targets[places]
    with seeded(seed):
        mixed, soft = transform(images, targets)
    # The images are copied into a tensor like the given one, because their memory format may have been lost.
    return torch.empty_like(images[first:]).copy_(mixed[first:]), soft[first:]


def _neighbours(batch: int, own: range) -> Tensor:
    """The number of the image before the rows, the first being after the last, and those of the rows."""
    return torch.arange(own.start - 1, own.stop) % batch


def _all_rows(batch: int) -> Rows:
    return Rows(batch, range(batch), torch.arange(batch))


def _moved(places: Tensor, device: torch.device) -> Tensor:
    """Move without waiting for what a GPU has still to do."""
    return places.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else places.to(device)


_WAYS: dict[str, tuple[Callable[..., tuple[Tensor, Tensor]], float]] = {
    "ricap": (ricap, 0.3),
    "mixup": (mixup, 1.0),
    "cutmix": (cutmix, 1.0),
}
"""Each way to mix, and the parameter of its Beta distribution in its paper."""


def rows_of(name: str, batch: int, own: range, size: Size, *seed_parts: int, strength: float | None = None) -> Rows:
    """What a process needs to make some rows of a batch, by the draws that :func:`mix` makes of the same seed.

    Of mixup and CutMix these are the images of the rows and the one before them; of RICAP, the images of up to four
    patches a row, wherever they are in the batch.

    Args:
        name: ``none``, ``ricap``, ``mixup`` or ``cutmix``.
        batch: Images of the whole batch.
        own: Numbers of the rows, at least one.
        size: (height, width) of the images.
        seed_parts: As for :func:`mix`.
        strength: As for :func:`mix`.
    """
    if len(own) == batch:
        return _all_rows(batch)
    if name == "ricap":
        beta = _WAYS[name][1] if strength is None else strength
        fields = _fields(batch, size, beta, derived_seed(Stream.MIXING, *seed_parts))
        sources = torch.cat([field.order[own.start : own.stop] for field in fields])
    else:
        sources = torch.arange(own.start, own.stop) if name == "none" else _neighbours(batch, own)
    return Rows(batch, own, torch.unique(sources))


def mix(
    name: str,
    images: Tensor,
    targets: Tensor,
    num_classes: int,
    *seed_parts: int,
    strength: float | None = None,
    rows: Rows | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix a batch in the named way.

    Args:
        name: ``none``, ``ricap``, ``mixup`` or ``cutmix``.
        images: Images, float (N, 3, H, W); of single rows, their sources.
        targets: Classes, int64 (N,).
        num_classes: Number of classes C.
        seed_parts: Integers that decide the draws, such as seed, epoch and number of the batch.
        strength: ``beta`` of RICAP or ``alpha`` of the others, positive; by default as in their papers.
        rows: The rows of the batch that are made, of :func:`rows_of`; all by default.

    Returns:
        Mixed images and soft targets, float32 (n, C); for ``none`` the given images and targets.

    Raises:
        InputError: The name is unknown.
    """
    if name == "none":
        return images, targets
    if name not in _WAYS:
        *others, last = _WAYS
        raise InputError(f"There is no mixing {name!r}; choose none, {', '.join(others)} or {last}.")
    way, usual = _WAYS[name]
    seed = derived_seed(Stream.MIXING, *seed_parts)
    return way(images, targets, num_classes, usual if strength is None else strength, seed=seed, rows=rows)
