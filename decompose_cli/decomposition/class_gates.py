"""Class-specific gates (CSG, arXiv 2007.08194): a matrix that training leaves in a checkpoint, and its rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.ranking import select
from decompose_cli.errors import InputError
from decompose_cli.features.labelled import LabelledFeatures, Order
from decompose_cli.models.checkpoint import read_checkpoint


@dataclass(frozen=True)
class Gates:
    """The gate of each class for each feature, float (C, D), and the file that holds it."""

    matrix: Tensor
    source: str
    sha256: str

    @property
    def num_features(self) -> int:
        """Number of features D."""
        return self.matrix.shape[1]

    def index_set(self, k: int | float, order: Order) -> IndexSet:
        """Per class the features with the highest gates, or with the lowest.

        Raises:
            InputError: k is above D, or a fraction where gates are negative.
        """
        names = [str(number) for number in range(len(self.matrix))]
        nothing = torch.zeros(0, self.num_features)
        data = LabelledFeatures(nothing, torch.zeros(0, dtype=torch.int64), None, names, self.matrix, order)
        classes = select(data, "csg", k).classes
        return IndexSet(classes, self.num_features, source=f"{self.source}, {order} gates, k={k}")


def read_gates(path: Path) -> Gates:
    """Read the matrix ``csg`` of a checkpoint.

    Raises:
        InputError: The file cannot be read, or has no such matrix.
    """
    checkpoint = read_checkpoint(path)
    matrix = checkpoint.csg
    if matrix is None:
        raise InputError(f"{path} holds no class-specific gates: there is no matrix 'csg' in it.")
    if not matrix.is_floating_point():
        raise InputError(f"{path}: 'csg' holds {str(matrix.dtype).removeprefix('torch.')}, not floating-point gates.")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"{path}: 'csg' has the shape {tuple(matrix.shape)}, not (classes, features).")
    return Gates(matrix.float(), str(path), checkpoint.sha256)


def default_ks(index_sets: Sequence[IndexSet], num_features: int) -> list[int | float]:
    """The k to rank with where none was given: the sizes of the other sets, else 5, 10 and 20 as far as D goes."""
    sizes = sorted({index_set.largest_k for index_set in index_sets})
    return [k for k in sizes or (5, 10, 20) if k <= num_features] or [num_features]
