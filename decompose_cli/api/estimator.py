"""Sparse heads for any features, in the manner of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.sparse_heads import SparseHead, Wanted, fit_at
from decompose_cli.decomposition.sparse_settings import VALUES, Values
from decompose_cli.errors import InputError
from decompose_cli.features.labelled import LARGEST_L2
from decompose_cli.sparse.cuts import largest_per_class
from decompose_cli.sparse.problem import Problem, Scale
from decompose_cli.sparse.refit import refit
from decompose_cli.sparse.searches import SEARCHES, strongest_first
from decompose_cli.sparse.sets import enough_sets

MAGNITUDE = "magnitude"
METHODS = (MAGNITUDE, *SEARCHES)


class SparseLinearClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear classifier that uses at most k features for each class, fitted as ``decompose`` fits heads.

    With z = (x - mean) / deviation by the training images, and the features of each class chosen, it minimises the mean
    cross-entropy of softmax(W z + b) plus l2 / 2 |W|^2. Nothing is drawn: the same images give the same classifier.

    >>> from sklearn.datasets import load_iris
    >>> flowers, kinds = load_iris(return_X_y=True)
    >>> classifier = SparseLinearClassifier(k=2).fit(flowers, kinds)
    >>> classifier.support_.sum(axis=1)
    array([2, 2, 2])
    >>> classifier.score(flowers, kinds) > 0.9
    True

    Args:
        k: Features per class; all that vary where there are fewer. Binary weights have as many as leave every class a
            set of its own; where the features have too few sets for that, classes may share them.
        method: How they are chosen: ``backward``, elimination with refits between; ``splicing``, exchange while the
            penalised loss falls, which takes longest and fits best; ``elastic-net``, the largest weights of the path;
            ``magnitude``, the largest absolute weights (on z) of the head that has all.
        values: ``real``; ``nonnegative``, where a feature can only speak for a class; ``ternary``: -a, 0, a; or
            ``binary``: 0, a, exactly k in each class and no two classes with the same. One a for all classes.
        l2: Strength of the penalty on the weights, positive, at most 1e12.
        class_weight: Weight of each label in the loss, not negative, of one at least positive; ``balanced`` makes all
            classes count the same, whatever their numbers of images. Means and deviations of features are those
            without it.

    Attributes:
        classes_: The labels, ascending, (C,).
        coef_: Weights on the features as they are given, (C, D), also of two classes.
        intercept_: Biases, (C,). Their sum, which says nothing, is 0.
        scale_: The one size a of ternary and binary weights on z; None of others.
        support_: Which features each class uses, bool (C, D): those whose weight is not 0. ``nonnegative`` weights may
            be fewer than k, as those that would be negative are 0.
        n_features_in_: D.
        feature_names_in_: Names of the features, where those that it was fitted to have some.
    """

    def __init__(
        self,
        k: int = 5,
        *,
        method: str = "backward",
        values: str = "real",
        l2: float = 1e-3,
        class_weight: Mapping[Any, float] | str | None = None,
    ) -> None:
        self.k = k
        self.method = method
        self.values = values
        self.l2 = l2
        self.class_weight = class_weight

    def __sklearn_tags__(self) -> Tags:
        """Binary weights of few features can tell few classes apart: scikit-learn's checks expect more elsewhere."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = self.values == "binary"
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> SparseLinearClassifier:  # noqa: N803
        """Choose features and fit their weights.

        Args:
            X: Features, (N, D).
            y: Labels of at least two classes, (N,); numbers or text.
            sample_weight: How many times each image counts, (N,), not negative; by default once.

        Raises:
            ValueError: A parameter is out of range; the data are of wrong shape or kind, or not finite; or the method
                cannot choose features from them.
        """
        self._check_parameters()
        features, labels = validate_data(self, X, y, dtype=(np.float64, np.float32))
        check_classification_targets(labels)
        counted = _weights_of(sample_weight, len(features))
        present = counted > 0
        features, labels, counted = features[present], labels[present], counted[present]
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        classes = len(self.classes_)
        if classes < 2:
            raise ValueError("y has images of one class only; a classifier needs two.")
        weights = counted * self._class_weights(numbers, counted)[numbers]
        x = torch.from_numpy(np.ascontiguousarray(features))
        problem = Problem(
            x,
            torch.from_numpy(numbers.astype(np.int64)),
            classes,
            _scale_of(x, torch.from_numpy(counted)),
            image_weights=torch.from_numpy(weights / weights.mean()),
        )
        varies = problem.scale.varies
        start = refit(problem, varies.expand(classes, -1), self.l2).head
        self.scale_ = None
        if not bool(varies.any()):  # nothing tells the classes apart but their numbers of images
            biases = start[:, -1]
            self.coef_, self.intercept_ = np.zeros((classes, x.shape[1])), (biases - biases.mean()).numpy()
            self.support_ = np.zeros((classes, x.shape[1]), dtype=bool)
            return self
        try:
            head = self._head(problem, start)
        except InputError as error:  # scikit-learn's contract, and that of this function
            raise ValueError(error.message) from error
        self.coef_, self.intercept_ = head.weight.numpy(), (head.bias - head.bias.mean()).numpy()
        self.support_ = self.coef_ != 0
        if head.values is not None:
            self.scale_ = float(head.values.scale)
        return self

    def _head(self, problem: Problem, start: Tensor) -> SparseHead:
        varies = problem.scale.varies
        count = int(varies.sum())
        k, is_distinct = min(self.k, count), True
        if self.values == "binary":
            enough = [size for size in range(1, k + 1) if enough_sets(problem.num_classes, count, size)]
            k, is_distinct = (enough[-1], True) if enough else (k, False)
        if self.method == MAGNITUDE:
            support = largest_per_class(start[:, :-1].abs().masked_fill(~varies, -torch.inf), k)
        else:
            support, _ = next(SEARCHES[self.method](problem, start, [k], self.l2))
        index_set = IndexSet(strongest_first(support & varies, start), problem.num_features)
        return fit_at(problem, start, index_set, Wanted(cast(Values, self.values), self.l2, keeps_sets=not is_distinct))

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Logits (n, C) of features (n, D); of two classes the second's minus the first's, (n,)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """The labels (n,) with the largest logits, for features (n, D); of equals the lower one."""
        best = self._logits(X).argmax(1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """The softmax of the logits, (n, C), for features (n, D)."""
        probabilities: NDArray[np.float64] = torch.from_numpy(self._logits(X)).softmax(1).numpy()
        return probabilities

    def _logits(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        check_is_fitted(self)
        features = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        logits: NDArray[np.float64] = features @ self.coef_.T + self.intercept_
        return logits

    def _class_weights(self, numbers: NDArray[np.int64], counted: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.class_weight == "balanced":
            return 1 / np.bincount(numbers, counted)
        labels = self.classes_[numbers]
        weights: NDArray[np.float64] = compute_class_weight(self.class_weight, classes=self.classes_, y=labels)
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError("class_weight has values that are negative or not finite.")
        if not weights.any():
            raise ValueError("class_weight is zero for every class that has images.")
        weights /= weights.max()  # sums of large ones would be infinite
        return weights

    def _check_parameters(self) -> None:
        k: object = self.k
        if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k {k!r} is not a whole number of at least 1.")
        l2: object = self.l2
        if not isinstance(l2, (int, float, np.integer, np.floating)) or not l2 > 0:
            raise ValueError(f"l2 {l2!r} is not a positive number.")
        if l2 > LARGEST_L2:
            raise ValueError(f"l2 {l2!r} is more than {LARGEST_L2:g}, where every weight is zero.")
        for name, choices in (("method", METHODS), ("values", VALUES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; choose {', '.join(choices)}.")


def _scale_of(features: Tensor, counted: Tensor) -> Scale:
    """Standardisation in which an image counts as often as its weight says."""
    if bool((counted == counted[0]).all()):
        return Scale.of(features)
    x, share = features.double(), counted / counted.sum()
    mean = share @ x
    deviation = (share @ (x - mean).square()).sqrt()
    return Scale(mean, torch.where(Scale.of(features).varies, deviation, 0.0))


def _weights_of(sample_weight: ArrayLike | None, count: int) -> NDArray[np.float64]:
    if sample_weight is None:
        return np.ones(count)
    weights: NDArray[np.float64] = np.array(sample_weight, dtype=np.float64)
    if weights.ndim == 0:
        weights = np.full(count, weights)
    if weights.shape != (count,):
        raise ValueError(f"sample_weight has the shape {weights.shape}; {count} images need ({count},).")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("sample_weight has values that are negative or not finite.")
    if not weights.any():
        raise ValueError("sample_weight is zero for every image.")
    weights /= weights.max()  # sums of large ones would be infinite
    return weights
