"""A sparse head as an object, for features of any origin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from decompose_cli.api.features import Features
from decompose_cli.api.inputs import check_features, features_inputs, with_document
from decompose_cli.api.model import Model
from decompose_cli.decomposition.accuracy_results import ValidateResults
from decompose_cli.decomposition.heads import with_decomposed_head
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.sparse_heads import SparseHead as FittedHead
from decompose_cli.decomposition.sparse_search import Candidate
from decompose_cli.engines import validate as validate_engine
from decompose_cli.errors import InputError
from decompose_cli.features.elsewhere import Described, are_numbers, check_fits, check_names
from decompose_cli.models.copying import copied
from decompose_cli.models.lone_head import HEAD, write_lone_head
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.sparse.elastic_net import PathPoint
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
        check_features(features, "features")
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
