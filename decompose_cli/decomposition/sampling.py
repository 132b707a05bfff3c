"""Parts of very many images, on which searches look for features, methods and strengths."""

from __future__ import annotations

import torch
from torch import Tensor

from decompose_cli.features.blocks import VALUES_AT_ONCE
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.sparse.strength import stratified_part

MOST_FITTED = 1 << 37
"""N D C up to which heads are fitted on all images, however many: 67,108 images of 2048 features, 1000 classes."""
MOST_SEARCHED = 100_000
"""Images that a search looks at: 820 MB of 2048 features."""
_VALUES_HELD = 1 << 28  # 1 GB of float32


def part_of(labels: Tensor, share: float, seed: int) -> Tensor:
    """Numbers of images drawn at random: of each class a share, and one image at least, ascending, int64.

    Without an image of a class, its bias in a fit would run away.

    Args:
        labels: Class numbers, int64 (N,).
        share: Share of the images that is drawn, between 0 and 1.
        seed: Of the draw.
    """
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    drawn[stratified_part(labels, share, seed)[1]] = True
    classes, places = torch.unique(labels, return_inverse=True)
    numbers = torch.arange(len(labels))
    drawn[torch.full_like(classes, len(labels)).scatter_reduce_(0, places, numbers, "amin")] = True
    return drawn.nonzero()[:, 0]


def searched_numbers(labels: Tensor, seed: int = 0, width: int = 0) -> Tensor | None:
    """The images that a search looks at, drawn by class: at most 100,000; None for all, where there are no more.

    Args:
        labels: Class numbers, int64 (N,).
        seed: Of the draw.
        width: Numbers that the search holds for each image; where there are more images, those drawn hold 1 GB at most.
    """
    if len(labels) <= MOST_SEARCHED:
        return None
    # Rounding and classes of few images add at most one image of each.
    most = min(MOST_SEARCHED, _VALUES_HELD // max(1, width)) - len(torch.unique(labels))
    return part_of(labels, max(0, most) / len(labels), seed)


def fitted_numbers(labels: Tensor, width: int, seed: int = 0) -> Tensor | None:
    """The images that heads are fitted on whose features are held for it, drawn by class; None for all.

    Of more than 100,000 images so many take part that fits are quick and their features take little room: 50,000 to
    100,000, and one of each class at least; all where features and classes are few.

    Args:
        labels: Class numbers, int64 (N,).
        width: Features times classes.
        seed: Of the draw.
    """
    total = len(labels)
    if total <= MOST_SEARCHED or total * width <= MOST_FITTED:
        return None
    most = min(MOST_SEARCHED, max(MOST_SEARCHED // 2, MOST_FITTED // width))
    return part_of(labels, most / total, seed)


def searched_part(data: LabelledFeatures, seed: int = 0) -> LabelledFeatures:
    """The images that a search looks at: at most 100,000, drawn by class."""
    numbers = searched_numbers(data.labels, seed)
    return data if numbers is None else data.of_images(numbers)


def count_searched(labels: Tensor, *, is_searched: bool = True) -> int | None:
    """How many images :func:`searched_part` has; None where these are all, or where nothing is searched."""
    numbers = searched_numbers(labels) if is_searched else None
    return None if numbers is None else len(numbers)


def held_by_feature(features: Tensor, numbers: Tensor) -> Tensor:
    """Some images (n, D), copied so that those who look at one feature at a time need no copy of their own."""
    table = features.new_empty(features.shape[1], len(numbers))
    step = max(1, VALUES_AT_ONCE // features.shape[1])
    for start in range(0, len(numbers), step):
        table[:, start : start + step] = features[numbers[start : start + step]].t()
    return table.t()
