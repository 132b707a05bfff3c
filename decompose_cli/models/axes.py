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

from decompose_cli.models.axis_operations import SAME_SHAPE, given_arguments, of_first, of_several
from decompose_cli.models.axis_order import MOVES
from decompose_cli.models.axis_parts import (
    CHANNELS,
    COLUMNS,
    IMAGES,
    ROWS,
    SUMMED,
    WITHIN,
    Layout,
    Part,
    broadcast,
    fits,
    new_axes,
    resized,
)
from decompose_cli.models.planes import Line, Planes

# Operations of torch's own library, by name: not every version has each of them.
_POOLING = {
    "max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "fractional_max_pool2d", "mkldnn_max_pool2d", "max_unpool2d", "upsample_nearest2d",
    "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa", "reflection_pad2d", "replication_pad2d",
}  # fmt: skip
_CONVOLUTIONS = {
    "convolution", "_convolution", "mkldnn_convolution", "deform_conv2d",
}  # fmt: skip
_CHANNEL_NORMS = {
    "native_group_norm",
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "miopen_batch_norm", "batch_norm", "_batch_norm_no_update",
}  # fmt: skip
_LAST_NORMS = {
    "native_layer_norm", "_fused_rms_norm", "rms_norm",
}  # fmt: skip


@dataclass(frozen=True)
class Axes:
    """The axes of an activation whose first is the image; None where it cannot be told, or there is none.

    Attributes:
        channels: The axis that counts channels.
        rows: The axis that goes down the image.
        columns: The axis that goes across it.
        lost_by: The operation after which it cannot be told what the others are, where each of them may be one of
            these three; else None.
        in_order: Whether the first axis has the images in the order in which the network was given them.
        line: The axis that has the rows and columns of the image in a line, where there are three axes.
    """

    channels: int | None = None
    rows: int | None = None
    columns: int | None = None
    lost_by: str | None = None
    in_order: bool = True
    line: Line | None = None

    @property
    def places(self) -> Planes | None:
        """Where maps are, if what is left beside rows and columns counts channels; None where it cannot be told."""
        if self.line is not None:
            return Planes((0, 3 - self.line.axis, self.line.axis), self.line)
        if self.rows is None or self.columns is None or self.rows == self.columns:
            return None
        return Planes((0, 6 - self.rows - self.columns, self.rows, self.columns))

    @property
    def planes(self) -> Planes | None:
        """Where maps are, in the activation of three axes or four; None where it cannot be told."""
        places = self.places  # rows may also be what is summed over with weights, say
        return places if places is not None and places.order[1] == self.channels else None


class AxisTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the axes of images through the operations of a network while it is active.

    Args:
        images: Images (N, 3, H, W), which the network is then given.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layouts: MutableMapping[Tensor, Layout] = WeakTensorKeyDictionary()
        self._count = len(images)
        layout = self._new(images, "")
        for axis, role in zip(layout, (IMAGES, CHANNELS, ROWS, COLUMNS), strict=True):
            axis.mark(role)

    def layout(self, value: Tensor) -> Layout | None:
        """The axes of a tensor as they are followed, for :meth:`axes`; None if it does not depend on images."""
        layout = self._layouts.get(value)
        return layout if layout is not None and fits(layout, value) else None

    def axes(self, layout: Layout | None) -> Axes:
        """What axes are, by all that has been done so far with the tensors that have them."""
        if layout is None or len(layout) < 2 or layout[0].size != self._count:  # cut into pieces, a row for each
            return Axes()
        images = layout[0].root()
        if images.elsewhere:
            return Axes(lost_by=images.lost, in_order=False)
        roles = [axis.root().roles for axis in layout]

        def having(role: str) -> list[int]:
            return [n for n in range(1, len(roles)) if role in roles[n]]

        rows, columns = having(ROWS), having(COLUMNS)
        summed = having(SUMMED)  # over positions too, by some networks
        within = having(WITHIN)
        places = [
            having(CHANNELS) or [n for n in summed if n not in rows + columns] or summed,
            *([n for n in found if n not in within] for found in (rows, columns)),
        ]
        alone = [place[0] if len(place) == 1 else None for place in places]
        if len(layout) == 4 and alone.count(None) == 1:
            (left,) = {1, 2, 3}.difference(alone) if len(set(alone)) == 3 else (0,)
            if left and layout[left].size == 1:  # an axis of one element is not followed; it is what is left
                alone[alone.index(None)] = left
        channels, seen_rows, seen_columns = alone
        line = _line(layout)
        return Axes(channels, seen_rows, seen_columns, None if line else _lost_by(layout[1:]), line=line)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.name().partition("::")[2].partition(".")[0]
        given = [layout for value in _tensors((*args, *(kwargs or {}).values())) if (layout := self.layout(value))]
        first = self.layout(args[0]) if args and isinstance(args[0], Tensor) else None
        out = func(*args, **(kwargs or {}))
        outputs = list(_tensors(out if isinstance(out, (tuple, list)) else (out,)))
        if outputs:
            self._follow(func, name, args, kwargs or {}, first, given, outputs)
        for output in outputs if given else ():
            if self.layout(output) is None:  # it depends on the image, and may be no weight
                self._new(output, name)
        if given and outputs and outputs[0] is args[0] and outputs[0]._base is not None:
            self._write_through(outputs[0]._base, first, self._layouts[outputs[0]], name)
        return out

    def _write_through(self, base: Tensor, before: Layout | None, after: Layout, name: str) -> None:
        """What is written into a part of a tensor may be no more what the tensor's axes were; those are then lost."""
        pairs = [] if before is None else zip(before, after, strict=True)
        if before is not None and all(old.size == 1 or old.root() is new.root() for old, new in pairs):
            return
        roots = {axis.root() for axis in after}
        lost = next((axis.root().lost for axis in after if axis.root().elsewhere), "")
        own = self.layout(base) or (*after[:1], *new_axes(base.shape[1:]))
        self._layouts[base] = tuple(
            axis if axis.root() in roots and axis.size == size else Part(size, lost or name, elsewhere=bool(lost))
            for axis, size in zip(own, base.shape, strict=True)
        )

    def _new(self, value: Tensor, lost: str) -> Layout:
        layout = new_axes(value.shape, lost)
        self._layouts[value] = layout
        return layout

    def _follow(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], first: Layout | None,
        given: list[Layout], outputs: list[Tensor],
    ) -> None:  # fmt: skip
        """Give the outputs of an operation their axes, and say of axes what the operation shows."""
        value = outputs[0]
        if name in _CONVOLUTIONS or name in _POOLING or name in _CHANNEL_NORMS:
            self._channels_second(name, args, value)
        elif name in _LAST_NORMS:
            if first is not None:
                self._layouts[value] = first
                if len(args[1]) == 1:
                    first[-1].mark(CHANNELS)
        elif not given:
            return  # weights of weights are weights
        elif name not in MOVES and (torch.Tag.pointwise in func.tags or name in SAME_SHAPE):
            self._layouts[value] = broadcast(given, value, name)
        else:
            named = given_arguments(func, args, kwargs)
            of_all = of_several(name, args, named, self.layout, value)
            found = [of_all] if of_all else of_first(name, first, named, outputs) if first else []
            self._layouts.update(zip(outputs, found, strict=False))

    def _channels_second(self, name: str, args: tuple[Any, ...], value: Tensor) -> None:
        """Convolution, pooling, normalisation of channels: (N, C, ...) in and out, in pooling perhaps without N."""
        source = args[0]
        before = self.layout(source) or self._new(source, "")
        after = before if name in _CHANNEL_NORMS else resized(before, value, name)
        if name in _CONVOLUTIONS:
            after = (after[0], Part(value.shape[1]), *after[2:])
        self._layouts[value] = after
        is_point = name in _CONVOLUTIONS and all(side == 1 for side in args[1].shape[2:])
        # What slides along one axis only is written by torch as if there were rows, of which there is one.
        slides = name in _POOLING or (name in _CONVOLUTIONS and source.ndim == 4 and not is_point)
        slides = slides and min(source.shape[-2:]) > 1
        for layout in (before, after):
            layout[-3 if name in _POOLING else 1].mark(SUMMED if is_point else CHANNELS)
            if slides:
                layout[-2].mark(ROWS)
                layout[-1].mark(COLUMNS)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _lost_by(axes: Sequence[Part]) -> str | None:
    """The operation that made axes of which nothing is known, if all others are channels, rows, columns or points."""
    lost = None
    for axis in axes:
        roles = axis.root().roles
        if WITHIN in roles or not (roles or axis.root().lost or axis.size == 1):
            return None
        if not roles and axis.size > 1:
            lost = lost or axis.root().lost
    return lost


def _line(layout: Layout) -> Line | None:
    """The grid of positions in one of the axes of lines of tokens; None where there is none, or none alone."""
    found = [(axis, grid) for axis, part in enumerate(layout) if axis and (grid := part.grid()) is not None]
    if len(layout) != 3 or len(found) != 1:
        return None
    ((axis, (start, (outer, inner))),) = found
    by_columns = COLUMNS in outer.root().roles
    rows, columns = (inner, outer) if by_columns else (outer, inner)
    return Line(axis, start, rows.size, columns.size, by_columns)


@contextmanager
def slow_attention() -> Iterator[None]:
    """Keep the attention layers of torch from doing all of their work in one operation, in which axes are lost."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
