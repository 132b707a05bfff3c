"""Predictions of a head: counts of correct answers, loss, confusion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from decompose_cli.statistics import mcnemar_p, paired_difference_interval

_LOGITS_AT_ONCE = 1 << 24  # 64 MB of float32
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
    """

    confusion: Tensor
    top5: int | None
    loss: float
    confidence: Tensor


def predict(head: Callable[[Tensor], Tensor], features: Tensor, labels: Tensor, num_classes: int) -> Predictions:
    """Apply a head to features and keep the classes of the largest logits; arguments as for :func:`evaluate_head`."""
    step = max(1, _LOGITS_AT_ONCE // num_classes)
    with torch.inference_mode():
        predicted = [head(features[start : start + step]).argmax(1) for start in range(0, len(labels), step)]
    return Predictions(torch.cat(predicted), labels)


def evaluate_head(head: Callable[[Tensor], Tensor], features: Tensor, labels: Tensor, num_classes: int) -> Evaluation:
    """Apply a head to features, and count and measure its predictions.

    Args:
        head: Maps (n, D) features to (n, C) logits.
        features: Features (N, D), N >= 1.
        labels: Labels, int64 (N,), in 0..C-1.
        num_classes: Number of classes C.
    """
    step = max(1, _LOGITS_AT_ONCE // num_classes)
    predictions, confidence, loss, top5 = [], [], 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(labels), step):
            logits, truth = head(features[start : start + step]), labels[start : start + step]
            predictions.append(logits.argmax(1))
            log_probabilities = F.log_softmax(logits.double(), 1)
            loss += float(F.nll_loss(log_probabilities, truth, reduction="sum"))
            confidence.append(log_probabilities.amax(1).exp())
            if num_classes >= MIN_CLASSES_FOR_TOP5:
                top5 += int((logits.topk(5).indices == truth[:, None]).any(1).sum())
    predicted = torch.cat(predictions)
    confusion = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return Evaluation(
        predicted,
        labels,
        confusion.view(num_classes, num_classes),
        top5 if num_classes >= MIN_CLASSES_FOR_TOP5 else None,
        loss / len(labels),
        torch.cat(confidence),
    )


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
