"""Images for searches of sparse heads, and the loss that they lower, written out in float64."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from decompose_cli.sparse.problem import Problem, Rest, Scale


def images(classes: int, features: int, count: int, seed: int = 0, wrong: float = 0.0) -> tuple[Tensor, Tensor]:
    """Correlated features with means and scales of their own, and labels, a share of which is wrong."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, features, generator=generator)
    mixing = torch.randn(features, features, generator=generator) / 2
    x = centres[labels] + torch.randn(count, features, generator=generator) @ mixing
    drawn = torch.randint(0, classes, (count,), generator=generator)
    labels = torch.where(torch.rand(count, generator=generator) < wrong, drawn, labels)
    return x * torch.logspace(-1, 1, features) + 3, labels


def standardised(x: Tensor) -> Tensor:
    """z with a last column of ones, float64 (N, D + 1)."""
    x = x.double()
    deviation = x.std(0, correction=0)
    z = torch.where(deviation > 0, (x - x.mean(0)) / deviation, 0.0)
    return torch.cat([z, z.new_ones(len(z), 1)], 1)


def beside(
    x: Tensor,
    labels: Tensor,
    head: Tensor,
    held: Tensor,
    scale: Scale | None = None,
    *,
    targets: Tensor | None = None,
    image_weights: Tensor | None = None,
) -> Problem:
    """The problem of the classes that are not held, bool (C,), beside those that are, with a head (C, D + 1) on z."""
    scale = scale or Scale.of(x)
    rest = Rest.of(
        *scale.folded(head[:, :-1], head[:, -1]), held, x, labels if targets is None else targets, torch.float64
    )
    return Problem(
        x,
        ((~held).cumsum(0) - 1)[labels],
        int((~held).sum()),
        scale,
        targets=None if targets is None else targets[:, ~held],
        image_weights=image_weights,
        rest=rest,
    )


def penalised_loss(x: Tensor, t: Tensor, head: Tensor, l2: float, a: Tensor | None = None) -> Tensor:
    """Mean cross-entropy towards targets t (N, C) with images weighted by a, and (l2 / 2) |W|^2."""
    logs = (standardised(x) @ head.t()).log_softmax(1)
    a = torch.ones(len(x)).double() if a is None else a.double()
    return -(a[:, None] * t.double() * logs).sum() / a.sum() + l2 / 2 * head[:, :-1].square().sum()


def all_supports(classes: int, features: int, k: int) -> Tensor:
    """Every choice of k features for each class, bool (n, C, D)."""
    sets = torch.tensor(
        [[f in chosen for f in range(features)] for chosen in itertools.combinations(range(features), k)]
    )
    return sets[torch.cartesian_prod(*[torch.arange(len(sets))] * classes)]


def minima(x: Tensor, labels: Tensor, supports: Tensor, l2: float) -> Tensor:
    """The least penalised loss at each of many supports (n, C, D), by Newton's steps on all of them at once, (n,)."""
    z = standardised(x)
    number, classes, features = supports.shape
    t = torch.nn.functional.one_hot(labels, classes).double()
    free = torch.cat([supports, torch.ones(number, classes, 1, dtype=torch.bool)], 2).double()
    penalty = torch.full((features + 1,), l2, dtype=torch.float64)
    penalty[-1] = 1e-12
    pairs = (z[:, :, None] * z[:, None, :]).flatten(1)
    flat = free.flatten(1)

    def value(heads: Tensor) -> Tensor:
        logits = torch.einsum("nd,bcd->bnc", z, heads)
        return (logits.logsumexp(2) - (logits * t).sum(2)).mean(1) + l2 / 2 * heads[:, :, :-1].square().sum((1, 2))

    heads = torch.zeros_like(free)
    values = value(heads)
    for _ in range(100):
        p = torch.einsum("nd,bcd->bnc", z, heads).softmax(2)
        gradient = (torch.einsum("bnc,nd->bcd", p - t, z) / len(z) + penalty * heads) * free
        blocks = [
            [(p[:, :, c] * (float(c == d) - p[:, :, d]) @ pairs / len(z)) for d in range(classes)]
            for c in range(classes)
        ]
        hessian = torch.stack([torch.stack(row, 1) for row in blocks], 1)
        hessian = hessian.view(number, classes, classes, features + 1, features + 1).transpose(2, 3).flatten(1, 2)
        hessian = hessian.flatten(2) * flat[:, :, None] * flat[:, None, :]
        hessian.diagonal(dim1=1, dim2=2).add_(penalty.repeat(classes) + 1e-9 + (1 - flat))
        step = torch.linalg.solve(hessian, gradient.flatten(1)).view_as(heads)
        length = torch.ones(number, 1, 1, dtype=torch.float64)
        for _ in range(30):
            worse = value(heads - length * step) > values + 1e-15
            length = torch.where(worse[:, None, None], length / 2, length)
            if not bool(worse.any()):
                break
        heads = heads - length * step
        before, values = values, value(heads)
        if float((before - values).max()) < 1e-12:
            return values
    raise AssertionError("Newton's steps did not end")
