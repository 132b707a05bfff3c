"""Selectivity of layers, one batch after another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from decompose_cli.decomposition.selectivity import LayerCounters, LayerSelectivity
from decompose_cli.models.outputs import LayerOutput


def measure_selectivity(
    module: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    names: Sequence[str],
    outputs: Sequence[LayerOutput],
    num_classes: int,
    fraction: float,
) -> dict[str, LayerSelectivity]:
    """The selectivity of some layers over all batches."""
    counters = LayerCounters(module, names, outputs, num_classes, fraction)
    with counters.watching(), torch.inference_mode():
        for images, truth in batches:
            counters.add(images, truth)
    return {name: counter.result() for name, counter in counters.by_layer.items()}
