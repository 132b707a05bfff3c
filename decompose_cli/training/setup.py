"""Setting up a network, from scratch or from given weights, and the images that it is to learn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.errors import DecomposeError, InputError, param
from decompose_cli.features.seen import sized
from decompose_cli.features.study import Inputs, Study
from decompose_cli.messages import note
from decompose_cli.models.batch_dependence import warn_of_batch_dependence
from decompose_cli.models.checkpoint import Metadata
from decompose_cli.models.classifier import Classifier, find_entry, open_classifier
from decompose_cli.models.completing import completed
from decompose_cli.models.entry import ModelEntry
from decompose_cli.models.head import find_head
from decompose_cli.models.new_head import NewHead
from decompose_cli.models.registry import DEFAULT_MODEL
from decompose_cli.models.weights import DEFAULT, RANDOM
from decompose_cli.preprocessing import Preprocessing, Size
from decompose_cli.storage.files import sha256_of
from decompose_cli.storage.result_document import (
    DatasetInfo,
    ModelInfo,
    ResultDocument,
    Stopwatch,
    WeightsInfo,
    describe_environment,
)
from decompose_cli.training.config import RunConfig
from decompose_cli.training.data import divide, labels_by_name, open_splits
from decompose_cli.training.evaluate import LabelledImages
from decompose_cli.training.freezing import Trained
from decompose_cli.training.job import Job
from decompose_cli.training.learnable import check_learns
from decompose_cli.training.outcome import RepeatedResults, RunResults
from decompose_cli.training.recipes import RECIPES
from decompose_cli.training.session import Session
from decompose_cli.training.settings import Settings
from decompose_cli.training.transfer import network_to_train, offering_new_head, without_class_map
from decompose_cli.training.unchanged import check_same, check_same_images


class TrainConfig(RunConfig):
    """``model_options``: the options of the network that differ from the defaults.

    ``starting_weights``: SHA-256 of the weights to start from; null where they are random. ``new_head``, ``only``,
    ``refit`` and ``l2`` are those of :class:`.transfer.Transfer`; commands that do not offer them have null.
    """

    model_options: dict[str, str] | None
    starting_weights: str | None
    new_head: bool | None = None
    only: Trained | None = None
    refit: bool | None = None
    l2: float | None = None


@dataclass(frozen=True)
class Learner:
    """A network and the images that it learns from.

    Attributes:
        classifier: The network, with the weights to start from, if any.
        train: Training images.
        test: Test images, or None.
        labels: The network's class number of each training image, int64.
        class_names: Names of the network's outputs.
        preprocessing: The preprocessing of evaluation.
        class_map: What is stated of the data set's classes, for the checkpoints.
    """

    classifier: Classifier
    train: ImageDataset
    test: LabelledImages | None
    labels: torch.Tensor
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    class_map: dict[str, str] | None = None


def open_weights(inputs: Inputs, model_options: Mapping[str, str], seed: int) -> Classifier:
    """Open the network of given weights; see :func:`decompose_cli.models.classifier.open_classifier`."""
    is_named = inputs.model is not None or inputs.weights not in (None, DEFAULT, RANDOM)
    return open_classifier(
        inputs.model if is_named else DEFAULT_MODEL,
        inputs.weights,
        head=inputs.head,
        allow_download=inputs.allow_download,
        ema=inputs.ema,
        weights_key=inputs.weights_key,
        seed=seed,
        options=model_options,
    )


@without_class_map()
def open_learner(
    inputs: Inputs,
    model_options: Mapping[str, str],
    seed: int,
    classifier: Classifier | None = None,
    *,
    new_head: bool | None = None,
) -> Learner:
    """Open network and images.

    Args:
        inputs: Complete inputs.
        model_options: Options of the network.
        seed: Seed of random weights.
        classifier: The network, if it has been opened already.
        new_head: Whether it gets a head for the classes of the data set; None where the command has no such option.

    Raises:
        InputError: Something is not there, cannot be read or does not fit.
        DownloadError: Something cannot be fetched.
    """
    assert inputs.dataset is not None
    if inputs.weights is not None:
        classifier = classifier or open_weights(inputs, model_options, seed)
        train, test = open_splits(inputs, inputs.dataset)
        if new_head:
            classifier = classifier.with_new_head(NewHead(tuple(train.class_names), seed))
        study = Study(dataclasses.replace(inputs, seed=seed), ("train",), classifier)
        held = None
        with offering_new_head() if new_head is False else nullcontext(), without_class_map():
            names = study.class_map.names
            if test is not None:
                other = Study(dataclasses.replace(inputs, split=test.split), (test.split,), study.classifier)
                held = LabelledImages(test.split, other.dataset, other.labels, study.preprocessing)
        stated = study.described_map()
        return Learner(study.classifier, study.dataset, held, study.labels, names, study.preprocessing, stated)
    assert inputs.model is not None
    train, test = open_splits(inputs, inputs.dataset)
    entry = find_entry(inputs.model, allow_download=inputs.allow_download).configured(**model_options)
    preprocessing = seen_by(inputs, entry, train)
    entry = dataclasses.replace(entry, num_classes=len(train.class_names), preprocessing=preprocessing)
    classifier = Classifier(entry, None, None, seed)
    held = None if test is None else LabelledImages(test.split, test, labels_by_name(train, test), preprocessing)
    return Learner(classifier, train, held, train.labels, train.class_names, preprocessing)


def seen_by(inputs: Inputs, entry: ModelEntry, train: ImageDataset) -> Preprocessing:
    """The preprocessing of images for a network that is trained from scratch."""
    options = Classifier(entry, None, None, 0).image_options, inputs.image_options()
    return sized(options, train.preprocessing, train.decided_by)


def open_for(session: Session) -> Learner:
    """Open network and images of a run, which :func:`announce` speaks of.

    Raises:
        InputError: Network or images cannot be used, or have been replaced since the run began.
        DownloadError: Something cannot be fetched.
    """
    config = session.config
    learner = open_learner(
        session.inputs, config["model_options"] or {}, session.settings.seed, new_head=config.get("new_head")
    )
    weights = learner.classifier.weights_sha256 if session.inputs.weights is not None else None
    check_same_images(session, learner.train)
    check_same(session, starting_weights=weights)
    return learner


def make_job(
    config: Mapping[str, Any],
    learner: Learner,
    settings: Settings,
    command: str | None = None,
    fit: Callable[[torch.Tensor], NewHead] | None = None,
) -> Job:
    """Make the network with its initial weights, and divide the images.

    Args:
        config: Configuration of the run.
        learner: Network and images.
        settings: Settings, with the seed of this network.
        command: The command that trains such a network, for its checkpoints.
        fit: Makes the head that training begins with, of the numbers of the images that are not held out.

    Raises:
        InputError: The network does not take such images, or does not have an output for every class.
    """
    data = divide(
        learner.train,
        learner.labels,
        learner.test,
        learner.class_names,
        learner.preprocessing,
        val_split=settings.val_split,
        seed=settings.seed,
    )
    entry, crop = learner.classifier.entry, learner.preprocessing.crop
    frozen: list[nn.Module] = []
    if learner.classifier.checkpoint is None:
        module = initial_network(entry, len(learner.class_names), crop, settings.seed)
    else:
        new = NewHead(learner.class_names, settings.seed) if config.get("new_head") else None
        new = new if fit is None else fit(data.indices)
        module, frozen = network_to_train(learner.classifier, new, config.get("only") or "all", crop)
    _check_outputs(module, entry, learner)
    warn_of_batch_dependence(module, learner.preprocessing.crop, None, entry.name)
    metadata = Metadata(
        model=entry.name,
        num_classes=len(learner.class_names),
        class_names=list(learner.class_names),
        class_map=learner.class_map,
        dataset=config["dataset"],
        **learner.preprocessing.described(),
        model_options=config["model_options"],
        command=command,
    )
    return Job(module, metadata, data, frozen)


def initial_network(entry: ModelEntry, num_classes: int, input_size: Size, seed: int) -> nn.Module:
    """A network with random weights that are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return completed(entry.make(num_classes, input_size), input_size, entry.name)


def _check_outputs(module: nn.Module, entry: ModelEntry, learner: Learner) -> None:
    """Refuse a network that does not take images of this size, or does not have an output for every class."""
    logits = check_learns(module, entry.name, learner.preprocessing.crop)
    shape = tuple(logits.shape)
    if shape != (2, len(learner.class_names)):
        raise InputError(
            f"{entry.name} makes of 2 images an output of shape {shape}, but {learner.train.name} has "
            f"{len(learner.class_names)} classes."
        )


def describe_network(learner: Learner, seed: int, weights: WeightsInfo) -> ModelInfo:
    """Describe the network for the result document; one without a head to decompose can still be trained."""
    try:
        size = learner.preprocessing.crop
        network = initial_network(learner.classifier.entry, len(learner.class_names), size, seed)
        head = find_head(network, size, name=None, model_name=learner.classifier.name)
        num_features, name = head.num_features, head.name
    except DecomposeError:
        num_features, name = 0, ""
    return ModelInfo(
        name=learner.classifier.name,
        num_classes=len(learner.class_names),
        num_features=num_features,
        head=name,
        options=dict(learner.classifier.entry.chosen),
        weights=weights,
    )


def describe_images(learner: Learner) -> DatasetInfo:
    """Describe the training images for the result document."""
    return DatasetInfo(
        name=learner.train.name,
        split="train",
        images=len(learner.train),
        fingerprint=learner.train.fingerprint(),
        classes=list(learner.class_names),
        **learner.preprocessing.described(),
    )


def training_document(
    session: Session, learner: Learner, results: RunResults | RepeatedResults, watch: Stopwatch
) -> ResultDocument[Any]:
    """The result document of a training, with where everything came from."""
    first = results.runs[0] if isinstance(results, RepeatedResults) else results
    source = first.checkpoints.get("best", first.checkpoints["last"])
    weights = WeightsInfo(source=source, sha256=sha256_of(Path(source)))
    return ResultDocument(
        command=session.config["command"],
        arguments=dict(session.config),
        model=describe_network(learner, session.settings.seed, weights),
        dataset=describe_images(learner),
        environment=describe_environment(str(session.fabric.device), session.settings.seed),
        started_at=watch.started_at,
        seconds=watch.seconds(),
        results=results,
    )


def images_to_train_on(learner: Learner, settings: Settings) -> int:
    """How many of the training images are not held out."""
    return len(learner.labels) - round(settings.val_split * len(learner.labels))


def _said_of_rate(settings: Settings, images: int) -> str | None:
    """What a run is too short for, of its warm-up and its milestones; ``images`` are trained on."""
    if settings.schedule == "one-cycle" or images == 0:  # that none are left is said where they are divided
        return None
    unit, end = ("step", settings.iterations) if settings.iterations else ("epoch", settings.epochs)
    assert end is not None
    warm = settings.warmup_epochs if settings.warmup_epochs > settings.start_epoch else 0
    warm *= settings.steps_per_epoch(images) if warm and unit == "step" else 1
    if warm >= end:
        return f"All of the run is warm-up, at a rate of {settings.warmup_lr:g}."
    if settings.schedule != "steps":
        return None
    within = [drop for drop in settings.milestones if drop <= warm]
    idle = [drop for drop in settings.milestones if drop >= end]
    if idle and len(idle) == len(settings.milestones):
        after = " after the warm-up" if warm else ""
        return f"The rate stays {settings.lr:g}{after}: the first milestone, {unit} {idle[0]}, is not before the end."
    said = []
    if within:
        until = f"{unit} {within[0]}, a milestone"
        said.append(f"The rate is never {settings.lr:g}: the warm-up does not end before {until}.")
    if idle:
        said.append(f"The rate does not drop after {unit} {', '.join(map(str, idle))}, as that is not before the end.")
    return " ".join(said) or None


def announce(config: Mapping[str, Any], learner: Learner, settings: Settings) -> None:
    """Say how, and on which images, the network is trained."""
    test = f"; {len(learner.test.labels):,} {learner.test.split} images" if learner.test is not None else ""
    kept = f", a share of {settings.val_split:g} held out for validation" if settings.val_split else ""
    note(f"Recipe {config['recipe']} ({RECIPES[config['recipe']].source}): {settings.shown()}")
    is_chosen = learner.classifier.checkpoint is None  # given weights leave no choice of options
    if not is_chosen and settings.val_split:
        note("The weights may have been trained on the images that are held out now; their accuracy would say little.")
    if said := _said_of_rate(settings, images_to_train_on(learner, settings)):
        note(said)
    entry = learner.classifier.entry
    has_identity = "shortcut" not in entry.chosen and entry.options.get("shortcut", ())[:1] == ("identity",)
    if is_chosen and entry.norm.mode == "online" and has_identity:
        note(
            f"The networks of the published online normalisation have projection shortcuts ({param('shortcut')} "
            f"projection); with identity shortcuts a smaller rate is needed, such as {param('lr')} 0.03."
        )
    options = [f"{name.replace('_', ' ')} {value}" for name, value in entry.chosen.items()]
    name = f"{learner.classifier.name} with {', '.join(options)}" if options else learner.classifier.name
    note(f"{name} on {learner.train.name}: {len(learner.labels):,} training images{kept}{test}")
