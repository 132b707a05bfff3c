"""What is studied of the classes of a network and a data set: all of them, or those that there are images of.

Where training images are of some classes alone, a study decides once what becomes of the others, and engines see the
result. ``class_map`` matches the data set's classes to outputs of the network (by the file ``--class-map``, else by
WordNet id or name), and ``present`` are the outputs with training images, the same for every split.

- ``--classes all``: network, head, class map and labels are of all outputs. :meth:`StudiedClasses.labelled`, from which
  features are chosen and weights are fitted, holds the classes without images: rankings give them all features
  (``IndexSet.whole``), and fits leave their rows as they are, with their share of the softmax.
- ``--classes present``: ``classifier``, ``head``, ``bank``, ``class_map`` and ``labels`` are of these outputs alone, as
  of a network that was built for them; images of other classes are left out. Features are cached for the whole network.

``part`` says which, for results, index files and checkpoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.classes import ClassMap
from decompose_cli.errors import DecomposeError, DownloadError, InputError, first_few, param
from decompose_cli.features import cache as feature_cache
from decompose_cli.features.bank import FeatureBank, rows_of
from decompose_cli.features.held import GivenFeatures
from decompose_cli.features.inputs import ALL, Inputs
from decompose_cli.features.kept import KeptFeatures
from decompose_cli.features.labelled import LabelledFeatures, Order, check_classes, check_gates
from decompose_cli.features.seen import class_names_of, matched
from decompose_cli.messages import note, warn
from decompose_cli.models.backbones import no_head
from decompose_cli.models.classifier import Classifier
from decompose_cli.models.network import HeadTensors
from decompose_cli.storage.result_document import PartOfClasses


class StudiedClasses(ABC):
    """A network, a split of a data set and the features of its images, with the classes that are studied.

    Attributes:
        inputs: Options that the user chose.
        stated_classes: What the class map says of the data set's classes; without one, what the network's checkpoint
            says of these, as it was made with one from this data set.
    """

    inputs: Inputs
    stated_classes: Mapping[str, str | int] | None
    device: torch.device
    _opened: Classifier
    _images: ImageDataset
    _has_read_features = False
    _cut_features: Tensor | None = None

    @property
    @abstractmethod
    def _kept(self) -> KeptFeatures | GivenFeatures:
        """Features, labels and head for all classes of the network."""

    @abstractmethod
    def other_split(self, split: str) -> StudiedClasses:
        """The same network on another split."""

    @cached_property
    def classifier(self) -> Classifier:
        """The network; of the classes that are present alone, where that was asked for."""
        return self._opened if self._keeps_all else self._opened.of_classes(self.present)

    @property
    def _keeps_all(self) -> bool:
        return self.inputs.classes == ALL

    @cached_property
    def dataset(self) -> ImageDataset:
        """The images, without those that cannot be read and may be left out, or whose classes are left out."""
        return self._images.without(self._left_out) if self._left_out else self._images

    @property
    def _unreadable(self) -> list[int]:
        return list(self._kept.left_out) if self.inputs.skip_unreadable is not None else []

    @cached_property
    def _left_out(self) -> list[int]:
        """Numbers in the split of images that are left out."""
        return sorted({*self._unreadable, *self._outside})

    @cached_property
    def _outside(self) -> list[int]:
        """Numbers in the split of images whose classes are no part of the head."""
        if self._keeps_all:
            return []
        outputs = torch.tensor(self._whole_map.outputs)[self._kept.labels]
        outside = (~torch.isin(outputs, torch.tensor(self.present))).nonzero()[:, 0].tolist()
        if outside:
            names = self._whole_map.names
            shown = first_few(names[number] for number in torch.unique(outputs[outside]).tolist())
            what = f"{self._images.name} {self._images.split}"
            if len(outside) == len(outputs):
                raise InputError(f"{what} has no image of a class that has training images; its classes are {shown}.")
            warn(
                f"{len(outside):,} of the {len(outputs):,} images of {what} are of classes without training images "
                f"({shown}); they are left out, as {param('classes')} is present."
            )
        return outside

    def in_split(self, places: Sequence[int]) -> list[int]:
        """The numbers in the split, from 0, of images that have these places among those that are not left out."""
        if not self._left_out:
            return list(places)
        is_kept = torch.ones(len(self._images), dtype=torch.bool)
        is_kept[self._left_out] = False
        return is_kept.nonzero()[:, 0][list(places)].tolist()

    def label_in_split(self, number: int) -> int:
        """The network's class number of the image with this number in the split.

        Raises:
            InputError: Its class is left out.
        """
        label = int(self._kept.labels[number])
        output = self.class_map.outputs[label]
        if output < 0:
            raise InputError(
                f"Image number {number} of {self._images.name} {self._images.split} is of the class "
                f"{self._images.class_names[label]}, which has no training images.",
                hint=f"{param('classes')} all keeps such classes.",
            )
        return output

    @property
    def head(self) -> HeadTensors:
        """Parameters of the head; no image is run through the network for them."""
        return self._whole_head if self._keeps_all else self._cut_head

    @property
    @abstractmethod
    def _whole_head(self) -> HeadTensors:
        """The head for all classes of the network."""

    @cached_property
    def _cut_head(self) -> HeadTensors:
        return self._whole_head.of_classes(self.present)

    @property
    def bank(self) -> FeatureBank:
        """Features, labels of the data set and head; from the cache if they are there.

        Errors in the classes show before the network runs.
        """
        _ = self.class_map
        self._has_read_features = True
        bank = self._kept.bank
        return bank if self._keeps_all else self._cut(bank)

    def _cut(self, bank: FeatureBank) -> FeatureBank:
        """The same for the head of the classes that are present, without images of others."""
        features, is_inside = bank.features, self._is_inside
        if not bool(is_inside.all()):
            if self._cut_features is None:
                self._cut_features = rows_of(features, is_inside, feature_cache.features_folder())
            features = self._cut_features
        return FeatureBank(features, bank.labels[is_inside], self.head)

    @cached_property
    def _is_inside(self) -> Tensor:
        """Of the images that can be read, which are of classes that are not left out, bool."""
        is_inside = torch.ones(len(self._images), dtype=torch.bool)
        is_inside[self._outside] = False
        is_readable = torch.ones(len(self._images), dtype=torch.bool)
        is_readable[self._unreadable] = False
        return is_inside[is_readable]

    def release(self) -> None:
        """Let go of the features; they are read again where they are needed again."""
        self._kept.release()
        self._cut_features = None

    @cached_property
    def class_map(self) -> ClassMap:
        """The output of the network that belongs to each class of the data set."""
        return self._whole_map if self._keeps_all else self._whole_map.of_classes(self.present)

    @cached_property
    def _whole_map(self) -> ClassMap:
        """The same for all outputs."""
        classes, count = class_names_of(self._opened), self._whole_head.num_classes
        return matched(self._images, self._kept.labels, self._opened.name, classes, count, self.stated_classes)

    @property
    def _own_outputs(self) -> tuple[int, ...]:
        """The outputs whose classes have images in this split, whether these can be read or not."""
        return tuple(torch.unique(torch.tensor(self._whole_map.outputs)[self._kept.labels]).tolist())

    @cached_property
    def present(self) -> tuple[int, ...]:
        """The outputs whose classes have images where features are chosen: in the training split, if there is one."""
        return self._deciding._own_outputs

    @cached_property
    def _deciding(self) -> StudiedClasses:
        name = self._images.name
        if self._images.split == "train" or "train" not in self.inputs.splits_of(name):
            return self
        if ":" in name:  # its splits are looked for where it lies, so this one is there
            return self.other_split("train")
        try:
            return self.other_split("train")
        except InputError as error:
            _say_decided_here(self._images.split, error)
            return self

    @cached_property
    def part(self) -> PartOfClasses | None:
        """What was done about classes without images; None where every class has some.

        Where the network's checkpoint has fewer classes than the network it was made from, what it says of that.
        """
        outputs = self._whole_head.num_classes
        present = self._described_outputs if self._keeps_all else self.present
        if len(present) == outputs:
            metadata = self._opened.checkpoint.metadata if self._opened.checkpoint else None
            return metadata.part if metadata is not None else None
        names = [self._whole_map.names[number] for number in present]
        return PartOfClasses(
            policy="all" if self._keeps_all else "present", outputs=outputs, present=list(present), names=names
        )

    @property
    def _described_outputs(self) -> tuple[int, ...]:
        """:attr:`present` where no number depends on it, so that training images that cannot be had are no error."""
        own = self._own_outputs
        if len(own) == self._whole_head.num_classes:
            return own
        try:
            return self.present
        except (DownloadError, InputError) as error:
            _say_decided_here(self._images.split, error)
            return own

    def described_classes(self) -> dict[str, Any]:
        """What the description in a checkpoint says of the classes of a head."""
        names, ids = self.class_map.names, self.class_map.ids
        return {
            "num_classes": len(names),
            "class_names": list(names),
            "class_ids": None if ids is None else list(ids),
            "part": self.part,
            "class_map": self.described_map(),
        }

    def described_map(self) -> dict[str, str] | None:
        """What was stated of classes of the data set, in names of the head, whose numbers may be others, or None."""
        if not self.stated_classes:
            return None
        names, ids = self._images.class_names, self._images.class_ids or self._images.class_names
        rows = zip(names, ids, self.class_map.outputs, strict=True)
        stated = [(n, output) for n, i, output in rows if output >= 0 and {n, i}.intersection(self.stated_classes)]
        return {name: self.class_map.called(output) for name, output in stated}

    def rows_of_classes(self, matrix: Tensor) -> Tensor:
        """A matrix with a row for each class of the network, (C, any), with those of the classes of the head."""
        is_whole = len(matrix) == self._whole_head.num_classes
        return matrix[list(self.present)] if is_whole and not self._keeps_all else matrix

    @cached_property
    def labels(self) -> Tensor:
        """The network's class number of each image, int64 (N,)."""
        labels = torch.tensor(self.class_map.outputs)[self._dataset_labels]
        return labels if self._keeps_all else labels[self._is_inside]

    @property
    def _dataset_labels(self) -> Tensor:
        if self.inputs.skip_unreadable is None:
            return self._kept.labels
        return self._kept.bank.labels

    def labelled(self, *, images: bool = True, gates: bool = False, order: Order = "highest") -> LabelledFeatures:
        """The data that features are ranked by; classes without images are held, where there is a full head.

        Args:
            images: Whether features of images are needed; otherwise there are none, and no image is looked at.
            gates: Whether class-specific gates are needed.
            order: Whether the highest gates are taken or the lowest.

        Raises:
            InputError: Needed gates are missing or do not fit, or a class has no images and no row that it could keep.
        """
        head, checkpoint = self.head, self._opened.checkpoint
        matrix = self.rows_of_classes(checkpoint.csg) if checkpoint and checkpoint.csg is not None else None
        if gates:
            check_gates(matrix, head.num_classes, head.num_features, self._opened.weights_source)
        weight, bias = (None, None) if head.full is None else (head.full.weight, head.full.bias)
        names = self.class_map.names

        def made(features: Tensor, labels: Tensor) -> LabelledFeatures:
            return LabelledFeatures(features, labels, weight, names, matrix, order, bias, device=str(self.device))

        if images and weight is None:
            check_classes(self.labels, names)  # before the network runs
        if images:
            return made(self.bank.features, self.labels).holding_empty()
        data = made(torch.zeros(0, head.num_features), torch.zeros(0, dtype=torch.int64))
        if weight is None or not self._keeps_all or len(torch.unique(self.labels)) == len(names):
            return data
        # Whether features of images are needed or not, the same classes are held; this may be another split.
        is_present = torch.isin(torch.arange(len(names)), torch.tensor(self.present))
        return data if bool(is_present.all()) else data.holding(~is_present)

    def warn_of_empty_classes(self) -> None:
        """Warn of classes without images, for an analysis that leaves them out."""
        names = self.class_map.names
        empty = (torch.bincount(self.labels, minlength=len(names)) == 0).nonzero()[:, 0].tolist()
        if empty:
            shown = first_few(names[number] for number in empty)
            what = f"{self.dataset.name} {self.dataset.split}"
            warn(f"{what} has no images of {len(empty)} of the {len(names)} classes ({shown}); they are left out.")

    def require_full_head(self, what: str, *, in_network: bool = False) -> HeadTensors:
        """The full head: the network's own, or the one that the checkpoint of a sparse head is compared with.

        Args:
            what: What needs it, for messages.
            in_network: Whether the network has to compute with it.

        Raises:
            InputError: The checkpoint holds a decomposed head only, or the network has no classifier.
        """
        full = self.head.full if not in_network or self.head.kind == "dense" else None
        if full is None and self.classifier.lacks_head:
            raise no_head(what, self.classifier.name)
        if full is None:
            source = self.classifier.weights_source
            raise InputError(f"{what} needs the full head, which {source} no longer has: its head is decomposed.")
        return full


def _say_decided_here(split: str, error: DecomposeError) -> None:
    note(
        f"Which classes have images is decided by the images of split {split}, as the training images cannot be used: "
        f"{error.sentence}"
    )
