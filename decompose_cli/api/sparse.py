"""Sparse heads as objects: a few features per class, chosen and fitted anew on features that are at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path

from torch import Tensor

from decompose_cli.api.features import Features
from decompose_cli.api.indices import Indices, index_set_of
from decompose_cli.api.inputs import features_inputs, with_document
from decompose_cli.api.model import Model
from decompose_cli.decomposition.accuracy_results import ValidateResults
from decompose_cli.decomposition.heads import with_decomposed_head
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.ranking import DEFAULT_K
from decompose_cli.decomposition.sizes import check_filters
from decompose_cli.decomposition.sparse_heads import SparseHead as FittedHead
from decompose_cli.decomposition.sparse_heads import as_full
from decompose_cli.decomposition.sparse_search import Candidate, Search, best_of
from decompose_cli.decomposition.sparse_settings import AUTO, ClassWeights, Objective, SparsifySettings, Toward, Values
from decompose_cli.engines import validate as validate_engine
from decompose_cli.errors import InputError, param
from decompose_cli.features.elsewhere import Described, are_numbers, check_fits, check_names
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.models.copying import copied
from decompose_cli.models.lone_head import HEAD, write_lone_head
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.processes.device import resolve_device
from decompose_cli.sparse.elastic_net import PathPoint
from decompose_cli.sparse.threads import few_threads
from decompose_cli.storage.files import check_writable, user_path


@dataclass(frozen=True, repr=False, eq=False)
class SparseHead:
    """A head with a few features per class, for features of any origin.

    Attributes:
        method: What chose the features.
        fitted: The head as it was fitted: weights, biases, the same on standardised features, its few values.
        full: The full head that it is compared with: that of the features, or where they have none the fitted one.
        candidates: Every method that was tried, with what its head said of the choosing images, best first.
        path: The points of the elastic-net path with their certificates, where it was computed; else empty.
        class_names: Names of the C classes.
        feature_names: Names of the D features, where they have some.
    """

    method: str
    fitted: FittedHead
    full: HeadTensors
    candidates: tuple[Candidate, ...]
    path: tuple[PathPoint, ...]
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...] | None = None

    @property
    def indices(self) -> IndexSet:
        """The features of each class, the strongest weights on standardised features first."""
        return self.fitted.index_set

    @property
    def weight(self) -> Tensor:
        """Weights on features as they are, 0 where a class does not use one, float64 (C, D)."""
        return self.fitted.weight

    @property
    def bias(self) -> Tensor:
        """Biases, float64 (C,)."""
        return self.fitted.bias

    @property
    def integers(self) -> Tensor | None:
        """The weights on standardised features in units of :attr:`scale`, int8 (C, D); None for real weights."""
        return None if self.fitted.values is None else self.fitted.values.integers

    @property
    def scale(self) -> float | None:
        """The one size of ternary and binary weights on standardised features; None for real weights."""
        return None if self.fitted.values is None else float(self.fitted.values.scale)

    @property
    def l2(self) -> float | None:
        """Strength of the penalty that it was fitted with; None for a published cut, which is not fitted."""
        return self.fitted.l2

    def __repr__(self) -> str:
        classes, features = self.weight.shape
        k = self.indices.k_label
        return f"SparseHead({self.method!r}, {k} of {features} features in each of {classes} classes)"

    def validate(self, features: Features) -> ValidateResults:
        """Measure it on features of test images, beside the full head that it is compared with.

        Raises:
            InputError: The features are of another number, or of other classes; or names of classes or features, where
                both have some, are others or in another order.
        """
        _check_kind(features, "features")
        names = features.class_names
        given = Described(
            "The Features object",
            features.values.shape[1],
            len(names),
            None if are_numbers(names) else names,
            features.feature_names,
        )
        check_fits(given, self._described)
        measured = Features(features.values, features.labels, class_names=self.class_names, head=self._tensors())
        return with_document(validate_engine.validate(features_inputs(measured, name="the sparse head")))

    def decompose(self, model: Model) -> Model:
        """Copy a classifier with this head in place of its own; the copy is an ordinary module.

        Its own head stays in what :func:`save_model` writes, as the one to compare with.

        Raises:
            InputError: The classifier has another number of features or classes, or classes of other names, or is
                decomposed already.
        """
        network = model.network.as_it_is()
        own = network.tensors
        if own.kind not in ("dense", "absent"):
            raise InputError(f"{model.name} has a decomposed head already.")
        if (own.num_classes, own.num_features) != tuple(self.weight.shape):
            raise InputError(
                f"The head takes {self.weight.shape[1]:,} features into {self.weight.shape[0]:,} classes, but "
                f"{model.name} has {own.num_features:,} and {own.num_classes:,}."
            )
        if model.classes is not None and model.classes.certain:  # others are a guess
            check_names(Described(model.name, own.num_features, own.num_classes, model.class_names), self._described)
        module = copied(network.module)
        with_decomposed_head(module, network.head, self.fitted.linear())
        full = own if own.kind == "dense" else self.full
        record = SparseRecord(full.weight, full.bias, self.fitted.values)
        return replace(model, network=replace(network, module=module).as_it_is(), sparse=record)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the head alone to a ``.safetensors`` file, which ``decompose validate --features`` takes.

        Raises:
            InputError: The path cannot be used.
            DecomposeError: The file cannot be written; nothing is left behind.
        """
        target = user_path(path)
        if target.suffix != ".safetensors":
            raise InputError(f"{target} does not end in .safetensors.")
        check_writable(target, overwrite=overwrite)
        record = SparseRecord(self.full.weight, self.full.bias, self.fitted.values)
        write_lone_head(target, self.fitted.linear(), record, self.class_names, self.feature_names)

    @property
    def _described(self) -> Described:
        classes, features = self.weight.shape
        return Described("the sparse head", features, classes, self.class_names, self.feature_names)

    def _tensors(self) -> HeadTensors:
        module = self.fitted.linear()
        return HeadTensors(
            "decomposed",
            HEAD,
            module.weight.detach(),
            module.bias.detach(),
            module.num_features,
            module.indices,
            module.mask,
            self.full.weight,
            self.full.bias,
        )


def sparsify(
    features: Features,
    k: int | None = None,
    method: str = AUTO,
    *,
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
) -> SparseHead:
    """Choose a few features per class and fit their weights anew, as ``decompose sparsify`` does.

    >>> model = load_model()
    >>> head = sparsify(extract_features(model, load_dataset("digits", "train")), k=2, method="backward")
    >>> head
    SparseHead('backward', 2 of 64 features in each of 10 classes)
    >>> small = head.decompose(model)
    >>> validate(extract_features(small, load_dataset("digits", "test"))).decomposed.correct > 350
    True

    Args:
        features: Features of training images, with a head or without.
        k: Features per class; 5 by default.
        method: A ranking, ``sldd``, ``q-senn``, or ``auto``: the best of all that are quick, on the choosing images.
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
    _check_kind(features, "features")
    if choosing is not None:
        _check_kind(choosing, "choosing")
    for number, name in ((k, "k"), (pool, "pool")):
        if number is not None and not _is_whole(number):
            raise InputError(f"{param(name)} {number!r} is not a whole number of at least 1.")
    strength: object = l2
    if l2 is not None and (isinstance(strength, bool) or not isinstance(strength, Real)):
        raise InputError(f"{param('l2')} {l2!r} is not a positive number.")
    if not _is_whole(seed):
        raise InputError(f"{param('seed')} {seed!r} is not a whole number.")
    k, pool, seed = (None if k is None else int(k)), (None if pool is None else int(pool)), int(seed)
    Inputs(seed=seed)  # checks its range
    check_filters(indices, k)
    count, names = features.values.shape[1], features.class_names
    index_set = None if indices is None else index_set_of(indices, len(names), count)
    settings = SparsifySettings(
        k=((DEFAULT_K if k is None else k) if index_set is None else index_set.largest_k,),
        method=method,
        values=values,
        l2=l2,
        toward=toward,
        distil=distil,
        class_weights=class_weights,
        pool=pool,
        objective=objective,
        indices=index_set,
    )
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


def _is_whole(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _check_kind(features: object, name: str) -> None:
    if not isinstance(features, Features):
        raise InputError(
            f"{param(name)} is of the type {type(features).__name__}, not Features.",
            hint="decompose_cli.Features(values, labels) takes features of any origin.",
        )
