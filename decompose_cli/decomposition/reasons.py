"""Why an image is taken for another class: the features that speak more for that class than for its own."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel
from torch import Tensor, nn

from decompose_cli.models.decomposed import DecomposedLinear

MOST_REASONS = 3


class Reason(BaseModel):
    """A feature of an image, and what it adds to two logits: weight times value; null where a class does not use it."""

    feature: int
    to_predicted: float | None
    to_label: float | None

    @property
    def apart(self) -> float:
        """How far the feature puts the predicted class above the image's own."""
        return (self.to_predicted or 0.0) - (self.to_label or 0.0)


def reasons(head: Callable[[Tensor], Tensor], values: Tensor, predicted: int, label: int) -> list[Reason]:
    """The features that do most to put one class above another, at most three, the strongest first.

    A logit is sum_f w_cf x_f + b_c, so the difference of two is the sum over features of w_pf x_f - w_lf x_f, and of
    their biases.

    Args:
        head: A linear or a decomposed head.
        values: Features of the image, (D,).
        predicted: The class that it is taken for.
        label: Its own class.
    """
    given = [_given(head, values, number) for number in (predicted, label)]
    found = [
        Reason(feature=feature, to_predicted=given[0].get(feature), to_label=given[1].get(feature))
        for feature in given[0].keys() | given[1].keys()
    ]
    found.sort(key=lambda one: (-one.apart, one.feature))
    return [one for one in found[:MOST_REASONS] if one.apart > 0]


def _given(head: Callable[[Tensor], Tensor], values: Tensor, number: int) -> dict[int, float]:
    """What each feature that a class uses adds to its logit."""
    if isinstance(head, DecomposedLinear):
        used = list(head.classes()[number])
        weight = head.weight.detach()[number, : len(used)]
    elif isinstance(head, nn.Linear):
        used = list(range(len(values)))
        weight = head.weight.detach()[number]
    else:
        return {}
    return dict(zip(used, (weight.double() * values[used].double()).tolist(), strict=True))
