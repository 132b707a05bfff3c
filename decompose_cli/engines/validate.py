"""``validate``: how a classifier does with its full head, and with a few features per class."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decompose_cli.decomposition.accuracy_results import (
    ClassAccuracy,
    Guess,
    HeadAccuracy,
    IndicesInfo,
    Mistake,
    RefittedHead,
    ValidateResults,
)
from decompose_cli.decomposition.calibration import (
    HALF,
    VAL,
    Adjusting,
    HeadCalibration,
    adjusted,
    bins_of,
    calibration_error,
)
from decompose_cli.decomposition.choosing import validation_of
from decompose_cli.decomposition.heads import (
    check_index_request,
    check_made_from,
    of_studied_classes,
    own_index_set,
    resolve_heads,
)
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.decomposition.metrics import Evaluation, evaluate_head
from decompose_cli.decomposition.prediction_tables import add_heads, numbered_table, table_of
from decompose_cli.decomposition.reasons import reasons
from decompose_cli.decomposition.refitting import Refitting, check_apart, check_refit, settle
from decompose_cli.decomposition.result_types import difference_of, gain_of
from decompose_cli.decomposition.sparse_heads import SparseHead, fit_head
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.features.elsewhere import SPLITS, Described, FeatureFile, check_fits, read_feature_file
from decompose_cli.features.study import Inputs, Study
from decompose_cli.models.checkpoint import Checkpoint
from decompose_cli.models.classifier import Classifier
from decompose_cli.models.lone_head import FEATURES, read_lone_head
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.weights import DEFAULT, RANDOM
from decompose_cli.processes.device import resolve_device
from decompose_cli.reporting.predictions import PredictionTable
from decompose_cli.statistics import wilson_interval
from decompose_cli.storage.files import sha256_of
from decompose_cli.storage.result_document import (
    ModelInfo,
    ResultDocument,
    Stopwatch,
    WeightsInfo,
    describe_environment,
)

MOST_MISTAKES = 24


def validate(
    inputs: Inputs,
    indices: Path | IndexSet | None = None,
    *,
    features: Path | None = None,
    refit: bool = False,
    l2: float | None = None,
    adjusting: Adjusting | None = None,
    classifier: Classifier | None = None,
) -> ResultDocument[ValidateResults]:
    """Measure a classifier on a split (``test``, else ``val``), and its decomposition if indices are given or carried.

    Args:
        inputs: The network and the images.
        indices: An index file or set: the features that each class keeps.
        features: A file of features that were made elsewhere (:mod:`decompose_cli.features.elsewhere`); then the
            weights are a file of a head without a network, and nothing of the inputs is about one.
        refit: Whether the weights of these features are also fitted anew, on the training images.
        l2: Strength of the penalty of that fit; None to choose it on images that are not measured.
        adjusting: Whether temperatures are fitted and prediction sets made, and on which images.
        classifier: The network, if it has been opened already.

    Raises:
        InputError: Something given cannot be used.
        DecomposeError: The work failed.
    """
    watch, adjusting = Stopwatch(), adjusting or Adjusting()
    check_refit(l2, fits=refit)
    if refit and indices is None:
        raise InputError(
            f"{param('refit')} fits the weights of an index set anew, and none was given.",
            hint=f"Name an index file with {param('indices')}.",
        )
    index_set = read_index_set(indices) if isinstance(indices, Path) else indices
    if features is not None:
        if refit:
            raise InputError(
                f"{param('refit')} needs a network; 'decompose sparsify --features' fits heads for {param('features')}."
            )
        return _validate_alone(inputs, features, index_set, watch, adjusting)
    study = Study(inputs, ("test", "val"), classifier)
    check_index_request(study.classifier.checkpoint, index_set)
    if index_set is not None:
        index_set = of_studied_classes(index_set, study)
    resolve_heads(study.head, index_set)  # what does not fit shows before the network runs
    if index_set is not None:
        check_made_from(index_set, study.classifier)
    val = _unseen(study, adjusting, is_fitted=refit)
    anew, others = _refitted(study, index_set, l2) if refit and index_set is not None else (None, [])
    results = measure(
        study.head,
        study.bank.features,
        study.labels,
        study.class_map.names,
        index_set,
        refitted=anew,
        source=study.classifier.weights_source,
        whole=study.classifier.kept_whole,
        sha256=sha256_of(indices) if isinstance(indices, Path) else None,
        device=study.device,
        table=table_of(study),
        adjusting=adjusting,
        seed=inputs.seed,
        val=None if val is None else (val.bank.features, val.labels),
    )
    for mistake in results.mistakes:
        (mistake.image,) = study.in_split([mistake.image])
        mistake.name = study.split.file_of(mistake.image)
    arguments = {"indices": index_set.source if index_set else None, "refit": refit, "l2": l2, **_named(adjusting)}
    return study.document("validate", arguments, results, watch, [*others, *([] if val is None else [val])])


def _named(adjusting: Adjusting) -> dict[str, Any]:
    """As arguments of the command."""
    temperature = "fit" if adjusting.temperature else None
    return {"temperature": temperature, "coverage": adjusting.coverage, "calibrate_on": adjusting.source}


def _unseen(study: Study, adjusting: Adjusting, *, is_fitted: bool) -> Study | None:
    """The split ``val``, where it is to be calibrated on; None for a part of the images that are measured."""
    if adjusting.source != VAL:
        return None
    val = validation_of(study)
    if val is None:
        raise InputError(
            f"{study.dataset.name} has no split {VAL} beside the one that is measured, {study.dataset.split}.",
            hint=f"{param('calibrate_on')} {HALF} takes half of these images.",
        )
    if is_fitted or study.head.kind != "dense":
        raise InputError(
            f"{VAL} may have chosen strengths or methods of this head, so it does not say how far to believe it.",
            hint=f"{param('calibrate_on')} {HALF} takes half of the images that are measured.",
        )
    return val


def _refitted(study: Study, index_set: IndexSet, l2: float | None) -> tuple[tuple[SparseHead, Refitting], list[Study]]:
    """The head of an index set with weights fitted anew, and the further images that were looked at."""
    full = study.require_full_head(param("refit"))
    index_set = index_set.fitted_to(full.num_classes, full.num_features)
    train = study.on_training_split()
    check_apart(study, train)
    data = train.labelled().for_fits()
    refitting, others = settle(study, data, lambda _: index_set, l2)
    return (fit_head(data, index_set, "real", refitting.l2), refitting), [train, *others]


def _validate_alone(
    inputs: Inputs, path: Path, index_set: IndexSet | None, watch: Stopwatch, adjusting: Adjusting
) -> ResultDocument[ValidateResults]:
    """Measure a head without a network on features that were made elsewhere."""
    inputs = inputs.for_features_alone()
    if inputs.weights in (None, DEFAULT, RANDOM):
        raise InputError(
            f"{param('features')} measures the file of a head that takes such features; none was named.",
            hint=f"Give the file of a head that was fitted to such features with {param('weights')}.",
        )
    device = resolve_device(inputs.device)
    head, checkpoint = read_lone_head(inputs.weights, allow_download=inputs.allow_download)
    check_index_request(checkpoint, index_set)
    needs = ("test", "val") if inputs.split is None else one_of(inputs.split, SPLITS, "split")
    file = read_feature_file(path, needs=(needs,), optional=())
    ((name, split),) = file.splits.items()
    names = _matching_names(head, checkpoint, file)
    if adjusting.source == VAL:
        raise InputError(f"{param('calibrate_on')} {VAL} needs a network; {HALF} of the rows can be taken.")
    results = measure(
        head,
        split.features,
        split.labels,
        names,
        source=checkpoint.source,
        device=device,
        adjusting=adjusting,
        seed=inputs.seed,
    )
    own = {"indices": None, "refit": False, "l2": None, **_named(adjusting), "features": str(path)}
    return ResultDocument(
        command="validate",
        arguments={**inputs.as_arguments(), **own},
        model=ModelInfo(
            name=FEATURES,
            num_classes=head.num_classes,
            num_features=head.num_features,
            head=head.name,
            weights=WeightsInfo(source=checkpoint.source, sha256=checkpoint.sha256),
        ),
        dataset=file.describe(name, names),
        environment=describe_environment(str(device), inputs.seed),
        started_at=watch.started_at,
        results=results,
        seconds=watch.seconds(),
    )


def _matching_names(head: HeadTensors, checkpoint: Checkpoint, file: FeatureFile) -> tuple[str, ...]:
    """The names of the classes of a head, unless a features file has other features or classes than the head.

    Raises:
        InputError: It has.
    """
    described = checkpoint.metadata
    assert described is not None  # read_lone_head
    check_fits(
        Described(
            str(file.path),
            file.num_features,
            len(file.class_names),
            file.class_names if file.has_class_names else None,
            file.feature_names,
        ),
        Described(
            f"the head of {checkpoint.source}",
            head.num_features,
            head.num_classes,
            described.class_names,
            described.feature_names,
        ),
    )
    return tuple(described.class_names or file.class_names)


def measure(
    head: HeadTensors,
    features: Tensor,
    labels: Tensor,
    names: tuple[str, ...],
    index_set: IndexSet | None = None,
    *,
    refitted: tuple[SparseHead, Refitting] | None = None,
    source: str = "the network",
    whole: Collection[int] = (),
    sha256: str | None = None,
    device: torch.device | str = "cpu",
    table: PredictionTable | None = None,
    adjusting: Adjusting | None = None,
    seed: int = 0,
    val: tuple[Tensor, Tensor] | None = None,
) -> ValidateResults:
    """Measure a head on features, and its decomposition.

    Args:
        head: C classes, D features.
        features: Features of the images, (N, D).
        labels: Class numbers, int64 (N,), in 0..C-1.
        names: Names of the C classes.
        index_set: The features that each class keeps; None for the full head only, or for a head that is decomposed.
        refitted: The head of the index set with weights fitted anew, and how they were.
        source: What to call the indices of a head that has its own.
        whole: Classes of such a head that keep their whole row of the full head.
        sha256: Hash of the file that the index set is from.
        device: Where logits are made.
        table: The images, for what is said of each; by default they have numbers alone.
        adjusting: Whether temperatures are fitted and prediction sets made.
        seed: Of the division of the images for these.
        val: Features and class numbers of the images that these are fitted on; by default half of the images.

    Raises:
        InputError: The index set does not fit, or there is no image.
    """
    if len(labels) == 0:
        raise InputError("There are no images.")
    heads = resolve_heads(head, index_set)

    def evaluation_of(one: Callable[[Tensor], Tensor]) -> Evaluation:
        return evaluate_head(one, features, labels, head.num_classes, device)

    original = evaluation_of(heads.original) if heads.original else None
    decomposed = evaluation_of(heads.decomposed) if heads.decomposed else None
    used = index_set
    if heads.decomposed is not None and used is None:
        used = own_index_set(head, source, whole)
    anew, refitted_evaluation = None, None
    if refitted is not None and original is not None and decomposed is not None:
        fitted, refitting = refitted
        refitted_evaluation = evaluation_of(fitted.linear())
        anew = _anew(refitted_evaluation, refitting, original, decomposed, names)
    results = ValidateResults(
        total=len(labels),
        original=_accuracy(original, names) if original else None,
        decomposed=_accuracy(decomposed, names) if decomposed else None,
        difference=difference_of(original, decomposed, names) if original and decomposed else None,
        refitted=anew,
        indices=None if used is None else _described(used, sha256),
        mistakes=_mistakes(original, decomposed, heads.decomposed or heads.original, features),
    )
    if adjusting is not None and adjusting.is_needed:
        linear = {"full": heads.original, "decomposed": heads.decomposed}
        if refitted is not None:
            linear["refitted"] = refitted[0].linear()
        there = {name: one for name, one in linear.items() if one is not None}
        results.adjusted = adjusted(there, features, labels, head.num_classes, adjusting, seed, val, device)
    heads_said = {"full": original, "decomposed": decomposed, "refitted": refitted_evaluation}
    results._predictions = add_heads(table or numbered_table(labels, names), heads_said)
    return results


def _described(index_set: IndexSet, sha256: str | None) -> IndicesInfo:
    return IndicesInfo(source=index_set.source, sha256=sha256, k=index_set.sizes, features=index_set.published_layout())


def _accuracy(evaluation: Evaluation, names: tuple[str, ...]) -> HeadAccuracy:
    confusion = evaluation.confusion.tolist()
    low, high = wilson_interval(evaluation.correct, evaluation.total)
    bins = bins_of(evaluation.confidence, evaluation.is_correct)
    return HeadAccuracy(
        correct=evaluation.correct,
        top1=100 * evaluation.correct / evaluation.total,
        top1_ci95=(100 * low, 100 * high),
        top5=None if evaluation.top5 is None else 100 * evaluation.top5 / evaluation.total,
        loss=evaluation.loss,
        per_class=[
            ClassAccuracy(name=name, correct=confusion[number][number], total=sum(confusion[number]))
            for number, name in enumerate(names)
        ],
        confusion=confusion,
        calibration=HeadCalibration(
            ece=calibration_error(bins), brier=evaluation.brier, nll=evaluation.loss, bins=bins
        ),
    )


def _anew(
    evaluation: Evaluation, refitting: Refitting, original: Evaluation, decomposed: Evaluation, names: tuple[str, ...]
) -> RefittedHead:
    return RefittedHead(
        **dict(_accuracy(evaluation, names)),
        refitting=refitting,
        difference=difference_of(original, evaluation, names, "The refitted head"),
        gain=gain_of(decomposed, evaluation),
    )


def _mistakes(
    original: Evaluation | None,
    decomposed: Evaluation | None,
    head: Callable[[Tensor], Tensor] | None,
    features: Tensor,
) -> list[Mistake]:
    used = decomposed if decomposed is not None else original
    assert used is not None  # one of the heads is there
    assert head is not None
    wrong = (~used.is_correct).nonzero()[:, 0]
    wrong = wrong[used.confidence[wrong].argsort(descending=True, stable=True)]
    if original is not None:
        is_lost = original.is_correct[wrong]
        wrong = torch.cat([wrong[is_lost], wrong[~is_lost]])

    def guess(evaluation: Evaluation | None, image: int) -> Guess | None:
        if evaluation is None:
            return None
        return Guess(predicted=int(evaluation.predictions[image]), probability=float(evaluation.confidence[image]))

    return [
        Mistake(
            image=image,
            label=int(used.labels[image]),
            original=guess(original, image),
            decomposed=guess(decomposed, image),
            reasons=reasons(head, features[image], int(used.predictions[image]), int(used.labels[image])),
        )
        for image in wrong[:MOST_MISTAKES].tolist()
    ]
