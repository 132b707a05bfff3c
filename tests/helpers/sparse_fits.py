"""Images for fits of heads of four classes and seven features, and the loss of a head, written out in float64."""

from __future__ import annotations

import torch
from torch import Tensor

CLASSES, FEATURES, IMAGES = 4, 7, 300


def images(count: int = IMAGES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features with means, scales and correlations, and labels that they say something of."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    centres = torch.randn(CLASSES, FEATURES, generator=generator)
    mixing = torch.randn(FEATURES, FEATURES, generator=generator) / 2
    x = centres[labels] + torch.randn(count, FEATURES, generator=generator) @ mixing
    return x * torch.logspace(-1, 1, FEATURES) + 3, labels


def written_out(
    x: Tensor, labels: Tensor, head: Tensor, targets: Tensor | None = None, a: Tensor | None = None
) -> Tensor:
    """The mean cross-entropy on standardised features, with nothing folded."""
    x = x.double()
    z = (x - x.mean(0)) / x.std(0, correction=0)
    logits = z @ head[:, :-1].t() + head[:, -1]
    logs = logits - logits.exp().sum(1, keepdim=True).log()
    t = torch.nn.functional.one_hot(labels, head.shape[0]).double() if targets is None else targets.double()
    a = torch.ones(len(x)).double() if a is None else a.double()
    return -(a[:, None] * t * logs).sum() / a.sum()


def some_head(seed: int = 3) -> Tensor:
    return torch.randn(CLASSES, FEATURES + 1, generator=torch.Generator().manual_seed(seed)).double() / 2
