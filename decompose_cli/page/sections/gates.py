"""The section on soft gates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from decompose_cli.page.blocks import Block, Column, Group, Section, Table
from decompose_cli.page.context import Context
from decompose_cli.page.sections.training import runs_of
from decompose_cli.reporting.study_plots import gate_histogram

_LEAD = (
    "g is the weight that a gate gives the later of its two outputs, between 0 (the earlier one suffices) and 1. "
    "Histograms show the last epoch, tables the weights that were kept. Intervals over images are Student's, and those "
    "of differences Welch's."
)
_SPLITS = {"train": "training images", "val": "held-out images", "test": "test images"}


def section(context: Context) -> Section | None:
    """Make the section from train-gate."""
    blocks: list[Block] = []
    for source in context.of("train-gate"):
        group: list[Block] = []
        for title, run in runs_of(source):
            group += _histograms(context, title, run)
        several = getattr(source.results, "runs", None)
        for run in several if several is not None else [source.results]:
            group += _tables(f", seed {run.seed}" if several is not None else "", run.gates)
        if group:
            blocks.append(Group(source.name, group))
    return Section("gates", "Soft gates", _LEAD, blocks) if blocks else None


def _histograms(context: Context, title: str, run: Any) -> Iterator[Block]:
    if not run.epochs:
        return
    last = run.epochs[-1]
    scores = {what: getattr(last, name) for name, what in _SPLITS.items()}
    scores = {what: score for what, score in scores.items() if score is not None and score.gates}
    count = min((len(score.gates) for score in scores.values()), default=0)
    prefix = f"{title}: " if title.startswith("Seed") else ""
    for number in range(count):
        gates = {what: score.gates[number] for what, score in scores.items()}
        name = next(iter(gates.values())).name
        counts = {what: gate.histogram for what, gate in gates.items()}
        bins = max(map(len, counts.values()))
        counted = "Images" if all(sum(gate.histogram) == scores[what].images for what, gate in gates.items()) else None
        values = Table(
            f"{counted or 'Images times units'} by g of {name}",
            [Column("From g"), *(Column(what) for what in counts)],
            [
                [
                    f"{bin_ / bins:.2f}",
                    *(histogram[bin_] if bin_ < len(histogram) else None for histogram in counts.values()),
                ]
                for bin_ in range(bins)
            ],
        )
        heading = f"{prefix}g of {name} after epoch {last.epoch}"
        yield context.chart(heading, partial(gate_histogram, name, counts), values)


def _tables(which: str, report: Any) -> Iterator[Block]:
    yield Table(
        f"g by images{which}",
        [
            Column("Images of"),
            Column("Images"),
            Column("Top-1 %"),
            Column("Mean g", 4),
            Column("95% interval", 4),
            Column("Mean g where right", 4),
            Column("Mean g where wrong", 4),
            Column("Right minus wrong", 4, is_signed=True),
            Column("95% interval", 4, is_signed=True),
        ],
        [
            [split.split, split.images, split.top1, split.g.g, split.g.ci95, *_contrast(split.right_and_wrong)]
            for split in report.splits
        ],
    )
    if report.label_noise is not None:
        noise = report.label_noise
        yield Table(
            f"Training images whose label was made wrong{which}",
            [Column("Images"), Column("Number"), Column("Mean g", 4), Column("95% interval", 4)],
            [
                ["with a wrong label", noise.first.images, noise.first.g, noise.first.ci95],
                ["others", noise.second.images, noise.second.g, noise.second.ci95],
                ["difference", None, noise.difference, noise.ci95],
            ],
        )
    if report.skipping is not None:
        skipping = report.skipping
        skipped = ", ".join(f"{100 * share:.1f}%" for share in skipping.skipped)
        yield Table(
            f"The later stage skipped where g is below {skipping.below:g} ({skipped} of the images){which}",
            [Column("Network"), Column("Correct"), Column("Images"), Column("Top-1 %"), Column("Images/s", 0)],
            [
                ["with skipping", skipping.correct, skipping.images, skipping.top1, skipping.images_per_second],
                ["whole", skipping.full_correct, skipping.images, skipping.full_top1, skipping.full_images_per_second],
            ],
        )


def _contrast(contrast: Any) -> list[Any]:
    return [None] * 4 if contrast is None else [contrast.first.g, contrast.second.g, contrast.difference, contrast.ci95]
