"""Which noisy images keep their class, for many sets of features that the noise is put on.

For a set S the logits are those of all features, v, and the change W[:, S] d[S] that S makes, with d the difference of
its values. Of these C logits one alone is of interest as a rule: whether class c stays the largest is settled

- against it, if the class that leads before does so with its change;
- for it, if the lead of c is more than all that S can change: with g_j the largest W_lj - W_cj of all classes l and h_j
  the smallest, no other class gains more on c than the sum of max(g_j d_j, h_j d_j) over S.

Both cost k additions where the logits cost k C multiplications. What is left open, and all of few classes, is computed
in full, for the classes alone that can still be ahead of c. What rounding might decide is left open.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

VALUES_AT_ONCE = 1 << 24
"""Elements of the largest of a handful of temporary tensors: 64 MB of float32."""
_VALUES_IN_CACHE = 1 << 18
_FEW_CLASSES = 64  # so few that their logits are computed sooner than bounds of them
_SETS_AT_ONCE = 8  # of those that are left open: the more at once, the more images are open in one of them
_ROUNDING = 1e-4  # of logits in float32, with a wide margin


@dataclass(frozen=True)
class FullHead:
    """A full head on the device that computes.

    Attributes:
        weight: W, (C, D).
        by_feature: The same, (D, C) in memory.
        bias: b, (C,).
        highest: The largest weight on each feature, (D,).
        lowest: The smallest, (D,).
    """

    weight: Tensor
    by_feature: Tensor
    bias: Tensor
    highest: Tensor
    lowest: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> FullHead:
        """The head with these parameters."""
        return cls(weight, weight.t().contiguous(), bias, weight.amax(0), weight.amin(0))


@dataclass(frozen=True)
class _Side:
    """Images with noise on some places: those of the sets, or all but those.

    Attributes:
        values: Logits before the sets change anything, (C, m).
        change: What features change by where a set has them, (D, m).
        inside: Features in the sets, (D, m).
        outside: All other features, (D, m).
    """

    values: Tensor
    change: Tensor
    inside: Tensor
    outside: Tensor

    def of_columns(self, columns: Tensor) -> _Side:
        """The same of some images."""
        parts = (self.values, self.change, self.inside, self.outside)
        return _Side(*(part.index_select(1, columns) for part in parts))


class Judge:
    """Says of images of one class whether they are assigned to it under noise, with each of several sets.

    Images are the last dimension throughout, so that everything but the products runs along rows of memory.

    Args:
        head: The full head.
        number: The class, c.
        sets: The sets, int64 (s, k), on the device of the head.
        values_at_once: Upper limit of the elements of a temporary tensor.
        is_random: Whether the noise is. If not, noisy features may be equal, and with them logits, which are then
            computed at length: differences would leave rounding where nothing is left.
    """

    def __init__(self, head: FullHead, number: int, sets: Tensor, values_at_once: int, *, is_random: bool) -> None:
        self.head, self.number, self.sets = head, number, sets
        self.values_at_once, self.is_random = values_at_once, is_random

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.head.weight.device

    @property
    def columns_at_once(self) -> int:
        """So many images that neither their noise (D, m) nor their logits (C, m) pass the limit."""
        return max(1, self.values_at_once // max(self.head.weight.shape))

    def logits(self, features: Tensor) -> Tensor:
        """Logits (C, m) of features (D, m)."""
        return self.head.weight @ features + self.head.bias[:, None]

    def is_right(self, logits: Tensor) -> Tensor:
        """Whether the class has the largest logit, the first among equals: (C, m) to bool (m,)."""
        return _is_largest(logits[None], self.number)[0]

    def kept(self, given: Tensor, base: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Which images stay in the class with noise on the sets, and with noise elsewhere.

        Args:
            given: Features (D, n).
            base: Their logits (C, n).
            drawn: Noise for these images, once or several times, (D, r n).

        Returns:
            Twice bool (s, r n).
        """
        times = drawn.shape[1] // given.shape[1]
        given, base = given.repeat(1, times), base.repeat(1, times)
        change = drawn - given
        at = _Side(base, change, drawn, given)
        elsewhere = _Side(self.logits(drawn), -change, given, drawn)
        if len(self.head.weight) <= _FEW_CLASSES or self.sets.shape[1] == 0:
            return self._in_full(at), self._in_full(elsewhere)
        return self._by_bounds(at), self._by_bounds(elsewhere)

    def _by_bounds(self, side: _Side) -> Tensor:
        head, number = self.head, self.number
        lead = side.values - side.values[number]
        lead[number] = -torch.inf
        ahead, leader = lead.max(0)
        own = head.by_feature[:, number, None]
        largest = torch.maximum((head.highest[:, None] - own) * side.change, (head.lowest[:, None] - own) * side.change)
        most = functional.embedding_bag(self.sets, largest, mode="sum")
        of_leader = (head.weight[leader].t() - own).mul_(side.change)
        allowance = _ROUNDING * (1 + side.values.abs().amax(0) + most)
        is_lost = ahead + functional.embedding_bag(self.sets, of_leader, mode="sum") > allowance
        kept = ahead + most < -allowance
        is_open = ~(is_lost | kept)
        opened = is_open.any(1).nonzero()[:, 0]
        # The class's own set comes alone: with its strongest features it leaves more images open than random ones do.
        for some in (opened[opened == 0], *torch.split(opened[opened > 0], _SETS_AT_ONCE)):
            if len(some) == 0:
                continue
            columns = is_open[some].any(0).nonzero()[:, 0]
            reach = (lead[:, columns] + (most + allowance)[some][:, columns].amax(0) >= 0).any(1)
            reach[number] = True
            part, near = side.of_columns(columns), reach.nonzero()[:, 0]
            kept[some[:, None], columns] = self._in_full(part, self.sets[some], near)
        return kept

    def _in_full(self, side: _Side, sets: Tensor | None = None, classes: Tensor | None = None) -> Tensor:
        """The same by the logits of all classes, or of some, ascending, with the class itself among them."""
        head, position = self.head, self.number
        bias, values = head.bias, side.values
        sets = self.sets if sets is None else sets
        if classes is not None:
            bias, values = bias[classes], values[classes]
            position = int((classes < position).sum())
        (amount, k), count, images = sets.shape, len(bias), side.change.shape[1]
        # So many sets at a time that their logits stay in the cache of a core.
        largest = max(images * max(count, k if self.is_random else len(side.change)), k * count, 1)
        limit = self.values_at_once if self.device.type != "cpu" else min(self.values_at_once, _VALUES_IN_CACHE)
        kept = torch.empty(amount, images, dtype=torch.bool, device=self.device)
        for start in range(0, amount, max(1, limit // largest)):
            some = slice(start, start + max(1, limit // largest))
            if self.is_random:
                chosen = sets[some].flatten()
                columns = head.by_feature[chosen]
                if classes is not None:
                    columns = columns.index_select(1, classes)
                columns = columns.view(len(sets[some]), k, count).transpose(1, 2)
                logits = torch.baddbmm(values, columns, side.change[chosen].view(len(columns), k, images))
            else:
                replaced = torch.zeros(len(sets[some]), len(side.change), 1, dtype=torch.bool, device=self.device)
                replaced[:, :, 0].scatter_(1, sets[some], value=True)
                weight = head.weight if classes is None else head.weight[classes]
                logits = weight @ torch.where(replaced, side.inside, side.outside) + bias[:, None]
            kept[some] = _is_largest(logits, position)
        return kept


def _is_largest(logits: Tensor, number: int) -> Tensor:
    """Whether the class has the largest logit, the first among equals: (sets, C, n) to bool (sets, n)."""
    own = logits[:, number]
    kept = torch.ones_like(own, dtype=torch.bool)
    if number > 0:
        kept &= own > logits[:, :number].amax(1)
    if number + 1 < logits.shape[1]:
        kept &= own >= logits[:, number + 1 :].amax(1)
    return kept
