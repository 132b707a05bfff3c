"""Predictions of a head: counts of correct answers, loss, confusion; of any number of images, in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.features.blocks import in_blocks
from decompose_cli.sparse.problem import fitting_device
from decompose_cli.statistics import mcnemar_p, paired_difference_interval, paired_difference_intervals

MIN_CLASSES_FOR_TOP5 = 11


@dataclass(frozen=True)
class Predictions:
    """The predictions of a head for a set of images.

    Attributes:
        predictions: Class number per image, int64 (N,); the lowest number among equal logits.
        labels: True class per image, int64 (N,).
    """

    predictions: Tensor
    labels: Tensor

    @property
    def is_correct(self) -> Tensor:
        """Whether each image is classified correctly, bool (N,)."""
        return self.predictions == self.labels

    @property
    def correct(self) -> int:
        """Number of images classified correctly."""
        return int(self.is_correct.sum())

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class Evaluation(Predictions):
    """The predictions of a head for a set of images, and how good they are.

    Attributes:
        confusion: Images by (true class, predicted class), int64 (C, C).
        top5: Images whose true class is among the five largest logits; None for up to ten classes.
        loss: Mean cross-entropy in nats.
        confidence: Softmax probability of each prediction, float64 (N,).
        margin: Logit of the true class minus the largest other logit, float64 (N,); infinite where there is no other.
        brier: Mean over the images of the sum over classes of (probability - truth)^2.
    """

    confusion: Tensor
    top5: int | None
    loss: float
    confidence: Tensor
    margin: Tensor
    brier: float


def predict(
    head: Callable[[Tensor], Tensor],
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    device: torch.device | str = "cpu",
) -> Predictions:
    """Apply a head to features and keep the classes of the largest logits; arguments as for :func:`evaluate_head`."""
    # What is kept of each block has its place from the start: kept in pieces, they would lie between the blocks in
    # memory, and none could be used again.
    predicted = torch.empty(len(labels), dtype=torch.int64)
    for rows, logits in _logits(head, features, num_classes, device):
        predicted[rows] = logits.argmax(1).cpu()
    return Predictions(predicted, labels)


def evaluate_head(
    head: Callable[[Tensor], Tensor],
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Apply a head to features, and count and measure its predictions; logits are made for a block of images at a time.

    Args:
        head: Maps (n, D) features to (n, C) logits. A module is copied to the device; any other map has to be there.
        features: Features (N, D), N >= 1.
        labels: Labels, int64 (N,), in 0..C-1.
        num_classes: Number of classes C.
        device: Where logits are made; for mps on the CPU, as mps has no float64.
    """
    predicted = torch.empty_like(labels)
    confidence, margin = torch.empty(2, len(labels), dtype=torch.float64)
    loss, brier, top5 = 0.0, 0.0, 0
    for rows, logits in _logits(head, features, num_classes, device):
        truth = labels[rows].to(logits.device)
        predicted[rows] = logits.argmax(1).cpu()
        if num_classes >= MIN_CLASSES_FOR_TOP5:
            top5 += int((logits.topk(5).indices == truth[:, None]).any(1).sum())
        logits = logits.double()
        log_probabilities = F.log_softmax(logits, 1)
        loss += float(F.nll_loss(log_probabilities, truth, reduction="sum"))
        confidence[rows] = log_probabilities.amax(1).exp().cpu()
        own = logits.gather(1, truth[:, None])[:, 0]
        margin[rows] = (own - logits.scatter(1, truth[:, None], -torch.inf).amax(1)).cpu()
        of_truth = log_probabilities.gather(1, truth[:, None])[:, 0].exp()
        brier += float((log_probabilities.exp().square().sum(1) - 2 * of_truth + 1).sum())
    confusion = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return Evaluation(
        predicted,
        labels,
        confusion.view(num_classes, num_classes),
        top5 if num_classes >= MIN_CLASSES_FOR_TOP5 else None,
        loss / len(labels),
        confidence,
        margin,
        brier / len(labels),
    )


def losses_of(
    head: Callable[[Tensor], Tensor],
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Cross-entropy of each image in nats, float32 (N,); arguments as for :func:`evaluate_head`."""
    losses = torch.empty(len(labels))
    for rows, logits in _logits(head, features, num_classes, device):
        losses[rows] = F.cross_entropy(logits, labels[rows].to(logits.device), reduction="none").cpu()
    return losses


def logits_of(
    head: Callable[[Tensor], Tensor], features: Tensor, num_classes: int, device: torch.device | str = "cpu"
) -> Tensor:
    """The logits of all images, float32 (N, C); arguments as for :func:`evaluate_head`."""
    found = torch.empty(len(features), num_classes)
    for rows, logits in _logits(head, features, num_classes, device):
        found[rows] = logits.float().cpu()
    return found


def _logits(
    head: Callable[[Tensor], Tensor], features: Tensor, num_classes: int, device: torch.device | str
) -> Iterator[tuple[slice, Tensor]]:
    """The logits of the images, a block of rows at a time."""
    device = fitting_device(device)
    if isinstance(head, nn.Module) and device.type != "cpu":
        head = deepcopy(head).to(device)
    for rows, block in in_blocks(features, device=device, width=num_classes, doing="Evaluating a head"):
        with torch.inference_mode():
            logits = head(block)
        yield rows, logits


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of the second minus that of the first classifier, on the same images.

    Attributes:
        points: Difference in percentage points.
        ci95: 95% interval of ``points`` (Newcombe's for paired proportions).
        mcnemar_p: p-value of the exact McNemar test.
        only_first: Images that only the first gets right.
        only_second: Images that only the second gets right.
    """

    points: float
    ci95: tuple[float, float]
    mcnemar_p: float
    only_first: int
    only_second: int


def compare(first: Predictions, second: Predictions) -> PairedDifference:
    """Compare two classifiers image by image."""
    a, b = first.is_correct, second.is_correct
    both, only_a, only_b = int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum())
    low, high = paired_difference_interval(both, only_a, only_b, first.total - both - only_a - only_b)
    points = 100 * (only_b - only_a) / first.total
    return PairedDifference(points, (100 * low, 100 * high), mcnemar_p(only_a, only_b), only_a, only_b)


@dataclass(frozen=True)
class ClassChange:
    """How many images of one class two classifiers get right.

    Attributes:
        number: The class.
        images: Its images.
        before: Those that the first gets right.
        after: Those that the second gets right.
        points: Accuracy of the second minus that of the first, in percentage points.
        ci95: Interval of ``points``; see :func:`changes_by_class`.
    """

    number: int
    images: int
    before: int
    after: int
    points: float
    ci95: tuple[float, float]

    @property
    def is_halved(self) -> bool:
        """Whether more than half of what was right is lost, and not by chance: the interval is below zero."""
        return 2 * self.after < self.before and self.ci95[1] < 0


def changes_by_class(first: Predictions, second: Predictions) -> list[ClassChange]:
    """Compare two classifiers class by class, on the same images.

    The intervals are Newcombe's for paired proportions with 1 - 0.05 / m coverage each, where m classes have images
    (Bonferroni): all of them hold together with 95% confidence, so that also that of a class which was picked for its
    loss means what it says.

    Args:
        first: Predictions for at least one image.
        second: Predictions for the same images.

    Returns:
        The classes that have images, in their order.
    """
    present, outcomes = _outcomes(first, second)
    return _changes(present, outcomes, len(present))


def worst_change(first: Predictions, second: Predictions) -> ClassChange | None:
    """The class that loses most: that of :func:`worst_of` of all changes, without the intervals of the others."""
    present, outcomes = _outcomes(first, second)
    lost = outcomes[:, 1] - outcomes[:, 2]  # new minus lost
    if not bool((lost < 0).any()):
        return None
    points = 100 * lost.double() / outcomes.sum(1)
    order = np.lexsort((present.numpy(), lost.numpy(), points.numpy()))
    place = int(order[0])
    (change,) = _changes(present[place : place + 1], outcomes[place : place + 1], len(present))
    return change


def _outcomes(first: Predictions, second: Predictions) -> tuple[Tensor, Tensor]:
    """The numbers of the classes that have images, and how many images neither, the second alone, the first alone and
    both have right, (classes, 4)."""
    outcomes = 2 * first.is_correct.long() + second.is_correct.long()
    classes = int(first.labels.max()) + 1
    table = torch.bincount(4 * first.labels + outcomes, minlength=4 * classes).view(classes, 4)
    present = (table.sum(1) > 0).nonzero()[:, 0]
    return present, table[present]


def _changes(present: Tensor, outcomes: Tensor, count: int) -> list[ClassChange]:
    """Some classes, with intervals that hold for ``count`` of them together."""
    neither, only_second, only_first, both = outcomes.unbind(1)
    low, high = paired_difference_intervals(both, only_first, only_second, neither, 1 - 0.05 / count)
    changes = []
    rows = zip(present.tolist(), outcomes.tolist(), low.tolist(), high.tolist(), strict=True)
    for number, (none, new, lost, kept), lower, upper in rows:
        images = none + new + lost + kept
        points = 100 * (new - lost) / images
        changes.append(ClassChange(number, images, kept + lost, kept + new, points, (100 * lower, 100 * upper)))
    return changes


def worst_of(changes: Sequence[ClassChange]) -> ClassChange | None:
    """The class that loses most points, of equals the one that loses more images; None where none loses any."""
    losing = [change for change in changes if change.after < change.before]
    return min(losing, key=lambda one: (one.points, one.after - one.before, one.number), default=None)
