"""Tables of what heads say of every image, made from evaluations."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from decompose_cli.decomposition.metrics import Evaluation
from decompose_cli.features.study import Study
from decompose_cli.reporting.predictions import PredictionTable, Said


def table_of(study: Study) -> PredictionTable:
    """The images of a study that are not left out."""
    numbers = study.in_split(range(len(study.labels)))
    files = [study.split.file_of(number) for number in numbers]
    return PredictionTable(numbers, files, study.labels.tolist(), study.class_map.names)


def numbered_table(labels: Tensor, names: tuple[str, ...]) -> PredictionTable:
    """Images that have no names; labels are int64 (N,)."""
    return PredictionTable(range(len(labels)), [None] * len(labels), labels.tolist(), names)


def add_heads(table: PredictionTable, heads: Mapping[str, Evaluation | None]) -> PredictionTable:
    """The table with the heads that there are."""
    for name, found in heads.items():
        if found is not None:
            said = Said(found.predictions.tolist(), found.confidence.tolist(), found.margin.tolist())
            table.heads[name] = said
    return table
