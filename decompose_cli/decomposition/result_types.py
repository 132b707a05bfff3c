"""Accuracies and differences as result documents hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from decompose_cli.decomposition.metrics import Predictions, changes_by_class, compare, worst_of
from decompose_cli.messages import warn
from decompose_cli.statistics import wilson_interval

_MOST_SAID = 5


class Point(BaseModel):
    """The number of images that a head gets right; ``top1`` and its Wilson interval in percent."""

    correct: int
    top1: float
    top1_ci95: tuple[float, float]


class ClassLoss(BaseModel):
    """One class, by its number: its images, how many of them each head gets right, and the difference in points.

    ``ci95``: interval of ``points`` that holds for all classes together (see :func:`.metrics.changes_by_class`).
    """

    number: int
    images: int
    before: int
    after: int
    points: float
    ci95: tuple[float, float]


class Paired(BaseModel):
    """``worst_class``: the class that loses most; null where none loses an image.

    ``halved_classes``: the classes that lose more than half of what was right, with an interval below zero.
    """

    worst_class: ClassLoss | None = None
    halved_classes: list[ClassLoss] = []


def by_class(first: Predictions, second: Predictions) -> dict[str, Any]:
    """The fields of :class:`Paired`, for the second head minus the first on the same images."""
    changes = changes_by_class(first, second)
    worst = worst_of(changes)
    return {
        "worst_class": None if worst is None else ClassLoss(**vars(worst)),
        "halved_classes": [ClassLoss(**vars(change)) for change in changes if change.is_halved],
    }


def warn_of_halved(found: Paired, names: Sequence[str], what: str) -> None:
    """Warn of classes that lose more than half of what was right.

    Args:
        found: The comparison.
        names: Names of the classes.
        what: The head that loses it, as the subject of the sentence.
    """
    for one in found.halved_classes[:_MOST_SAID]:
        counts = f"{one.after:,} of {one.images:,} images of {names[one.number]} right instead of {one.before:,}"
        warn(f"{what} gets {counts}.")
    if (more := len(found.halved_classes) - _MOST_SAID) > 0:
        warn(f"{what} loses more than half of what was right of {more:,} more classes.")


class Difference(Paired):
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


def difference_of(
    original: Predictions,
    decomposed: Predictions,
    names: Sequence[str] = (),
    what: str = "The decomposed head",
) -> Difference:
    """Compare a decomposed network with the original, on the same images.

    Args:
        original: Predictions of the original.
        decomposed: Predictions of the other.
        names: Names of the classes, to warn of those that lose more than half; without them nothing is said.
        what: The other, as the subject of that sentence.
    """
    difference = compare(original, decomposed)
    found = Difference(
        **by_class(original, decomposed),
        points=difference.points,
        ci95=difference.ci95,
        mcnemar_p=difference.mcnemar_p,
        only_original_correct=difference.only_first,
        only_decomposed_correct=difference.only_second,
    )
    if names:
        warn_of_halved(found, names, what)
    return found


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
