"""Features of labelled images, for everything that ranks features or fits to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from decompose_cli.errors import InputError, first_few, param
from decompose_cli.features.blocks import in_blocks
from decompose_cli.messages import note

if TYPE_CHECKING:
    from torch import Tensor

Order = Literal["highest", "lowest"]
ORDERS: tuple[Order, ...] = get_args(Order)
DEFAULT_L2 = 1e-3
LARGEST_L2 = 1e12
"""Strengths of a penalty beyond it are refused: weights are zero long before, and squares of it leave float32."""


@dataclass(frozen=True)
class LabelledFeatures:
    """The data that rankings are made from.

    Attributes:
        features: Features (N, D), finite.
        labels: Labels, int64 (N,), in 0..C-1.
        weight: Weight (C, D) of the full head, for the rankings that use it.
        class_names: C names, for messages.
        gates: Class-specific gates (C, D), for the ranking ``csg``.
        order: Whether ``csg`` takes the highest gates or the lowest.
        bias: Bias (C,) of the full head, where fits begin with it.
        l2: Strength of the penalty of the fits that some rankings are made of.
        held: Classes without images whose rows of the full head stay as they are in fits, bool (C,); None for none.
        image_weights: How much each image counts in fits, positive, (N,); by default 1.
        targets: Shares of the classes that fits aim at in place of the labels, (N, C), rows that sum to one.
        device: Where fits run; the tensors here are on the CPU.
    """

    features: Tensor
    labels: Tensor
    weight: Tensor | None
    class_names: Sequence[str]
    gates: Tensor | None = None
    order: Order = "highest"
    bias: Tensor | None = None
    l2: float = DEFAULT_L2
    held: Tensor | None = None
    image_weights: Tensor | None = None
    targets: Tensor | None = None
    device: str = "cpu"

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def num_features(self) -> int:
        """Number of features D."""
        return self.features.shape[1]

    @cached_property
    def has_negative(self) -> bool:
        """Whether any feature of any image is negative."""
        return any(bool((block < 0).any()) for _, block in in_blocks(self.features))

    def of_images(self, numbers: Tensor) -> LabelledFeatures:
        """The same of some images, int64 (n,)."""
        return dataclasses.replace(
            self,
            features=self.features[numbers],
            labels=self.labels[numbers],
            image_weights=None if self.image_weights is None else self.image_weights[numbers],
            targets=None if self.targets is None else self.targets[numbers],
        )

    def of_features(self, columns: Tensor) -> LabelledFeatures:
        """The same with some features alone, int64 (P,)."""
        return dataclasses.replace(
            self,
            features=self.features[:, columns],
            weight=None if self.weight is None else self.weight[:, columns],
            gates=None if self.gates is None else self.gates[:, columns],
        )

    def of_classes(self, numbers: Tensor) -> LabelledFeatures:
        """The same with some classes alone, int64 (c,), ascending, to which all images belong, for rankings."""
        return LabelledFeatures(
            self.features,
            places_in(numbers, self.num_classes)[self.labels],
            None if self.weight is None else self.weight[numbers],
            [self.class_names[number] for number in numbers.tolist()],
            None if self.gates is None else self.gates[numbers],
            self.order,
            None if self.bias is None else self.bias[numbers],
            self.l2,
            device=self.device,
        )

    def holding_empty(self) -> LabelledFeatures:
        """The same with the classes that have no images held, which is said.

        Raises:
            InputError: There are some, and no full head whose rows they could keep.
        """
        empty = self.labels.bincount(minlength=self.num_classes) == 0
        if not bool(empty.any()):
            return self
        if self.weight is None:
            check_classes(self.labels, self.class_names)
        return self.holding(empty)

    def holding(self, empty: Tensor) -> LabelledFeatures:
        """The same with these classes, bool (C,), held, which is said."""
        names = [self.class_names[number] for number in empty.nonzero()[:, 0].tolist()]
        note(
            f"There are no training images of {len(names)} of the {self.num_classes} classes ({first_few(names)}): "
            "such a class keeps its row of the full head, with all features."
        )
        return dataclasses.replace(self, held=empty)

    @property
    def present(self) -> Tensor:
        """Numbers of the classes that are not held, int64 (c,), ascending."""
        import torch

        return torch.arange(self.num_classes) if self.held is None else (~self.held).nonzero()[:, 0]

    def places(self, labels: Tensor) -> Tensor:
        """Class numbers, int64 (n,), as those among the classes that are not held; -1 for one that is."""
        return labels if self.held is None else places_in(self.present, self.num_classes)[labels]

    def for_fits(self) -> LabelledFeatures:
        """The same with targets for fits, where classes are held and no others were asked for.

        Targets are the label, but for the share that the full head gives to classes that are held. No image speaks for
        such a class, so with labels alone the biases of the others would rise together until it is never predicted;
        with these its mean probability stays what it is under the full head.
        """
        if self.held is None or self.targets is not None or self.weight is None:
            return self
        targets = self.full_probabilities(self.held)
        rest = 1 - targets.sum(1, keepdim=True)
        return dataclasses.replace(self, targets=targets.scatter_(1, self.labels[:, None], rest))

    def full_probabilities(self, of: Tensor | None = None) -> Tensor:
        """What the full head says of each image, (N, C); 0 for other classes than ``of``, bool (C,), if given."""
        import torch

        assert self.weight is not None
        assert self.bias is not None
        result = self.features.new_empty(len(self.labels), self.num_classes)
        for rows, block in in_blocks(self.features, width=self.num_classes):
            found = torch.softmax(torch.addmm(self.bias, block, self.weight.t()), 1)
            result[rows] = found if of is None else torch.where(of, found, 0.0)
        return result


def places_in(numbers: Tensor, num_classes: int) -> Tensor:
    """The place of each of C classes among some, whose numbers are int64 (c,); -1 for the others; int64 (C,)."""
    import torch

    places = torch.full((num_classes,), -1)
    places[numbers] = torch.arange(len(numbers))
    return places


def check_l2(l2: float) -> None:
    """Refuse what is no strength of a penalty.

    Raises:
        InputError: It is no positive number, or so large that numbers overflow.
    """
    if not 0 < l2 < float("inf"):
        raise InputError(f"{param('l2')} {l2} is not a positive number.")
    if l2 > LARGEST_L2:
        raise InputError(f"{param('l2')} {l2:g} is more than {LARGEST_L2:g}, where every weight is zero.")


def check_classes(labels: Tensor, class_names: Sequence[str]) -> None:
    """Refuse images that leave a class without any.

    Raises:
        InputError: A class has no images; the sentence names the first such classes.
    """
    empty = (labels.bincount(minlength=len(class_names)) == 0).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f"There are no images in this split for {len(empty)} of the network's {len(class_names)} classes "
            f"({first_few(class_names[number] for number in empty)}), so features cannot be ranked.",
            hint=f"Use images of all classes, or {param('classes')} present for a head of those that have some.",
        )


def check_gates(
    gates: Tensor | None, num_classes: int, num_features: int, source: str = "the weights file", method: str = "csg"
) -> Tensor:
    """Return class-specific gates, unless they are missing or belong to another network.

    Raises:
        InputError: There are no gates, they are no real numbers, or their shape is not (classes, features).
    """
    if gates is None:
        raise InputError(
            f"The method {method!r} needs class-specific gates, a matrix 'csg' in {source}; there is none."
        )
    if tuple(gates.shape) != (num_classes, num_features):
        raise InputError(
            f"The gates 'csg' in {source} have the shape {tuple(gates.shape)}, but the network has {num_classes} "
            f"classes and {num_features} features."
        )
    if not gates.is_floating_point():
        raise InputError(
            f"The gates 'csg' in {source} are {str(gates.dtype).removeprefix('torch.')}, not real numbers."
        )
    return gates
