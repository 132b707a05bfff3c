"""Accuracies and differences as result documents hold them."""

from __future__ import annotations

from pydantic import BaseModel

from decompose_cli.decomposition.metrics import Predictions, compare
from decompose_cli.statistics import wilson_interval


class Point(BaseModel):
    """Images that one head gets right; ``top1`` and its Wilson interval in percent."""

    correct: int
    top1: float
    top1_ci95: tuple[float, float]


class Difference(BaseModel):
    """Decomposed minus original, in percentage points, image by image (see :func:`..decomposition.metrics.compare`)."""

    points: float
    ci95: tuple[float, float]
    mcnemar_p: float
    only_original_correct: int
    only_decomposed_correct: int


def point_of(found: Predictions) -> Point:
    """Count, accuracy and its interval."""
    low, high = wilson_interval(found.correct, found.total)
    return Point(correct=found.correct, top1=100 * found.correct / found.total, top1_ci95=(100 * low, 100 * high))


def difference_of(original: Predictions, decomposed: Predictions) -> Difference:
    """How a decomposed network differs from the original, on the same images."""
    found = compare(original, decomposed)
    return Difference(
        points=found.points,
        ci95=found.ci95,
        mcnemar_p=found.mcnemar_p,
        only_original_correct=found.only_first,
        only_decomposed_correct=found.only_second,
    )
