"""Sums, counts and orders of features for rankings; all are computed in blocks, so temporary tensors stay small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from decompose_cli.errors import InputError
from decompose_cli.features.labelled import LabelledFeatures, check_classes

_VALUES_AT_ONCE = 1 << 24


def feature_blocks(features: Tensor) -> list[slice]:
    """Rows to work on together, so that temporary tensors stay small."""
    step = max(1, _VALUES_AT_ONCE // features.shape[1])
    return [slice(start, start + step) for start in range(0, len(features), step)]


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
    sums = torch.zeros(data.num_classes, data.num_features, dtype=torch.float64)
    for rows in feature_blocks(data.features):
        block = data.features[rows].double()
        if normalised:
            total = block.sum(1, keepdim=True)
            block = block / torch.where(total == 0, 1.0, total)
        sums.index_add_(0, data.labels[rows], block)
    return sums / torch.bincount(data.labels, minlength=data.num_classes)[:, None]


def frequencies(features: Tensor, labels: Tensor, num_classes: int, k: int) -> Tensor:
    """For each class and feature the number of images of the class with the feature among their k largest: (C, D)."""
    num_features = features.shape[1]
    counts = torch.zeros(num_classes * num_features, dtype=torch.int64)
    for rows in feature_blocks(features):
        largest = largest_features(features[rows], k)
        keys = labels[rows][:, None] * num_features + largest
        counts += torch.bincount(keys.flatten(), minlength=len(counts))
    return counts.view(num_classes, num_features)


def frequency_orders(data: LabelledFeatures, ks: Sequence[int]) -> Iterator[Tensor]:
    """For each of the ascending ks the k most frequent features of each class, most frequent first: int64 (C, k).

    The orders are those of :func:`frequencies` for each k: the counts for k are the counts for k - 1 plus the k-th
    largest feature of each image.

    Raises:
        InputError: A class has no images.
    """
    check_classes(data.labels, data.class_names)
    most, width = max(ks), data.num_features
    leading = [leading_features(data.features[rows], most).to(torch.int32) for rows in feature_blocks(data.features)]
    positions = torch.cat(leading)
    counts = torch.zeros(data.num_classes * width, dtype=torch.int64)
    done = 0
    for k in ks:
        for rank in range(done, k):
            counts += torch.bincount(data.labels * width + positions[:, rank], minlength=len(counts))
        done = k
        yield descending(counts.view(-1, width))[:, :k]


def largest_features(features: Tensor, k: int) -> Tensor:
    """Indices of each row's k largest features, the higher index among equals: (N, k), in no particular order."""
    values, chosen = features.topk(k, sorted=True)
    # topk leaves open which of several equal values it takes, so rows with a tie across the boundary are done again.
    tied = (features >= values[:, -1:]).sum(1) > k
    if bool(tied.any()):
        chosen[tied] = descending(features[tied])[:, :k]
    return chosen


def leading_features(features: Tensor, k: int) -> Tensor:
    """Indices of each row's k largest features in descending order, the higher index among equals: int64 (N, k)."""
    values, chosen = features.topk(min(k + 1, features.shape[1]), sorted=True)
    tied = (values[:, 1:] == values[:, :-1]).any(1)
    chosen = chosen[:, :k]
    if bool(tied.any()):
        chosen[tied] = descending(features[tied])[:, :k]
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
