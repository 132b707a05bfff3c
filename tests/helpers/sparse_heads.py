"""Checkpoints of sparse heads, made of the shipped network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from decompose_cli.decomposition.heads import with_decomposed_head
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import open_network
from decompose_cli.models import lone_head
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.registry import DEFAULT_MODEL
from decompose_cli.models.sparse_record import FewValues, SparseRecord
from helpers.inputs import CLASSES, FEATURES

EMPTY = 3
"""The class of the head that has its bias alone."""
K = 4
DIGITS = tuple(map(str, range(CLASSES)))


def few_values() -> FewValues:
    """Four weights of -1 and 1 for each class but one, whose weights are 0; the last feature is constant."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.rand(CLASSES, FEATURES - 1, generator=generator).topk(K).indices
    signs = torch.randint(0, 2, (CLASSES, K), generator=generator, dtype=torch.int8) * 2 - 1
    integers = torch.zeros(CLASSES, FEATURES, dtype=torch.int8).scatter_(1, columns, signs)
    integers[EMPTY] = 0
    deviation = torch.rand(FEATURES, generator=generator, dtype=torch.float64) + 0.5
    deviation[-1] = 0
    mean = torch.rand(FEATURES, generator=generator, dtype=torch.float64)
    return FewValues(integers, torch.tensor(1.7, dtype=torch.float64), mean, deviation)


def head_of(values: FewValues) -> DecomposedLinear:
    """The head on x that the values give, with a bias for each class."""
    weight, rows = values.folded().float(), [row.nonzero()[:, 0].tolist() for row in values.integers]
    return DecomposedLinear.from_dense(weight, torch.linspace(-1, 1, CLASSES), rows)


@cache
def _shipped() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    network = open_network(Inputs(model=DEFAULT_MODEL)).load((32, 32))
    dense = network.tensors
    with_decomposed_head(network.module, network.head, head_of(few_values()))
    return dict(network.module.state_dict()), dense.weight, dense.bias


def record() -> SparseRecord:
    """The shipped network's own head as the dense one, and the few values."""
    _, weight, bias = _shipped()
    return SparseRecord(weight.clone(), bias.clone(), few_values())


def write_sparse(path: Path, sparse: SparseRecord | None = None, **changes: Tensor | None) -> Path:
    """A checkpoint of the shipped network with a sparse head; changes to its tensors, ``__`` standing for a dot."""
    state, _, _ = _shipped()
    tensors = {**state, **(sparse or record()).tensors()}
    tensors |= {name.replace("__", "."): value for name, value in changes.items()}  # type: ignore[misc]
    metadata = Metadata(model=DEFAULT_MODEL, num_classes=CLASSES, class_names=list(DIGITS), dataset="digits")
    write_checkpoint(path, {name: value for name, value in tensors.items() if value is not None}, metadata)
    return path


def write_lone_head(path: Path, feature_names: Sequence[str] | None = None, **changes: Tensor | None) -> Path:
    """A file of the same head without a network; changes to its tensors, ``__`` standing for a dot."""
    sparse = replace(record(), dense_bias=torch.zeros(CLASSES))
    lone_head.write_lone_head(path, head_of(few_values()), sparse, DIGITS, feature_names)
    if changes:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata()
        tensors = load_file(path) | {name.replace("__", "."): value for name, value in changes.items()}
        save_file({name: value for name, value in tensors.items() if value is not None}, path, metadata)
    return path
