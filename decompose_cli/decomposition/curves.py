"""Accuracy against the number of features per class."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from decompose_cli.decomposition.metrics import Evaluation, evaluate_head
from decompose_cli.decomposition.ranking import LabelledFeatures, Method, select
from decompose_cli.models.classifier import HeadTensors
from decompose_cli.models.decomposed import DecomposedLinear


def accuracy_by_k(
    ranked: LabelledFeatures, features: Tensor, labels: Tensor, head: HeadTensors, ks: Sequence[int], method: Method
) -> dict[int, Evaluation]:
    """Evaluate the decomposed head for several numbers of features per class.

    Args:
        ranked: Features of training images, from which the indices are chosen.
        features: Of the images to evaluate on, (N, D).
        labels: The network's class number of each of them, (N,).
        head: The full head.
        ks: Numbers of features, 1..D.
        method: How features are ranked.
    """
    result = {}
    for k in ks:
        chosen = select(ranked, method, k)
        decomposed = DecomposedLinear.from_dense(head.weight, head.bias, chosen.classes)
        result[k] = evaluate_head(decomposed, features, labels, head.num_classes)
    return result
