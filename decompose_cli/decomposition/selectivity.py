"""Measure how few filters of a layer respond to an image, and how much they prefer one class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from decompose_cli.errors import DecomposeError, InputError, param
from decompose_cli.models.head import LayerCall

STEM = "stem"
_EPSILON = 1e-7  # in the class selectivity index, as published


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
    """Collects one layer's activations, batch by batch; its memory does not grow with the number of images.

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
        self._sums: Tensor | None = None  # of activations, float64 (C, D)
        self._counts = torch.zeros(0)  # images by class and n, int64 (C, D + 1)
        self._silent = torch.zeros(num_classes, dtype=torch.int64)

    def add(self, activations: Tensor, labels: Tensor) -> None:
        """Take in a batch: (n, D, H, W) maps or (n, D) values, and the classes of the images, int64 (n,).

        Raises:
            InputError: The activations have another shape, or are negative, so that they have no shares.
            DecomposeError: An activation is NaN or infinite.
        """
        if activations.ndim not in (2, 4):
            raise InputError(
                f"The layer {self.name!r} yields values of shape {tuple(activations.shape[1:])}, neither maps "
                "(filters, height, width) nor one value per filter."
            )
        values = activations.float().flatten(2).mean(2) if activations.ndim == 4 else activations.float()
        if not bool(torch.isfinite(values).all()):
            raise DecomposeError(f"The layer {self.name!r} yields NaN or infinity.")
        lowest = float(activations.min())
        if lowest < 0:
            raise InputError(
                f"The layer {self.name!r} has negative outputs ({lowest:.3g}), which have no shares.",
                hint=f"Choose layers that end in a ReLU with {param('layers')}; 'decompose layers' lists them.",
            )
        values, labels = values.cpu(), labels.cpu()
        width = values.shape[1]
        if self._sums is None:
            self._sums = torch.zeros(self.num_classes, width, dtype=torch.float64)
            self._counts = torch.zeros(self.num_classes, width + 1, dtype=torch.int64)
        self._sums.index_add_(0, labels, values.double())
        total = values.sum(1, keepdim=True)
        shares = values.sort(1, descending=True).values / total
        needed = (shares.cumsum(1) < self.fraction).sum(1)  # NaN, where the total is zero, is not below
        keys = labels * (width + 1) + needed
        self._counts += torch.bincount(keys, minlength=self._counts.numel()).view_as(self._counts)
        self._silent += torch.bincount(labels[total[:, 0] == 0], minlength=self.num_classes)

    def result(self) -> LayerSelectivity:
        """The selectivity over all batches, of which at least one has been added."""
        assert self._sums is not None
        images = self._counts.sum(1)
        numbers = torch.arange(self._counts.shape[1], dtype=torch.float64)
        mean = (self._counts * numbers).sum(1) / images
        median = torch.stack([_median(row) for row in self._counts])
        return LayerSelectivity(
            self._sums.shape[1], images, self._silent, mean, median, class_selectivity(self._sums, images)
        )


def class_selectivity(sums: Tensor, images: Tensor) -> float | None:
    """The index of Leavitt & Morcos, averaged over the filters.

    Args:
        sums: Activations summed over the images of each class, (C, D).
        images: Number of images of each class, (C,); classes without any are left out.

    Returns:
        The mean index; None if there are images of fewer than two classes.
    """
    present = images > 0
    means = sums[present] / images[present, None]
    if len(means) < 2:
        return None
    largest = means.max(0).values
    rest = (means.sum(0) - largest) / (len(means) - 1)
    return float(((largest - rest) / (largest + rest + _EPSILON)).mean())


def _median(counts: Tensor) -> Tensor:
    """Median of the numbers 0, 1, 2, ... that occur so many times: the mean of the two middle ones if these differ."""
    total = int(counts.sum())
    if total == 0:
        return torch.tensor(float("nan"), dtype=torch.float64)
    reached = counts.cumsum(0)
    low, high = ((reached > position).long().argmax() for position in ((total - 1) // 2, total // 2))
    return (low + high).double() / 2


def selectable_layers(module: nn.Module, calls: Sequence[LayerCall]) -> list[str]:
    """The layers that a study of selectivity looks at by default: the stem and every residual unit.

    Units are the outermost composite modules inside an ``nn.Sequential`` that yield maps (``layer1.0`` and so on in
    ResNets). The stem is the last ReLU module before the first unit; where there is none, because the network calls the
    function, the stem is the input of the first unit, named ``stem``. In networks without such units every ReLU module
    is looked at.

    Args:
        module: The network.
        calls: Its submodules in the order in which they finish, from
            :func:`decompose_cli.models.head.trace_layers`.
    """
    parents = dict(module.named_modules())
    units: list[str] = []
    for name, part in module.named_modules():
        parent = parents.get(name.rpartition(".")[0]) if name else None
        inside = any(name.startswith(f"{unit}.") for unit in units)
        composite = any(True for _ in part.children()) and not isinstance(part, nn.Sequential)
        if name and isinstance(parent, nn.Sequential) and composite and not inside:
            units.append(name)
    yields_maps = {call.name for call in calls if call.output_shape is not None and len(call.output_shape) == 4}
    finished = [call.name for call in calls]
    units = sorted((name for name in units if name in yields_maps), key=finished.index)
    relus = [call.name for call in calls if isinstance(call.module, nn.ReLU) and call.calls == 1]
    if not units:
        return relus
    before = finished[: finished.index(units[0])]
    stems = [name for name in relus if name in before and not name.startswith(f"{units[0]}.")]
    return [stems[-1] if stems else _stem_name(module), *units]


def _stem_name(module: nn.Module) -> str:
    """Name of the input of the first unit: ``stem``, unless a submodule has that name."""
    return STEM if STEM not in dict(module.named_modules()) else f"{STEM} output"


def measure_selectivity(
    module: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    names: Sequence[str],
    calls: Sequence[LayerCall],
    num_classes: int,
    fraction: float,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, LayerSelectivity]:
    """Run images through a network once and look at several of its layers on the way.

    Args:
        module: The network, in evaluation mode, on the device of the images.
        batches: Normalised images (n, 3, H, W) and their classes (n,).
        names: Names of submodules, or ``stem`` for the input of the first unit of :func:`selectable_layers`.
        calls: Submodules in the order in which they finish, from :func:`decompose_cli.models.head.trace_layers`.
        num_classes: Number of classes C.
        fraction: Share of the activations, strictly between 0 and 1.
        advance: Called with the number of images just finished.

    Raises:
        InputError: There is no such layer, or it cannot be measured (negative outputs, another shape, used twice).
        DecomposeError: An activation is NaN or infinite.
    """
    names = list(dict.fromkeys(names))
    counters = {name: SelectivityCounter(name, num_classes, fraction) for name in names}
    labels = torch.empty(0)

    def receive(name: str, output: object) -> None:
        if not isinstance(output, Tensor):
            raise InputError(f"The layer {name!r} yields a {type(output).__name__}, not a tensor.")
        counters[name].add(output, labels)  # at once: a later layer may overwrite it

    with ExitStack() as stack, torch.inference_mode():
        for name in names:
            stack.callback(_listen(module, name, calls, receive).remove)
        for images, truth in batches:
            labels = truth
            module(images)
            advance(len(truth))
    return {name: counter.result() for name, counter in counters.items()}


def _listen(
    module: nn.Module, name: str, calls: Sequence[LayerCall], receive: Callable[[str, object], None]
) -> RemovableHandle:
    used = {call.name: call.calls for call in calls}
    parts = dict(module.named_modules())
    if name == _stem_name(module):
        layers = selectable_layers(module, calls)
        if layers[:1] == [name]:
            stem: RemovableHandle = parts[layers[1]].register_forward_pre_hook(lambda _, args: receive(name, args[0]))
            return stem
    if name not in used:
        raise InputError(f"There is no layer {name!r} in this network.", hint="'decompose layers MODEL' lists them.")
    if used[name] > 1:
        raise InputError(
            f"The layer {name!r} is used {used[name]} times in one pass, so its outputs are not one layer."
        )
    handle: RemovableHandle = parts[name].register_forward_hook(lambda _, __, output: receive(name, output))
    return handle
