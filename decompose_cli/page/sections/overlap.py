"""The section on how much the classes' sets overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from decompose_cli.page.blocks import Block, Column, Grid, Group, Section, Shade, Table
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source, called_set

_LEAD = (
    "The Jaccard index of two classes is the share of common features among all that either has: 0 for none, 1 for the "
    "same set. Mutual information (in nats) asks how much knowing whether a feature belongs to one class says of "
    "whether it belongs to the other; it is also positive where two classes avoid each other's features. Shades are "
    "relative to the largest value of two different classes in the same matrix."
)
_MOST_CELLS_ACROSS = 25
_MOST_PAIRS = 20


def section(context: Context) -> Section | None:
    """Make the section from mutual-info."""
    blocks: list[Block] = []
    for source in context.of("mutual-info"):
        by_name = source.results.sets.items()
        sets = [(called_set(name), k, overlap) for name, by_k in by_name for k, overlap in by_k.items()]
        blocks.append(
            Table(
                f"Means over pairs of classes: {source.name}",
                [
                    Column("Set"),
                    Column("k"),
                    Column("Mutual information, all pairs (as published)", 4),
                    Column("different classes", 4),
                    Column("normalised", 4),
                    Column("Jaccard", 4),
                    Column("Features of no class"),
                    Column("of one"),
                    Column("of several"),
                ],
                [
                    [
                        name,
                        int(k) if k.isdecimal() else k,
                        f.mean,
                        f.off_diagonal_mean,
                        f.normalized_mean,
                        f.jaccard_mean,
                        f.unused,
                        f.exclusive,
                        f.shared,
                    ]
                    for name, k, f in sets
                ],
            )
        )
        for name, k, overlap in sets:
            group = [
                block
                for what, matrix in (("Jaccard index", overlap.jaccard_matrix), ("Mutual information", overlap.matrix))
                for block in matrix_blocks(context, source, f"{what}, {name}, k = {k}", matrix, overlap.classes)
            ]
            if group:
                blocks.append(Group(f"{name}, k = {k}", group))
    return Section("overlap", "Overlap and mutual information", _LEAD, blocks) if blocks else None


def matrix_blocks(
    context: Context,
    source: Source,
    caption: str,
    matrix: Sequence[Sequence[float]],
    classes: Sequence[int] | None = None,
) -> Iterator[Block]:
    """Show a matrix of classes by classes; the largest value off the diagonal, where the news is, is the darkest.

    ``classes``: their numbers; all by default.
    """
    values = np.asarray(matrix, dtype=float)
    if values.ndim != 2 or len(values) < 2 or values.shape[0] != values.shape[1]:
        return
    count = len(values)
    names = [source.class_name(number) for number in (range(count) if classes is None else classes)]
    others = values[~np.eye(count, dtype=bool)]
    largest = float(others.max()) or 1.0
    if count <= _MOST_CELLS_ACROSS:
        digits = 2 if largest >= 0.1 else 3
        tells = bool(others.min() < 0.9 * largest)  # else shades have nothing to tell apart
        cells = [
            [
                Shade(
                    f"{value:.{digits}f}",
                    min(1.0, value / largest if row != column and tells else 0.0),
                    f"{names[row]} and {names[column]}: {value:.4f}",
                )
                for column, value in enumerate(line)
            ]
            for row, line in enumerate(values.tolist())
        ]
        yield Grid(caption, "Class", names, names, cells)
        return
    alt = f"{count} by {count} classes; the pairs with the largest values are in the table below."
    raster = context.raster(caption, alt, values, (names, names), "value", is_sparse=False, darkest=largest)
    if raster is not None:
        yield raster
    upper = np.triu(values, 1)
    top = np.argsort(-upper, axis=None, kind="stable")[:_MOST_PAIRS]
    yield Table(
        f"{caption}: the {len(top)} pairs with the largest values",
        [Column("Class"), Column("Other class"), Column("Value", 4)],
        [[names[place // count], names[place % count], float(upper.flat[place])] for place in top.tolist()],
        is_folded=True,
    )
