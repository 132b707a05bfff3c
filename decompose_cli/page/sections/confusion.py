"""The section on confusion: which classes are taken for which, and what the decomposition changes about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from decompose_cli.page.blocks import Block, Column, Grid, Group, Section, Shade, Table
from decompose_cli.page.context import Context

_LEAD = (
    "Rows are true classes, columns what the network says. Shades of a row are shares of its images; in the "
    "difference, blue is fewer and orange more images than with the full head."
)
_MOST_CELLS_ACROSS = 25
_MOST_PAIRS = 30
_DIFFERENCE = "Decomposed minus full head"


def section(context: Context) -> Section | None:
    """Make the section from validate."""
    blocks: list[Block] = []
    for source in context.of("validate"):
        heads = (("Full head", source.results.original), ("Decomposed", source.results.decomposed))
        matrices = {what: np.asarray(head.confusion, dtype=np.int64) for what, head in heads if head is not None}
        matrices = {what: matrix for what, matrix in matrices.items() if matrix.ndim == 2}
        if len(matrices) == 2:
            matrices[_DIFFERENCE] = matrices["Decomposed"] - matrices["Full head"]
        names = [source.class_name(number) for number in range(max((len(m) for m in matrices.values()), default=0))]
        group = [block for what, matrix in matrices.items() for block in _matrix(context, what, names, matrix)]
        blocks.append(Group(source.name, [*group, *_pairs(names, matrices)]))
    return Section("confusion", "Confusion", _LEAD, blocks) if blocks else None


def _matrix(context: Context, what: str, names: Sequence[str], counts: np.ndarray) -> Iterator[Block]:
    caption = f"{what}: images by true class and prediction"
    if len(names) <= _MOST_CELLS_ACROSS:
        totals = np.abs(counts).sum(axis=1, keepdims=True).clip(min=1)
        shares = counts / (totals if (counts >= 0).all() else max(1, int(np.abs(counts).max())))
        cells = [
            [
                Shade(_shown(count, what == _DIFFERENCE), share, f"{names[row]} taken for {names[column]}: {count}")
                for column, (count, share) in enumerate(zip(line, line_shares, strict=True))
            ]
            for row, (line, line_shares) in enumerate(zip(counts.tolist(), shares.tolist(), strict=True))
        ]
        yield Grid(caption, "True class, prediction", names, names, cells, is_signed=what == _DIFFERENCE)
        return
    alt = f"{len(names)} by {len(names)} classes; the most frequent errors are in the table below."
    darkest = None if (counts < 0).any() else float(max(1, _largest_error(counts)))
    raster = context.raster(caption, alt, counts, (names, names), "images", is_sparse=True, darkest=darkest)
    if raster is not None:
        yield raster


def _shown(count: int, is_difference: bool) -> str:
    return "" if count == 0 else f"{count:+d}" if is_difference else str(count)


def _largest_error(counts: np.ndarray) -> int:
    return int(counts[~np.eye(len(counts), dtype=bool)].max(initial=0))


def _pairs(names: Sequence[str], matrices: dict[str, np.ndarray]) -> Iterator[Block]:
    """A table of the pairs that all heads together confuse most."""
    heads = {what: matrix for what, matrix in matrices.items() if (matrix >= 0).all() and what != _DIFFERENCE}
    if not heads or len(names) < 2:
        return
    sums = sum(heads.values())
    assert isinstance(sums, np.ndarray)
    errors = np.where(np.eye(len(names), dtype=bool), 0, sums)
    top = [
        place for place in np.argsort(-errors, axis=None, kind="stable")[:_MOST_PAIRS].tolist() if errors.flat[place]
    ]
    yield Table(
        "What is confused most" if top else "Nothing is confused",
        [Column("True class"), Column("Taken for"), *(Column(f"{what}, images") for what in heads)],
        [
            [names[place // len(names)], names[place % len(names)]]
            + [int(matrix.flat[place]) for matrix in heads.values()]
            for place in top
        ],
        is_folded=True,
    )
