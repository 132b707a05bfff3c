"""The start of every analysis: a network, a split of a data set, and the features of the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import override

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.splits import split_called
from decompose_cli.errors import InputError, param
from decompose_cli.features.extraction import Computing
from decompose_cli.features.held import FeatureRows, GivenFeatures, HeldInputs
from decompose_cli.features.inputs import Inputs as Inputs
from decompose_cli.features.kept import KeptFeatures
from decompose_cli.features.seen import listed, settled
from decompose_cli.features.studied_classes import StudiedClasses
from decompose_cli.messages import note
from decompose_cli.models.classifier import Classifier, open_classifier
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.precision import settled_precision
from decompose_cli.models.registry import DEFAULT_MODEL, get_entry
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.processes.cores import cores, threads_for
from decompose_cli.processes.device import resolve_device
from decompose_cli.processes.team import device_led
from decompose_cli.storage.result_document import (
    CacheInfo,
    DatasetInfo,
    FeaturesInfo,
    ModelInfo,
    ResultDocument,
    Results,
    Stopwatch,
    WeightsInfo,
    describe_environment,
)


class Study(StudiedClasses):
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
        self.precision = settled_precision(inputs.precision, self.device)
        opened = classifier.whole if classifier is not None else open_network(inputs)
        given = inputs.stated_classes()
        name = _dataset_name(inputs, opened)
        split = _default_split(inputs, name, splits) if inputs.split is None else inputs.split
        self._images = inputs.open_dataset(name, split)
        self._opened = opened.with_classes(self._images.class_names, self._images.class_ids)
        self.stated_classes = _stated_by(opened, self._images) if given is None else given

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of an image before the network sees it."""
        if isinstance(self._images, FeatureRows) and self._images.seen is not None:
            return self._images.seen
        options = self._opened.image_options, self.inputs.image_options(), self._images.chosen
        return settled(self._opened.name, options, self._images.preprocessing, self._images.decided_by)

    @cached_property
    @override
    def _kept(self) -> KeptFeatures | GivenFeatures:
        if isinstance(self._images, FeatureRows) and isinstance(self.inputs, HeldInputs):
            head = self.inputs.head_of
            assert head is not None
            return GivenFeatures(self._images, head)
        description = (
            f"{self._opened.name} ({self._opened.weights_sha256[:8]}) on {self._images.name} "
            f"{self._images.split}, {len(self._images):,} images, {'x'.join(map(str, self.preprocessing.crop))}, "
            f"mean {listed(self.preprocessing.mean)}, precision {self.precision}"
        )
        return KeptFeatures(
            self.inputs,
            self._opened.with_new_head(None) if self._opened.new_head is not None else self._opened,
            self._images,
            self.preprocessing,
            self.computing,
            self._key,
            description,
        )

    @property
    @override
    def _whole_head(self) -> HeadTensors:
        if self._opened.new_head is not None:
            return self._opened.load(self.preprocessing.crop).tensors
        return self._kept.head

    @property
    def split(self) -> ImageDataset:
        """All images of the split, with those that are left out."""
        return self._images

    @cached_property
    def _key(self) -> dict[str, Any]:
        return {
            **self._opened.identity,
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

    def on_training_split(self) -> Study:
        """The same network on the split that features are ranked on.

        Raises:
            InputError: The data set has no training images.
        """
        name = self._images.name
        if "train" not in self.inputs.splits_of(name):
            raise InputError(
                f"Features are ranked over training images, and {name} has none.",
                hint="Add a folder 'train' with images, or look at index files made elsewhere with "
                f"{param('indices')}.",
            )
        return self.other_split("train")

    @override
    def other_split(self, split: str) -> Study:
        inputs = dataclasses.replace(self.inputs, split=split, dataset=self._images.name)
        return Study(inputs, (split,), self._opened)

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

    def describe_dataset(self) -> DatasetInfo | FeaturesInfo:
        """The images, for the result document; without a network only the features that were given."""
        if isinstance(self._images, FeatureRows) and self._images.seen is None:
            return FeaturesInfo(
                name=self.dataset.name,
                split=self.dataset.split,
                images=len(self.dataset),
                fingerprint=self._images.fingerprint(),
                classes=list(self.class_map.names),
            )
        outputs = list(self.class_map.outputs)
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
            part=self.part,
            outputs=None if outputs == list(range(len(self.class_map.names))) else outputs,
        )

    def _left_out_names(self) -> list[str]:
        return [self._images.called(number) for number in self._unreadable]

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
        part = next((other.part for other in others if other.split.split == "train"), self.part)
        described = self.describe_dataset()
        if isinstance(described, DatasetInfo):
            described.unreadable, described.part = self._all_left_out(others), part
        return ResultDocument(
            command=command,
            arguments={**self.inputs.as_arguments(), **more_arguments},
            model=self.describe_model(),
            dataset=described,
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


def open_network(inputs: Inputs) -> Classifier:
    """The network that was asked for, or the one that ships with decompose.

    Raises:
        InputError: There is no such network, or its weights cannot be used.
        DownloadError: The weights cannot be fetched.
    """
    if isinstance(inputs, HeldInputs):
        assert inputs.classifier is not None
        return inputs.classifier
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


def _stated_by(classifier: Classifier, images: ImageDataset) -> dict[str, str | int] | None:
    """What the checkpoint of a network says of the classes of the data set that it was made from."""
    metadata = classifier.checkpoint.metadata if classifier.checkpoint and classifier.new_head is None else None
    if metadata is None or metadata.class_map is None or metadata.dataset != images.name:
        return None
    return {name: wanted for name, wanted in metadata.class_map.items() if name in images.class_names}


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
    if (split := split_called(path.name)) is not None:
        return f"Did you mean folder:{path.parent} with {param('split')} {split}?"
    return "The layout is PATH/train|val|test/<class>/<image>; name PATH."
