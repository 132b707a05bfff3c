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

from collections.abc import Iterator
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
        difference: Noise minus features, (D, m).
        sign: 1 where sets take in the noise, -1 where they take in the features: features change by sign * difference.
        inside: What is in the sets, (D, m).
        outside: What is everywhere else, (D, m).
    """

    values: Tensor
    difference: Tensor
    sign: int
    inside: Tensor
    outside: Tensor

    def of_columns(self, columns: Tensor) -> _Side:
        """The same of some images."""
        values, difference, inside, outside = (
            part.index_select(1, columns) for part in (self.values, self.difference, self.inside, self.outside)
        )
        return _Side(values, difference, self.sign, inside, outside)


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
        if times > 1:
            given, base = given.repeat(1, times), base.repeat(1, times)
        difference = drawn - given
        at = _Side(base, difference, 1, drawn, given)
        elsewhere = _Side(self.logits(drawn), difference, -1, given, drawn)
        if len(self.head.weight) <= _FEW_CLASSES or self.sets.shape[1] == 0:
            first, second = self._in_full((at, elsewhere), self.sets)
            return first, second
        own = self.head.by_feature[:, self.number, None]
        # What each feature can change at most for any other class, and at least.
        bounds = (self.head.highest[:, None] - own) * difference, (self.head.lowest[:, None] - own) * difference
        return self._by_bounds(at, *bounds), self._by_bounds(elsewhere, *bounds)

    def _by_bounds(self, side: _Side, one: Tensor, other: Tensor) -> Tensor:
        head, number = self.head, self.number
        lead = side.values - side.values[number]
        lead[number] = -torch.inf
        ahead, leader = lead.max(0)
        largest = torch.maximum(one, other) if side.sign > 0 else torch.minimum(one, other).neg_()
        most = functional.embedding_bag(self.sets, largest, mode="sum")
        of_leader = (head.weight[leader].t() - head.by_feature[:, number, None]).mul_(side.difference)
        change = side.sign * functional.embedding_bag(self.sets, of_leader, mode="sum")
        allowance = _ROUNDING * (1 + side.values.abs().amax(0) + most)
        kept = ahead + most < -allowance
        is_open = ~(kept | (ahead + change > allowance))
        opened = is_open.any(1).nonzero()[:, 0]
        # The class's own set comes alone: with its strongest features it leaves more images open than random ones do.
        for some in (opened[opened == 0], *torch.split(opened[opened > 0], _SETS_AT_ONCE)):
            if len(some) == 0:
                continue
            columns = is_open[some].any(0).nonzero()[:, 0]
            reach = (lead[:, columns] + (most + allowance)[some][:, columns].amax(0) >= 0).any(1)
            reach[number] = True
            part = (side.of_columns(columns),)
            kept[some[:, None], columns] = self._in_full(part, self.sets[some], reach.nonzero()[:, 0])[0]
        return kept

    def _in_full(self, sides: tuple[_Side, ...], sets: Tensor, classes: Tensor | None = None) -> list[Tensor]:
        """For each side of the same images, bool (s, m) by the logits of all classes, or of some with c among them.

        Args:
            sides: One side or both.
            sets: Some sets, int64 (s, k).
            classes: The classes, ascending; None for all.
        """
        head, position, values = self.head, self.number, [side.values for side in sides]
        bias, (amount, k), difference = head.bias, sets.shape, sides[0].difference
        if classes is not None:
            bias, values = bias[classes], [each[classes] for each in values]
            position = int((classes < position).sum())
        count, images = len(bias), difference.shape[1]
        # So many sets at a time that their logits stay in the cache of a core.
        largest = max(images * max(count, k if self.is_random else len(difference)), k * count, 1)
        limit = self.values_at_once if self.device.type != "cpu" else min(self.values_at_once, _VALUES_IN_CACHE)
        step = max(1, limit // largest)
        kept = [torch.empty(amount, images, dtype=torch.bool, device=self.device) for _ in sides]
        for start in range(0, amount, step):
            some = slice(start, start + step)
            for found, logits in zip(kept, self._logits_of(sides, values, sets[some], classes, bias), strict=True):
                found[some] = _is_largest(logits, position)
        return kept

    def _logits_of(
        self, sides: tuple[_Side, ...], values: list[Tensor], sets: Tensor, classes: Tensor | None, bias: Tensor
    ) -> Iterator[Tensor]:
        """The logits of each side with each set, (s, C, m)."""
        head, (amount, k), difference = self.head, sets.shape, sides[0].difference
        if self.is_random:
            chosen = sets.flatten()
            columns = head.by_feature[chosen]
            if classes is not None:
                columns = columns.index_select(1, classes)
            columns = columns.view(amount, k, len(bias)).transpose(1, 2)
            product = columns @ difference[chosen].view(amount, k, difference.shape[1])
            for side, before in zip(sides, values, strict=True):
                yield torch.add(before, product, alpha=side.sign)
            return
        replaced = torch.zeros(amount, len(difference), 1, dtype=torch.bool, device=self.device)
        replaced[:, :, 0].scatter_(1, sets, value=True)
        weight = head.weight if classes is None else head.weight[classes]
        for side in sides:
            yield weight @ torch.where(replaced, side.inside, side.outside) + bias[:, None]


def _is_largest(logits: Tensor, number: int) -> Tensor:
    """Whether the class has the largest logit, the first among equals: (sets, C, n) to bool (sets, n)."""
    own = logits[:, number]
    kept = torch.ones_like(own, dtype=torch.bool)
    if number > 0:
        kept &= own > logits[:, :number].amax(1)
    if number + 1 < logits.shape[1]:
        kept &= own >= logits[:, number + 1 :].amax(1)
    return kept
