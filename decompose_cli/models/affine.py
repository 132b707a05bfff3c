"""Affine maps inside a network, measured by what it computes: that of a layer, and what comes after a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decompose_cli.models.logits import logits_of

_RELATIVE_TOLERANCE = 1e-5
_LARGEST = 1e5  # large outputs show clamps and soft caps
_UNIT = 1024.0  # a power of two, so that dividing by it is exact
_ROUNDINGS = 64  # how many roundings a sum of products may be off by
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Following:
    """What a network makes of the output z of a layer: for each class c, logit_c = factor_c * z_c + shift_c.

    Attributes:
        factor: Factors, float64 (C,) on the CPU; not all of them are 0.
        shift: Summands, float64 (C,) on the CPU.
    """

    factor: Tensor
    shift: Tensor

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (C, any) and bias (C,) of the layer that gives the logits by itself, float32 on the CPU."""
        folded = weight.detach().cpu().double() * self.factor[:, None]
        return folded.float(), (bias.detach().cpu().double() * self.factor + self.shift).float()

    def unfold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias for the layer's own place, of those that give the logits; float32 on the CPU.

        What a class does not show (its factor is 0) is 0.
        """
        seen = self.factor != 0
        divisor = torch.where(seen, self.factor, 1.0)
        own = torch.where(seen[:, None], weight.detach().cpu().double() / divisor[:, None], 0.0)
        return own.float(), torch.where(seen, (bias.detach().cpu().double() - self.shift) / divisor, 0.0).float()


def following(model: nn.Module, module: nn.Module, images: Tensor, others: Tensor) -> Following | None:
    """Measure what comes after a layer: replace its output by numbers z, and see which logits the network returns.

    Args:
        model: The network, in evaluation mode.
        module: The layer, whose output has a number for each class.
        images: Three images (3, 3, H, W).
        others: Two further images (2, 3, H, W), in a batch of their own: what is computed from a whole batch shows.

    Returns:
        The factors and summands, or None if they depend on anything, or if a logit depends on more than its own z.
    """
    measured: Following | None = None
    for batch, numbers in ((images, _to_measure_with), (others, _to_check_with)):
        passed = _with_replaced_output(model, module, batch, numbers)
        if passed is None:
            return None
        z, logits, tolerance = passed
        if measured is None:
            shift = logits[0]
            factor = (logits[1] - shift) / _UNIT
            nearest = (factor * 4096).round() / 4096  # 1, 0.125 and their like exactly, without rounding errors
            factor = torch.where((nearest - factor).abs() < 1e-6 * factor.abs(), nearest, factor)
            if not bool(torch.isfinite(factor).all()) or not bool(factor.any()):
                return None
            measured = Following(factor, shift)
        expected = z * measured.factor + measured.shift
        allowed = tolerance * ((z * measured.factor).abs() + measured.shift.abs() + 1e-6 * measured.factor.abs().max())
        if not bool(((logits - expected).abs() <= allowed).all()):
            return None
    return measured


def _to_measure_with(noise: Tensor, largest: float) -> tuple[Tensor, ...]:
    """Zeros, which give the summands; a constant, which then gives the factors; and large negative numbers."""
    return torch.zeros_like(noise[0]), torch.full_like(noise[1], _UNIT), -largest * (1 + noise[2].abs())


def _to_check_with(noise: Tensor, largest: float) -> tuple[Tensor, ...]:
    """Small numbers and large positive ones: with those above, a clamp or soft cap shows in each class."""
    return noise[0], largest * (1 + noise[1].abs())


def _with_replaced_output(
    model: nn.Module, module: nn.Module, images: Tensor, numbers: Callable[[Tensor, float], tuple[Tensor, ...]]
) -> tuple[Tensor, Tensor, float] | None:
    """The numbers (n, C) that stood in for the output, the logits (n, C), and the relative error to expect."""
    replaced: list[Tensor] = []

    def replace(_: nn.Module, __: object, output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
        z = torch.stack(numbers(noise, min(_LARGEST, torch.finfo(output.dtype).max ** 0.5)))
        replaced.append(z.to(output))
        return replaced[-1]

    # The layer's own hooks change what it is given and what it returns, so they are part of it.
    handle = module.register_forward_hook(replace)
    try:
        result = logits_of(model(images)).flatten(1)
    except Exception:  # the model ran on other images before, so its behaviour depends on them
        return None
    finally:
        handle.remove()
    if len(replaced) != 1 or result.shape != replaced[0].flatten(1).shape:
        return None
    tolerance = max(_RELATIVE_TOLERANCE, 2 * torch.finfo(replaced[0].dtype).eps)
    return replaced[0].flatten(1).double().cpu(), result.double().cpu(), tolerance


def linear_map(module: nn.Module, features: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weight (C, D) and bias (C,) with which a layer maps features to outputs, float64 on the CPU.

    The layer's own parameters are taken where they say it exactly. A layer that scales, masks, adapts or otherwise
    makes its weights, or does so in hooks, is measured: w_cj = (output_c(u e_j) - output_c(-u e_j)) / (2 u).

    Args:
        module: The layer, in evaluation mode.
        features: Some of its inputs, (n, D), (n, D, 1, 1) or (n, 1, D).

    Returns:
        Weight and bias, or None if no weight and bias give the layer's outputs.
    """
    shape = features.shape[1:]
    size = features.double().square().mean().sqrt().clamp(min=1e-3).to(features)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features) * size
    tried = torch.cat([features, noise]).flatten(1)  # real features may all have one sign

    def run(inputs: Tensor) -> Tensor:
        output: Tensor = module(inputs.reshape(-1, *shape)).flatten(1)
        return output.double().cpu()

    try:
        outputs = run(tried)  # with this, hooks that make the weights have run
    except Exception:  # it takes more than features
        return None
    for candidate in (_own_parameters, _measured_parameters):
        mapped = candidate(module, run, tried, outputs.shape[1])
        if mapped is not None and agree(*mapped, tried, outputs):
            return mapped
    return None


def agree(weight: Tensor, bias: Tensor, features: Tensor, outputs: Tensor, allowed: Tensor | float = 0.0) -> bool:
    """Whether outputs (n, C) are those of features (n, D), up to rounding and what is ``allowed`` for each class."""
    x = features.flatten(1).cpu()
    rounding = _ROUNDINGS * torch.finfo(x.dtype).eps
    if weight.shape[1] != x.shape[1]:
        return False
    x = x.double()
    slack = rounding * (x.abs() @ weight.abs().t() + bias.abs())
    return bool(((x @ weight.t() + bias - outputs).abs() <= slack + allowed).all())


Run = Callable[[Tensor], Tensor]


def _own_parameters(module: nn.Module, _: Run, inputs: Tensor, classes: int) -> tuple[Tensor, Tensor] | None:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2 or weight.flatten(1).shape != (classes, inputs.shape[1]):
        return None
    matrix = weight.detach().flatten(1).double().cpu()
    if bias is None:
        return matrix, matrix.new_zeros(classes)
    if not isinstance(bias, Tensor) or bias.shape != (classes,):
        return None
    return matrix, bias.detach().double().cpu()


def _measured_parameters(_: nn.Module, run: Run, inputs: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    count = inputs.shape[1]
    unit = min(_UNIT, torch.finfo(inputs.dtype).max ** 0.25)
    weight = torch.empty(classes, count, dtype=torch.float64)
    for start in range(0, count, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, count)
        units = inputs.new_zeros(stop - start, count)
        units[range(stop - start), range(start, stop)] = unit
        weight[:, start:stop] = ((run(units) - run(-units)) / (2 * unit)).t()
    return weight, run(inputs.new_zeros(1, count))[0]
