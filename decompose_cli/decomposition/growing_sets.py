"""Predictions of many heads whose classes use nearly the same features, each from the logits of the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from decompose_cli.features.blocks import VALUES_AT_ONCE, in_blocks
from decompose_cli.models.decomposed import subspace_logits
from decompose_cli.models.network import HeadTensors
from decompose_cli.sparse.problem import fitting_device

_INDICES_AT_ONCE = 1 << 26  # of the sets of heads that are evaluated together: 128 MB of int16
_PREDICTIONS_AT_ONCE = 1 << 26  # 128 MB of int16
_CHANGES_AT_ONCE = 1 << 24  # features that classes gain and lose from head to head: 128 MB with their weights
_WEIGHTS_AT_ONCE = 1 << 25  # where they gain and lose many, of whole matrices: 128 MB
_WIDTH = 4  # numbers of a block for each logit: a core keeps a megabyte of logits in its cache
_DENSE_SHARE = 12
"""A product of dense matrices takes as long as lookups of a twelfth of the features (see DecomposedLinear)."""
_ENOUGH_IMAGES = 16
_UNIT = 2.0**-24  # by which an operation in float32 may be wrong


def predictions_of_orders(
    features: Tensor,
    head: HeadTensors,
    orders: Iterable[tuple[int, Tensor]],
    device: torch.device | str = "cpu",
    held: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Predictions of heads that keep k features of each class of a dense head, for ascending k.

    Logits of one k come from those of the k before by what each class gains and loses, and so differ by rounding from
    those of :class:`~decompose_cli.models.decomposed.DecomposedLinear`. By how much at most is known: any sum of
    products w_j x_j over different j, in any order, is at most B = |w| |x|, and m operations in float32 are wrong by at
    most m B / 2^24 together. Images whose two largest logits are nearer than that are done again as DecomposedLinear
    does them, so that predictions are those of each head alone.

    Heads are evaluated together as far as their sets, predictions and differences fit into 600 MB; the features are
    gone through once for all of these.

    Args:
        features: Features (N, D), N >= 1.
        head: The full head.
        orders: Each k with the features of each class, best first, int64 (C, k).
        device: Where logits are made.
        held: Classes that keep all features, whatever their row of ``orders`` says, bool (C,); None for none.

    Yields:
        Each k, and the predicted classes, int64 (N,).
    """
    device = fitting_device(device)
    held = None if held is None else held.to(device)
    group = _Group(head, device, len(features), held)
    for k, order in orders:
        if not group.add(k, order):
            yield from _evaluated(features, group, device)
            group = _Group(head, device, len(features), held)
            group.add(k, order)
    if group.orders:
        yield from _evaluated(features, group, device)


def _smallest(count: int) -> torch.dtype:
    """A type of number for indices below a count."""
    return torch.int16 if count <= 1 << 15 else torch.int32


@dataclass(frozen=True)
class _Change:
    """How the logits of a head come from those of the one before.

    Attributes:
        terms: The most products that a class gains and loses.
        features: Features that are gained or lost, class by class, int32.
        starts: Where each class begins among them, int32 (C,).
        weights: Their weights, negative where a feature is lost.
    """

    terms: int
    features: Tensor
    starts: Tensor
    weights: Tensor


class _Group:
    """Heads that are evaluated together.

    What they gain and lose lies in two tensors, made once: many small ones between large ones that come and go would
    keep the memory of these.

    Attributes:
        weight: Weight (C, D) of the full head, on the device.
        bias: Its bias (C,), there too.
        held: Classes that keep all features, bool (C,), there too; None for none.
        orders: Each k with the features of each class.
        steps: For each k a change, or weights (C, D) where classes change so much that a product with all is quicker.
    """

    def __init__(self, head: HeadTensors, device: torch.device, images: int, held: Tensor | None) -> None:
        self.held = held
        self.weight, self.bias = head.weight.to(device), head.bias.to(device)
        self.orders: list[tuple[int, Tensor]] = []
        self.steps: list[_Change | Tensor] = []
        self._most_heads = max(1, _PREDICTIONS_AT_ONCE // images)
        self._used = torch.zeros_like(self.weight, dtype=torch.bool)
        self._indices, self._whole = 0, 0
        self._features = torch.empty(0, dtype=torch.int32, device=device)
        self._weights = self.weight.new_empty(0)
        self._filled = 0

    def add(self, k: int, order: Tensor) -> bool:
        """Add a head with features (C, k), and return True, where there is room for it; there is for the first."""
        if self.orders and (self._indices + order.numel() > _INDICES_AT_ONCE or len(self.orders) == self._most_heads):
            return False
        uses = torch.zeros_like(self._used).scatter_(1, order.to(self.weight.device, torch.int64), True)
        if self.held is not None:
            uses[self.held] = True
        classes, features = (uses ^ self._used).nonzero(as_tuple=True)
        if len(classes) * _DENSE_SHARE > uses.numel():
            if self._whole and (self._whole + 1) * uses.numel() > _WEIGHTS_AT_ONCE:
                return False
            self._whole += 1
            self.steps.append(self.weight * uses)
        else:
            stop = self._filled + len(classes)
            if stop > max(len(self._weights), _CHANGES_AT_ONCE) and self._filled:
                return False
            if stop > len(self._weights):
                self._features = self._features.new_empty(max(stop, _CHANGES_AT_ONCE))
                self._weights = self._weights.new_empty(len(self._features))
            counts = torch.bincount(classes, minlength=len(uses))
            own = slice(self._filled, stop)
            self._features[own] = features
            self._weights[own] = torch.where(uses[classes, features], 1, -1) * self.weight[classes, features]
            starts = (counts.cumsum(0) - counts).int()
            self.steps.append(_Change(int(counts.max()), self._features[own], starts, self._weights[own]))
            self._filled = stop
        self._used = uses
        self._indices += order.numel()
        self.orders.append((k, order.to(_smallest(uses.shape[1]))))
        return True


def _evaluated(features: Tensor, group: _Group, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    weight, bias, orders, steps = group.weight, group.bias, group.orders, group.steps
    longest, largest = float(weight.double().norm(dim=1).max()), float(bias.double().abs().max())
    predicted = torch.empty(len(orders), len(features), dtype=_smallest(len(bias)))
    near = torch.zeros(predicted.shape, dtype=torch.bool)
    doing = f"Heads of {orders[0][0]} to {orders[-1][0]} features"
    with torch.inference_mode():
        for rows, block in in_blocks(features, device=device, width=_WIDTH * len(bias), doing=doing):
            table = block.t().contiguous()
            bound = torch.linalg.vector_norm(block, dim=1, dtype=torch.float64) * longest + largest
            logits = bias[:, None].repeat(1, len(block))
            found, operations = logits[:1].argmax(0, keepdim=True), 1
            for place, ((k, _), step) in enumerate(zip(orders, steps, strict=True)):
                k = k if group.held is None else weight.shape[1]  # the longest sum
                if isinstance(step, Tensor):
                    logits, operations = torch.addmm(bias[:, None], step, table), k + 1
                else:
                    more = (step.features, table, step.starts)
                    logits += F.embedding_bag(*more, per_sample_weights=step.weights, mode="sum")
                    operations += step.terms + 1
                gap = _gap(logits, found)
                # Both logits, made in either way, and one operation for a rounding of the bound itself.
                margin = 2 * _UNIT * (operations + k + 2) * bound
                predicted[place, rows] = found[0].to(predicted)
                near[place, rows] = (gap <= margin).cpu()
        for place, (k, order) in enumerate(orders):
            if len(numbers := near[place].nonzero()[:, 0]) > 0:
                order = order.to(device, torch.int64)
                own = weight.gather(1, order)
                if group.held is not None:
                    order, own = _padded(order, own, weight, group.held)
                for some, block in _enough(features, numbers, len(bias)):
                    logits = subspace_logits(block.to(device), own, bias, order)
                    predicted[place, some] = logits.argmax(1)[: len(some)].to(predicted)
            yield k, predicted[place].long()


def _padded(order: Tensor, own: Tensor, weight: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and weights (C, D) of a head as DecomposedLinear has them, where some classes keep all features."""
    wide = order[:, :1].repeat(1, weight.shape[1])
    wide[:, : order.shape[1]] = order
    padded = torch.zeros_like(weight)
    padded[:, : order.shape[1]] = own
    wide[held] = torch.arange(weight.shape[1], device=wide.device)
    padded[held] = weight[held]
    return wide, padded


def _gap(logits: Tensor, found: Tensor) -> Tensor:
    """How far the largest logit of each column is above the second, (n,); ``found``, (1, n), becomes its row.

    Most columns keep their row from step to step, and a maximum without its place is found many times as fast.
    """
    best = logits.amax(0, keepdim=True)
    moved = (logits.gather(0, found) != best)[0].nonzero()[:, 0]
    found[0, moved] = logits[:, moved].argmax(0)
    logits.scatter_(0, found, -torch.inf)
    gap = (best - logits.amax(0))[0]
    logits.scatter_(0, found, best)
    return gap


def _enough(features: Tensor, numbers: Tensor, num_classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images by their numbers in portions, and the features of each, repeated where there are few.

    A head rounds a handful of images differently from many, because of how processors take them in groups.
    """
    step = max(1, VALUES_AT_ONCE // max(features.shape[1], num_classes))
    for some in torch.split(numbers, step):
        yield some, features[some.repeat(-(-_ENOUGH_IMAGES // len(some)))]
