"""The section on which classes share which filters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decompose_cli.decomposition.index_set import MOST_FEATURES, Layout
from decompose_cli.errors import InputError
from decompose_cli.page.blocks import Block, Column, Grid, Group, Section, Shade, Table
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source, called_set
from decompose_cli.page.ordering import clustered_sets, shared_first

_LEAD = (
    "A filter is one penultimate feature. Marks show the filters that a class keeps. Numbers, where there are any, "
    "rank them, 1 being the first of the ranking that is named; numbers next to each other can be a tie. The order in "
    "an index file need not mean anything. Filters that several classes share come first, each beside its classes, and "
    "classes that share stand together; filters that no class uses are left out."
)
_MOST_ROWS, _MOST_COLUMNS = 30, 130
_MOST_LISTED = 500
_MOST_NAMED = 12


@dataclass(frozen=True)
class _Set:
    title: str
    source: Source
    classes: Mapping[int, Sequence[int]]
    num_features: int
    is_ranked: bool

    def users(self) -> dict[int, list[int]]:
        """The classes that use each filter, of the filters that are used."""
        by_filter: dict[int, list[int]] = {}
        for number, features in self.classes.items():
            for feature in features:
                by_filter.setdefault(feature, []).append(number)
        return by_filter


def section(context: Context) -> Section | None:
    """Make the section from extract-indices, sweep and essential; equal sets are shown once."""
    blocks: list[Block] = []
    seen = []
    sources = [*context.of("extract-indices"), *context.of("sweep"), *context.of("essential")]  # the ranked ones first
    for one_set in (one_set for source in sources for one_set in _sets(source)):
        identity = (one_set.num_features, {number: sorted(features) for number, features in one_set.classes.items()})
        if identity not in seen:
            seen.append(identity)
            blocks.append(Group(one_set.title, [*_matrix(context, one_set), *_tables(context, one_set)]))
    return Section("filters", "Which classes share which filters", _LEAD, blocks) if blocks else None


def _sets(source: Source) -> Iterator[_Set]:
    def set_of(title: str, indices: Layout) -> Iterator[_Set]:
        classes = {
            int(name): list(features)
            for name, features in indices.items()
            if name.isdecimal() and not isinstance(features, str)  # not all features, for want of images
        }
        largest = max((max(features) for features in classes.values() if features), default=-1)
        given = source.document.model.num_features if source.document.model else 0
        count = max(given, largest + 1)
        if not 0 < count <= MOST_FEATURES:
            raise InputError(f"{source.path} speaks of {count:,} features; no network has so many.")
        if classes:
            yield _Set(title, source, classes, count, source.command != "essential")

    if source.command == "extract-indices":
        gates = " (lowest gates)" if source.document.arguments.get("order") == "lowest" else ""
        for k, extracted in source.results.items():
            yield from set_of(f"{source.name}, k = {k}, ranked by {extracted.method}{gates}", extracted.indices)
    elif source.command == "sweep" and source.results.chosen is not None:
        yield from set_of(f"{source.name}, chosen set", source.results.chosen.indices)
    elif source.command == "essential":
        for method, summary in source.results.summary.items():
            yield from set_of(f"{source.name}, {called_set(method)}", summary.features)


def _matrix(context: Context, index_set: _Set) -> Iterator[Block]:
    classes, users = index_set.classes, index_set.users()
    numbers = list(classes)
    numbers = [numbers[place] for place in clustered_sets(list(classes.values()))]
    row_of = {number: row for row, number in enumerate(numbers)}
    columns = shared_first({feature: [row_of[number] for number in those] for feature, those in users.items()})
    names = [index_set.source.class_name(number) for number in numbers]
    shared = sum(len(those) > 1 for those in users.values())
    caption = f"Classes by filters: {len(users)} of {index_set.num_features} filters are used, {shared} by several"
    if len(names) <= _MOST_ROWS and len(columns) <= _MOST_COLUMNS:
        cells, called = [], {feature: _called(context, feature) for feature in columns}
        for name, number in zip(names, numbers, strict=True):
            rank = {feature: place for place, feature in enumerate(classes[number], 1)}
            cells.append(
                [
                    _mark(name, called[f], rank[f], len(rank), is_ranked=index_set.is_ranked)
                    if f in rank
                    else Shade("", 0, "")
                    for f in columns
                ]
            )
        yield Grid(caption, "Class, filter", names, [called[feature] for feature in columns], cells)
        return
    place = {feature: column for column, feature in enumerate(columns)}
    is_used = np.zeros((len(names), len(columns)), dtype=np.int8)
    for row, number in enumerate(numbers):
        is_used[row, [place[feature] for feature in classes[number]]] = 1
    alt = f"{len(names)} classes by {len(columns)} filters; the tables below say the same."
    labels = [f"filter {feature}" for feature in columns]
    raster = context.raster(caption, alt, is_used, (names, labels), "of 1, used", is_sparse=True)
    if raster is not None:
        yield raster


def _called(context: Context, feature: int) -> str:
    """A filter where it is said that it is one: its name with its number, or its number alone."""
    return context.feature_name(feature).removeprefix("feature ")


def _mark(name: str, feature: str, rank: int, count: int, *, is_ranked: bool) -> Shade:
    if not is_ranked:
        return Shade("\N{BULLET}", 0.8, f"{name}: filter {feature}")
    return Shade(str(rank), 1.1 - 0.6 * rank / count, f"{name}: filter {feature}, rank {rank}")


def _tables(context: Context, index_set: _Set) -> Iterator[Block]:
    users = index_set.users()
    names = index_set.source.class_name
    most = sorted(users, key=lambda feature: (-len(users[feature]), feature))
    cut = "" if len(most) <= _MOST_LISTED else f", the {_MOST_LISTED} most shared of {len(most)}"
    yield Table(
        f"Filters by the classes that share them{cut}",
        [Column("Filter"), Column("Classes"), Column("Which")],
        [
            [_called(context, feature), len(users[feature]), _listed([names(n) for n in users[feature]])]
            for feature in most[:_MOST_LISTED]
        ],
        is_folded=True,
    )
    yield Table(
        "Classes by how much of their sets is their own",
        [Column("Class"), Column("Filters"), Column("Used by no other"), Column("Shares most with"), Column("Shared")],
        [_row_of(number, index_set, users) for number in index_set.classes],
        is_folded=True,
    )


def _row_of(number: int, index_set: _Set, users: Mapping[int, Sequence[int]]) -> list[str | int | None]:
    features = index_set.classes[number]
    counts: dict[int, int] = {}
    for feature in features:
        for other in users[feature]:
            if other != number:
                counts[other] = counts.get(other, 0) + 1
    name = index_set.source.class_name
    own = sum(len(users[feature]) == 1 for feature in features)
    closest = max(counts, key=lambda other: (counts[other], -other)) if counts else None
    return [
        name(number),
        len(features),
        own,
        None if closest is None else name(closest),
        counts.get(closest or 0, 0) if closest is not None else 0,
    ]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
