"""Sparse heads as objects: a few features per class, chosen and fitted anew on features that are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, overload

from pydantic import PrivateAttr

from decompose_cli.api.features import Features
from decompose_cli.api.indices import Indices, index_set_of
from decompose_cli.api.inputs import check_features, features_inputs, with_document
from decompose_cli.api.sparse_head import SparseHead
from decompose_cli.decomposition.ranking import DEFAULT_K
from decompose_cli.decomposition.sizes import check_filters
from decompose_cli.decomposition.sparse_heads import as_full
from decompose_cli.decomposition.sparse_results import SparsifyResults
from decompose_cli.decomposition.sparse_search import Search, best_of
from decompose_cli.decomposition.sparse_settings import AUTO, ClassWeights, Objective, SparsifySettings, Toward, Values
from decompose_cli.decomposition.sparse_sources import NetworkSource
from decompose_cli.engines.sparsify import found_for
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.processes.device import resolve_device
from decompose_cli.sparse.threads import few_threads
from decompose_cli.storage.result_document import Stopwatch


class MeasuredHeads(SparsifyResults):
    """The results of :func:`sparsify` with test images, with the heads."""

    _fitted: dict[int, SparseHead] = PrivateAttr(default_factory=dict)

    def head(self, k: int | None = None) -> SparseHead:
        """The head with k features per class; without a number, the one that there is, or the smallest within the drop.

        Raises:
            InputError: There is no head of this size, or there are several.
        """
        if k is None and len(self._fitted) > 1:
            raise InputError(f"There are heads with {param('k')} {first_few(self._fitted)}; say which.")
        number = next(iter(self._fitted)) if k is None else k
        if number not in self._fitted:
            raise InputError(f"There is no head with {param('k')} {k}; there are {first_few(self._fitted)}.")
        return self._fitted[number]


@overload
def sparsify(
    features: Features,
    k: int | None = None,
    method: str = AUTO,
    *,
    test: None = None,
    values: Values | None = None,
    l2: float | None = None,
    toward: Toward = "zero",
    distil: bool = False,
    class_weights: ClassWeights = "none",
    pool: int | None = None,
    objective: Objective = "loss",
    indices: Indices | None = None,
    choosing: Features | None = None,
    device: str = "auto",
    seed: int = 0,
) -> SparseHead: ...


@overload
def sparsify(
    features: Features,
    k: int | Sequence[int] | None = None,
    method: str = AUTO,
    *,
    test: Features,
    max_drop: float | None = None,
    max_class_drop: float | None = None,
    nec: bool = False,
    maps: bool = False,
    values: Values | None = None,
    l2: float | None = None,
    toward: Toward = "zero",
    distil: bool = False,
    class_weights: ClassWeights = "none",
    pool: int | None = None,
    objective: Objective = "loss",
    indices: Indices | None = None,
    choosing: Features | None = None,
    device: str = "auto",
    seed: int = 0,
) -> MeasuredHeads: ...


def sparsify(
    features: Features,
    k: int | Sequence[int] | None = None,
    method: str = AUTO,
    *,
    test: Features | None = None,
    max_drop: float | None = None,
    max_class_drop: float | None = None,
    nec: bool = False,
    maps: bool = False,
    values: Values | None = None,
    l2: float | None = None,
    toward: Toward = "zero",
    distil: bool = False,
    class_weights: ClassWeights = "none",
    pool: int | None = None,
    objective: Objective = "loss",
    indices: Indices | None = None,
    choosing: Features | None = None,
    device: str = "auto",
    seed: int = 0,
) -> SparseHead | MeasuredHeads:
    """Choose a few features per class and fit their weights anew, as ``decompose sparsify`` does.

    >>> model = load_model()
    >>> head = sparsify(extract_features(model, load_dataset("digits", "train")), k=2, method="backward")
    >>> head
    SparseHead('backward', 2 of 64 features in each of 10 classes)
    >>> small = head.decompose(model)
    >>> validate(extract_features(small, load_dataset("digits", "test"))).decomposed.correct > 350
    True

    With features of test images as well, heads of several k are measured, as in the result of the command:

    >>> train, test = (extract_features(model, load_dataset("digits", split)) for split in ("train", "test"))
    >>> results = sparsify(train, [2, 3], "backward", test=test)
    >>> results.head(2), len(results.to_frame())
    (SparseHead('backward', 2 of 64 features in each of 10 classes), 4)

    Args:
        features: Features of training images, with a head or without.
        k: Features per class; 5 by default. Several numbers need test images.
        method: A ranking, ``sldd``, ``q-senn``, or ``auto``: the best of all that are quick, on the choosing images.
        test: Features of images that are reported on, and choose nothing. With them there are results in place of a
            head.
        max_drop: Percentage points that the smallest k may cost on the choosing images; with ``test``.
        max_class_drop: Percentage points that it may cost any class alone, beside ``max_drop``.
        nec: Whether accuracy at 5 to 30 features per class is measured; with ``test``.
        maps: Whether feature maps are looked at, for SID@5 and the locality of ``qpm``; with ``test``, of which, as of
            the training images, there are images.
        values: ``real`` (default), ``nonnegative``, ``ternary`` or ``binary`` weights on standardised features.
        l2: Strength of the penalty; chosen by default.
        toward: What the penalty pulls real weights to: ``zero``, or the ``dense`` head.
        distil: Whether to fit what the full head says of an image in place of its label.
        class_weights: ``balanced``: all classes count the same in fits.
        pool: Features that all classes together may use.
        objective: ``qpm``: the published objective of QPM chooses, in place of the loss.
        indices: Features of each class, in place of ``k`` and ``method``.
        choosing: Features of other images, which choose methods and strengths; by default a fifth of the training
            images by class.
        device: Where heads are fitted: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``mps`` has no float64: on the CPU.
        seed: Of draws and searches.

    Raises:
        InputError: Something given is out of range, contradicts the rest, or does not fit the features.
    """
    check_features(features, "features")
    if choosing is not None:
        check_features(choosing, "choosing")
    several = isinstance(k, Sequence) and not isinstance(k, str)
    if test is None and (several or max_drop is not None or nec or maps):
        raise InputError(
            f"Several {param('k')}, {param('max_drop')}, {param('nec')} and {param('maps')} need test: "
            "features of images that are reported on."
        )
    if several and not k and max_drop is None:
        raise InputError(f"{param('k')} names no number.")
    given: Sequence[Any] = k if isinstance(k, Sequence) and several else [k]
    for number, name in (*((number, "k") for number in given), (pool, "pool")):
        if number is not None and not _is_whole(number):
            raise InputError(f"{param(name)} {number!r} is not a whole number of at least 1.")
    strength: object = l2
    if l2 is not None and (isinstance(strength, bool) or not isinstance(strength, Real)):
        raise InputError(f"{param('l2')} {l2!r} is not a positive number.")
    if not _is_whole(seed):
        raise InputError(f"{param('seed')} {seed!r} is not a whole number.")
    ks = [int(number) for number in given if number is not None]
    pool, seed = (None if pool is None else int(pool)), int(seed)
    Inputs(seed=seed)  # checks its range
    check_filters(indices, ks[0] if ks else None)
    count, names = features.values.shape[1], features.class_names
    index_set = None if indices is None else index_set_of(indices, len(names), count)
    if index_set is not None:
        ks = [index_set.largest_k]
    settings = SparsifySettings(
        k=sorted(set(ks)) or (() if max_drop is not None else (DEFAULT_K,)),
        method=method,
        values=values,
        l2=l2,
        toward=toward,
        distil=distil,
        class_weights=class_weights,
        pool=pool,
        objective=objective,
        indices=index_set,
        max_drop=max_drop,
        max_class_drop=max_class_drop,
        nec=nec,
        maps=maps,
    )
    if test is not None:
        check_features(test, "test")
        return _measured(features, test, choosing, settings, device, seed)
    full = None if features.head is None else features.head.full
    if features.head is not None and full is None:
        raise InputError("The head of these features is decomposed, and there is no full one to begin with.")
    weight, bias = (None, None) if full is None else (full.weight, full.bias)
    where = str(resolve_device(device))
    data = LabelledFeatures(features.values, features.labels, weight, names, features.gates, bias=bias, device=where)
    others = None
    if choosing is not None:
        if (choosing.class_names, choosing.values.shape[1]) != (names, count):
            raise InputError("The images that choose have other classes or features than the training images.")
        others = choosing.values, choosing.labels
    with few_threads(data.features, data.num_classes):
        search = Search(data, settings, others, seed=seed)
        found = search.candidates(search.settings.k)
        best = best_of(found, search.settings.k[0])
        head = search.head(best)
    return SparseHead(
        method=best.method,
        fitted=head,
        full=full or as_full(search.refitted),
        candidates=tuple(sorted(found, key=lambda one: (-one.correct, one.loss))),
        path=search.searched.computed_path.points if search.searched.computed_path else (),
        class_names=tuple(names),
        feature_names=features.feature_names,
    )


def _measured(
    features: Features, test: Features, choosing: Features | None, settings: SparsifySettings, device: str, seed: int
) -> MeasuredHeads:
    watch = Stopwatch()
    inputs = features_inputs(test, {"train": features, "val": choosing}, device=device, seed=seed)
    source = NetworkSource(inputs, settings)
    source.feature_names = features.feature_names
    document, run = found_for(source, settings, seed, watch)
    found = document.results
    results = MeasuredHeads.model_construct(**{name: getattr(found, name) for name in SparsifyResults.model_fields})
    for number, fitted in run.heads.items():
        candidates = sorted((one for one in run.found if one.k == number), key=lambda one: (-one.correct, one.loss))
        results._fitted[number] = SparseHead(
            method=run.best[number].method,
            fitted=fitted,
            full=run.full,
            candidates=tuple(candidates),
            path=run.search.searched.computed_path.points if run.search.searched.computed_path else (),
            class_names=features.class_names,
            feature_names=features.feature_names,
        )
    with_document(document.model_copy(update={"results": results}))
    return results


def _is_whole(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)
