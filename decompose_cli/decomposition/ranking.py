"""Which features a class uses: six ways to score them, and the choice of the best k."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.errors import InputError, one_of

Method = Literal["frequency", "mean", "mass", "contribution", "weight", "csg"]
METHODS: tuple[Method, ...] = get_args(Method)
NEED_NO_IMAGES: tuple[Method, ...] = ("weight", "csg")
Order = Literal["highest", "lowest"]
ORDERS: tuple[Order, ...] = get_args(Order)
DEFAULT_K = 5
_VALUES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class LabelledFeatures:
    """What rankings are made from.

    Attributes:
        features: (N, D), finite.
        labels: int64 (N,), in 0..C-1.
        weight: Of the full head, (C, D), for the methods that use it.
        class_names: C names, for messages.
        gates: Class-specific gates (C, D), for the method ``csg``.
        order: Whether ``csg`` takes the highest gates or the lowest.
    """

    features: Tensor
    labels: Tensor
    weight: Tensor | None
    class_names: Sequence[str]
    gates: Tensor | None = None
    order: Order = "highest"

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def num_features(self) -> int:
        """D."""
        return self.features.shape[1]


def parse_k(text: str) -> list[int | float]:
    """Read ``5``, ``5,10,20`` or fractions such as ``0.9``, each once, in the order given.

    Raises:
        InputError: Not a whole number of at least 1, nor a fraction strictly between 0 and 1.
    """
    result: list[int | float] = []
    for part in text.split(","):
        word = part.strip()
        value: int | float = 0
        if re.fullmatch(r"0*[1-9]\d{0,8}", word, re.ASCII):
            value = int(word)
        elif re.fullmatch(r"0?\.\d{1,17}|\d(\.\d{1,17})?e-\d{1,2}", word, re.ASCII) and 0 < float(word) < 1:
            value = float(word)
        if value == 0:
            raise InputError(f"-k {part!r} is neither a whole number of at least 1 nor a fraction between 0 and 1.")
        if value not in result:
            result.append(value)
    return result


def check_k(k: int | float, num_features: int, option: str = "-k") -> None:
    """Refuse a k that no network with so many features can fill.

    Raises:
        InputError: As said.
    """
    if isinstance(k, int) and k > num_features:
        raise InputError(f"{option} {k} is more than the {num_features} features that the network has.")


def check_classes(labels: Tensor, class_names: Sequence[str]) -> None:
    """Refuse images that leave a class without any.

    Raises:
        InputError: As said; names the first such classes.
    """
    empty = (torch.bincount(labels, minlength=len(class_names)) == 0).nonzero().flatten().tolist()
    if empty:
        shown = ", ".join(class_names[number] for number in empty[:3]) + (", ..." if len(empty) > 3 else "")
        raise InputError(
            f"There are no images in this split for {len(empty)} of the network's {len(class_names)} classes "
            f"({shown}), so features cannot be ranked.",
            hint="Use images of all classes; 'extract-indices --method weight' needs none.",
        )


def parse_method(text: str, option: str = "--method") -> Method:
    """Check the name of a method.

    Raises:
        InputError: The name is unknown.
    """
    return one_of(text, METHODS, option)


def parse_order(text: str) -> Order:
    """Check the name of an order.

    Raises:
        InputError: The name is unknown.
    """
    return one_of(text, ORDERS, "--order")


def check_order(order: Order, *, uses_gates: bool) -> None:
    """Refuse an order that nothing follows.

    Raises:
        InputError: As said.
    """
    if order != "highest" and not uses_gates:
        raise InputError(f"--order {order} has no effect: no gates (csg) are used.")


def select(data: LabelledFeatures, method: Method, k: int | float) -> IndexSet:
    """The features that each class uses most, most influential first.

    The scores of feature j for class c, with x an image's penultimate features and the means over the images of c:

    - ``frequency`` (the method of arXiv 2112.07719): in how many images j is among the k largest features. The set is
      chosen anew for each k, so sets for different k need not contain each other.
    - ``mean``: mean of x_j.
    - ``mass``: mean of x_j / sum_i x_i (an image whose features are all zero contributes zero).
    - ``contribution``: mean of w_cj x_j, with the weight w of the full head.
    - ``weight``: w_cj.
    - ``csg``: the gate g_cj of a network trained with class-specific gates (arXiv 2007.08194), or -g_cj for the order
      ``lowest``, which is what the publication of ``frequency`` took for its comparison.

    Among equal scores, and among equal features of an image, the higher index comes first, as in the published code.

    Args:
        data: Features of training images and their labels.
        method: One of the above.
        k: A whole number of features per class; or a fraction f: per class the shortest prefix of the ranking whose
            scores sum to at least f of the class's total. (The published code has another notion of a fraction, about
            the top 1 - f of the frequency mass, which is not reproduced.) For ``frequency`` and a fraction, the five
            largest features of each image are counted.

    Raises:
        InputError: k above D, a class without images, a fraction for a method with negative scores, or ``mass`` with
            negative features.
    """
    check_k(k, data.num_features)
    if method == "csg" and data.order == "lowest" and isinstance(k, float):
        raise InputError("There is no fraction of the lowest gates; give a whole number of features.")
    ranks = scores(data, method, k)
    order = descending(ranks)
    if isinstance(k, int):
        rows = order[:, :k].tolist()
    else:
        rows = _prefixes(ranks, order, k, method, data.class_names)
    return IndexSet(tuple(tuple(row) for row in rows), data.num_features, source=f"{method}, k={k}")


def scores(data: LabelledFeatures, method: Method, k: int | float) -> Tensor:
    """How much each class uses each feature by this method, (C, D); ``k`` matters for ``frequency`` only.

    Raises:
        InputError: As for :func:`select`.
    """
    if method == "weight":
        return _full_weight(data, method).double()
    if method == "csg":
        return _gates(data)
    check_classes(data.labels, data.class_names)
    counts = torch.bincount(data.labels, minlength=data.num_classes)
    if method == "frequency":
        largest = k if isinstance(k, int) else min(DEFAULT_K, data.num_features)
        return frequencies(data.features, data.labels, data.num_classes, largest)
    if method == "mass" and bool((data.features < 0).any()):
        raise InputError("The method 'mass' needs features that are not negative, and this network's are.")
    sums = _class_sums(data, normalised=method == "mass")
    means = sums / counts[:, None]
    return means * _full_weight(data, method).double() if method == "contribution" else means


def _full_weight(data: LabelledFeatures, method: str) -> Tensor:
    if data.weight is None:
        raise InputError(f"The method {method!r} needs the full head, which a decomposed checkpoint no longer has.")
    return data.weight


def check_gates(gates: Tensor | None, num_classes: int, num_features: int, source: str = "the weights file") -> Tensor:
    """Refuse gates that are not there or belong to another network.

    Raises:
        InputError: As said.
    """
    if gates is None:
        raise InputError(f"The method 'csg' needs class-specific gates, a matrix 'csg' in {source}; there is none.")
    if tuple(gates.shape) != (num_classes, num_features):
        raise InputError(
            f"The gates 'csg' in {source} have the shape {tuple(gates.shape)}, but the network has {num_classes} "
            f"classes and {num_features} features."
        )
    return gates


def _gates(data: LabelledFeatures) -> Tensor:
    """The gates as scores, from high to low."""
    gates = check_gates(data.gates, data.num_classes, data.num_features).double()
    return -gates if data.order == "lowest" else gates


def _class_sums(data: LabelledFeatures, *, normalised: bool) -> Tensor:
    """Sum of the features over the images of each class, in float64: (C, D)."""
    sums = torch.zeros(data.num_classes, data.num_features, dtype=torch.float64)
    for rows in feature_blocks(data.features):
        block = data.features[rows].double()
        if normalised:
            total = block.sum(1, keepdim=True)
            block = block / torch.where(total == 0, 1.0, total)
        sums.index_add_(0, data.labels[rows], block)
    return sums


def feature_blocks(features: Tensor) -> list[slice]:
    """Rows to work on together, so that temporary tensors stay small."""
    step = max(1, _VALUES_AT_ONCE // features.shape[1])
    return [slice(start, start + step) for start in range(0, len(features), step)]


def frequencies(features: Tensor, labels: Tensor, num_classes: int, k: int) -> Tensor:
    """For each class and feature the number of images of the class with the feature among their k largest: (C, D)."""
    num_features = features.shape[1]
    counts = torch.zeros(num_classes * num_features, dtype=torch.int64)
    for rows in feature_blocks(features):
        largest = largest_features(features[rows], k)
        keys = labels[rows][:, None] * num_features + largest
        counts += torch.bincount(keys.flatten(), minlength=len(counts))
    return counts.view(num_classes, num_features)


def largest_features(features: Tensor, k: int) -> Tensor:
    """Indices of each row's k largest features, the higher index among equals: (N, k), in no particular order."""
    values, chosen = features.topk(k, sorted=True)
    # topk leaves open which of several equal values it takes, so rows with a tie across the boundary are done again.
    tied = (features >= values[:, -1:]).sum(1) > k
    if bool(tied.any()):
        chosen[tied] = descending(features[tied])[:, :k]
    return chosen


def descending(values: Tensor) -> Tensor:
    """Column numbers by descending value, the higher number among equals, row by row: int64, like ``values``."""
    reversed_order = values.flip(1).argsort(dim=1, descending=True, stable=True)
    return values.shape[1] - 1 - reversed_order


def leading_features(features: Tensor, k: int) -> Tensor:
    """Indices of each row's k largest features in descending order, the higher index among equals: int64 (N, k)."""
    values, chosen = features.topk(min(k + 1, features.shape[1]), sorted=True)
    tied = (values[:, 1:] == values[:, :-1]).any(1)
    chosen = chosen[:, :k]
    if bool(tied.any()):
        chosen[tied] = descending(features[tied])[:, :k]
    return chosen


def _prefixes(
    scores: Tensor, order: Tensor, fraction: float, method: str, class_names: Sequence[str]
) -> list[list[int]]:
    if bool((scores < 0).any()):
        raise InputError(
            f"A fraction needs scores that are not negative, and those of {method!r} are; give a whole number of "
            "features."
        )
    rows = []
    for number, (row, indices) in enumerate(zip(scores.double(), order, strict=True)):
        total = float(row.sum())
        if total == 0:
            raise InputError(
                f"All features of class {number} ({class_names[number]}) are zero; no fraction can be kept."
            )
        reached = row[indices].cumsum(0) >= fraction * total * (1 - 1e-12)  # a sum that is exact but for rounding
        rows.append(indices[: int(reached.double().argmax()) + 1].tolist())
    return rows
