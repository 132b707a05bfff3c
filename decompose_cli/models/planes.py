"""The maps in an activation: where a tensor has channels, and rows and columns of the image or a line of both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Line:
    """A grid of positions in a line of tokens, row after row, perhaps with other tokens before and after it.

    Attributes:
        axis: The axis of the tokens.
        first: The number of the first token of the grid, behind those of the class, of distillation, or registers.
        rows: Number of rows of the grid.
        columns: Number of its columns.
        by_columns: Whether it lies column after column.
    """

    axis: int
    first: int
    rows: int
    columns: int
    by_columns: bool = False

    @property
    def last(self) -> int:
        """The number of the token behind the grid."""
        return self.first + self.rows * self.columns


@dataclass(frozen=True)
class Planes:
    """How an activation has maps (N, C, h, w).

    Attributes:
        order: Its axes in the order of maps: images, channels, rows and columns, or images, channels and a line.
        line: Which tokens of the line are the grid; None for an activation of four axes.
    """

    order: tuple[int, ...] = (0, 1, 2, 3)
    line: Line | None = None

    def are_in(self, value: Tensor) -> bool:
        """Whether an activation is long enough to have such maps."""
        is_long = self.line is None or (value.ndim == 3 and value.shape[self.line.axis] >= self.line.last)
        return is_long and value.ndim == len(self.order)

    def maps(self, value: Tensor) -> Tensor:
        """The maps (N, C, h, w) in an activation."""
        turned = value.permute(self.order)
        if self.line is None:
            return turned
        grid = turned[:, :, self.line.first : self.line.last]
        if self.line.by_columns:
            return grid.reshape(*grid.shape[:2], self.line.columns, self.line.rows).mT
        return grid.reshape(*grid.shape[:2], self.line.rows, self.line.columns)

    def with_maps(self, value: Tensor, maps: Tensor) -> Tensor:
        """The activation with other maps (N, C, h, w) in place of its own; tokens that are no positions stay."""
        back = [self.order.index(axis) for axis in range(value.ndim)]
        if self.line is None:
            return maps.permute(back)
        line = (maps.mT if self.line.by_columns else maps).flatten(2).permute(back)
        axis, end = self.line.axis, value.shape[self.line.axis]
        parts = [(0, self.line.first), (self.line.last, end)]
        before, after = (value.narrow(axis, start, stop - start) for start, stop in parts)
        return torch.cat([before, line, after], axis)


CHANNELS_SECOND = Planes()
"""Those of convolutional networks as torch has them."""
