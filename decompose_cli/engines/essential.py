"""``essential``: what noise on a class's features does to it, and what noise on all the others does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from decompose_cli.decomposition.class_gates import read_gates
from decompose_cli.decomposition.essential_results import EssentialResults, Kept, MethodSummary
from decompose_cli.decomposition.essentiality import (
    DETERMINISTIC,
    NOISES,
    ClassEssentiality,
    Noise,
    essentiality,
    overall_controls,
    permutation_p,
    summarize,
)
from decompose_cli.decomposition.heads import check_index_request, check_made_from, of_studied_classes, own_index_set
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.decomposition.ranking import (
    DEFAULT_K,
    DEFAULT_METHOD,
    check_order,
    data_for,
    parse_order,
    select,
)
from decompose_cli.decomposition.sizes import check_k
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.features.held_network import IN_MEMORY
from decompose_cli.features.labelled import Order, check_gates
from decompose_cli.features.study import Inputs, Study
from decompose_cli.messages import note, track, warn
from decompose_cli.models.network import HeadTensors
from decompose_cli.sparse.problem import fitting_device
from decompose_cli.statistics import mean_interval
from decompose_cli.storage.files import given_file, sha256_of, user_path
from decompose_cli.storage.result_document import ResultDocument, Stopwatch

OURS, CSG = "ours", "csg"
_MOST_REPEATS, _MOST_CONTROLS = 1_000_000, 100_000
_RESERVED = ("repeats", "noise", "controls", "summary")


@dataclass(frozen=True)
class NamedMethod:
    """A network and a feature set to look at: weights, and an index file or None for the most frequent features.

    A program that has the network in memory gives it as inputs with the same images, and the set as it is.
    """

    name: str
    weights: str | Inputs
    indices: Path | IndexSet | None

    def __str__(self) -> str:
        """As it would be typed."""
        weights = self.weights if isinstance(self.weights, str) else IN_MEMORY
        indices = self.indices.source if isinstance(self.indices, IndexSet) else self.indices
        return f"{self.name}={weights}{f',{indices}' if indices else ''}"


def parse_method(text: str) -> NamedMethod:
    """Read ``NAME=WEIGHTS`` or ``NAME=WEIGHTS,INDICES``.

    Raises:
        InputError: The text has another form.
    """
    name, sign, rest = text.partition("=")
    weights, comma, indices = rest.rpartition(",")
    if not comma or user_path(rest).exists():
        weights, comma, indices = rest, "", ""
    if not sign or not name.strip() or not weights.strip() or (comma and not indices.strip()):
        raise InputError(
            f"{param('method')} {text!r} is not NAME=WEIGHTS or NAME=WEIGHTS,INDICES.",
            hint=f"Here {param('method')} names other weights to compare with; sets of 'extract-indices' go with "
            f"{param('indices')}.",
        )
    return NamedMethod(name.strip(), weights.strip(), user_path(indices.strip()) if indices else None)


def parse_noise(text: str) -> Noise:
    """Check the name of a noise.

    Raises:
        InputError: The name is unknown.
    """
    return one_of(text, NOISES, "noise")


@dataclass(frozen=True)
class EssentialSettings:
    """Whose features the noise is put on, and what noise.

    Attributes:
        indices: Features per class of the network called ``ours``; by default those of its sparse head, or else the
            most frequent ones over the training images.
        csg: A checkpoint with class-specific gates; its network, with the features of its gates, is called ``csg``.
        method: Further networks of the same architecture.
        k: Features per class that are ranked here; by default 5, for ``csg`` as many as ``ours`` has.
        order: Which gates are taken.
        noise: See :func:`decompose_cli.decomposition.essentiality.essentiality`.
        repeats: Draws of the noise.
        controls: Random feature sets to compare with.

    Raises:
        InputError: A number is out of range, names collide, or something was given that has no effect.
    """

    indices: Path | IndexSet | None = None
    csg: str | None = None
    method: Sequence[NamedMethod] = ()
    k: int | float | None = None
    order: Order = "highest"
    noise: Noise = "gaussian"
    repeats: int = 30
    controls: int = 100

    def __post_init__(self) -> None:
        parse_noise(self.noise)
        parse_order(self.order)
        if self.repeats < 1:
            raise InputError(f"{param('repeats')} {self.repeats} is not at least 1.")
        if self.controls < 0:
            raise InputError(f"{param('controls')} {self.controls} is negative.")
        for name, most, why in (
            ("repeats", _MOST_REPEATS, "standard errors are a thousandth of one draw's deviation by then"),
            ("controls", _MOST_CONTROLS, "p-values are exact to a hundred-thousandth by then"),
        ):
            if (count := getattr(self, name)) > most:
                raise InputError(f"{param(name)} {count:,} is more than {most:,}; {why}.")
        _check_names([OURS, CSG, *(method.name for method in self.method)])
        check_order(self.order, uses_gates=self.csg is not None)
        all_given = self.indices is not None and self.csg is None and all(method.indices for method in self.method)
        if self.k is not None and all_given:
            raise InputError(
                f"{param('k')} {self.k} has no effect: every feature set is given as a file, which is used whole."
            )


def essential(inputs: Inputs, settings: EssentialSettings | None = None) -> ResultDocument[EssentialResults]:
    """Count, for each class, the images still assigned to it under noise, for one or several networks.

    Args:
        inputs: The network that is called ``ours``, and the images (``test``, else ``val``).
        settings: Whose features the noise is put on, and what noise.

    Raises:
        InputError: Something given cannot be used.
        DecomposeError: The work failed.
    """
    watch = Stopwatch()
    settings = settings or EssentialSettings()
    csg, k, order, noise = settings.csg, settings.k, settings.order, settings.noise
    repeats, controls = settings.repeats, settings.controls
    study = Study(inputs, ("test", "val"))
    own = _Subject.of(OURS, study, settings.indices, k)
    subjects = [own]
    if csg is not None:
        gates = read_gates(given_file(csg, "csg"))
        gates = dataclasses.replace(gates, matrix=study.rows_of_classes(gates.matrix))
        check_gates(gates.matrix, study.head.num_classes, study.head.num_features, gates.source)
        size = k if k is not None else own.given.largest_k if own.given is not None else DEFAULT_K
        check_k(size, gates.num_features)
        subjects.append(_Subject.of(CSG, _sibling(study, csg), gates.index_set(size, order), k))
    for method in settings.method:
        subjects.append(_Subject.of(method.name, _sibling(study, method.weights), method.indices, k))
    if k is not None and csg is None and all(subject.given is not None for subject in subjects):
        raise InputError(
            f"{param('k')} {k} has no effect: every feature set is given, in a file or a sparse head, and used whole."
        )
    study.warn_of_empty_classes()
    if len({subject.index_set().sizes for subject in subjects}) > 1:
        warn("The networks have different numbers of features per class, so their figures are hard to compare.")
    measured = {subject.name: subject.measured(noise, repeats, controls, inputs.seed) for subject in subjects}
    results = EssentialResults.model_validate(
        {
            "repeats": 1 if noise in DETERMINISTIC else repeats,
            "noise": noise,
            "controls": controls,
            "summary": {name: summary for name, (_, summary) in measured.items()},
            **{name: per_class for name, (per_class, _) in measured.items()},
        }
    )
    arguments: dict[str, Any] = {
        "indices": own.index_set().source if settings.indices is not None else None,
        "csg": csg,
        "method": list(map(str, settings.method)),
        "k": k,
        "order": order,
        "noise": noise,
        "repeats": repeats,
        "controls": controls,
    }
    others = [other for subject in subjects for other in (subject.study, subject.ranked_on) if other is not None]
    return study.document("essential", arguments, results, watch, others)


def _check_names(names: list[str]) -> None:
    for number, name in enumerate(names):
        if name in _RESERVED:
            raise InputError(f"A method cannot be named {name!r}: the result uses that name for something else.")
        if name in names[:number] and name in (OURS, CSG):
            what = f"MODEL and {param('weights')}" if name == OURS else param("csg")
            raise InputError(
                f"{param('method')} cannot be named {name!r}, which is the network of {what}.",
                hint="Choose another name.",
            )
        if name in names[:number]:
            raise InputError(f"Two methods are named {name!r}.")


def _sibling(study: Study, weights: str | Inputs) -> Study:
    """The same images for a network of the same architecture with other weights."""
    if not isinstance(weights, str):
        return Study(weights, (study.dataset.split,))
    inputs = dataclasses.replace(
        study.inputs,
        model=study.classifier.name,
        weights=weights,
        dataset=study.dataset.name,
        split=study.dataset.split,
    )
    return Study(inputs, (study.dataset.split,))


@dataclass
class _Subject:
    """A network with the features to put noise on."""

    name: str
    study: Study
    full: HeadTensors
    given: IndexSet | None
    k: int | float
    sha256: str | None = None
    ranked_on: Study | None = None

    @classmethod
    def of(cls, name: str, study: Study, given: Path | IndexSet | None, k: int | float | None) -> _Subject:
        """The subject of this name; what cannot work is refused before any image is looked at."""
        digest = None
        if isinstance(given, Path):
            digest = sha256_of(given) if given.is_file() else None
            given = read_index_set(given)
        full = study.require_full_head("essential")
        check_index_request(study.classifier.checkpoint, given)
        if given is not None:
            given = of_studied_classes(given, study).fitted_to(study.head.num_classes, study.head.num_features)
            check_made_from(given, study.classifier)
        if given is None and study.head.kind == "decomposed":
            source = study.classifier.weights_source
            given = own_index_set(study.head, source, study.classifier.kept_whole)
            note(f"{source}: the full head that it was made from judges noise on the features of its sparse head.")
        subject = cls(name, study, full, given, DEFAULT_K if k is None else k, digest)
        check_k(subject.k, study.head.num_features)
        return subject

    def index_set(self) -> IndexSet:
        """The set that was given, else the most frequent features over the training images."""
        if self.given is None:
            self.ranked_on = self.study.on_training_split()
            self.given = select(data_for(self.ranked_on, [DEFAULT_METHOD]), DEFAULT_METHOD, self.k)
        return self.given

    def measured(self, noise: Noise, repeats: int, controls: int, seed: int) -> tuple[dict[str, Kept], MethodSummary]:
        index_set, head = self.index_set(), self.full
        features, times = self.study.bank.features, 1 if noise in DETERMINISTIC else repeats
        with track(f"Noise on {self.name}", len(features) * times, unit="noisy images") as advance:
            by_class = essentiality(
                features,
                self.study.labels,
                head.weight,
                head.bias,
                index_set.classes,
                noise=noise,
                repeats=repeats,
                controls=controls,
                seed=seed,
                device=fitting_device(self.study.device),
                advance=advance,
            )
        if any(number in index_set.whole for number in by_class):
            warn(
                f"{self.name}: classes that had no training images keep all features, so they have none of their own; "
                "they are left out."
            )
        by_class = {number: one for number, one in by_class.items() if number not in index_set.whole}
        if not by_class:
            raise InputError(f"{index_set.source} has no features of its own for any class that has images here.")
        is_random = noise not in DETERMINISTIC
        total = _total(by_class)
        summary = MethodSummary(
            **_kept(total, overall_controls(by_class), is_random=is_random).model_dump(),
            weights=self.study.describe_model().weights,
            indices=index_set.source,
            indices_sha256=self.sha256,
            features_per_class=index_set.sizes,
            features=index_set.published_layout(),
        )
        return (
            {
                str(number): _kept(one, one.control_scores.tolist(), is_random=is_random)
                for number, one in by_class.items()
            },
            summary,
        )


def _total(by_class: dict[int, ClassEssentiality]) -> ClassEssentiality:
    """All classes as one; :func:`overall_controls` puts their controls together."""
    parts = list(by_class.values())
    return ClassEssentiality(
        sum(part.images for part in parts),
        sum(part.clean for part in parts),
        torch.stack([part.at_features for part in parts]).sum(0),
        torch.stack([part.elsewhere for part in parts]).sum(0),
        torch.cat([part.image_scores for part in parts]),
        torch.empty(0),
    )


def _kept(measured: ClassEssentiality, controls: list[float], *, is_random: bool) -> Kept:
    at, elsewhere = summarize(measured.at_features, random=is_random), summarize(measured.elsewhere, random=is_random)
    score, _, interval = mean_interval(measured.image_scores.tolist())
    return Kept(
        images=measured.images,
        clean=measured.clean,
        noise_at_inf=at.mean,
        noise_at_inf_se=at.se,
        noise_at_inf_ci95=at.ci95,
        noise_at_noninf=elsewhere.mean,
        noise_at_noninf_se=elsewhere.se,
        noise_at_noninf_ci95=elsewhere.ci95,
        essentiality=100 * score,
        essentiality_ci95=None if interval is None else (max(-100, 100 * interval[0]), min(100, 100 * interval[1])),
        control_mean=100 * sum(controls) / len(controls) if controls else None,
        control_range=(100 * min(controls), 100 * max(controls)) if controls else None,
        p=permutation_p(score, controls),
    )
