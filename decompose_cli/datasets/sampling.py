"""Choose the images that are trained on, their order, and the process that works on each."""

from __future__ import annotations

import torch
from torch import Tensor

from decompose_cli.datasets.counter_random import Stream, derived_seed, random_integers
from decompose_cli.errors import InputError

_MANY = 1 << 62


def hold_out(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Set images aside for validation, the same share of every class.

    ``round(fraction * N)`` images are held out. A class with n of the N images gives ``total * n / N`` of them, rounded
    down; missing images are then taken one by one from the classes with the largest remainders (the first of equals).
    At least one image of every class that has any stays in training.

    Args:
        labels: Labels, int64 (N,), not negative.
        fraction: Share of the images, in [0, 1).
        seed: Decides which images of a class are held out. The choice is a function of (labels, fraction, seed) for
            all versions of torch: were it to change, a run continued elsewhere would validate on what it has learned.

    Returns:
        Indices for training and for validation, both sorted, int64.

    Raises:
        InputError: The fraction is out of range, or leaves a class without training images.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"The fraction of images to hold out is {fraction}; it must be at least 0 and below 1.")
    count = len(labels)
    total = round(fraction * count)
    labels = labels.cpu()
    sizes = labels.bincount()
    quotas = torch.tensor(_quotas(sizes.tolist(), total), dtype=torch.int64)
    if int(quotas.sum()) < total:
        raise InputError(
            f"Holding out {total} of {count} images would leave a class without training images.",
            hint="Hold out a smaller fraction.",
        )
    shuffled = random_integers(seed, 0, torch.arange(count), Stream.HOLD_OUT, _MANY).argsort(stable=True)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    place_in_class = torch.arange(count) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    held_out = place_in_class < quotas.repeat_interleave(sizes)
    return by_class[~held_out].sort().values, by_class[held_out].sort().values


def _quotas(sizes: list[int], total: int) -> list[int]:
    """How many of each class to hold out; they add up to less than ``total`` if every class gives all but one."""
    count = sum(sizes)
    quotas = [min(total * size // count, max(size - 1, 0)) for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda number: -(total * sizes[number] % count))
    missing = total - sum(quotas)
    while missing and (able := [number for number in by_remainder if quotas[number] < sizes[number] - 1]):
        for number in able[:missing]:
            quotas[number] += 1
        missing = total - sum(quotas)
    return quotas


def epoch_order(indices: Tensor, seed: int, epoch: int) -> Tensor:
    """The given indices (n,), shuffled anew in each epoch."""
    generator = torch.Generator().manual_seed(derived_seed(Stream.ORDER, seed, epoch))
    return indices[torch.randperm(len(indices), generator=generator).to(indices.device)]


def share(batch: Tensor, rank: int, world: int) -> Tensor:
    """The part of a batch (n, ...) that process ``rank`` of ``world`` works on.

    Parts are contiguous and have n // world images, the first n mod world parts one more; a part may be empty.
    """
    return batch.tensor_split(world)[rank]
