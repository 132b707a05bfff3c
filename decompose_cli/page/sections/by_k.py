"""The section on accuracy against the number of features per class."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from decompose_cli.decomposition.random_rankings import RandomRankings
from decompose_cli.decomposition.result_types import Point
from decompose_cli.decomposition.sweep_results import CurvePoint, curve_of
from decompose_cli.page.blocks import Block, Cell, Column, Group, Section, Table
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.printable import counted
from decompose_cli.reporting.plots import accuracy_figure

_LEAD = (
    "Each class keeps k penultimate features, the first of a ranking or those of an index file; the logits of all "
    "classes are then compared as before. Drawn is how many percentage points of top-1 accuracy that gains or costs, "
    "with the full head at 0; the scales give small k and small differences the most room. Bands are 95% intervals of "
    "each accuracy by itself: points of one curve are about the same images, so they move together."
)
_OF_REFITTED = " Dashed lines and open points: the same features with weights that were fitted anew on training images."


def section(context: Context) -> Section | None:
    """Make the section from sweep and demo."""
    blocks: list[Block] = []
    for source in context.of("demo", "sweep"):
        results = source.results
        if source.command == "demo":
            curves = {results.method: {str(k): point for k, point in results.by_k.items()}}
            full, chosen, anew = 100 * results.original_correct / results.total, None, {}
        else:
            curves, full, chosen, anew = results.curves, results.original.top1, results.chosen, results.refitted
        drawn = [{name: curve_of(name, points) for name, points in found.items()} for found in (curves, anew)]
        floor = getattr(results, "floor", None)
        draw = partial(
            accuracy_figure, "", drawn[0], full, chosen.k if chosen is not None else None, drawn[1], None, floor
        )
        title = "Points from the full head by number of features per class"
        chart = context.chart(title, draw, _values(source, curves, full, _right(results), results.total))
        more = [_refitted(source)] if anew else []
        if floor is not None:
            more.append(_random(results.random))
        blocks.append(Group(source.name, [chart, *more, *(_chosen(source) if chosen is not None else [])]))
    has_refitted = any(getattr(source.results, "refitted", None) for source in context.of("sweep"))
    lead = f"{_LEAD}{_OF_REFITTED if has_refitted else ''}"
    return Section("by-k", "Accuracy against k", lead, blocks) if blocks else None


def _right(results: Any) -> int:
    """The images that the full head gets right."""
    return int(results.original.correct if hasattr(results, "original") else results.original_correct)


def _values(source: Source, curves: Mapping[str, Mapping[str, Point]], full: float, right: int, total: int) -> Table:
    is_said = any(isinstance(point, CurvePoint) for points in curves.values() for point in points.values())
    return Table(
        f"Accuracy by k (full head: {right:,} of {total:,}, {full:.2f}%)",
        [
            Column("Ranking or index file"),
            Column("k"),
            Column("Points from the full head", 2, is_signed=True),
            Column("Correct"),
            Column("Top-1 %"),
            Column("95% interval"),
            *([Column("Worst class"), Column("Its points", 2, is_signed=True)] if is_said else []),
        ],
        [
            [
                name,
                int(k) if k.isdecimal() else k,
                point.top1 - full,
                point.correct,
                point.top1,
                point.top1_ci95,
                *(_worst(source, point) if is_said else []),
            ]
            for name, points in curves.items()
            for k, point in points.items()
        ],
    )


def _worst(source: Source, point: Point) -> list[Cell]:
    """The class that loses most, and by how many points."""
    worst = point.worst_class if isinstance(point, CurvePoint) else None
    return [None, None] if worst is None else [source.class_name(worst.number), worst.points]


def _random(found: RandomRankings) -> Table:
    return Table(
        f"Features drawn at random, {found.draws} times, on {found.images:,} images: the floor below every ranking",
        [Column("k"), Column("Top-1 %, mean"), Column("Smallest"), Column("Largest")],
        [[int(k), one.mean, one.min, one.max] for k, one in found.by_k.items()],
        is_folded=True,
    )


def _refitted(source: Source) -> Table:
    results = source.results
    return Table(
        "The same features, weights fitted anew"
        + (f" (penalty of strength {results.refitting.l2:.2g})" if results.refitting is not None else ""),
        [
            Column("Ranking or index file"),
            Column("k"),
            Column("Correct, cut"),
            Column("Correct, refitted"),
            Column("Top-1 %"),
            Column("95% interval"),
            Column("Minus full head, points", 2, is_signed=True),
            Column("95% interval", 2, is_signed=True),
            Column("McNemar p", is_p=True),
        ],
        [
            [
                name,
                int(k) if k.isdecimal() else k,
                cut.correct if (cut := results.curves.get(name, {}).get(k)) is not None else None,
                point.correct,
                point.top1,
                point.top1_ci95,
                point.difference.points,
                point.difference.ci95,
                point.difference.mcnemar_p,
            ]
            for name, points in results.refitted.items()
            for k, point in points.items()
        ],
    )


def _chosen(source: Source) -> list[Block]:
    chosen = source.results.chosen
    losses = Table(
        f"The smallest set within {counted(chosen.max_drop, 'point')}: {counted(chosen.features, 'feature')} of "
        "all classes together",
        [
            Column("Images of"),
            Column("Images"),
            Column("Full head correct"),
            Column(f"k = {chosen.k} for all, correct"),
            Column("Chosen set, correct"),
            Column("Change, points", 2, is_signed=True),
            Column("95% interval", 2, is_signed=True),
            Column("Loss at most (95%)"),
        ],
        [
            [
                f"{loss.split}, {'chosen on these' if loss is chosen.chosen_on else 'only reported'}",
                loss.total,
                loss.full_correct,
                loss.common_correct,
                loss.correct,
                loss.points,
                loss.ci95,
                loss.loss_bound95,
            ]
            for loss in (chosen.chosen_on, chosen.reported_on)
        ],
    )
    candidates = Table(
        "Smallest common k by ranking, and what is left of it after shrinking class by class",
        [Column("Ranked by"), Column("k"), Column("Features of all classes")],
        [[name, c.k if c else None, c.features if c else None] for name, c in chosen.candidates.items()],
    )
    return [losses, candidates]
