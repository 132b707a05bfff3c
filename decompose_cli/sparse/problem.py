"""The smooth part of a fit: mean cross-entropy of a linear head on standardised features, and its gradient."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_VALUES_AT_ONCE = 1 << 22  # of a block of logits: 32 MB of float64
_MOST_IMAGES_AT_ONCE = 3072  # whose logits of few classes stay in the cache; of ten, torch leaves them to one thread
_IN_DOUBLE = 1 << 29  # products of an evaluation (N D C) up to which features are held in float64


def fitting_device(device: torch.device | str) -> torch.device:
    """Where fits run for what else runs on a device: there, but for mps on the CPU, as mps has no float64.

    >>> fitting_device("cuda:1"), fitting_device("mps")
    (device(type='cuda', index=1), device(type='cpu'))
    """
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


@dataclass(frozen=True)
class Scale:
    """Standardisation of features: z = (x - mean) / deviation, by the images that are fitted.

    Attributes:
        mean: Mean of each feature, float64 (D,).
        deviation: Standard deviation of each feature (with N in the denominator), float64 (D,); 0 where a feature is
            constant, which has z = 0 for every image.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Scale:
        """Measure features (N, D), N >= 1.

        Weights of images play no part: with and without them, features and penalties have the same scale.
        """
        total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
        squares = torch.zeros_like(total)
        blocks = features.split(max(1, _VALUES_AT_ONCE // features.shape[1]))  # type: ignore[no-untyped-call]
        for block in blocks:
            total += block.double().sum(0)
        mean = total / len(features)
        for block in blocks:
            squares += (block.double() - mean).square().sum(0)
        deviation = (squares / len(features)).sqrt()
        # A feature that varies by rounding alone is constant.
        return cls(mean, torch.where(deviation > 1e-6 * mean.abs(), deviation, 0.0))

    def to(self, device: torch.device | str) -> Scale:
        """The same on a device."""
        return Scale(self.mean.to(device), self.deviation.to(device))

    @property
    def varies(self) -> Tensor:
        """Whether each feature is not constant, bool (D,)."""
        return self.deviation > 0

    @cached_property
    def inverse(self) -> Tensor:
        """1 / deviation, and 0 where a feature is constant, (D,)."""
        return torch.where(self.varies, 1 / self.deviation, 0.0)

    def standardised(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The head on z that gives the logits of ``weight`` (C, D) and ``bias`` (C,) on x; float64."""
        weight, bias = weight.double(), bias.double()
        return weight * self.deviation, bias + weight @ self.mean

    def folded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The head on x that gives the logits of ``weight`` (C, D) and ``bias`` (C,) on z; float64."""
        on_x = weight.double() * self.inverse
        return on_x, bias.double() - on_x @ self.mean


def precision_of(features: Tensor, num_classes: int) -> torch.dtype:
    """What fits to features (N, D) are computed in: float64 for small problems, float32 for large ones."""
    return torch.float64 if features.numel() * num_classes <= _IN_DOUBLE else torch.float32


@dataclass(frozen=True)
class Rest:
    """What classes beside those that are fitted, whose logits are constants, have in the loss of each image.

    Attributes:
        log_sums: r_i, the logarithm of the sum of their exp(logit), (N,).
        meant: The sum of their targets times their logits, (N,).
    """

    log_sums: Tensor
    meant: Tensor

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor, held: Tensor, features: Tensor, targets: Tensor, dtype: torch.dtype
    ) -> Rest:
        """Make it of the head of all classes, in blocks of images.

        Args:
            weight: Weights of all classes on x, (C, D).
            bias: Their biases, (C,).
            held: Which of them are the rest, bool (C,), at least one.
            features: x, (N, D), where it is computed.
            targets: Shares of all classes, (N, C), or the class numbers, int64 (N,).
            dtype: What it is computed in.
        """
        weight, bias = (each[held].to(features.device, dtype) for each in (weight, bias))
        places = torch.where(held, held.cumsum(0) - 1, -1)
        log_sums, meant = features.new_empty(2, len(features), dtype=dtype)
        step = max(1, _VALUES_AT_ONCE // max(weight.shape))
        for start in range(0, len(features), step):
            rows = slice(start, start + step)
            logits = torch.addmm(bias, features[rows].to(dtype), weight.t())
            log_sums[rows] = logits.logsumexp(1)
            if targets.dim() == 2:
                meant[rows] = (logits * targets[rows][:, held].to(features.device)).sum(1)
            else:
                place = places[targets[rows]].to(features.device)
                own = logits.gather(1, place.clamp(min=0)[:, None])[:, 0]
                meant[rows] = torch.where(place >= 0, own, 0.0)
        return cls(log_sums, meant)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Rest:
        """The same on a device."""
        return Rest(self.log_sums.to(device, dtype), self.meant.to(device, dtype))


class Problem:
    """Mean over images of the weighted cross-entropy of softmax(W z + b) towards targets.

    f(W, b) = sum_i a_i [log sum_c exp(l_ic) - sum_c t_ic l_ic] / sum_i a_i, with l_i = W z_i + b. Features stay as they
    are given: standardisation is folded into the head, and images are taken in blocks, so that nothing larger than a
    block of logits is made.

    Beside the C classes there may be others whose logits are constants: exp(r_i) is added to the sum over c, and the
    share that targets have for them counts with their logits.

    Args:
        features: x, (N, D). Where they are, there everything is computed; heads and supports are to be there as well.
        labels: Class numbers, int64 (N,).
        num_classes: C.
        scale: Standardisation; by default that of the features.
        targets: t, (N, C), in place of the labels; rows sum to one, or with a rest to at most one.
        image_weights: a, (N,), positive; by default 1. The scale is not theirs.
        rest: What other classes have in the loss; by default there are none.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        num_classes: int,
        scale: Scale | None = None,
        *,
        targets: Tensor | None = None,
        image_weights: Tensor | None = None,
        rest: Rest | None = None,
    ) -> None:
        self.scale = scale or Scale.of(features)
        self.labels, self.num_classes = labels.to(features.device), num_classes
        self.dtype = precision_of(features, num_classes)
        self.features = features.to(self.dtype)
        self.targets = None if targets is None else targets.to(features.device, self.dtype)
        weights = None if image_weights is None else image_weights.to(features.device).double()
        self.total = float(len(labels)) if weights is None else float(weights.sum())
        self.image_weights = None if weights is None else weights.to(self.dtype)
        self.rest = None if rest is None else rest.to(features.device, self.dtype)
        self.step = max(1, _VALUES_AT_ONCE // num_classes)
        self.at_once = min(self.step, _MOST_IMAGES_AT_ONCE)

    @cached_property
    def in_single(self) -> Problem:
        """The same on standardised features in float32, evaluated in less than half the time; itself where it is one.

        Float32 has the digits of z then, and not those of means that are far from 0.
        """
        if self.dtype == torch.float32:
            return self
        single = copy(self)
        single.dtype, scale = torch.float32, self.scale
        single.scale = Scale(torch.zeros_like(scale.mean), scale.varies.double())
        single.features = torch.cat(
            [(x - scale.mean).mul_(scale.inverse).float() for x in torch.split(self.features, self.at_once)]
        )
        single.targets = None if self.targets is None else self.targets.float()
        single.image_weights = None if self.image_weights is None else self.image_weights.float()
        single.rest = None if self.rest is None else self.rest.to(self.device, torch.float32)
        return single

    @property
    def device(self) -> torch.device:
        """Where the features are, and with them all that is fitted."""
        return self.features.device

    @property
    def products(self) -> int:
        """N D C, those of an evaluation with whole matrices."""
        return self.features.numel() * self.num_classes

    @property
    def num_features(self) -> int:
        """D."""
        return self.features.shape[1]

    def logits(self, head: Tensor, rows: slice | Tensor = slice(None)) -> Tensor:
        """Logits (n, C) of some images by a head (C, D + 1) on z, whose last column is the bias."""
        weight, bias = self.scale.folded(head[:, :-1], head[:, -1])
        return torch.addmm(bias.to(self.dtype), self.features[rows], weight.to(self.dtype).t())

    def value_and_gradient(self, head: Tensor) -> tuple[float, Tensor]:
        """f and its gradient, float64 (C, D + 1), for a head (C, D + 1) on z, whose last column is the bias."""
        weight, bias = self.scale.folded(head[:, :-1], head[:, -1])
        weight, bias = weight.to(self.dtype), bias.to(self.dtype)[:, None]
        value, sums = head.new_zeros((), dtype=torch.float64), head.new_zeros(self.num_classes, dtype=torch.float64)
        gradient = sums.new_zeros(self.num_classes, self.num_features)
        for start in range(0, len(self.labels), self.at_once):
            rows = slice(start, start + self.at_once)
            x = self.features[rows]
            # Classes first: with few of them, sums over the other dimension take longer than the products.
            logits = torch.addmm(bias, weight, x.t())
            residual, losses = self.residual(logits, rows)
            value += losses.double().sum()
            gradient += (residual @ x).double()
            sums += residual.sum(1, dtype=torch.float64)
        on_z = (gradient - sums[:, None] * self.scale.mean) * self.scale.inverse
        return float(value) / self.total, torch.cat([on_z, sums[:, None]], 1) / self.total

    def residual(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """a (p - t), (C, n), which replaces the logits, and a times the cross-entropy, (n,)."""
        rest = self.rest
        largest = logits.amax(0)
        if rest is not None:
            largest = torch.maximum(largest, rest.log_sums[rows])
        truth = self.labels[None, rows]
        if self.targets is None:
            meant = logits.gather(0, truth)[0]
        else:
            meant = (logits * self.targets[rows].t()).sum(0)
        residual = logits.sub_(largest).exp_()
        sums = residual.sum(0)
        if rest is not None:
            sums += (rest.log_sums[rows] - largest).exp_()
            meant = meant + rest.meant[rows]
        losses = sums.log() + largest - meant
        residual /= sums
        if self.targets is None:
            residual.scatter_add_(0, truth, residual.new_full((1, 1), -1.0).expand(truth.shape))
        else:
            residual -= self.targets[rows].t()
        if self.image_weights is not None:
            weights = self.image_weights[rows]
            residual *= weights
            losses = losses * weights
        return residual, losses

    @cached_property
    def target_means(self) -> Tensor:
        """sum_i a_i t_ic / sum_i a_i, the share of every class, float64 (C,)."""
        if self.image_weights is None:
            ones = torch.ones_like(self.labels, dtype=torch.float64)
        else:
            ones = self.image_weights.double()
        if self.targets is not None:
            return ones @ self.targets.double() / self.total
        counts = ones.new_zeros(self.num_classes)
        return counts.index_add_(0, self.labels, ones) / self.total

    def probabilities(self, head: Tensor, rows: slice | Tensor = slice(None)) -> Tensor:
        """softmax of the logits, (n, C), of some images; what is missing to one belongs to the rest."""
        return self.softmax(self.logits(head, rows), rows)

    def softmax(self, logits: Tensor, rows: slice | Tensor, dim: int = 1) -> Tensor:
        """The probabilities of the logits of some images, whose classes are along ``dim``."""
        if self.rest is None:
            return torch.softmax(logits, dim)
        return (logits - self.log_sum(logits, rows, dim).unsqueeze(dim)).exp_()

    def log_sum(self, logits: Tensor, rows: slice | Tensor, dim: int = 1) -> Tensor:
        """Logarithm of the sum of exp(logit) of all classes, the rest included, (n,), for the logits of some images."""
        own = logits.logsumexp(dim)
        return own if self.rest is None else torch.logaddexp(own, self.rest.log_sums[rows].to(own.dtype))
