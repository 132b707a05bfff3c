"""The section on accuracy: how many images each head gets right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from decompose_cli.decomposition.calibration import Adjusted
from decompose_cli.decomposition.result_types import Difference
from decompose_cli.page.blocks import Block, Cell, Column, Group, Section, Table
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.reporting.study_plots import interval_figure
from decompose_cli.statistics import wilson_interval

FULL = "full head"
"""What the head of all features is called."""
_MOST_DRAWN = 40
_LEAD = (
    "Images classified correctly, with 95% intervals (Wilson), which are about other images of the same kind, not "
    "about other trainings. Heads are compared image by image."
)


@dataclass(frozen=True)
class Measured:
    """One head on one set of images; ``top5`` is in percent, ``loss`` in nats."""

    source: str
    what: str
    split: str
    correct: int
    total: int
    top5: float | None
    loss: float

    @property
    def top1(self) -> float:
        """Top-1 accuracy in percent."""
        return 100 * self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of ``top1``, in percent."""
        low, high = wilson_interval(self.correct, self.total)
        return 100 * low, 100 * high


def section(context: Context) -> Section | None:
    """Make the section from validate, finetune, train and train-gate."""
    measured = [measurement for source in context.sources for measurement in measurements(source)]
    if not measured:
        return None
    values = Table(
        "Accuracy",
        [
            Column("Result"),
            Column("Head or network"),
            Column("Images of"),
            Column("Correct"),
            Column("Images"),
            Column("Top-1 %"),
            Column("95% interval"),
            Column("Top-5 %"),
            Column("Loss (nats)", 4),
        ],
        [[m.source, m.what, m.split, m.correct, m.total, m.top1, m.interval, m.top5, m.loss] for m in measured],
    )
    several = len({m.source for m in measured}) > 1
    rows = [(f"{m.source}: {m.what}" if several else m.what, m.top1, m.interval) for m in measured]
    accuracies: Block = values
    if 1 < len(rows) <= _MOST_DRAWN:
        draw = partial(interval_figure, "top-1 accuracy (%), with 95% interval", rows)
        accuracies = context.chart("Accuracy before and after", draw, values)
    blocks: list[Block] = [*_differences(context), accuracies]
    blocks += _controls(context)
    blocks += _calibration(context)
    blocks += _by_class(context)
    return Section("accuracy", "Accuracy", _LEAD, blocks)


def measurements(source: Source) -> Iterator[Measured]:
    """The measurements of a result; on held-out images those of the last epoch only, as they chose the best one."""
    results = source.results
    if source.command == "validate":
        found = {FULL: results.original, "decomposed": results.decomposed, "refitted": results.refitted}
        for what, head in found.items():
            if head is not None:
                split = source.document.dataset.split if source.document.dataset else ""
                if what == "decomposed" and results.indices is not None:
                    what = f"decomposed, {_features(results.indices.k)} per class"
                elif what == "refitted":
                    what = "the same features, weights fitted anew"
                yield Measured(source.name, what, split, head.correct, results.total, head.top5, head.loss)
    elif source.command in ("finetune", "train", "train-gate"):
        runs = getattr(results, "runs", None)
        for run in runs if runs is not None else [results]:
            prefix = f"seed {run.seed}: " if runs is not None else ""
            for what, score in _scores(source.command, run):
                if score is not None and score.images > 0:
                    yield Measured(
                        source.name, prefix + what, score.split, score.correct, score.images, score.top5, score.loss
                    )


def _scores(command: str, run: Any) -> Iterator[tuple[str, Any]]:
    if command == "finetune":
        yield FULL, run.original
        sizes = f"decomposed, {_features(run.features_per_class)} per class"
        yield f"{sizes}, weights of the full head", run.cut
        yield f"{sizes}, not trained" + (", weights fitted anew" if run.refitting is not None else ""), run.before
        yield "decomposed, fine-tuned", run.after
    elif hasattr(run, "last"):
        yield f"after epoch {run.last.epoch}", run.last.test or run.last.val
        if run.best is not None and run.best.epoch != run.last.epoch:
            yield f"best epoch, {run.best.epoch}", run.best.test


def _features(sizes: tuple[int, int]) -> str:
    return str(sizes[0]) if sizes[0] == sizes[1] else f"{sizes[0]} to {sizes[1]}"


def differences(source: Source) -> Iterator[tuple[str, Difference]]:
    """The differences, decomposed minus original, of a result that compares them."""
    if source.command not in ("validate", "finetune"):
        return
    runs = getattr(source.results, "runs", None)
    for run in runs if runs is not None else [source.results]:
        if run.difference is not None:
            yield (f"seed {run.seed}" if runs is not None else ""), run.difference


def _differences(context: Context) -> Iterator[Block]:
    rows = [
        (f"{source.name}{', ' + which if which else ''}", difference, *_worst(source, difference))
        for source in context.sources
        for which, difference in differences(source)
    ]
    if rows:
        yield Table(
            "Decomposed minus full head, image by image",
            [
                Column("Result"),
                Column("Points", 2, is_signed=True),
                Column("95% interval", 2, is_signed=True),
                Column("McNemar p", is_p=True),
                Column("Only the full head right"),
                Column("Only the decomposed right"),
                Column("Worst class"),
                Column("Its points", 2, is_signed=True),
                Column("95% interval, all classes together", 2, is_signed=True),
            ],
            [
                [name, d.points, d.ci95, d.mcnemar_p, d.only_original_correct, d.only_decomposed_correct, *worst]
                for name, d, *worst in rows
            ],
        )


def _controls(context: Context) -> Iterator[Block]:
    """What training alone gains, where the full head was trained by the same schedule."""
    rows = []
    for source in context.of("finetune"):
        for run in getattr(source.results, "runs", None) or [source.results]:
            if run.control is None:
                continue
            which = f"{source.name}, seed {run.seed}" if hasattr(source.results, "runs") else source.name
            for what, one in (
                ("full head, trained as well, minus the original", run.control.gain),
                ("decomposed, fine-tuned, minus the full head, trained as well", run.control.versus),
            ):
                rows.append([which, what, one.points, one.ci95, one.mcnemar_p])
    if rows:
        yield Table(
            "What training alone gains: the full head by the same schedule",
            [
                Column("Result"),
                Column("Difference"),
                Column("Points", 2, is_signed=True),
                Column("95% interval", 2, is_signed=True),
                Column("McNemar p", is_p=True),
            ],
            rows,
        )


def _calibration(context: Context) -> Iterator[Block]:
    """How far the heads are to be believed, and their prediction sets."""
    for source in context.of("validate"):
        results = source.results
        known = {name: head.calibration for name, head in results.heads.items() if head.calibration is not None}
        if not known:
            continue
        values = Table(
            "How far the probabilities of the heads are to be believed",
            [Column("Head"), Column("ECE %"), Column("Brier score", 4), Column("NLL (nats)", 4)],
            [[name, 100 * one.ece, one.brier, one.nll] for name, one in known.items()],
        )
        title = "Reliability: how often each head is right, against how sure it is"
        blocks: list[Block] = [context.chart(title, results.reliability, values)]
        if results.adjusted is not None:
            blocks.append(_adjusted(results.adjusted))
        yield Group(f"Calibration: {source.name}", blocks)


def _adjusted(found: Adjusted) -> Table:
    where = "the split val" if found.fitted_on == "val" else "the other half"
    asked = "" if found.wanted is None else f"; sets with a coverage of {found.wanted:g}%"
    return Table(
        f"On {found.images:,} images, fitted on {where}{asked}",
        [
            Column("Head"),
            Column("ECE %"),
            Column("Temperature", 3),
            Column("ECE % with it"),
            Column("Coverage %"),
            Column("95% interval"),
            Column("Classes in a set"),
            Column("Sets of one class"),
            Column("Empty sets"),
        ],
        [
            [
                name,
                100 * one.before.ece,
                one.temperature,
                None if one.after is None else 100 * one.after.ece,
                *(
                    [None] * 5
                    if one.sets is None
                    else [
                        one.sets.coverage,
                        one.sets.coverage_ci95,
                        one.sets.mean_size,
                        one.sets.single,
                        one.sets.empty,
                    ]
                ),
            ]
            for name, one in found.heads.items()
        ],
    )


def _worst(source: Source, difference: Difference) -> tuple[str | None, float | None, tuple[float, float] | None]:
    """The class that loses most, with its counts, and by how much."""
    worst = difference.worst_class
    if worst is None:
        return None, None, None
    counts = f"{source.class_name(worst.number)} ({worst.before:,} to {worst.after:,} of {worst.images:,})"
    return counts, worst.points, worst.ci95


def _by_class(context: Context) -> Iterator[Block]:
    tables = []
    for source in context.of("validate"):
        original, decomposed = source.results.original, source.results.decomposed
        first = original or decomposed
        if first is None:
            continue
        heads = [(what, head) for what, head in (("Full head", original), ("Decomposed", decomposed)) if head]
        columns = [Column("Class")]
        columns += [Column("Change, points", 2, is_signed=True)] * (len(heads) == 2)
        columns += [column for what, _ in heads for column in (Column(f"{what} right"), Column(f"{what} %"))]
        columns += [Column("Images")]
        rows: list[list[Cell]] = []
        for number, row in enumerate(first.per_class):
            if row.total == 0:
                continue
            counts = [head.per_class[number].correct for _, head in heads]
            shares = [100 * count / row.total for count in counts]
            change: list[Cell] = [shares[1] - shares[0]] if len(shares) == 2 else []
            measured = [value for pair in zip(counts, shares, strict=True) for value in pair]
            rows.append([row.name, *change, *measured, row.total])
        tables.append(Table(f"By class: {source.name}", columns, rows, is_folded=len(rows) > 30))
    if tables:
        yield Group("By class", tables)
