"""The choice of the strength of a penalty, on images that were not fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from decompose_cli.sparse.problem import Problem, Rest
from decompose_cli.sparse.threads import in_few_threads

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(-2, -11, -1))
"""Strengths that are tried, the strongest first: 0.1 to 1e-5 in half decades."""


_ENOUGH = 0.01  # nats: 99% for the right class


@dataclass(frozen=True)
class Tried:
    """A strength, the mean cross-entropy of its head on the choosing images, and the standard error of that mean."""

    l2: float
    loss: float
    error: float


@dataclass(frozen=True)
class Strength:
    """The strength that was chosen, and those that were tried, the strongest first."""

    l2: float
    tried: tuple[Tried, ...]


@in_few_threads
def choose_strength(
    problem: Problem,
    fitted: Callable[[float], Tensor],
    features: Tensor,
    labels: Tensor,
    strengths: Sequence[float] = STRENGTHS,
    *,
    rest: Rest | None = None,
) -> Strength:
    """Choose by the one-standard-error rule: the strongest within one standard error of the smallest mean loss.

    A network fits the images that it was trained on nearly without error, so the smallest loss on some of them speaks
    for too little regularisation (Breiman et al., Classification and Regression Trees, 1984, for the rule). Where a
    strength leaves a mean loss below 0.01, weaker ones are not tried: weights would grow, and little be gained.

    Args:
        problem: The images that are fitted.
        fitted: Takes a strength; returns the head (C, D + 1) on standardised features.
        features: Features of the choosing images, (n, D), n >= 1.
        labels: Their class numbers, int64 (n,); -1 for a class of the rest.
        strengths: What is tried, descending.
        rest: What classes beside those of the head have in the loss of these images.
    """
    tried = []
    for l2 in strengths:
        losses = losses_of(problem, fitted(l2), features, labels, rest)
        error = float(losses.std(correction=1)) / len(losses) ** 0.5 if len(losses) > 1 else 0.0
        tried.append(Tried(l2, float(losses.mean()), error))
        if tried[-1].loss < _ENOUGH:
            break
    best = min(tried, key=lambda one: one.loss)
    return Strength(next(one.l2 for one in tried if one.loss <= best.loss + best.error), tuple(tried))


def losses_of(problem: Problem, head: Tensor, features: Tensor, labels: Tensor, rest: Rest | None = None) -> Tensor:
    """Cross-entropy of each of some images (n, D) by a head on standardised features, float64 (n,)."""
    weight, bias = problem.scale.folded(head[:, :-1], head[:, -1])
    losses = []
    for start in range(0, len(labels), problem.step):
        rows = slice(start, start + problem.step)
        logits, truth = torch.addmm(bias, features[rows].double(), weight.t()), labels[rows]
        if rest is None:
            losses.append(F.cross_entropy(logits, truth, reduction="none"))
            continue
        own = torch.where(truth >= 0, logits.gather(1, truth.clamp(min=0)[:, None])[:, 0], 0.0)
        total = torch.logaddexp(logits.logsumexp(1), rest.log_sums[rows].double())
        losses.append(total - own - rest.meant[rows].double())
    return torch.cat(losses)


def stratified_part(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide images: of each class, a share drawn at random (at least one where it has two), and the others.

    Args:
        labels: Class numbers, int64 (N,).
        share: Share of the images that is drawn, between 0 and 1.
        seed: Of the draw.

    Returns:
        Numbers of the others and of those drawn, ascending, int64.
    """
    generator = torch.Generator().manual_seed(seed)  # on the CPU, where it draws the same for every device
    drawn = torch.zeros_like(labels, dtype=torch.bool)
    counts = torch.unique(labels, return_counts=True)[1].tolist()
    for own in torch.split(labels.argsort(stable=True), counts):  # of each class, ascending
        count = max(round(share * len(own)), 1 if len(own) > 1 else 0)
        chosen = torch.randperm(len(own), generator=generator, device="cpu")[:count]
        drawn[own[chosen.to(own.device)]] = True
    return (~drawn).nonzero()[:, 0], drawn.nonzero()[:, 0]
