"""The section on sparse heads: their accuracy by k, what they are compared with, and how they were found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from decompose_cli.decomposition.result_types import Point
from decompose_cli.page.blocks import Block, Cell, Column, Grid, Group, Section, Shade, Table, Text
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.printable import counted, printable
from decompose_cli.reporting.plots import Curve, accuracy_figure
from decompose_cli.reporting.study_plots import interval_figure

_LEAD = (
    "A sparse head gives each class k features and fits their weights anew, on the features of a network that stays as "
    "it is. Cut: the same features with the weights of the full head. Refitted: the full head, fitted anew in the same "
    "way, so that what refitting gains is not taken for a gain of the choice. Accuracies are of images that chose "
    "nothing; intervals are 95%."
)
_FULL, _REFITTED = "full head", "full head, refitted"
_MOST_PAIRS = 200
_MOST_CURVES, _MOST_ROWS = 5, 60
_KINDS = {
    "real": "real weights",
    "nonnegative": "weights that only add",
    "ternary": "weights of one size, and 0",
    "binary": "weights all alike, or 0",
}
_WORDS = {
    ("objective", "qpm"): "objective of QPM",
    ("toward", "dense"): "weights towards the full head's",
    ("distil", True): "soft targets",
    ("class_weights", "balanced"): "balanced classes",
}


def section(context: Context) -> Section | None:
    """Make the section from sparsify; runs on the same features and images are compared first."""
    sources = list(context.of("sparsify"))
    blocks: list[Block] = []
    by_images: dict[object, list[Source]] = {}
    for source in sources:
        by_images.setdefault(_images(source), []).append(source)
    for alike in by_images.values():
        if len(alike) > 1:
            blocks.append(Group(f"{alike[0].subject}: {len(alike)} runs side by side", [_compared(context, alike)]))
    blocks += [Group(f"{source.name}: {run_label(source)}", [*_run(context, source)]) for source in sources]
    return Section("sparse", "Sparse heads", _LEAD, blocks) if blocks else None


def run_label(source: Source) -> str:
    """What tells a run from another: the kind of weights, and what was asked for beside it."""
    arguments = source.document.arguments
    kinds = dict.fromkeys(_KINDS.get(head.values, head.values) for head in source.results.heads.values())
    method, pool, indices = (arguments.get(name) for name in ("method", "pool", "indices"))
    parts = [*kinds, f"method {method}"] if isinstance(method, str) and method != "auto" else [*kinds]
    parts += ["features of an index file"] * isinstance(indices, str) + [f"pool of {pool}"] * isinstance(pool, int)
    if source.results.smallest is not None:
        parts.append(f"the smallest k within {counted(source.results.smallest.max_drop, 'point')}")
    return ", ".join(parts + [words for (name, value), words in _WORDS.items() if arguments.get(name) == value])


def heads_of(source: Source) -> list[Any]:
    """The heads of a run, by k."""
    return sorted(source.results.heads.values(), key=lambda head: head.k)


def _images(source: Source) -> object:
    document = source.document
    weights = document.model.weights.sha256 if document.model is not None else ""
    return (weights, document.dataset.fingerprint, document.dataset.split) if document.dataset is not None else weights


def _baselines(source: Source) -> dict[str, Point]:
    """The full heads that a run is compared with; features from elsewhere have no full head of their own."""
    results = source.results
    own = {} if results.original is None else {_FULL: results.original}
    return {**own, _REFITTED: results.refitted.point}


def _compared(context: Context, sources: Sequence[Source]) -> Block:
    names = _names(sources)
    baselines: dict[str, Point] = {}
    for source, name in zip(sources, names, strict=True):
        for what, point in _baselines(source).items():
            known = baselines.setdefault(what, point)
            if known.correct != point.correct:  # a run with other strengths or targets has another full head
                baselines[f"{what} ({name})"] = point
    points = {
        name: {head.k: head.point for head in heads_of(source)} for source, name in zip(sources, names, strict=True)
    }
    return _chart(context, "Sparse heads by number of features per class", points, baselines)


def _names(sources: Sequence[Source]) -> list[str]:
    """The shortest names that tell runs apart: by what was asked for, by their folders too, or by what results are."""
    labels = [run_label(source) for source in sources]
    folders = [f"{label} ({printable(source.path.parent.name)})" for source, label in zip(sources, labels, strict=True)]
    return next(
        (names for names in (labels, folders) if len(set(names)) == len(names)), [source.name for source in sources]
    )


def _run(context: Context, source: Source) -> Iterator[Block]:
    results, heads = source.results, heads_of(source)
    curves = {
        "sparse head": {head.k: head.point for head in heads},
        "the same features, cut": {head.k: head.cut for head in heads},
    }
    yield _chart(context, "The sparse head, and the same features cut", curves, _baselines(source))
    yield Text(_choice(source))
    yield _accuracies(source, heads)
    yield _differences(source, heads)
    yield _measures(heads)
    if any(head.measures.pairs for head in heads):
        yield _pairs(source, heads)
    yield _methods(source, heads)
    yield _candidates(source, heads)
    if results.smallest is not None:
        yield Table(
            f"The smallest k within {counted(results.smallest.max_drop, 'point')}: {results.smallest.k}",
            [Column("k"), Column("Loss on the choosing images at most (95%), points")],
            [[int(k), bound] for k, bound in results.smallest.tried.items()],
        )
    if results.nec is not None:
        yield _nec(results.nec)
    if results.path is not None:
        yield _path(source, results.path)


def _chart(context: Context, title: str, points: dict[str, dict[int, Point]], baselines: dict[str, Point]) -> Block:
    """Accuracy over k; heads below one another instead where curves are too many, or each is one point."""
    rows: list[tuple[str, int | None, Point]] = [(name, None, point) for name, point in baselines.items()]
    rows += [(name, k, point) for name, by_k in points.items() for k, point in by_k.items()]
    values = Table(
        title,
        [Column("Head"), Column("k"), Column("Correct"), Column("Top-1 %"), Column("95% interval")],
        [[name, k, point.correct, point.top1, point.top1_ci95] for name, k, point in rows],
    )
    if len(points) > _MOST_CURVES or all(len(by_k) <= 1 for by_k in points.values()):
        order = sorted(range(len(rows)), key=lambda place: (rows[place][1] or 0, place))
        drawn = [_row(*rows[place]) for place in order[:_MOST_ROWS]]
        return context.chart(title, partial(interval_figure, "top-1 accuracy (%), with 95% interval", drawn), values)
    levels = {name: (point.top1, point.top1_ci95) for name, point in baselines.items()}
    curves = {name: _curve(by_k) for name, by_k in points.items()}
    return context.chart(title, lambda width: accuracy_figure("", curves, None, levels=levels, width=width), values)


def _row(name: str, k: int | None, point: Point) -> tuple[str, float, tuple[float, float]]:
    return (name if k is None else f"k = {k}: {name}"), point.top1, point.top1_ci95


def _curve(by_k: dict[int, Point]) -> Curve:
    points = by_k.values()
    low, high = [point.top1_ci95[0] for point in points], [point.top1_ci95[1] for point in points]
    return Curve(list(by_k), [point.top1 for point in points], low, high, is_line=len(by_k) > 1)


def _choice(source: Source) -> str:
    results = source.results
    chosen = results.chosen_on
    if not chosen.chosen:
        how = "Method, strength and k were given, and nothing was chosen."
    elif chosen.part_of_training:
        seen = "" if results.original is None else ", which the network was trained on,"
        images = f"{counted(chosen.images, 'image')} of {chosen.split}{seen}"
        how = f"Chosen ({', '.join(chosen.chosen)}) on {images} while the other "
        how += f"{chosen.fitted:,} were fitted; what was chosen was then fitted on all."
    else:
        how = f"Chosen ({', '.join(chosen.chosen)}) on the {counted(chosen.images, 'image')} of {chosen.split}."
    if chosen.searched < chosen.fitted:
        how += f" Features were looked for on {chosen.searched:,} of the training images, drawn by class."
    if results.locality is not None:
        how += f" The objective of QPM was used with{'' if results.locality else 'out'} its term for locality."
    return f"{how} The {results.total:,} images of the figures above and below chose nothing."


def _accuracies(source: Source, heads: Sequence[Any]) -> Table:
    rows: list[list[Cell]] = [
        [name, None, None, point.correct, point.top1, point.top1_ci95, None, None, None, l2]
        for (name, point), l2 in zip(
            _baselines(source).items(), [None, source.results.refitted.l2][-len(_baselines(source)) :], strict=True
        )
    ]
    for head in heads:
        sizes = head.features_per_class
        every = f"k = {head.k}" if sizes == (head.k, head.k) else f"k = {head.k} ({sizes[0]} to {sizes[1]} per class)"
        point, cut = head.point, head.cut
        rows.append([every, head.method, head.features, point.correct, point.top1, point.top1_ci95])
        rows[-1] += [cut.correct, cut.top1, head.loss, head.l2]
    return Table(
        f"Accuracy on {source.results.total:,} images",
        [
            Column("Head"),
            Column("Method"),
            Column("Features of all classes"),
            Column("Correct"),
            Column("Top-1 %"),
            Column("95% interval"),
            Column("Cut, correct"),
            Column("Cut, top-1 %"),
            Column("Loss (nats)", 4),
            Column("L2", is_p=True),
        ],
        rows,
    )


def _differences(source: Source, heads: Sequence[Any]) -> Table:
    found = [(_REFITTED, _FULL, source.results.refitted.versus_original)]
    for head in heads:
        found += [
            (f"k = {head.k}", _FULL, head.versus_original),
            (f"k = {head.k}", _REFITTED, head.versus_refitted),
        ]
    return Table(
        "Against the full heads, image by image",
        [
            Column("Head"),
            Column("Minus"),
            Column("Points", 2, is_signed=True),
            Column("95% interval", 2, is_signed=True),
            Column("McNemar p", is_p=True),
            Column("Only the full one right"),
            Column("Only the first right"),
        ],
        [
            [name, minus, v.points, v.ci95, v.mcnemar_p, v.only_baseline_correct, v.only_sparse_correct]
            for name, minus, v in found
            if v is not None
        ],
    )


def _measures(heads: Sequence[Any]) -> Table:
    rows: list[list[Cell]] = []
    for head in heads:
        found, spread = head.measures, head.measures.classes_per_feature
        between: Cell = None if spread is None else (float(spread.min), float(spread.max))
        mean: Cell = None if spread is None else spread.mean
        measured = [found.class_independence, found.contrastiveness, found.correlation, found.sid5]
        rows.append([head.k, found.features_used, mean, between, *measured, found.one_difference])
    return Table(
        "What the heads are like, over the features in use",
        [
            Column("k"),
            Column("Features in use"),
            Column("Classes per feature, mean"),
            Column("Least to most", 0),
            Column("Class independence", 3),
            Column("Contrastiveness", 3),
            Column("Correlation", 3),
            Column("SID@5", 3),
            Column("Pairs of classes one feature apart"),
        ],
        rows,
    )


def _pairs(source: Source, heads: Sequence[Any]) -> Table:
    pairs = [(head.k, pair) for head in heads for pair in head.measures.pairs]
    total = sum(head.measures.one_difference for head in heads)
    cut = "" if total <= min(len(pairs), _MOST_PAIRS) else f", {min(len(pairs), _MOST_PAIRS)} of {total:,}"
    return Table(
        f"Classes that are one feature apart{cut}",
        [
            Column("k"),
            Column("One class"),
            Column("Other class"),
            Column("Only the one has"),
            Column("Only the other has"),
        ],
        [
            [k, *map(source.class_name, pair.classes), *(feature_name(source, f) for f in pair.features)]
            for k, pair in pairs[:_MOST_PAIRS]
        ],
        is_folded=True,
    )


def feature_name(source: Source, number: int) -> str:
    """The name of a feature where features have names, else its number."""
    names = source.results.feature_names
    return f"feature {number}" if names is None else str(names[number])


def _methods(source: Source, heads: Sequence[Any]) -> Grid:
    """All methods by k, on the images that chose one of them; the darkest are best for their k."""
    images = source.results.chosen_on.images
    methods = list(dict.fromkeys(one.method for head in heads for one in head.candidates))
    cells: list[list[Shade]] = [[] for _ in methods]
    for head in heads:
        tried = {one.method: one for one in head.candidates}
        counts = [one.correct for one in head.candidates]
        low, high = min(counts, default=0), max(counts, default=0)
        for row, method in zip(cells, methods, strict=True):
            one = tried.get(method)
            if one is None:
                row.append(Shade("", 0, ""))
                continue
            share = 100 * one.correct / images
            tip = f"{method}, k = {head.k}: {one.correct} of {images} ({share:.2f}%), loss {one.loss:.4f}"
            is_chosen = method == head.method
            row.append(
                Shade(
                    f"{one.correct}{' *' if is_chosen else ''}",
                    (one.correct - low) / max(1, high - low),
                    f"{tip}; chosen" if is_chosen else tip,
                )
            )
    return Grid(
        f"All methods on the {images:,} choosing images, not the ones above: images right, by k (*: chosen)",
        "Method",
        methods,
        [f"k = {head.k}" for head in heads],
        cells,
    )


def _candidates(source: Source, heads: Sequence[Any]) -> Table:
    images = source.results.chosen_on.images
    return Table(
        "All methods on the choosing images: loss and strength",
        [
            Column("Method"),
            Column("k"),
            Column("Correct"),
            Column("%"),
            Column("Loss (nats)", 4),
            Column("L2", is_p=True),
        ],
        [
            [one.method, head.k, one.correct, 100 * one.correct / images, one.loss, one.l2]
            for head in heads
            for one in head.candidates
        ],
        is_folded=True,
    )


def _nec(nec: Any) -> Table:
    numbers = list(nec.elastic_net.accuracy)
    return Table(
        "NEC: accuracy in percent by features per class (a mean number on the elastic-net path, exactly so many here)",
        [Column("Heads"), *(Column(number) for number in numbers), Column("Mean")],
        [
            [what, *(few.accuracy[number] for number in numbers), few.mean]
            for what, few in (("elastic-net path", nec.elastic_net), ("sparse heads", nec.sparse))
        ],
    )


def _path(source: Source, path: Sequence[Any]) -> Table:
    classes = source.document.model.num_classes if source.document.model is not None else None
    worst = max((row.relative_gap for row in path), default=0.0)
    return Table(
        f"Elastic-net path on the training images: {len(path)} strengths, each at most {worst:.1e} of its objective "
        "above the minimum",
        [
            Column("Strength", 6),
            Column("Weights"),
            Column("Weights per class"),
            Column("Loss (nats)", 5),
            Column("Objective", 6),
            Column("Gap at most", is_p=True),
            Column("Of the objective", is_p=True),
        ],
        [
            [row.strength, row.weights, each, row.loss, row.objective, row.gap, row.relative_gap]
            for row in path
            for each in [row.weights / classes if classes else None]
        ],
        is_folded=True,
    )
