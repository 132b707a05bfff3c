"""Orders of classes and of features, in which those that belong together stand together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_MOST_ORDERED = 300
"""Leaves whose order is the best one; finding it takes more than the square of their number."""
_MOST_CLUSTERED = 2000


def clustered(similarity: np.ndarray) -> list[int]:
    """An order of rows in which those that are alike stand together.

    Clusters are joined by the mean of the similarities between their members (average linkage). Of the orders in which
    no two clusters mix, that with the most similar neighbours is taken, for up to 300 rows.

    Args:
        similarity: Symmetric, (n, n), 1 for equal rows.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    count = len(similarity)
    if count < 3:
        return list(range(count))
    distances = squareform(1 - (similarity + similarity.T) / 2, checks=False)
    tree = linkage(distances, "average", optimal_ordering=count <= _MOST_ORDERED)
    order: list[int] = leaves_list(tree).tolist()
    return order


def clustered_sets(sets: Sequence[Sequence[int]]) -> list[int]:
    """An order of feature sets in which those that share most stand together, by their Jaccard index.

    Of more than 2,000 sets, whose indices have no room, those stand together whose features have like numbers.
    """
    if len(sets) > _MOST_CLUSTERED:
        return sorted(range(len(sets)), key=lambda row: (sorted(sets[row]), row))
    place = {feature: column for column, feature in enumerate(sorted({f for one in sets for f in one}))}
    has = np.zeros((len(sets), len(place)))
    for row, one in enumerate(sets):
        has[row, [place[feature] for feature in one]] = 1
    both, sizes = has @ has.T, has.sum(1)
    union = sizes[:, None] + sizes - both
    return clustered(np.where(union > 0, both / np.maximum(union, 1), 1.0))


def shared_first(users: Mapping[int, Sequence[int]]) -> list[int]:
    """An order of features: those of several classes before those of one, each near its classes.

    Args:
        users: The rows of the classes that use each feature.
    """

    def key(feature: int) -> tuple[bool, float, int, int]:
        rows = users[feature]
        return len(rows) == 1, sum(rows) / len(rows), -len(rows), feature

    return sorted(users, key=key)
