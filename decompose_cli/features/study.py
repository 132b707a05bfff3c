"""The start of every analysis: a network, a split of a data set, and the features of the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.classes import ClassMap, ClassNames
from decompose_cli.datasets.registry import known_class_names
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.features.bank import FeatureBank
from decompose_cli.features.extraction import Computing
from decompose_cli.features.inputs import Inputs as Inputs
from decompose_cli.features.kept import KeptFeatures
from decompose_cli.features.labelled import LabelledFeatures, Order, check_classes, check_gates
from decompose_cli.features.seen import listed, matched, settled
from decompose_cli.models.backbones import no_head
from decompose_cli.models.classifier import Classifier, open_classifier
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.precision import settled_precision
from decompose_cli.models.registry import DEFAULT_MODEL, get_entry
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.processes.cores import cores, threads_for
from decompose_cli.processes.device import resolve_device
from decompose_cli.processes.team import device_led
from decompose_cli.progress import note, warn
from decompose_cli.storage.result_document import (
    CacheInfo,
    DatasetInfo,
    ModelInfo,
    ResultDocument,
    Results,
    Stopwatch,
    WeightsInfo,
    describe_environment,
)


class Study:
    """A network and a split of a data set, opened; the features are read from the cache or computed when needed.

    Args:
        inputs: Options that the user chose.
        splits: Splits to use where the user chose none, the preferred one first.
        classifier: The network, where it is open already.

    Raises:
        InputError: The network, the weights or the images do not exist, or do not fit each other.
        DownloadError: The weights or the images cannot be fetched.
    """

    def __init__(self, inputs: Inputs, splits: tuple[str, ...], classifier: Classifier | None = None) -> None:
        self.inputs = inputs
        self.device = device_led() or resolve_device(inputs.device)
        self._has_read_features = False
        self.precision = settled_precision(inputs.precision, self.device)
        self.classifier = classifier or open_network(inputs)
        name = _dataset_name(inputs, self.classifier)
        split = _default_split(inputs, name, splits) if inputs.split is None else inputs.split
        self._images = inputs.open_dataset(name, split)
        self.classifier = self.classifier.with_classes(self._images.class_names, self._images.class_ids)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of an image before the network sees it."""
        options = self.classifier.image_options, self.inputs.image_options()
        return settled(self.classifier.name, options, self._images.preprocessing, self._images.decided_by)

    @cached_property
    def _kept(self) -> KeptFeatures:
        description = (
            f"{self.classifier.name} ({self.classifier.weights_sha256[:8]}) on {self._images.name} "
            f"{self._images.split}, {len(self._images):,} images, {'x'.join(map(str, self.preprocessing.crop))}, "
            f"mean {listed(self.preprocessing.mean)}, precision {self.precision}"
        )
        return KeptFeatures(
            self.inputs,
            self.classifier.with_new_head(None) if self.classifier.new_head is not None else self.classifier,
            self._images,
            self.preprocessing,
            self.computing,
            self._key,
            description,
        )

    @cached_property
    def dataset(self) -> ImageDataset:
        """The images, without those that cannot be read and may be left out."""
        left_out = self._kept.left_out if self.inputs.skip_unreadable is not None else []
        return self._images.without(left_out) if left_out else self._images

    @property
    def split(self) -> ImageDataset:
        """All images of the split, with those that are left out."""
        return self._images

    def in_split(self, places: Sequence[int]) -> list[int]:
        """The numbers in the split, from 0, of images that have these places among those that are not left out."""
        if self.dataset is self._images:
            return list(places)
        is_kept = torch.ones(len(self._images), dtype=torch.bool)
        is_kept[self._kept.left_out] = False
        return is_kept.nonzero()[:, 0][list(places)].tolist()

    def label_in_split(self, number: int) -> int:
        """The network's class number of the image with this number in the split."""
        return self.class_map.outputs[int(self._kept.labels[number])]

    @property
    def head(self) -> HeadTensors:
        """Parameters of the head; no image is run through the network for them."""
        if self.classifier.new_head is not None:
            return self.classifier.load(self.preprocessing.crop).tensors
        return self._kept.head

    @property
    def bank(self) -> FeatureBank:
        """Features, labels of the data set and head; from the cache if they are there.

        Errors in the classes show before the network runs.
        """
        _ = self.class_map
        self._has_read_features = True
        return self._kept.bank

    def release(self) -> None:
        """Let go of the features; they are read again where they are needed again."""
        self._kept.release()

    @cached_property
    def _key(self) -> dict[str, Any]:
        return {
            **self.classifier.identity,
            "precision": self.precision,
            "transform": {
                **self.preprocessing.geometry(),
                "mean": list(self.preprocessing.mean),
                "std": list(self.preprocessing.std),
            },
            "dataset": self._images.fingerprint(),
            "split": self._images.split,
        }

    @property
    def workers(self) -> int:
        """Processes that decode images."""
        return cores() if self.inputs.workers is None else self.inputs.workers

    @property
    def computing(self) -> Computing:
        """How the network is run."""
        inputs = self.inputs
        return Computing(self.device, self.precision, inputs.batch_size, self.workers, threads_for(inputs.threads))

    @cached_property
    def class_map(self) -> ClassMap:
        """The output of the network that belongs to each class of the data set."""
        classes = class_names_of(self.classifier)
        return matched(self.dataset, self._dataset_labels, self.classifier.name, classes, self.head.num_classes)

    @cached_property
    def labels(self) -> Tensor:
        """The network's class number of each image, int64 (N,)."""
        return torch.tensor(self.class_map.outputs)[self._dataset_labels]

    @property
    def _dataset_labels(self) -> Tensor:
        if self.inputs.skip_unreadable is None:
            return self._kept.labels
        return self._kept.bank.labels

    def on_training_split(self) -> Study:
        """The same network on the split that features are ranked on.

        Raises:
            InputError: The data set has no training images.
        """
        name = self.dataset.name
        if "train" not in self.inputs.splits_of(name):
            raise InputError(
                f"Features are ranked over training images, and {name} has none.",
                hint="Add a folder 'train' with images, or look at index files made elsewhere with "
                f"{param('indices')}.",
            )
        inputs = dataclasses.replace(self.inputs, split=None, dataset=name)
        return Study(inputs, ("train",), self.classifier)

    def labelled(
        self, *, images: bool = True, gates: bool = False, order: Order = "highest", every_class: bool = True
    ) -> LabelledFeatures:
        """The data that features are ranked by.

        Args:
            images: Whether features of images are needed; otherwise there are none, and no image is looked at.
            gates: Whether class-specific gates are needed.
            order: Whether the highest gates are taken or the lowest.
            every_class: Whether a class without images is refused.

        Raises:
            InputError: Needed gates are missing or do not fit, or a class has no images.
        """
        head, checkpoint = self.head, self.classifier.checkpoint
        matrix = checkpoint.csg if checkpoint else None
        if gates:
            check_gates(matrix, head.num_classes, head.num_features, self.classifier.weights_source)
        weight, bias = (None, None) if head.full is None else (head.full.weight, head.full.bias)
        names = self.class_map.names
        if not images:
            features, labels = torch.zeros(0, head.num_features), torch.zeros(0, dtype=torch.int64)
        else:
            if every_class:
                check_classes(self.labels, names)
            features, labels = self.bank.features, self.labels
        return LabelledFeatures(features, labels, weight, names, matrix, order, bias, device=str(self.device))

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
            InputError: The checkpoint holds a decomposed head only.
        """
        full = self.head.full if not in_network or self.head.kind == "dense" else None
        if full is None and self.classifier.lacks_head:
            raise no_head(what, self.classifier.name)
        if full is None:
            source = self.classifier.weights_source
            raise InputError(f"{what} needs the full head, which {source} no longer has: its head is decomposed.")
        return full

    def describe_model(self) -> ModelInfo:
        """The network, for the result document."""
        head, classifier = self.head, self.classifier
        weights = WeightsInfo(source=classifier.weights_source, sha256=classifier.weights_sha256)
        return ModelInfo(
            name=classifier.name,
            num_classes=head.num_classes,
            num_features=head.num_features,
            head=head.name,
            options=dict(classifier.entry.chosen),
            weights=weights,
        )

    def describe_dataset(self) -> DatasetInfo:
        """The images, for the result document."""
        return DatasetInfo(
            name=self.dataset.name,
            split=self.dataset.split,
            images=len(self.dataset),
            fingerprint=self._images.fingerprint(),
            classes=list(self.class_map.names),
            mean=list(self.preprocessing.mean),
            std=list(self.preprocessing.std),
            **self.preprocessing.geometry(),
            unreadable=self._left_out_names(),
        )

    def _left_out_names(self) -> list[str]:
        left_out = self._kept.left_out if self.inputs.skip_unreadable is not None else []
        return [self._images.called(number) for number in left_out]

    def _all_left_out(self, others: Sequence[Study]) -> list[str]:
        """Of this study and of others; images of other splits with the name of their split."""
        names = self._left_out_names()
        for other in others:
            where = "" if other.dataset.split == self.dataset.split else f"{other.dataset.split}/"
            names += [name for each in other._left_out_names() if (name := f"{where}{each}") not in names]
        return names

    def describe_cache(self, others: Sequence[Study] = ()) -> CacheInfo:
        """The use of the cache, for the result document: a hit if this and the other studies computed nothing."""
        used = [study._kept for study in (self, *others) if study._has_read_features]
        states = [kept.state for kept in used] or ["off"]
        return CacheInfo(
            features="off" if "off" in states else "miss" if "miss" in states else "hit",
            computed_on=sorted({kept.computed_on for kept in used}),
        )

    def document(
        self,
        command: str,
        more_arguments: dict[str, Any],
        results: Results,
        watch: Stopwatch,
        others: Sequence[Study] = (),
    ) -> ResultDocument[Results]:
        """Wrap the results of a command with everything needed to get them again.

        Args:
            command: Name of the command.
            more_arguments: Arguments of the command beside the inputs.
            results: Results of the command.
            watch: Clock that was started with the command.
            others: Further networks or splits whose features were used.
        """
        return ResultDocument(
            command=command,
            arguments={**self.inputs.as_arguments(), **more_arguments},
            model=self.describe_model(),
            dataset=self.describe_dataset().model_copy(update={"unreadable": self._all_left_out(others)}),
            environment={**describe_environment(str(self.device), self.inputs.seed), **self.computing.described()},
            started_at=watch.started_at,
            seconds=watch.seconds(),
            cache=self.describe_cache(others),
            results=results,
        )


def default_model(more: str = "") -> str:
    """Announce and return the model to use where none was named."""
    note(f"No model was named: using {DEFAULT_MODEL}, the network that ships with decompose{more}.")
    return DEFAULT_MODEL


def class_names_of(classifier: Classifier) -> ClassNames | None:
    """The names of a network's outputs, if they are known."""
    if classifier.new_head is not None:
        return ClassNames(classifier.new_head.class_names)
    metadata = classifier.checkpoint.metadata if classifier.checkpoint else None
    if metadata is not None and metadata.class_names is not None:
        known = known_class_names(metadata.dataset, certain=True)
        ids = known.ids if known is not None and list(known.names) == metadata.class_names else None
        return ClassNames(metadata.class_names, ids)
    if classifier.entry.outputs is not None:
        return ClassNames(*classifier.entry.outputs(), certain=classifier.uses_default_weights)
    return known_class_names(classifier.entry.dataset, certain=classifier.uses_default_weights)


def open_network(inputs: Inputs) -> Classifier:
    """The network that was asked for, or the one that ships with decompose.

    Raises:
        InputError: There is no such network, or its weights cannot be used.
        DownloadError: The weights cannot be fetched.
    """
    model = inputs.model
    if model is None and inputs.weights in (None, "default", "random"):
        model = default_model(f" on its data set, {get_entry(DEFAULT_MODEL).dataset}" if inputs.dataset is None else "")
    return open_classifier(
        model,
        inputs.weights,
        head=inputs.head,
        allow_download=inputs.allow_download,
        ema=inputs.ema,
        weights_key=inputs.weights_key,
        seed=inputs.seed,
        options=inputs.model_options,
        features_only=inputs.features_only,
    )


def _dataset_name(inputs: Inputs, classifier: Classifier) -> str:
    metadata = classifier.checkpoint.metadata if classifier.checkpoint else None
    name = inputs.dataset
    if name is None:
        name = (metadata.dataset if metadata else None) or classifier.entry.dataset
    if name is None:
        raise InputError(
            f"It is not known what {classifier.name} was trained on.",
            hint=f"Say which images to use with {param('dataset')}.",
        )
    return name


def _default_split(inputs: Inputs, dataset: str, splits: tuple[str, ...]) -> str:
    available = inputs.splits_of(dataset)
    for split in splits:
        if split in available:
            return split
    if not available:
        raise InputError(f"{dataset} has none of the folders train, val and test.", hint=_layout_hint(dataset))
    raise InputError(
        f"{dataset} has no split {' or '.join(splits)}; it has {', '.join(available)}.",
        hint=f"Use {param('split')} {available[0]} if that is what you want.",
    )


def _layout_hint(dataset: str) -> str:
    path = Path(dataset.removeprefix("folder:"))
    if path.name in ("train", "val", "test"):
        return f"Did you mean folder:{path.parent} with {param('split')} {path.name}?"
    return "The layout is PATH/train|val|test/<class>/<image>; name PATH."
