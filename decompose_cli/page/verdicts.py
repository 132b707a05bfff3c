"""What results say in a sentence for each question that a reader has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from decompose_cli.decomposition.chance import mean_jaccard
from decompose_cli.page.blocks import Answer
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source, called_set
from decompose_cli.printable import counted

_MOST = 4
"""Sentences for a question; what more results say is in the sections."""
_CHANCE = 0.05
_HOMES = {
    "validate": "accuracy",
    "finetune": "accuracy",
    "sparsify": "sparse",
    "sweep": "by-k",
    "essential": "essentiality",
    "mutual-info": "overlap",
}
"""The sections in which results stand, by command."""


def answers(context: Context) -> list[Answer]:
    """The questions that the results answer, each with its sentences and the section that says more."""
    questions: list[tuple[str, Callable[[Context], Iterator[tuple[Source, str]]]]] = [
        ("What does it cost?", _costs),
        ("Which class pays most?", _payers),
        ("How few features are enough?", _enough),
        ("Are they the right ones?", _right),
        ("Do classes share them?", _shared),
    ]
    found = []
    for question, say in questions:
        said = list(say(context))
        if not said:
            continue
        several = len({source.name for source, _ in said}) > 1
        sentences: list[tuple[str, str | None]] = [
            (f"{_marked(source)}: {text}" if several else _alone(source, text), _HOMES[source.command])
            for source, text in said
        ]
        more = len(sentences) - _MOST
        if more > 0:
            sentences = [*sentences[:_MOST], (f"{counted(more, 'more result')} below.", None)]
        found.append(Answer(question, sentences))
    return found


def _marked(source: Source) -> str:
    return f"{source.name} (random weights)" if _is_random(source) else source.name


def _alone(source: Source, text: str) -> str:
    sentence = f"{text[:1].upper()}{text[1:]}"
    return f"{sentence} (The weights are random.)" if _is_random(source) else sentence


def _is_random(source: Source) -> bool:
    return source.document.arguments.get("weights") == "random"


def _runs(source: Source) -> list[Any]:
    runs = getattr(source.results, "runs", None)
    return list(runs) if runs is not None else [source.results]


def _compared(context: Context) -> Iterator[tuple[Source, str, int, int, int, Any]]:
    """Heads of a few features beside the full one: what they are, images right of both, all images, the difference."""
    for source in context.of("sparsify"):
        results = source.results
        for head in sorted(results.heads.values(), key=lambda one: one.k):
            if head.versus_original is not None and results.original is not None:
                what = f"{counted(head.k, 'feature')} per class, chosen and fitted anew"
                yield source, what, head.point.correct, results.original.correct, results.total, head.versus_original
    for source in context.of("validate"):
        results = source.results
        if results.difference is not None and results.indices is not None:
            low, high = results.indices.k
            size = counted(low, "feature") if low == high else f"{low} to {high} features"
            counts = results.decomposed.correct, results.original.correct, results.total
            yield source, f"{size} per class, cut from the full head", *counts, results.difference
    for source in context.of("sweep"):
        if (chosen := source.results.chosen) is not None:
            loss, (low, high) = chosen.reported_on, chosen.features_per_class
            size = counted(low, "feature") if low == high else f"{low} to {high} features"
            yield source, f"{size} per class, the chosen set", loss.correct, loss.full_correct, loss.total, loss
    for source in context.of("finetune"):
        for run in _runs(source):
            if run.difference is not None:
                low, high = run.features_per_class
                size = counted(low, "feature") if low == high else f"{low} to {high} features"
                counts = run.after.correct, run.original.correct, run.after.images
                yield source, f"{size} per class, trained further", *counts, run.difference


def _costs(context: Context) -> Iterator[tuple[Source, str]]:
    for source, what, after, before, total, difference in _compared(context):
        low, high = difference.ci95
        verdict = " (no difference that could not be chance)" if difference.mcnemar_p >= _CHANCE else ""
        yield (
            source,
            f"{what}: {after:,} of {total:,} images right in place of {before:,}, {difference.points:+.2f} points, 95% "
            f"interval {low:+.2f} to {high:+.2f}{verdict}.",
        )


def _payers(context: Context) -> Iterator[tuple[Source, str]]:
    for source, what, *_, difference in _compared(context):
        worst = difference.worst_class
        if worst is None:
            continue
        low, high = worst.ci95
        name, points = source.class_name(worst.number), f"{worst.points:+.2f} points"
        also = len(difference.halved_classes)
        halved = f" {counted(also, 'class', 'classes')} lost more than half of what was right." if also else ""
        yield (
            source,
            f"{what}: {name}, {worst.before:,} to {worst.after:,} of its {worst.images:,} images, {points}, interval "
            f"{low:+.2f} to {high:+.2f} over all classes together.{halved}",
        )


def _enough(context: Context) -> Iterator[tuple[Source, str]]:
    for source in context.of("sweep"):
        chosen = source.results.chosen
        if chosen is None:
            continue
        loss, (low, high) = chosen.reported_on, chosen.features_per_class
        size = f"{low}" if low == high else f"{low} to {high}"
        yield (
            source,
            f"{counted(chosen.features, 'feature')} in all, {size} per class ({chosen.method}): chosen on the images "
            f"of {chosen.chosen_on.split} to lose at most {counted(chosen.max_drop, 'point')} there"
            f"{_of_classes(chosen)}; on those of {loss.split} {loss.points:+.2f} points, 95% interval "
            f"{loss.ci95[0]:+.2f} to {loss.ci95[1]:+.2f}{_missed(chosen)}.",
        )
    for source in context.of("sparsify"):
        results = source.results
        if results.smallest is not None:
            found = results.smallest
            yield (
                source,
                f"{counted(found.k, 'feature')} per class, the smallest number within "
                f"{counted(found.max_drop, 'point')} of the full head on the images that chose.",
            )


def _of_classes(chosen: Any) -> str:
    most = chosen.max_class_drop
    return "" if most is None else f", and no class more than {counted(most, 'point')}"


def _missed(chosen: Any) -> str:
    """That more is lost on other images than was to be lost on those that chose."""
    loss, worst = chosen.reported_on, chosen.reported_on.worst_class
    parts = ["all together"] * (loss.points < -chosen.max_drop)
    if chosen.max_class_drop is not None and worst is not None and worst.points < -chosen.max_class_drop:
        parts.append("a class")
    return f", more for {' and '.join(parts)} than was allowed where the set was chosen" if parts else ""


def _right(context: Context) -> Iterator[tuple[Source, str]]:
    for source in context.of("essential"):
        for name, kept in source.results.summary.items():
            at, elsewhere = (100 * count / kept.images for count in (kept.noise_at_inf, kept.noise_at_noninf))
            interval = kept.essentiality_ci95
            more = "" if interval is None else f", 95% interval {interval[0]:+.1f} to {interval[1]:+.1f}"
            random = ""
            if kept.control_mean is not None:
                random = f"; random sets of the same size give {kept.control_mean:+.1f} points"
            who = "" if len(source.results.summary) == 1 else f"{called_set(name)}: "
            yield (
                source,
                f"{who}with noise on the features of their class {at:.1f}% of the {kept.images:,} images stay with it, "
                f"with noise on all others {elsewhere:.1f}%: {kept.essentiality:+.1f} points{more}{random}.",
            )
    for source in context.of("sweep"):
        floor, chosen = source.results.random, source.results.chosen
        if floor is None:
            continue
        ks = [int(k) for k in floor.by_k]  # few, so that the nearest is taken
        k = min(ks, key=lambda one: abs(one - (chosen.k if chosen is not None else 5)))
        drawn = floor.by_k[str(k)]
        best = max(
            ((points[str(k)].top1, name) for name, points in source.results.curves.items() if str(k) in points),
            default=None,
        )
        if best is not None:
            some = f" of {floor.images:,} images" if floor.images < source.results.total else ""
            yield (
                source,
                f"at k = {k} features drawn at random give {drawn.mean:.1f}% ({drawn.min:.1f} to {drawn.max:.1f} in "
                f"{floor.draws} draws{some}), those of {best[1]} {best[0]:.1f}%.",
            )


def _shared(context: Context) -> Iterator[tuple[Source, str]]:
    for source in context.of("mutual-info"):
        for name, by_k in source.results.sets.items():
            for k, found in by_k.items():
                who = f"{called_set(name)}, k = {k}: " if len(source.results.sets) > 1 or len(by_k) > 1 else ""
                sizes = found.known_sizes
                chance = None if sizes is None else mean_jaccard(sizes, found.num_features)
                overlap = ""
                if found.jaccard_mean is not None:
                    overlap = f"; Jaccard index of two classes {found.jaccard_mean:.3f}"
                    overlap += "" if chance is None else f", by chance {chance:.3f}"
                yield (
                    source,
                    f"{who}{counted(found.exclusive, 'feature')} in one class alone, {found.shared} in several, "
                    f"{found.unused} in none{overlap}.",
                )
