"""Accuracy against the number of features per class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from decompose_cli.decomposition.growing_sets import predictions_of_orders
from decompose_cli.decomposition.heads import decomposed_head
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.metrics import Predictions, predict
from decompose_cli.decomposition.ranking import RANKINGS
from decompose_cli.decomposition.sizes import check_k
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.models.network import HeadTensors


def accuracy_by_k(
    ranked: LabelledFeatures,
    features: Tensor,
    labels: Tensor,
    head: HeadTensors,
    ks: Sequence[int],
    method: str,
    advance: Callable[[int], None] = lambda _: None,
    sets: Mapping[int, IndexSet] | None = None,
) -> Iterator[tuple[int, Predictions]]:
    """Evaluate the decomposed head for several numbers of features per class, with the same result as one by one.

    Sets for neighbouring k differ in few features, so logits for one k come from those for the k before. Where sets are
    found by fits, the head for each k is made and evaluated by itself.

    Args:
        ranked: Features of training images, from which the indices are chosen; logits are made on its device.
        features: Features of the images to evaluate on, (N, D).
        labels: The network's class number of each of these images, (N,).
        head: The full head.
        ks: Numbers of features, 1..D.
        method: Name of the ranking.
        advance: Called with the number of k just finished.
        sets: The ranking's sets for these k, where they are known, as those of a search should be.

    Yields:
        Each k, ascending, and its predictions.

    Raises:
        InputError: :func:`decompose_cli.decomposition.ranking.select` would raise it.
    """
    ks = sorted(set(ks))
    for k in ks:
        check_k(k, head.num_features)
    ranking = RANKINGS[method]
    orders = ranking.orders(ranked, ks) if sets is None else None
    if orders is not None:
        pairs = zip(ks, orders, strict=True)
        for k, predicted in predictions_of_orders(features, head, pairs, ranked.device, ranked.held):
            yield k, Predictions(predicted, labels)
            advance(1)
        return
    for k, index_set in zip(ks, [sets[k] for k in ks] if sets else ranking.sets(ranked, ks), strict=True):
        yield k, predict(decomposed_head(head, index_set), features, labels, head.num_classes, ranked.device)
        advance(1)
