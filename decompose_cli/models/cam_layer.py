"""The layer that Grad-CAM looks at: its maps, and whether the logits hear of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from decompose_cli.errors import InputError
from decompose_cli.models.logits import logits_of
from decompose_cli.models.outputs import LayerOutput, Values, last_map_layer, units, with_maps_last
from decompose_cli.models.planes import Planes
from decompose_cli.models.tracing import evaluating, forget_gradients


@dataclass(frozen=True)
class CamLayer:
    """Where Grad-CAM finds its maps.

    Attributes:
        name: Name of the submodule.
        planes: Where the maps are in what it yields, or is given.
        is_given: Whether the maps are in what the submodule is given. Of the tokens that the last block of a vision
            transformer yields, only that of the class may be read: then no other has any effect on the logits.
        is_forced: Whether gradients reach the maps only where the network is kept from holding them back, as
            :func:`GradientsKept` does.
    """

    name: str
    planes: Planes
    is_given: bool = False
    is_forced: bool = False


def default_cam_layer(model: nn.Module, images: Tensor, outputs: Sequence[LayerOutput]) -> str | None:
    """Name of the default layer for class activation maps; None where no module yields maps larger than one pixel.

    It is the outermost module that finishes last with such maps. Where these are tokens it is the last block, which
    norms and the like may follow. Where the logits do not hear of its maps, it is the last layer before it of whose
    maps they do. Where it is but one of the branches of a module that itself yields no maps any
    more, such as the last Inception block for small images, it is the last layer before that module.

    Args:
        model: The model, which is left as it is.
        images: Images (N, 3, H, W), on its device.
        outputs: The uses of its submodules for such images, from :func:`decompose_cli.models.outputs.trace_outputs`.
    """
    name = last_map_layer(outputs)
    if name is None:
        return None
    use = _last_use(outputs, name)
    assert use is not None
    assert use.values is not None
    line = use.values.axes.line
    if line is None:
        chosen = _main_branch(model, images, outputs, use)
    else:
        blocks = [unit for unit in units(model, outputs) if unit.values and unit.values.axes.line]
        alike = [block for block in blocks if _grid(block.values) == _grid(use.values)]
        chosen = alike[-1] if alike else use
    before = [one for one in with_maps_last(outputs) if outputs.index(one) < outputs.index(chosen)]
    found = _heard(model, images, [chosen]) or _heard(model, images, before)
    return found[-1].name if found else chosen.layer


def cam_layer(model: nn.Module, images: Tensor, outputs: Sequence[LayerOutput], name: str, called: str) -> CamLayer:
    """Where Grad-CAM finds the maps of a layer; of several uses in a pass, the last counts.

    Args:
        model: The model, which is left as it is.
        images: Images (N, 3, H, W), on its device.
        outputs: The uses of its submodules for such images, from :func:`decompose_cli.models.outputs.trace_outputs`.
        name: Name of the layer.
        called: Name of the model, for messages.

    Raises:
        InputError: The layer has no maps, or these have no effect on the logits.
    """
    use = _last_use(outputs, name)
    hint = "'decompose layers MODEL' lists them."
    values = None if use is None else use.values
    if use is None or values is None or (len(values.shape) != 4 and values.axes.line is None):
        raise InputError(f"{name!r} is no layer of {called} with maps.", hint=hint)
    if values.is_complex:
        raise InputError(f"{name!r} of {called} yields complex numbers, and Grad-CAM needs real ones.", hint=hint)
    if not values.axes.in_order:
        raise InputError(f"{name!r} of {called} has no maps to look at: {values.obstacle}.", hint=hint)
    planes = values.axes.planes
    if planes is None:
        lost = values.axes.lost_by
        raise InputError(
            f"{name!r} of {called} yields values of shape {tuple(values.shape[1:])}, and it cannot be told which of "
            f"these axes are channels, rows and columns of the image{f' after the operation {lost}' if lost else ''}.",
            hint=hint,
        )
    if found := _heard(model, images, [use]):
        return found[0]
    if _is_whole(values):
        raise InputError(
            f"No gradient of the logits of {called} reaches what {name!r} yields, so Grad-CAM has nothing to show.",
            hint=f"Choose a layer on the way to the logits; {hint}",
        )
    raise InputError(
        f"The logits of {called} do not depend on the positions of {name!r}: only other tokens, such as that of the "
        "class, are read after it, so Grad-CAM would be zero everywhere.",
        hint=f"Choose an earlier layer; {hint}",
    )


def _is_whole(values: Values) -> bool:
    """Whether values are maps and nothing else, without tokens that are no positions."""
    planes = values.axes.planes
    assert planes is not None
    return values.positions * values.shape[planes.order[1]] == values.shape[1:].numel()


def _heard(model: nn.Module, images: Tensor, uses: Sequence[LayerOutput]) -> list[CamLayer]:
    """Where the maps of layers are that the logits hear of, which they yield or are given; without other layers."""
    tried: list[tuple[LayerOutput, CamLayer]] = []
    for use in uses:
        assert use.values is not None
        assert use.values.axes.planes is not None
        tried.append((use, CamLayer(use.layer, use.values.axes.planes)))
        if not _is_whole(use.values) and use.given is not None and use.given.axes.planes is not None:
            tried.append((use, CamLayer(use.layer, use.given.axes.planes, is_given=True)))
    heard = _heard_together(model, images, tried)
    missing = [(use, replace(cam, is_forced=True)) for use, cam in tried if all(cam.name != one.name for one in heard)]
    heard += _heard_together(model, images, missing, is_forced=True)
    if tried:
        forget_gradients(model, images)
    first = [next((cam for cam in heard if cam.name == use.layer), None) for use in uses]
    return [cam for cam in first if cam is not None]


class GradientsKept(TorchFunctionMode):
    """Inside the block a network is not heeded where it asks for no gradients, by ``no_grad`` or by ``detach``.

    What it computes is the same, and Grad-CAM looks at the derivative of just that. Of a straight-through estimator,
    ``x + (round(x) - x).detach()``, it is the true one, zero, and not the one that was meant to stand in for it.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        if func in (torch.Tensor.detach, torch.detach):
            return args[0].view_as(args[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def replaced_maps(layer: nn.Module, planes: Planes, replace: nn.Module, *, is_given: bool = False) -> Iterator[None]:
    """Put the maps (N, C, h, w) of a layer through a module, in each use that has them, while the block runs.

    Args:
        layer: The layer.
        planes: Where the maps are in what the layer yields, or is given.
        replace: Takes the maps and returns those that stand in for them.
        is_given: Whether they are in what the layer is given.
    """

    def turn(value: object) -> object:
        if not isinstance(value, Tensor) or not planes.are_in(value):  # of another use than the last
            return value
        return planes.with_maps(value, replace(planes.maps(value)))

    if is_given:
        handle = layer.register_forward_pre_hook(lambda _, args: (turn(args[0]), *args[1:]))
    else:
        handle = layer.register_forward_hook(lambda _, __, output: turn(output))
    try:
        yield
    finally:
        handle.remove()


class _Kept(nn.Module):
    """Keeps the maps that came by last; cuts their gradients off if asked to."""

    def __init__(self, *, is_cut: bool = False) -> None:
        super().__init__()
        self.is_cut = is_cut
        self.latest: Tensor | None = None

    def forward(self, maps: Tensor) -> Tensor:
        """The maps as they are."""
        self.latest = maps.detach() if self.is_cut else maps.clone()  # which no later layer overwrites
        return self.latest


def _heard_together(
    model: nn.Module, images: Tensor, tried: Sequence[tuple[LayerOutput, CamLayer]], *, is_forced: bool = False
) -> list[CamLayer]:
    """Those whose maps the logits change with, by one pass; as far as they change with the images at all."""
    if not tried:
        return []
    kept = [_Kept() for _ in tried]
    try:
        with ExitStack() as stack:
            for (use, cam), keep in zip(tried, kept, strict=True):
                stack.enter_context(replaced_maps(use.module, cam.planes, keep, is_given=cam.is_given))
            score, seen = _score(model, images, is_forced=is_forced)
    except Exception:
        if is_forced:  # what takes no gradients, such as NumPy, does not take these either
            return []
        raise
    if not score.requires_grad:
        return []
    maps = {cam: keep.latest for (_, cam), keep in zip(tried, kept, strict=True) if keep.latest is not None}
    maps = {cam: latest for cam, latest in maps.items() if latest.requires_grad}
    of_images, *of_maps = torch.autograd.grad(score, [seen, *maps.values()], allow_unused=True)
    is_zero = not _is_any(of_images)  # of a head that begins at zero
    found = zip(maps, of_maps, strict=True)
    return [cam for cam, gradient in found if gradient is not None and (is_zero or _is_any(gradient))]


def _is_any(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


def _score(model: nn.Module, images: Tensor, *, is_forced: bool = False) -> tuple[Tensor, Tensor]:
    """Some sum of the logits, and the images that it was made of, with gradients."""
    with evaluating(model), torch.enable_grad(), GradientsKept() if is_forced else nullcontext():
        seen = images.detach().clone().requires_grad_()
        logits = logits_of(model(seen))
    weights = torch.linspace(1, 2, logits.numel(), device=logits.device, dtype=logits.dtype)
    return (logits.flatten() * weights).sum(), seen


def _main_branch(model: nn.Module, images: Tensor, outputs: Sequence[LayerOutput], use: LayerOutput) -> LayerOutput:
    """The use, or where it is but one branch of a module that yields no maps the last one before that module."""
    candidates = with_maps_last(outputs)
    for around in reversed([one for one in outputs if use.layer.startswith(f"{one.layer}.")]):
        began = next(place for place, one in enumerate(outputs) if one.layer.startswith(f"{around.layer}."))
        before = [one for one in candidates if outputs.index(one) < began]
        if around.given is None or not around.given.has_maps or not before:
            continue
        assert use.values is not None
        assert use.values.axes.planes is not None
        with replaced_maps(use.module, use.values.axes.planes, _Kept(is_cut=True)):
            score, seen = _score(model, images)
        others = torch.autograd.grad(score, seen, allow_unused=True)[0] if score.requires_grad else None
        return use if others is None else before[-1]
    return use


def _last_use(outputs: Sequence[LayerOutput], name: str) -> LayerOutput | None:
    return next((use for use in reversed(outputs) if use.layer == name), None)


def _grid(values: Values | None) -> tuple[int, int] | None:
    line = None if values is None else values.axes.line
    return None if line is None else (line.rows, line.columns)
