"""``compare``: which features index sets and heads use, and how the heads do on the same images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.decomposition.compare_results import (
    ComparedHead,
    CompareResults,
    described_set,
    head_differences,
    set_differences,
)
from decompose_cli.decomposition.compared import FULL, Entry, Origin, check_names
from decompose_cli.decomposition.compared_files import read_entries
from decompose_cli.decomposition.compared_trainings import (
    by_kind_and_seed,
    check_same_images,
    described_trainings,
    say_common_seeds,
)
from decompose_cli.decomposition.heads import (
    check_index_request,
    check_made_from,
    decomposed_head,
    full_head,
    of_studied_classes,
    own_index_set,
    resolve_heads,
)
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.metrics import Predictions, predict
from decompose_cli.decomposition.over_seeds import differences_over_seeds
from decompose_cli.decomposition.result_types import point_of, warn_of_halved
from decompose_cli.errors import InputError, param
from decompose_cli.features.held import FeatureRows, HeldInputs
from decompose_cli.features.inputs import ABOUT_IMAGES, ABOUT_RUNNING
from decompose_cli.features.study import Inputs, Study
from decompose_cli.messages import note
from decompose_cli.models.entry import is_user_code
from decompose_cli.models.network import HeadTensors
from decompose_cli.storage.result_document import ResultDocument, Stopwatch, describe_environment

_OF_NETWORKS = ("model", "weights", "ema", "weights_key", "model_options", "head", "features_only")
"""Options that say which network it is, and nothing of others."""
_PIXELS = ("mean", "std", "input_size", "resize", "crop", "interpolation")
_WHICH_IMAGES = ("dataset", "split", "columns", "data_dir", "classes", "class_map")


def compare(inputs: Inputs, given: Sequence[str | Entry]) -> ResultDocument[CompareResults]:
    """Compare index sets class by class, and the heads that belong to them image by image (``test``, else ``val``).

    Args:
        inputs: The network and the images; without a model and weights those that the files name.
        given: ``NAME=FILE`` or ``FILE``: index files, result documents and checkpoints; or what is in memory.

    Raises:
        InputError: Something given cannot be used.
        DecomposeError: The work failed.
    """
    watch = Stopwatch()
    entries = [entry for one in given for entry in (read_entries(one) if isinstance(one, str) else [one])]
    check_names(entries)
    networks = _Networks(inputs, entries)
    heads = [networks.head_of(entry) for entry in entries]
    sets = _of_one_size({one.entry.name: one.index_set for one in heads if one.index_set is not None})
    results = CompareResults(
        total=None,
        heads={},
        differences=[],
        sets={
            one.entry.name: described_set(sets[one.entry.name], one.entry.sha256)
            for one in heads
            if one.entry.name in sets
        },
        set_differences=set_differences(sets),
        unmeasured={one.entry.name: one.missing for one in heads if one.missing is not None},
    )
    for one in heads:
        if one.missing is not None and networks.base is not None:
            note(f"{one.entry.source} {one.missing}, so that its head is not measured.")
    arguments = {"files": list(map(str, given))}
    base = networks.base
    if base is None:
        note("No file says which network it is of, so sets are compared alone, and no image is looked at.")
        why = f": no file says which network it is of, and {param('model')} names none"
        inputs = inputs.without((*_OF_NETWORKS[2:], "split", *ABOUT_IMAGES, *ABOUT_RUNNING), why)
        return ResultDocument(
            command="compare",
            arguments={**inputs.as_arguments(), **arguments},
            environment=describe_environment("cpu", inputs.seed),
            started_at=watch.started_at,
            seconds=watch.seconds(),
            results=results,
        )
    full = base.head.full
    if full is not None and not all(one.entry.run is not None and one.kind == "full" for one in heads):
        heads.insert(0, _Head(Entry(FULL, base.classifier.weights_source), base, None, full_head(full), "full"))
    heads = [one for one in heads if one.module is not None]
    predictions = {one.entry.name: _measured(one, base) for one in heads}
    results.total = len(base.labels)
    results.heads = {one.entry.name: _described(one, base, predictions[one.entry.name]) for one in heads}
    results.differences = head_differences(predictions)
    right = {name: found.is_correct for name, found in predictions.items()}
    results.seed_differences = [
        one for kind in by_kind_and_seed(entries, right) for one in differences_over_seeds(kind)
    ]
    results.trainings = described_trainings(entries)
    say_common_seeds(entries)
    for difference in results.differences:
        if difference.first == FULL:
            warn_of_halved(difference, base.class_map.names, f"The head {difference.second!r}")
    return base.document("compare", arguments, results, watch, networks.others)


def _of_one_size(sets: Mapping[str, IndexSet]) -> dict[str, IndexSet]:
    """The sets, each with the number of features that any of them says.

    Raises:
        InputError: They are of different numbers of classes or features.
    """
    every = list(sets.values())
    for other in every[1:]:
        if other.num_classes != every[0].num_classes:
            raise InputError(
                f"{every[0].source} has {every[0].num_classes} classes, but {other.source} has {other.num_classes}."
            )
    stated = [one for one in every if one.num_features is not None]
    for other in stated[1:]:
        if other.num_features != stated[0].num_features:
            raise InputError(
                f"{stated[0].source} is for {stated[0].num_features} features, but {other.source} is for "
                f"{other.num_features}."
            )
    width = stated[0].num_features if stated else None
    return {name: dataclasses.replace(one, num_features=width) for name, one in sets.items()}


@dataclass(frozen=True)
class _Head:
    """The head of an entry, and the network whose features enter it; the reason where there is none."""

    entry: Entry
    study: Study | None
    index_set: IndexSet | None
    module: Callable[[Tensor], Tensor] | None = None
    kind: str = "cut"
    missing: str | None = None


class _Networks:
    """The network that sets are cut from, the networks of the entries, and the images, which are the same for all.

    Attributes:
        base: The network that was named, or else the one that the files name; None where nobody names one.
        others: Further networks.
    """

    def __init__(self, inputs: Inputs, entries: Sequence[Entry]) -> None:
        self.is_chosen = isinstance(inputs, HeldInputs) or inputs.model is not None or inputs.weights is not None
        if inputs.dataset is None and not isinstance(inputs, HeldInputs):
            check_same_images(entries)
        found = _completed(inputs, entries) if self.is_chosen else _named_by(inputs, entries)
        self.base = None if found is None else Study(found, ("test", "val"))
        self.others: list[Study] = []
        self._given = inputs
        self._known: dict[tuple[str | None, str | None], Study] = {}
        if self.base is not None and inputs.dataset is None and not isinstance(inputs, HeldInputs):
            _check_images(self.base, entries, is_split_chosen=inputs.split is not None)

    def head_of(self, entry: Entry) -> _Head:
        """The head of an entry.

        Raises:
            InputError: It does not fit the network, or the network the images.
        """
        index_set = entry.index_set
        if self.base is None:
            return _Head(entry, None, index_set, missing=entry.missing or "says of no network, and none was named")
        study = self.base if entry.missing is not None else self._network_of(entry)
        if entry.missing is not None:
            assert index_set is not None
            return _Head(entry, None, self._fitted(index_set, self.base), missing=entry.missing)
        head = study.head
        is_own = entry.checkpoint is not None or entry.inputs is not None or index_set is None
        if entry.head is not None:
            return _Head(entry, study, index_set, entry.head, "own")
        if is_own:
            return self._own(entry, study, head)
        assert index_set is not None
        index_set = self._fitted(index_set, study)
        check_made_from(index_set, study.classifier)
        if head.full is None:
            missing = f"would be cut from the full head, which {study.classifier.weights_source} no longer has"
            return _Head(entry, study, index_set, missing=missing)
        return _Head(entry, study, index_set, decomposed_head(head.full, index_set))

    def _own(self, entry: Entry, study: Study, head: HeadTensors) -> _Head:
        check_index_request(study.classifier.checkpoint, None)
        module = resolve_heads(head, None).own
        if head.kind != "decomposed":
            return _Head(entry, study, None, module, "full")
        found = own_index_set(head, entry.source, study.classifier.kept_whole)
        if entry.index_set is not None:
            expected = of_studied_classes(entry.index_set, study)
            if list(map(set, expected.classes)) != list(map(set, found.classes)):
                raise InputError(f"{entry.source} has other features than {entry.index_set.source} says it has.")
        return _Head(entry, study, found, module, "own")

    @staticmethod
    def _fitted(index_set: IndexSet, study: Study) -> IndexSet:
        index_set = of_studied_classes(index_set, study)
        return index_set.fitted_to(study.head.num_classes, study.head.num_features)

    def _network_of(self, entry: Entry) -> Study:
        """The network whose features the head of an entry takes."""
        base, origin = self.base, entry.origin
        assert base is not None
        if entry.inputs is not None:
            return self._checked(entry, Study(entry.inputs, (base.dataset.split,)))
        # The images of the base, by the options of the base; pixels and weights as each network has them.
        usual = {name: getattr(Inputs(), name) for name in _OF_NETWORKS}
        usual |= {name: getattr(self._given, name) for name in _PIXELS}
        usual |= {"dataset": base.inputs.dataset or base.dataset.name, "split": base.dataset.split}
        inputs = dataclasses.replace(base.inputs, **usual)
        if entry.checkpoint is not None:
            model = None if entry.described else base.inputs.model or (origin.model if origin else None)
            return self._opened(entry, dataclasses.replace(inputs, model=model, weights=entry.checkpoint.source))
        is_of_base = origin is None or origin.sha256 == base.classifier.weights_sha256
        if is_of_base or (self.is_chosen and entry.index_set is not None):
            return base
        assert origin is not None
        if is_user_code(origin.model):
            raise InputError(
                f"{entry.source} is of {origin.model}, which is Python code of its own, and of other weights than "
                f"{base.classifier.name}.",
                hint=f"If you trust it, name it with {param('model')}.",
            )
        return self._opened(entry, _with(inputs, origin))

    def _opened(self, entry: Entry, inputs: Inputs) -> Study:
        key = inputs.model, inputs.weights
        if key not in self._known:
            assert inputs.split is not None
            self._known[key] = self._checked(entry, Study(inputs, (inputs.split,)))
        return self._known[key]

    def _checked(self, entry: Entry, study: Study) -> Study:
        """A network, unless its classes or images are others than those of the network that is compared on."""
        base = self.base
        assert base is not None
        own, others = study.head, base.head
        if (own.num_classes, own.num_features) != (others.num_classes, others.num_features):
            raise InputError(
                f"{entry.source} has {own.num_features} features of {own.num_classes} classes, but "
                f"{base.classifier.name} has {others.num_features} of {others.num_classes}."
            )
        if not torch.equal(study.labels, base.labels) or _fingerprint(study) != _fingerprint(base):
            raise InputError(
                f"{entry.source} is of other images, or its classes are in another order, than {base.classifier.name} "
                f"on {base.dataset.name}."
            )
        self.others.append(study)
        return study


def _completed(inputs: Inputs, entries: Sequence[Entry]) -> Inputs:
    """Inputs that name a network, with what the files say of it, or else of the images, where that was not given."""
    origins = [entry.origin for entry in entries if entry.origin is not None]
    if isinstance(inputs, HeldInputs) or not origins:
        return inputs
    same = next((origin for origin in origins if origin.model == inputs.model), None)
    if inputs.weights is None and same is not None:
        found = _with(inputs, same)
        note(f"No weights and images were named but in the files: {found.weights or 'default'}, {found.dataset}.")
        return found
    if inputs.dataset is None and "dataset" in origins[0].options:
        images = {name: value for name, value in origins[0].options.items() if name in _WHICH_IMAGES}
        found = dataclasses.replace(_with(inputs, dataclasses.replace(origins[0], options=images)), model=inputs.model)
        note(f"No images were named but in the files: {found.dataset}.")
        return found
    return inputs


def _named_by(inputs: Inputs, entries: Sequence[Entry]) -> Inputs | None:
    """Inputs with the network that the files name: that of a set, else that of a checkpoint, best with a full head."""
    codes = []
    _check_cut_from_one(entries)
    for entry in entries:
        if entry.origin is None:
            continue
        if is_user_code(entry.origin.model):
            codes.append(entry)
            continue
        found = _with(inputs, entry.origin)
        on = "" if found.dataset is None else f" on {found.dataset}"
        if any(one.run is None or one.run.is_fine_tuning for one in entries):  # others are measured as they are
            note(f"No model was named: the network is that of {entry.source}, {entry.origin.model}{on}.")
        return found
    files = sorted((entry for entry in entries if entry.checkpoint is not None), key=_lacks_full_head)
    if not files and codes and codes[0].origin is not None:
        if all(entry.index_set is not None for entry in entries):
            note(f"{codes[0].source} is of {codes[0].origin.model}, Python code of its own: {param('model')} names it.")
            return None
        raise InputError(
            f"{codes[0].source} belongs to {codes[0].origin.model}, which is Python code of its own.",
            hint=f"If you trust it, name it with {param('model')}.",
        )
    if not files:
        return None
    assert files[0].checkpoint is not None
    note(f"No model was named: the network is that of {files[0].source}.")
    return dataclasses.replace(inputs, weights=files[0].checkpoint.source)


def _check_cut_from_one(entries: Sequence[Entry]) -> None:
    """Refuse an index file that does not say which of several networks it is cut from.

    Raises:
        InputError: There is one.
    """
    networks: set[str | None] = {one.origin.sha256 for one in entries if one.origin}
    networks = networks or {one.sha256 for one in entries if one.checkpoint and not _lacks_full_head(one)}
    alone = [one for one in entries if not (one.index_set is None or one.origin or one.checkpoint or one.missing)]
    if alone and len(networks) > 1:
        raise InputError(
            f"{alone[0].source} does not say which network it is of, and the other files name several.",
            hint=f"Name it with {param('model')} or {param('weights')}, or give the result that was written beside it.",
        )


def _lacks_full_head(entry: Entry) -> bool:
    checkpoint = entry.checkpoint
    assert checkpoint is not None
    has_dense = checkpoint.sparse is not None and checkpoint.sparse.dense_weight is not None
    return checkpoint.has_decomposed_head and not has_dense


def _with(inputs: Inputs, origin: Origin) -> Inputs:
    """Inputs with what a file says of network and images, where these options were not given."""
    usual = Inputs()
    options = {name: value for name, value in origin.options.items() if getattr(inputs, name) == getattr(usual, name)}
    return dataclasses.replace(inputs, **{**options, "model": origin.model})


def _check_images(base: Study, entries: Sequence[Entry], *, is_split_chosen: bool) -> None:
    """Refuse results of other images than those that are compared on.

    Raises:
        InputError: There is one.
    """
    name, split = base.dataset.name, base.dataset.split
    for entry in entries:
        if entry.origin is None or entry.origin.images is None:
            continue
        other, of_split, fingerprint = entry.origin.images
        if of_split != split and is_split_chosen:
            continue
        if of_split != split or not base.split.has_fingerprint(fingerprint):
            raise InputError(
                f"{entry.source} is of other images, {other} {of_split} as they were then, than those that are "
                f"compared on, {name} {split}.",
                hint=f"Name images on which all are measured with {param('dataset')} or {param('split')}.",
            )


def _fingerprint(study: Study) -> str | None:
    """What tells images from others; None for features without their images."""
    images = study.split
    if isinstance(images, FeatureRows) and images.images is None:
        return None
    return images.fingerprint()


def _measured(head: _Head, base: Study) -> Predictions:
    assert head.study is not None
    assert head.module is not None
    features, count = head.study.bank.features, head.study.head.num_classes
    return predict(head.module, features, base.labels, count, base.device)


def _described(head: _Head, base: Study, predictions: Predictions) -> ComparedHead:
    assert head.study is not None
    classifier = head.study.classifier
    is_base = head.study is base or torch.equal(head.study.bank.features, base.bank.features)
    return ComparedHead(
        **dict(point_of(predictions)),
        kind=head.kind,
        weights=classifier.weights_source,
        sha256=classifier.weights_sha256,
        own_features=not is_base,
        training=head.entry.run.training if head.entry.run is not None else None,
        seed=head.entry.run.seed if head.entry.run is not None else None,
    )
