"""Images that choose methods and strengths: neither those that are fitted meanwhile, nor those that are reported on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel
from torch import Tensor

from decompose_cli.decomposition.sampling import searched_numbers
from decompose_cli.errors import InputError
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.features.study import Study
from decompose_cli.messages import note
from decompose_cli.sparse.strength import stratified_part

SHARE = 0.2
"""Of the training images, by class, that choose where there is no split for it."""


class ChosenOn(BaseModel):
    """The images that chose, of those that are not reported on, and how many were fitted meanwhile."""

    split: str
    images: int
    fitted: int
    part_of_training: bool


@dataclass(frozen=True)
class Chooser:
    """Images that choose, and those that are fitted meanwhile.

    Attributes:
        fitted: The images that are fitted.
        features: Features of those that choose, (n, D), n >= 1.
        labels: Their class numbers, int64 (n,).
    """

    fitted: LabelledFeatures
    features: Tensor
    labels: Tensor


def validation_of(study: Study) -> Study | None:
    """The split ``val`` of what is studied, where the split ``test`` is reported on; None where there is none."""
    name = study.dataset.name
    if study.dataset.split != "test" or "val" not in study.inputs.splits_of(name):
        return None
    inputs = dataclasses.replace(study.inputs, split="val", dataset=name)
    return Study(inputs, ("val",), study.classifier)


def chooser_for(
    data: LabelledFeatures,
    choosing: tuple[Tensor, Tensor] | None,
    seed: int,
    *,
    must: bool = True,
    fewer: Callable[[Tensor], Tensor | None] = lambda labels: None,
) -> Chooser:
    """Let other images choose, or a fifth of each class where there are none.

    Of more than 100,000 training images, that many take part, drawn by class.

    Args:
        data: The training images.
        choosing: Features (n, D) and labels (n,) of images that choose; None for a part of the training images.
        seed: Of the part.
        must: Whether there is something to choose; otherwise the training images themselves will do.
        fewer: Says of images with these class numbers which of them are to be fitted meanwhile; None for all.

    Raises:
        InputError: No class has two images, and there is something to choose.
    """

    def fitted(numbers: Tensor | None) -> LabelledFeatures:
        few = fewer(data.labels if numbers is None else data.labels[numbers])
        if few is not None:
            numbers = few if numbers is None else numbers[few]
        return data if numbers is None else data.of_images(numbers)

    taking_part = searched_numbers(data.labels, seed)
    if choosing is not None:
        return Chooser(fitted(taking_part), *choosing)
    rest, drawn = stratified_part(data.labels if taking_part is None else data.labels[taking_part], SHARE, seed)
    if taking_part is not None:
        rest, drawn = taking_part[rest], taking_part[drawn]
    if len(drawn) == 0 and not must:
        return Chooser(fitted(None), data.features, data.labels)
    if len(drawn) == 0:
        raise InputError("No class has two training images, so none can choose methods and strengths.")
    return Chooser(fitted(rest), data.features[drawn], data.labels[drawn])


def say_part(what: str, chooser: Chooser, total: int, *, is_seen: bool, by_rule: bool = True) -> None:
    """Say that a part of the training images chooses.

    Args:
        what: What it chooses, as the subject of the sentence with its verb.
        chooser: The images.
        total: Number of training images.
        is_seen: Whether a network has been trained on them.
        by_rule: Whether a strength is among what is chosen.
    """
    why = ", by the one-standard-error rule" if by_rule else ""
    if is_seen:
        why += " as the network has been trained on them" if by_rule else ", which the network has been trained on"
    note(f"{what} chosen on {len(chooser.labels):,} of the {total:,} training images{why}; then all are fitted.")
