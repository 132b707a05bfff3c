"""What operations of torch do to axes; those that are in no table here are not known, and the axes are lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from decompose_cli.models.axis_order import MOVES, WRITES, Given, taken, written
from decompose_cli.models.axis_parts import (
    SUMMED,
    WITHIN,
    Layout,
    Part,
    alike,
    broadcast,
    fits,
    new_axes,
    reshaped,
    resized,
)

# Operations of torch's own library, by name: not every version has each of them.
SAME_SHAPE = {
    "hardswish", "hardswish_", "hardsigmoid_", "_prelu_kernel", "masked_fill", "masked_fill_", "copy_",
    "native_dropout", "bernoulli_", "rrelu_with_noise", "complex", "polar", "log_sigmoid_forward",
    "_neg_view", "resolve_conj", "resolve_neg",
}  # fmt: skip
_SAME_AXES = {
    "clone", "_to_copy", "detach", "alias", "lift_fresh", "contiguous", "_softmax", "_log_softmax", "_safe_softmax",
    "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "glu", "tril", "triu", "renorm",
    "channel_shuffle", "native_channel_shuffle", "quantize_per_tensor", "quantize_per_channel", "dequantize",
    "fake_quantize_per_tensor_affine_cachemask", "fake_quantize_per_channel_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "reflection_pad1d", "reflection_pad3d", "replication_pad1d", "replication_pad3d", "upsample_nearest1d",
    "_upsample_nearest_exact1d", "upsample_linear1d", "upsample_nearest3d", "_upsample_nearest_exact3d",
    "upsample_trilinear3d", "avg_pool3d", "max_pool3d_with_indices", "_adaptive_avg_pool3d", "adaptive_max_pool3d",
    "fractional_max_pool3d",
}  # fmt: skip
_VIEWS = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy",
}  # fmt: skip
_REDUCTIONS = {
    "mean", "sum", "nansum", "prod", "amax", "amin", "aminmax", "max", "min", "var", "std", "var_mean", "std_mean",
    "logsumexp", "median", "nanmedian", "mode", "kthvalue", "argmax", "argmin", "any", "all", "count_nonzero", "norm",
    "linalg_vector_norm",
}  # fmt: skip
_CUTS = {"slice", "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"}
_RECURRENT = {"mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn"}
_PRODUCTS = {"mm": 0, "bmm": 0, "linear": 0, "addmm": 1, "baddbmm": 1, "addbmm": 1}  # the place of the first factor


def given_arguments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Given:
    """The arguments of an operation by name, with the defaults of those that were left out."""
    expected = func._schema.arguments
    defaults = {one.name: one.default_value for one in expected if one.has_default_value()}
    return defaults | {one.name: value for one, value in zip(expected, args, strict=False)} | dict(kwargs)


def of_first(name: str, layout: Layout, given: Given, outputs: Sequence[Tensor]) -> list[Layout]:
    """The axes of the outputs of an operation whose first argument has these; new ones where that cannot be told."""
    if name in _CUTS:
        return _cut(name, layout, given, outputs)
    return [_followed(name, layout, given, value) for value in outputs]


def of_several(
    name: str, args: Sequence[Any], given: Given, layout_of: Callable[[Tensor], Layout | None], value: Tensor
) -> Layout | None:
    """The axes of the first output of an operation that takes several tensors; None where it is none of these."""

    def known(argument: str) -> Layout | None:
        return layout_of(given[argument])

    if name in _PRODUCTS:
        place = _PRODUCTS[name]
        return _product(layout_of(args[place]), layout_of(args[place + 1]), value)
    if name in ("cat", "stack"):
        return _joined(name, given, layout_of, value)
    if name.startswith("_scaled_dot_product_"):
        queries, values = known("query"), known("value")
        return (*queries[:-1], values[-1]) if queries is not None and values is not None else None
    if name == "index":
        return _indexed(known("self"), given["indices"], layout_of, value)
    if name in WRITES:
        return written(name, given, layout_of, value)
    if name == "embedding":
        numbers = known("indices")
        return None if numbers is None else (*numbers, Part(value.shape[-1]))
    if name == "grid_sampler_2d":
        images, places = known("input"), known("grid")
        rest = places[1:3] if places is not None else new_axes(value.shape[2:], name)
        return None if images is None else (*images[:2], *rest)
    return None


def _product(first: Layout | None, second: Layout | None, value: Tensor) -> Layout | None:
    """A product with weights, which do not depend on the image: the axis that is summed over counts channels."""
    new = new_axes(value.shape)
    if first is not None and second is not None:
        return (*first[:-1], second[-1])
    if first is not None:
        first[-1].mark(SUMMED)
        new[-1].mark(SUMMED)
        return (*first[:-1], new[-1])
    if second is not None:
        second[-2].mark(SUMMED)
        new[-2].mark(SUMMED)
        return (*second[:-2], new[-2], second[-1])
    return None


def _joined(name: str, given: Given, layout_of: Callable[[Tensor], Layout | None], value: Tensor) -> Layout | None:
    place = given["dim"] % value.ndim
    layouts = [layout_of(one) for one in given["tensors"]]
    if name == "stack":
        new = Part(value.shape[place], name)
        return alike([(*one[:place], new, *one[place:]) for one in layouts if one is not None], value, name)
    known = [one for one in layouts if one is not None and len(one) == value.ndim]
    axes = alike(known, value, name, joined=place)
    is_new = all(axes[place] is not one[place] for one in known)
    if is_new and any(one[place].is_of_positions() for one in known):  # tokens, which may be cut off again
        axes[place].joined_of = tuple(
            Part(tensor.shape[place]) if one is None or len(one) != value.ndim else one[place]
            for tensor, one in zip(given["tensors"], layouts, strict=True)
        )
    return axes


def _indexed(
    layout: Layout | None, numbers: Sequence[Tensor | None], layout_of: Callable[[Tensor], Layout | None], value: Tensor
) -> Layout | None:
    """Elements by their numbers along one axis; or rows of a table, which does not depend on the image."""
    places = [place for place, one in enumerate(numbers) if one is not None]
    if len(places) != 1:
        return None
    chosen = numbers[places[0]]
    assert chosen is not None
    if layout is None:
        found = layout_of(chosen)
        return None if found is None or places != [0] else (*found, *new_axes(value.shape[chosen.ndim :]))
    if chosen.ndim != 1:
        return None
    axes = list(layout)
    axes[places[0]] = taken(axes[places[0]], chosen, "index")
    return tuple(axes)


def _followed(name: str, layout: Layout, given: Given, value: Tensor) -> Layout:
    if name in _SAME_AXES:
        return resized(layout, value, name)
    if name in _VIEWS:
        return reshaped(layout, value.shape, name)
    if name == "expand":
        return broadcast([layout], value, name)
    axes: Sequence[Part] = ()
    if name in _REDUCTIONS:
        axes = _reduced(layout, given, value)
    elif name in _MOVES:
        axes = _MOVES[name](list(layout), given, value, name)
    return tuple(axes) if fits(axes, value) else new_axes(value.shape, name)


def _cut(name: str, layout: Layout, given: Given, outputs: Sequence[Tensor]) -> list[Layout]:
    """Of tokens that were joined to others, such as that of the class, each kind is again what it was."""
    place = given["dim"] % len(layout)
    axis = layout[place]
    start = given.get("start") or 0
    start += axis.size if start < 0 else 0
    result = []
    for value in outputs:
        size, step = value.shape[place], given.get("step", 1)
        part = axis.cut(start, size) if step == 1 else None
        part = part or axis.piece(start, size, step, name)
        result.append(resized((*layout[:place], part, *layout[place + 1 :]), value, name))
        start += size
    return result


def _reduced(layout: Layout, given: Given, value: Tensor) -> Sequence[Part]:
    dims, count = given.get("dim"), len(layout)
    gone = {dim % count for dim in ([dims] if isinstance(dims, int) else dims or range(count))}
    kept = value.ndim == count
    return [Part(1) if at in gone else axis for at, axis in enumerate(layout) if kept or at not in gone]


# ---------------------------------------------------------- operations that move, add or drop axes, or what is in them


def _permute(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    return [axes[axis] for axis in given["dims"]]


def _transpose(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    one, other = given["dim0"], given["dim1"]
    axes[one], axes[other] = axes[other], axes[one]
    return axes


def _reverse(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    return axes[::-1]


def _unsqueeze(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    axes.insert(given["dim"] % value.ndim, Part(1))
    return axes


def _squeeze(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    left = [axis for axis in axes if axis.size > 1]
    for at, size in enumerate(value.shape):
        if size == 1:
            left.insert(at, Part(1))
    return left


def _select(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    axes.pop(given["dim"])
    return axes


def _as_real(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    return [*axes, Part(2)]


def _as_complex(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    return axes[:-1]


def _repeat(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    repeats = given["repeats"]
    axes = [*(Part(1) for _ in range(len(repeats) - len(axes))), *axes]
    return [
        Part(size, (axis.root().lost or name) if axis.size > 1 else "")
        if count > 1 and (axis.size == 1 or axis.is_of_positions())
        else axis.resized(size, name)
        for axis, count, size in zip(axes, repeats, value.shape, strict=True)
    ]


def _windows(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    """Tensor.unfold: windows along an axis, with a last axis of the places in them."""
    dim, inside = given["dimension"] % len(axes), Part(value.shape[-1])
    if axes[dim].is_of_positions():
        inside.mark(WITHIN)
    axes[dim] = axes[dim].resized(value.shape[dim], name)
    return [*axes, inside]


def _unfold(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    """F.unfold: (..., C, H, W) to (..., C * window, h * w)."""
    *rest, channels, rows, columns = axes
    height, width = _grid((rows.size, columns.size), given)
    positions = [rows.resized(height, name), columns.resized(width, name)]
    window = Part(value.shape[-2] // channels.size)
    return [*rest, Part.merge([channels, window]), Part.merge(positions)]


def _fold(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    """F.fold: (..., C * window, h * w) to (..., C, H, W)."""
    *rest, channels, positions = axes
    (_, height, width), size = value.shape[-3:], _grid(given["output_size"], given)
    rows, columns = reshaped((positions,), size, name)
    return [*rest, _outer(channels, value.shape[-3], name), rows.resized(height, name), columns.resized(width, name)]


def _grid(sides: Sequence[int], given: Given) -> tuple[int, int]:
    """How many windows stand below and beside each other in maps of these sides."""
    names = ("kernel_size", "dilation", "padding", "stride")
    asked = zip(sides, *(given[one] if len(given[one]) == 2 else given[one] * 2 for one in names), strict=True)
    height, width = (
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, kernel, dilation, padding, stride in asked
    )
    return height, width


def _shuffle(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    """Pixels to channels or back: the sides of the maps change, and channels are split or merged."""
    *rest, channels, rows, columns = axes
    count, height, width = value.shape[-3:]
    if count < channels.size:
        channels = _outer(channels, count, name)
    elif count > channels.size:
        channels = Part.merge([channels, Part(count // channels.size)])
    return [*rest, channels, rows.resized(height, name), columns.resized(width, name)]


def _outer(axis: Part, size: int, name: str) -> Part:
    return reshaped((axis,), (size, axis.size // size), name)[0]


def _recurrent(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    """A recurrent layer: steps and lines stay, and features are made anew; its states are no sequence."""
    if not value.ndim == 3 == len(axes):
        return ()
    axes[-1].mark(SUMMED)
    new = Part(value.shape[-1])
    new.mark(SUMMED)
    return [*axes[:-1], new]


_MOVES: dict[str, Callable[[list[Part], Given, Tensor, str], Sequence[Part]]] = {
    "permute": _permute,
    **dict.fromkeys(["transpose", "transpose_"], _transpose),
    **dict.fromkeys(["t", "t_", "numpy_T"], _reverse),
    **dict.fromkeys(["unsqueeze", "unsqueeze_"], _unsqueeze),
    **dict.fromkeys(["squeeze", "squeeze_"], _squeeze),
    **dict.fromkeys(["select", "unbind"], _select),
    "view_as_real": _as_real,
    "view_as_complex": _as_complex,
    **MOVES,
    "repeat": _repeat,
    "unfold": _windows,
    "im2col": _unfold,
    "col2im": _fold,
    **dict.fromkeys(["pixel_shuffle", "pixel_unshuffle"], _shuffle),
    **dict.fromkeys(_RECURRENT, _recurrent),
}
