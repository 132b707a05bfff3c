"""Search for the smallest index set that costs no more than a given loss of accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from decompose_cli.decomposition.metrics import Predictions, predict
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.network import HeadTensors
from decompose_cli.statistics import paired_difference_interval

_VALUES_AT_ONCE = 1 << 22
_ONE_SIDED = 0.90  # a two-sided interval with this coverage has a one-sided 95% bound at either end


def loss_bound(full: Tensor, decomposed: Tensor) -> float:
    """One-sided 95% upper bound of the accuracy lost by the second head, in percentage points.

    The bound is the lower end of Newcombe's paired interval with 90% coverage, sign changed.

    Args:
        full: Whether the first head gets each image right, bool (N,).
        decomposed: Whether the second head gets each image right, bool (N,).
    """
    both, only_full = int((full & decomposed).sum()), int((full & ~decomposed).sum())
    only_decomposed = int((decomposed & ~full).sum())
    neither = len(full) - both - only_full - only_decomposed
    low, _ = paired_difference_interval(both, only_full, only_decomposed, neither, _ONE_SIDED)
    return -100 * low


def smallest_k(full: Predictions, by_k: Iterable[tuple[int, Predictions]], max_drop: float) -> int | None:
    """The smallest number of features, common to all classes, whose bound of the loss is within ``max_drop`` points.

    Args:
        full: Predictions of the full head.
        by_k: Ascending numbers of features with the predictions for them; none is asked for beyond the answer.
        max_drop: Largest bound of the loss, in percentage points.
    """
    for k, predictions in by_k:
        if loss_bound(full.is_correct, predictions.is_correct) <= max_drop:
            return k
    return None


@dataclass(frozen=True)
class Shrunk:
    """Per class the features that are left, best first, and the predictions of their head."""

    classes: tuple[tuple[int, ...], ...]
    predictions: Predictions


def shrink(
    features: Tensor,
    full: Predictions,
    head: HeadTensors,
    classes: Sequence[Sequence[int]],
    max_drop: float,
    advance: Callable[[int], None] = lambda _: None,
) -> Shrunk:
    """Drop features one by one while the bound of the loss stays within ``max_drop`` points.

    Each step removes the last-ranked feature of the class without whose feature most images are right (the lower class
    number among equals); every class keeps one feature. The search stops when a step would break the bound.

    Removing a feature changes one column of the logits. The outcome for all candidates follows from each image's two
    largest logits; after a step only images in which the changed column is, or was, among these two can turn out
    otherwise, so only those are looked at again.

    Args:
        features: Features (N, D) of the images to choose on.
        full: Predictions of the full head for these images.
        head: The full head.
        classes: Per class its features, best first.
        max_drop: Largest bound of the loss, in percentage points.
        advance: Called with the number of features just removed.
    """
    rows = [list(row) for row in classes]
    search = _Search(features, full.labels, head, rows)
    while (candidate := search.best()) is not None:
        if loss_bound(full.is_correct, search.correct_without(candidate)) > max_drop:
            break
        search.drop(candidate)
        advance(1)
    kept = tuple(map(tuple, rows))
    final = DecomposedLinear.from_dense(head.weight, head.bias, kept)
    return Shrunk(kept, predict(final, features, full.labels, head.num_classes))


class _Search:
    """Logits of the current sets and, for each class, the number of images right without its last feature.

    The search holds two (N, C) tensors and the features once more. Logits are summed from the features that are kept,
    never by subtracting one, so that no rounding is left behind and ties fall as they do in the head itself.
    """

    def __init__(self, features: Tensor, labels: Tensor, head: HeadTensors, rows: list[list[int]]) -> None:
        self.labels, self.head, self.rows = labels, head, rows
        self.table = features.t().contiguous()
        everything, classes = torch.arange(len(features)), range(head.num_classes)
        self.block = max(1, _VALUES_AT_ONCE // head.num_classes)
        self.logits = torch.stack([self._logits(number, rows[number]) for number in classes], 1)
        self.without_last = torch.stack([self._logits(number, rows[number][:-1]) for number in classes], 1)
        self.top = torch.empty(len(features), 2, dtype=torch.int64)  # classes of each image's two largest logits
        self._rank(everything)
        self.counts = self._count(everything)

    def best(self) -> int | None:
        """The class whose last feature costs least; None if every class is down to one."""
        allowed = torch.tensor([len(row) > 1 for row in self.rows])
        if not bool(allowed.any()):
            return None
        return int(torch.where(allowed, self.counts, -1).argmax())

    def correct_without(self, number: int) -> Tensor:
        """Whether each image is right when the class has lost its last feature, bool (N,)."""
        rival = torch.where(self.top[:, 0] == number, self.top[:, 1], self.top[:, 0])
        strength = _strength(self.logits, rival[:, None])[:, 0]
        return torch.eq(_winner(self.without_last[:, number], torch.tensor(number), strength, rival), self.labels)

    def drop(self, number: int) -> None:
        """Remove the last feature of the class."""
        column = self.without_last[:, number].clone()
        second = self.logits.gather(1, self.top[:, 1:])[:, 0]
        affected = ((self.top == number).any(1) | (column >= second)).nonzero()[:, 0]
        self.counts -= self._count(affected)
        self.rows[number].pop()
        self.logits[:, number] = column
        self.without_last[:, number] = self._logits(number, self.rows[number][:-1])
        self._rank(affected)
        self.counts += self._count(affected)
        # The class's own next candidate is another feature, which matters for the other images too.
        self.counts[number] = self.correct_without(number).sum()

    def _logits(self, number: int, row: list[int]) -> Tensor:
        """The logit of one class with these features, (N,), summed as DecomposedLinear does."""
        if not row:
            return self.head.bias[number].expand(self.table.shape[1])
        weight = self.head.weight[number, row][None]
        summed = F.embedding_bag(torch.tensor([row]), self.table, per_sample_weights=weight, mode="sum")
        return summed[0] + self.head.bias[number]

    def _rank(self, images: Tensor) -> None:
        for some in images.split(self.block):  # type: ignore[no-untyped-call]
            logits = self.logits[some]
            first = logits.argmax(1)
            self.top[some, 0] = first
            self.top[some, 1] = logits.scatter(1, first[:, None], -torch.inf).argmax(1)

    def _count(self, images: Tensor) -> Tensor:
        """For each class the number of these images that are right without its last feature, int64 (C,)."""
        counts = torch.zeros(self.head.num_classes, dtype=torch.int64)
        for some in images.split(self.block):  # type: ignore[no-untyped-call]
            counts += self._correct(some).sum(0)
        return counts

    def _correct(self, images: Tensor) -> Tensor:
        """Whether each of these images is right without the last feature of each class, bool (n, C)."""
        logits, top = self.logits[images], self.top[images]
        numbers = torch.arange(logits.shape[1])
        # A candidate's rival is the strongest other class: the first, or the second where the first changes.
        rival = torch.where(numbers == top[:, :1], top[:, 1:], top[:, :1])
        outcome = _winner(self.without_last[images], numbers, _strength(logits, rival), rival)
        return torch.eq(outcome, self.labels[images][:, None])


def _strength(logits: Tensor, rival: Tensor) -> Tensor:
    """The logits of the rivals, (n, m); with a single class there is none."""
    return logits.gather(1, rival) if logits.shape[1] > 1 else torch.full_like(logits, -torch.inf)


def _winner(value: Tensor, number: Tensor, strength: Tensor, rival: Tensor) -> Tensor:
    """The class with the larger logit, the lower one among equals."""
    wins = (value > strength) | ((value == strength) & (number < rival))
    return torch.where(wins, number, rival)
