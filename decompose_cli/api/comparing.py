"""Index sets and heads side by side, as a function of what is in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decompose_cli.api.features import Features
from decompose_cli.api.indices import Indices, index_set_of
from decompose_cli.api.inputs import check_features, features_inputs, with_document
from decompose_cli.api.sparse import MeasuredHeads
from decompose_cli.api.sparse_head import SparseHead
from decompose_cli.decomposition.compare_results import CompareResults
from decompose_cli.decomposition.compared import Entry
from decompose_cli.engines import compare as compare_engine
from decompose_cli.errors import InputError

Comparable = Indices | SparseHead | MeasuredHeads | Features
"""An index set, which is cut from the full head; a head of its own; or another network over the same images."""


def compare(given: Mapping[str, Comparable], test: Features, *, device: str = "auto") -> CompareResults:
    """Say which features differ per class between index sets and heads, and how these do on the same images.

    >>> model = load_model()
    >>> test, train = (extract_features(model, load_dataset("digits", split)) for split in ("test", "train"))
    >>> sets = {method: extract_indices(train, 5, method) for method in ("frequency", "weight")}
    >>> results = compare(sets, test)
    >>> [(one.first, one.second, round(one.points, 2)) for one in results.differences]
    [('full head', 'frequency', -1.94), ('full head', 'weight', -1.67), ('frequency', 'weight', 0.28)]
    >>> round(results.set_differences[0].jaccard_mean, 3)
    0.677

    Args:
        given: At least two by name: index sets, which are cut from the head of ``test``; heads that :func:`sparsify`
            has fitted to these features, or its results where they have one head; or features of another network over
            the same images, whose own head it is.
        test: Features of the images that all are measured on, with their head.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        InputError: Something given does not fit the features, is of other images, or is nothing that can be compared.
    """
    check_features(test, "test")
    if test.head is None:
        raise InputError(
            "There is no head in test that sets could be cut from.",
            hint="Features have one where extract_features has taken them from a network.",
        )
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InputError("What is compared has no names; give it by name, as in {'mine': indices}.")
    options: dict[str, Any] = {"device": device}
    entries = [_entry(name, one, test, options) for name, one in given.items()]
    return with_document(compare_engine.compare(features_inputs(test, **options), entries))


def _entry(name: str, given: object, test: Features, options: dict[str, Any]) -> Entry:
    sizes = len(test.class_names), test.values.shape[1]
    if isinstance(given, MeasuredHeads):
        given = given.head()
    if isinstance(given, Features):
        if given.head is None:
            raise InputError(f"There is no head in the features {name!r} to measure.")
        if len(given) != len(test):
            raise InputError(f"{name!r} has features of {len(given):,} images, but there are {len(test):,}.")
        return Entry(name, name, inputs=features_inputs(given, **options))
    if isinstance(given, SparseHead):
        if tuple(given.weight.shape) != sizes:
            raise InputError(
                f"The head {name!r} takes {given.weight.shape[1]:,} features into {given.weight.shape[0]:,} classes, "
                f"but there are {sizes[1]:,} and {sizes[0]:,}."
            )
        return Entry(name, name, index_set=given.indices, head=given.fitted.linear())
    return Entry(name, name, index_set=index_set_of(given, *sizes))  # type: ignore[arg-type]
