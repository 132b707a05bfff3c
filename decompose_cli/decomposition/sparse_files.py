"""Features that were made elsewhere, as ``sparsify`` takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from decompose_cli.decomposition.prediction_tables import numbered_table
from decompose_cli.decomposition.ranking import RANKINGS
from decompose_cli.decomposition.sparse_heads import SparseHead
from decompose_cli.decomposition.sparse_results import SparsifyResults
from decompose_cli.decomposition.sparse_settings import SparsifySettings
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.features.elsewhere import SPLITS, read_feature_file
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.models.lone_head import FEATURES, HEAD, read_lone_head, write_lone_head
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.processes.device import resolve_device
from decompose_cli.reporting.predictions import PredictionTable
from decompose_cli.storage.result_document import (
    ModelInfo,
    ResultDocument,
    Stopwatch,
    WeightsInfo,
    describe_environment,
)


class FileSource:
    """A file of features, of training images and of those that are reported on, without a network.

    Args:
        inputs: What of it is no matter of networks: device, split and seed.
        path: The file; see :mod:`decompose_cli.features.elsewhere`.
        settings: What the heads are like.

    Raises:
        InputError: The file cannot be read, or something was chosen that needs a network.
    """

    train_split = "train"
    full: HeadTensors | None = None

    def __init__(self, inputs: Inputs, path: Path, settings: SparsifySettings) -> None:
        inputs = inputs.for_features_alone("weights")
        self.inputs, self.device = inputs, resolve_device(inputs.device)
        if settings.maps:
            raise InputError(f"{param('maps')} needs a network: {param('features')} has values, no maps.")
        if settings.method in RANKINGS and RANKINGS[settings.method].needs_gates:
            raise InputError(
                f"{param('method')} {settings.method} needs a network with gates, not {param('features')}."
            )
        if inputs.split == self.train_split:
            raise InputError(
                "sparsify fits the training images, so it cannot be measured on them.",
                hint=f"Use another {param('split')}.",
            )
        reported = ("test", "val") if inputs.split is None else one_of(inputs.split, SPLITS, "split")
        self.file = read_feature_file(path, needs=(self.train_split, reported), optional=("val",))
        splits, names = self.file.splits, self.file.class_names
        self.split = inputs.split or ("test" if "test" in splits else "val")
        train, own = splits[self.train_split], splits[self.split]
        self.train: LabelledFeatures = LabelledFeatures(
            train.features, train.labels, None, names, device=str(self.device)
        )
        self.features, self.labels = own.features, own.labels
        self.feature_names: Sequence[str] | None = self.file.feature_names
        self.choosing: tuple[Tensor, Tensor] | None = None
        if self.split == "test" and "val" in splits:
            self.choosing = splits["val"].features, splits["val"].labels

    def table(self) -> PredictionTable:
        """The rows that are reported on."""
        return numbered_table(self.labels, tuple(self.file.class_names))

    def locality(self) -> Tensor | None:
        """Unknown: there are no maps."""
        return None

    def local_diversity(self, heads: Sequence[SparseHead]) -> list[float | None]:
        """Unknown: there are no maps."""
        return [None] * len(heads)

    def checkpoint(
        self, head: SparseHead, full: HeadTensors
    ) -> tuple[Callable[[Path], None], Callable[[Path], object]]:
        """What writes the head alone, the full one beside it as reference, and what reads it back."""
        record = SparseRecord(full.weight, full.bias, head.values)
        names = self.file.class_names
        return (
            lambda path: write_lone_head(path, head.linear(), record, names, self.feature_names),
            lambda path: read_lone_head(path, allow_download=False),
        )

    def provenance(self) -> Mapping[str, Any]:
        """The file."""
        return {"features": {"source": str(self.file.path), "sha256": self.file.sha256}}

    def document(
        self, arguments: dict[str, Any], results: SparsifyResults, watch: Stopwatch
    ) -> ResultDocument[SparsifyResults]:
        """The result with the file and the environment."""
        return ResultDocument(
            command="sparsify",
            arguments={**self.inputs.as_arguments(), **arguments, "features": str(self.file.path)},
            model=ModelInfo(
                name=FEATURES,
                num_classes=len(self.file.class_names),
                num_features=self.file.num_features,
                head=HEAD,
                # What all of it was made from.
                weights=WeightsInfo(source=str(self.file.path), sha256=self.file.sha256),
            ),
            dataset=self.file.describe(self.split),
            environment=describe_environment(str(self.device), self.inputs.seed),
            started_at=watch.started_at,
            results=results,
            seconds=watch.seconds(),
        )
