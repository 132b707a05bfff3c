"""Axes of tensors, and the parts that reshaping splits them into: what is known of one is known wherever it goes."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

CHANNELS, SUMMED, ROWS, COLUMNS, WITHIN = "channels", "summed", "rows", "columns", "within rows or columns"
IMAGES = "images"
_PLACES = {ROWS, COLUMNS}
_POSITIONS = {IMAGES, WITHIN} | _PLACES


class Part:
    """An axis, or a factor of one, as reshaping splits and merges axes; those known to mean the same have one root.

    Args:
        size: Its length.
        lost: The operation after which it cannot be told what the axis is; empty where nothing was lost.
        elsewhere: Whether it counts positions, or images, that are not where they were; it is then no row or column.
    """

    def __init__(self, size: int, lost: str = "", *, elsewhere: bool = False) -> None:
        self.size = size
        self.lost = lost  # of the root
        self.elsewhere = elsewhere  # of the root
        self.roles: set[str] = set()  # of the root
        self.whole: Part | None = None
        self.halves: dict[int, tuple[Part, Part]] = {}
        self.merged_of: tuple[Part, ...] = ()
        self.joined_of: tuple[Part, ...] = ()
        self.span = 0.0, 1.0  # of an axis, of which it is a piece
        self._same: Part | None = None
        self._before: tuple[Hashable, Part] | None = None

    def root(self) -> Part:
        """The one of all parts of the same meaning that has their roles."""
        part = self
        while part._same is not None:
            part = part._same
        return part

    def mark(self, role: str) -> None:
        """Say what is known of the axis; positions that are elsewhere are no rows or columns, whatever slides there."""
        root = self.root()
        if not (root.elsewhere and role in _PLACES):
            root.roles.add(role)

    def is_like(self, other: Part) -> None:
        """Say that two axes mean the same, though one may be longer."""
        first, second = self.root(), other.root()
        if first is not second:
            second._same = first
            first.roles |= second.roles
            first.lost = second.lost if second.elsewhere else first.lost or second.lost
            first.elsewhere |= second.elsewhere

    def resized(self, size: int, name: str) -> Part:
        """The axis with another length; a line of positions is then no longer what it was made of.

        Args:
            size: The length.
            name: The operation.
        """
        if size == self.size:
            return self
        root = self.root()
        if self.is_of_positions() and not root.roles & _POSITIONS:
            part = Part(size, root.lost or name, elsewhere=root.elsewhere)
        else:
            part = Part(size)
            part.is_like(self)
        part.span = self.span
        return part

    def is_of_positions(self) -> bool:
        """Whether it counts images or positions in them, in any order: rows, columns, or both in one line."""
        left = [self]
        while left:  # it may be made of very many
            part = left.pop()
            if part.root().elsewhere or part.root().roles & _POSITIONS:
                return True
            left += part.merged_of + part.joined_of
        return False

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
        root = self.root()
        lost = name if root.roles & _POSITIONS else root.lost or name
        part = Part(size, lost, elsewhere=self.is_of_positions())
        part._before = back, self
        return part

    @property
    def back(self) -> Hashable | None:
        """What moves it back, if it is moved."""
        return None if self._before is None else self._before[0]

    def moved_back_by(self, back: Hashable) -> Part:
        """A moved axis that something else moves back."""
        assert self._before is not None
        root = self.root()
        part = Part(self.size, root.lost, elsewhere=root.elsewhere)
        part._before = back, self._before[1]
        return part

    def is_where(self, other: Part) -> bool:
        """Whether positions with the same number are the same in both axes, as far as these are known."""
        one, two = self, other
        while one is not two and one._before is not None and two._before is not None:
            if one._before[0] != two._before[0]:
                return False
            one, two = one._before[1], two._before[1]
        first, second = one.root(), two.root()
        is_known = one.is_of_positions() and two.is_of_positions()
        if not is_known or not (first.elsewhere or second.elsewhere):
            return max(one.span[0], two.span[0]) < min(one.span[1], two.span[1])
        pairs = zip(one.merged_of, two.merged_of, strict=False)
        are_lines = len(one.merged_of) == len(two.merged_of) > 0
        return first is second or (are_lines and all(part.is_where(like) for part, like in pairs))

    def precedes(self, other: Part) -> bool:
        """Whether another axis goes on where this one ends, so that both in a row are still in the order of the image.

        They may overlap by less than half, as tiles do.
        """
        if self.root().elsewhere or other.root().elsewhere:
            return False
        return sum(self.span) / 2 <= other.span[0] and self.span[1] <= sum(other.span) / 2

    def grid(self) -> tuple[int, tuple[Part, Part]] | None:
        """The rows and columns, or columns and rows, that lie in this line, and the place where they begin.

        None where they are not the only positions in it, or not in the order of the image.
        """
        left, pieces = [self], []
        while left:
            part = left.pop()
            left += part.joined_of[::-1]
            pieces += [] if part.joined_of else [part]
        starts = [0, *itertools.accumulate(piece.size for piece in pieces)]
        sited = [(at, piece) for at, piece in zip(starts, pieces, strict=False) if piece.is_of_positions()]
        if len(sited) != 1 or self.root().elsewhere:
            return None
        ((start, line),) = sited
        if len(line.merged_of) != 2 or line.root().elsewhere:
            return None
        first, second = line.merged_of
        roles = [part.root().roles & _POSITIONS for part in line.merged_of]
        return (start, (first, second)) if roles in ([{ROWS}, {COLUMNS}], [{COLUMNS}, {ROWS}]) else None

    def cut(self, start: int, size: int) -> Part | None:
        """The axis that was joined to others here, or None where the cut is elsewhere."""
        at = 0
        for part in self.joined_of:
            if (at, part.size) == (start, size):
                return part
            at += part.size
        return None

    def piece(self, start: int, size: int, step: float, name: str) -> Part:
        """The axis cut to so many of its elements, from one on, each a step further.

        Args:
            start: The number of the first element.
            size: How many there are.
            step: How far they are from each other, on average.
            name: The operation.
        """
        part = self.resized(size, name)
        if part is not self:
            low, share = self.span[0], (self.span[1] - self.span[0]) / max(1, self.size)
            part.span = low + share * start, low + share * (start + step * size)
        return part

    def split(self, size: int) -> tuple[Part, Part]:
        """An outer part of a size and the inner rest; the outer part of rows still goes down the image."""
        if size not in self.halves:
            root = self.root()
            outer, inner = (Part(part, root.lost, elsewhere=root.elsewhere) for part in (size, self.size // size))
            outer.whole = inner.whole = self
            along = root.roles & _PLACES
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
        merged.elsewhere = any(part.root().elsewhere for part in stack)
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


def alike(layouts: Sequence[Layout], value: Tensor, name: str, joined: int | None = None) -> Layout:
    """The axes of a tensor that has the same axes as others, some perhaps of another length.

    Args:
        layouts: The axes of the others, each as many as those of the tensor.
        value: The tensor.
        name: The operation that made it.
        joined: The axis along which the others stand in a row, if they do not lie upon each other.
    """
    return tuple(
        _united([layout[place] for layout in layouts], size, name, in_row=place == joined)
        for place, size in enumerate(value.shape)
    )


def _united(axes: Sequence[Part], size: int, name: str, *, in_row: bool) -> Part:
    axes = [axis for axis in axes if axis.size > 1]
    sited = [axis for axis in axes if axis.is_of_positions()]
    if in_row:
        is_kept = all(one.precedes(two) for one, two in itertools.pairwise(sited))
    else:
        is_kept = not sited or all(sited[0].is_where(axis) for axis in axes)
    if not is_kept:
        lost = next((axis.root().lost for axis in sited if axis.root().elsewhere), name)
        return Part(size, lost, elsewhere=True)
    same = [axis for axis in axes if axis.size == size]
    # What is known of the parts of an axis is kept, for when it is split again, or moved back.
    made = (axis for axis in same if axis.merged_of or axis.joined_of or axis.back)
    axis = next(made, same[0] if same else Part(size))
    if not same and sited:
        axis.span = sited[0].span[0], sited[-1].span[1]
    for other in axes if size > 1 else ():
        axis.is_like(other.resized(size, name))
    return axis


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
