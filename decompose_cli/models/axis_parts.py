"""Axes of tensors, and the parts that reshaping splits them into: what is known of one is known wherever it goes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

CHANNELS, SUMMED, ROWS, COLUMNS, WITHIN = "channels", "summed", "rows", "columns", "within rows or columns"
_POSITIONS = {ROWS, COLUMNS, WITHIN}


class Part:
    """An axis, or a factor of one, as reshaping splits and merges axes; those known to mean the same have one root.

    Args:
        size: Its length.
        lost: The operation after which it cannot be told what the axis is; empty where nothing was lost.
    """

    def __init__(self, size: int, lost: str = "") -> None:
        self.size = size
        self.lost = lost  # of the root
        self.roles: set[str] = set()  # of the root
        self.whole: Part | None = None
        self.halves: dict[int, tuple[Part, Part]] = {}
        self.merged_of: tuple[Part, ...] = ()
        self.joined_of: tuple[Part, ...] = ()
        self._same: Part | None = None
        self._before: tuple[Hashable, Part] | None = None

    def root(self) -> Part:
        """The one of all parts of the same meaning that has their roles."""
        part = self
        while part._same is not None:
            part = part._same
        return part

    def mark(self, role: str) -> None:
        """Say what is known of the axis."""
        self.root().roles.add(role)

    def is_like(self, other: Part) -> None:
        """Say that two axes mean the same, though one may be longer."""
        first, second = self.root(), other.root()
        if first is not second:
            second._same = first
            first.roles |= second.roles
            first.lost = first.lost or second.lost

    def resized(self, size: int, name: str) -> Part:
        """The axis with another length; a line of positions is then no longer what it was made of.

        Args:
            size: The length.
            name: The operation.
        """
        if size == self.size:
            return self
        if self.is_of_positions() and not self.root().roles & _POSITIONS:
            return Part(size, self.root().lost or name)
        part = Part(size)
        part.is_like(self)
        return part

    def is_of_positions(self) -> bool:
        """Whether it counts positions in the image, in any order: rows, columns, or both in one line."""
        made_of = (*self.merged_of, *self.joined_of, *((self._before[1],) if self._before else ()))
        return bool(self.root().roles & _POSITIONS) or any(part.is_of_positions() for part in made_of)

    def moved(self, way: Hashable, back: Hashable, size: int, name: str) -> Part:
        """The axis after an operation that puts its positions elsewhere; what is moved back is as it was before.

        Args:
            way: How they are moved.
            back: What moves them back.
            size: The length afterwards.
            name: The operation.
        """
        if self._before is not None and self._before[0] == way:
            return self._before[1].resized(size, name)
        part = Part(size, self.root().lost or name)
        part._before = back, self
        return part

    def cut(self, start: int, size: int) -> Part | None:
        """The axis that was joined to others here, or None where the cut is elsewhere."""
        at = 0
        for part in self.joined_of:
            if (at, part.size) == (start, size):
                return part
            at += part.size
        return None

    def split(self, size: int) -> tuple[Part, Part]:
        """An outer part of a size and the inner rest; the outer part of rows still goes down the image."""
        if size not in self.halves:
            lost = self.root().lost
            outer, inner = Part(size, lost), Part(self.size // size, lost)
            outer.whole = inner.whole = self
            along = self.root().roles & {ROWS, COLUMNS}
            outer.roles |= along
            inner.roles |= {WITHIN} if along else set()
            self.halves[size] = outer, inner
        return self.halves[size]

    @staticmethod
    def merge(parts: Sequence[Part]) -> Part:
        """The axis that parts make, outermost first; the halves of a part make that part.

        Rows with something in each of them that is no position, such as channels that are made rows, are rows.
        """
        stack: list[Part] = []
        for part in parts:
            stack.append(part)
            while len(stack) > 1 and stack[-1].whole is not None and stack[-1].whole is stack[-2].whole:
                whole = stack[-1].whole
                if whole.halves.get(stack[-2].size) != (stack[-2], stack[-1]):
                    break
                stack[-2:] = [whole]
        if len(stack) == 1:
            return stack[0]
        merged = Part(torch.Size(part.size for part in stack).numel())
        merged.merged_of = tuple(stack)
        merged.lost = next((part.root().lost for part in stack if part.root().lost), "")
        if not any(part.is_of_positions() for part in stack[1:]):
            merged.roles |= stack[0].root().roles & _POSITIONS
        return merged


Layout = tuple[Part, ...]
"""The axes of a tensor."""


def new_axes(shape: Sequence[int], lost: str = "") -> Layout:
    """Axes of which nothing is known, for the reason that an operation lost it if one is named."""
    return tuple(Part(size, lost) for size in shape)


def fits(layout: Sequence[Part], value: Tensor) -> bool:
    """Whether axes have the lengths of a tensor's."""
    return [axis.size for axis in layout] == list(value.shape)


def alike(layouts: Sequence[Layout], value: Tensor, name: str) -> Layout:
    """The axes of a tensor that has the same axes as others, some perhaps of another length.

    Args:
        layouts: The axes of the others, each as many as those of the tensor.
        value: The tensor.
        name: The operation that made it.
    """
    result = []
    for place, size in enumerate(value.shape):
        axes = [layout[place] for layout in layouts if layout[place].size > 1]
        same = [axis for axis in axes if axis.size == size]
        # What is known of the parts of an axis is kept, for when it is split again.
        made = (axis for axis in same if axis.merged_of or axis.joined_of)
        axis = next(made, same[0] if same else Part(size))
        for other in axes if size > 1 else ():
            axis.is_like(other.resized(size, name))
        result.append(axis)
    return tuple(result)


def resized(layout: Layout, value: Tensor, name: str) -> Layout:
    """The axes of a tensor that differ from others at most in their length."""
    return alike([layout], value, name) if len(layout) == value.ndim else new_axes(value.shape, name)


def broadcast(layouts: Sequence[Layout], value: Tensor, name: str) -> Layout:
    """The axes of the result of an operation by elements; an axis of one element says nothing of the others."""
    filled = [
        (*(Part(1) for _ in range(value.ndim - len(layout))), *layout)
        for layout in layouts
        if len(layout) <= value.ndim
    ]
    return alike(filled, value, name)


def reshaped(layout: Layout, shape: Sequence[int], name: str) -> Layout:
    """The axes after reshaping, which splits and merges them in their order; new ones where they do not fit."""
    left = [axis for axis in layout if axis.size > 1][::-1]
    result = []
    for size in shape:
        parts: list[Part] = []
        rest = size
        while rest > 1:
            if not left:
                return new_axes(shape, name)
            part = left.pop()
            if rest % part.size == 0:
                rest //= part.size
                parts.append(part)
            elif part.merged_of:
                left.extend(part.merged_of[::-1])
            elif part.size % rest == 0:
                outer, inner = part.split(rest)
                left.append(inner)
                left.append(outer)
            else:
                return new_axes(shape, name)
        result.append(Part.merge(parts) if parts else Part(size))
    return tuple(result)
