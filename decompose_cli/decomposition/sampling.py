"""Parts of very many images, on which searches look for features, methods and strengths."""

from __future__ import annotations

import torch
from torch import Tensor

from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.sparse.strength import stratified_part

MOST_SEARCHED = 100_000
"""Images that a search looks at: 820 MB of 2048 features."""


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


def searched_numbers(labels: Tensor, seed: int = 0) -> Tensor | None:
    """The images that a search looks at, drawn by class: at most 100,000; None for all, where there are no more."""
    if len(labels) <= MOST_SEARCHED:
        return None
    # Rounding and classes of few images add at most one image of each.
    most = max(0, MOST_SEARCHED - len(torch.unique(labels)))
    return part_of(labels, most / len(labels), seed)


def searched_part(data: LabelledFeatures, seed: int = 0) -> LabelledFeatures:
    """The images that a search looks at: at most 100,000, drawn by class."""
    numbers = searched_numbers(data.labels, seed)
    return data if numbers is None else data.of_images(numbers)
