"""What the modules of a network yield in a forward pass: their maps, and whether these can be negative."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decompose_cli.errors import param
from decompose_cli.messages import warn
from decompose_cli.models.axes import Axes, AxisTracer
from decompose_cli.models.axis_parts import Layout
from decompose_cli.models.tracing import evaluating, followed_modules


@dataclass(frozen=True)
class Values:
    """A tensor that a module was given, or yielded.

    Attributes:
        shape: Its shape.
        axes: What its axes are.
        lowest: Its lowest value, NaN where it holds no numbers, or complex ones.
        is_complex: Whether it holds complex numbers.
        is_of_inference: Whether it was made under ``torch.inference_mode``.
    """

    shape: torch.Size
    axes: Axes
    lowest: float
    is_complex: bool
    is_of_inference: bool = False

    @property
    def channels(self) -> int | None:
        """The axis that counts channels; None where it cannot be told, or for which image."""
        if not self.axes.in_order:
            return None
        return 1 if len(self.shape) == 2 else self.axes.channels

    @property
    def positions(self) -> int:
        """Number of positions per image and channel, without tokens that are none; 0 where channels cannot be told."""
        if self.axes.line is not None and self.channels is not None:
            return self.axes.line.rows * self.axes.line.columns
        return 0 if self.channels is None else self.shape[1:].numel() // max(1, self.shape[self.channels])

    @property
    def has_maps(self) -> bool:
        """Whether these are maps of real numbers that are larger than one pixel."""
        return self._has_planes and not self.is_complex

    @property
    def may_have_maps(self) -> bool:
        """Whether these are maps, or would be if it could be told what their axes are."""
        is_larger = len(self.shape) == 4 and sum(side > 1 for side in self.shape[1:]) > 1
        return self._has_planes or (is_larger and self.axes.lost_by is not None)

    @property
    def obstacle(self) -> str | None:
        """Why these cannot be looked at, or None where nothing is known that stands in the way."""
        if self.is_complex:
            return "its values are complex numbers"
        if self.is_of_inference and self.axes.lost_by is not None:
            return "it is computed under torch.inference_mode, which hides what its axes are; torch.no_grad would do"
        if not self.axes.in_order:
            return f"its images are in another order after the operation {self.axes.lost_by}"
        if self.axes.lost_by is not None:
            return f"it cannot be told what its axes are after the operation {self.axes.lost_by}"
        return None

    @property
    def _has_planes(self) -> bool:
        planes = self.axes.planes
        return planes is not None and len(planes.order) == len(self.shape) and self.positions > 1


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """One use of a submodule in a forward pass.

    Attributes:
        layer: Name of the submodule.
        module: The submodule.
        number: Which of its uses this is, from 1.
        times: How often it is used.
        given: Its first argument, or None if that is no tensor.
        values: What it yields, or None if that is no tensor.
        rectifies: Whether it is a layer without others in it that makes negative values zero, as a ReLU does.
    """

    layer: str
    module: nn.Module
    number: int
    times: int
    given: Values | None
    values: Values | None
    rectifies: bool

    @property
    def name(self) -> str:
        """The name of the submodule, with the number of the use where there are several: ``relu#2``."""
        return self.layer if self.times == 1 else f"{self.layer}#{self.number}"


def trace_outputs(model: nn.Module, images: Tensor) -> list[LayerOutput]:
    """Run a model once; return the uses of its submodules in the order in which they finish.

    Args:
        model: The model, which is left as it is.
        images: Images (N, 3, H, W), on its device.
    """
    tracer = AxisTracer(images)
    found: list[tuple[str, nn.Module, int, _Seen | None, _Seen | None, bool]] = []
    times: Counter[str] = Counter()
    entered: dict[str, list[tuple[_Seen | None, Tensor | None]]] = {}

    def enter(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(module: nn.Module, args: tuple[object, ...]) -> None:
            value = args[0] if args else None
            is_leaf = isinstance(value, Tensor) and value.is_floating_point() and next(module.children(), None) is None
            negative = value < 0 if is_leaf and isinstance(value, Tensor) else None  # before it works in place
            entered.setdefault(name, []).append((_seen(value, tracer), negative))

        return hook

    def leave(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _: object, output: object) -> None:
            times[name] += 1
            given, negative = entered[name].pop()
            yielded = _seen(output, tracer)
            rectifies = isinstance(module, nn.ReLU | nn.ReLU6) or _rectified(negative, output)
            found.append((name, module, times[name], given, yielded, rectifies))

        return hook

    with ExitStack() as stack:
        for name, module in followed_modules(model):
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
            stack.callback(module.register_forward_hook(leave(name)).remove)
        stack.enter_context(evaluating(model))
        stack.enter_context(tracer)
        model(images)
    return [
        LayerOutput(name, module, number, times[name], _values(given, tracer), _values(yielded, tracer), rectifies)
        for name, module, number, given, yielded, rectifies in found
    ]


def with_maps_last(outputs: Sequence[LayerOutput]) -> list[LayerOutput]:
    """The last uses of modules, as far as these yield maps larger than one pixel, in the order in which they finish."""
    return [one for one in outputs if one.number == one.times and one.values is not None and one.values.has_maps]


def last_map_layer(outputs: Sequence[LayerOutput]) -> str | None:
    """The last module whose last use yields maps larger than one pixel.

    Where several modules finish with the same maps, such as a stage, its last block and that block's last layer, it is
    the outermost.
    """
    with_maps = with_maps_last(outputs)
    return with_maps[-1].layer if with_maps else None


def passed_over(outputs: Sequence[LayerOutput]) -> LayerOutput | None:
    """The last use of a module that may yield maps, if :func:`last_map_layer` cannot be that one."""
    may_have = [one for one in outputs if one.number == one.times and one.values and one.values.may_have_maps]
    return may_have[-1] if may_have and may_have[-1].layer != last_map_layer(outputs) else None


def warn_of_passed_over(outputs: Sequence[LayerOutput], layer: str | None, model: str) -> None:
    """Say that the default layer for class activation maps of a model is not the last one that may yield maps."""
    later = passed_over(outputs)
    if layer is not None and later is not None:
        assert later.values is not None
        warn(
            f"Grad-CAM of {model} looks at {layer!r} by default and not at {later.layer!r}, which comes later, as "
            f"{later.values.obstacle}; 'explain' takes another layer as {param('layer')}."
        )


def has_filters(values: Values) -> bool:
    """Whether values are real numbers at positions, of which it can be told which axis counts filters."""
    return len(values.shape) > 2 and values.positions > 0 and not values.is_complex


def units(
    model: nn.Module, outputs: Sequence[LayerOutput], like: Callable[[Values], bool] = has_filters
) -> list[LayerOutput]:
    """The uses of the outermost composite modules inside a list of modules that yield maps, as blocks do.

    Args:
        model: The model.
        outputs: The uses of its submodules, from :func:`trace_outputs`.
        like: What they have to yield.
    """
    parents = dict(model.named_modules())
    yielding = {use.layer for use in outputs if use.values and like(use.values)}
    names: list[str] = []
    for name, part in model.named_modules():
        parent = parents.get(name.rpartition(".")[0]) if name else None
        is_listed = isinstance(parent, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
        composite = any(True for _ in part.children()) and not isinstance(part, nn.Sequential)
        inside = any(name.startswith(f"{unit}.") for unit in names)
        if name in yielding and is_listed and composite and not inside:
            names.append(name)
    return [use for use in outputs if use.layer in names]


_Seen = tuple[torch.Size, Layout | None, float, bool, bool]


def _seen(value: object, tracer: AxisTracer) -> _Seen | None:
    """What there is to say of a tensor now; later layers may overwrite it, but they also show what its axes are."""
    if not isinstance(value, Tensor):
        return None
    lowest = float(value.min()) if value.numel() > 0 and not value.is_complex() else float("nan")
    return value.shape, tracer.layout(value), lowest, value.is_complex(), value.is_inference()


def _values(seen: _Seen | None, tracer: AxisTracer) -> Values | None:
    return None if seen is None else Values(seen[0], tracer.axes(seen[1]), *seen[2:])


def _rectified(negative: Tensor | None, output: object) -> bool:
    """Whether a layer that was given these negative values has made all of them zero, and none elsewhere."""
    if negative is None or not isinstance(output, Tensor) or output.shape != negative.shape:
        return False
    return bool(negative.any() and (output[negative] == 0).all() and (output >= 0).all())
