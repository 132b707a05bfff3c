"""The objective of QPM (Norrenbrock et al., ICLR 2025, arXiv 2502.20130): which features, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.sparse.problem import Problem, Scale
from decompose_cli.sparse.redundancy import redundancy
from decompose_cli.sparse.sets import distinct_sets
from decompose_cli.sparse.threads import in_few_threads

_LARGEST_LOCALITY = 0.316
_WEIGHT = 1000.0
_EPS = 1e-9


@dataclass(frozen=True)
class Selection:
    """What maximises the objective, as far as was found.

    Attributes:
        pool: The chosen features, ascending, int64 (P,).
        support: Which of them each class has, exactly k and no two classes the same, bool (C, D); no row for classes
            without images.
        objective: similarity - redundancy + locality.
        similarity: 1000 / (k C) sum of A over assigned pairs, A divided by its largest absolute value.
        redundancy: Sum of R over pairs of chosen features, each pair once.
        locality: Sum of B over chosen features; 0 without B.
    """

    pool: Tensor
    support: Tensor
    objective: float
    similarity: float
    redundancy: float
    locality: float


@in_few_threads
def select(
    problem: Problem,
    k: int,
    *,
    size: int = 50,
    locality: Tensor | None = None,
    restarts: int = 20,
    seed: int = 0,
) -> Selection:
    """Choose min(size, D) features and exactly k of them for each class, no two classes with the same set.

    Maximises 1000 / (k C) sum_(c,f) A_cf w_cf / max|A| - sum_(f<g) R_fg s_f s_g + sum_f B_f s_f, with w_cf = 1 where
    class c has f and s_f = 1 where f is chosen. Features are added one by one, and swapped while a single swap helps;
    the best sets of the classes in a pool are exact, so that no swap of an assignment helps either. Then a fifth of the
    pool is exchanged at random, and swaps begin again; what is better is kept. A step costs P x D x C.

    Args:
        problem: The images; their weights and soft targets are not used.
        k: Features per class.
        size: Features in all, P; all that vary where those are fewer.
        locality: B, (D,), from :func:`locality`; left out by default.
        restarts: Times that the pool is exchanged in part.
        seed: Of these.

    Raises:
        ValueError: The pool has fewer than k features, or fewer sets than there are classes.
    """
    columns = problem.scale.varies.nonzero()[:, 0].cpu()
    size = min(size, len(columns))
    if not 0 < k <= size:
        raise ValueError(f"k {k} is not in 1 to {size}, the number of features that are chosen")
    # What is chosen depends on comparisons of nearly equal numbers: made on the CPU, of 12 decimals, it is the same for
    # every device.
    similarities = correlations(problem.features, problem.labels, problem.num_classes).cpu().round(decimals=12)
    similarities = similarities[:, columns]
    present = (problem.labels.bincount(minlength=problem.num_classes) > 0).nonzero()[:, 0].cpu()
    similarities = similarities[present]
    weights = _WEIGHT / (k * len(present)) * similarities / similarities.abs().max().clamp(min=1e-300)
    bias = torch.zeros_like(weights[0]) if locality is None else locality.cpu().double()[columns]
    search = _Search(weights, redundancy(similarities, size), bias, k)
    distinct_sets(weights[:, :size], k)  # says where there are too few
    generator = torch.Generator("cpu").manual_seed(seed)
    best = search.climbed(search.grown([], size))
    for _ in range(restarts if size < len(columns) else 0):
        kept = torch.randperm(size, generator=generator, device="cpu")[: size - max(2, size // 5)]
        others = torch.randperm(len(columns), generator=generator, device="cpu").tolist()
        pool = [best[1][place] for place in kept.tolist()]
        pool += [feature for feature in others if feature not in pool][: size - len(pool)]
        found = search.climbed(pool)
        if found[0] > best[0] + _EPS:
            best = found
    own = columns.new_tensor(sorted(best[1]))
    chosen = distinct_sets(weights[:, own], k)
    support = torch.zeros(problem.num_classes, problem.num_features, dtype=torch.bool, device="cpu")
    support[present[:, None], columns[own]] = chosen
    parts = float(weights[:, own][chosen].sum()), search.penalty(own), float(bias[own].sum())
    places = columns[own].to(problem.device)
    return Selection(places, support.to(problem.device), parts[0] - parts[1] + parts[2], *parts)


class _Search:
    """Pools and their values; features are columns of the weights (C, D)."""

    def __init__(self, weights: Tensor, pairs: Tensor, bias: Tensor, k: int) -> None:
        self.weights, self.pairs, self.bias, self.k = weights, pairs, bias, k

    def penalty(self, pool: Tensor) -> float:
        """Sum over pairs, each once."""
        return float(self.pairs[pool[:, None], pool].sum()) / 2

    def value(self, pool: list[int]) -> float:
        """The objective of a pool with its best sets."""
        inside = torch.tensor(sorted(pool), device=self.weights.device)
        own = self.weights[:, inside]
        best = own[distinct_sets(own, self.k)].sum()
        return float(best) - self.penalty(inside) + float(self.bias[inside].sum())

    def grown(self, pool: list[int], size: int) -> list[int]:
        """A pool with one feature after another added, the best each time, where classes may have the same set."""
        pool = list(pool)
        while len(pool) < size:
            if len(pool) < self.k:
                gain = self.weights.sum(0)
            else:
                last = self.weights[:, pool].topk(self.k, dim=1).values[:, -1:]
                gain = (self.weights - last).clamp(min=0).sum(0)
            gain = gain - self.pairs[:, pool].sum(1) + self.bias
            gain[pool] = -float("inf")
            pool.append(int(gain.argmax()))
        return pool

    def climbed(self, pool: list[int]) -> tuple[float, list[int]]:
        """Swaps while one helps: the value and the pool."""
        value = self.value(pool)
        while True:
            bounds = self.swapped(pool)
            better = (bounds > value + _EPS).nonzero()
            order = bounds[better[:, 0], better[:, 1]].argsort(descending=True, stable=True)
            for place, added in better[order].tolist():
                tried = [*pool[:place], added, *pool[place + 1 :]]
                found = self.value(tried)
                if found > value + _EPS:
                    pool, value = tried, found
                    break
            else:
                return value, pool

    def swapped(self, pool: list[int]) -> Tensor:
        """The objective after each swap where classes may have the same set, which bounds it above, (P, D)."""
        inside = torch.tensor(pool, device=self.weights.device)
        own = self.weights[:, inside]
        more = min(self.k + 1, len(pool))
        values, places = own.topk(more, dim=1)
        last = values[:, self.k - 1]
        following = values[:, self.k] if more > self.k else torch.full_like(last, -float("inf"))
        total = values[:, : self.k].sum(1)
        pull = self.pairs[:, inside].sum(1)
        fixed = float(self.bias[inside].sum()) - self.penalty(inside)
        result = self.weights.new_empty(len(pool), self.weights.shape[1])
        for place, feature in enumerate(pool):
            has = (places[:, : self.k] == place).any(1)
            base = torch.where(has, total - own[:, place], total - last)
            rest = torch.where(has, following, last)
            best = torch.maximum(self.weights, rest[:, None]).sum(0) + base.sum()
            change = self.bias - self.bias[feature] - (pull - self.pairs[:, feature]) + pull[feature]
            result[place] = best + fixed + change
        result[:, inside] = -float("inf")
        return result


def correlations(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """A: Pearson correlation of each feature with membership of each class over images, float64 (C, D).

    0 for constant features and for classes that have no image or all of them.
    """
    scale = Scale.of(features)
    sums = scale.mean.new_zeros(num_classes, features.shape[1])
    step = max(1, (1 << 22) // features.shape[1])
    for begin in range(0, len(labels), step):
        sums.index_add_(0, labels[begin : begin + step], features[begin : begin + step].double())
    counts = labels.bincount(minlength=num_classes).double()
    share = counts / len(labels)
    spread = (share * (1 - share)).sqrt()[:, None]
    covariance = (sums - counts[:, None] * scale.mean) / len(labels)
    return torch.where(spread > 0, covariance * scale.inverse / spread, 0.0)


def locality(batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """B: how much of its map a feature puts on one place, float64 (D,), from -0.316 to 0.316.

    Mean over images of x_f / sum_g x_g times the largest position of the softmaxed map f. What lies beyond 1.5
    interquartile ranges of the quartiles is clipped to there, the mean is subtracted, and the largest absolute value
    made 0.316.

    Args:
        batches: Features (n, D), which are not negative, and their maps (n, D, H, W), batch by batch.

    Raises:
        ValueError: There are no images.
    """
    total: Tensor | None = None
    count = 0
    for x, maps in batches:
        x = x.double()
        flat = maps.flatten(2).double()
        peaks = (flat.amax(2) - flat.logsumexp(2)).exp()
        sums = x.sum(1, keepdim=True)
        part = (torch.where(sums > 0, x / sums, 0.0) * peaks).sum(0)
        total = part if total is None else total + part
        count += len(x)
    if total is None or count == 0:
        raise ValueError("there are no images")
    mean = total / count
    low, high = mean.quantile(mean.new_tensor([0.25, 0.75]))
    reach = 1.5 * (high - low)
    clipped = mean.clamp(low - reach, high + reach)
    centred = clipped - clipped.mean()
    largest = centred.abs().max()
    return centred * (_LARGEST_LOCALITY / largest) if float(largest) > 0 else centred
