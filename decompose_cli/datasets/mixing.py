"""Mix several training images into one, with targets to match: RICAP, mixup, CutMix.

All three give soft targets t (N, C) with rows that add up to 1. Cross-entropy is linear in its target, so
``cross_entropy(logits, t) = sum over k of weight_k * cross_entropy(logits, class_k)``, with label smoothing too: the
loss that the papers write as a sum.

Mixing pairs the images of a batch. Processes that share a batch therefore have to mix all of it and then take their
parts; else they would see other images than one process alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from decompose_cli.datasets.counter_random import Stream, derived_seed, seeded
from decompose_cli.errors import InputError


def ricap(images: Tensor, targets: Tensor, num_classes: int, beta: float = 0.3, *, seed: int) -> tuple[Tensor, Tensor]:
    """Put patches of four images side by side: random image cropping and patching (arXiv 1811.09030).

    A boundary point ``w = round(W * Beta(beta, beta))``, ``h = round(H * Beta(beta, beta))``, one for the batch, makes
    four fields of w or W - w columns and h or H - h rows. Each field takes patches of its size from the images of the
    batch, in an order of its own and from a place that is drawn once for the field; its share of the area is the weight
    of the class of the patch's image.

    Args:
        images: Images, float (N, 3, H, W).
        targets: Classes, int64 (N,).
        num_classes: Number of classes C.
        beta: Parameter of the Beta distribution; below 1, one of the four images mostly dominates.
        seed: Seed that alone decides all draws.

    Returns:
        Images (N, 3, H, W) in the memory format they had, and soft targets, float32 (N, C).
    """
    # torch's samplers of Beta and Gamma take no generator except by private names, so its global one is set instead.
    with seeded(seed):
        distribution = torch.distributions.Beta(beta, beta)
        height, width = images.shape[-2:]
        row, column = (round(length * float(distribution.sample())) for length in (height, width))
        mixed, soft = torch.empty_like(images), torch.zeros(len(targets), num_classes, device=targets.device)
        for top, bottom in ((0, row), (row, height)):
            for left, right in ((0, column), (column, width)):
                order = torch.randperm(len(images)).to(images.device)
                y = int(torch.randint(height - (bottom - top) + 1, ()))
                x = int(torch.randint(width - (right - left) + 1, ()))
                patches = images[:, :, y : y + bottom - top, x : x + right - left]
                mixed[:, :, top:bottom, left:right] = patches[order]
                area = (bottom - top) * (right - left) / (height * width)
                soft += area * one_hot(targets[order], num_classes)
    return mixed, soft


def mixup(images: Tensor, targets: Tensor, num_classes: int, alpha: float = 1.0, *, seed: int) -> tuple[Tensor, Tensor]:
    """Average neighbours in the batch, with a weight from Beta(alpha, alpha) (arXiv 1710.09412).

    Arguments and result are those of :func:`ricap`.
    """
    return _by_torchvision(v2.MixUp(alpha=alpha, num_classes=num_classes), images, targets, seed)


def cutmix(
    images: Tensor, targets: Tensor, num_classes: int, alpha: float = 1.0, *, seed: int
) -> tuple[Tensor, Tensor]:
    """Fill a rectangle of each image, of the area 1 - Beta(alpha, alpha), from its neighbour (arXiv 1905.04899).

    Arguments and result are those of :func:`ricap`.
    """
    return _by_torchvision(v2.CutMix(alpha=alpha, num_classes=num_classes), images, targets, seed)


def _by_torchvision(transform: v2.Transform, images: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    with seeded(seed):
        mixed, soft = transform(images, targets)
    # The images are copied into a tensor like the given one, because their memory format may have been lost.
    return torch.empty_like(images).copy_(mixed), soft


def mix(
    name: str,
    images: Tensor,
    targets: Tensor,
    num_classes: int,
    *seed_parts: int,
    strength: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix a whole batch in the named way.

    Args:
        name: ``none``, ``ricap``, ``mixup`` or ``cutmix``.
        images: Images, float (N, 3, H, W).
        targets: Classes, int64 (N,).
        num_classes: Number of classes C.
        seed_parts: Integers that decide the draws, such as seed, epoch and number of the batch.
        strength: ``beta`` of RICAP or ``alpha`` of the others, positive; by default as in their papers.

    Returns:
        Mixed images and soft targets, float32 (N, C); for ``none`` the given images and targets.

    Raises:
        InputError: The name is unknown.
    """
    if name == "none":
        return images, targets
    ways = {"ricap": (ricap, 0.3), "mixup": (mixup, 1.0), "cutmix": (cutmix, 1.0)}
    if name not in ways:
        raise InputError(f"There is no mixing {name!r}; choose none, {', '.join(list(ways)[:-1])} or {list(ways)[-1]}.")
    way, usual = ways[name]
    seed = derived_seed(Stream.MIXING, *seed_parts)
    return way(images, targets, num_classes, usual if strength is None else strength, seed=seed)
