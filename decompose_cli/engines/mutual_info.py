"""``mutual-info``: how much the feature sets of the classes overlap."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from decompose_cli.decomposition.class_gates import Gates, default_ks, read_gates
from decompose_cli.decomposition.heads import OWN, own_index_set
from decompose_cli.decomposition.index_set import MOST_FEATURES, IndexSet, NamedSet, read_named
from decompose_cli.decomposition.overlap import Overlap, mean_off_diagonal, overlap
from decompose_cli.decomposition.overlap_results import MutualInfoResults, SetOverlap
from decompose_cli.decomposition.ranking import (
    DEFAULT_METHOD,
    RANKINGS,
    check_order,
    data_for,
    parse_method,
    parse_order,
    select,
)
from decompose_cli.decomposition.sizes import check_k
from decompose_cli.errors import InputError, param
from decompose_cli.features.inputs import ABOUT_IMAGES, ABOUT_RUNNING
from decompose_cli.features.labelled import Order
from decompose_cli.features.study import Inputs, Study
from decompose_cli.messages import warn
from decompose_cli.models.classifier import num_features_of
from decompose_cli.storage.files import given_file
from decompose_cli.storage.result_document import ResultDocument, Stopwatch, describe_environment

OURS, CSG = "ours", "csg"
_OF_NETWORKS = ("weights", "ema", "weights_key", "model_options", "head")
_DIGITS = 6  # that entries of matrices have; a thousand classes make a million entries


@dataclass(frozen=True)
class MutualInfoSettings:
    """Which feature sets are compared.

    Attributes:
        indices: ``NAME=FILE`` or ``FILE``, or sets that are at hand; each is used whole.
        csg: A checkpoint with class-specific gates.
        k: Features per class of the sets ranked here; by default the sizes of the other sets, else 5, 10 and 20.
        method: How features are ranked.
        order: Which gates are taken.
        num_features: D, for files that do not say it.

    Raises:
        InputError: A number is out of range, or something was given that has no effect.
    """

    indices: Sequence[str | NamedSet] = ()
    csg: str | None = None
    k: Sequence[int | float] | None = None
    method: str = DEFAULT_METHOD
    order: Order = "highest"
    num_features: int | None = None

    def __post_init__(self) -> None:
        if self.num_features is not None and not 1 <= self.num_features <= MOST_FEATURES:
            raise InputError(f"{param('num_features')} {self.num_features} is not between 1 and {MOST_FEATURES:,}.")
        if self.num_features is not None and not self.indices:
            raise InputError(
                f"{param('num_features')} is for index files, and there is none; give one with {param('indices')}."
            )
        parse_method(self.method)
        parse_order(self.order)
        ranks_by_gates = RANKINGS[self.method].needs_gates and not self.indices
        check_order(self.order, uses_gates=self.csg is not None or ranks_by_gates)


def mutual_info(inputs: Inputs, settings: MutualInfoSettings | None = None) -> ResultDocument[MutualInfoResults]:
    """Compare the feature sets of the classes, in index files, in a checkpoint with gates, or ranked here.

    Args:
        inputs: The network whose features are ranked, if there are no files or a model is named besides gates; with
            files a named model only says how many features there are.
        settings: Which feature sets are compared.

    Raises:
        InputError: Something given cannot be used.
        DecomposeError: The work failed.
    """
    watch = Stopwatch()
    settings = settings or MutualInfoSettings()
    if settings.indices and settings.csg is None and (settings.k or settings.method != DEFAULT_METHOD):
        raise InputError(
            f"{param('k')} and {param('method')} have no effect: every feature set is given as a file, which is used "
            "whole."
        )
    names_network = inputs.model is not None or inputs.weights is not None
    uses_network = not settings.indices and (settings.csg is None or names_network)
    if not uses_network and settings.method != DEFAULT_METHOD:
        raise InputError(
            f"{param('method')} has no effect: gates are ranked by their values and need no images.",
            hint=None if settings.indices else "Name a MODEL to rank its features too.",
        )
    if settings.indices:
        why = f"with {param('indices')}: no image is looked at, and a MODEL is only asked how many features it has"
        inputs = inputs.without((*_OF_NETWORKS, "split", *ABOUT_IMAGES, *ABOUT_RUNNING), why)
    elif not uses_network:
        why = ": gates are ranked by their values and need no images"
        inputs = inputs.without((*_OF_NETWORKS, "split", *ABOUT_IMAGES, *ABOUT_RUNNING), why)
    gates = read_gates(given_file(settings.csg, "csg")) if settings.csg is not None else None
    named = [_read(text) for text in settings.indices]
    if settings.csg is not None and CSG in [one.name for one in named]:
        raise InputError(f"An index file cannot be named {CSG!r} beside {param('csg')}, whose sets have that name.")
    study = None
    if uses_network:
        study = Study(inputs, ("train",))
        named += _ranked(study, settings)
        if study.head.kind == "decomposed":
            own = own_index_set(study.head, study.classifier.weights_source, study.classifier.kept_whole)
            named.append(_Named(OWN, own.k_label, own))
    width = _Width(settings.num_features, gates, inputs if settings.indices else None)
    named = [dataclasses.replace(one, index_set=width.applied(one.index_set)) for one in named]
    if gates is not None:
        for k in settings.k or default_ks([one.index_set for one in named], gates.num_features):
            check_k(k, gates.num_features)
            named.append(_Named(CSG, str(k), gates.index_set(k, settings.order), gates.sha256))
    if len({(one.index_set.num_classes, one.index_set.num_features) for one in named}) > 1:
        warn("These index sets are of networks with different numbers of classes or features.")
    sets: dict[str, dict[str, SetOverlap]] = {}
    for one in named:
        by_k = sets.setdefault(one.name, {})
        if one.k in by_k:
            raise InputError(
                f"Two index sets are named {one.name!r} and have k = {one.k}: {by_k[one.k].source} and "
                f"{one.index_set.source}.",
                hint=f"Name them apart with {param('indices')} NAME=FILE.",
            )
        by_k[one.k] = _describe(one)
    arguments = {
        "indices": list(map(str, settings.indices)),
        "csg": settings.csg,
        "k": list(settings.k) if settings.k else None,
        "method": settings.method,
        "order": settings.order,
        "num_features": settings.num_features,
    }
    results = MutualInfoResults(sets=sets)
    if study is not None:
        return study.document("mutual-info", arguments, results, watch)
    return ResultDocument(
        command="mutual-info",
        arguments={**inputs.as_arguments(), **arguments},
        environment=describe_environment("cpu", inputs.seed),
        started_at=watch.started_at,
        seconds=watch.seconds(),
        results=results,
    )


@dataclass(frozen=True)
class _Named:
    """An index set, the name and k it is shown under, and the hash of the file it comes from."""

    name: str
    k: str
    index_set: IndexSet
    sha256: str | None = None


def _read(given: str | NamedSet) -> _Named:
    found = read_named(given, "indices")
    return _Named(found.name, found.index_set.k_label, found.index_set, found.sha256)


def _ranked(study: Study, settings: MutualInfoSettings) -> list[_Named]:
    ks = settings.k or default_ks([], study.head.num_features)
    for k in ks:
        check_k(k, study.head.num_features)
    data = data_for(study, [settings.method], settings.order)
    return [_Named(OURS, str(k), select(data, settings.method, k)) for k in ks]


class _Width:
    """D for index sets that do not say it; whatever says it has to agree."""

    def __init__(self, given: int | None, gates: Gates | None, inputs: Inputs | None) -> None:
        model = inputs.model if inputs is not None else None
        self.given, self.gates, self.model, self.of_model = given, gates, model, None
        if inputs is not None and model is not None:
            self.of_model = num_features_of(model, features_only=inputs.features_only)
        if given is not None and self.of_model not in (None, given):
            raise InputError(f"{param('num_features')} {given} contradicts {model}, which has {self.of_model}.")

    def applied(self, index_set: IndexSet) -> IndexSet:
        own = index_set.num_features
        for width, what in ((self.given, f"{param('num_features')} is"), (self.of_model, f"{self.model} has")):
            if own is not None and width not in (None, own):
                raise InputError(f"{index_set.source} is for {own} features, but {what} {width}.")
        width = own or self.given or self.of_model or (self.gates.num_features if self.gates else None)
        if width is None:
            raise InputError(
                f"{index_set.source} does not say how many features there are to choose from.",
                hint=f"Name the MODEL it belongs to, or give {param('num_features')}.",
            )
        return dataclasses.replace(index_set, num_features=width)


def _describe(named: _Named) -> SetOverlap:
    index_set = named.index_set
    assert index_set.num_features is not None
    chosen = [number for number in range(index_set.num_classes) if number not in index_set.whole]
    overlaps = overlap([index_set.classes[number] for number in chosen], index_set.num_features)
    return SetOverlap(
        source=index_set.source,
        sha256=named.sha256,
        num_features=index_set.num_features,
        features_per_class=index_set.sizes,
        classes=chosen if index_set.whole else None,
        sizes=[len(index_set.classes[number]) for number in chosen],
        mean=overlaps.mean,
        off_diagonal_mean=overlaps.off_diagonal_mean,
        normalized_mean=mean_off_diagonal(overlaps.normalized),
        jaccard_mean=mean_off_diagonal(overlaps.jaccard),
        unused=overlaps.unused,
        exclusive=overlaps.exclusive,
        shared=overlaps.shared,
        **_matrices(overlaps),
    )


def _matrices(overlaps: Overlap) -> dict[str, list[list[float]]]:
    named = {
        "matrix": overlaps.information,
        "normalized_matrix": overlaps.normalized,
        "jaccard_matrix": overlaps.jaccard,
    }
    return {name: matrix.round(decimals=_DIGITS).tolist() for name, matrix in named.items()}
