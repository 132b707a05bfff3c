"""What a head says when one feature at a time is left out of all classes that use it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from decompose_cli.decomposition.metrics import Predictions
from decompose_cli.features.blocks import in_blocks
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.sparse.problem import fitting_device

_FIRST = 8
"""Classes with the largest logits that are kept for each image: nearly always one of them lacks a feature."""


@dataclass(frozen=True)
class Without:
    """The predictions of a head as it stands, and without each of some features.

    Attributes:
        whole: With all features.
        predicted: Class number per feature and image, int32 (F, N).
        features: The features, in the order of the rows.
    """

    whole: Predictions
    predicted: Tensor
    features: tuple[int, ...]

    def feature(self, feature: int) -> Predictions:
        """The predictions without this feature."""
        return Predictions(self.predicted[self._rows[feature]], self.whole.labels)

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {feature: row for row, feature in enumerate(self.features)}


def leave_out_each(
    head: DecomposedLinear,
    features: Tensor,
    labels: Tensor,
    users: Mapping[int, Mapping[int, float]],
    device: torch.device | str = "cpu",
) -> Without:
    """Leave each feature out, alone, of all classes that use it, and see what is predicted then.

    With z_c the logit of class c in float64, w_cj its weight of feature j and x_j the feature, z_c - w_cj x_j is the
    logit without j. Only the classes that use j have another logit then; of all others the best is looked up among the
    classes with the largest logits of an image, which are sorted once. So a feature costs as much as the classes that
    use it, not as all classes do.

    Args:
        head: The head.
        features: Features (N, D), N >= 1.
        labels: Class numbers, int64 (N,).
        users: For each feature that is left out its weights by class number, at least one.
        device: Where logits are made; for mps on the CPU, as mps has no float64.

    Returns:
        Predictions with float64 logits, the lowest class of equal ones.
    """
    device, num_classes = fitting_device(device), len(head.bias)
    exact = deepcopy(head).to(device).double()
    used = {
        feature: (torch.tensor(sorted(by_class), device=device), _in_order(by_class).to(device))
        for feature, by_class in users.items()
    }
    whole = torch.empty(len(labels), dtype=torch.int64)
    predicted = torch.empty(len(users), len(labels), dtype=torch.int32)
    for rows, block in in_blocks(features, device=device, width=num_classes, doing="Leaving features out"):
        with torch.inference_mode():
            logits = exact(block)
            top = logits.sort(dim=1, descending=True, stable=True).indices[:, :_FIRST]
            whole[rows] = top[:, 0].cpu()
            for row, (feature, (classes, weights)) in enumerate(used.items()):
                changed = logits[:, classes] - block[:, feature, None].double() * weights
                predicted[row, rows] = _best(logits, top, changed, classes).int().cpu()
    return Without(Predictions(whole, labels), predicted, tuple(users))


def _in_order(by_class: Mapping[int, float]) -> Tensor:
    return torch.tensor([by_class[c] for c in sorted(by_class)], dtype=torch.float64)


def _best(logits: Tensor, top: Tensor, changed: Tensor, classes: Tensor) -> Tensor:
    """The class with the largest logit of each image where some classes have changed; the lowest of equal ones.

    Args:
        logits: Logits (n, C) as they were.
        top: The classes with the largest of them, the largest first, (n, m).
        changed: New logits of some classes, (n, u).
        classes: These classes, ascending, (u,).
    """
    has_changed = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    has_changed[classes] = True
    new = changed.argmax(1, keepdim=True)
    own, own_class = changed.gather(1, new)[:, 0], classes[new[:, 0]]
    if bool(has_changed.all()):
        return own_class
    is_kept = ~has_changed[top]
    other_class = top.gather(1, is_kept.int().argmax(1, keepdim=True))[:, 0]
    unseen = (~is_kept.any(1)).nonzero()[:, 0]  # all classes that were looked at have changed
    if len(unseen):
        other_class[unseen] = logits[unseen].masked_fill(has_changed, -torch.inf).argmax(1)
    other = logits.gather(1, other_class[:, None])[:, 0]
    is_own = (own > other) | ((own == other) & (own_class < other_class))
    return torch.where(is_own, own_class, other_class)
