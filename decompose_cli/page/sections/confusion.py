"""The section on confusion: which classes are taken for which, and what the decomposition changes about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from decompose_cli.page.blocks import Block, Cell, Column, Fold, Grid, Group, Section, Shade, Table
from decompose_cli.page.context import Context

_LEAD = (
    "Rows are true classes, columns what the network says. The difference comes first: orange is more and blue fewer "
    "images than with the full head. Shades of the heads' own matrices are shares of the images of a row."
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
        names = [source.class_name(number) for number in range(max((len(m) for m in matrices.values()), default=0))]
        blocks.append(Group(source.name, [*_blocks(context, names, matrices)]))
    return Section("confusion", "Confusion", _LEAD, blocks) if blocks else None


def _blocks(context: Context, names: Sequence[str], matrices: dict[str, np.ndarray]) -> Iterator[Block]:
    is_small = len(names) <= _MOST_CELLS_ACROSS
    pairs = [*_pairs(names, matrices, is_folded=is_small)]
    own = [block for what, matrix in matrices.items() for block in _matrix(context, what, names, matrix)]
    if len(matrices) < 2:
        yield from [*own, *pairs] if is_small else [*pairs, *own]
        return
    difference = [*_matrix(context, _DIFFERENCE, names, matrices["Decomposed"] - matrices["Full head"])]
    if is_small:
        yield from difference
        yield Fold("Each head by itself", own)
        yield from pairs
    else:
        yield from pairs
        yield Fold(f"{_DIFFERENCE}, and each head by itself, as pictures", [*difference, *own])


def _matrix(context: Context, what: str, names: Sequence[str], counts: np.ndarray) -> Iterator[Block]:
    caption = f"{what}: images by true class and prediction"
    if len(names) <= _MOST_CELLS_ACROSS:
        totals = np.abs(counts).sum(axis=1, keepdims=True).clip(min=1)
        shares = counts / (max(1, int(np.abs(counts).max())) if what == _DIFFERENCE else totals)
        cells = [
            [
                Shade(_shown(count, what == _DIFFERENCE), share, f"{names[row]} taken for {names[column]}: {count}")
                for column, (count, share) in enumerate(zip(line, line_shares, strict=True))
            ]
            for row, (line, line_shares) in enumerate(zip(counts.tolist(), shares.tolist(), strict=True))
        ]
        yield Grid(caption, "True class, prediction", names, names, cells, is_signed=what == _DIFFERENCE)
        return
    alt = f"{len(names)} by {len(names)} classes; the most frequent errors are in the table above."
    darkest = None if (counts < 0).any() else float(max(1, _largest_error(counts)))
    raster = context.raster(caption, alt, counts, (names, names), "images", is_sparse=True, darkest=darkest)
    if raster is not None:
        yield raster


def _shown(count: int, is_difference: bool) -> str:
    return "" if count == 0 else f"{count:+d}" if is_difference else str(count)


def _largest_error(counts: np.ndarray) -> int:
    return int(counts[~np.eye(len(counts), dtype=bool)].max(initial=0))


def _pairs(names: Sequence[str], matrices: dict[str, np.ndarray], *, is_folded: bool) -> Iterator[Block]:
    """A table of the confusions that grew most, then of those of which there are most."""
    if not matrices or len(names) < 2:
        return
    heads = list(matrices.values())
    away = ~np.eye(len(names), dtype=bool)
    errors = np.where(away, sum(heads), 0)
    grown = np.where(away, heads[-1] - heads[0], 0)
    several = len(heads) > 1
    places = (grown > 0 if several and (grown > 0).any() else errors > 0).ravel().nonzero()[0]
    order = places[np.lexsort((-errors.ravel()[places], -grown.ravel()[places]))][:_MOST_PAIRS]
    rows: list[list[Cell]] = []
    for place in order.tolist():
        row, column = divmod(place, len(names))
        counts: list[Cell] = [int(matrix[row, column]) for matrix in heads]
        change: list[Cell] = [int(grown[row, column])] if several else []
        rows.append([names[row], names[column], *change, *counts, int(heads[0][row].sum())])
    title = "The confusions that grew most" if (grown > 0).any() else "What is confused most"
    columns = [Column("True class"), Column("Taken for")]
    columns += [Column("Change, images", is_signed=True)] * several
    columns += [*(Column(f"{what}, images") for what in matrices), Column("Images of the class")]
    yield Table(title if rows else "Nothing is confused", columns, rows, is_folded=is_folded)
