"""Accuracy against the number of features per class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from decompose_cli.decomposition.heads import decomposed_head
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.metrics import Predictions, predict
from decompose_cli.decomposition.ranking import RANKINGS, check_k
from decompose_cli.decomposition.scores import descending
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.network import HeadTensors

_LOGITS_AT_ONCE = 1 << 23
# Logits that are summed one feature at a time differ by rounding from those of DecomposedLinear. Where the largest two
# are nearer than this share of the largest magnitude on the way, the image is done again with DecomposedLinear itself.
_NEAR_TIE = 5e-4
_ENOUGH_IMAGES = 16


def accuracy_by_k(
    ranked: LabelledFeatures,
    features: Tensor,
    labels: Tensor,
    head: HeadTensors,
    ks: Sequence[int],
    method: str,
    advance: Callable[[int], None] = lambda _: None,
    sets: Mapping[int, IndexSet] | None = None,
) -> dict[int, Predictions]:
    """Evaluate the decomposed head for several numbers of features per class, with the same result as one by one.

    The sets of a nested ranking grow by one feature per class, so the predictions for all k come from adding one
    feature per class to the logits at a time. For other rankings the head for each k is made and evaluated by itself.

    Args:
        ranked: Features of training images, from which the indices are chosen.
        features: Features of the images to evaluate on, (N, D).
        labels: The network's class number of each of these images, (N,).
        head: The full head.
        ks: Numbers of features, 1..D.
        method: Name of the ranking.
        advance: Called with the number of k just finished.
        sets: The ranking's sets for these k, where they are known, as those of a search should be.

    Returns:
        Predictions by k, ascending.

    Raises:
        InputError: :func:`decompose_cli.decomposition.ranking.select` would raise it.
    """
    ks = sorted(set(ks))
    for k in ks:
        check_k(k, head.num_features)
    ranking = RANKINGS[method]
    if sets is not None or not ranking.is_nested or ranking.score is None:
        result = {}
        for k, index_set in zip(ks, [sets[k] for k in ks] if sets else ranking.sets(ranked, ks), strict=True):
            result[k] = predict(decomposed_head(head, index_set), features, labels, head.num_classes)
            advance(1)
        return result
    order = descending(ranking.score(ranked, max(ks)))
    predictions = nested_predictions(features, head, order, ks)
    advance(len(ks))
    return {k: Predictions(predicted, labels) for k, predicted in predictions.items()}


def nested_predictions(features: Tensor, head: HeadTensors, order: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
    """Predictions, int64 (N,), of the heads that keep the first k features of each class's order, for all ks.

    Args:
        features: Features (N, D).
        head: The full head.
        order: Per class the features by rank, int64 (C, at least max(ks)).
        ks: Ascending numbers of features.
    """
    weight = head.weight.gather(1, order[:, : max(ks)])
    heads: dict[int, DecomposedLinear] = {}  # built where a near tie needs them

    def exact(k: int, some: Tensor) -> Tensor:
        if k not in heads:
            rows = order[:, :k].tolist()
            heads[k] = DecomposedLinear.from_subspaces(weight[:, :k], head.bias, rows, head.num_features)
        return torch.argmax(heads[k](some), 1)

    result = {k: torch.empty(len(features), dtype=torch.int64) for k in ks}
    step = max(1, _LOGITS_AT_ONCE // head.num_classes)
    with torch.inference_mode():
        for start in range(0, len(features), step):
            rows = slice(start, start + step)
            block = features[rows].t().contiguous()
            logits = head.bias[:, None].repeat(1, block.shape[1])  # (C, n)
            magnitude = logits.abs().amax(0)
            for rank in range(max(ks)):
                logits.addcmul_(block[order[:, rank]], weight[:, rank, None])
                magnitude = torch.maximum(magnitude, logits.abs().amax(0))
                if rank + 1 in result:
                    predicted = _resolved(logits, magnitude, features[rows], partial(exact, rank + 1))
                    result[rank + 1][rows] = predicted
    return result


def _resolved(logits: Tensor, magnitude: Tensor, features: Tensor, exact: Callable[[Tensor], Tensor]) -> Tensor:
    """The largest logit of each image (columns of ``logits``), with near ties settled by the head itself."""
    predicted = logits.argmax(0)
    if len(logits) == 1:
        return predicted
    largest, second = logits.topk(2, dim=0).values
    near = (largest - second <= _NEAR_TIE * magnitude.clamp(min=1e-30)).nonzero()[:, 0]
    if len(near) > 0:
        # The head rounds a handful of images differently from many, because of how processors take them in groups.
        enough = near.repeat(-(-_ENOUGH_IMAGES // len(near)))
        predicted[near] = exact(features[enough])[: len(near)]
    return predicted
