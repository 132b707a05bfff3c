"""The start of every analysis: a network, a split of a data set, and the features of the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.classes import ClassMap, ClassNames
from decompose_cli.datasets.registry import available_splits, default_data_dir, known_class_names, open_dataset
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.features import cache as feature_cache
from decompose_cli.features.cache import FeatureBank
from decompose_cli.processes.device import resolve_device
from decompose_cli.features.extraction import extract_features
from decompose_cli.features.inputs import Inputs as Inputs
from decompose_cli.features.labelled import LabelledFeatures, Order, check_classes, check_gates
from decompose_cli.features.seen import listed, matched, settled
from decompose_cli.models.classifier import Classifier, open_classifier
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.registry import DEFAULT_MODEL, get_entry
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.progress import note, warn
from decompose_cli.storage.files import cores
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


class _CannotBeKept(Exception):
    """The cache cannot take features; they are used without it."""


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
        self.device = resolve_device(inputs.device)
        self.classifier = classifier or open_network(inputs)
        name = _dataset_name(inputs, self.classifier)
        self.dataset = self._open_dataset(name, _default_split(name, splits) if inputs.split is None else inputs.split)
        self._cache_state: Literal["hit", "miss", "off"] = "off"

    def _open_dataset(self, name: str, split: str) -> ImageDataset:
        folder = self.inputs.data_dir or default_data_dir()
        return open_dataset(name, split, folder, allow_download=self.inputs.allow_download)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of an image before the network sees it."""
        options = self.classifier.image_options, self.inputs.image_options()
        return settled(self.classifier.name, options, self.dataset.preprocessing, self.dataset.decided_by)

    @cached_property
    def _found(self) -> BankFolder | None:
        """The bank of all images in the cache, if it is complete."""
        if not self.inputs.use_cache:
            return None
        found = feature_cache.load(self._key)
        if found is not None:
            self._computed_on = str(found.header["computed_on"])
            if self._computed_on != describe_device(self.device):
                note(f"The features in the cache were computed on {self._computed_on}.")
        return found

    @cached_property
    def _head_and_labels(self) -> tuple[Tensor, HeadTensors] | None:
        return self._found.read_head() if self._found is not None else None

    @cached_property
    def head(self) -> HeadTensors:
        """Parameters of the head; no image is run through the network for them."""
        if self._head_and_labels is not None:
            return self._head_and_labels[1]
        return self.classifier.load(self.preprocessing.crop).tensors

    @cached_property
    def bank(self) -> FeatureBank:
        """Features, labels of the data set and head; from the cache if they are there.

        Errors in the classes show before the network runs.
        """
        _ = self.class_map
        bank, self._cache_state = self._whole
        return bank

    @cached_property
    def _whole(self) -> tuple[FeatureBank, Literal["hit", "miss", "off"]]:
        """Features of all images, and whether they were in the cache, or now are."""
        if self._found is not None:
            return self._found.bank(), "hit"
        self._computed_on = describe_device(self.device)
        network = self.classifier.load(self.preprocessing.crop)
        if not self.inputs.use_cache or network.depends_on_batch:
            return self._computed(network), "off"
        try:
            return self._filled(network), "miss"
        except _CannotBeKept as error:
            warn(f"The features cannot be kept for the next time: {error}")
            return self._computed(network), "off"

    def _computed(self, network: Network) -> FeatureBank:
        """Features that are not kept: in memory, but for those that several processes compute."""
        if processes_led() == 1:
            features = extract_features(network, self.dataset, self.preprocessing, self.computing)
            return FeatureBank(features, self.dataset.labels, network.tensors)
        with explained(feature_cache.features_folder()):
            bank = feature_cache.temporary(self.dataset.labels, network.tensors, describe_device(self.device))
        self._fill(bank)
        return bank.bank()

    def _filled(self, network: Network) -> FeatureBank:
        """Features that are kept in the cache: what is missing there is computed."""
        with ExitStack() as stack:
            try:
                stack.enter_context(feature_cache.alone(self._key))
                bank = feature_cache.started(self._key, self._computed_on) or BankFolder.create(
                    feature_cache.entry_path(self._key),
                    self.dataset.labels,
                    network.tensors,
                    key=self._key,
                    description=self._description(),
                    computed_on=self._computed_on,
                )
            except (OSError, DecomposeError) as error:
                raise _CannotBeKept(first_line(error)) from error
            self._fill(bank)
            return bank.bank()

    def _fill(self, bank: BankFolder) -> None:
        missing = bank.pending()
        left = sum(len(bank.chunks[number]) for number in missing)
        if left < bank.shape[0]:
            note(f"Of {bank.shape[0]:,} images the features of {bank.shape[0] - left:,} are there already.")
        inputs = self.inputs
        opening = Opening(
            inputs.model if self.classifier.name == DEFAULT_MODEL and inputs.model is None else self.classifier.name,
            inputs.weights,
            inputs.head,
            inputs.ema,
            inputs.seed,
            None if inputs.model_options is None else tuple(inputs.model_options.items()),
        )
        share = Share(
            bank.path,
            missing,
            opening,
            self.classifier.identity,
            self.dataset,
            self.preprocessing,
            self.computing,
            skips=False,
            classifier=self.classifier,
        )
        refuse_unreadable(fill(share))

    def _description(self) -> str:
        return (
            f"{self.classifier.name} ({self.classifier.weights_sha256[:8]}) on {self.dataset.name} "
            f"{self.dataset.split}, {len(self.dataset):,} images, {'x'.join(map(str, self.preprocessing.crop))}, "
            f"mean {listed(self.preprocessing.mean)}, precision {self.inputs.precision}"
        )

    @cached_property
    def _key(self) -> dict[str, Any]:
        return {
            **self.classifier.identity,
            "precision": self.inputs.precision,
            "transform": {
                **self.preprocessing.geometry(),
                "mean": list(self.preprocessing.mean),
                "std": list(self.preprocessing.std),
            },
            "dataset": self.dataset.fingerprint(),
            "split": self.dataset.split,
        }

    @property
    def workers(self) -> int:
        """Processes that decode images."""
        return min(8, cores()) if self.inputs.workers is None else self.inputs.workers

    @property
    def computing(self) -> Computing:
        """How the network is run."""
        inputs = self.inputs
        return Computing(
            self.device, inputs.precision, inputs.batch_size, self.workers, threads_for(inputs.threads)
        )

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
        return self.dataset.labels if self._head_and_labels is None else self._head_and_labels[0]

    def on_training_split(self) -> Study:
        """The same network on the split that features are ranked on.

        Raises:
            InputError: The data set has no training images.
        """
        name = self.dataset.name
        if "train" not in available_splits(name):
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
        if full is None:
            raise InputError(
                f"{what} needs the full head, which {self.classifier.weights_source} no longer has: its head is "
                "decomposed."
            )
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
            fingerprint=self.dataset.fingerprint(),
            classes=list(self.class_map.names),
            mean=list(self.preprocessing.mean),
            std=list(self.preprocessing.std),
            **self.preprocessing.geometry(),
        )

    def describe_cache(self, others: Sequence[Study] = ()) -> CacheInfo:
        """The use of the cache, for the result document: a hit if this and the other studies computed nothing."""
        states = [study._cache_state for study in (self, *others) if "bank" in study.__dict__] or [self._cache_state]
        return CacheInfo(features="off" if "off" in states else "miss" if "miss" in states else "hit")

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
            dataset=self.describe_dataset(),
            environment=describe_environment(str(self.device), self.inputs.seed),
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
    metadata = classifier.checkpoint.metadata if classifier.checkpoint else None
    if metadata is not None and metadata.class_names is not None:
        known = known_class_names(metadata.dataset, certain=True)
        ids = known.ids if known is not None and list(known.names) == metadata.class_names else None
        return ClassNames(metadata.class_names, ids)
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
        seed=inputs.seed,
        options=inputs.model_options,
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


def _default_split(dataset: str, splits: tuple[str, ...]) -> str:
    available = available_splits(dataset)
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
