"""The section on how trainings went."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from decompose_cli.datasets.kinds import place_in
from decompose_cli.page.blocks import Block, Cell, Column, Group, Section, Table
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.reporting.training_plots import Curve, lr_figure, training_figure, trainings_figure
from decompose_cli.training.records import curves

_LEAD = (
    "Loss is mean cross-entropy in nats. Figures of the training images come from the passes in which the network "
    "learned from them, augmented, and mixed or with smoothed targets where the training has that: losses of trainings "
    "that differ in it cannot be compared. Held-out images choose the best epoch; test images choose nothing."
)


def section(context: Context) -> Section | None:
    """Make the section from train, finetune, train-gate and lr-find."""
    blocks: list[Block] = list(_together(context))
    for source in context.of("train", "finetune", "train-gate"):
        group = [block for title, run in runs_of(source) for block in _run(context, title, run)]
        summary = getattr(source.results, "summary", None)
        if summary:
            group.insert(0, _spreads(summary))
        if group:
            blocks.append(Group(source.name, group))
    blocks += [Group(source.name, [_rates(context, source)]) for source in context.of("lr-find")]
    return Section("training", "Training", _LEAD, blocks) if blocks else None


def runs_of(source: Source) -> Iterator[tuple[str, Any]]:
    """The title and the results of each run of a training, which may have had several seeds."""
    several = getattr(source.results, "runs", None)
    for run in several if several is not None else [source.results]:
        if hasattr(run, "epochs"):
            yield (f"Seed {run.seed}" if several is not None else "Loss, accuracy and learning rate"), run


def _together(context: Context) -> Iterator[Block]:
    """Trainings from the same training images in one drawing: those by themselves say little of each other.

    Fine-tuned heads are left out: they begin with a trained network.
    """
    alike: dict[tuple[str, str, str], dict[str, list[Any]]] = {}
    names: dict[str, str] = {}
    for source in context.of("train", "train-gate"):
        runs = [run for _, run in runs_of(source) if run.epochs]
        splits = {_measured_on(run) for run in runs}
        if source.document.dataset is None or len(splits) != 1:
            continue
        dataset = source.document.dataset
        settings = source.document.arguments.get("settings")
        held_out = settings.get("val_split") if isinstance(settings, dict) else None
        where = dataset.fingerprint, str(held_out), splits.pop()  # a document may have anything there
        names.setdefault(dataset.fingerprint, place_in(dataset.name))
        alike.setdefault(where, {})[source.name] = runs
    several = len({fingerprint for fingerprint, _, _ in alike}) > 1
    blocks = [
        _curves(context, trainings, split, f"{names[fingerprint]}: " if several else "")
        for (fingerprint, _, split), trainings in alike.items()
        if sum(len(runs) for runs in trainings.values()) > 1
    ]
    if blocks:
        yield Group("Learning curves", blocks)


def _measured_on(run: Any) -> str:
    """The images whose accuracy a run measured after its epochs: held-out ones, else those of the test."""
    return next((name for name in ("val", "test") if any(getattr(epoch, name) for epoch in run.epochs)), "train")


def _curves(context: Context, trainings: Mapping[str, Sequence[Any]], split: str, whose: str) -> Block:
    images = {"val": "held-out images", "test": "test images", "train": "training images"}[split]
    losses, top1 = (
        {name: Curve([_by_epoch(run, of, figure) for run in runs]) for name, runs in trainings.items()}
        for of, figure in (("train", "loss"), (split, "top1"))
    )
    rows: list[list[Cell]] = []
    for name, curve in top1.items():
        mean, loss = curve.mean, losses[name].mean
        for epoch, value in mean.items():
            values = [seed[epoch] for seed in curve.seeds]
            spread = [min(values), max(values)] if len(values) > 1 else [None, None]
            rows.append([name, str(epoch), len(values), value, *spread, loss.get(epoch)])
    columns = [Column("Training"), Column("Epoch"), Column("Seeds"), Column("Mean top-1 %"), Column("Lowest")]
    columns += [Column("Highest"), Column("Mean training loss", 4)]
    draw = partial(trainings_figure, "", losses, top1, images)
    title = f"{whose}{'accuracy' if whose else 'Accuracy'} on {images} and training loss"
    if any(len(runs) > 1 for runs in trainings.values()):
        title += "; thick lines are means over seeds, thin ones the seeds"
    return context.chart(title, lambda width: draw(width=width), Table("By training and epoch", columns, rows))


def _by_epoch(run: Any, split: str, figure: str) -> dict[int, float]:
    scores = {record.epoch: getattr(record, split) for record in run.epochs}
    found = {epoch: float(getattr(score, figure)) for epoch, score in scores.items() if score is not None}
    return {epoch: value for epoch, value in found.items() if math.isfinite(value)}


def _run(context: Context, title: str, run: Any) -> Iterator[Block]:
    if not run.epochs:
        return
    columns = [Column("Epoch"), Column("Learning rate", 6), Column("Training loss", 4)]
    columns += [Column("Training, right"), Column("Training top-1 %")]
    splits = [name for name in ("val", "test") if any(getattr(epoch, name) is not None for epoch in run.epochs)]
    for name in splits:
        what = "Held-out" if name == "val" else "Test"
        columns += [Column(f"{what} loss", 4), Column(f"{what}, right"), Column(f"{what} top-1 %")]
    columns += [Column("Seconds", 1)]
    rows = []
    for epoch in run.epochs:
        scores = [getattr(epoch, name) for name in splits]
        measured = [value for score in (epoch.train, *scores) for value in _measured(score)]
        rows.append([str(epoch.epoch), epoch.lr, *measured, epoch.seconds])
    draw = partial(training_figure, "", **curves(run.epochs))
    yield context.chart(title, lambda width: draw(width=width), Table("By epoch", columns, rows))


def _measured(score: Any) -> tuple[float | None, str | None, float | None]:
    if score is None:
        return None, None, None
    return score.loss, f"{score.correct:,} of {score.images:,}", score.top1


def _spreads(summary: Any) -> Table:
    return Table(
        "Over the seeds",
        [
            Column("Figure"),
            Column("Runs"),
            Column("Mean", 3),
            Column("Standard deviation", 3),
            Column("Lowest", 3),
            Column("Median", 3),
            Column("Highest", 3),
        ],
        [[s.what, len(s.values), s.mean, s.std, s.min, s.median, s.max] for s in summary],
    )


def _rates(context: Context, source: Source) -> Block:
    results = source.results
    rows = list(zip(results.rates, results.losses, results.smoothed, strict=False))
    draw = partial(
        lr_figure,
        "",
        [rate for rate, _, _ in rows],
        [float("nan") if loss is None else loss for _, loss, _ in rows],
        [float("nan") if loss is None else loss for _, _, loss in rows],
        results.lr,
    )
    values = Table(
        "By learning rate",
        [Column("Step"), Column("Rate", 8), Column("Loss", 4), Column("Average", 4)],
        [[str(number), *row] for number, row in enumerate(rows)],
    )
    suggestion = "no suggestion" if results.lr is None else f"suggested: {results.lr:.2g}"
    return context.chart(f"Learning-rate range test ({suggestion})", draw, values)
