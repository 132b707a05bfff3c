"""``selectivity``: how few filters of each layer respond to an image, and how much they prefer one class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.chunks import in_ranges
from decompose_cli.decomposition.index_set import split_name
from decompose_cli.decomposition.selectivity import (
    LayerCounters,
    LayerSelectivity,
    SelectivityCounter,
    layers_passed_over,
    selectable_layers,
    units_left_out,
)
from decompose_cli.decomposition.selectivity_results import ClassSelectivity, Compared, Layer, SelectivityResults
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.features.extraction import (
    Computing,
    device_memory,
    keep_freed_memory,
    refuse_unreadable,
    short_name,
)
from decompose_cli.features.forward import Normalisation, images_at_once
from decompose_cli.features.opening import Opening
from decompose_cli.features.study import Inputs, Study
from decompose_cli.messages import track, warn
from decompose_cli.models.copying import in_float32
from decompose_cli.models.inference import copies_of
from decompose_cli.models.outputs import LayerOutput, trace_outputs
from decompose_cli.models.tracing import evaluating, example_images
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.printable import shortest
from decompose_cli.processes.team import device_led, together
from decompose_cli.processes.threads import WorkerThreads
from decompose_cli.storage.result_document import ResultDocument, Stopwatch

ALL, THIS = "all", "this"
IMAGES_OF_A_CHUNK = 256


@dataclass(frozen=True)
class SelectivitySettings:
    """Which layers are measured, and how.

    Attributes:
        layers: Submodules, ``stem``, or ``all``: the stem and every residual unit.
        fraction: Share of the activation, strictly between 0 and 1.
        compare: ``NAME=WEIGHTS`` or ``WEIGHTS``: the same architecture with other weights, measured in the same way; or
            its name and inputs, which a program has in memory.

    Raises:
        InputError: There is no layer, a number is out of range, or names collide.
    """

    layers: Sequence[str] = (ALL,)
    fraction: float = 0.5
    compare: Sequence[str | tuple[str, Inputs]] = ()

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise InputError(f"{param('fraction')} {shortest(self.fraction)} is not between 0 and 1.")
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

    def named(self) -> list[tuple[str, str | Inputs]]:
        """Name and weights, or inputs, of each network to compare with."""
        return [split_name(one, "compare", "WEIGHTS") if isinstance(one, str) else one for one in self.compare]


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
        name: Study(
            dataclasses.replace(inputs, model=study.classifier.name, weights=weights, ema=False, weights_key=None)
            if isinstance(weights, str)
            else weights,
            ("train",),
        )
        for name, weights in settings.named()
    }
    study.warn_of_empty_classes()
    for other in others.values():
        other.classifier.load(other.preprocessing.crop)  # what does not fit is refused before the work
    module, outputs = _traced(study)
    names = _names(study.classifier.name, module, outputs, layers)
    measured = _measured(study, names, fraction)
    results = SelectivityResults(fraction=fraction, layers=measured, compared={})
    for name, other in others.items():
        results.compared[name] = Compared(
            weights=other.describe_model().weights, layers=_measured(other, names, fraction)
        )
    arguments = {
        "layers": list(layers),
        "fraction": fraction,
        "compare": [one if isinstance(one, str) else one[0] for one in settings.compare],
    }
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


def _measured(study: Study, names: Sequence[str], fraction: float) -> dict[str, Layer]:
    share = _Share(
        Opening.of(study.inputs, study.classifier),
        study.dataset,
        study.labels,
        study.preprocessing,
        study.computing,
        names,
        study.head.num_classes,
        fraction,
    )
    parts = together(share)
    unreadable = {number: sentence for _, part in parts for number, sentence in part.items()}
    if unreadable:
        refuse_unreadable(unreadable, kept=False)
    (counters, _), *others = parts
    for other, _ in others:
        for name, counter in other.items():
            counters[name].merge(counter)
    return {name: _describe(counter.result(), study.class_map.names) for name, counter in counters.items()}


@dataclass
class _Share:
    """The images that a process looks at: every so many-th chunk. Counts do not depend on how images are shared out.

    Attributes:
        opening: The network.
        dataset: The images.
        labels: The network's class numbers of all images, int64 (N,).
        preprocessing: Size and normalisation of images.
        computing: How the network is run.
        names: The layers.
        num_classes: Number of classes.
        fraction: Share of the activation.
    """

    opening: Opening
    dataset: ImageDataset
    labels: Tensor
    preprocessing: Preprocessing
    computing: Computing
    names: Sequence[str]
    num_classes: int
    fraction: float

    def __call__(self, rank: int, world: int) -> tuple[dict[str, SelectivityCounter], dict[int, str]]:
        """What the layers yield for this process's images, counted; and why images cannot be read, by their numbers."""
        computing = replace(self.computing, device=device_led() or self.computing.device)
        device, size = computing.device, self.preprocessing.crop
        classifier = self.opening.classifier(rank)
        original = classifier.load(size).module
        outputs = trace_outputs(original, example_images(size, model=original))
        wanted = in_ranges(len(self.dataset), IMAGES_OF_A_CHUNK)[rank::world]
        at_once = images_at_once(self.preprocessing, device, computing.precision, computing.batch_size)
        normalise = Normalisation(self.preprocessing, device)

        def count(counters: LayerCounters, images: Tensor, labels: Tensor) -> None:
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=computing.precision == "bf16"),
            ):
                shown = normalise(images.to(device, non_blocking=True)).to(counters.number_type)
                counters.add(shown.to(memory_format=torch.channels_last), labels.to(device))

        title = f"Layers on {short_name(self.dataset, classifier.name)}" + (
            f" (process 1 of {world})" if world > 1 else ""
        )
        keep_freed_memory()
        chunks = self.dataset.chunks(self.preprocessing, wanted, computing.workers)
        with ExitStack() as stack:
            stack.enter_context(closing(chunks))
            stack.enter_context(device_memory(device))
            workers: list[LayerCounters] = []
            plain = in_float32(original, example_images(size, model=original))
            here = plain.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for module in copies_of(here, computing.threads if device.type == "cpu" else 1):
                stack.enter_context(evaluating(module))
                shared = workers[0] if workers else None
                layers = LayerCounters(module, self.names, outputs, self.num_classes, self.fraction, shared)
                workers.append(layers)
                stack.enter_context(layers.watching())
            threads = stack.enter_context(WorkerThreads(workers, computing.threads))
            advance = stack.enter_context(track(title, sum(map(len, wanted))))
            unreadable: dict[int, str] = {}
            for chunk in chunks:
                unreadable |= chunk.unreadable
                labels = self.labels[chunk.numbers.start : chunk.numbers.stop]
                pieces = zip(torch.split(chunk.images, at_once), torch.split(labels, at_once), strict=True)
                for running in [threads.submit(count, *piece) for piece in pieces]:
                    running.result()
                advance(len(chunk.numbers))
        return workers[0].by_layer, unreadable


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
