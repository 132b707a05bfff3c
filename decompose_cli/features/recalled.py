"""The features that a result is about, where the cache still has them; nothing of the network is opened for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decompose_cli.features import cache as feature_cache
from decompose_cli.features.bank import DAMAGED, BankFolder
from decompose_cli.features.inputs import PRECISIONS
from decompose_cli.models.network import HeadTensors
from decompose_cli.storage.result_document import DatasetInfo, ResultDocument

AUTO = "auto"


@dataclass(frozen=True)
class Recalled:
    """The images of a result as its heads see them.

    Attributes:
        head: Parameters of the head, C classes, D features.
        labels: Class numbers of the N images that the result counts, int64 (N,).
        numbers: Their numbers in the split, int64 (N,).
        whole: Features of all images of the split, those that are left out as well, float32; mapped, not read.
    """

    head: HeadTensors
    labels: Tensor
    numbers: Tensor
    whole: Tensor

    @property
    def features(self) -> Tensor:
        """Features of the images that the result counts, float32 (N, D)."""
        return self.whole if len(self.numbers) == len(self.whole) else self.whole[self.numbers]


def recalled(document: ResultDocument[Any]) -> Iterator[Recalled]:
    """The features that may be those of a result, the most recent first; its figures say which are.

    The cache is searched for the weights, images and preprocessing that the result names. That several entries fit is
    rare: other options of a network, or another precision. A result of a program that had its network in memory, or of
    ``--no-cache``, has none.
    """
    model, dataset = document.model, document.dataset
    if model is None or not isinstance(dataset, DatasetInfo):
        return
    wanted = document.arguments.get("precision")
    transform = {name: getattr(dataset, name) for name in ("resize", "crop", "interpolation", "mean", "std")}
    sizes = model.num_features, model.num_classes
    for bank in feature_cache.banks():
        key = bank.header["key"]
        facts = key.get("weights"), key.get("dataset"), key.get("split"), key.get("transform")
        if facts != (model.weights.sha256, dataset.fingerprint, dataset.split, transform):
            continue
        if wanted in PRECISIONS and wanted != AUTO and key.get("precision", wanted) != wanted:
            continue
        with suppress(OSError, *DAMAGED):
            found = _of(bank, dataset)
            if found is not None and (found.head.num_features, found.head.num_classes) == sizes:
                yield found


def _of(bank: BankFolder, dataset: DatasetInfo) -> Recalled | None:
    """What the result counts of a bank; None where it cannot be of this bank."""
    if bank.pending() or bank.damaged():
        return None
    whole = bank.bank()
    head, outputs = whole.head, dataset.outputs
    if dataset.part is not None and dataset.part.policy == "present":
        head = head.of_classes(dataset.part.present)
    if head.num_classes != len(dataset.classes):
        return None
    labels = whole.labels if outputs is None else torch.tensor(outputs)[whole.labels]
    is_counted = labels >= 0
    is_counted[[number for chunk in bank.written().unreadable.values() for number in chunk]] = False
    numbers = is_counted.nonzero()[:, 0]
    if len(numbers) != dataset.images or bool((labels[numbers] >= head.num_classes).any()):
        return None
    return Recalled(head, labels[numbers], numbers, whole.features)
