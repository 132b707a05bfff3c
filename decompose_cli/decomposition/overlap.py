"""The overlap of the classes' feature sets: mutual information, Jaccard index, features that several classes use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_PAIRS_AT_ONCE = 1 << 20  # 8 MB of float64, of a handful of temporary matrices


@dataclass(frozen=True)
class Overlap:
    """The overlap of the sets of C classes over D features; entry (a, b) of a matrix is about classes a and b.

    Attributes:
        information: Mutual information of the membership vectors in nats, float64 (C, C).
        normalized: Mutual information divided by the mean of the two entropies, in [0, 1]; as in scikit-learn, 1 where
            both entropies are zero and 0 where the mutual information is zero.
        jaccard: Size of the intersection by size of the union, in [0, 1]; 1 for two empty sets, which are equal.
        classes_per_feature: Number of classes that use each feature, int64 (D,).
    """

    information: Tensor
    normalized: Tensor
    jaccard: Tensor
    classes_per_feature: Tensor

    @property
    def mean(self) -> float:
        """Mean mutual information over all ordered pairs of classes, a class with itself included, as published."""
        return float(self.information.mean())

    @property
    def off_diagonal_mean(self) -> float | None:
        """Mean mutual information over pairs of different classes; None for a single class."""
        return mean_off_diagonal(self.information)

    @property
    def unused(self) -> int:
        """Number of features that no class uses."""
        return int((self.classes_per_feature == 0).sum())

    @property
    def exclusive(self) -> int:
        """Number of features that exactly one class uses."""
        return int((self.classes_per_feature == 1).sum())

    @property
    def shared(self) -> int:
        """Number of features that two or more classes use."""
        return int((self.classes_per_feature > 1).sum())


def membership(classes: Sequence[Sequence[int]], num_features: int) -> Tensor:
    """Which features each class uses, bool (C, D)."""
    rows = torch.zeros(len(classes), num_features, dtype=torch.bool)
    for row, indices in zip(rows, classes, strict=True):
        row[list(indices)] = True
    return rows


def overlap(classes: Sequence[Sequence[int]], num_features: int) -> Overlap:
    """Compare the sets of all pairs of classes.

    For the membership vectors a and b (0 or 1 for each of D features), with n_uv the number of features where a is u
    and b is v, n_u. and n_.v their sums:

        I(a, b) = sum over u, v of n_uv / D * log(D n_uv / (n_u. n_.v))    (terms with n_uv = 0 are zero)

    which is scikit-learn's ``mutual_info_score(a, b)``, computed for all pairs at once from one matrix product.

    Args:
        classes: Per class the indices that it uses, each once, in 0..D-1.
        num_features: Number of features D.
    """
    used = membership(classes, num_features).double()
    size = used.sum(1)  # whole numbers below 2**53: exact
    entropy = -(_plogp(size / num_features) + _plogp((num_features - size) / num_features))
    information, normalized, jaccard = (size.new_empty(len(size), len(size)) for _ in range(3))
    step = max(1, _PAIRS_AT_ONCE // max(1, len(size)))
    for start in range(0, len(size), step):
        rows = slice(start, start + step)
        both, own = used[rows] @ used.T, size[rows, None]
        information[rows] = information_of(both, own, size, num_features)
        normalizer = (entropy[rows, None] + entropy) / 2
        share = information[rows] / normalizer.clamp(min=1e-300)
        normalized[rows] = torch.where(normalizer > 0, share, 1.0).clamp(max=1)
        union = own + size - both
        jaccard[rows] = torch.where(union > 0, both / union.clamp(min=1), 1.0)
    return Overlap(information, normalized, jaccard, used.sum(0).long())


def information_of(both: Tensor, first: Tensor, second: Tensor, num_features: int) -> Tensor:
    """Mutual information in nats of pairs of sets, as in :func:`overlap`; the arguments are broadcast.

    Args:
        both: Number of common features, float64.
        first: Sizes of the first sets.
        second: Sizes of the second sets.
        num_features: Number of features D.
    """
    only_first, only_second = first - both, second - both
    neither = num_features - both - only_first - only_second
    cells = (
        (both, first * second),
        (only_first, first * (num_features - second)),
        (only_second, (num_features - first) * second),
        (neither, (num_features - first) * (num_features - second)),
    )
    information = torch.zeros_like(both)
    for count, product in cells:
        information += _term(count, product, num_features)
    return information.clamp_(min=0)  # independent sets give zero but for rounding


def _term(count: Tensor, product: Tensor, num_features: int) -> Tensor:
    ratio = torch.where(count > 0, num_features * count / product.clamp(min=1), 1.0)
    return count / num_features * ratio.log()


def _plogp(p: Tensor) -> Tensor:
    return torch.xlogy(p, p)


def mean_off_diagonal(matrix: Tensor) -> float | None:
    """Mean over pairs of different classes; None for a single class."""
    classes = len(matrix)
    if classes == 1:
        return None
    return float((matrix.sum() - matrix.diagonal().sum()) / (classes * (classes - 1)))
