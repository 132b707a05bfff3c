"""Test whether the features of a class matter: put noise on them, or on all others, and see what the full head says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from decompose_cli.statistics import mean_interval
from decompose_cli.storage.fingerprints import digest_of

Noise = Literal["gaussian", "matched", "zero", "mean", "permute"]
NOISES: tuple[Noise, ...] = get_args(Noise)
DETERMINISTIC: tuple[Noise, ...] = ("zero", "mean")
_VALUES_AT_ONCE = 1 << 24  # 64 MB of float32, for the largest of a handful of temporary tensors
_VALUES_IN_CACHE = 1 << 18
# Random numbers are drawn in blocks of a multiple of 16 rows: torch makes normal numbers in groups of 16, and with
# whole groups the numbers do not depend on the size of the blocks.
_ROW_GROUP = 16


@dataclass(frozen=True)
class ClassEssentiality:
    """The images of one class that the full head still assigns to it.

    Attributes:
        images: Number of images of the class, n.
        clean: Images assigned to the class without noise.
        at_features: Per repeat the images assigned with noise on the class's own features, int64 (repeats,).
        elsewhere: Per repeat the images assigned with noise on all other features, int64 (repeats,).
        image_scores: Per image the share of repeats in which it is kept with noise elsewhere minus the share in which
            it is kept with noise on the features, float64 (n,), in [-1, 1].
        control_scores: Mean of the image scores for each random set of features, float64 (controls,).
    """

    images: int
    clean: int
    at_features: Tensor
    elsewhere: Tensor
    image_scores: Tensor
    control_scores: Tensor

    @property
    def score(self) -> float:
        """Essentiality: accuracy kept with noise elsewhere minus accuracy kept with noise on the features."""
        return float(self.image_scores.mean())


@dataclass(frozen=True)
class Summary:
    """Mean of a count over the repeats, its standard error, and the 95% interval of the mean (Student's t).

    Error and interval are None for a single repeat of random noise, and zero where the noise is not random.
    """

    mean: float
    se: float | None
    ci95: tuple[float, float] | None


def summarize(counts: Tensor, *, random: bool = True) -> Summary:
    """Summarise counts (repeats,), float or integer."""
    if not random:
        value = float(counts[0])
        return Summary(value, 0.0, (value, value))
    return Summary(*mean_interval(counts.double().tolist()))


def permutation_p(observed: float, controls: Sequence[float]) -> float | None:
    """p = (1 + number of controls at least as large as the observed score) / (1 + number of controls).

    It is None without controls. Scores within 1e-9 count as equal: they are sums of the same few fractions in different
    orders.
    """
    if not controls:
        return None
    return (1 + sum(value >= observed - 1e-9 for value in controls)) / (1 + len(controls))


def essentiality(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    classes: Sequence[Sequence[int]],
    *,
    noise: Noise = "gaussian",
    repeats: int = 30,
    controls: int = 100,
    seed: int = 0,
    values_at_once: int = _VALUES_AT_ONCE,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[int, ClassEssentiality]:
    """Put noise on the features of each class and on all its others, image by image of the class.

    With x the features of an image of class c, z noise of the same length, S the features of the class and W, b the
    full head, the two noisy vectors are z on S and x elsewhere, and x on S and z elsewhere. Their logits are

        W x + b + P    and    W z + b - P,    where P = W[:, S] (z - x)[S],

    so one product of |S| columns serves both, and a random set of the same size costs the same again. The two use
    disjoint parts of z, so they are as independent as with the two draws of the published code (arXiv 2112.07719). An
    image counts if the largest logit, the first among equals, is that of c. A class without features has noise
    on nothing, and on everything.

    Noise, per repeat, image and feature:

    - ``gaussian``: standard normal, whatever the features look like (as published).
    - ``matched``: normal with the mean and standard deviation that the feature has over all the images given.
    - ``zero``: 0.
    - ``mean``: the mean that the feature has over all the images given.
    - ``permute``: the features of another image of the class, all taken from the same one; images trade places by a
      random permutation, so one may meet itself (always, if it is alone in its class).

    Args:
        features: Features (N, D), float32.
        labels: Labels, int64 (N,), in 0..C-1. Classes without images are left out of the result.
        weight: Weight (C, D) of the full head.
        bias: Bias (C,) of the full head.
        classes: Per class the indices of its features.
        noise: Kind of the noise. ``zero`` and ``mean`` are not random, so one repeat is computed.
        repeats: Draws of the noise, at least 1.
        controls: Random feature sets per class, of the size of the class's own set; they meet the same noise.
        seed: Seed of noise and random sets; each class has generators of its own.
        values_at_once: Upper limit of the elements of a temporary tensor.
        advance: Called with the number of classes just finished.

    Returns:
        Essentiality by class number, ascending. The work is in matrix products; memory beside the features is bounded
        by a few times ``values_at_once`` elements, one (n, D) and one (n, C) tensor.
    """
    mean = std = torch.empty(0)
    if noise in ("matched", "mean"):
        mean, std = features.mean(0, dtype=torch.float64).float(), features.std(0, correction=0)
    repeats = 1 if noise in DETERMINISTIC else repeats
    result = {}
    by_feature = weight.t().contiguous()  # once: large blocks that come and go between small ones fragment the heap
    order = torch.argsort(labels, stable=True)
    ends = torch.bincount(labels, minlength=len(weight)).cumsum(0).tolist()
    with torch.inference_mode():
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if end > start:
                own = features[order[start:end]]
                drawer = _Drawer(noise, mean, std, own, _generator(seed, number, 0))
                sets = _sets(classes[number], features.shape[1], controls, _generator(seed, number, 1))
                result[number] = _one_class(
                    number, own, (weight, by_feature, bias), sets, drawer, repeats, values_at_once
                )
            advance(1)
    return result


def _generator(seed: int, number: int, purpose: int) -> torch.Generator:
    """A generator for each class and purpose, independent of the others."""
    # The three numbers are mixed first, because torch looks at the lowest 32 bits of a seed only.
    return torch.Generator().manual_seed(int(digest_of([seed, number, purpose])[:8], 16))


def _sets(own: Sequence[int], num_features: int, controls: int, generator: torch.Generator) -> Tensor:
    """The class's own features, then random ones, each row without repetition: (1 + controls, k)."""
    random = torch.rand(controls, num_features, generator=generator).topk(len(own)).indices
    return torch.cat([torch.tensor([list(own)], dtype=torch.int64), random])


class _Drawer:
    """Noise for the images of one class, in blocks of rows; the rows of a repeat come in order."""

    def __init__(self, noise: Noise, mean: Tensor, std: Tensor, own: Tensor, generator: torch.Generator) -> None:
        self.noise, self.mean, self.std, self.own, self.generator = noise, mean, std, own, generator
        self.order = torch.arange(len(own))

    def start(self) -> None:
        """Begin a repeat."""
        if self.noise == "permute":
            self.order = torch.randperm(len(self.own), generator=self.generator)

    def rows(self, rows: slice) -> Tensor:
        """Noise for these images, (n, D)."""
        shape = self.own[rows].shape
        if self.noise == "permute":
            return self.own[self.order[rows]]
        if self.noise == "zero":
            return torch.zeros(shape)
        if self.noise == "mean":
            return self.mean.expand(shape)
        # Whole groups of rows are drawn, so that a block at the end draws as it would in the middle.
        full = -(-shape[0] // _ROW_GROUP) * _ROW_GROUP
        drawn = torch.randn(full, shape[1], generator=self.generator)[: shape[0]]
        return drawn * self.std + self.mean if self.noise == "matched" else drawn


def _one_class(
    number: int,
    own: Tensor,
    head: tuple[Tensor, Tensor, Tensor],
    sets: Tensor,
    drawer: _Drawer,
    repeats: int,
    values_at_once: int,
) -> ClassEssentiality:
    weight, by_feature, bias = head
    images, (amount, k), classes = len(own), sets.shape, len(weight)
    # Images are the last dimension throughout, so that everything but the products runs along rows of memory.
    # A block has so many images that neither noise (rows, D) nor logits of one set (C, rows) pass the limit, and so
    # many sets that their logits stay in the cache of a core.
    rows_at_once = max(_ROW_GROUP, values_at_once // max(own.shape[1], classes) // _ROW_GROUP * _ROW_GROUP)
    blocks = [slice(start, start + rows_at_once) for start in range(0, images, rows_at_once)]
    is_random = drawer.noise not in DETERMINISTIC
    width = max(classes, k if is_random else own.shape[1])
    largest = max(min(rows_at_once, images) * width, k * classes)  # of the tensors of one set
    sets_at_once = max(1, min(values_at_once, _VALUES_IN_CACHE) // largest)
    some_sets = [slice(start, start + sets_at_once) for start in range(0, amount, sets_at_once)]
    clean = [weight @ own[rows].t() + bias[:, None] for rows in blocks]
    at_features, elsewhere = torch.zeros(repeats, dtype=torch.int64), torch.zeros(repeats, dtype=torch.int64)
    image_scores, scores = torch.zeros(images, dtype=torch.int64), torch.zeros(amount, dtype=torch.int64)
    for repeat in range(repeats):
        drawer.start()
        for rows, base in zip(blocks, clean, strict=True):
            drawn, given = drawer.rows(rows).t().contiguous(), own[rows].t().contiguous()
            noisy, change = weight @ drawn + bias[:, None], drawn - given
            for position, some in enumerate(some_sets):
                if is_random:
                    chosen = sets[some].flatten()
                    columns = by_feature[chosen].view(len(sets[some]), k, classes).transpose(1, 2)
                    product = columns @ change[chosen].view(len(sets[some]), k, change.shape[1])
                    at, other = base + product, noisy - product
                else:  # rare enough to do at length: differences would leave rounding where nothing is left
                    replaced = torch.zeros(len(sets[some]), len(given), 1, dtype=torch.bool)
                    replaced[:, :, 0].scatter_(1, sets[some], value=True)
                    at = weight @ torch.where(replaced, drawn, given) + bias[:, None]
                    other = weight @ torch.where(replaced, given, drawn) + bias[:, None]
                kept_at, kept_else = _is_largest(at, number), _is_largest(other, number)
                scores[some] += kept_else.sum(1) - kept_at.sum(1)
                if position == 0:
                    at_features[repeat] += kept_at[0].sum()
                    elsewhere[repeat] += kept_else[0].sum()
                    image_scores[rows] += kept_else[0].long() - kept_at[0].long()
    correct = sum(int(_is_largest(base[None], number).sum()) for base in clean)
    return ClassEssentiality(
        images,
        correct,
        at_features,
        elsewhere,
        image_scores.double() / repeats,
        scores[1:].double() / (repeats * images),
    )


def _is_largest(logits: Tensor, number: int) -> Tensor:
    """Whether the class has the largest logit, the first among equals: (sets, C, n) to bool (sets, n)."""
    own = logits[:, number]
    kept = torch.ones_like(own, dtype=torch.bool)
    if number > 0:
        kept &= own > logits[:, :number].amax(1)
    if number + 1 < logits.shape[1]:
        kept &= own >= logits[:, number + 1 :].amax(1)
    return kept


def overall_controls(classes: dict[int, ClassEssentiality]) -> list[float]:
    """Score over the images of all classes for each control, the n-th random set of every class taken together."""
    total = sum(measured.images for measured in classes.values())
    weighted = [measured.control_scores * measured.images for measured in classes.values()]
    return (torch.stack(weighted).sum(0) / total).tolist() if weighted else []
