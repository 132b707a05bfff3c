"""Accuracies and differences as result documents hold them."""

from __future__ import annotations

from pydantic import BaseModel

from decompose_cli.decomposition.metrics import Predictions, compare
from decompose_cli.statistics import wilson_interval


class Point(BaseModel):
    """The number of images that a head gets right; ``top1`` and its Wilson interval in percent."""

    correct: int
    top1: float
    top1_ci95: tuple[float, float]


class Difference(BaseModel):
    """Decomposed minus original, in percentage points, image by image, from :func:`.metrics.compare`."""

    points: float
    ci95: tuple[float, float]
    mcnemar_p: float
    only_original_correct: int
    only_decomposed_correct: int


class Gain(BaseModel):
    """Refitted minus cut, in percentage points, image by image, from :func:`.metrics.compare`."""

    points: float
    ci95: tuple[float, float]
    mcnemar_p: float
    only_cut_correct: int
    only_refitted_correct: int


def point_of(predictions: Predictions) -> Point:
    """Count the correct predictions; return count, accuracy and its interval."""
    correct, total = predictions.correct, predictions.total
    low, high = wilson_interval(correct, total)
    return Point(correct=correct, top1=100 * correct / total, top1_ci95=(100 * low, 100 * high))


def difference_of(original: Predictions, decomposed: Predictions) -> Difference:
    """Compare a decomposed network with the original, on the same images."""
    difference = compare(original, decomposed)
    return Difference(
        points=difference.points,
        ci95=difference.ci95,
        mcnemar_p=difference.mcnemar_p,
        only_original_correct=difference.only_first,
        only_decomposed_correct=difference.only_second,
    )


def gain_of(cut: Predictions, refitted: Predictions) -> Gain:
    """Compare a head with weights that were fitted anew with the cut of the same features, on the same images."""
    found = compare(cut, refitted)
    return Gain(
        points=found.points,
        ci95=found.ci95,
        mcnemar_p=found.mcnemar_p,
        only_cut_correct=found.only_first,
        only_refitted_correct=found.only_second,
    )
