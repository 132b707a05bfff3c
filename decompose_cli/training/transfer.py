"""From given weights to other classes or images: which head training begins with, and what of it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from decompose_cli.datasets.classes import FOR_OTHERS, UnmatchedError
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.refitting import Refitting, check_refit, settle
from decompose_cli.decomposition.sampling import fitted_numbers
from decompose_cli.decomposition.sparse_heads import fit_head
from decompose_cli.errors import InputError, first_few, one_of, param
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.features.study import Study
from decompose_cli.messages import note
from decompose_cli.models.classifier import Classifier
from decompose_cli.models.copying import copied
from decompose_cli.models.network import check_head_stays
from decompose_cli.models.new_head import NewHead
from decompose_cli.preprocessing import Size
from decompose_cli.training.freezing import TRAINED, Trained, freeze
from decompose_cli.training.learnable import check_learns


@dataclass(frozen=True)
class Transfer:
    """How training goes on from given weights; None is a choice that was left open.

    Attributes:
        new_head: Whether the head is replaced by one for the classes of the data set.
        only: What is trained: ``all`` parameters (the default), the ``head``, ``head+last-block``, or the ``backbone``,
            all but the head and what follows it.
        refit: Whether training begins with a head that is fitted to the features of the training images.
        l2: Strength of the penalty of that fit; None to choose it on images that are not measured.

    Raises:
        InputError: A word is unknown, or a number is out of range.
    """

    new_head: bool = False
    only: Trained | None = None
    refit: bool = False
    l2: float | None = None

    def __post_init__(self) -> None:
        if self.only is not None:
            one_of(self.only, TRAINED, "only")
        check_refit(self.l2, fits=self.refit)

    def choices(self) -> dict[str, Any]:
        """What was chosen, for the configuration of a run."""
        chosen: dict[str, Any] = {"new_head": True} if self.new_head else {}
        if self.only is not None:
            chosen["only"] = self.only
        if self.refit:
            chosen |= {"refit": True, "l2": self.l2}
        return chosen


def check_transfer(config: Mapping[str, Any], weights: str | None) -> None:
    """Refuse what is about a network that has been trained, where training begins with random weights.

    Raises:
        InputError: There are no weights.
    """
    given = [name for name in ("new_head", "refit") if config.get(name)]
    given += ["only"] if config.get("only") not in (None, "all") else []
    if given and weights is None:
        raise InputError(
            f"{param(given[0])} needs a network that has been trained.",
            hint=f"Give its weights with {param('weights')}.",
        )


@contextmanager
def offering_new_head() -> Iterator[None]:
    """Say with the refusal of other classes, inside the block, that the network may get a head for them."""
    try:
        yield
    except UnmatchedError as error:
        offer = f"For other classes than the network's, replace its head: {param('new_head')}."
        advice = (error.advice or "").removesuffix(FOR_OTHERS.strip()).rstrip()
        raise InputError(error.sentence, hint=f"{advice} {offer}".strip()) from error


@contextmanager
def without_class_map() -> Iterator[None]:
    """Say nothing of files of classes with the refusal of other ones, as training takes none."""
    try:
        yield
    except UnmatchedError as error:
        raise UnmatchedError(error.sentence, hint="Name the classes as the network's are.") from error


def network_to_train(
    classifier: Classifier, new: NewHead | None, only: Trained, size: Size
) -> tuple[nn.Module, list[nn.Module]]:
    """A copy of a network with given weights, perhaps with another head, of which perhaps a part is frozen.

    Args:
        classifier: The network.
        new: The head that takes the place of its own; None to keep that.
        only: The part that is trained.
        size: (height, width) of the images that it takes.

    Returns:
        The network, and the modules that stay in evaluation mode.

    Raises:
        InputError: It cannot be copied, or has no such head or part.
    """
    given = classifier.checkpoint
    if given is not None and given.sparse is not None:
        note(
            f"The checkpoints of this run leave out what {given.source} says of its sparse head, such as the dense one."
        )
    network = classifier.load(size) if new is None else classifier.with_new_head(new).load(size)
    module = copied(network.module).float()
    if only == "all":
        return module, []
    if only == "backbone":  # of the other parts all parameters learn, also of a network that came frozen
        check_learns(module, classifier.name, size)
    check_head_stays(module, network.head.name, size, classifier.name)
    return module, freeze(module, network.head.name, only, size)


def part_to_fit(data: LabelledFeatures, images: Tensor, seed: int) -> LabelledFeatures:
    """The training images that a head is fitted to, where some are held out: they are copied, so many are drawn from.

    Args:
        data: All training images.
        images: The numbers of those that are not held out, int64 (n,).
        seed: Seed of the draw.
    """
    if len(images) == len(data.labels):
        return data
    drawn = fitted_numbers(data.labels[images], data.num_features * data.num_classes, seed)
    if drawn is not None:
        note(f"The head is fitted on {len(drawn):,} of the {len(images):,} training images, drawn by class.")
    return data.of_images(images if drawn is None else images[drawn])


def fitted_new_head(
    study: Study, train: Study, l2: float | None, images: Tensor | None = None
) -> tuple[NewHead, Refitting]:
    """A full head that is fitted to the features of training images, by the objective of heads that are fitted anew.

    Args:
        study: The network, and the images that are reported on.
        train: The same with the training images.
        l2: Strength of the penalty; None to choose it, as :func:`.refitting.settle` does.
        images: The numbers of the training images that are fitted, int64 (n,); None for all.

    Returns:
        The head, for the classes of the network, and how it was fitted.

    Raises:
        InputError: A class has no images.
    """
    names, labels = train.class_map.names, train.labels if images is None else train.labels[images]
    counts = labels.bincount(minlength=len(names))
    if empty := [name for name, count in zip(names, counts.tolist(), strict=True) if count == 0]:
        raise InputError(
            f"A head is fitted to images of each of the {len(names)} classes, and {len(empty)} have no training images "
            f"({first_few(empty)}).",
            hint=f"{param('new_head')} gives the network a head for the classes of the data set alone.",
        )
    data = dataclasses.replace(train.labelled(), weight=None, bias=None)
    if images is not None:
        data = part_to_fit(data, images, train.inputs.seed)
    everything = IndexSet((tuple(range(data.num_features)),) * data.num_classes, source="all features")
    is_new = train.classifier.new_head is not None
    refitting, _ = settle(study, data, lambda _: everything, l2, is_seen=not is_new)
    head = fit_head(data, everything, "real", refitting.l2)
    return NewHead(tuple(data.class_names), study.inputs.seed, head.weight.float(), head.bias.float()), refitting
