"""How accurate heads of features are that were drawn at random: the floor below every ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from decompose_cli.models.network import HeadTensors
from decompose_cli.sparse.problem import fitting_device

DRAWS = 100
MOST_IMAGES, MOST_KS = 10_000, 12
_FEWEST_IMAGES, _MOST_PRODUCTS = 1_000, 4e10


class Drawn(BaseModel):
    """Accuracy in percent over the draws: its mean, the smallest and the largest."""

    mean: float
    min: float
    max: float


class RandomRankings(BaseModel):
    """``by_k``: heads of so many features per class, each class's own, drawn at random with the full head's weights.

    ``draws``: how many rankings were drawn; one gives the sets of every k. ``images``: of those that are reported on
    how many were looked at.
    """

    draws: int
    images: int
    by_k: dict[str, Drawn]


def floor_ks(ks: Sequence[int]) -> list[int]:
    """At most twelve of some ascending numbers, evenly spaced by factors; the first and the last are among them."""
    if len(ks) <= MOST_KS:
        return list(ks)
    low, high = ks[0], ks[-1]
    wanted = [low * (high / low) ** (step / (MOST_KS - 1)) for step in range(MOST_KS)]
    return sorted({min(ks, key=lambda k: (abs(k - value), k)) for value in wanted})


def random_rankings(
    head: HeadTensors,
    features: Tensor,
    labels: Tensor,
    ks: Sequence[int],
    seed: int,
    *,
    held: Tensor | None = None,
    draws: int = DRAWS,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda _: None,
) -> RandomRankings:
    """Measure heads of features that were drawn at random.

    Of class c they have the logit z_c = b_c + sum of W_cj x_j over the first k features j of a random order.

    Args:
        head: The full head, W (C, D) and b (C,).
        features: Features (N, D); of more than 10,000 images, or of more than the work allows, some are drawn.
        labels: Class numbers, int64 (N,).
        ks: Ascending numbers of features per class.
        seed: Of the draws.
        held: Classes that keep all features, bool (C,); None for none.
        draws: How many rankings are drawn.
        device: Where logits are made.
        advance: Called with the number of rankings just finished.
    """
    generator = torch.Generator().manual_seed(seed)
    limit = int(_MOST_PRODUCTS / (draws * head.num_classes * ks[-1]))
    count = min(len(labels), MOST_IMAGES, max(_FEWEST_IMAGES, limit))
    if count < len(labels):
        numbers = torch.randperm(len(labels), generator=generator)[:count].sort().values
        features, labels = features[numbers], labels[numbers]
    device = fitting_device(device)
    table, truth = features.to(device).t().contiguous(), labels.to(device)
    weight, bias = head.weight.to(device), head.bias.to(device)[:, None]
    whole = None if held is None else held.to(device)
    full = bias + weight @ table if whole is not None else None
    shares: dict[int, list[float]] = {k: [] for k in ks}
    for _ in range(draws):
        order = torch.rand(head.num_classes, head.num_features, generator=generator).argsort(1)[:, : ks[-1]].to(device)
        logits, done = bias.expand(-1, count), 0
        for k in ks:
            new = order[:, done:k].contiguous()
            logits = logits + F.embedding_bag(new, table, per_sample_weights=weight.gather(1, new), mode="sum")
            done = k
            shown = logits if whole is None or full is None else torch.where(whole[:, None], full, logits)
            shares[k].append(100 * int((shown.argmax(0) == truth).sum()) / count)
        advance(1)
    by_k = {str(k): Drawn(mean=sum(found) / draws, min=min(found), max=max(found)) for k, found in shares.items()}
    return RandomRankings(draws=draws, images=count, by_k=by_k)


def winners(correct: dict[str, dict[int, int]]) -> list[tuple[tuple[str, ...], list[int]]]:
    """Which rankings get most images right, for runs of neighbouring k.

    Args:
        correct: Images that are right, by ranking and k.

    Returns:
        The rankings that are best for all k of a run, and the run; a run is as long as one of them stays best.
    """
    ks = sorted({k for found in correct.values() for k in found})
    runs: list[tuple[tuple[str, ...], list[int]]] = []
    for k in ks:
        there = {name: found[k] for name, found in correct.items() if k in found}
        most = max(there.values())
        best = tuple(name for name, count in there.items() if count == most)
        still = tuple(name for name in runs[-1][0] if name in best) if runs else ()
        if still:
            runs[-1] = (still, [*runs[-1][1], k])
        else:
            runs.append((best, [k]))
    return runs
