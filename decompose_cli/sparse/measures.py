"""What a sparse head is like beside its accuracy: its features, and how classes share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.sparse.mixtures import fit_mixtures, overlap
from decompose_cli.sparse.problem import Scale

_VALUES_AT_ONCE = 1 << 22
_IMAGES_OF_MIXTURES = 10_000
_CLASSES_AT_ONCE = 1024
_MAPS = 5
_LEAST_MEAN = 1e-5
NEC = (5, 10, 15, 20, 25, 30)
"""Features per class at which accuracies are averaged."""


@dataclass(frozen=True)
class Spread:
    """The smallest, the mean and the largest of some numbers."""

    min: int
    mean: float
    max: int


@dataclass(frozen=True)
class OneDifference:
    """Two classes whose features are the same but for one of each.

    Attributes:
        classes: Their numbers, ascending.
        features: The feature that only the first, and the one that only the second of them uses.
    """

    classes: tuple[int, int]
    features: tuple[int, int]


@dataclass(frozen=True)
class Measures:
    """The field's measures of a sparse head, over the features that it uses; None where one is undefined.

    Attributes:
        features_used: Features that at least one class uses.
        classes_per_feature: Classes that use such a feature.
        class_independence: See :func:`class_independence`.
        contrastiveness: See :func:`contrastiveness`.
        correlation: See :func:`correlation`.
        sid5: See :class:`LocalDiversity`; None without maps.
        one_difference: Number of pairs of classes that differ in one feature only.
        pairs: The first of these pairs.
    """

    features_used: int
    classes_per_feature: Spread | None
    class_independence: float | None
    contrastiveness: float | None
    correlation: float | None
    sid5: float | None
    one_difference: int
    pairs: tuple[OneDifference, ...]


def measure(features: Tensor, labels: Tensor, support: Tensor, *, sid5: float | None = None) -> Measures:
    """Measure which features a head uses, and what they are like on training images.

    Args:
        features: x, (N, D), N >= 1.
        labels: Class numbers, int64 (N,).
        support: Which features each class uses, bool (C, D).
        sid5: The value of a :class:`LocalDiversity`, where there are maps.
    """
    used = support.any(0)
    columns = used.nonzero()[:, 0]
    count, pairs = one_difference(support)
    return Measures(
        len(columns),
        classes_per_feature(support),
        class_independence(features, labels, len(support), columns),
        contrastiveness(features, columns),
        correlation(features, columns),
        sid5,
        count,
        pairs,
    )


def class_independence(
    features: Tensor, labels: Tensor, num_classes: int, columns: Tensor | None = None
) -> float | None:
    """Say how little of a feature belongs to one class: 0 if each is of one class alone, 1 - 1/C if of none.

    With x'_if = x_if - min_i x_if over all images, it is 1 - mean_f max_c sum_{i: y_i = c} x'_if / sum_i x'_if.

    Args:
        features: x, (N, D); constant features are left out.
        labels: y, int64 (N,). Classes may be without images.
        num_classes: C.
        columns: The features in use, ascending, int64 (U,); by default all.

    Returns:
        None if no feature varies.
    """
    varying = _varying(features, columns)
    if len(varying) == 0:
        return None
    least = features.amin(0)[varying].double()
    sums = least.new_zeros(num_classes, len(varying))
    for rows, x in _blocks(features, varying):
        sums.index_add_(0, labels[rows], x - least)
    return 1 - float((sums.amax(0) / sums.sum(0)).mean())


def contrastiveness(features: Tensor, columns: Tensor | None = None) -> float | None:
    """Say how clearly features are either on or off: 1 if the two Gaussians fitted to each of them are apart.

    It is 1 - mean_f integral min(N(t; m_f0, v_f0), N(t; m_f1, v_f1)) dt, with the means and variances of a mixture of
    two Gaussians fitted to the values of f (:func:`.mixtures.fit_mixtures`), whose weights play no part. Of more than
    10,000 images as many are drawn, always the same.

    Args:
        features: x, (N, D); features that are constant on the images are left out.
        columns: The features in use, ascending, int64 (U,); by default all.

    Returns:
        None if no feature varies.
    """
    if len(features) > _IMAGES_OF_MIXTURES:
        generator = torch.Generator().manual_seed(0)  # on the CPU, where it draws the same for every device
        drawn = torch.randperm(len(features), generator=generator, device="cpu")[:_IMAGES_OF_MIXTURES]
        features = features[drawn.sort().values.to(features.device)]
    varying = features[:, _varying(features, columns)]
    if varying.shape[1] == 0:
        return None
    scale = Scale.of(varying)
    fitted = fit_mixtures((varying.double() - scale.mean) * scale.inverse)
    return 1 - float(overlap(fitted.means, fitted.variances.sqrt()).mean())


def correlation(features: Tensor, columns: Tensor | None = None) -> float | None:
    """Say how alike features are: mean_f max_{g != f} sum_i x_if x_ig / sqrt(sum_i x_if^2 sum_i x_ig^2), uncentred.

    Args:
        features: x, (N, D); constant features are left out.
        columns: The features in use, ascending, int64 (U,); by default all.

    Returns:
        None if fewer than two features vary.
    """
    varying = _varying(features, columns)
    count = len(varying)
    if count < 2:
        return None
    products = torch.zeros(count, count, dtype=torch.float64, device=features.device)
    for _, x in _blocks(features, varying):
        products.addmm_(x.t(), x)
    norms = products.diagonal().sqrt()
    cosines = products / norms / norms[:, None]
    cosines.fill_diagonal_(-torch.inf)
    return float(cosines.amax(1).mean())


class LocalDiversity:
    """SID@5, the share of an image's five strongest maps that lies at different positions, over batches of images.

    Of an image whose predicted class uses at least five features, the maps M_1 ... M_5 of the five with the largest
    weights (signed; of equals the lower index) become S_j = softmax over positions of M_j / max(mean |M_j|, 1e-5). Its
    value is sum over positions p of max_j S_j(p) / 5: 1 if no two maps peak at the same place, 0.2 if all are the same.
    Images of other classes do not count.

    Args:
        weights: Weights on standardised features, (C, D).
        support: Which features each class uses, bool (C, D).
    """

    def __init__(self, weights: Tensor, support: Tensor) -> None:
        self._counts = support.sum(1) >= _MAPS
        ordered = weights.masked_fill(~support, -torch.inf).sort(stable=True, dim=1, descending=True)
        self._strongest = ordered.indices[:, :_MAPS]
        self._sum, self.images = 0.0, 0

    def add(self, maps: Tensor, predicted: Tensor) -> None:
        """Take a batch of maps (n, D, h, w), and the class numbers (n,) that the head gives their images."""
        counts = self._counts[predicted]
        rows = counts.nonzero()[:, 0]
        # Only five maps of an image are copied.
        chosen = maps[rows[:, None], self._strongest[predicted[rows]]].flatten(2).double()
        means = chosen.abs().mean(2, keepdim=True).clamp(min=_LEAST_MEAN)
        shares = torch.softmax(chosen / means, 2)
        self._sum += float(shares.amax(1).sum()) / _MAPS
        self.images += len(rows)

    @property
    def value(self) -> float | None:
        """The mean over the images that count; None if there is none."""
        return self._sum / self.images if self.images else None


def classes_per_feature(support: Tensor) -> Spread | None:
    """Count the classes of each feature that is used at all, for a bool support (C, D); None if none is."""
    counts = support.sum(0)
    counts = counts[counts > 0]
    if len(counts) == 0:
        return None
    return Spread(int(counts.min()), float(counts.double().mean()), int(counts.max()))


def one_difference(support: Tensor, most: int = 10) -> tuple[int, tuple[OneDifference, ...]]:
    """Count the pairs of classes A, B with |A - B| = |B - A| = 1, and name the first of them in the order of classes.

    Args:
        support: Which features each class uses, bool (C, D).
        most: How many are named.
    """
    sizes = support.sum(1)
    sets = support.float()  # whole numbers below 2**24: exact
    count, pairs = 0, list[OneDifference]()
    for start in range(0, len(sets), _CLASSES_AT_ONCE):
        shared = sets[start : start + _CLASSES_AT_ONCE] @ sets.t()
        own = sizes[start : start + _CLASSES_AT_ONCE, None]
        differ = ((shared == own - 1) & (shared == sizes - 1)).triu(start + 1)
        count += int(differ.sum())
        for row, second in differ.nonzero()[: most - len(pairs)].tolist():
            first = start + row
            features = [int((support[a] & ~support[b]).nonzero()) for a, b in ((first, second), (second, first))]
            pairs.append(OneDifference((first, second), (features[0], features[1])))
    return count, tuple(pairs)


@dataclass(frozen=True)
class Nec:
    """Accuracy at few features per class.

    Attributes:
        accuracy: At each number of :data:`NEC`; None where there are not as many features.
        mean: Mean of those there are; None without any.
    """

    accuracy: dict[int, float | None]
    mean: float | None


def nec(num_features: int, accuracy_at: Callable[[int], float | None]) -> Nec:
    """Measure accuracy at 5, 10, 15, 20, 25 and 30 features per class, and their mean.

    >>> nec(12, lambda number: 90.0 + number / 10).mean
    90.75

    Args:
        num_features: D.
        accuracy_at: Accuracy of the head with that many features per class: exactly, or on average, as the point of a
            path that :func:`.cuts.nearest_the_mean` finds; None where there can be no such head.
    """
    accuracy = {number: accuracy_at(number) if number <= num_features else None for number in NEC}
    known = [value for value in accuracy.values() if value is not None]
    return Nec(accuracy, sum(known) / len(known) if known else None)


def _varying(features: Tensor, columns: Tensor | None) -> Tensor:
    """The features that are not constant, of some or of all, int64."""
    if features.shape[1] == 0:
        return torch.empty(0, dtype=torch.int64, device=features.device)
    varies = Scale.of(features).varies
    return varies.nonzero()[:, 0] if columns is None else columns[varies[columns]]


def _blocks(features: Tensor, columns: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some features in blocks of so many images that a block in float64 is small."""
    step = max(1, _VALUES_AT_ONCE // len(columns))
    for start in range(0, len(features), step):
        rows = slice(start, start + step)
        # Columns that are all there are not copied one by one.
        block = features[rows]
        yield rows, (block if len(columns) == features.shape[1] else block[:, columns]).double()
