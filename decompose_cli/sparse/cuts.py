"""Heads with few weights made from an elastic-net path: exactly k for each class, and the published cuts."""

from __future__ import annotations

import torch
from torch import Tensor

from decompose_cli.sparse.elastic_net import Path, PathPoint


def largest_per_class(weight: Tensor, k: int, then: Tensor | None = None) -> Tensor:
    """The support, bool (C, D), of the k largest |w| of every class.

    Args:
        weight: (C, D), on standardised features.
        k: At most D.
        then: (C, D), decides among weights of the same size, the larger first; after it the lower index.
    """
    size = weight.abs().double()
    order = torch.arange(size.shape[1], device=size.device).expand_as(size)
    for score in (size,) if then is None else (then, size):
        places = score.gather(1, order).argsort(dim=1, descending=True, stable=True)
        order = order.gather(1, places)
    return torch.zeros_like(size, dtype=torch.bool).scatter_(1, order[:, :k], True)


def exactly(path: Path, k: int) -> Tensor:
    """The support, bool (C, D), of the k largest weights of every class, at the first point at which each has k.

    Where a class has fewer on the whole path, the last point counts; a feature that it does not use there is taken by
    the largest weight that it had at any point.
    """
    point = next((point for point in path.points if int(_counts(point).min()) >= k), path.points[-1])
    largest = torch.zeros_like(point.head)
    for other in path.points:
        largest = torch.maximum(largest, other.head.abs())
    return largest_per_class(point.head[:, :-1], k, largest[:, :-1])


def nearest_the_mean(path: Path, mean: float) -> PathPoint:
    """The point whose number of weights per class is on average nearest to ``mean``; of two, the stronger penalty."""
    return min(path.points, key=lambda point: abs(point.weights / len(point.stored) - mean))


def sldd(path: Path, k: int) -> Tensor:
    """The published cut of SLDD (arXiv 2303.13166): a head (C, D + 1) on standardised features.

    Of the point with most weights up to 2k per class on average (the strongest penalty of those), the kC largest
    weights stay, with its biases. A class may be left with its bias alone.
    """
    head = max((p for p in path.points if p.weights <= 2 * k * len(p.stored)), key=lambda p: p.weights).head
    return torch.cat([torch.where(_largest(head[:, :-1], k), head[:, :-1], 0.0), head[:, -1:]], 1)


def ternary(path: Path, k: int) -> Tensor:
    """The published cut of Q-SENN (AAAI 2024): a head (C, D + 1) on standardised features with weights -a, 0, a.

    Of the last point the kC largest weights stay, each as its sign times their mean size a. Biases fall linearly in the
    number of positive minus negative weights, from max|b| for the class with the fewest to -max|b| for that with most;
    they are 0 where all classes have the same number. A class may be left with its bias alone.
    """
    head = path.points[-1].head
    weight, bias = head[:, :-1], head[:, -1]
    kept = _largest(weight, k)
    signs = torch.where(kept, weight.sign(), 0.0)
    size = weight[kept].abs().mean() if bool(kept.any()) else 0.0
    net = signs.sum(1)
    low, span = net.min(), net.max() - net.min()
    share = (net - low) / span if float(span) else torch.full_like(net, 0.5)
    return torch.cat([size * signs, (bias.abs().max() * (1 - 2 * share))[:, None]], 1)


def _counts(point: PathPoint) -> Tensor:
    return (point.head[:, :-1] != 0).sum(1)


def _largest(weight: Tensor, k: int) -> Tensor:
    """Where the kC largest |w| of all classes together are, at most those that are not zero."""
    count = min(k * len(weight), int((weight != 0).sum()))
    chosen = weight.abs().flatten().argsort(descending=True, stable=True)[:count]
    return torch.zeros_like(weight, dtype=torch.bool).flatten().index_fill_(0, chosen, True).view_as(weight)
