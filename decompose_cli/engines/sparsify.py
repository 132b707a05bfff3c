"""``sparsify``: heads with a few features per class, chosen and fitted anew on the features of a frozen network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from decompose_cli.datasets.registry import available_splits
from decompose_cli.decomposition.heads import decomposed_head, full_head, with_decomposed_head
from decompose_cli.decomposition.index_set import IndexSet, index_set_text
from decompose_cli.decomposition.metrics import Predictions, compare, predict
from decompose_cli.decomposition.ranking import DEFAULT_K, RANKINGS, check_k, parse_k, select
from decompose_cli.decomposition.result_types import Point, point_of
from decompose_cli.decomposition.sparse_heads import (
    VALUES,
    Candidate,
    SparseHead,
    Values,
    best_of,
    candidates,
    fit_head,
    strength_for,
)
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.features.study import Inputs, Study
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.progress import note
from decompose_cli.sparse.strength import stratified_part
from decompose_cli.storage.file_sets import Content, write_result
from decompose_cli.storage.result_document import RESULT, ResultDocument, Stopwatch

AUTO = "auto"
SLOW = ("elastic-net",)
"""Methods that ``auto`` leaves out: their path takes longer than all others together."""
CHECKPOINT, INDICES = "sparse.safetensors", "indices.json"
_SHARE = 0.2


class Versus(BaseModel):
    """A sparse head minus a baseline on the same test images: points, 95% interval, exact McNemar p."""

    points: float
    ci95: tuple[float, float]
    mcnemar_p: float
    only_baseline_correct: int
    only_sparse_correct: int


class Chosen(BaseModel):
    """The images on which methods and strengths were chosen, which are no test images."""

    split: str
    images: int
    fitted: int
    part_of_training: bool


class Baseline(BaseModel):
    """The full head fitted anew in the same way: its accuracy on the test images, and the strength it has."""

    point: Point
    l2: float
    versus_original: Versus


class Tried(BaseModel):
    """A method at one k on the choosing images: right ones, mean cross-entropy, and the strength that was chosen."""

    method: str
    correct: int
    loss: float
    l2: float


class Sparse(BaseModel):
    """A sparse head: its accuracy on the test images, and what it was compared with.

    ``cut``: the same features with the weights of the full head, and its bias. ``features``: features in use by all
    classes together. ``candidates``: every method that was tried, best first.
    """

    method: str
    k: int
    values: str
    l2: float
    point: Point
    cut: Point
    versus_original: Versus
    versus_refitted: Versus
    features: int
    features_per_class: tuple[int, int]
    indices: dict[str, list[int]]
    checkpoint: str | None
    candidates: list[Tried]


class SparsifyResults(BaseModel):
    """``original``: the full head; ``refitted``: the full head fitted anew; ``heads``: sparse heads by k.

    All figures but those under ``candidates`` are of the test images, which chose nothing.
    """

    total: int
    original: Point
    refitted: Baseline
    chosen_on: Chosen
    heads: dict[str, Sparse]


def parse_whole(text: str) -> list[int]:
    """Read ``5`` or ``1,2,5``: whole numbers of features, ascending, each once.

    Raises:
        InputError: A part is no whole number of at least 1.
    """
    ks = parse_k(text)
    for k in ks:
        if isinstance(k, float):
            raise InputError(f"{param('k')} {k} is a fraction; sparsify takes whole numbers of features.")
    return sorted(int(k) for k in ks)


def files_of(ks: Sequence[int]) -> list[str]:
    """The names of the files beside the result, for these k."""
    return [f"k{k}/{name}" for k in ks for name in (CHECKPOINT, INDICES)]


@dataclass(frozen=True)
class SparsifySettings:
    """What the heads are like.

    Attributes:
        k: Numbers of features per class.
        method: Name of a ranking, or ``auto``: for each k the best of all that fit the network and are quick.
        values: Values that weights on standardised features may have.
        l2: Strength of the penalty; None to choose it.
        toward: What the penalty pulls real weights to.

    Raises:
        InputError: There is no k, a word is unknown, or a number is out of range.
    """

    k: Sequence[int] = (DEFAULT_K,)
    method: str = AUTO
    values: Values = "real"
    l2: float | None = None
    toward: Literal["zero", "dense"] = "zero"

    def __post_init__(self) -> None:
        if not self.k:
            raise InputError("No k was given.")
        one_of(self.method, (AUTO, *RANKINGS), "method")
        one_of(self.values, VALUES, "values")
        one_of(self.toward, ("zero", "dense"), "toward")
        if self.l2 is not None and not 0 < self.l2 < float("inf"):
            raise InputError(f"{param('l2')} {self.l2} is not a positive number.")
        if self.toward == "dense" and self.values != "real":
            raise InputError(f"{param('toward')} dense has no effect with {param('values')} {self.values}.")


def sparsify(
    inputs: Inputs, settings: SparsifySettings | None = None, *, folder: Path | None = None
) -> ResultDocument[SparsifyResults]:
    """Choose features and fit weights on training images, and measure the heads on a split (``test``, else ``val``).

    Args:
        inputs: The network and the images.
        settings: What the heads are like; by default five features per class by the best method.
        folder: Gets ``result.json`` and for each k ``k5/sparse.safetensors`` and ``k5/indices.json``, all or none.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        DecomposeError: The work failed.
    """
    watch = Stopwatch()
    settings = settings or SparsifySettings()
    ks = sorted(set(settings.k))
    study = Study(inputs, ("test", "val"))
    study.require_full_head("sparsify")
    for k in ks:
        check_k(k, study.head.num_features)
    train = study.on_training_split()
    if train.dataset.split == study.dataset.split:
        raise InputError(
            "sparsify fits the training images, so it cannot be measured on them.",
            hint=f"Use another {param('split')}.",
        )
    bench = _bench(study, train, settings)
    heads = {k: bench.head(k) for k in ks}
    results = SparsifyResults(
        total=len(study.labels),
        original=point_of(bench.original),
        refitted=Baseline(
            point=point_of(bench.refitted),
            l2=bench.refitted_l2,
            versus_original=_versus(bench.original, bench.refitted),
        ),
        chosen_on=bench.chosen_on,
        heads={str(k): bench.described(k, head) for k, head in heads.items()},
    )
    contents: dict[Path, Content] = {}
    if folder is not None:
        for k, head in heads.items():
            place = folder / f"k{k}"
            results.heads[str(k)].checkpoint = str(place / CHECKPOINT)
            contents[place / CHECKPOINT] = _checkpoint(study, head)
            provenance = {"method": results.heads[str(k)].method, "k": k, "model": study.describe_model().model_dump()}
            index_set = IndexSet(head.index_set.classes, head.index_set.num_features, provenance)
            contents[place / INDICES] = index_set_text(index_set, document=True)
    arguments = {name: getattr(settings, name) for name in ("method", "values", "l2", "toward")}
    document = study.document("sparsify", {"k": ks, **arguments}, results, watch, bench.studies)
    if folder is not None:
        write_result(document, folder / RESULT, contents)
    return document


@dataclass
class _Bench:
    """The images, the methods and the choices of one run."""

    study: Study
    studies: list[Study]
    settings: SparsifySettings
    data: LabelledFeatures
    found: list[Candidate]
    chosen_on: Chosen
    original: Predictions
    refitted: Predictions
    refitted_l2: float

    def head(self, k: int) -> SparseHead:
        """The head of the best method at k, chosen and fitted anew on all training images."""
        best = best_of(self.found, k)
        l2 = best.strength.l2
        data = dataclasses.replace(self.data, l2=l2)
        index_set = select(data, best.method, k)
        return fit_head(data, index_set, self.settings.values, l2, toward=self.settings.toward)

    def described(self, k: int, head: SparseHead) -> Sparse:
        """A head as results hold it."""
        best, study = best_of(self.found, k), self.study
        own = head.predict(study.bank.features, study.labels)
        full = study.head.full
        assert full is not None  # require_full_head
        cut = predict(decomposed_head(full, head.index_set), study.bank.features, study.labels, full.num_classes)
        order = sorted((one for one in self.found if one.k == k), key=lambda one: (-one.correct, one.loss))
        return Sparse(
            method=best.method,
            k=k,
            values=self.settings.values,
            l2=best.strength.l2,
            point=point_of(own),
            cut=point_of(cut),
            versus_original=_versus(self.original, own),
            versus_refitted=_versus(self.refitted, own),
            features=len({index for row in head.index_set.classes for index in row}),
            features_per_class=head.index_set.sizes,
            indices=head.index_set.published_layout(),
            checkpoint=None,
            candidates=[
                Tried(method=one.method, correct=one.correct, loss=one.loss, l2=one.strength.l2) for one in order
            ],
        )


def _bench(study: Study, train: Study, settings: SparsifySettings) -> _Bench:
    """Choose methods and strengths on images that are neither fitted nor reported on; measure the baselines."""
    needs_gates = settings.method in RANKINGS and RANKINGS[settings.method].needs_gates
    data = train.labelled(gates=needs_gates)
    names = available_splits(study.dataset.name)
    studies, ks = [train], sorted(set(settings.k))
    if study.dataset.split == "test" and "val" in names:
        inputs = dataclasses.replace(study.inputs, split="val", dataset=study.dataset.name)
        held = Study(inputs, ("val",), study.classifier)
        studies.append(held)
        part, features, labels, split = data, held.bank.features, held.labels, "val"
    else:
        rest, drawn = stratified_part(data.labels, _SHARE, study.inputs.seed)
        part = dataclasses.replace(data, features=data.features[rest], labels=data.labels[rest])
        features, labels, split = data.features[drawn], data.labels[drawn], train.dataset.split
        note(
            f"Methods and strengths are chosen on {len(drawn):,} of the {len(data.labels):,} training images, by the "
            "one-standard-error rule, as the network has been trained on them; then all are fitted."
        )
    found = candidates(part, _methods(settings.method, data), ks, settings.values, features, labels, settings.l2)
    full = study.head.full
    assert full is not None  # require_full_head
    every = IndexSet((tuple(range(data.num_features)),) * data.num_classes, data.num_features, source="full head")
    l2 = settings.l2 or strength_for(part, every, features, labels).l2
    return _Bench(
        study,
        studies,
        settings,
        data,
        found,
        Chosen(split=split, images=len(labels), fitted=len(part.labels), part_of_training=split != "val"),
        predict(full_head(full), study.bank.features, study.labels, full.num_classes),
        fit_head(data, every, "real", l2).predict(study.bank.features, study.labels),
        l2,
    )


def _methods(method: str, data: LabelledFeatures) -> list[str]:
    """The rankings to try."""
    if method != AUTO:
        return [method]
    return [ranking.name for ranking in RANKINGS.values() if ranking.fits(data) and ranking.name not in SLOW]


def _versus(baseline: Predictions, head: Predictions) -> Versus:
    found = compare(baseline, head)
    return Versus(
        points=found.points,
        ci95=found.ci95,
        mcnemar_p=found.mcnemar_p,
        only_baseline_correct=found.only_first,
        only_sparse_correct=found.only_second,
    )


def _checkpoint(study: Study, head: SparseHead) -> Callable[[Path], None]:
    """Writes the network with the head in it, the full head beside it as reference."""
    network = study.classifier.load(study.preprocessing.crop)
    full, entry = study.head.full, study.classifier.entry
    assert full is not None  # require_full_head
    module = copy.deepcopy(network.module)
    with_decomposed_head(module, network.head, head.linear())
    state = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
    names = study.class_map.names
    metadata = Metadata(
        model=entry.name,
        num_classes=len(names),
        class_names=list(names),
        dataset=study.dataset.name,
        model_options=dict(entry.chosen) or None,
        **study.preprocessing.described(),
    )
    record = SparseRecord(full.weight, full.bias, head.values)
    return lambda path: write_checkpoint(path, state, metadata, record)
