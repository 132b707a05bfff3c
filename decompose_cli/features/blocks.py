"""Features of many images, a block of rows at a time, so that no statistic holds them all in another form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

from decompose_cli.messages import track

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VALUES_AT_ONCE = 1 << 22
"""Numbers in a block: 16 MB of float32, and 32 MB where a block is made double: the most that a process on Linux keeps
when it is freed. Larger blocks come from the operating system, page by page, each time."""


def in_blocks(
    features: Tensor, *, device: str | torch.device = "cpu", width: int = 0, doing: str | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Go through features in blocks of rows of about 16 MB, from the first to the last.

    On the features' own device a block is a view of them, which nothing may be written to: features may be a read-only
    mapping of a file, of which the operating system loads what is looked at and drops it where memory is short. For
    another device each block is copied there when its turn comes.

    Args:
        features: Features (N, D).
        device: Where blocks are wanted.
        width: Numbers that work on a row makes, such as its C logits, where these are more than D.
        doing: What is done with the blocks, shown with the progress where there is more than one.

    Yields:
        The rows of a block, and the block (n, D) on the device; none where N is 0.
    """
    step = max(1, VALUES_AT_ONCE // max(1, features.shape[1], width))
    watched = nullcontext(lambda _: None) if doing is None or len(features) <= step else track(doing, len(features))
    with watched as advance:
        for start in range(0, len(features), step):
            rows = slice(start, min(start + step, len(features)))
            yield rows, features[rows].to(device)
            advance(rows.stop - start)
