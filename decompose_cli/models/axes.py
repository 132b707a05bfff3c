"""Which axis of an activation counts channels, which rows and which columns, by what is done with it in a forward pass.

Every axis is followed through the operations of the network, from the image to the logits. Rows and columns are those
of the image, or axes that a convolution or pooling slides over. Channels are what a convolution or a linear layer sums
over or makes, and what a normalisation has a scale for. Neither the order of the axes nor the name of any module says
anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

# Operations of torch's own library, by name: not every version has each of them.
_SAME_SHAPE = {
    "hardswish", "hardswish_", "hardsigmoid_", "_prelu_kernel", "masked_fill", "masked_fill_", "copy_",
    "native_dropout", "bernoulli_", "rrelu_with_noise",
}  # fmt: skip
_SAME_AXES = {
    "clone", "_to_copy", "detach", "alias", "lift_fresh", "contiguous", "_softmax", "_log_softmax", "roll", "flip",
    "constant_pad_nd", "slice", "split", "split_with_sizes", "cumsum", "index_select",
}  # fmt: skip
_VIEWS = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy",
}  # fmt: skip
_REDUCTIONS = {
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp",
}  # fmt: skip
_POOLING = {
    "max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "mkldnn_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "reflection_pad2d", "replication_pad2d",
}  # fmt: skip
_CONVOLUTIONS = {
    "convolution", "_convolution", "mkldnn_convolution",
}  # fmt: skip
_CHANNEL_NORMS = {
    "native_group_norm",
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "miopen_batch_norm", "batch_norm", "_batch_norm_no_update",
}  # fmt: skip
_PRODUCTS = {"mm": 0, "bmm": 0, "linear": 0, "addmm": 1, "baddbmm": 1, "addbmm": 1}  # the place of the first factor
_CHANNELS, _SUMMED, _ROWS, _COLUMNS, _WITHIN = "channels", "summed", "rows", "columns", "within rows or columns"


class _Part:
    """An axis, or a factor of one, as reshaping splits and merges axes; those known to mean the same have one root."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.roles: set[str] = set()  # of the root
        self.whole: _Part | None = None
        self.halves: dict[int, tuple[_Part, _Part]] = {}
        self.merged_of: tuple[_Part, ...] = ()
        self._same: _Part | None = None

    def root(self) -> _Part:
        part = self
        while part._same is not None:
            part = part._same
        return part

    def is_like(self, other: _Part) -> None:
        first, second = self.root(), other.root()
        if first is not second:
            second._same = first
            first.roles |= second.roles

    def split(self, size: int) -> tuple[_Part, _Part]:
        """An outer part of a size and the inner rest; the outer part of rows still goes down the image."""
        if size not in self.halves:
            outer, inner = _Part(size), _Part(self.size // size)
            outer.whole = inner.whole = self
            along = self.root().roles & {_ROWS, _COLUMNS}
            outer.roles |= along
            inner.roles |= {_WITHIN} if along else set()
            self.halves[size] = outer, inner
        return self.halves[size]

    @staticmethod
    def merge(parts: Sequence[_Part]) -> _Part:
        """The axis that parts make, outermost first; the halves of a part make that part."""
        stack: list[_Part] = []
        for part in parts:
            stack.append(part)
            while len(stack) > 1 and stack[-1].whole is not None and stack[-1].whole is stack[-2].whole:
                whole = stack[-1].whole
                if whole.halves.get(stack[-2].size) != (stack[-2], stack[-1]):
                    break
                stack[-2:] = [whole]
        if len(stack) == 1:
            return stack[0]
        merged = _Part(torch.Size(part.size for part in stack).numel())
        merged.merged_of = tuple(stack)
        return merged


Layout = tuple[_Part, ...]
"""The axes of a tensor."""


Planes = tuple[int, int, int, int]
"""An order of four axes, in which they are those of maps (N, C, h, w)."""


@dataclass(frozen=True)
class Axes:
    """The axes of an activation whose first is the image; None where it cannot be told, or there is none.

    Attributes:
        channels: The axis that counts channels.
        rows: The axis that goes down the image.
        columns: The axis that goes across it.
    """

    channels: int | None = None
    rows: int | None = None
    columns: int | None = None

    @property
    def planes(self) -> Planes | None:
        """The order in which four axes are those of maps, or None where it cannot be told."""
        if self.channels is None or self.rows is None or self.columns is None:
            return None
        if len({self.channels, self.rows, self.columns}) < 3:  # rows that are summed over with weights, say
            return None
        return 0, self.channels, self.rows, self.columns


class AxisTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the axes of images through the operations of a network while it is active.

    Args:
        images: Images (N, 3, H, W), which the network is then given.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layouts: MutableMapping[Tensor, Layout] = WeakTensorKeyDictionary()
        self._count = len(images)
        layout = self._new(images)
        for axis, role in zip(layout[1:], (_CHANNELS, _ROWS, _COLUMNS), strict=True):
            _mark(axis, role)

    def layout(self, value: Tensor) -> Layout | None:
        """The axes of a tensor as they are followed, for :meth:`axes`; None if it does not depend on images."""
        layout = self._layouts.get(value)
        return layout if layout is not None and _fits(layout, value) else None

    def axes(self, layout: Layout | None) -> Axes:
        """What axes are, by all that has been done so far with the tensors that have them."""
        if layout is None or len(layout) < 2 or layout[0].size != self._count:  # cut into pieces, a row for each
            return Axes()
        roles = [axis.root().roles for axis in layout]

        def having(role: str) -> list[int]:
            return [n for n in range(1, len(roles)) if role in roles[n]]

        within = having(_WITHIN)
        places = [
            having(_CHANNELS) or having(_SUMMED),
            *([n for n in having(role) if n not in within] for role in (_ROWS, _COLUMNS)),
        ]
        alone = [place[0] if len(place) == 1 else None for place in places]
        if len(layout) == 4 and alone.count(None) == 1:
            (left,) = {1, 2, 3}.difference(alone) if len(set(alone)) == 3 else (0,)
            if left and layout[left].size == 1:  # an axis of one element is not followed; it is what is left
                alone[alone.index(None)] = left
        return Axes(*alone)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = [layout for value in _tensors(args) if (layout := self.layout(value)) is not None]
        first = self.layout(args[0]) if args and isinstance(args[0], Tensor) else None
        out = func(*args, **(kwargs or {}))
        outputs = list(_tensors(out if isinstance(out, (tuple, list)) else (out,)))
        if outputs:
            self._follow(func, args, kwargs or {}, first, given, outputs)
        for output in outputs if given else ():
            if self.layout(output) is None:  # it depends on the image, and may be no weight
                self._new(output)
        return out

    def _new(self, value: Tensor) -> Layout:
        layout = _new_axes(value)
        self._layouts[value] = layout
        return layout

    def _follow(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], first: Layout | None,
        given: list[Layout], outputs: list[Tensor],
    ) -> None:  # fmt: skip
        """Give the outputs of an operation their axes, and say of axes what the operation shows."""
        name, value = func.name().partition("::")[2].partition(".")[0], outputs[0]
        if name in _CONVOLUTIONS or name in _POOLING or name in _CHANNEL_NORMS:
            self._channels_second(name, args, value)
        elif name == "native_layer_norm":
            if first is not None:
                self._layouts[value] = first
                if len(args[1]) == 1:
                    _mark(first[-1], _CHANNELS)
        elif not given:
            return  # weights of weights are weights
        elif name in _PRODUCTS:
            place = _PRODUCTS[name]
            self._multiply(args[place], args[place + 1], value)
        elif torch.Tag.pointwise in func.tags or name in _SAME_SHAPE:
            self._layouts[value] = _broadcast(given, value)
        elif name in ("cat", "stack"):
            self._join(name, given, args, kwargs, value)
        elif first is not None:
            for output in outputs:
                if name in _SAME_AXES:
                    self._layouts[output] = _resized(first, output)
                elif name in _VIEWS:
                    self._layouts[output] = _reshaped(first, output)
                else:
                    self._layouts[output] = _rearranged(name, first, args, kwargs, output)

    def _channels_second(self, name: str, args: tuple[Any, ...], value: Tensor) -> None:
        """Convolution, pooling, normalisation of channels: (N, C, ...) in and out, in pooling perhaps without N."""
        source = args[0]
        before = self.layout(source) or self._new(source)
        after = before if name in _CHANNEL_NORMS else _resized(before, value)
        if name in _CONVOLUTIONS:
            after = (after[0], _Part(value.shape[1]), *after[2:])
        self._layouts[value] = after
        is_point = name in _CONVOLUTIONS and all(side == 1 for side in args[1].shape[2:])
        # What slides along one axis only is written by torch as if there were rows, of which there is one.
        slides = name in _POOLING or (name in _CONVOLUTIONS and source.ndim == 4 and not is_point)
        slides = slides and min(source.shape[-2:]) > 1
        for layout in (before, after):
            _mark(layout[-3 if name in _POOLING else 1], _SUMMED if is_point else _CHANNELS)
            if slides:
                _mark(layout[-2], _ROWS)
                _mark(layout[-1], _COLUMNS)

    def _multiply(self, left: Tensor, right: Tensor, value: Tensor) -> None:
        """A product with weights, which do not depend on the image: the axis that is summed over counts channels."""
        first, second = self.layout(left), self.layout(right)
        new = self._new(value)
        if first is not None and second is None:
            self._layouts[value] = (*first[:-1], new[-1])
            _mark(first[-1], _SUMMED)
            _mark(new[-1], _SUMMED)
        elif second is not None and first is None:
            self._layouts[value] = (*second[:-2], new[-2], second[-1])
            _mark(second[-2], _SUMMED)
            _mark(new[-2], _SUMMED)

    def _join(
        self, name: str, given: list[Layout], args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Tensor
    ) -> None:
        place = int(args[1] if len(args) > 1 else kwargs.get("dim", 0)) % value.ndim
        if name == "stack":
            given = [(*layout[:place], _Part(1), *layout[place:]) for layout in given]
        self._layouts[value] = _alike([layout for layout in given if len(layout) == value.ndim], value)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _new_axes(value: Tensor) -> Layout:
    return tuple(_Part(size) for size in value.shape)


def _fits(layout: Sequence[_Part], value: Tensor) -> bool:
    return [axis.size for axis in layout] == list(value.shape)


def _mark(axis: _Part, role: str) -> None:
    axis.root().roles.add(role)


def _alike(layouts: Sequence[Layout], value: Tensor) -> Layout:
    """The axes of a tensor that has the same axes as others, some perhaps of another length."""
    result = []
    for place, size in enumerate(value.shape):
        axes = [layout[place] for layout in layouts if layout[place].size > 1]
        same = [axis for axis in axes if axis.size == size]
        # What is known of the parts of an axis is kept, for when it is split again.
        axis = next((axis for axis in same if axis.merged_of), same[0] if same else _Part(size))
        for other in axes if size > 1 else ():
            axis.is_like(other)
        result.append(axis)
    return tuple(result)


def _resized(layout: Layout, value: Tensor) -> Layout:
    return _alike([layout], value) if len(layout) == value.ndim else _new_axes(value)


def _broadcast(layouts: Sequence[Layout], value: Tensor) -> Layout:
    """The axes of the result of an operation by elements; an axis of one element says nothing of the others."""
    filled = [
        (*(_Part(1) for _ in range(value.ndim - len(layout))), *layout)
        for layout in layouts
        if len(layout) <= value.ndim
    ]
    return _alike(filled, value)


def _reshaped(layout: Layout, value: Tensor) -> Layout:
    """The axes after reshaping, which splits and merges them in their order."""
    left = [axis for axis in layout if axis.size > 1][::-1]
    result = []
    for size in value.shape:
        parts: list[_Part] = []
        rest = size
        while rest > 1:
            if not left:
                return _new_axes(value)
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
                return _new_axes(value)
        result.append(_Part.merge(parts) if parts else _Part(size))
    return tuple(result)


def _rearranged(name: str, layout: Layout, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Tensor) -> Layout:
    """The axes after an operation that moves, adds or drops some; new ones where the operation is not known."""
    count = len(layout)

    def place(number: int, keyword: str, default: int, axes: int = count) -> int:
        given = args[number] if len(args) > number else kwargs.get(keyword, default)
        return int(given) % max(axes, 1)

    axes: list[_Part] = list(layout)
    if name == "permute":
        axes = [layout[axis] for axis in args[1]]
    elif name in ("transpose", "transpose_"):
        one, other = place(1, "dim0", 0), place(2, "dim1", 1)
        axes[one], axes[other] = axes[other], axes[one]
    elif name in ("t", "t_", "numpy_T"):
        axes = axes[::-1]
    elif name in ("unsqueeze", "unsqueeze_"):
        axes.insert(place(1, "dim", 0, count + 1), _Part(1))
    elif name in ("squeeze", "squeeze_"):
        axes = [axis for axis in axes if axis.size > 1]
        for at, size in enumerate(value.shape):
            if size == 1:
                axes.insert(at, _Part(1))
    elif name == "expand":
        return _broadcast([layout], value)
    elif name in ("select", "unbind"):
        axes.pop(place(1, "dim", 0))
    elif name in _REDUCTIONS:
        given = args[1] if len(args) > 1 else kwargs.get("dim")
        dims = [given] if isinstance(given, int) else given if isinstance(given, (tuple, list)) else range(count)
        gone = {int(dim) % max(count, 1) for dim in dims} or set(range(count))
        kept = value.ndim == count
        axes = [_Part(1) if at in gone else axis for at, axis in enumerate(layout) if kept or at not in gone]
    else:
        axes = []
    return tuple(axes) if _fits(axes, value) else _new_axes(value)


@contextmanager
def slow_attention() -> Iterator[None]:
    """Keep the attention layers of torch from doing all of their work in one operation, in which axes are lost."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
