"""``selectivity``: how few filters of each layer respond to an image, and how much they prefer one class."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from decompose_cli.decomposition.index_set import split_name
from decompose_cli.decomposition.selectivity import (
    LayerSelectivity,
    layers_passed_over,
    measure_selectivity,
    selectable_layers,
    units_left_out,
)
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.features.extraction import device_memory, normalised_batches, short_name
from decompose_cli.features.study import Inputs, Study
from decompose_cli.models.head import evaluating, example_images
from decompose_cli.models.outputs import LayerOutput, trace_outputs
from decompose_cli.progress import track, warn
from decompose_cli.storage.result_document import ResultDocument, Stopwatch, WeightsInfo

ALL, THIS = "all", "this"


class ClassSelectivity(BaseModel):
    """One class in one layer: its images, how many no filter responds to, and Psi from the mean and the median of n."""

    name: str
    images: int
    silent: int
    psi_mean: float
    psi_median: float


class Layer(BaseModel):
    """One layer; the means are over the classes that have images (see :mod:`..decomposition.selectivity`)."""

    filters: int
    psi_mean: float
    psi_median: float
    class_selectivity: float | None
    per_class: dict[str, ClassSelectivity]


class Compared(BaseModel):
    """The same layers of the same architecture with other weights."""

    weights: WeightsInfo
    layers: dict[str, Layer]


class SelectivityResults(BaseModel):
    """``layers``: by name, in the order of the network; ``compared``: by the name given to other weights."""

    fraction: float
    layers: dict[str, Layer]
    compared: dict[str, Compared]


@dataclass(frozen=True)
class SelectivitySettings:
    """Which layers are measured, and how.

    Attributes:
        layers: Submodules, ``stem``, or ``all``: the stem and every residual unit.
        fraction: Share of the activation, strictly between 0 and 1.
        compare: ``NAME=WEIGHTS`` or ``WEIGHTS``: the same architecture with other weights, measured in the same way.

    Raises:
        InputError: There is no layer, a number is out of range, or names collide.
    """

    layers: Sequence[str] = (ALL,)
    fraction: float = 0.5
    compare: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise InputError(f"{param('fraction')} {self.fraction} is not between 0 and 1.")
        if not self.layers:
            raise InputError(f"{param('layers')} names no layer; give all, or names from 'decompose layers'.")
        named = self.named()
        for number, (name, _) in enumerate(named):
            if name in [other for other, _ in named[:number]]:
                raise InputError(
                    f"Two checkpoints are named {name!r}.", hint=f"Name them apart: {param('compare')} NAME=WEIGHTS."
                )
        if any(name == THIS for name, _ in named):
            raise InputError(f"{param('compare')} cannot name {THIS!r}: that is the network itself.")

    def named(self) -> list[tuple[str, str]]:
        """Name and weights of each network to compare with."""
        return [split_name(text, "compare", "WEIGHTS") for text in self.compare]


def selectivity(inputs: Inputs, settings: SelectivitySettings | None = None) -> ResultDocument[SelectivityResults]:
    """Measure layers of a network on a split (``train``) in one pass, and of the same network with other weights.

    Args:
        inputs: The network and the images.
        settings: Which layers are measured, and how.

    Raises:
        InputError: Something given cannot be used.
        DecomposeError: The work failed.
    """
    watch = Stopwatch()
    settings = settings or SelectivitySettings()
    layers, fraction = settings.layers, settings.fraction
    study = Study(inputs, ("train",))
    others = {
        name: Study(dataclasses.replace(inputs, model=study.classifier.name, weights=weights, ema=False), ("train",))
        for name, weights in settings.named()
    }
    study.warn_of_empty_classes()
    for other in others.values():
        other.classifier.load(other.preprocessing.crop)  # what does not fit is refused before the work
    module, outputs = _traced(study)
    names = _names(study.classifier.name, module, outputs, layers)
    measured = _measured(study, module, outputs, names, fraction)
    results = SelectivityResults(fraction=fraction, layers=measured, compared={})
    for name, other in others.items():
        results.compared[name] = Compared(
            weights=other.describe_model().weights, layers=_measured(other, *_traced(other), names, fraction)
        )
    arguments = {"layers": list(layers), "fraction": fraction, "compare": list(settings.compare)}
    return study.document("selectivity", arguments, results, watch)


def _traced(study: Study) -> tuple[nn.Module, list[LayerOutput]]:
    module = study.classifier.load(study.preprocessing.crop).module
    return module, trace_outputs(module, example_images(study.preprocessing.crop, model=module))


def _names(model: str, module: nn.Module, outputs: Sequence[LayerOutput], layers: Sequence[str]) -> list[str]:
    """The layers to measure, with the usual ones of the network in place of ``all``."""
    if ALL not in layers:
        return list(layers)
    usual, left_out = selectable_layers(module, outputs), units_left_out(module, outputs)
    why = (
        f"Units of {model} yield negative values, which have no shares, and no layer inside them makes negative values "
        f"zero as a ReLU does: {first_few(left_out)} ({len(left_out)} in all)"
    )
    hidden = layers_passed_over(module, outputs)
    not_seen = (
        f"Of {first_few([use.name for use in hidden])} in {model} ({len(hidden)} in all) no filters are looked at, as "
        f"{hidden[-1].values.obstacle}"
        if hidden and hidden[-1].values
        else None
    )
    if not usual:
        nothing = f"{not_seen or f'{model} has neither residual units nor ReLU modules to look at'}."
        raise InputError(
            f"{why}." if left_out else nothing,
            hint=f"Name layers with {param('layers')}; 'decompose layers' lists them.",
        )
    if left_out:
        warn(f"{why}. They are left out.")
    if not_seen:
        warn(f"{not_seen}; {param('layers')} takes other layers.")
    return [*usual, *(name for name in layers if name != ALL)]


def _measured(
    study: Study, module: nn.Module, outputs: Sequence[LayerOutput], names: Sequence[str], fraction: float
) -> dict[str, Layer]:
    inputs = study.inputs
    batches = normalised_batches(
        study.dataset,
        study.preprocessing,
        device=study.device,
        precision=study.precision,
        batch_size=inputs.batch_size,
        workers=study.workers,
    )
    module = module.to(study.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with (
        device_memory(study.device),
        evaluating(module),
        torch.autocast(study.device.type, torch.bfloat16, enabled=study.precision == "bf16"),
        track(f"Layers on {short_name(study.dataset)}", len(study.dataset)) as advance,
    ):
        measured = measure_selectivity(
            module, _labelled(batches, study), names, outputs, study.head.num_classes, fraction, advance
        )
    return {name: _describe(layer, study.class_map.names) for name, layer in measured.items()}


def _labelled(batches: Iterable[tuple[Tensor, Tensor]], study: Study) -> Iterator[tuple[Tensor, Tensor]]:
    """The images on the device, with the network's class numbers instead of the data set's."""
    done = 0
    for images, truth in batches:
        yield images.to(study.device, memory_format=torch.channels_last), study.labels[done : done + len(truth)]
        done += len(truth)


def _describe(measured: LayerSelectivity, names: Sequence[str]) -> Layer:
    present = (measured.images > 0).nonzero()[:, 0].tolist()
    psi_mean, psi_median = measured.psi_mean[present], measured.psi_median[present]
    return Layer(
        filters=measured.num_filters,
        psi_mean=float(psi_mean.mean()),
        psi_median=float(psi_median.mean()),
        class_selectivity=measured.class_selectivity,
        per_class={
            str(number): ClassSelectivity(
                name=names[number],
                images=int(measured.images[number]),
                silent=int(measured.silent[number]),
                psi_mean=float(measured.psi_mean[number]),
                psi_median=float(measured.psi_median[number]),
            )
            for number in present
        },
    )
