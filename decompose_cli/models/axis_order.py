"""What operations of torch that put elsewhere what stands along an axis do to it: moving, taking and writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from decompose_cli.models.axis_parts import Layout, Part, alike, new_axes, resized

_WRITTEN = {  # what is written, by the name of the argument
    **dict.fromkeys(["scatter", "scatter_add", "scatter_reduce", "slice_scatter", "select_scatter"], "src"),
    **dict.fromkeys(["index_add", "index_copy", "masked_scatter"], "source"),
    **dict.fromkeys(["index_put", "_index_put_impl"], "values"),
    **dict.fromkeys(["index_fill", "diagonal_scatter"], "src"),
}
WRITES = {*_WRITTEN, *(f"{name}_" for name in _WRITTEN)}

Given = Mapping[str, Any]
"""The arguments of an operation by the names that torch gives them."""


def elsewhere(axis: Part, way: object, back: object, size: int, name: str) -> Part:
    """Channels are channels in whatever order; images and positions are no longer where they were."""
    return axis.moved(way, back, size, name) if axis.is_of_positions() else axis.resized(size, name)


def taken(axis: Part, numbers: Tensor, name: str) -> Part:
    """The axis of the elements that have these numbers; those of positions must rise, as in a slice, to go down it."""
    order = _listed(numbers, axis.size)
    if _rises(order):
        step = (order[-1] + 1 - order[0]) / len(order) if order else 1
        return axis.piece(order[0] if order else 0, len(order), step, name)
    back = _inverse(order) if _is_permutation(order, axis.size) else None
    return elsewhere(axis, ("order", *order), object() if back is None else ("order", *back), len(order), name)


def written(name: str, given: Given, layout_of: Callable[[Tensor], Layout | None], value: Tensor) -> Layout | None:
    """The axes of a tensor into which others' elements are written; None where nothing is known of either.

    Args:
        name: The operation.
        given: Its arguments.
        layout_of: Tells the axes of a tensor.
        value: The tensor afterwards.
    """
    kind = name.removesuffix("_")
    source = given.get(_WRITTEN[kind])
    own, new = layout_of(given["self"]), layout_of(source) if isinstance(source, Tensor) else None
    if new is None:  # numbers, which say nothing of places
        return None if own is None else resized(own, value, name)
    lost = new_axes(value.shape, name)
    if kind == "slice_scatter":
        return alike([own or lost, new], value, name)
    if kind == "select_scatter":
        place = given["dim"] % value.ndim
        return alike([own or lost, (*new[:place], Part(1), *new[place:])], value, name)
    numbers = given.get("index")
    if kind in ("index_put", "_index_put_impl"):
        places = [at for at, one in enumerate(given["indices"]) if one is not None]
        place, numbers = places[0], given["indices"][places[0]]
        new = (*(Part(1) for _ in range(value.ndim - len(new))), *new)
        if len(places) > 1 or numbers.ndim != 1:
            return lost
    elif numbers is not None:
        place = given["dim"] % value.ndim
    else:
        return lost
    order = _listed(numbers, value.shape[place]) if kind.startswith(("index", "_index")) else None
    is_all = order is not None and _is_permutation(order, value.shape[place])
    at = new[place]
    if order is None:
        at = elsewhere(at, object(), object(), value.shape[place], name)
    elif not _rises(order):
        way, back = (("order", *_inverse(order)), ("order", *order)) if is_all else (object(), object())
        at = elsewhere(at, way, back, value.shape[place], name)
    kept = own or lost
    if is_all and kind != "index_add" and not given.get("accumulate"):  # nothing is left of what was there
        kept = (*kept[:place], lost[place], *kept[place + 1 :])
    return alike([kept, (*new[:place], at, *new[place + 1 :])], value, name)


def _listed(numbers: Tensor, size: int) -> list[int]:
    is_mask = numbers.dtype in (torch.bool, torch.uint8)
    found: list[int] = (numbers.nonzero()[:, 0] if is_mask else numbers % size).tolist()
    return found


def _rises(order: Sequence[int]) -> bool:
    return list(order) == sorted(set(order))


def _is_permutation(order: Sequence[int], size: int) -> bool:
    return len(order) == size == len(set(order))


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _roll(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    if not given["dims"] and value.ndim > 1:  # all in one line
        return new_axes(value.shape, name)
    for dim, shift in zip(given["dims"] or [0], given["shifts"], strict=True):
        size = value.shape[dim]
        if shift % size:
            axes[dim] = elsewhere(axes[dim], (name, shift % size), (name, -shift % size), size, name)
    return axes


def _padded(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    """Positions that were moved are so between what is put around them, and again without it (windows of Swin)."""
    pads = given["pad"]  # of the last axis first
    for place in range(len(pads) // 2):
        before, after = pads[2 * place : 2 * place + 2]
        dim = value.ndim - 1 - place
        axis = axes[dim]
        axes[dim] = axis.resized(value.shape[dim], name)
        if axis.back is not None and axes[dim] is not axis and min(before, after) >= 0:
            axes[dim].joined_of = tuple(one for one in (Part(before), axis, Part(after)) if one.size)
    return axes


def _flip(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    for dim in given["dims"]:
        axes[dim] = elsewhere(axes[dim], "flip", "flip", axes[dim].size, name)
    return axes


def _rotate(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    one, other = given["dims"]
    turns = given["k"] % 4
    axes = list(_flip(axes, {"dims": {0: (), 1: (other,), 2: (one, other), 3: (one,)}[turns]}, value, name))
    if turns % 2:
        axes[one], axes[other] = axes[other], axes[one]
    return axes


def _transform(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    """Fourier's: of positions it makes frequencies, and the inverse one makes positions of these."""
    is_forward = given.get("forward", name == "_fft_r2c")
    for dim in given["dim"]:
        axes[dim] = axes[dim].moved(("fft", is_forward), ("fft", not is_forward), value.shape[dim], name)
    return axes


def _conjugate(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    """Of conjugate frequencies the other one of Fourier's transforms makes what stood in place."""
    turned = {("fft", is_forward): ("fft", not is_forward) for is_forward in (True, False)}
    return [axis.moved_back_by(turned[axis.back]) if axis.back in turned else axis for axis in axes]


def _sampled(axes: list[Part], given: Given, value: Tensor, name: str) -> Sequence[Part]:
    """Along one axis values are put in another order, or taken from elsewhere."""
    dim = given["dim"] % value.ndim
    if name == "index_select":
        axes[dim] = taken(axes[dim], given["index"], name)
        return axes
    axes[dim] = elsewhere(axes[dim], object(), object(), value.shape[dim], name)
    return [axis.resized(size, name) for axis, size in zip(axes, value.shape, strict=True)]


MOVES: dict[str, Callable[[list[Part], Given, Tensor, str], Sequence[Part]]] = {
    "roll": _roll,
    "flip": _flip,
    "constant_pad_nd": _padded,
    "rot90": _rotate,
    **dict.fromkeys(["_fft_r2c", "_fft_c2c", "_fft_c2r"], _transform),
    **dict.fromkeys(["_conj", "_conj_physical", "conj_physical", "conj_physical_"], _conjugate),
    **dict.fromkeys(["sort", "topk", "gather", "index_select"], _sampled),
}
