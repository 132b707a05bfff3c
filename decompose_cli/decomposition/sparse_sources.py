"""Where the features come from that ``sparsify`` chooses from: a network and its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from decompose_cli.decomposition.choosing import validation_of
from decompose_cli.decomposition.heads import with_decomposed_head
from decompose_cli.decomposition.prediction_tables import table_of
from decompose_cli.decomposition.ranking import RANKINGS
from decompose_cli.decomposition.sparse_heads import SparseHead
from decompose_cli.decomposition.sparse_results import SparsifyResults
from decompose_cli.decomposition.sparse_settings import SparsifySettings
from decompose_cli.errors import InputError, param
from decompose_cli.features.extraction import device_memory, normalised_batches, short_name
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.features.study import Study
from decompose_cli.messages import track, warn
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.copying import copied, in_float32
from decompose_cli.models.maps import feature_maps
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.read_back import check_read_back
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.models.tracing import example_images
from decompose_cli.reporting.predictions import PredictionTable
from decompose_cli.sparse.measures import LocalDiversity
from decompose_cli.sparse.qpm import locality
from decompose_cli.storage.result_document import ResultDocument, Stopwatch


class Source(Protocol):
    """Where features come from, and what is known beside them.

    Attributes:
        train: Features of the training images.
        train_split: Name of their split.
        features: Features of the images that are reported on.
        labels: Their class numbers.
        choosing: Features and class numbers of other images that choose, or None.
        full: The full head, or None.
        feature_names: Names of the features, or None.
    """

    train: LabelledFeatures
    train_split: str
    features: Tensor
    labels: Tensor
    choosing: tuple[Tensor, Tensor] | None
    full: HeadTensors | None
    feature_names: Sequence[str] | None

    def locality(self) -> Tensor | None:
        """How local each feature is on training images, (D,); None where that cannot be known."""

    def local_diversity(self, heads: Sequence[SparseHead]) -> list[float | None]:
        """SID@5 of each head on the images that are reported on; None where there are no maps."""

    def checkpoint(
        self, head: SparseHead, full: HeadTensors
    ) -> tuple[Callable[[Path], None], Callable[[Path], object]]:
        """What writes a sparse head, with the full one beside it, into a file that other commands take; what reads it.

        The second looks whether the file gives back what was written, and warns if it does not.
        """

    def table(self) -> PredictionTable:
        """The images that are reported on, for what heads say of them."""

    def provenance(self) -> Mapping[str, Any]:
        """Where the features of an index file come from."""

    def document(
        self, arguments: dict[str, Any], results: SparsifyResults, watch: Stopwatch
    ) -> ResultDocument[SparsifyResults]:
        """The result with all that is needed to get it again."""


class NetworkSource:
    """A network, its training images, and the images that are reported on.

    Args:
        inputs: The network and the images.
        settings: What the heads are like.

    Raises:
        InputError: Something given cannot be used.
    """

    feature_names: Sequence[str] | None = None

    def __init__(self, inputs: Inputs, settings: SparsifySettings) -> None:
        self.study = Study(inputs, ("test", "val"))
        lacks_head = self.study.classifier.lacks_head
        self.full: HeadTensors | None = None if lacks_head else self.study.require_full_head("sparsify")
        self.training = self.study.on_training_split()
        self.train_split = self.training.dataset.split
        if self.train_split == self.study.dataset.split:
            raise InputError(
                "sparsify fits the training images, so it cannot be measured on them.",
                hint=f"Use another {param('split')}.",
            )
        gates = settings.method in RANKINGS and RANKINGS[settings.method].needs_gates
        self.train: LabelledFeatures = self.training.labelled(gates=gates)
        self.features, self.labels = self.study.bank.features, self.study.labels
        self.others = [self.training]
        self.choosing: tuple[Tensor, Tensor] | None = None
        validation = validation_of(self.study)
        if validation is not None:
            self.others.append(validation)
            self.choosing = validation.bank.features, validation.labels

    def locality(self) -> Tensor | None:
        """How local each feature is on training images; see :func:`.qpm.locality`."""
        first = next(iter(_maps(self.training)), None)
        if first is None or first[1] is None:
            return None
        batches = ((features, maps) for features, maps in _maps(self.training) if maps is not None)
        return locality(batches)

    def local_diversity(self, heads: Sequence[SparseHead]) -> list[float | None]:
        """SID@5 of each head on the images that are reported on."""
        found = [LocalDiversity(head.on_z[:, :-1], head.support) for head in heads]
        modules = [head.linear() for head in heads]
        for features, maps in _maps(self.study):
            if maps is None:
                warn("The network's features are no means of maps, so SID@5 is not known.")
                return [None] * len(heads)
            with torch.inference_mode():
                for module, diversity in zip(modules, found, strict=True):
                    diversity.add(maps, module(features).argmax(1))
        return [diversity.value for diversity in found]

    def checkpoint(
        self, head: SparseHead, full: HeadTensors
    ) -> tuple[Callable[[Path], None], Callable[[Path], object]]:
        """What writes the network with the head in it, the full head beside it as reference, and what reads it back."""
        study = self.study
        network, entry = study.classifier.load(study.preprocessing.crop), study.classifier.entry
        module = copied(network.module)
        with_decomposed_head(module, network.head, head.linear())
        state = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
        metadata = Metadata(
            model=entry.name,
            **self.training.described_classes(),
            dataset=study.dataset.name,
            model_options=dict(entry.chosen) or None,
            **study.preprocessing.described(),
        )
        record = SparseRecord(full.weight, full.bias, head.values)
        size = network.input_size
        return (
            lambda path: write_checkpoint(path, state, metadata, record),
            lambda path: check_read_back(path, module, size),
        )

    def table(self) -> PredictionTable:
        """The images that are reported on."""
        return table_of(self.study)

    def provenance(self) -> Mapping[str, Any]:
        """The network, and what was done about classes without images."""
        part = self.training.part
        more = {} if part is None else {"part": part.model_dump()}
        return {"model": self.study.describe_model().model_dump(), **more}

    def document(
        self, arguments: dict[str, Any], results: SparsifyResults, watch: Stopwatch
    ) -> ResultDocument[SparsifyResults]:
        """The result with network, images and environment."""
        return self.study.document("sparsify", arguments, results, watch, self.others)


def _maps(study: Study) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Features (n, D) and the maps (n, D, h, w) whose means they are, batch by batch, on the CPU; None without maps."""
    network, inputs = study.classifier.load(study.preprocessing.crop), study.inputs
    module = in_float32(network.module, example_images(network.input_size, model=network.module)).to(study.device)
    head = module.get_submodule(network.head.name)
    batches = normalised_batches(
        study.dataset,
        study.preprocessing,
        device=study.device,
        precision="32",
        batch_size=inputs.batch_size,
        workers=study.workers,
    )
    with (
        device_memory(study.device),
        track(f"Maps of {short_name(study.dataset, study.classifier.name)}", len(study.dataset)) as advance,
    ):
        for images, truth in batches:
            features, maps = feature_maps(module, head, images.to(study.device))
            yield features.cpu(), None if maps is None else maps.cpu()
            advance(len(truth))
