"""Scikit-learn's 1797 handwritten digits as 32x32 RGB images: the data set that needs neither files nor network."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.datasets.classes import ClassNames
from decompose_cli.datasets.entry import DatasetEntry
from decompose_cli.errors import DecomposeError
from decompose_cli.preprocessing import CIFAR
from decompose_cli.storage.fingerprints import file_stamp

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

CLASSES = tuple(str(digit) for digit in range(10))
TEST_IMAGES = 360
TRAIN_IMAGES = 1437
_ENLARGEMENT = 4
_VERSION = 1  # of the split and the enlargement


def open_digits(split: str) -> InMemoryImages:
    """The digits (UCI ML Repository, E. Alpaydin and C. Kaynak), 8x8 grey levels 0..16, enlarged to 32x32.

    The split is fixed and stratified: sorted by class (keeping the original order within a class), every fifth image
    is a test image, beginning with the first. This makes 360 test images and 1437 training images.
    """
    file = _data_file()
    stamp = [_VERSION, split, file_stamp([file], file.parent)]
    count = TEST_IMAGES if split == "test" else TRAIN_IMAGES
    return InMemoryImages("digits", split, CLASSES, CIFAR, lambda: _read(file, split), stamp, count)


def _data_file() -> Path:
    # The file is located without importing scikit-learn, which would take longer than reading the digits.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DecomposeError("The digits come with scikit-learn, which is not installed.")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _read(file: Path, split: str) -> tuple[Tensor, Tensor]:
    import numpy as np
    import torch

    with gzip.open(file, "rt") as handle:
        table = np.loadtxt(handle, delimiter=",", dtype=np.int64)
    grey, labels = table[:, :64].reshape(-1, 8, 8), table[:, 64]
    by_class = np.argsort(labels, kind="stable")
    is_test = np.arange(len(labels)) % 5 == 0
    chosen = by_class[is_test if split == "test" else ~is_test]
    large = torch.from_numpy(enlarge(grey[chosen]))
    return large[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels[chosen])


def enlarge(grey: np.ndarray) -> np.ndarray:
    """Bilinear enlargement by 4 of (N, 8, 8) levels 0..16 to (N, 32, 32) levels 0..255, in whole numbers throughout.

    Pixel i of the result lies at (i + 1/2) / 4 - 1/2 of the original, clamped to its border; weights are eighths, so
    integer arithmetic gives the same bytes on every machine.
    """
    import numpy as np

    size = grey.shape[-1]
    weights = np.zeros((size * _ENLARGEMENT, size), dtype=np.int64)
    for i in range(size * _ENLARGEMENT):
        eighths = min(max(2 * i + 1 - _ENLARGEMENT, 0), 8 * (size - 1))
        low, part = divmod(eighths, 8)
        weights[i, low] += 8 - part
        weights[i, min(low + 1, size - 1)] += part
    levels = weights @ grey @ weights.T  # in 1/64 of a level
    result: np.ndarray = ((levels * 255 + 8 * 64) // (16 * 64)).astype(np.uint8)
    return result


ENTRY = DatasetEntry(
    name="digits",
    splits=("test", "train"),
    num_classes=10,
    description="1,437 + 360 handwritten digits, enlarged to 32x32 pixels",
    how_to_get="comes with scikit-learn",
    open=lambda split, _, __: open_digits(split),
    class_names=lambda: ClassNames(CLASSES),
    recipe="digits",
    is_upright=True,
)
