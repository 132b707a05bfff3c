"""Weights fitted anew at features that are chosen already, to be compared with the cut: at which strength, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from pydantic import BaseModel

from decompose_cli.decomposition.choosing import ChosenOn, chooser_for, say_part, validation_of
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.sparse_heads import SparseHead, fit_head, strength_for
from decompose_cli.errors import InputError, param
from decompose_cli.features.labelled import LabelledFeatures, check_l2
from decompose_cli.features.study import Study

_STEPS = (1, 2, 3, 5)


class Refitting(BaseModel):
    """How weights were fitted anew, on ``fitted`` training images.

    The objective is the mean cross-entropy plus (``l2`` / 2) |W|^2 on standardised features. ``chosen_on`` is null
    where the strength was given.
    """

    l2: float
    fitted: int
    chosen_on: ChosenOn | None


def check_refit(l2: float | None, *, fits: bool) -> None:
    """Refuse a strength that is none, or that nothing is fitted with.

    Raises:
        InputError: ``l2`` is not positive and finite, or was given though no head is fitted.
    """
    if l2 is None:
        return
    check_l2(l2)
    if not fits:
        raise InputError(
            f"{param('l2')} {l2:g} has no effect: no weights are fitted.", hint=f"Fit them with {param('refit')}."
        )


def check_apart(study: Study, train: Study) -> None:
    """Refuse to report on the images that weights are fitted on.

    Raises:
        InputError: Both are the training images.
    """
    if study.dataset.split == train.dataset.split:
        raise InputError(
            "Heads are fitted on the training images, so they cannot be measured on them.",
            hint=f"Use another {param('split')}.",
        )


def log_spaced(last: int) -> list[int]:
    """1, 2, 3, 5, 10, 20, 30, 50, ... below a number of features, and that number."""
    steps = [step * 10**power for power in range(len(str(last))) for step in _STEPS]
    return [*(k for k in steps if k < last), last]


def settle(
    study: Study,
    data: LabelledFeatures,
    support: Callable[[LabelledFeatures], IndexSet],
    l2: float | None,
    *,
    is_seen: bool = True,
) -> tuple[Refitting, list[Study]]:
    """Choose one strength of the penalty, on images that are not reported on, by the one-standard-error rule.

    The images are those of split ``val`` where those of ``test`` are reported on, else a stratified fifth of the
    training images, which are then left out of the fits that choose.

    Args:
        study: The network, and the images that are reported on.
        data: The training images.
        support: Makes the features of each class, at which strengths are compared, of the images that are fitted.
        l2: The strength, where it was given.
        is_seen: Whether the network has been trained on the training images.

    Returns:
        What was settled, and the further images that were looked at.
    """
    if l2 is not None:
        return Refitting(l2=l2, fitted=len(data.labels), chosen_on=None), []
    validation = validation_of(study)
    choosing = None if validation is None else (validation.bank.features, validation.labels)
    chooser = chooser_for(data, choosing, study.inputs.seed)
    if validation is None:
        say_part("The strength of the penalty is", chooser, len(data.labels), is_seen=is_seen)
    found = strength_for(chooser.fitted, support(chooser.fitted), chooser.features, chooser.labels)
    chosen = ChosenOn(
        split="train" if validation is None else "val",
        images=len(chooser.labels),
        fitted=len(chooser.fitted.labels),
        part_of_training=validation is None,
    )
    others = [] if validation is None else [validation]
    return Refitting(l2=found.l2, fitted=len(data.labels), chosen_on=chosen), others


def refitted(data: LabelledFeatures, sets: Mapping[int, IndexSet], l2: float) -> Iterator[tuple[int, SparseHead]]:
    """Heads with real weights for ascending k, each fitted from the one before, the first from the full head."""
    start = data
    for k, index_set in sets.items():
        head = fit_head(start, index_set, "real", l2)
        yield k, head
        start = dataclasses.replace(data, weight=head.weight, bias=head.bias)
