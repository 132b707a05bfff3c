"""What the checkpoint of a sparse head holds beside it: the dense head to compare it with, and its few values.

In files these are tensors under reserved names; see :data:`NAMES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decompose_cli.errors import DecomposeError, InputError, first_few

if TYPE_CHECKING:
    from decompose_cli.models.network import HeadTensors

_PREFIX = "sparse."
_DENSE = ("dense_weight", "dense_bias")
_VALUES = ("integers", "scale", "mean", "deviation")
NAMES = tuple(f"{_PREFIX}{name}" for name in (*_DENSE, *_VALUES))
"""The reserved names of the tensors of a record."""
_AXES = {"dense_weight": "CD", "dense_bias": "C", "integers": "CD", "scale": "", "mean": "D", "deviation": "D"}
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class FewValues:
    """A head of few values on standardised features z = (x - mean) / deviation, from which the weights on x come.

    Attributes:
        integers: The weights on z in units of the scale, int8 (C, D); 0 where a class does not use a feature.
        scale: Weight on z of the integer 1, float64 (), not negative.
        mean: Means that were subtracted, float64 (D,).
        deviation: Standard deviations that were divided by, float64 (D,); 0 for a constant feature, whose z is 0.
    """

    integers: Tensor
    scale: Tensor
    mean: Tensor
    deviation: Tensor

    def folded(self) -> Tensor:
        """The weights on x, integers * scale / deviation, float64 (C, D)."""
        inverse = torch.where(self.deviation > 0, 1 / self.deviation, 0.0)
        return self.integers.double() * (self.scale * inverse)


@dataclass(frozen=True)
class SparseRecord:
    """What belongs to a sparse head and is no part of the network's function.

    Attributes:
        dense_weight: Weight (C, D) of the dense head that the sparse one is compared with, what follows the head folded
            in, float32; None where the network has changed since.
        dense_bias: Its bias (C,), float32; there or not as the weight is.
        values: The few values that the sparse head's weights come from; None for a head of real weights.
    """

    dense_weight: Tensor | None = None
    dense_bias: Tensor | None = None
    values: FewValues | None = None

    @property
    def num_features(self) -> int:
        """Number of features D."""
        widest = self.dense_weight if self.values is None else self.values.integers
        assert widest is not None
        return widest.shape[1]

    def without_dense(self) -> SparseRecord | None:
        """The record of a network whose features have changed; None if nothing is left of it."""
        return None if self.values is None else dataclasses.replace(self, dense_weight=None, dense_bias=None)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their reserved names, as they stand in files."""
        found = {name: getattr(self, name) for name in _DENSE}
        if self.values is not None:
            found |= vars(self.values)
        return {f"{_PREFIX}{name}": value for name, value in found.items() if value is not None}

    def beside(self, state_dict: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
        """The tensors to be written beside the state dict of a network.

        Raises:
            DecomposeError: The network has a tensor under one of the reserved names.
        """
        taken = [name for name in NAMES if name in state_dict]
        if taken:
            raise DecomposeError(
                f"{path} cannot be written: {taken[0]} of the network has a name that is reserved for sparse heads.",
                hint="Give the part of the network that is called 'sparse' another name.",
            )
        return self.tensors()

    def joined(self, head: HeadTensors, source: str) -> HeadTensors:
        """The sparse head with the dense one as its reference.

        Args:
            head: A decomposed head, what follows it folded in.
            source: The file, for messages.

        Raises:
            InputError: The record belongs to a head of another size, or its few values do not give the head's weights.
        """
        shape = (head.num_classes, head.num_features)
        for name, matrix in self.tensors().items():
            if matrix.ndim == 2 and tuple(matrix.shape) != shape:
                raise InputError(
                    f"{source}: {name} {tuple(matrix.shape)} does not fit a head of {shape[0]} classes and {shape[1]} "
                    "features."
                )
        if self.values is not None:
            assert head.indices is not None
            assert head.mask is not None
            kept = torch.zeros(shape, dtype=torch.float64)
            kept.scatter_add_(1, head.indices, torch.where(head.mask, head.weight.double(), 0.0))
            expected = self.values.folded()
            # Classes that had no training images keep real weights, and no integers.
            off = ((kept - expected).abs() > _TOLERANCE * expected.abs()) & (self.values.integers != 0).any(1)[:, None]
            if bool(off.any()):
                raise InputError(
                    f"{source}: {_PREFIX}integers times {_PREFIX}scale by {_PREFIX}deviation are not the weights of "
                    "its head."
                )
        return dataclasses.replace(head, reference=self.dense_weight, reference_bias=self.dense_bias)


def take_record(state: dict[str, Tensor], source: str) -> SparseRecord | None:
    """Take the record out of the state dict of a file that describes itself.

    Args:
        state: The state dict, which loses these entries; its numbers are finite.
        source: The file, for messages.

    Returns:
        The record, or None if there is neither a dense head nor a matrix of few values.

    Raises:
        InputError: Parts are missing, or of another kind or shape, or there is no decomposed head.
    """
    if not any(f"{_PREFIX}{group[0]}" in state for group in (_DENSE, _VALUES)):
        return None  # a network may have a part of the name 'sparse'
    parts = {name.removeprefix(_PREFIX): state.pop(name) for name in NAMES if name in state}
    for group in (_DENSE, _VALUES):
        missing = [f"{_PREFIX}{name}" for name in group if name not in parts]
        if 0 < len(missing) < len(group):
            raise InputError(f"{source} lacks {first_few(missing)}, which belongs to the rest of its sparse head.")
    if not any(name.endswith(".indices") for name in state):
        raise InputError(f"{source} has {_PREFIX}{next(iter(parts))}, but no sparse head that it belongs to.")
    sides: dict[str, int] = {}
    for name, value in parts.items():
        is_right = value.dtype == torch.int8 if name == "integers" else value.is_floating_point()
        if not is_right:
            dtype, wanted = str(value.dtype).removeprefix("torch."), "int8" if name == "integers" else "real numbers"
            raise InputError(f"{source}: {_PREFIX}{name} holds {dtype} where {wanted} belong.")
        axes = _AXES[name]
        if value.ndim != len(axes) or any(
            sides.setdefault(axis, size) != size for axis, size in zip(axes, value.shape, strict=True)
        ):
            shape = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
            known = "".join(f", {axis} = {size}" for axis, size in sides.items() if axis in axes)
            raise InputError(f"{source}: {_PREFIX}{name} has the shape {tuple(value.shape)}, not {shape}{known}.")
    for name in ("scale", "deviation"):
        if name in parts and bool((parts[name] < 0).any()):
            raise InputError(f"{source}: {_PREFIX}{name} is negative.")
    weight, bias = (parts[name].float() if name in parts else None for name in _DENSE)
    if "integers" not in parts:
        return SparseRecord(weight, bias)
    scale, mean, deviation = (parts[name].double() for name in _VALUES[1:])
    return SparseRecord(weight, bias, FewValues(parts["integers"], scale, mean, deviation))
