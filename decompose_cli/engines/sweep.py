"""``sweep``: accuracy for every number of features per class, and the smallest index set within a given loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from decompose_cli.decomposition.curves import accuracy_by_k
from decompose_cli.decomposition.heads import (
    OWN,
    check_index_request,
    check_made_from,
    decomposed_head,
    full_head,
    own_index_set,
    resolve_heads,
)
from decompose_cli.decomposition.index_set import IndexSet, index_set_text, read_index_set, split_name
from decompose_cli.decomposition.metrics import Predictions, compare, predict
from decompose_cli.decomposition.ranking import (
    RANKINGS,
    check_k,
    check_order,
    data_for,
    parse_method,
    parse_order,
    select,
)
from decompose_cli.decomposition.result_types import Point, point_of
from decompose_cli.decomposition.shrinking import loss_bound, shrink, smallest_k
from decompose_cli.errors import InputError, param
from decompose_cli.features.extraction import short_name
from decompose_cli.features.labelled import LabelledFeatures, Order
from decompose_cli.features.study import Inputs, Study
from decompose_cli.models.network import HeadTensors
from decompose_cli.progress import note, track
from decompose_cli.reporting.plots import Curve, accuracy_curves
from decompose_cli.storage.file_sets import write_result
from decompose_cli.storage.files import given_file
from decompose_cli.storage.result_document import RESULT, ResultDocument, Stopwatch

CURVE, INDICES = "curve.png", "indices.json"
_USUAL_LARGEST_K = 64
_MOST_DIGITS = 6


class Loss(BaseModel):
    """What the chosen head costs on one split, image by image against the full head.

    ``points``: accuracy of the chosen head minus that of the full head, in percentage points, with 95% interval and
    McNemar's p; ``loss_bound95``: one-sided 95% upper bound of the accuracy lost; ``common_correct``: images that the
    head with the common k gets right.
    """

    split: str
    total: int
    full_correct: int
    common_correct: int
    correct: int
    points: float
    ci95: tuple[float, float]
    mcnemar_p: float
    loss_bound95: float


class Candidate(BaseModel):
    """The smallest common k of one method within the loss, and the features of all classes together after shrinking."""

    k: int
    features: int


class Chosen(BaseModel):
    """The smallest index set within ``max_drop`` points, chosen on one split and reported on the other.

    ``candidates``: by method; null where no k stays within the loss. ``file``: null if none was written.
    """

    max_drop: float
    method: str
    k: int
    features: int
    features_per_class: tuple[int, int]
    file: str | None
    indices: dict[str, list[int]]
    chosen_on: Loss
    reported_on: Loss
    candidates: dict[str, Candidate | None]


class SweepResults(BaseModel):
    """``curves``: by method, name of an index file, or ``own head`` for that of a sparse checkpoint, then by k.

    ``chosen``: null if not asked for, or out of reach.
    """

    total: int
    original: Point
    curves: dict[str, dict[str, Point]]
    chosen: Chosen | None
    plot: str | None


def parse_ks(text: str) -> list[int]:
    """Read ``1-64`` or ``1,2,5-10``: ascending whole numbers, each once.

    Raises:
        InputError: The text has another form, or a number is below 1.
    """
    ks: set[int] = set()
    for part in text.split(","):
        low, sign, high = part.strip().partition("-")
        ends = [low, high] if sign else [low]
        if not all(end.isascii() and end.isdigit() for end in ends):
            raise InputError(f"{param('ks')} {part.strip()!r} is neither a whole number nor a range such as 1-64.")
        if max(map(len, ends)) > _MOST_DIGITS:
            raise InputError(f"{param('ks')} {part.strip()} is more than any network has features.")
        first, last = int(ends[0]), int(ends[-1])
        if first < 1 or last < first:
            what = "starts below 1" if first < 1 else "ends before it starts"
            raise InputError(f"{param('ks')} {part.strip()!r} {what}.")
        ks |= set(range(first, last + 1))
    return sorted(ks)


def parse_methods(text: str) -> list[str]:
    """Read method names separated by commas, each once.

    Raises:
        InputError: A name is unknown.
    """
    return list(dict.fromkeys(parse_method(part.strip(), "methods") for part in text.split(",")))


@dataclass(frozen=True)
class SweepSettings:
    """Which heads are evaluated, and whether the smallest is looked for.

    Attributes:
        methods: Rankings; by default all that fit the network.
        ks: Ascending numbers of features per class; by default 1 to 64, or as far as D goes.
        indices: ``NAME=FILE`` or ``FILE``: index files, each used whole.
        order: Which gates are taken by a ranking that needs gates.
        max_drop: Percentage points that the smallest index set may cost; None to look for none.

    Raises:
        InputError: ``max_drop`` is out of range, or a word is unknown.
    """

    methods: Sequence[str] | None = None
    ks: Sequence[int] | None = None
    indices: Sequence[str] = ()
    order: Order = "highest"
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for method in self.methods or ():
            parse_method(method, "methods")
        parse_order(self.order)
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise InputError(f"{param('max_drop')} {self.max_drop} is not between 0 and 100 points.")


def sweep(
    inputs: Inputs, settings: SweepSettings | None = None, *, folder: Path | None = None
) -> ResultDocument[SweepResults]:
    """Evaluate decomposed heads of many sizes from one set of features, on a split (``test``, else ``val``).

    Args:
        inputs: The network and the images; features are ranked over the training images.
        settings: Which heads are evaluated, and whether the smallest is looked for.
        folder: Gets ``result.json``, ``curve.png`` and, with ``max_drop``, ``indices.json``, all or none.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        DecomposeError: The work failed.
    """
    watch = Stopwatch()
    settings = settings or SweepSettings()
    methods, ks, order, max_drop = settings.methods, settings.ks, settings.order, settings.max_drop
    points = _read(settings.indices)
    study = Study(inputs, ("test", "val"))
    head = study.require_full_head("sweep")
    for _, index_set in points:
        check_index_request(study.classifier.checkpoint, index_set)
    points = [(name, index_set.fitted_to(head.num_classes, head.num_features)) for name, index_set in points]
    sizes = list(ks) if ks else list(range(1, min(head.num_features, _USUAL_LARGEST_K) + 1))
    for k in sizes:
        check_k(k, head.num_features, "ks")
    needs_training = max_drop is not None or not methods or any(RANKINGS[method].needs_images for method in methods)
    train = study.on_training_split() if needs_training else study
    if max_drop is not None and study.dataset.split == train.dataset.split:
        raise InputError(
            f"{param('max_drop')} chooses on the training images, so it cannot be reported on them.",
            hint=f"Use another {param('split')}.",
        )
    if methods:
        chosen_methods, ranked = list(methods), data_for(train, methods, order)
    else:
        ranked = train.labelled(order=order)
        chosen_methods = _fitting(ranked)
    check_order(order, uses_gates=any(RANKINGS[method].needs_gates for method in chosen_methods))
    bank, classes = study.bank, head.num_classes
    original = predict(full_head(head), bank.features, study.labels, classes)
    search = _Search(train, study, head, order, max_drop) if max_drop is not None else None
    curves: dict[str, dict[str, Point]] = {}
    with track("Numbers of features", len(chosen_methods) * len(sizes), unit="heads") as advance:
        for method in chosen_methods:
            by_k = accuracy_by_k(ranked, bank.features, study.labels, head, sizes, method, advance)
            curves[method] = {str(k): point_of(predictions) for k, predictions in by_k.items()}
    for name, index_set in points:
        check_made_from(index_set, study.classifier)
        decomposed = decomposed_head(head, index_set)
        curves.setdefault(name, {})[index_set.k_label] = point_of(
            predict(decomposed, bank.features, study.labels, classes)
        )
    if (own := resolve_heads(study.head, None).decomposed) is not None:
        source = study.classifier.weights_source
        note(f"{source}: rankings cut the full head that its sparse head was made from; {OWN!r} is the sparse head.")
        label = own_index_set(study.head, source).k_label
        curves[OWN] = {label: point_of(predict(own, bank.features, study.labels, classes))}
    chosen = search.smallest(chosen_methods, sizes, original) if search else None
    results = SweepResults(
        total=len(study.labels), original=point_of(original), curves=curves, chosen=chosen, plot=None
    )
    arguments = {
        "methods": list(chosen_methods),
        "ks": sizes,
        "indices": list(settings.indices),
        "order": order,
        "max_drop": max_drop,
    }
    contents = _drawn(folder, results, study, order) if folder is not None else {}
    document = study.document("sweep", arguments, results, watch, [train])
    if folder is not None:
        write_result(document, folder / RESULT, contents)
    return document


def _read(files: Sequence[str]) -> list[tuple[str, IndexSet]]:
    named: list[tuple[str, IndexSet]] = []
    for text in files:
        name, file = split_name(text, "indices")
        if name in RANKINGS:
            raise InputError(
                f"{param('indices')} {text}: {name!r} is the name of a ranking, and its curve is another.",
                hint=f"Use {param('indices')} OTHER_NAME=FILE.",
            )
        index_set = read_index_set(given_file(file, "indices"))
        if (name, index_set.k_label) in [(other, known.k_label) for other, known in named]:
            raise InputError(
                f"There are two curves {name!r} with a point at k = {index_set.k_label}.",
                hint=f"Name them apart with {param('indices')} NAME=FILE.",
            )
        named.append((name, index_set))
    return named


def _fitting(data: LabelledFeatures) -> list[str]:
    """The names of the rankings that fit the data."""
    for ranking in RANKINGS.values():
        if ranking.needs_nonnegative and not ranking.fits(data):
            note(f"The method {ranking.name!r} is left out: the network has negative features.")
    return [ranking.name for ranking in RANKINGS.values() if ranking.fits(data) and not ranking.is_fitted]


@dataclass
class _Search:
    """A search for the smallest index set: chosen on the training images, reported on the others."""

    train: Study
    test: Study
    head: HeadTensors
    order: Order
    max_drop: float

    def smallest(self, methods: Sequence[str], ks: Sequence[int], reported: Predictions) -> Chosen | None:
        """The set with the fewest features over all methods; the first method among equals."""
        head, features, labels = self.head, self.train.bank.features, self.train.labels
        full = predict(full_head(head), features, labels, head.num_classes)
        ranked = data_for(self.train, methods, self.order)
        candidates: dict[str, Candidate | None] = {}
        best: tuple[int, str, int, tuple[tuple[int, ...], ...]] | None = None
        for method in methods:
            k = smallest_k(full, accuracy_by_k(ranked, features, labels, head, ks, method), self.max_drop)
            candidates[method] = None
            if k is None:
                continue
            with track(f"Shrinking {method}", (k - 1) * head.num_classes, unit="features") as advance:
                widest = select(ranked, method, k).classes
                kept = shrink(features, full, head, widest, self.max_drop, advance).classes
            size = sum(map(len, kept))
            candidates[method] = Candidate(k=k, features=size)
            if best is None or size < best[0]:
                best = (size, method, k, kept)
        if best is None:
            note(
                f"No set was chosen: for no k of those tried is the loss shown (with 95% confidence) to stay within "
                f"{self.max_drop:g} points. Allow more with {param('max_drop')}, or try more with {param('ks')}."
            )
            return None
        size, method, k, kept = best
        common = select(ranked, method, k)
        index_set = IndexSet(kept, head.num_features, source=f"{method}, within {self.max_drop:g} points")
        return Chosen(
            max_drop=self.max_drop,
            method=method,
            k=k,
            features=size,
            features_per_class=index_set.sizes,
            file=None,
            indices=index_set.published_layout(),
            chosen_on=self._loss(self.train, full, common, index_set),
            reported_on=self._loss(self.test, reported, common, index_set),
            candidates=candidates,
        )

    def _loss(self, study: Study, full: Predictions, common: IndexSet, kept: IndexSet) -> Loss:
        head, features, labels = self.head, study.bank.features, study.labels
        with_common, with_kept = (
            predict(decomposed_head(head, index_set), features, labels, head.num_classes)
            for index_set in (common, kept)
        )
        difference = compare(full, with_kept)
        return Loss(
            split=study.dataset.split,
            total=full.total,
            full_correct=full.correct,
            common_correct=with_common.correct,
            correct=with_kept.correct,
            points=difference.points,
            ci95=difference.ci95,
            mcnemar_p=difference.mcnemar_p,
            loss_bound95=loss_bound(full.is_correct, with_kept.is_correct),
        )


def _drawn(folder: Path, results: SweepResults, study: Study, order: Order) -> dict[Path, str | bytes]:
    """The contents of the files beside the result; the result gets their names."""
    contents: dict[Path, str | bytes] = {}
    if results.chosen is not None:
        rows = tuple(map(tuple, results.chosen.indices.values()))
        provenance = {
            "model": study.describe_model().model_dump(),
            "method": results.chosen.method,
            "max_drop": results.chosen.max_drop,
            "chosen_on": results.chosen.chosen_on.split,
        }
        index_set = IndexSet(rows, study.head.num_features, provenance)
        results.chosen.file = str(folder / INDICES)
        contents[folder / INDICES] = index_set_text(index_set, document=True)
    curves = {
        (f"{name} ({order} gates)" if name in RANKINGS and RANKINGS[name].needs_gates else name): curve_of(name, points)
        for name, points in results.curves.items()
    }
    title = f"{study.classifier.name} on {short_name(study.dataset)}"
    results.plot = str(folder / CURVE)
    contents[folder / CURVE] = accuracy_curves(title, curves, results.original.top1)
    return contents


def curve_of(name: str, points: Mapping[str, Point]) -> Curve:
    """The curve of a ranking, a line, or of index files, points; a set with several sizes stands at the largest."""
    by_k = sorted(((int(k.rpartition("-")[2]), point) for k, point in points.items()), key=lambda pair: pair[0])
    ks, values = [k for k, _ in by_k], [point for _, point in by_k]
    low, high = ([p.top1_ci95[end] for p in values] for end in (0, 1))
    return Curve(ks, [p.top1 for p in values], low, high, is_line=name in RANKINGS)
