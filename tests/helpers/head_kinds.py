"""Small networks whose heads are made, followed or accompanied by something, as they are before training.

``trained`` moves every parameter and buffer away from where it begins, as training does: only then does it show what a
scale of one, a shift of zero or an update of zero are for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

FEATURES, CLASSES = 6, 4
SIZE = (8, 8)


class Network(nn.Module):
    """Features (N, 6) of a convolution; a head; and what the network makes of the head's output and the features."""

    def __init__(self, head: nn.Module, ending: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, FEATURES, 3)
        self.head = head
        self.ending = ending

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.stem(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        logits = self.head(features)
        return logits if self.ending is None else self.ending(self, logits, features)


def linear(bias: bool = True) -> nn.Linear:
    return nn.Linear(FEATURES, CLASSES, bias=bias)


def plain() -> nn.Module:
    return Network(linear())


def without_bias() -> nn.Module:
    return Network(linear(bias=False))


def normed_by_hooks() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it is old, and checkpoints of it are about
        return Network(weight_norm(linear()))


def normed_by_parametrization() -> nn.Module:
    return Network(parametrizations.weight_norm(linear()))


def spectral_by_hooks() -> nn.Module:
    return Network(spectral_norm(linear()))


def spectral_by_parametrization() -> nn.Module:
    return Network(parametrizations.spectral_norm(linear()))


class _Standardised(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight - weight.mean(1, keepdim=True)) / (weight.std(1, keepdim=True) + 1e-5)


def standardised() -> nn.Module:
    head = linear()
    parametrize.register_parametrization(head, "weight", _Standardised())
    return Network(head)


def pruned() -> nn.Module:
    return Network(prune.identity(linear(), "weight"))


class MaskedLinear(nn.Linear):
    """A linear layer that does not use its weight as it stands."""

    def __init__(self) -> None:
        super().__init__(FEATURES, CLASSES)
        self.register_buffer("mask", torch.ones(CLASSES, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * (self.mask > 0.5), self.bias)


def masked() -> nn.Module:
    return Network(MaskedLinear())


class LowRankUpdate(nn.Module):
    """W + B A, where B is zero at first."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Linear(FEATURES, 2, bias=False)
        self.b = nn.Linear(2, CLASSES, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * self.b(self.a(x))


def updated() -> nn.Module:
    return Network(LowRankUpdate(linear()))


class ByEinsum(nn.Module):
    """No linear layer by its type, and linear all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(FEATURES, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nd,dc->nc", x, self.prototypes)


def by_einsum() -> nn.Module:
    return Network(ByEinsum())


def low_rank() -> nn.Module:
    return Network(nn.Sequential(nn.Linear(FEATURES, 2, bias=False), nn.Linear(2, CLASSES)))


def factor() -> nn.Module:
    network = Network(linear(), lambda self, y, _: y * self.factor)
    network.register_buffer("factor", torch.tensor(1.0))
    return network


def temperature() -> nn.Module:
    network = Network(linear(), lambda self, y, _: y * self.log_scale.exp())
    network.log_scale = nn.Parameter(torch.tensor(0.0))
    return network


def scaled_and_shifted() -> nn.Module:
    network = Network(linear(), lambda self, y, _: y * self.gamma + self.beta)
    network.gamma, network.beta = nn.Parameter(torch.ones(CLASSES)), nn.Parameter(torch.zeros(CLASSES))
    return network


def adjusted() -> nn.Module:
    """Logit adjustment by the logarithm of each class's share."""
    network = Network(linear(), lambda self, y, _: y + self.shares.abs().add(0.1).log())
    network.register_buffer("shares", torch.ones(CLASSES) / CLASSES)
    return network


def gated() -> nn.Module:
    """The gate is shut before training: no logit depends on anything."""
    network = Network(linear(), lambda self, y, _: y * self.gate)
    network.gate = nn.Parameter(torch.zeros(CLASSES))
    return network


def batch_normed() -> nn.Module:
    network = Network(linear(), lambda self, y, _: self.norm(y))
    network.norm = nn.BatchNorm1d(CLASSES)
    return network


def batch_normed_without_parameters() -> nn.Module:
    network = Network(linear(bias=False), lambda self, y, _: self.norm(y))
    network.norm = nn.BatchNorm1d(CLASSES, affine=False)
    return network


class PointwiseNormed(nn.Module):
    """A 1x1 convolution with a batch norm, as heads of convolutional networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, FEATURES, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Conv2d(FEATURES, CLASSES, 1)
        self.norm = nn.BatchNorm2d(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.head(self.pool(torch.relu(self.stem(x))))).flatten(1)


def pointwise_normed() -> nn.Module:
    return PointwiseNormed()


def scaled_in_a_hook() -> nn.Module:
    network = Network(linear())
    network.strength = nn.Parameter(torch.ones(CLASSES))
    network.head.register_forward_hook(_Scale(network.strength))
    return network


class _Scale:
    def __init__(self, by: Tensor) -> None:
        self.by = by

    def __call__(self, _: nn.Module, __: object, output: Tensor) -> Tensor:
        return output * self.by


def prepared_in_a_hook() -> nn.Module:
    network = Network(linear())
    network.strength = nn.Parameter(torch.ones(FEATURES))
    network.head.register_forward_pre_hook(_ScaleBefore(network.strength))
    return network


class _ScaleBefore:
    def __init__(self, by: Tensor) -> None:
        self.by = by

    def __call__(self, _: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0] * self.by,)


class Keepdim(nn.Module):
    """A class token that keeps its axis, or channels last that are pooled with their axes kept."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, FEATURES, 3)
        self.head = linear()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.stem(x)).mean((2, 3))
        return self.head(input=features.reshape(len(x), *[1] * self.axes, FEATURES)).flatten(1)


def with_a_token_axis() -> nn.Module:
    return Keepdim(1)


def with_two_axes() -> nn.Module:
    return Keepdim(2)


FOLDED = (
    *(plain, without_bias, normed_by_hooks, normed_by_parametrization, spectral_by_hooks, spectral_by_parametrization),
    *(standardised, pruned, masked, updated, by_einsum, low_rank, factor, temperature, scaled_and_shifted, adjusted),
    *(gated, batch_normed, batch_normed_without_parameters, pointwise_normed, scaled_in_a_hook, prepared_in_a_hook),
    *(with_a_token_axis, with_two_axes),
)


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 8 * F.linear(F.normalize(x), F.normalize(self.weight))


def cosine() -> nn.Module:
    return Network(Cosine(FEATURES, CLASSES))


def updated_beside_the_head() -> nn.Module:
    network = Network(linear(), lambda self, y, x: y + self.b(self.a(x)))
    network.a, network.b = nn.Linear(FEATURES, 2, bias=False), nn.Linear(2, CLASSES, bias=False)
    nn.init.zeros_(network.b.weight)
    return network


def two_heads() -> nn.Module:
    network = Network(linear(), lambda self, y, x: (y + self.second(x)) / 2)
    network.second = linear()
    return network


def shifted_by_the_features() -> nn.Module:
    network = Network(linear(), lambda self, y, x: y + self.strength * x.mean(1, keepdim=True))
    network.strength = nn.Parameter(torch.tensor(0.0))
    return network


def scaled_by_the_features() -> nn.Module:
    network = Network(linear(), lambda self, y, x: y * (1 + self.strength * x.norm(dim=1, keepdim=True)))
    network.strength = nn.Parameter(torch.tensor(0.0))
    return network


def group_normed() -> nn.Module:
    network = Network(linear(), lambda self, y, _: self.norm(y))
    network.norm = nn.GroupNorm(2, CLASSES)
    return network


def mixed() -> nn.Module:
    network = Network(linear(), lambda self, y, _: y + y @ self.mixing)
    network.mixing = nn.Parameter(torch.zeros(CLASSES, CLASSES))
    return network


def clamped_in_a_hook() -> nn.Module:
    network = Network(linear())
    network.head.register_forward_hook(_clamp)
    return network


def _clamp(_: nn.Module, __: object, output: Tensor) -> Tensor:
    return output.clamp(-0.05, 0.05)


def always_dropping() -> nn.Module:
    """Dropout in evaluation too, as for estimates of uncertainty."""
    return Network(linear(), _drop)


def _drop(_: nn.Module, logits: Tensor, __: Tensor) -> Tensor:
    return F.dropout(logits, 0.5, training=True)


class DropsFeatures(Network):
    """Nothing between features and logits is wrong, and yet no pass gives the logits of another."""

    def features(self, x: Tensor) -> Tensor:
        return F.dropout(super().features(x), 0.5, training=True)


def dropping_features() -> nn.Module:
    return DropsFeatures(linear())


class Brighter(Network):
    """The logits of bright images are doubled; noise is not bright."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.where(x.mean((1, 2, 3)) > 0.7, 2.0, 1.0)[:, None]


def scaled_where_it_is_bright() -> nn.Module:
    return Brighter(linear())


class TwoArguments(nn.Linear):
    def forward(self, x: Tensor, strength: Tensor) -> Tensor:
        return super().forward(x * strength)


class CalledWithTwo(Network):
    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        return self.head(features, features.mean(1, keepdim=True))


def called_with_two() -> nn.Module:
    return CalledWithTwo(TwoArguments(FEATURES, CLASSES))


class TakesAList(nn.Linear):
    def forward(self, parts: list[Tensor]) -> Tensor:
        return super().forward(sum(parts))


class CalledWithAList(Network):
    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        return self.head([features, features])


def called_with_a_list() -> nn.Module:
    return CalledWithAList(TakesAList(FEATURES, CLASSES))


REFUSED = (
    *(cosine, updated_beside_the_head, two_heads, shifted_by_the_features, scaled_by_the_features, group_normed, mixed),
    *(clamped_in_a_hook, always_dropping, called_with_two, called_with_a_list),
    *(dropping_features, scaled_where_it_is_bright),
)


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """The network, always the same, with every number moved, as training would."""
    torch.manual_seed(0)
    network = make()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if value.is_floating_point():
                moved = value + torch.randn(value.shape, generator=generator) * 0.4
                value.copy_(moved.abs() + 0.1 if "var" in name else moved)
    return network.eval()
