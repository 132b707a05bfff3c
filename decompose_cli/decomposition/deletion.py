"""Test whether the pixels that a map highlights matter: delete them, and see what the logit loses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FRACTION = 0.2
DRAWS = 10


def highlighted(maps: Tensor, size: tuple[int, int], fraction: float = FRACTION) -> Tensor:
    """The given share of the pixels of images where maps are highest.

    Args:
        maps: Maps (N, h, w).
        size: (H, W) of the images, to which maps are scaled bilinearly.
        fraction: Share of the pixels.

    Returns:
        Masks, bool (N, H, W), each with round(fraction H W) pixels set, at least one.
    """
    scaled = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False).flatten(1)
    count = max(1, round(fraction * scaled.shape[1]))
    chosen = scaled.argsort(dim=1, descending=True, stable=True)[:, :count]
    mask = torch.zeros_like(scaled, dtype=torch.bool).scatter_(1, chosen, True)
    return mask.view(len(maps), *size)


def places(size: tuple[int, int], seed: int, draws: int = DRAWS) -> list[tuple[int, int]]:
    """Draw rows and columns to move a shape by, around the borders of an image (H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (int(torch.randint(size[0], (), generator=generator)), int(torch.randint(size[1], (), generator=generator)))
        for _ in range(draws)
    ]


def deletion_drops(
    logit: Callable[[Tensor], Tensor], images: Tensor, whole: Tensor, mask: Tensor, moves: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """The losses of logits when the masked pixels, or an area of that shape elsewhere, become the mean colour.

    Args:
        logit: Takes normalised images (N, 3, H, W); returns the logit of a class of each, (N,).
        images: Images (N, 3, H, W), normalised, so that 0 is the mean colour.
        whole: Logits of the whole images, (N,).
        mask: Pixels to replace, bool (N, H, W).
        moves: Rows and columns that the mask is moved by, over which the second drop is averaged.

    Returns:
        Both drops, (N,) each.
    """
    here = whole - logit(images.masked_fill(mask[:, None], 0.0))
    elsewhere = torch.zeros_like(here)
    for move in moves:
        elsewhere += whole - logit(images.masked_fill(mask.roll(move, (1, 2))[:, None], 0.0))
    return here, elsewhere / len(moves)
