"""CIFAR in the layout of its "binary version": records of one or two labels and 3,072 pixels, a byte each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_PIXELS = 3072


@dataclass(frozen=True)
class Binary:
    """An archive of records.

    Attributes:
        folder: Name of the folder in it.
        labels: Bytes of a record before its pixels, the last of which is the class.
        files: Files of each split.
    """

    folder: str
    labels: int
    files: dict[str, tuple[str, ...]]


BINARIES = {
    "cifar10": Binary(
        "cifar-10-batches-bin",
        1,
        {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)},
    ),
    "cifar100": Binary("cifar-100-binary", 2, {"train": ("train.bin",), "test": ("test.bin",)}),
}


def read_binary(binary: Binary, files: Sequence[Path], num_classes: int) -> tuple[Tensor, Tensor]:
    """The images of some files, uint8 (N, 3, 32, 32), and their labels, int64 (N,).

    Raises:
        InputError: A file cannot be read, is not made of whole records, or has a label that is no class.
    """
    import numpy as np
    import torch

    size = binary.labels + _PIXELS
    parts = []
    for file in files:
        try:
            content = np.fromfile(file, dtype=np.uint8)
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
        if len(content) == 0 or len(content) % size:
            raise InputError(
                f"{file} is damaged: it has {len(content):,} bytes, which are not records of {size:,}.",
                hint="Put the published file in its place.",
            )
        records = content.reshape(-1, size)
        if (highest := int(records[:, binary.labels - 1].max())) >= num_classes:
            raise InputError(f"{file} is damaged: it has the label {highest}, and there are {num_classes} classes.")
        parts.append(records)
    every = np.concatenate(parts)
    pixels = torch.from_numpy(np.ascontiguousarray(every[:, binary.labels :])).view(-1, 3, 32, 32)
    return pixels, torch.from_numpy(every[:, binary.labels - 1].astype(np.int64))
