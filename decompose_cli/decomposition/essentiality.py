"""Test whether the features of a class matter: put noise on them, or on all others, and see what the full head says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from decompose_cli.decomposition.noisy_logits import VALUES_AT_ONCE, FullHead, Judge
from decompose_cli.features.blocks import in_blocks
from decompose_cli.statistics import mean_interval
from decompose_cli.storage.fingerprints import digest_of

Noise = Literal["gaussian", "matched", "zero", "mean", "permute"]
NOISES: tuple[Noise, ...] = get_args(Noise)
DETERMINISTIC: tuple[Noise, ...] = ("zero", "mean")
_COLUMNS = (256, 8192)  # noisy images at once on a CPU and on other devices
# Random numbers are drawn in blocks of a multiple of 16 rows: torch makes normal numbers in groups of 16, and with
# whole groups the numbers do not depend on the size of the blocks.
_ROW_GROUP = 16
_CPU = "cpu"  # where noise and sets are drawn, the same for every device


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
    values_at_once: int = VALUES_AT_ONCE,
    device: torch.device | str = "cpu",
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
        features: Features (N, D), float32; they may be a read-only mapping of a file.
        labels: Labels, int64 (N,), in 0..C-1. Classes without images are left out of the result.
        weight: Weight (C, D) of the full head.
        bias: Bias (C,) of the full head.
        classes: Per class the indices of its features.
        noise: Kind of the noise. ``zero`` and ``mean`` are not random, so one repeat is computed.
        repeats: Draws of the noise, at least 1.
        controls: Random feature sets per class, of the size of the class's own set; they meet the same noise.
        seed: Seed of noise and random sets; each class has generators of its own.
        values_at_once: Upper limit of the elements of a temporary tensor.
        device: Where logits are computed; noise is drawn on the CPU, the same for every device.
        advance: Called with the number of images just finished, each of which is finished once per repeat.

    Returns:
        Essentiality by class number, ascending. The work is in matrix products, R N D C multiplications for R repeats
        and as a rule little more (see :mod:`.noisy_logits`); memory beside the features is bounded by a few times
        ``values_at_once`` elements.
    """
    mean = std = torch.empty(0)
    if noise in ("matched", "mean"):
        mean, std = _means(features).float(), features.std(0, correction=0)
    repeats = 1 if noise in DETERMINISTIC else repeats
    result = {}
    order = torch.argsort(labels, stable=True)
    ends = torch.bincount(labels, minlength=len(weight)).cumsum(0).tolist()
    with torch.inference_mode():
        head = FullHead.of(weight.to(device), bias.to(device))
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if end > start:
                own = _Images(features, order[start:end])
                drawer = _Drawer(noise, mean, std, own, _generator(seed, number, 0))
                sets = _sets(classes[number], features.shape[1], controls, _generator(seed, number, 1))
                judge = Judge(head, number, sets.to(device), values_at_once, is_random=noise not in DETERMINISTIC)
                result[number] = _one_class(judge, own, drawer, repeats, advance)
    return result


def _means(features: Tensor) -> Tensor:
    """Mean of each feature, float64 (D,)."""
    sums = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for _, block in in_blocks(features):
        sums += block.sum(0, dtype=torch.float64)
    return sums / len(features)


def _generator(seed: int, number: int, purpose: int) -> torch.Generator:
    """A generator for each class and purpose, independent of the others."""
    # The three numbers are mixed first, because torch looks at the lowest 32 bits of a seed only.
    return torch.Generator(_CPU).manual_seed(int(digest_of([seed, number, purpose])[:8], 16))


def _sets(own: Sequence[int], num_features: int, controls: int, generator: torch.Generator) -> Tensor:
    """The class's own features, then random ones, each row without repetition: (1 + controls, k)."""
    random = torch.rand(controls, num_features, generator=generator, device=_CPU).topk(len(own)).indices
    return torch.cat([torch.tensor([list(own)], dtype=torch.int64, device=_CPU), random])


class _Images:
    """The features of some images (n, D), of which those that are asked for are copied."""

    def __init__(self, features: Tensor, numbers: Tensor) -> None:
        self._features, self._numbers = features, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return self._features[self._numbers[rows]]


class _Drawer:
    """Noise for the images of one class, in blocks of rows; the rows of a repeat come in order."""

    def __init__(
        self, noise: Noise, mean: Tensor, std: Tensor, own: Tensor | _Images, generator: torch.Generator
    ) -> None:
        self.noise, self.mean, self.std, self.own, self.generator = noise, mean, std, own, generator
        self.order = torch.arange(len(own), device=_CPU)

    def start(self) -> None:
        """Begin a repeat."""
        if self.noise == "permute":
            self.order = torch.randperm(len(self.own), generator=self.generator, device=_CPU)

    def rows(self, rows: slice, given: Tensor) -> Tensor:
        """Noise for these images, whose features are given, (n, D)."""
        if self.noise == "permute":
            return self.own[self.order[rows]]
        if self.noise == "zero":
            return torch.zeros_like(given)
        if self.noise == "mean":
            return self.mean.expand(given.shape)
        # Whole groups of rows are drawn, so that a block at the end draws as it would in the middle.
        full = -(-len(given) // _ROW_GROUP) * _ROW_GROUP
        drawn = torch.randn(full, given.shape[1], generator=self.generator, device=_CPU)[: len(given)]
        return drawn * self.std + self.mean if self.noise == "matched" else drawn


def _one_class(
    judge: Judge, own: _Images, drawer: _Drawer, repeats: int, advance: Callable[[int], None]
) -> ClassEssentiality:
    images, device = len(own), judge.device
    rows_at_once = max(_ROW_GROUP, judge.columns_at_once // _ROW_GROUP * _ROW_GROUP)
    blocks = [slice(start, min(start + rows_at_once, images)) for start in range(0, images, rows_at_once)]
    # Few images are taken several times at once, with the noise of several repeats: products of few columns are slow.
    together = max(1, min(judge.columns_at_once, _COLUMNS[device.type != "cpu"]) // images)
    at_features, elsewhere = (torch.zeros(repeats, dtype=torch.int64, device=device) for _ in range(2))
    image_scores = torch.zeros(images, dtype=torch.int64, device=device)
    scores = torch.zeros(len(judge.sets), dtype=torch.int64, device=device)
    correct, known = 0, dict[int, Tensor]()  # clean logits of blocks, which all repeats need
    for first in range(0, repeats, together):
        some = range(first, min(first + together, repeats))
        for rows in blocks:
            given = own[rows]
            drawn = []
            for _ in some:  # in one block, if there are several
                if rows.start == 0:
                    drawer.start()
                drawn.append(drawer.rows(rows, given).to(device))
            given = given.to(device).t().contiguous()
            base = known.get(rows.start)
            if base is None:
                base = judge.logits(given)
                if images * len(base) <= judge.values_at_once:
                    known[rows.start] = base
            if first == 0:
                correct += int(judge.is_right(base).sum())
            kept_at, kept_else = judge.kept(given, base, torch.cat(drawn).t().contiguous())
            scores += kept_else.sum(1) - kept_at.sum(1)
            own_at, own_else = (kept[0].view(len(some), -1) for kept in (kept_at, kept_else))
            at_features[some.start : some.stop] += own_at.sum(1)
            elsewhere[some.start : some.stop] += own_else.sum(1)
            image_scores[rows] += own_else.sum(0) - own_at.sum(0)
            advance(own_at.numel())
    return ClassEssentiality(
        images,
        correct,
        at_features.cpu(),
        elsewhere.cpu(),
        image_scores.cpu().double() / repeats,
        scores[1:].cpu().double() / (repeats * images),
    )


def overall_controls(classes: dict[int, ClassEssentiality]) -> list[float]:
    """Score over the images of all classes for each control, the n-th random set of every class taken together."""
    total = sum(measured.images for measured in classes.values())
    weighted = [measured.control_scores * measured.images for measured in classes.values()]
    return (torch.stack(weighted).sum(0) / total).tolist() if weighted else []
