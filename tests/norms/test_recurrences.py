"""Linear recurrences against a loop over the samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decompose_cli.norms.recurrences import decayed, scanned


def looped(start: Tensor, factors: Tensor, values: Tensor) -> Tensor:
    found = [start]
    for factor, value in zip(factors, values, strict=True):
        found.append(factor * found[-1] + value)
    return torch.stack(found)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 64, 129])
def test_scan_is_the_loop(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    start, factors, values = (
        torch.randn(*shape, 5, generator=generator).double() for shape in ((), (count,), (count,))
    )
    factors[::3] = 0.0
    torch.testing.assert_close(scanned(start, factors, values), looped(start, factors, values), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("low", [0.999, 0.97, 0.9, 0.5, -0.5])
@pytest.mark.parametrize("count", [1, 2, 64, 200])
def test_scan_is_the_loop_for_factors_of_any_size(count: int, low: float) -> None:
    """Products of those near 1 are divided by; of the others they are too small, or negative."""
    generator = torch.Generator().manual_seed(count)
    factors = low + (1 - low) * torch.rand(count, 5, generator=generator).double()
    start, values = torch.randn(5, generator=generator).double(), torch.randn(count, 5, generator=generator).double()
    expected = looped(start, factors, values)
    torch.testing.assert_close(scanned(start, factors, values), expected, rtol=1e-12, atol=1e-12)
    narrow = scanned(start.float(), factors.float(), values.float())
    torch.testing.assert_close(
        narrow.double(), looped(start.float(), factors.float(), values.float()).double(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("factors", [[0.9, float("nan"), 0.9], [0.9, float("inf"), 0.9]])
def test_what_is_not_finite_stays_so(factors: list[float]) -> None:
    found = scanned(torch.ones(1), torch.tensor(factors)[:, None], torch.ones(3, 1))
    assert found[:2].isfinite().all()
    assert not found[2:].isfinite().any()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("count", [1, 2, 64, 200])
def test_decay_is_the_loop(count: int, decay: float) -> None:
    generator = torch.Generator().manual_seed(count)
    start, values = torch.randn(5, generator=generator).double(), torch.randn(count, 5, generator=generator).double()
    expected = looped(start, torch.full_like(values, decay), values)
    torch.testing.assert_close(decayed(start, values, decay), expected, rtol=1e-12, atol=1e-12)
