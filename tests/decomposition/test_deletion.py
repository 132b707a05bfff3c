"""Deleting what a map highlights: numbers that can be checked on paper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decompose_cli.decomposition.deletion import deletion_drops, highlighted, places


@pytest.mark.parametrize(("fraction", "count"), [(0.25, 16), (0.2, 13), (0.001, 1), (1.0, 64)])
def test_the_share_of_the_pixels_where_the_map_is_highest(fraction: float, count: int) -> None:
    maps = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = highlighted(maps, (8, 8), fraction)
    assert mask.flatten(1).sum(1).tolist() == [count] * 3
    for one, chosen in zip(maps, mask, strict=True):
        assert count == 64 or float(one[chosen].min()) >= float(one[~chosen].max())


def test_maps_are_scaled_to_the_image() -> None:
    maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    mask = highlighted(maps, (6, 8), 0.25)
    assert mask.shape == (1, 6, 8)
    rows, columns = mask[0].nonzero(as_tuple=True)
    assert int(rows.max()) < 4
    assert int(columns.max()) < 5
    assert highlighted(torch.zeros(2, 2, 2), (4, 4), 0.25).sum() == 8, "a flat map has a quarter too"


def test_a_drop_is_what_the_pixels_were_worth() -> None:
    """The logit is a weighted sum of pixels, so what is deleted is what it loses."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(3, 6, 6, generator=generator)
    images = torch.rand(2, 3, 6, 6, generator=generator)

    def logit(x: Tensor) -> Tensor:
        return (x * weights).sum((1, 2, 3))

    mask = torch.zeros(2, 6, 6, dtype=torch.bool)
    mask[0, :2, :2] = True
    mask[1, 4:, 3:] = True
    moves = places((6, 6), seed=5, draws=400)
    here, elsewhere = deletion_drops(logit, images, logit(images), mask, moves)
    expected = [(images[n] * weights * mask[n]).sum() for n in range(2)]
    torch.testing.assert_close(here, torch.stack(expected))
    # Everywhere a shape of p of 36 pixels takes p / 36 of all on average.
    whole = (images * weights).sum((1, 2, 3))
    shares = mask.flatten(1).sum(1) / 36
    torch.testing.assert_close(elsewhere, whole * shares, rtol=0.05, atol=0.0)
    assert places((6, 6), seed=5, draws=400) == moves != places((6, 6), seed=6, draws=400)
    assert {row for row, _ in moves} == {column for _, column in moves} == set(range(6))
