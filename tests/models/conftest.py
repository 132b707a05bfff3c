"""What tests of networks share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

POOL = 1_000_003  # no width of a layer divides it, so that no two rows are the same


@pytest.fixture
def pooled_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks begin with weights from a pool of a million random numbers, in an order that the seed decides.

    To draw tens of millions takes longer than all that the tests do with them. Their spread keeps activations as large
    as they are, as the usual initial weights do.
    """
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0))

    def fill(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        if tensor.is_meta:
            return tensor
        count, spread = tensor.numel(), max(1, tensor[0].numel() if tensor.ndim > 1 else 1) ** -0.5
        start = int(torch.randint(POOL, ()))
        rolled = torch.cat((pool[start:], pool[:start])) * spread
        with torch.no_grad():
            flat = tensor.view(-1)
            for place in range(0, count, POOL):
                flat[place : place + POOL] = rolled[: count - place]
        return tensor

    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "trunc_normal_", "xavier_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, fill)
