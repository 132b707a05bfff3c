"""Sparse heads: features chosen for each class by any ranking, and their weights fitted anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.metrics import Predictions, predict
from decompose_cli.decomposition.ranking import RANKINGS
from decompose_cli.errors import InputError, param
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.sparse_record import FewValues
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit
from decompose_cli.sparse.searches import dense_start, problem_of, strongest_first
from decompose_cli.sparse.strength import Strength, choose_strength
from decompose_cli.sparse.values import binary, ternary

Values = Literal["real", "nonnegative", "ternary", "binary"]
VALUES: tuple[Values, ...] = get_args(Values)


@dataclass(frozen=True)
class SparseHead:
    """A head with a few features per class and weights of its own.

    Attributes:
        index_set: The features of each class, the strongest weights on standardised features first.
        weight: Weights on features, 0 outside the set, float64 (C, D).
        bias: Biases, float64 (C,).
        loss: Mean cross-entropy of the images that it was fitted on.
        values: The few values that the weights come from; None for real weights.
    """

    index_set: IndexSet
    weight: Tensor
    bias: Tensor
    loss: float
    values: FewValues | None = None

    def linear(self) -> DecomposedLinear:
        """The head as a module, float32."""
        return DecomposedLinear.from_dense(self.weight.float(), self.bias.float(), self.index_set.classes)

    def predict(self, features: Tensor, labels: Tensor) -> Predictions:
        """Its predictions for images."""
        return predict(self.linear(), features, labels, len(self.bias))


def fit_head(
    data: LabelledFeatures, index_set: IndexSet, values: Values, l2: float, *, toward: Literal["zero", "dense"] = "zero"
) -> SparseHead:
    """Fit the weights of a head whose features are chosen; few values may exchange features for better ones.

    Args:
        data: Features of the images to fit, and the full head if there is one.
        index_set: The features of each class.
        values: ``real``; ``nonnegative``; ``ternary``: -a, 0, a; ``binary``: 0, a. One a for the head.
        l2: Strength of the penalty (l2 / 2) |W|^2 on standardised features.
        toward: What the penalty pulls real weights to: zero, or the full head.

    Raises:
        InputError: There are fewer sets of k features than classes, for binary weights.
    """
    problem = problem_of(data)
    start = dense_start(data, problem)
    support = mask_of(index_set, data.num_features)
    aim = start if toward == "dense" else None
    real = refit(problem, support, l2, start=start, toward=aim, nonnegative=values == "nonnegative")
    if values in ("real", "nonnegative"):
        return _folded(problem, support, real.head, real.loss, index_set.source)
    k = index_set.largest_k
    try:
        if values == "ternary":
            few = ternary(problem, k, l2, start=real.head)
        else:
            few = binary(problem, k, l2, support=support)
    except ValueError as error:
        raise InputError(f"{param('values')} {values}: {error}.") from error
    found = _folded(problem, few.matrix != 0, few.head, few.loss, index_set.source)
    scale = problem.scale
    written = FewValues(few.matrix, torch.tensor(few.scale, dtype=torch.float64), scale.mean, scale.deviation)
    return dataclasses.replace(found, values=written)


def _folded(problem: Problem, support: Tensor, head: Tensor, loss: float, source: str) -> SparseHead:
    weight, bias = problem.scale.folded(head[:, :-1], head[:, -1])
    index_set = IndexSet(strongest_first(support, head), problem.num_features, source=source)
    return SparseHead(index_set, weight, bias, loss)


def mask_of(index_set: IndexSet, num_features: int) -> Tensor:
    """Whether a class uses a feature, bool (C, D)."""
    mask = torch.zeros(index_set.num_classes, num_features, dtype=torch.bool)
    for number, indices in enumerate(index_set.classes):
        mask[number, list(indices)] = True
    return mask


def strength_for(
    data: LabelledFeatures, index_set: IndexSet, features: Tensor, labels: Tensor, values: Values = "real"
) -> Strength:
    """The strength of the penalty at a support, chosen on images (n, D) that are not fitted."""
    problem = problem_of(data)
    start = dense_start(data, problem)
    support = mask_of(index_set, data.num_features)

    def fitted(l2: float, before: Tensor | None) -> Tensor:
        first = start if before is None else before
        return refit(problem, support, l2, start=first, nonnegative=values == "nonnegative", tolerance=1e-5).head

    return choose_strength(problem, fitted, features, labels)


@dataclass(frozen=True)
class Candidate:
    """A method at one k, on the images that choose.

    Attributes:
        method: Name of the ranking.
        k: Features per class.
        strength: The strength of the penalty, and what was tried.
        correct: Choosing images that its head gets right, fitted on the others.
        loss: Mean cross-entropy on them.
    """

    method: str
    k: int
    strength: Strength
    correct: int
    loss: float


def candidates(
    data: LabelledFeatures,
    methods: Sequence[str],
    ks: Sequence[int],
    values: Values,
    features: Tensor,
    labels: Tensor,
    l2: float | None = None,
) -> list[Candidate]:
    """Fit every method at every k on some images, and measure them on the choosing images (n, D).

    Args:
        data: The images that are fitted.
        methods: Names of rankings.
        ks: Ascending numbers of features per class.
        values: See :func:`fit_head`.
        features: Features of the choosing images.
        labels: Their class numbers, int64 (n,).
        l2: Strength of the penalty; None to choose it at each support.
    """
    found = []
    for method in methods:
        for k, index_set in zip(ks, RANKINGS[method].sets(data, ks), strict=True):
            strength = strength_for(data, index_set, features, labels, values) if l2 is None else Strength(l2, ())
            head = fit_head(data, index_set, values, strength.l2)
            predictions = head.predict(features, labels)
            logits = features.double() @ head.weight.t() + head.bias
            loss = float(torch.nn.functional.cross_entropy(logits, labels))
            found.append(Candidate(method, k, strength, predictions.correct, loss))
    return found


def best_of(found: Sequence[Candidate], k: int) -> Candidate:
    """The candidate of a k with most choosing images right, of equals that of the smaller loss."""
    return min((one for one in found if one.k == k), key=lambda one: (-one.correct, one.loss))
