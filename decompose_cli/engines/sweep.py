"""``sweep``: accuracy for every number of features per class, and the smallest index set within a given loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from decompose_cli.decomposition.curves import accuracy_by_k
from decompose_cli.decomposition.heads import (
    OWN,
    check_index_request,
    check_made_from,
    decomposed_head,
    full_head,
    of_studied_classes,
    own_index_set,
    resolve_heads,
)
from decompose_cli.decomposition.index_set import (
    IndexSet,
    NamedSet,
    index_set_from_json,
    index_set_text,
    read_named,
    split_name,
)
from decompose_cli.decomposition.metrics import Predictions, evaluate_head, predict, worst_change
from decompose_cli.decomposition.prediction_tables import add_heads, table_of
from decompose_cli.decomposition.random_rankings import DRAWS, floor_ks, random_rankings
from decompose_cli.decomposition.ranking import (
    DEFAULT_K,
    RANKINGS,
    check_order,
    data_for,
    parse_method,
    parse_order,
    select,
)
from decompose_cli.decomposition.refitting import check_apart, check_refit, log_spaced, refitted, settle
from decompose_cli.decomposition.result_types import ClassLoss, difference_of, point_of, warn_of_halved
from decompose_cli.decomposition.sampling import count_searched
from decompose_cli.decomposition.sizes import check_class_drop, check_k
from decompose_cli.decomposition.smallest import Chosen, Search
from decompose_cli.decomposition.sweep_results import CurvePoint, RefittedPoint, SweepResults
from decompose_cli.errors import InputError, param
from decompose_cli.features.extraction import short_name
from decompose_cli.features.labelled import LabelledFeatures, Order
from decompose_cli.features.study import Inputs, Study
from decompose_cli.messages import note, track
from decompose_cli.printable import shortest
from decompose_cli.reporting.predictions import PredictionTable
from decompose_cli.reporting.style import png
from decompose_cli.storage.file_sets import write_result
from decompose_cli.storage.names import RESULT
from decompose_cli.storage.result_document import ResultDocument, Stopwatch

CURVE, INDICES = "curve.png", "indices.json"
_USUAL_LARGEST_K = 64
_MOST_DIGITS = 6


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
        methods: Rankings; by default all that fit the network and need no fits.
        ks: Ascending numbers of features per class; by default 1 to 64, or as far as D goes; with ``refit``, and for
            methods that choose features by fits, 1, 2, 3, 5, 10, 20, ... and D.
        indices: ``NAME=FILE`` or ``FILE``, or sets that are at hand; each is used whole.
        order: Which gates are taken by a ranking that needs gates.
        max_drop: Percentage points that the smallest index set may cost; None to look for none.
        max_class_drop: Percentage points that it may cost any class alone; None for any number.
        refit: Whether the weights of all features that are kept are also fitted anew.
        l2: Strength of the penalty of all fits; None to choose it once, at five features per class by ``contribution``.
        predictions: Whether it is kept what the full head and the chosen set say of each image.

    Raises:
        InputError: ``max_drop`` or ``l2`` is out of range, a word is unknown, or nothing is fitted with ``l2``.
    """

    methods: Sequence[str] | None = None
    ks: Sequence[int] | None = None
    indices: Sequence[str | NamedSet] = ()
    order: Order = "highest"
    max_drop: float | None = None
    max_class_drop: float | None = None
    refit: bool = False
    l2: float | None = None
    predictions: bool = False

    def __post_init__(self) -> None:
        for method in self.methods or ():
            parse_method(method, "methods")
        parse_order(self.order)
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise InputError(f"{param('max_drop')} {shortest(self.max_drop)} is not between 0 and 100 points.")
        check_class_drop(self.max_class_drop, self.max_drop)
        if self.predictions and self.max_drop is None:
            raise InputError(
                f"{param('predictions')} are of the set that {param('max_drop')} chooses, and none is looked for.",
                hint=f"Add {param('max_drop')}, or measure an index file with 'decompose validate'.",
            )
        check_refit(self.l2, fits=self.fits)

    @property
    def fits(self) -> bool:
        """Whether any head is fitted."""
        return self.refit or any(RANKINGS[method].is_fitted for method in self.methods or ())


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
    methods, order, max_drop = settings.methods, settings.order, settings.max_drop
    files = _read(settings.indices)
    study = Study(inputs, ("test", "val"))
    head = study.require_full_head("sweep")
    for _, index_set in files:
        check_index_request(study.classifier.checkpoint, index_set)
    files = [
        (name, of_studied_classes(index_set, study).fitted_to(head.num_classes, head.num_features))
        for name, index_set in files
    ]
    for k in settings.ks or ():
        check_k(k, head.num_features, "ks")
    few = list(settings.ks or log_spaced(head.num_features))  # at which heads are fitted
    sizes = few if settings.refit else list(settings.ks or range(1, min(head.num_features, _USUAL_LARGEST_K) + 1))
    needs_images = not methods or any(RANKINGS[method].needs_images for method in methods)
    train = study.on_training_split() if needs_images or settings.fits or max_drop is not None else study
    if settings.fits:
        check_apart(study, train)
    if max_drop is not None and study.dataset.split == train.dataset.split:
        raise InputError(
            f"{param('max_drop')} chooses on the training images, so it cannot be reported on them.",
            hint=f"Use another {param('split')}.",
        )
    ranked = _ranked(train, settings)
    chosen_methods = list(methods) if methods else _fitting(ranked)
    check_order(order, uses_gates=any(RANKINGS[method].needs_gates for method in chosen_methods))
    studies, refitting = [train], None
    if settings.fits:
        refitting, others = settle(study, ranked, _usual_support, settings.l2)
        studies += others
        ranked = dataclasses.replace(ranked, l2=refitting.l2)
    bank, classes = study.bank, head.num_classes
    device = study.device
    original = predict(full_head(head), bank.features, study.labels, classes, device)
    curves: dict[str, dict[str, CurvePoint]] = {}
    anew: dict[str, dict[str, RefittedPoint]] = {}
    sets: dict[str, dict[int, IndexSet] | None] = {}  # of the methods that search for them, or are fitted at them
    counts = {method: len(few if RANKINGS[method].is_fitted else sizes) for method in chosen_methods}
    heads = sum(counts.values()) + settings.refit * (sum(counts.values()) + len(files))
    with track("Numbers of features", heads, unit="heads") as advance:

        def fit_anew(name: str, found: Mapping[int, IndexSet]) -> None:
            assert refitting is not None
            for k, sparse in refitted(ranked, found, refitting.l2):
                predictions = sparse.predict(bank.features, study.labels, device)
                difference = difference_of(original, predictions)
                point = RefittedPoint(**dict(point_of(predictions)), difference=difference)
                anew.setdefault(name, {})[found[k].k_label] = point
                advance(1)

        for method in chosen_methods:
            is_searched = settings.refit or RANKINGS[method].is_fitted
            known = dict(zip(few, RANKINGS[method].sets(ranked, few), strict=True)) if is_searched else None
            sets[method] = known
            ks = sizes if known is None else few
            by_k = accuracy_by_k(ranked, bank.features, study.labels, head, ks, method, advance, known)
            curves[method] = {str(k): _point(original, predictions) for k, predictions in by_k}
            if settings.refit and known is not None:
                fit_anew(method, known)
        for name, index_set in files:
            check_made_from(index_set, study.classifier)
            decomposed = decomposed_head(head, index_set)
            curves.setdefault(name, {})[index_set.k_label] = _point(
                original, predict(decomposed, bank.features, study.labels, classes, device)
            )
            if settings.refit:
                fit_anew(name, {index_set.largest_k: index_set})
    if (own := resolve_heads(study.head, None).decomposed) is not None:
        source = study.classifier.weights_source
        note(f"{source}: rankings cut the full head that its sparse head was made from; {OWN!r} is the sparse head.")
        label = own_index_set(study.head, source, study.classifier.kept_whole).k_label
        curves[OWN] = {label: _point(original, predict(own, bank.features, study.labels, classes, device))}
    floor = None
    if any(not RANKINGS[method].is_fitted for method in chosen_methods):
        with track("Random rankings", DRAWS, unit="rankings") as advance:
            at = floor_ks(few if settings.refit else sizes)
            images = bank.features, study.labels
            floor = random_rankings(head, *images, at, inputs.seed, held=ranked.held, device=device, advance=advance)
    chosen = None
    if max_drop is not None:
        search = Search(train, study, head, ranked, max_drop, settings.max_class_drop)
        chosen = search.smallest(sets, sizes, original)
        if chosen is not None:
            warn_of_halved(chosen.reported_on, study.class_map.names, "The chosen set")
    results = SweepResults(
        total=len(study.labels),
        original=point_of(original),
        curves=curves,
        random=floor,
        refitted=anew,
        refitting=refitting,
        searched=count_searched(
            ranked.labels, is_searched=any(RANKINGS[method].is_fitted for method in chosen_methods)
        ),
        chosen=chosen,
        plot=None,
    )
    if settings.predictions:
        results._predictions = _said(study, chosen)
    arguments = {
        "methods": list(chosen_methods),
        "ks": sorted({*sizes, *(few if any(known is not None for known in sets.values()) else ())}),
        "indices": list(map(str, settings.indices)),
        "order": order,
        "max_drop": max_drop,
        "max_class_drop": settings.max_class_drop,
        "refit": settings.refit,
        "l2": settings.l2,
    }
    contents = _drawn(folder, results, study, order) if folder is not None else {}
    document = study.document("sweep", arguments, results, watch, studies)
    if folder is not None:
        write_result(document, folder / RESULT, contents)
    return document


def _said(study: Study, chosen: Chosen | None) -> PredictionTable:
    """What the full head and the chosen set, if there is one, say of each image."""
    head, device = study.head, study.device
    full = study.require_full_head("sweep")
    heads: dict[str, Callable[[Tensor], Tensor]] = {"full": full_head(full)}
    if chosen is not None:
        index_set = index_set_from_json(chosen.indices, "the chosen set", head.num_features)
        heads["chosen"] = decomposed_head(full, index_set)
    images = study.bank.features, study.labels, head.num_classes, device
    return add_heads(table_of(study), {name: evaluate_head(one, *images) for name, one in heads.items()})


def _ranked(train: Study, settings: SweepSettings) -> LabelledFeatures:
    """What rankings are made from; images that none needs are not looked at."""
    if settings.methods and not settings.fits:
        return data_for(train, settings.methods, settings.order)
    gates = any(RANKINGS[method].needs_gates for method in settings.methods or ())
    data = train.labelled(gates=gates, order=settings.order)
    return data.for_fits() if settings.fits else data


def _usual_support(data: LabelledFeatures) -> IndexSet:
    """The features at which the strength of the penalty is chosen, whatever methods and k are tried."""
    return select(data, "contribution", min(DEFAULT_K, data.num_features))


def _read(files: Sequence[str | NamedSet]) -> list[tuple[str, IndexSet]]:
    named: list[tuple[str, IndexSet]] = []
    for text in files:
        name = text.name if isinstance(text, NamedSet) else split_name(text, "indices")[0]
        if name in RANKINGS:
            raise InputError(
                f"{param('indices')} {text}: {name!r} is the name of a ranking, and its curve is another.",
                hint=f"Use {param('indices')} OTHER_NAME=FILE.",
            )
        index_set = read_named(text, "indices").index_set
        if (name, index_set.k_label) in [(other, known.k_label) for other, known in named]:
            raise InputError(
                f"There are two curves {name!r} with a point at k = {index_set.k_label}.",
                hint=f"Name them apart with {param('indices')} NAME=FILE.",
            )
        named.append((name, index_set))
    return named


def _point(original: Predictions, predictions: Predictions) -> CurvePoint:
    worst = worst_change(original, predictions)
    found = None if worst is None else ClassLoss(**vars(worst))
    return CurvePoint(**dict(point_of(predictions)), worst_class=found)


def _fitting(data: LabelledFeatures) -> list[str]:
    """The names of the rankings that fit the data."""
    for ranking in RANKINGS.values():
        if ranking.needs_nonnegative and not ranking.fits(data):
            note(f"The method {ranking.name!r} is left out: the network has negative features.")
    return [ranking.name for ranking in RANKINGS.values() if ranking.fits(data) and not ranking.is_fitted]


def _drawn(folder: Path, results: SweepResults, study: Study, order: Order) -> dict[Path, str | bytes]:
    """The contents of the files beside the result; the result gets their names."""
    contents: dict[Path, str | bytes] = {}
    if results.chosen is not None:
        provenance = {
            "model": study.describe_model().model_dump(),
            "method": results.chosen.method,
            "max_drop": results.chosen.max_drop,
            "max_class_drop": results.chosen.max_class_drop,
            "chosen_on": results.chosen.chosen_on.split,
            **({} if study.part is None else {"part": study.part.model_dump()}),
        }
        found = index_set_from_json(results.chosen.indices, "the chosen set", study.head.num_features)
        index_set = dataclasses.replace(found, provenance=provenance)
        results.chosen.file = str(folder / INDICES)
        contents[folder / INDICES] = index_set_text(index_set, document=True)
    title = f"{study.classifier.name} on {short_name(study.dataset)}"
    results.plot = str(folder / CURVE)
    contents[folder / CURVE] = png(results.curves_drawn(title, order))
    return contents
