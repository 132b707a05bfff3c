"""The commands that look at a network, or at its features, as functions of what is in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from decompose_cli.api.features import Features
from decompose_cli.api.indices import Indices, index_set_of
from decompose_cli.api.inputs import (
    SetsByName,
    check_features,
    features_inputs,
    given_set,
    given_sets,
    with_document,
)
from decompose_cli.decomposition.accuracy_results import ValidateResults
from decompose_cli.decomposition.calibration import Adjusting
from decompose_cli.decomposition.essential_results import EssentialResults
from decompose_cli.decomposition.essentiality import Noise
from decompose_cli.decomposition.index_set import IndexSet, NamedSet
from decompose_cli.decomposition.overlap_results import MutualInfoResults
from decompose_cli.decomposition.ranking import DEFAULT_METHOD, parse_order
from decompose_cli.decomposition.sweep_results import SweepResults
from decompose_cli.engines import essential as essential_engine
from decompose_cli.engines import mutual_info as mutual_info_engine
from decompose_cli.engines import sweep as sweep_engine
from decompose_cli.engines import validate as validate_engine
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.labelled import Order


def validate(
    features: Features,
    indices: Indices | None = None,
    *,
    train: Features | None = None,
    refit: bool = False,
    l2: float | None = None,
    choosing: Features | None = None,
    temperature: Literal["fit"] | None = None,
    coverage: float | None = None,
    calibrating: Features | None = None,
    device: str = "auto",
    seed: int = 0,
) -> ValidateResults:
    """Measure a classifier with its full head, and with a few features per class; no image is looked at again.

    >>> model = load_model()
    >>> indices = extract_indices(extract_features(model, load_dataset("digits", "train")), k=5)
    >>> results = validate(extract_features(model, load_dataset("digits", "test")), indices)
    >>> results.original.correct, results.decomposed.correct, results.total
    (358, 351, 360)

    Args:
        features: Features of test images. Those of a decomposed model bring its own head, and need no indices.
        indices: The features that each class keeps.
        train: Features of the training images, for ``refit``.
        refit: Whether the weights of the features that are kept are also fitted anew, on ``train``.
        l2: Strength of the penalty of that fit; chosen by default.
        choosing: Features of other images, which choose it; by default a part of the training images.
        temperature: ``fit``: each head's logits are divided by the number that calibrates them best.
        coverage: Share of the images, as 0.9, whose class prediction sets are to hold (split conformal).
        calibrating: Features of images that nobody has trained or chosen on, on which these two are fitted; by default
            half of the images, while the other half is reported on.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        seed: Of the division of the images.

    Raises:
        InputError: The index set does not fit, there is no head, or there is no image.
    """
    check_features(features, "features")
    head = features.head
    if head is None:
        raise InputError(
            "There is no head in features to measure.",
            hint="Features have one where extract_features has taken them from a network.",
        )
    if head.kind == "decomposed" and indices is not None:
        raise InputError("The model is decomposed already; its features are validated without indices.")
    if head.kind == "subspaces" and indices is None:
        raise InputError("The decomposed head of these weights is without its indices; give the file it was made with.")
    if choosing is not None and calibrating is not None:
        raise InputError("choosing and calibrating cannot both be given: images that choose do not calibrate.")
    others = {"train": train, "val": choosing if calibrating is None else calibrating}
    inputs = features_inputs(features, others, device=device, seed=seed)
    index_set = given_set(indices, *_sizes(features))
    adjusting = Adjusting(temperature is not None, coverage, None if calibrating is None else "val")
    return with_document(validate_engine.validate(inputs, index_set, refit=refit, l2=l2, adjusting=adjusting))


def sweep(
    test: Features,
    train: Features | None = None,
    *,
    methods: Sequence[str] | None = None,
    ks: Sequence[int] | None = None,
    indices: SetsByName | None = None,
    max_drop: float | None = None,
    max_class_drop: float | None = None,
    refit: bool = False,
    l2: float | None = None,
    order: Order = "highest",
    choosing: Features | None = None,
    device: str = "auto",
    seed: int = 0,
) -> SweepResults:
    """Measure accuracy for every number of features per class, and choose the smallest index set within a given loss.

    >>> model = load_model()
    >>> test, train = (extract_features(model, load_dataset("digits", split)) for split in ("test", "train"))
    >>> results = sweep(test, train, methods=["frequency"], ks=[1, 5, 21], max_drop=2)
    >>> {k: point.correct for k, point in results.curves["frequency"].items()}
    {'1': 283, '5': 351, '21': 358}
    >>> results.chosen.k, results.chosen.features
    (5, 16)

    Args:
        test: Features of the images that are reported on, with their head.
        train: Features of the training images, over which features are ranked, and on which a set is chosen.
        methods: Rankings; by default all that fit the network and need no fits.
        ks: Features per class; by default 1 to 64, or as far as there are any.
        indices: Further index sets, by name.
        max_drop: Percentage points that the smallest index set may cost.
        max_class_drop: Percentage points that it may cost any class alone, beside ``max_drop``.
        refit: Whether every head is also measured with weights that are fitted anew.
        l2: Strength of the penalty of fits; chosen by default.
        order: Which gates a ranking by gates takes.
        choosing: Features of other images, which choose strengths; by default a part of the training images.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        seed: Of draws.

    Raises:
        InputError: Something given is out of range, or does not fit the features.
    """
    inputs = features_inputs(test, {"train": train, "val": choosing}, device=device, seed=seed)
    settings = sweep_engine.SweepSettings(
        methods=None if methods is None else sweep_engine.parse_methods(",".join(methods)),
        ks=None if ks is None else sweep_engine.parse_ks(",".join(map(str, ks))),
        indices=given_sets(indices, *_sizes(test)),
        order=parse_order(order),
        max_drop=max_drop,
        max_class_drop=max_class_drop,
        refit=refit,
        l2=l2,
    )
    return with_document(sweep_engine.sweep(inputs, settings))


def essential(
    test: Features,
    indices: Indices | None = None,
    *,
    train: Features | None = None,
    others: Mapping[str, tuple[Features, Indices]] | None = None,
    k: int | float | None = None,
    noise: Noise = "gaussian",
    repeats: int = 30,
    controls: int = 100,
    device: str = "auto",
    seed: int = 0,
) -> EssentialResults:
    """Put noise on each class's features, and on all its others, and count the images that the class still gets.

    >>> model = load_model()
    >>> test = extract_features(model, load_dataset("digits", "test"))
    >>> indices = extract_indices(extract_features(model, load_dataset("digits", "train")), k=5)
    >>> results = essential(test, indices, noise="zero", controls=0)
    >>> summary = results.summary["ours"]
    >>> summary.noise_at_inf, summary.noise_at_noninf, summary.clean
    (300.0, 360.0, 358)

    Args:
        test: Features of images, with their head.
        indices: Features of each class, of the network called ``ours``; by default those of its sparse head, or the k
            most frequent over the training images.
        train: Features of the training images, where features are ranked.
        others: Further networks by name: features of the same images, and the set of each class.
        k: Features per class that are ranked; 5 by default.
        noise: ``gaussian``, ``matched``, ``zero``, ``mean`` or ``permute``.
        repeats: Draws of the noise.
        controls: Random feature sets of the same size to compare with.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        seed: Of draws.

    Raises:
        InputError: Something given is out of range, or does not fit the features.
    """
    options: dict[str, Any] = {"device": device, "seed": seed}
    inputs = features_inputs(test, {"train": train}, **options)
    methods = []
    for name, (features, given) in (others or {}).items():
        check_features(features, name)
        if len(features) != len(test) or not bool((features.labels == test.labels).all()):
            raise InputError(f"{name}: its features are not of the same images, as their classes are others.")
        further = features_inputs(features, **options)
        methods.append(essential_engine.NamedMethod(name, further, index_set_of(given, *_sizes(features))))
    settings = essential_engine.EssentialSettings(
        indices=given_set(indices, *_sizes(test)),
        method=methods,
        k=k,
        noise=essential_engine.parse_noise(noise),
        repeats=repeats,
        controls=controls,
    )
    return with_document(essential_engine.essential(inputs, settings))


def mutual_info(
    sets: Features | Indices | SetsByName,
    *,
    k: int | float | Sequence[int | float] | None = None,
    method: str = DEFAULT_METHOD,
    num_features: int | None = None,
    order: Order = "highest",
) -> MutualInfoResults:
    """Say how much the feature sets of the classes overlap.

    >>> features = extract_features(load_model(), load_dataset("digits", "train"))
    >>> round(mutual_info(features, k=5).sets["ours"]["5"].mean, 4)
    0.0334
    >>> indices = extract_indices(features, k=5)
    >>> mutual_info({"mine": indices}).sets["mine"]["5"].exclusive
    30

    Args:
        sets: Index sets by name, or one; or features of training images, which are ranked here.
        k: Features per class that are ranked, one number or several; 5, 10 and 20 by default.
        method: How they are ranked.
        num_features: D, for sets that do not say it.
        order: Which gates a ranking by gates takes.

    Raises:
        InputError: Something given is out of range, or no index set.
    """
    ks = None if k is None else tuple(k) if isinstance(k, Sequence) else (k,)
    if isinstance(sets, Features):
        settings = mutual_info_engine.MutualInfoSettings(k=ks, method=method, order=parse_order(order))
        inputs: Inputs = features_inputs(sets, {"train": sets})
        return with_document(mutual_info_engine.mutual_info(inputs, settings))
    settings = mutual_info_engine.MutualInfoSettings(
        indices=_named(sets, num_features), k=ks, method=method, order=parse_order(order), num_features=num_features
    )
    return with_document(mutual_info_engine.mutual_info(Inputs(), settings))


def _named(sets: Indices | SetsByName, num_features: int | None) -> tuple[NamedSet, ...]:
    """Index sets by name; rows without D are taken as they are."""
    if isinstance(sets, Mapping) and sets and all(isinstance(name, str) for name in sets):
        return tuple(NamedSet(str(name), _set(given, num_features)) for name, given in sets.items())
    one = _set(sets, num_features)
    return (NamedSet("indices" if not isinstance(sets, str | Path) else Path(sets).stem, one),)


def _set(given: object, num_features: int | None) -> IndexSet:
    if isinstance(given, IndexSet | str | Path):
        return index_set_of(given, 0, 0)
    if not isinstance(given, Mapping | Sequence):
        raise InputError(f"sets has {given!r}, which is no index set.")
    count = len(given)
    rows = index_set_of(given, count, num_features or 1 << 30)
    return IndexSet(rows.classes, num_features, source="index set")


def _sizes(features: Features) -> tuple[int, int]:
    """Numbers of classes and of features."""
    return len(features.class_names), features.values.shape[1]
