"""Linear recurrences over the samples of a batch, for all channels at once and without a loop over the samples."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def decayed(start: Tensor, values: Tensor, decay: float, gain: float = 1.0) -> Tensor:
    """Solve ``s_t = decay * s_{t-1} + gain * values_t``, ``s_0 = start``, as a product with a triangular matrix.

    Args:
        start: s_0, (C,).
        values: The values, (N, C).
        decay: Decay in [0, 1].
        gain: Any number.

    Returns:
        (N + 1, C): s_0 to s_N.
    """
    make = _powers if torch.compiler.is_compiling() else _kept_powers
    # float64 is used where there is one: a GPU's matrix units may keep ten bits of float32, and powers lose three.
    dtype = values.dtype if values.device.type == "mps" else torch.float64
    powers = make(len(values), decay, gain, dtype, values.device)
    solved: Tensor = (powers @ torch.cat([start[None], values]).to(dtype)).to(values.dtype)
    return solved


def _powers(count: int, decay: float, gain: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix (N + 1, N + 1) of decay^(t - i) for i <= t, else 0; times the gain for i > 0."""
    times = torch.arange(count + 1, device=device, dtype=dtype)
    ages = times[:, None] - times
    powers = torch.where(ages >= 0, decay ** ages.clamp_min(0), 0)
    return torch.cat([powers[:, :1], gain * powers[:, 1:]], 1)


@lru_cache(maxsize=16)  # batches have few lengths, and the powers take longer than the product
def _kept_powers(count: int, decay: float, gain: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # else a first call in inference mode would leave a tensor of that mode
        return _powers(count, decay, gain, dtype, device)


_SMALLEST_PRODUCT = 1e-2
"""Smallest product of factors to divide by, which costs two digits."""


def scanned(start: Tensor, factors: Tensor, values: Tensor) -> Tensor:
    """Solve ``s_t = factors_t * s_{t-1} + values_t``, ``s_0 = start``.

    With p_t the product of the factors up to t, s_t = p_t (s_0 + sum_i w_i / p_i), where no product is small. Where a
    product is small or negative, or looking at it would wait for a GPU, the maps ``s -> f s + w`` are composed by
    doubling (Hillis and Steele 1986), in log2(N) steps and without a division.

    Args:
        start: s_0, (C,).
        factors: The factors, (N, C), at most 1.
        values: The values, (N, C).

    Returns:
        (N + 1, C): s_0 to s_N.
    """
    if factors.device.type == "cpu" and not torch.compiler.is_compiling():
        products = factors.cumprod(0)
        if products.amin() > _SMALLEST_PRODUCT:
            return torch.cat([start[None], products * (start + (values / products).cumsum(0))])
    stride = 1
    while stride < len(values):
        values = torch.cat([values[:stride], values[stride:] + factors[stride:] * values[:-stride]])
        factors = torch.cat([factors[:stride], factors[stride:] * factors[:-stride]])
        stride *= 2
    return torch.cat([start[None], factors * start + values])
