"""A decomposed head small enough to be computed anew, feature by feature, in a page that is being read.

The logits z (n, C) of the head as it stands are kept exactly, as float32, and features as 8-bit levels q with a table
of 256 values v of each feature, x ~ v_q. Where the features of a class c change from a set S to a set T, its logits
become::

    z_c + sum of w_cf * x_f over f in T, not in S  -  sum of w_cf * x_f over f in S, not in T

so that at the start nothing is rounded, and afterwards a logit of an image is off by at most the sum of |w_cf| * e_q
over the features that changed, where e_q is half of the range of the values that share a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decompose_cli.decomposition.heads import resolve_heads
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.metrics import Predictions, logits_of, predict
from decompose_cli.errors import DecomposeError
from decompose_cli.features.recalled import Recalled

MOST_CLASSES = 40
"""Classes whose features can all be changed; of more classes those that lose most are taken."""
SHOWN_OF_MANY = 10
_LEVELS = 256
_FEWEST = 100


@dataclass(frozen=True)
class LiveHead:
    """A head, and the images that it is computed on: n of the N that a result counts.

    Attributes:
        classes: Numbers of the M classes whose features can be changed, ascending.
        features: Numbers of the F features that these classes use or may take.
        weight: Weights (M, F), float32.
        is_open: Whether a class can have a feature, bool (M, F); a head with weights of its own has no others.
        order: Of each class the places in ``features`` of those that it can have: its own in the order of its set, then
            those with the next highest weights.
        sizes: How many of ``order`` a class has at the start.
        whole: Numbers of classes that keep their whole row of the full head, and have no part in this.
        rest: Features of the other classes that are not among ``classes``, by number, in the order of their set.
        labels: Class numbers, int64 (n,).
        logits: Logits of the M classes at the start, float32 (n, M).
        best_other: The largest logit of any other class, float32 (n,), and its class, int64 (n,); None without others.
        levels: Features as levels, uint8 (n, F).
        values: What levels of each feature stand for, float32 (F, 256).
        errors: By how much a value may differ from that, in steps, rounded up, uint8 (F, 256).
        error_step: Step of the errors of each feature, float32 (F,).
        full: Images of each class, of the n, that the full head has right, int64 (C,); None where there is none.
        total: N.
        correct: How many of the N the head has right.
        num_features: Number of features D of the network.
        num_classes: Number of classes C of the head.
    """

    classes: tuple[int, ...]
    features: tuple[int, ...]
    weight: Tensor
    is_open: Tensor
    order: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    whole: frozenset[int]
    rest: Mapping[int, tuple[int, ...]]
    labels: Tensor
    logits: Tensor
    best_other: tuple[Tensor, Tensor] | None
    levels: Tensor
    values: Tensor
    errors: Tensor
    error_step: Tensor
    full: Tensor | None
    total: int
    correct: int
    num_features: int
    num_classes: int

    @property
    def images(self) -> int:
        """The number n of images."""
        return len(self.labels)


@dataclass(frozen=True)
class Figures:
    """What a result says of a head, by which its features are known again.

    Attributes:
        correct: Images that the head has right.
        confusion: Images by true class and prediction, (C, C), of the head and of the full head; None where the result
            does not say it.
        full_confusion: The same of the full head.
    """

    correct: int
    confusion: Sequence[Sequence[int]] | None = None
    full_confusion: Sequence[Sequence[int]] | None = None

    def are_of(self, said: Predictions, full: Predictions | None, count: int) -> bool:
        """Whether the answers of a head, and of the full one, are those of the result."""
        return (
            said.correct == self.correct
            and _has(self.confusion, said, count)
            and (full is None or _has(self.full_confusion, full, count))
        )


def _has(confusion: Sequence[Sequence[int]] | None, said: Predictions, count: int) -> bool:
    if confusion is None:
        return True
    wanted = torch.as_tensor(np.asarray(confusion, dtype=np.int64))
    pairs = torch.bincount(said.labels * count + said.predictions, minlength=count**2)
    return wanted.shape == (count, count) and bool(wanted.flatten().equal(pairs))


def live_head(
    found: Recalled, index_set: IndexSet | None, most_bytes: int, figures: Figures, seed: int = 0
) -> LiveHead | None:
    """Make a head live on the images of a result.

    Where the images have no room, a stratified sample of them is taken: of each class the same share, drawn by a seed.

    Args:
        found: The images.
        index_set: The features that each class keeps of the full head; None for a head with features of its own.
        most_bytes: Room for the numbers of all images.
        figures: What the result says of the head.
        seed: Of the sample.

    Returns:
        None where these features are not those of the result, as they give other figures.

    Raises:
        DecomposeError: No class has features to switch, or fewer than a hundred of more images have room.
        InputError: The index set does not fit the head, or there is no head.
    """
    heads = resolve_heads(found.head, index_set)
    head = heads.decomposed
    if head is None:
        return None
    count, features = found.head.num_classes, found.features
    said = predict(head, features, found.labels, count)
    full = None if heads.original is None else predict(heads.original, features, found.labels, count)
    if not figures.are_of(said, full, count):
        return None
    lost = torch.bincount(said.labels[~said.is_correct], minlength=count)
    if full is not None:
        lost = lost - torch.bincount(full.labels[~full.is_correct], minlength=count)
    own = head.classes()
    everything = found.head.num_features
    whole = frozenset(number for number, row in enumerate(own) if index_set is None and len(row) == everything)
    if index_set is not None:
        whole = index_set.whole
    classes = _shown(lost, whole)
    used = sorted({feature for number in classes for feature in own[number]})
    if not used:
        raise DecomposeError("no class has features of its own that could be switched off.")
    weight, is_open = _weights(found, own if index_set is None else None, classes, used)
    order = _orders([own[number] for number in classes], used, weight, is_open)
    most_bytes -= (5 * _LEVELS + 4) * len(used)
    each = len(used) + 4 * len(classes) + 8 + (8 if len(classes) < count else 0)
    rows = sample(found.labels, max(0, most_bytes // each), seed)
    if len(rows) < min(_FEWEST, len(found.labels)):
        raise DecomposeError("the page has no room left for its features.")
    logits = logits_of(head, features[rows], count)
    levels, values, errors, error_step = quantised(features[rows][:, used])
    others = torch.ones(count, dtype=torch.bool)
    others[list(classes)] = False
    best = None
    if bool(others.any()):
        numbers = others.nonzero()[:, 0]
        best = logits[:, numbers].max(1).values, numbers[logits[:, numbers].argmax(1)]
    right = None if full is None else full.labels[rows][full.is_correct[rows]]
    return LiveHead(
        classes,
        tuple(used),
        weight,
        is_open,
        order,
        tuple(len(own[number]) for number in classes),
        whole,
        {number: row for number, row in enumerate(own) if number not in whole and number not in set(classes)},
        found.labels[rows],
        logits[:, list(classes)],
        best,
        levels,
        values,
        errors,
        error_step,
        None if right is None else torch.bincount(right, minlength=count),
        len(found.labels),
        said.correct,
        found.head.num_features,
        count,
    )


def sample(labels: Tensor, most: int, seed: int) -> Tensor:
    """Numbers of at most ``most`` images, ascending: of each class the same share, as far as whole images allow."""
    if len(labels) <= most:
        return torch.arange(len(labels))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # class by class, in random order within each
    places = ((torch.arange(most, dtype=torch.float64) + 0.5) * len(labels) / max(1, most)).long()
    return order[places].sort().values


def _shown(lost: Tensor, whole: frozenset[int]) -> tuple[int, ...]:
    """All classes; of many those that lose most images."""
    numbers = [number for number in range(len(lost)) if number not in whole]
    if len(numbers) > MOST_CLASSES:
        numbers = sorted(sorted(numbers, key=lambda number: -int(lost[number]))[:SHOWN_OF_MANY])
    return tuple(numbers)


def _weights(
    found: Recalled, own: Sequence[Sequence[int]] | None, classes: Sequence[int], used: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Weights of the classes for the features in use, and which are open to them; ``own``: the only ones that are."""
    rows, columns = torch.tensor(classes), torch.tensor(used)
    if own is None:
        full = found.head.full
        assert full is not None  # an index set cuts a full head
        return full.weight[rows][:, columns].float(), torch.ones(len(rows), len(columns), dtype=torch.bool)
    weight, is_open = torch.zeros(len(rows), len(columns)), torch.zeros(len(rows), len(columns), dtype=torch.bool)
    place = {feature: number for number, feature in enumerate(used)}
    head = resolve_heads(found.head, None).decomposed
    assert head is not None
    for row, number in enumerate(classes):
        for feature, value in zip(own[number], head.weight.detach()[number].tolist(), strict=False):  # padded
            weight[row, place[feature]], is_open[row, place[feature]] = value, True
    return weight, is_open


def _orders(
    own: Sequence[Sequence[int]], used: Sequence[int], weight: Tensor, is_open: Tensor
) -> tuple[tuple[int, ...], ...]:
    place = {feature: number for number, feature in enumerate(used)}
    orders = []
    for row, features in enumerate(own):
        first = [place[feature] for feature in features]
        rest = [at for at in weight[row].argsort(descending=True, stable=True).tolist() if bool(is_open[row, at])]
        orders.append((*first, *(at for at in rest if at not in set(first))))
    return tuple(orders)


def quantised(features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features as levels, close where values are many.

    Two neighbouring values with a gap g between them are worth g^(2/3) of a level: that is the density of levels with
    the least mean square error (Panter and Dite, Proc. IRE 39, 1951), where values have the density 1 / g.

    Args:
        features: Values, (n, F).

    Returns:
        Levels, uint8 (n, F); the value of each level, float32 (F, 256), the middle of those that share it; the largest
        difference from that in steps, rounded up, uint8 (F, 256); and the step of each feature, float32 (F,).
    """
    found = features.double().numpy()
    levels = np.zeros(found.shape, dtype=np.uint8)
    values, errors = np.zeros((2, found.shape[1], _LEVELS))
    for place, column in enumerate(found.T):
        distinct, where = np.unique(column, return_inverse=True)
        worth = np.concatenate([[0.0], np.cumsum(np.diff(distinct) ** (2 / 3))])
        cells = np.minimum((worth / max(worth[-1], 1e-300) * _LEVELS).astype(int), _LEVELS - 1)
        if len(distinct) <= _LEVELS:
            cells = np.arange(len(distinct))
        low, high = np.full(_LEVELS, np.inf), np.full(_LEVELS, -np.inf)
        np.minimum.at(low, cells, distinct)
        np.maximum.at(high, cells, distinct)
        is_used = low <= high
        values[place, is_used] = (low[is_used] + high[is_used]) / 2
        errors[place, is_used] = (high[is_used] - low[is_used]) / 2
        levels[:, place] = cells[where]
    step = np.nextafter((errors.max(1) / (_LEVELS - 1)).astype(np.float32), np.float32(np.inf))
    steps = np.ceil(errors / step[:, None].astype(np.float64)).astype(np.uint8)
    made = torch.from_numpy(values.astype(np.float32)), torch.from_numpy(steps), torch.from_numpy(step)
    return torch.from_numpy(levels), *made
