"""What a Python program has in memory, in the place of the names that a command line gives."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from torch import Tensor
from typing_extensions import override

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.errors import InputError
from decompose_cli.features.bank import FeatureBank
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.classifier import Classifier
from decompose_cli.models.network import HeadTensors
from decompose_cli.preprocessing import IMAGENET, ImageOptions, Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS = ("train", "test", "val")


class FeatureRows(ImageDataset):
    """Features that were computed before, as a data set; images of it can be looked at where they are at hand.

    Args:
        name: What messages and results call the images.
        split: ``train``, ``val`` or ``test``.
        features: Features, float32 (N, D).
        labels: Outputs of the network, int64 (N,).
        class_names: Names of the outputs.
        images: The images, in the same order.
        seen: What happens to images before the network sees them, where that is known.
    """

    are_outputs = True

    def __init__(
        self,
        name: str,
        split: str,
        features: Tensor,
        labels: Tensor,
        class_names: Sequence[str],
        images: ImageDataset | None = None,
        seen: Preprocessing | None = None,
    ) -> None:
        self.name, self.split, self.class_names = name, split, tuple(class_names)
        self.features, self._labels = features, labels
        self.images, self.seen = images, seen
        self.preprocessing = seen or IMAGENET  # which nothing asks for without a network

    @override
    def fingerprint(self) -> str:
        return self.images.fingerprint() if self.images is not None else self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.features.shape)).encode())
        for tensor in (self.features, self._labels):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    @override
    def labels(self) -> Tensor:
        return self._labels

    @override
    def __len__(self) -> int:
        return len(self._labels)

    @override
    def in_memory(self) -> Tensor | None:
        return None if self.images is None else self.images.in_memory()

    @override
    def image(self, index: int) -> Image:
        if self.images is None:
            self._refuse()
        return self.images.image(index)

    @override
    def subset(self, numbers: Tensor) -> ImageDataset:
        return FeatureRows(
            self.name,
            self.split,
            self.features[numbers],
            self._labels[numbers],
            self.class_names,
            None if self.images is None else self.images.subset(numbers),
            self.seen,
        )

    @override
    def file_of(self, number: int) -> str | None:
        return None if self.images is None else self.images.file_of(number)

    def _refuse(self) -> NoReturn:
        raise InputError(
            f"These features of {self.name} are without their images, which this looks at.",
            hint="Give the images themselves: a data set of load_dataset, or a DataLoader.",
        )


class GivenFeatures:
    """Features that were computed before, in the place of those that :class:`.kept.KeptFeatures` finds."""

    state: Literal["off"] = "off"
    computed_on = "memory"
    left_out: Sequence[int] = ()

    def __init__(self, rows: FeatureRows, head: HeadTensors) -> None:
        self.bank = FeatureBank(rows.features, rows.labels, head)

    @property
    def head(self) -> HeadTensors:
        """Parameters of the head."""
        return self.bank.head

    @property
    def labels(self) -> Tensor:
        """Labels, int64 (N,)."""
        return self.bank.labels

    def release(self) -> None:
        """Nothing: the features are the program's."""


@dataclass(frozen=True)
class HeldInputs(Inputs):
    """Inputs with an open network and images in memory; names are what messages and results say.

    Attributes:
        classifier: The network.
        head_of: The head that given features enter; None for that of the network.
        splits: Images, or features that were computed of them, by the name of the split.
        chosen: Preprocessing that was chosen for the network's images.
        is_from_registry: Whether the network was made by its name.
        stated: Which output of the network a class of the data set is, for classes whose names do not say it.
    """

    classifier: Classifier | None = field(default=None, repr=False)
    head_of: HeadTensors | None = field(default=None, repr=False)
    splits: Mapping[str, ImageDataset] = field(default_factory=dict, repr=False)
    chosen: ImageOptions = field(default_factory=ImageOptions)
    is_from_registry: bool = False
    stated: Mapping[str, str | int] | None = field(default=None, repr=False)

    @property
    @override
    def can_be_named(self) -> bool:
        return self.is_from_registry

    @override
    def splits_of(self, dataset: str) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if split in self.splits)

    @override
    def open_dataset(self, dataset: str, split: str) -> ImageDataset:
        return self.splits[split]

    @override
    def image_options(self) -> ImageOptions:
        return self.chosen

    @override
    def stated_classes(self) -> Mapping[str, str | int] | None:
        return self.stated

    @override
    def as_arguments(self) -> dict[str, Any]:
        plain = Inputs(**{each.name: getattr(self, each.name) for each in dataclasses.fields(Inputs)})
        return plain.as_arguments()
