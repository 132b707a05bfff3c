"""Linear recurrences over the samples of a batch, for all channels at once and without a loop over the samples."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def decayed(start: Tensor, values: Tensor, decay: float) -> Tensor:
    """Solve ``s_t = decay * s_{t-1} + values_t``, ``s_0 = start``, as a product with a triangular matrix.

    Args:
        start: (C,).
        values: (N, C).
        decay: In [0, 1].

    Returns:
        (N + 1, C): s_0 to s_N.
    """
    powers = _powers(len(values), decay, values.dtype, values.device)
    return powers @ torch.cat([start[None], values])


@lru_cache(maxsize=16)  # batches are of few lengths, and a power takes longer than the product
def _powers(count: int, decay: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(N + 1, N + 1): decay^(t - i) for i <= t, else 0."""
    with torch.inference_mode(mode=False):  # whoever comes first decides what kind of tensor it is
        times = torch.arange(count + 1, device=device, dtype=dtype)
        ages = times[:, None] - times
        return torch.where(ages >= 0, decay ** ages.clamp_min(0), 0)


def scanned(start: Tensor, factors: Tensor, values: Tensor) -> Tensor:
    """Solve ``s_t = factors_t * s_{t-1} + values_t``, ``s_0 = start``, in log2(N) steps.

    The maps ``s -> f s + w`` are composed by doubling (Hillis and Steele 1986). Nothing is divided by products of
    factors, so these may be zero or negative.

    Args:
        start: (C,).
        factors: (N, C).
        values: (N, C).

    Returns:
        (N + 1, C): s_0 to s_N.
    """
    stride = 1
    while stride < len(values):
        values = torch.cat([values[:stride], values[stride:] + factors[stride:] * values[:-stride]])
        factors = torch.cat([factors[:stride], factors[stride:] * factors[:-stride]])
        stride *= 2
    return torch.cat([start[None], factors * start + values])
