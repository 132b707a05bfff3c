"""Measure how few filters of a layer respond to an image, and how much they prefer one class."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError, InputError, param
from decompose_cli.models.copying import number_type
from decompose_cli.models.outputs import LayerOutput, Values, has_filters, units
from decompose_cli.sparse.problem import fitting_device

STEM = "stem"
_EPSILON = 1e-7  # in the class selectivity index, as published
_COARSE, _FINE = 2.0**20, 2.0**30  # units of sums of activations in 1, and of those units in what they leave


@dataclass(frozen=True)
class LayerSelectivity:
    """The selectivity of one layer with D filters; rows of classes without images are NaN.

    Attributes:
        num_filters: Number of filters D.
        images: Per class the number of its images, int64 (C,).
        silent: Per class the images to which no filter responds at all, int64 (C,); they count with n = 0.
        mean_filters: Per class the mean of n over its images, float64 (C,).
        median_filters: Per class the median of n, float64 (C,).
        class_selectivity: Mean over the filters of the index of Leavitt & Morcos; None for fewer than two classes.
    """

    num_filters: int
    images: Tensor
    silent: Tensor
    mean_filters: Tensor
    median_filters: Tensor
    class_selectivity: float | None

    @property
    def psi_mean(self) -> Tensor:
        """Psi_c = (D - mean n) / D per class, float64 (C,)."""
        return (self.num_filters - self.mean_filters) / self.num_filters

    @property
    def psi_median(self) -> Tensor:
        """Psi_c = (D - median n) / D per class, float64 (C,)."""
        return (self.num_filters - self.median_filters) / self.num_filters


class SelectivityCounter:
    """Collects one layer's activations, batch by batch, in any thread; its memory does not grow with the images.

    Several counters can share the images out in any way and be merged: everything is counted in whole numbers, sums of
    activations in units of 2^-20 and, for what these leave, of 2^-50. The result is the same to the last bit as long as
    the activations of a filter over a class sum to less than 2^33.

    For an image with spatially averaged activations a_1 >= a_2 >= ... >= a_D (all at least zero), n is the number of
    leading filters whose cumulative share (a_1 + ... + a_n) / sum a is still below the fraction (the authors' later
    repository, class_specific_cnn). Few filters, hence a large Psi = (D - n) / D, mean a selective layer. An image to
    which no filter responds has no shares; n is 0 for it, and it is counted as silent.

    The class selectivity index of a filter (Leavitt & Morcos, arXiv 2003.01262) is (mu_max - mu_rest) / (mu_max +
    mu_rest + 1e-7), with mu_max the largest of its mean activations over the images of each class, and mu_rest the mean
    of the others.

    Args:
        name: Name of the layer, for messages.
        num_classes: Number of classes C.
        fraction: Share of the activations, strictly between 0 and 1.
    """

    def __init__(self, name: str, num_classes: int, fraction: float) -> None:
        self.name, self.num_classes, self.fraction = name, num_classes, fraction
        self._sums: Tensor | None = None  # of activations in two units, whole numbers in float64 (2, C, D)
        self._counts = torch.zeros(0, dtype=torch.int64)  # images by class and n, (C, D + 1)
        self._silent = torch.zeros(num_classes, dtype=torch.int64)
        self._lock = threading.Lock()

    def add(self, activations: Tensor, labels: Tensor, channels: int | None = 1) -> None:
        """Take in a batch of maps (n, ...) or of values (n, D), and the classes of the images, int64 (n,).

        Args:
            activations: The maps or values.
            labels: Classes of the images.
            channels: The axis of maps that counts filters, or None where it is not known.

        Raises:
            InputError: It is not known which axis counts filters, there is not one row per image, or an activation is
                negative, so that there are no shares.
            DecomposeError: An activation is NaN or infinite.
        """
        shape = tuple(activations.shape)
        what = f"The layer {self.name!r} yields values of shape"
        if len(shape) < 2 or shape[0] != len(labels):
            raise InputError(f"{what} {shape} for {len(labels)} images, not a row for each.")
        if len(shape) > 2 and channels is None:
            raise InputError(f"{what} {shape[1:]}, and it cannot be told which axis counts filters.")
        if activations.is_complex():
            raise InputError(f"The layer {self.name!r} yields complex numbers, which have no shares.")
        values = activations.float()
        if len(shape) > 2:
            assert channels is not None
            values = values.movedim(channels, 1).flatten(2).mean(2)
        if not bool(torch.isfinite(values).all()):
            raise DecomposeError(f"The layer {self.name!r} yields NaN or infinity.")
        lowest = float(activations.min())
        if lowest < 0:
            raise InputError(
                f"The layer {self.name!r} has negative outputs ({lowest:.3g}), which have no shares.",
                hint=f"Choose layers that end in a ReLU with {param('layers')}; 'decompose layers' lists them.",
            )
        values = values.to(fitting_device(values.device))
        labels = labels.to(values.device)
        width = values.shape[1]
        exact = values.double() * _COARSE
        coarse = exact.round()
        fine = ((exact - coarse) * _FINE).round()
        total = values.sum(1, keepdim=True)
        shares = values.sort(1, descending=True).values / total
        needed = (shares.cumsum(1) < self.fraction).sum(1)  # NaN, where the total is zero, is not below
        with self._lock:
            if self._sums is None:
                place = values.device
                self._sums = torch.zeros(2, self.num_classes, width, dtype=torch.float64, device=place)
                self._counts = torch.zeros(self.num_classes, width + 1, dtype=torch.int64, device=place)
                self._silent = self._silent.to(place)
            self._sums[0].index_add_(0, labels, coarse)
            self._sums[1].index_add_(0, labels, fine)
            # Only what changes is touched: a table of all classes and n is larger than a batch.
            self._counts.view(-1).index_add_(0, labels * (width + 1) + needed, torch.ones_like(labels))
            self._silent.index_add_(0, labels, (total[:, 0] == 0).long())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def merge(self, other: SelectivityCounter) -> None:
        """Take in what another counter of the same layer has collected from other images."""
        if other._sums is None:
            return
        if self._sums is None:
            self._sums, self._counts, self._silent = other._sums.clone(), other._counts.clone(), other._silent.clone()
            return
        place = self._sums.device  # new tensors: what was counted in inference mode cannot be changed outside it
        self._sums = self._sums + other._sums.to(place)
        self._counts = self._counts + other._counts.to(place)
        self._silent = self._silent + other._silent.to(place)

    def result(self) -> LayerSelectivity:
        """The selectivity over all batches.

        Raises:
            InputError: The layer yielded nothing.
        """
        if self._sums is None:
            raise InputError(
                f"The layer {self.name!r} was not used in a copy of the network, whose forward runs the layers of the "
                "original, as one does that torch.compile(module.forward) has put in place.",
                hint="Compile the module itself: module.compile(), or torch.compile(module).",
            )
        counts, (coarse, fine) = self._counts.cpu(), self._sums.cpu()
        images = counts.sum(1)
        numbers = torch.arange(counts.shape[1], dtype=torch.float64)
        mean = (counts * numbers).sum(1) / images
        median = torch.stack([_median(row) for row in counts])
        index = class_selectivity((coarse + fine / _FINE) / _COARSE, images)
        return LayerSelectivity(coarse.shape[1], images, self._silent.cpu(), mean, median, index)


def class_selectivity(sums: Tensor, images: Tensor) -> float | None:
    """The index of Leavitt & Morcos, averaged over the filters; arguments as for :func:`selectivity_by_filter`.

    Returns:
        The mean index; None if there are images of fewer than two classes.
    """
    by_filter = selectivity_by_filter(sums, images)
    return None if by_filter is None else float(by_filter.mean())


def selectivity_by_filter(sums: Tensor, images: Tensor) -> Tensor | None:
    """The index of Leavitt & Morcos of each filter, 0 to 1 where no activation is negative.

    Args:
        sums: Activations summed over the images of each class, (C, D).
        images: Number of images of each class, (C,); classes without any are left out.

    Returns:
        The indices (D,); None if there are images of fewer than two classes.
    """
    present = images > 0
    means = sums[present] / images[present, None]
    if len(means) < 2:
        return None
    largest = means.max(0).values
    rest = (means.sum(0) - largest) / (len(means) - 1)
    return (largest - rest) / (largest + rest + _EPSILON)


def _median(counts: Tensor) -> Tensor:
    """Median of the numbers 0, 1, 2, ... that occur so many times: the mean of the two middle ones if these differ."""
    total = int(counts.sum())
    if total == 0:
        return torch.tensor(float("nan"), dtype=torch.float64)
    reached = counts.cumsum(0)
    low, high = ((reached > position).long().argmax() for position in ((total - 1) // 2, total // 2))
    return (low + high).double() / 2


def selectable_layers(module: nn.Module, outputs: Sequence[LayerOutput]) -> list[str]:
    """The layers that a study of selectivity looks at by default: the stem and every residual unit.

    Units are the outermost composite modules inside an ``nn.Sequential``, ``nn.ModuleList`` or ``nn.ModuleDict`` that
    yield maps (``layer1.0`` and so on in ResNets). Where a unit yields negative values, which have no shares, the last
    layer inside it that makes negative values zero, as a ReLU does, stands in for it, if that has as many positions.
    The stem is the last such layer before the first unit; where there is none, because the network calls a function,
    the stem is the input of the first unit, named ``stem``, unless it is negative. In networks without such units every
    layer that makes negative values zero is looked at.

    Args:
        module: The network.
        outputs: The uses of its submodules, from :func:`decompose_cli.models.outputs.trace_outputs`.
    """
    rectified = [use for use in outputs if use.rectifies and use.values and use.values.positions]
    blocks = units(module, outputs)
    if not blocks:
        return [use.name for use in rectified]
    first = outputs.index(blocks[0])
    stems = [use.name for use in rectified if outputs.index(use) < first and not _is_inside(use, blocks[0])]
    given = blocks[0].given
    if not stems and given is not None and given.lowest >= 0:
        stems = [_stem_name(module)]
    return [*stems[-1:], *(name for unit in blocks if (name := _measurable(unit, outputs)) is not None)]


def units_left_out(module: nn.Module, outputs: Sequence[LayerOutput]) -> list[str]:
    """The units that :func:`selectable_layers` leaves out, as their outputs are negative and nothing stands in."""
    return [unit.name for unit in units(module, outputs) if _measurable(unit, outputs) is None]


def layers_passed_over(module: nn.Module, outputs: Sequence[LayerOutput]) -> list[LayerOutput]:
    """The units that would be looked at if it could be told which axis counts filters, and if they were real numbers.

    In networks without units, the layers that make negative values zero.
    """
    hidden = units(module, outputs, _is_hidden)
    if not hidden and not units(module, outputs):
        return [use for use in outputs if use.rectifies and use.values and _is_hidden(use.values)]
    return [use for use in hidden if use.values and _is_hidden(use.values)]


def _is_hidden(values: Values) -> bool:
    may_be_read = len(values.shape) > 2 or not values.axes.in_order
    return may_be_read and values.obstacle is not None and not has_filters(values)


def _is_inside(use: LayerOutput, unit: LayerOutput) -> bool:
    return use.layer.startswith(f"{unit.layer}.")


def _measurable(unit: LayerOutput, outputs: Sequence[LayerOutput]) -> str | None:
    """The unit, or the layer inside it that stands in for it, in this use of it; None where nothing does."""
    assert unit.values is not None
    if unit.values.lowest >= 0:
        return unit.name
    for use in reversed(outputs[: outputs.index(unit)]):
        if _is_inside(use, unit) and use.rectifies and use.values and use.values.positions >= unit.values.positions:
            return use.name
    return None


def _stem_name(module: nn.Module) -> str:
    """Name of the input of the first unit: ``stem``, unless a submodule has that name."""
    return STEM if STEM not in dict(module.named_modules()) else f"{STEM} output"


class LayerCounters:
    """Counters of several layers of a network, which take in what the layers yield for the images that it is given.

    Args:
        module: The network, in evaluation mode, on the device of the images.
        names: Names of submodules, or ``stem`` for the input of the first unit of :func:`selectable_layers`. A
            submodule that is used several times in a pass is as many layers: ``relu#1``, ``relu#2`` or both: ``relu``.
        outputs: The uses of its submodules, from :func:`decompose_cli.models.outputs.trace_outputs`.
        num_classes: Number of classes C.
        fraction: Share of the activations, strictly between 0 and 1.
        shared: Those of a copy of the network, whose counters these use as well; None for counters of their own.

    Attributes:
        by_layer: The counters by name, in the order of the names.
        number_type: The number type of the images that the network takes.

    Raises:
        InputError: There is no such layer, or it cannot be measured (negative outputs, filters that cannot be told).
        DecomposeError: An activation is NaN or infinite.
    """

    def __init__(
        self,
        module: nn.Module,
        names: Sequence[str],
        outputs: Sequence[LayerOutput],
        num_classes: int,
        fraction: float,
        shared: LayerCounters | None = None,
    ) -> None:
        self._module, self._wanted = module, _wanted(module, names, outputs)
        self.number_type = number_type(module)
        self.by_layer: dict[str, SelectivityCounter] = (
            shared.by_layer
            if shared is not None
            else {name: SelectivityCounter(name, num_classes, fraction) for name in self._wanted}
        )
        self._labels = torch.empty(0)
        self._times: Counter[str] = Counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Have the layers report what they yield, inside the ``with`` block."""
        with ExitStack() as stack:
            for layer in {use.layer: None for use, _ in self._wanted.values()}:
                part = self._module.get_submodule(layer)  # of a copy, whose layers were told of the original
                stack.callback(part.register_forward_pre_hook(partial(self._enter, layer)).remove)
                stack.callback(part.register_forward_hook(partial(self._leave, layer)).remove)
            yield

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Run images (n, 3, H, W) of these classes (n,) through the network, which is being watched."""
        self._labels = labels
        self._times.clear()
        self._module(images)

    def result(self) -> dict[str, LayerSelectivity]:
        """The selectivity of each layer, by name."""
        return {name: counter.result() for name, counter in self.by_layer.items()}

    def _enter(self, layer: str, _: nn.Module, args: tuple[object, ...]) -> None:
        self._times[layer] += 1
        for name, (use, is_input) in self._wanted.items():
            if is_input and (use.layer, use.number) == (layer, self._times[layer]):
                self._receive(name, args[0], use.given)

    def _leave(self, layer: str, _: nn.Module, __: object, output: object) -> None:
        for name, (use, is_input) in self._wanted.items():
            if not is_input and (use.layer, use.number) == (layer, self._times[layer]):
                self._receive(name, output, use.values)

    def _receive(self, name: str, output: object, values: Values | None) -> None:
        if not isinstance(output, Tensor):
            raise InputError(f"The layer {name!r} yields a {type(output).__name__}, not a tensor.")
        if values is not None and not values.axes.in_order:
            raise InputError(f"The layer {name!r} cannot be measured: {values.obstacle}.")
        channels = None if values is None else values.channels
        planes = None if values is None or values.axes.line is None else values.axes.planes
        if planes is not None:  # tokens that are no positions of the image are not looked at
            output, channels = planes.maps(output), 1
        self.by_layer[name].add(output, self._labels, channels)  # at once: a later layer may overwrite it


def _wanted(
    module: nn.Module, names: Sequence[str], outputs: Sequence[LayerOutput]
) -> dict[str, tuple[LayerOutput, bool]]:
    """The uses of layers that names stand for, and whether what a layer is given is meant, as for the stem."""
    wanted: dict[str, tuple[LayerOutput, bool]] = {}
    for name in names:
        uses = [use for use in outputs if name in (use.name, use.layer)]
        if name == _stem_name(module) and selectable_layers(module, outputs)[:1] == [name]:
            wanted[name] = units(module, outputs)[0], True
        elif not uses:
            hint = "'decompose layers MODEL' lists them."
            raise InputError(f"There is no layer {name!r} in this network.", hint=hint)
        wanted |= {use.name: (use, False) for use in uses}
    return wanted
