"""What commands are given in the place of names: networks, images and features that a program has in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from decompose_cli.api.features import Features
from decompose_cli.api.indices import Indices, index_set_of
from decompose_cli.api.model import Model
from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.batches import read_batches
from decompose_cli.datasets.class_map import read_class_map
from decompose_cli.datasets.classes import ClassNames
from decompose_cli.decomposition.index_set import IndexSet, NamedSet
from decompose_cli.errors import InputError, param
from decompose_cli.features.extraction import checked_batch
from decompose_cli.features.held import FeatureRows, HeldInputs
from decompose_cli.features.held_network import Held, HeldClassifier
from decompose_cli.messages import warn
from decompose_cli.models.lone_head import FEATURES
from decompose_cli.models.network import HeadTensors
from decompose_cli.preprocessing import as_typed
from decompose_cli.reporting.findings import Findings
from decompose_cli.storage.files import user_path
from decompose_cli.storage.result_document import ResultDocument

Images = ImageDataset | Iterable[tuple[Tensor, Tensor]]
"""A data set, or batches as a ``DataLoader`` yields them: images (n, 3, H, W) as the network takes them, and labels."""
ClassMapping = Mapping[str, str | int] | str | Path
SetsByName = Mapping[str, Indices]
Found = TypeVar("Found", bound=Findings)


def features_inputs(
    measured: Features, others: Mapping[str, Features | None] | None = None, *, name: str = FEATURES, **options: Any
) -> HeldInputs:
    """Inputs of features alone, for commands that look at no image.

    Args:
        measured: Features of the images that are reported on.
        others: Features of further images by the name of their split, ``train`` and ``val``; those that are None are
            not there.
        name: What a head is called whose features are of no network.
        options: Further options of :class:`.features.inputs.Inputs`.

    Raises:
        InputError: Something is no :class:`Features`, or they are of several networks.
    """
    check_features(measured, "features")
    splits: dict[str, FeatureRows] = {}
    for split, given in (others or {}).items():
        if given is None:
            continue
        check_features(given, split)
        _check_same(measured, given, split)
        splits[split] = _rows(given, split)
    own = "test"
    if (taken := measured.taken) is not None and taken.images is not None:
        own = taken.images.split
    own = next((split for split, given in (others or {}).items() if given is measured), own)
    if own in splits and (others or {}).get(own) is not measured:  # a name that the others have
        own = "test"
    splits[own] = _rows(measured, own)
    head = head_of(measured)
    held = _held(measured, head, name)
    return HeldInputs(
        model=held.name,
        dataset=splits[own].name,
        split=own,
        classifier=HeldClassifier(held),
        head_of=head,
        splits=splits,
        use_cache=False,
        **options,
    )


def image_inputs(
    model: Model, images: Mapping[str, Images], class_map: ClassMapping | None = None, **options: Any
) -> HeldInputs:
    """Inputs of a network and images, for commands that look at these.

    Args:
        model: The network.
        images: Images by the name of their split; the first is looked at.
        class_map: Which class of the network (name, id or number) a class of a data set is, by name, or a file.
        options: Further options of :class:`.features.inputs.Inputs`.

    Raises:
        InputError: The model is no :class:`Model`, or what is given as images is none.
    """
    check_model(model)
    held = model.held()
    names = model.class_names or tuple(map(str, range(model.num_classes)))
    splits: dict[str, ImageDataset] = {}
    for split, given in images.items():
        splits[split] = given if isinstance(given, ImageDataset) else _read(model, given, split, names)
    first = next(iter(splits), None)
    typed: dict[str, Any] = {**as_typed(model.image_options[-1]), **options}
    stated = read_class_map(user_path(class_map)) if isinstance(class_map, str | Path) else class_map
    return HeldInputs(
        model=held.name,
        dataset=None if first is None else splits[first].name,
        split=first,
        classifier=HeldClassifier(held),
        splits=splits,
        chosen=model.image_options[-1],
        is_from_registry=held.origin is not None,
        stated=stated,
        use_cache=False,
        **typed,
    )


def _read(model: Model, batches: object, split: str, names: tuple[str, ...]) -> ImageDataset:
    if not isinstance(batches, Iterable):
        raise InputError(
            f"{param(split)} is of the type {type(batches).__name__}, neither a data set nor batches.",
            hint="load_dataset opens a data set; a DataLoader has batches.",
        )
    options = [each for each in model.image_options if each.mean is not None and each.std is not None]
    known = [(each.mean, each.std) for each in reversed(options) if each.mean is not None and each.std is not None]
    count = model.num_classes
    return read_batches(batches, lambda batch, number: checked_batch(batch, number, count), split, names, known)


def head_of(features: Features) -> HeadTensors:
    """The head that features enter; one that is absent where there is none."""
    if features.head is not None:
        return features.head
    return HeadTensors.absent("head", len(features.class_names), features.values.shape[1])


def _held(features: Features, head: HeadTensors, name: str) -> Held:
    names = ClassNames(features.class_names)
    if features.taken is None:
        return Held(name, head, classes=names, gates=features.gates)
    held = features.taken.model.held()
    if not held.tensors.is_same(head):
        warn(f"{held.name} has been trained since these features were taken from it, so they stand for themselves.")
        return Held(name, head, classes=names, gates=features.gates)
    ids = None if held.classes is None else held.classes.ids
    return Held(**{**vars(held), "classes": ClassNames(features.class_names, ids)})


def _rows(features: Features, split: str) -> FeatureRows:
    taken = features.taken
    return FeatureRows(
        FEATURES if taken is None else taken.name,
        split,
        features.values,
        features.labels,
        features.class_names,
        None if taken is None else taken.images,
        None if taken is None else taken.seen,
    )


def _check_same(measured: Features, given: Features, name: str) -> None:
    """Refuse features of another network than those that are reported on."""
    if (given.class_names, given.values.shape[1]) != (measured.class_names, measured.values.shape[1]):
        raise InputError(
            f"{param(name)} has {given.values.shape[1]:,} features of {len(given.class_names):,} classes, the others "
            f"{measured.values.shape[1]:,} of {len(measured.class_names):,}; or the classes have other names."
        )
    heads = [features.head for features in (measured, given)]
    if all(head is not None for head in heads) and not heads[0].is_same(heads[1]):  # type: ignore[union-attr, arg-type]
        raise InputError(f"{param(name)} are features of another network, or of other weights, than the others.")


def check_features(features: object, name: str) -> None:
    """Refuse what is no features.

    Raises:
        InputError: It is of another type.
    """
    if not isinstance(features, Features):
        raise InputError(
            f"{param(name)} is of the type {type(features).__name__}, not Features.",
            hint="extract_features takes them from a network; decompose_cli.Features(values, labels) takes others.",
        )


def check_model(model: object) -> None:
    """Refuse what is no model.

    Raises:
        InputError: It is of another type.
    """
    if not isinstance(model, Model):
        raise InputError(
            f"model is of the type {type(model).__name__}, not Model.",
            hint="load_model makes one, of a name or of a module.",
        )


def given_sets(sets: SetsByName | None, num_classes: int, num_features: int) -> tuple[NamedSet, ...]:
    """Index sets by name, in whatever form they were given.

    Raises:
        InputError: They are no index sets.
    """
    if sets is None:
        return ()
    if not isinstance(sets, Mapping) or not all(isinstance(name, str) for name in sets):
        raise InputError(f"{param('indices')} has no names; give index sets by name, as in {{'mine': indices}}.")
    return tuple(NamedSet(name, index_set_of(given, num_classes, num_features)) for name, given in sets.items())


def given_set(indices: Indices | None, num_classes: int, num_features: int) -> IndexSet | None:
    """An index set in whatever form it was given."""
    return None if indices is None else index_set_of(indices, num_classes, num_features)


def with_document(document: ResultDocument[Found], pictures: Mapping[str, bytes] | None = None) -> Found:
    """The results of a document, which know it, with the pictures that belong to them."""
    results = document.results
    results._document = document
    results._pictures = dict(pictures or {})
    return results
