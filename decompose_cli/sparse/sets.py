"""Sets of k features for classes, no two the same: whether there are enough, and those of the largest scores."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import coo_array


def enough_sets(num_classes: int, num_features: int, k: int) -> bool:
    """Whether every class can have a set of k features that no other class has.

    >>> enough_sets(10, 5, 2), enough_sets(11, 5, 2)
    (True, False)
    """
    return math.comb(num_features, k) >= num_classes


def distinct_sets(scores: Tensor, k: int) -> Tensor:
    """The sets of k features, no two classes with the same, whose scores have the largest sum.

    Where the largest k of all classes differ, these are it. Classes that want the same set are given their next best
    ones, as many as they are, and matched to them: one of n classes never needs more than its n best sets.

    Args:
        scores: What each feature is worth to each class, finite, (C, D).
        k: Features per class, 0 < k <= D.

    Returns:
        bool (C, D), exact; of equal scores the lower index is taken first.

    Raises:
        ValueError: There are fewer than C sets.
    """
    num_classes, num_features = scores.shape
    if not enough_sets(num_classes, num_features, k):
        raise ValueError(f"{num_features} features have fewer than {num_classes} sets of {k}")
    order = scores.argsort(dim=1, descending=True, stable=True)
    values = scores.gather(1, order).double().tolist()
    first = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order[:, :k], True)
    if len(torch.unique(first, dim=0)) == num_classes:
        return first
    places = order.tolist()
    rankings = [_ranked(row, k) for row in values]
    known: list[list[tuple[float, frozenset[int]]]] = [[] for _ in rankings]

    def lengthen(number: int, count: int) -> None:
        while len(known[number]) < count and (found := next(rankings[number], None)) is not None:
            total, positions = found
            known[number].append((total, frozenset(places[number][place] for place in positions)))

    wanted = [1] * num_classes
    while True:
        for number, count in enumerate(wanted):
            lengthen(number, count)
        group = _groups(known)
        sizes = np.bincount(group)
        longer = [max(count, int(sizes[group[number]])) for number, count in enumerate(wanted)]
        if longer == wanted:
            break
        wanted = longer
    result = torch.zeros_like(first)
    for number, chosen in enumerate(_matched(known)):
        result[number, list(chosen)] = True
    return result


def _ranked(values: list[float], k: int) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Sets of k positions in a descending list, by their sum, largest first."""
    start = tuple(range(k))
    waiting = [(-sum(values[:k]), start)]
    seen = {start}
    while waiting:
        negative, places = heapq.heappop(waiting)
        yield -negative, places
        for index, place in enumerate(places):
            end = places[index + 1] if index + 1 < k else len(values)
            if place + 1 < end:
                following = (*places[:index], place + 1, *places[index + 1 :])
                if following not in seen:
                    seen.add(following)
                    heapq.heappush(waiting, (-sum(values[one] for one in following), following))


def _numbered(known: list[list[tuple[float, frozenset[int]]]]) -> tuple[list[frozenset[int]], coo_array]:
    """All sets that are known, and which class has which: their sums from 1 to 2, (C, sets)."""
    from scipy.sparse import coo_array  # loaded where classes want the same set, which is seldom

    numbers: dict[frozenset[int], int] = {}
    rows, columns, totals = [], [], []
    for number, row in enumerate(known):
        for total, chosen in row:
            rows.append(number)
            columns.append(numbers.setdefault(chosen, len(numbers)))
            totals.append(total)
    weights = np.array(totals) - min(totals)
    weights = 1 + weights / (weights.max() or 1)  # an edge of weight 0 would be none
    return list(numbers), coo_array((weights, (rows, columns)), shape=(len(known), len(numbers)))


def _groups(known: list[list[tuple[float, frozenset[int]]]]) -> list[int]:
    """Number of the group of each class: classes that know the same set are in one, (C,)."""
    from scipy.sparse.csgraph import connected_components

    _, table = _numbered(known)
    incidence = (table != 0).astype(float).tocsr()
    _, labels = connected_components(incidence @ incidence.T, directed=False)
    return [int(label) for label in labels]


def _matched(known: list[list[tuple[float, frozenset[int]]]]) -> list[frozenset[int]]:
    """One of its sets for each class, no two the same, of the largest sum."""
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    sets, table = _numbered(known)
    rows, columns = min_weight_full_bipartite_matching(table.tocsr(), maximize=True)
    chosen = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    return [sets[chosen[number]] for number in range(len(known))]
