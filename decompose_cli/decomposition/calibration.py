"""Whether heads know when they do not know: calibration, temperature, and prediction sets with a guaranteed coverage.

Temperature and thresholds are fitted on images that the reported ones are not among, and never on training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel
from torch import Tensor

from decompose_cli.decomposition.metrics import logits_of
from decompose_cli.errors import InputError, param
from decompose_cli.messages import note, warn
from decompose_cli.printable import shortest
from decompose_cli.sparse.strength import stratified_part
from decompose_cli.statistics import wilson_interval

BINS = 15
HALF, VAL = "half", "val"
_COLDEST, _HOTTEST = 1e-3, 1e3
"""The smallest and the largest temperature that is looked for; a head that is never wrong has no best one."""
_STEPS = 200
Head = Callable[[Tensor], Tensor]


class Bin(BaseModel):
    """Images of about the same confidence: how many, their mean confidence, and the share of them that is right."""

    images: int
    confidence: float
    accuracy: float


class HeadCalibration(BaseModel):
    """How far the probabilities of a head are to be believed.

    ``ece``: expected calibration error, the mean over images of |share right - mean confidence| of their bin, of 15
    bins with as many images each, ``bins``, from the least to the most confident. ``brier``: mean of the sum over
    classes of (probability - truth)^2. ``nll``: mean negative log-likelihood in nats.
    """

    ece: float
    brier: float
    nll: float
    bins: list[Bin]


class PredictionSets(BaseModel):
    """The sets of classes whose probability is at least a threshold, of split conformal prediction.

    ``threshold``: smallest probability of a class in a set; 0 where every class is in each. ``covered``: images whose
    class is in their set, ``coverage`` their share in percent with its Wilson interval. ``mean_size``: classes per set;
    ``single`` and ``empty``: images with a set of one class, and of none.
    """

    threshold: float
    covered: int
    coverage: float
    coverage_ci95: tuple[float, float]
    mean_size: float
    single: int
    empty: int


class AdjustedHead(BaseModel):
    """``before``: as the head is; ``after``: with its logits divided by ``temperature``; ``sets``: with these."""

    before: HeadCalibration
    temperature: float | None
    after: HeadCalibration | None
    sets: PredictionSets | None


class Adjusted(BaseModel):
    """Temperature and prediction sets.

    ``images``: of these everything here is reported. ``fitted_on``: what the temperature and the thresholds are from, a
    split or ``half`` of the one that is reported on, and how many images each was fitted on. ``wanted``: coverage that
    was asked for, in percent.
    """

    images: int
    fitted_on: str
    temperature_images: int | None
    threshold_images: int | None
    wanted: float | None
    heads: dict[str, AdjustedHead]


@dataclass(frozen=True)
class Adjusting:
    """What is fitted.

    Attributes:
        temperature: Whether a temperature is.
        coverage: Coverage that prediction sets have, between 0 and 1; None for no sets.
        source: ``half`` of the images that are measured, or the split ``val``, which nobody has trained or chosen on.

    Raises:
        InputError: The coverage is out of range, the source is unknown, or nothing is fitted on it.
    """

    temperature: bool = False
    coverage: float | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise InputError(f"{param('coverage')} {shortest(self.coverage)} is not between 0 and 1.")
        if self.source not in (None, HALF, VAL):
            raise InputError(
                f"{param('calibrate_on')} {self.source!r} is neither {HALF}, of the images that are measured, nor "
                f"{VAL}."
            )
        if self.source is not None and not self.is_needed:
            raise InputError(
                f"{param('calibrate_on')} has no effect without {param('temperature')} or {param('coverage')}."
            )

    @property
    def is_needed(self) -> bool:
        """Whether anything is fitted."""
        return self.temperature or self.coverage is not None


def calibration_of(logits: Tensor, labels: Tensor) -> HeadCalibration:
    """How far the softmax of logits (N, C) is to be believed; labels are int64 (N,), N >= 1."""
    log_probabilities = logits.double().log_softmax(1)
    probabilities = log_probabilities.exp()
    of_truth = log_probabilities.gather(1, labels[:, None])[:, 0]
    confidence, predicted = probabilities.max(1)
    bins = bins_of(confidence, predicted == labels)
    brier = (probabilities.square().sum(1) - 2 * of_truth.exp() + 1).mean()
    return HeadCalibration(ece=calibration_error(bins), brier=float(brier), nll=float(-of_truth.mean()), bins=bins)


def bins_of(confidence: Tensor, is_right: Tensor) -> list[Bin]:
    """Fifteen bins with as many images each (the first ones with one more where that does not come out even).

    Args:
        confidence: Probability of each prediction, (N,); of equals the image with the lower number comes first.
        is_right: Whether each is right, bool (N,).
    """
    order = confidence.argsort(stable=True)
    return [
        Bin(
            images=len(part),
            confidence=float(confidence[part].double().mean()),
            accuracy=float(is_right[part].double().mean()),
        )
        for part in torch.tensor_split(order, min(BINS, len(order)))
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """The mean over images of |share right - mean confidence| of their bin."""
    images = sum(one.images for one in bins)
    return sum(one.images * abs(one.accuracy - one.confidence) for one in bins) / images


def fitted_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The temperature T that minimises the mean negative log-likelihood of softmax(z / T) (Guo et al. 2017).

    With b = 1 / T the loss is convex in b, with the derivative mean(sum_c p_c z_c - z_y), whose root is found by
    bisection, to the last digit, between 0.001 and 1000. A head that is right, or no better than chance, on all of so
    few images has no such T, and stays as it is.

    Args:
        logits: (N, C), N >= 1.
        labels: Class numbers, int64 (N,).

    Returns:
        The temperature; None where the loss has no minimum between these limits.
    """
    z = logits.double()
    own = z.gather(1, labels[:, None])[:, 0]

    def slope(b: float) -> float:
        return float(((b * z).softmax(1).mul(z).sum(1) - own).mean())

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    if slope(low) >= 0 or slope(high) <= 0:
        return None
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        if middle in (low, high):
            break
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / low


def conformal_threshold(probabilities: Tensor, labels: Tensor, coverage: float) -> float:
    """The smallest probability of a class in a set, for split conformal prediction (Sadinle et al. 2019).

    With n images that are exchangeable with later ones and scores s_i = 1 - p_i(y_i), the sets {c: 1 - p(c) <= q}, q
    being the ceil((n + 1) coverage)-th smallest score, hold the class of a later image with at least this probability.

    Args:
        probabilities: Of the images that are fitted on, (n, C).
        labels: Their class numbers, int64 (n,).
        coverage: Between 0 and 1.

    Returns:
        1 - q; 0 where n is too small for this coverage, so that sets hold every class.
    """
    own = probabilities.gather(1, labels[:, None])[:, 0].sort(descending=True).values
    place = math.ceil((len(own) + 1) * coverage)
    return 0.0 if place > len(own) else float(own[place - 1])  # no score is made, as 1 - p would be rounded


def prediction_sets(probabilities: Tensor, labels: Tensor, threshold: float) -> PredictionSets:
    """The sets of classes with at least this probability, of images that were not fitted on: (N, C), int64 (N,)."""
    is_in = probabilities >= threshold
    sizes = is_in.sum(1)
    covered, total = int(is_in.gather(1, labels[:, None]).sum()), len(labels)
    low, high = wilson_interval(covered, total)
    return PredictionSets(
        threshold=threshold,
        covered=covered,
        coverage=100 * covered / total,
        coverage_ci95=(100 * low, 100 * high),
        mean_size=float(sizes.double().mean()),
        single=int((sizes == 1).sum()),
        empty=int((sizes == 0).sum()),
    )


def adjusted(
    heads: Mapping[str, Head],
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    adjusting: Adjusting,
    seed: int,
    val: tuple[Tensor, Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> Adjusted:
    """Fit temperatures and thresholds of heads on some images, and report on others.

    Where both are fitted, half of the images is for each, as a threshold has to come from images that have decided
    nothing of the probabilities.

    Args:
        heads: Maps from features (n, D) to logits (n, C), by name.
        features: Features of the images that are measured, (N, D).
        labels: Class numbers, int64 (N,).
        num_classes: Number of classes C.
        adjusting: What is fitted.
        seed: Of the division.
        val: Features and class numbers of the images that are fitted on; None for half of those that are measured, of
            each class.
        device: Where logits are made.

    Raises:
        InputError: There are too few images to divide.
    """
    if val is None:
        rest, drawn = stratified_part(labels, 0.5, seed)
        reported, fitted = (features[rest], labels[rest]), (features[drawn], labels[drawn])
    else:
        reported, fitted = (features, labels), val
    first = second = torch.arange(len(fitted[1]))
    if adjusting.temperature and adjusting.coverage is not None:
        first, second = stratified_part(fitted[1], 0.5, seed)
    if not (len(reported[1]) and len(first) and len(second)):
        raise InputError("There are too few images to divide: no class has enough for calibration and report.")
    found: dict[str, AdjustedHead] = {}
    for name, head in heads.items():
        logits, truth = logits_of(head, reported[0], num_classes, device), reported[1]
        of_fit = logits_of(head, fitted[0], num_classes, device)
        before, after, temperature, sets = calibration_of(logits, truth), None, None, None
        if adjusting.temperature:
            temperature = fitted_temperature(of_fit[first], fitted[1][first])
            if temperature is None:
                warn(
                    f"{len(first):,} images do not tell a temperature for the {name} head, which is right on all of "
                    "them or no better than chance; it stays as it is."
                )
                temperature = 1.0
            logits, of_fit = logits / temperature, of_fit / temperature
            after = calibration_of(logits, truth)
        if adjusting.coverage is not None:
            probabilities = of_fit[second].double().softmax(1)
            threshold = conformal_threshold(probabilities, fitted[1][second], adjusting.coverage)
            sets = prediction_sets(logits.double().softmax(1), truth, threshold)
        found[name] = AdjustedHead(before=before, temperature=temperature, after=after, sets=sets)
    if adjusting.coverage is not None and math.ceil((len(second) + 1) * adjusting.coverage) > len(second):
        note(f"{len(second):,} images are too few for a coverage of {adjusting.coverage:g}: sets hold every class.")
    return Adjusted(
        images=len(reported[1]),
        fitted_on=HALF if val is None else VAL,
        temperature_images=len(first) if adjusting.temperature else None,
        threshold_images=len(second) if adjusting.coverage is not None else None,
        wanted=None if adjusting.coverage is None else 100 * adjusting.coverage,
        heads=found,
    )
