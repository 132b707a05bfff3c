"""A class beside another: which features both use, which one alone, and what each gives on the images of both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from pydantic import BaseModel
from torch import Tensor

from decompose_cli.models.decomposed import DecomposedLinear

MOST_NEIGHBOURS = 20


class OnBoth(BaseModel):
    """What a feature gives a class, weight times mean, over the images of the first class, and of the second."""

    first: float | None
    second: float | None


class SharedFeature(BaseModel):
    """A feature that one or both classes use.

    ``used_by``: ``both``, ``first`` or ``second``. ``weights``: of the first class and of the second, 0 where it does
    not use it. ``to_first`` and ``to_second``: what it adds to the logit of each class. ``apart``: how much farther
    apart the two logits are by it on the images of the first class than on those of the second; the larger, the more
    it tells them apart. Means are null where a class has no images.
    """

    feature: int
    used_by: Literal["both", "first", "second"]
    weights: tuple[float, float]
    to_first: OnBoth
    to_second: OnBoth
    apart: float | None


class Beside(BaseModel):
    """Two classes; ``biases`` of both, and their features, those that tell them apart best first."""

    class_number: int
    class_name: str
    biases: tuple[float, float]
    both: int
    only_first: int
    only_second: int
    features: list[SharedFeature]


class Neighbour(BaseModel):
    """Another class: how many features it has in common with this one, and how many each has that the other lacks."""

    class_number: int
    class_name: str
    both: int
    only_first: int
    only_second: int


def beside(
    head: DecomposedLinear, features: Tensor, labels: Tensor, first: int, second: int, names: Sequence[str]
) -> Beside:
    """Compare the features of two classes.

    Args:
        head: One subspace per class.
        features: Features of images, (N, D).
        labels: Class numbers, int64 (N,).
        first: A class.
        second: Another one.
        names: Names of the classes.
    """
    rows = head.classes()
    known = [
        dict(zip(rows[c], head.weight.detach()[c, : len(rows[c])].double().tolist(), strict=True))
        for c in (first, second)
    ]
    used = list(dict.fromkeys((*rows[first], *rows[second])))
    means = [_means(features, labels == c, used) for c in (first, second)]
    found = []
    for place, feature in enumerate(used):
        weights = known[0].get(feature, 0.0), known[1].get(feature, 0.0)
        on = [None if mean is None else mean[place] for mean in means]
        given = [OnBoth(**dict(zip(("first", "second"), (_times(w, x) for x in on), strict=True))) for w in weights]
        margins = [_times(weights[0] - weights[1], x) for x in on]
        apart = None if margins[0] is None or margins[1] is None else margins[0] - margins[1]
        in_first, in_second = feature in known[0], feature in known[1]
        found.append(
            SharedFeature(
                feature=feature,
                used_by="both" if in_first and in_second else "first" if in_first else "second",
                weights=weights,
                to_first=given[0],
                to_second=given[1],
                apart=apart,
            )
        )
    found.sort(key=lambda one: (-(one.apart or 0.0), one.feature))
    bias = head.bias.detach().double()
    return Beside(
        class_number=second,
        class_name=names[second],
        biases=(float(bias[first]), float(bias[second])),
        **_counts(rows[first], rows[second]),
        features=found,
    )


def neighbours(
    rows: Sequence[Sequence[int]], c: int, names: Sequence[str], left_out: Collection[int] = ()
) -> list[Neighbour]:
    """The other classes, those that differ in fewest features first, and of these those with most in common.

    Args:
        rows: The features of each class.
        c: The class.
        names: Names of the classes.
        left_out: Classes that keep all features, which are no choice.
    """
    found = [
        Neighbour(class_number=other, class_name=names[other], **_counts(rows[c], row))
        for other, row in enumerate(rows)
        if other != c and other not in left_out
    ]
    found.sort(key=lambda one: (max(one.only_first, one.only_second), -one.both, one.class_number))
    return found[:MOST_NEIGHBOURS]


def _counts(first: Sequence[int], second: Sequence[int]) -> dict[str, int]:
    a, b = set(first), set(second)
    return {"both": len(a & b), "only_first": len(a - b), "only_second": len(b - a)}


def _means(features: Tensor, which: Tensor, used: Sequence[int]) -> list[float] | None:
    rows = features[which][:, list(used)]
    means: list[float] = rows.double().mean(0).tolist()
    return means if len(rows) else None


def _times(weight: float, value: float | None) -> float | None:
    return None if value is None else weight * value
