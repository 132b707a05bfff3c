"""Sums, counts and orders of features for rankings; all go through the features in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from decompose_cli.errors import InputError
from decompose_cli.features.blocks import in_blocks
from decompose_cli.features.labelled import LabelledFeatures, check_classes
from decompose_cli.sparse.problem import fitting_device

_POSITIONS_AT_ONCE = 1 << 28  # 512 MB of int16: ranks 1 to 209 of 1.28 million images
_LARGEST_INT16 = 1 << 15


def class_means(data: LabelledFeatures, *, normalised: bool = False) -> Tensor:
    """Mean of the features over the images of each class, in float64: (C, D).

    Args:
        data: Features and labels.
        normalised: Whether each image's features are divided by their sum first; an image whose features are all zero
            is left at zero.

    Raises:
        InputError: A class has no images.
    """
    check_classes(data.labels, data.class_names)
    sums = class_sums(data.features, data.labels, data.num_classes, normalised=normalised, device=data.device)
    return sums / torch.bincount(data.labels, minlength=data.num_classes)[:, None]


def class_sums(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    normalised: bool = False,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sum of the features over the images of each class, in float64: (C, D); zero for a class without images.

    Args:
        features: Features (N, D).
        labels: Class numbers, int64 (N,).
        num_classes: Number of classes C.
        normalised: As for :func:`class_means`.
        device: Where sums are made; for mps on the CPU, as mps has no float64.
    """
    device = fitting_device(device)
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64, device=device)
    for rows, values in in_blocks(features, device=device, doing="Means of classes"):
        block = values.double()
        if normalised:
            total = block.sum(1, keepdim=True)
            block = block / torch.where(total == 0, 1.0, total)
        sums.index_add_(0, labels[rows].to(device), block)
    return sums.cpu()


def frequencies(data: LabelledFeatures, k: int) -> Tensor:
    """For each class and feature the number of images of the class with the feature among their k largest: (C, D).

    Raises:
        InputError: A class has no images.
    """
    check_classes(data.labels, data.class_names)
    width, device = data.num_features, fitting_device(data.device)
    counts = torch.zeros(data.num_classes * width, dtype=torch.int64, device=device)
    one = torch.ones((), dtype=torch.int64, device=device)
    for rows, block in in_blocks(data.features, device=device, doing="Largest features"):
        keys = (data.labels[rows].to(device)[:, None] * width + largest_features(block, k)).flatten()
        counts.index_add_(0, keys, one.expand(len(keys)))
    return counts.view(-1, width).cpu()


def frequency_orders(data: LabelledFeatures, ks: Sequence[int]) -> Iterator[Tensor]:
    """For each of the ascending ks the k most frequent features of each class, most frequent first: int64 (C, k).

    The orders are those of :func:`frequencies` for each k: the counts for k are the counts for k - 1 plus the k-th
    largest feature of each image. Of each image only the places of its leading features are kept, and of these no more
    at once than memory suggests; where more ranks are asked for, the features are gone through again.

    Raises:
        InputError: A class has no images.
    """
    check_classes(data.labels, data.class_names)
    width, device = data.num_features, fitting_device(data.device)
    first_keys = data.labels.to(device) * width
    counts = torch.zeros(data.num_classes * width, dtype=torch.int64, device=device)
    one = torch.ones((), dtype=torch.int64, device=device)
    numbers = torch.arange(width, device=device)
    at_once = max(1, _POSITIONS_AT_ONCE // len(first_keys))
    places, start, stop = torch.empty(0), 0, 0  # of the features at the ranks from start to stop
    done = 0
    for k in ks:
        for rank in range(done, k):
            if rank == stop:
                start, stop = rank, min(rank + at_once, max(ks))
                del places
                places = _places(data, start, stop, device)
            keys = first_keys + places[rank - start]
            counts.index_add_(0, keys, one.expand(len(keys)))
        done = k
        # No two of these are equal, so any way of sorting gives the higher index first among equal counts.
        yield ((counts.view(-1, width) * width + numbers).topk(k).values % width).cpu()


def _places(data: LabelledFeatures, start: int, stop: int, device: torch.device) -> Tensor:
    """The features at some ranks of each image, (stop - start, N)."""
    dtype = torch.int16 if data.num_features <= _LARGEST_INT16 else torch.int32
    places = torch.empty(stop - start, len(data.labels), dtype=dtype, device=device)
    for rows, block in in_blocks(data.features, device=device, doing=f"Features of ranks {start + 1} to {stop}"):
        places[:, rows] = leading_features(block, stop)[:, start:].t()
    return places


def largest_features(features: Tensor, k: int) -> Tensor:
    """Indices of each row's k largest features, the higher index among equals: (N, k), in no particular order."""
    values, chosen = features.topk(min(k + 1, features.shape[1]))
    chosen = chosen[:, :k]
    # topk leaves open which of several equal values it takes, so rows with a tie across the boundary are done again.
    tied = values[:, -1] == values[:, -2] if k < features.shape[1] else values.new_zeros(len(values), dtype=torch.bool)
    return _settled(features, chosen, tied)


def leading_features(features: Tensor, k: int) -> Tensor:
    """Indices of each row's k largest features in descending order, the higher index among equals: int64 (N, k)."""
    if k > features.shape[1] // 4:  # where ties are many, and to sort takes hardly longer
        return descending(features)[:, :k]
    values, chosen = features.topk(k + 1)
    return _settled(features, chosen[:, :k], (values[:, 1:] == values[:, :-1]).any(1))


def _settled(features: Tensor, chosen: Tensor, tied: Tensor) -> Tensor:
    """Rows of indices, of which those with ties are done again."""
    again = tied.nonzero()[:, 0]
    if len(again) > 0:
        chosen[again] = descending(features[again])[:, : chosen.shape[1]]
    return chosen


def descending(values: Tensor) -> Tensor:
    """Column numbers by descending value, the higher number among equals, row by row: int64, like ``values``."""
    reversed_order = values.flip(1).argsort(dim=1, descending=True, stable=True)
    return values.shape[1] - 1 - reversed_order


def prefixes(scores: Tensor, fraction: float, method: str, class_names: Sequence[str]) -> list[list[int]]:
    """Per class the shortest prefix of the features by score whose scores sum to a fraction of the class's total.

    Args:
        scores: Scores (C, D).
        fraction: Share of the total, strictly between 0 and 1.
        method: The name of the ranking, for messages.
        class_names: C names, for messages.

    Raises:
        InputError: A score is negative, or all of a class are zero.
    """
    if bool((scores < 0).any()):
        raise InputError(
            f"A fraction needs scores that are not negative, and those of {method!r} are; give a whole number of "
            "features."
        )
    rows = []
    for number, (row, indices) in enumerate(zip(scores.double(), descending(scores), strict=True)):
        total = float(row.sum())
        if total == 0:
            raise InputError(
                f"All features of class {number} ({class_names[number]}) are zero; no fraction can be kept."
            )
        reached = row[indices].cumsum(0) >= fraction * total * (1 - 1e-12)  # allows for the rounding of the sum
        rows.append(indices[: int(reached.double().argmax()) + 1].tolist())
    return rows
