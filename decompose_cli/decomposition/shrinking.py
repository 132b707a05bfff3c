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
from decompose_cli.sparse.problem import fitting_device
from decompose_cli.statistics import paired_difference_interval, paired_difference_intervals

_VALUES_AT_ONCE = 1 << 22
_ERROR = 0.05
_ONE_SIDED = 1 - 2 * _ERROR  # a two-sided interval with this coverage has a one-sided 95% bound at either end


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


def class_loss_bound(full: Tensor, decomposed: Tensor, labels: Tensor) -> float:
    """The largest of the upper bounds of what single classes lose, in percentage points of their images.

    The bounds are those of :func:`loss_bound` with 95% confidence of all classes together: each of the m classes that
    have images has one of 1 - 0.05 / m (Bonferroni).

    Args:
        full: Whether the first head gets each image right, bool (N,).
        decomposed: Whether the second head gets each image right, bool (N,).
        labels: Class numbers, int64 (N,).
    """
    outcomes = 2 * full.long() + decomposed.long()
    classes = int(labels.max()) + 1
    table = torch.bincount(4 * labels + outcomes, minlength=4 * classes).view(classes, 4)
    neither, only_decomposed, only_full, both = table[table.sum(1) > 0].unbind(1)
    confidence = 1 - 2 * _ERROR / len(both)
    low, _ = paired_difference_intervals(both, only_full, only_decomposed, neither, confidence)
    return -100 * float(low.min())


def is_within(full: Predictions, decomposed: Tensor, max_drop: float, max_class_drop: float | None = None) -> bool:
    """Whether the bound of the loss is within ``max_drop`` points, and that of each class within ``max_class_drop``.

    Args:
        full: Predictions of the full head.
        decomposed: Whether the other head gets each image right, bool (N,).
        max_drop: Largest bound of the loss, in percentage points.
        max_class_drop: Largest bound of the loss of a class; None for any.
    """
    if loss_bound(full.is_correct, decomposed) > max_drop:
        return False
    return max_class_drop is None or class_loss_bound(full.is_correct, decomposed, full.labels) <= max_class_drop


def smallest_k(
    full: Predictions,
    by_k: Iterable[tuple[int, Predictions]],
    max_drop: float,
    max_class_drop: float | None = None,
) -> int | None:
    """The smallest number of features, common to all classes, whose bound of the loss is within ``max_drop`` points.

    Args:
        full: Predictions of the full head.
        by_k: Ascending numbers of features with the predictions for them; none is asked for beyond the answer.
        max_drop: Largest bound of the loss, in percentage points.
        max_class_drop: Largest bound of the loss of a class; None for any.
    """
    for k, predictions in by_k:
        if is_within(full, predictions.is_correct, max_drop, max_class_drop):
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
    device: torch.device | str = "cpu",
    held: Tensor | None = None,
    max_class_drop: float | None = None,
) -> Shrunk:
    """Drop features one by one while the bound of the loss stays within ``max_drop`` points.

    Each step removes the last-ranked feature of the class without whose feature most images are right (the lower class
    number among equals); every class keeps one feature. The search stops when a step would break the bound; where it
    would break the bound of a class alone, that class keeps what it has, and the search goes on with the others.

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
        device: Where logits are made.
        held: Classes that keep all that they have, bool (C,); None for none.
        max_class_drop: Largest bound of the loss of a class; None for any.
    """
    rows = [list(row) for row in classes]
    search = _Search(features, full.labels, head, rows, fitting_device(device), held)
    while (candidate := search.best()) is not None:
        without = search.correct_without(candidate).cpu()
        if loss_bound(full.is_correct, without) > max_drop:
            break
        if not is_within(full, without, max_drop, max_class_drop):
            search.may_lose[candidate] = False
            continue
        search.drop(candidate)
        advance(1)
    kept = tuple(map(tuple, rows))
    final = DecomposedLinear.from_dense(head.weight, head.bias, kept)
    return Shrunk(kept, predict(final, features, full.labels, head.num_classes, device))


class _Search:
    """Logits of the current sets and, for each class, the number of images right without its last feature.

    The search holds two (C, N) tensors and the features once more, class by class and feature by feature, as it looks
    at all images of one class or feature at a time. Logits are summed from the features that are kept, never by
    subtracting one, so that no rounding is left behind and ties fall as they do in the head itself.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        head: HeadTensors,
        rows: list[list[int]],
        device: torch.device,
        held: Tensor | None,
    ) -> None:
        self.may_lose = torch.ones(len(rows), dtype=torch.bool, device=device) if held is None else ~held.to(device)
        self.labels, self.rows = labels.to(device, torch.int32), rows
        self.weight, self.bias = head.weight.to(device), head.bias.to(device)
        self.table = features.to(device).t().contiguous()
        images = self.table.shape[1]
        self.block = max(1, _VALUES_AT_ONCE // head.num_classes)
        self.logits, self.without_last = torch.empty(2, head.num_classes, images, device=device)
        for number, row in enumerate(rows):
            self.logits[number] = self._logits(number, row)
            self.without_last[number] = self._logits(number, row[:-1])
        # Of each image the two largest logits and their classes; a single class has none beside it.
        self.top = torch.empty(2, images, dtype=torch.int32, device=device)
        self.strengths = torch.empty(2, images, device=device)
        everything = torch.arange(images, device=device)
        self._rank(everything)
        self.counts = self._count(everything)

    def best(self) -> int | None:
        """The class whose last feature costs least; None if every class is down to one."""
        allowed = torch.tensor([len(row) > 1 for row in self.rows], device=self.counts.device) & self.may_lose
        if not bool(allowed.any()):
            return None
        return int(torch.where(allowed, self.counts, -1).argmax())

    def correct_without(self, number: int) -> Tensor:
        """Whether each image is right when the class has lost its last feature, bool (N,)."""
        mine = torch.tensor(number, dtype=torch.int32, device=self.top.device)
        return _is_right(self.without_last[number], mine, self.top, self.strengths, self.labels)

    def drop(self, number: int) -> None:
        """Remove the last feature of the class."""
        column = self.without_last[number].clone()
        affected = ((self.top == number).any(0) | (column >= self.strengths[1])).nonzero()[:, 0]
        self.counts -= self._count(affected)
        self.rows[number].pop()
        self.logits[number] = column
        self.without_last[number] = self._logits(number, self.rows[number][:-1])
        self._rank(affected)
        self.counts += self._count(affected)
        # The class's own next candidate is another feature, which matters for the other images too.
        self.counts[number] = self.correct_without(number).sum()

    def _logits(self, number: int, row: list[int]) -> Tensor:
        """The logit of one class with these features, (N,), summed as DecomposedLinear does."""
        if not row:
            return self.bias[number].expand(self.table.shape[1])
        indices = torch.tensor([row], device=self.table.device)
        weight = self.weight[number, indices]
        return F.embedding_bag(indices, self.table, per_sample_weights=weight, mode="sum")[0] + self.bias[number]

    def _rank(self, images: Tensor) -> None:
        for some in torch.split(images, self.block):
            logits = self.logits[:, some]
            for place in range(2):
                largest = logits.argmax(0, keepdim=True)
                self.top[place, some] = largest[0].to(torch.int32)
                self.strengths[place, some] = logits.gather(0, largest)[0]
                logits.scatter_(0, largest, -torch.inf)

    def _count(self, images: Tensor) -> Tensor:
        """For each class the number of these images that are right without its last feature, int64 (C,)."""
        numbers = torch.arange(len(self.rows), dtype=torch.int32, device=images.device)[:, None]
        counts = torch.zeros(len(self.rows), dtype=torch.int64, device=images.device)
        for some in torch.split(images, self.block):
            of_these = self.top[:, None, some], self.strengths[:, None, some], self.labels[some]
            counts += _is_right(self.without_last[:, some], numbers, *of_these).sum(1)
        return counts


def _is_right(value: Tensor, number: Tensor, top: Tensor, strengths: Tensor, labels: Tensor) -> Tensor:
    """Whether images are right where a class has another logit: the larger logit wins, of equals the lower class.

    Its rival is the strongest other class: the first, or the second where it is the first itself.
    """
    is_first = number == top[0]
    rival = torch.where(is_first, top[1], top[0])
    strength = torch.where(is_first, strengths[1], strengths[0])
    wins = (value > strength) | ((value == strength) & (number < rival))
    return torch.where(wins, number, rival) == labels
