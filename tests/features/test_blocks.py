"""Features in blocks of rows: all rows once, in order, small enough, and nothing copied."""

from __future__ import annotations

import pytest
import torch

from decompose_cli.features import blocks
from decompose_cli.features.blocks import in_blocks


@pytest.mark.parametrize(("images", "width", "steps"), [(7, 0, [3, 3, 1]), (6, 8, [2, 2, 2]), (2, 100, [1, 1])])
def test_blocks_hold_all_rows_in_order_and_no_more_values_than_allowed(
    monkeypatch: pytest.MonkeyPatch, images: int, width: int, steps: list[int]
) -> None:
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", 16)
    features = torch.arange(images * 5).view(images, 5).float()
    found = list(in_blocks(features, width=width))
    assert [len(block) for _, block in found] == steps
    assert torch.equal(torch.cat([block for _, block in found]), features)
    assert all(torch.equal(features[rows], block) for rows, block in found)


def test_a_block_is_a_view_of_the_features_on_their_own_device() -> None:
    features = torch.rand(9, 3)
    ((rows, block),) = in_blocks(features)
    assert rows == slice(0, 9)
    assert block.data_ptr() == features.data_ptr()


def test_blocks_are_copied_to_another_device() -> None:
    ((_, block),) = in_blocks(torch.rand(2, 3), device="meta")
    assert block.device.type == "meta"


def test_no_features_make_no_block() -> None:
    assert list(in_blocks(torch.zeros(0, 4))) == []
