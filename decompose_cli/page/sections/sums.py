"""The section on what sparse heads are made of: weights by class and feature, and classes as sums of features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decompose_cli.decomposition.ranking import DEFAULT_K
from decompose_cli.page.blocks import (
    Block,
    Column,
    Grid,
    Group,
    Part,
    Section,
    Sentence,
    Shade,
    Sum,
    Table,
    Term,
    Text,
)
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.page.saved import saved_image
from decompose_cli.page.sections.atlas import Strip, strips_of, strongest, strongest_alt
from decompose_cli.page.sections.sparse import feature_name, heads_of, run_label
from decompose_cli.printable import counted
from decompose_cli.reporting.filter_plots import MOST_ROWS, filter_strips
from decompose_cli.storage.result_document import DatasetInfo

if TYPE_CHECKING:
    from PIL.Image import Image

_LEAD = (
    "The logit of a class is the sum of its weights times its features, plus its bias. Features are standardised: "
    "counted in deviations from their mean over the training images, so weights can be compared. Orange speaks for a "
    "class, blue against it. Features that most classes share come first."
)
_MOST_ROWS, _MOST_COLUMNS = 30, 130
_MOST_CLASSES, _MOST_TERMS, _MOST_NAMED, _MOST_STRIPS = 200, 12, 6, 100
_TILES, _STRIP_QUALITY = 5, 70


@dataclass(frozen=True)
class _Weights:
    """The weights of a head by class and feature, without classes that keep their rows of the full head."""

    context: Context
    source: Source
    head: Any
    rows: Mapping[int, Mapping[int, float]]

    @cached_property
    def largest(self) -> float:
        """The size of the largest weight."""
        return max((abs(weight) for row in self.rows.values() for weight in row.values()), default=0.0) or 1.0

    @cached_property
    def users(self) -> dict[int, list[int]]:
        """The classes of each feature; features that most classes share come first, then by their classes."""
        found: dict[int, list[int]] = {}
        for number, row in self.rows.items():
            for feature in row:
                found.setdefault(feature, []).append(number)
        return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[1], item[0])))

    def called(self, feature: int) -> str:
        """The name that a feature came with, or that the page has for it."""
        is_named = self.source.results.feature_names is not None
        return feature_name(self.source, feature) if is_named else self.context.feature_name(feature)

    def cell(self, weight: float) -> str:
        """What a cell says of a weight: one decimal, or the sign alone where all have one size."""
        return f"{weight:.1f}" if self.head.scale is None else "+" if weight > 0 else "\N{MINUS SIGN}"


@dataclass(frozen=True)
class _Pictured:
    """The images that a feature responds to most, and words for them."""

    strip: Image
    alt: str


@dataclass(frozen=True)
class _Shown:
    """What is known of the features of a network: pictures of all, and of those that atlas has looked at the parts."""

    pictures: dict[int, _Pictured] = field(default_factory=dict)
    strips: dict[int, Strip] = field(default_factory=dict)


def section(context: Context) -> Section | None:
    """Make the section from sparsify, with the pictures that filters and atlas made of the same network."""
    blocks: list[Block] = []
    sources = list(context.of("sparsify"))
    looked = [*context.of("atlas"), *context.of("filters")]  # the latter show where in the image a feature fires
    found = [(shown, _pictures(context, shown)) for shown in looked] if sources else []
    for source in sources:
        pictures = _Shown()
        for shown, of_one in found:
            if _is_same_network(context, source, shown):
                pictures.pictures.update(of_one.pictures)
                pictures.strips.update(of_one.strips)
        groups = [
            Group(f"k = {head.k}: {head.method}", [*_head(context, _weights(context, source, head), pictures)])
            for head in heads_of(source)
        ]
        is_pictured = any(isinstance(block, Sum | Sentence) for group in groups for block in group.blocks)
        blocks.append(
            Group(f"{source.name}: {run_label(source)}", [*groups, Text(_hint(source, is_pictured=is_pictured))])
        )
    return Section("sums", "Classes as sums of features", _LEAD, blocks) if blocks else None


def _weights(context: Context, source: Source, head: Any) -> _Weights:
    kept = {str(number) for number in head.kept_whole}
    rows = {
        int(number): dict(zip(features, head.weights[number], strict=True))
        for number, features in head.indices.items()
        if number not in kept
    }
    if not all(math.isfinite(weight) for row in rows.values() for weight in row.values()):
        raise ValueError("a weight is infinite")
    return _Weights(context, source, head, rows)


def _head(context: Context, weights: _Weights, shown: _Shown) -> Iterator[Block]:
    yield from _said(weights)
    yield from _matrix(context, weights)
    yield _sums(weights)
    is_sentence = weights.head.scale is not None  # all terms have one size, so that a sign says enough
    known = shown.strips.keys() if is_sentence and shown.strips else shown.pictures.keys()
    pictured = [number for number, row in weights.rows.items() if row and row.keys() <= known]
    sizes = itertools.accumulate(len(weights.rows[number]) for number in pictured)
    count = sum(size <= _MOST_STRIPS for size in sizes)
    for number in pictured[:count]:
        if is_sentence and shown.strips:
            yield _sentence(context, weights, number, shown.strips)
        else:
            terms = [*_terms(context, weights, number, shown.pictures)]
            yield Sum(f"{weights.source.class_name(number)}, k = {weights.head.k}: the sum of", terms)
    if (more := len(pictured) - count) > 0:
        yield Text(f"{counted(more, 'more class', 'more classes')} would be pictured, were there room for them.")


def _said(weights: _Weights) -> Iterator[Block]:
    head, name = weights.head, weights.source.class_name
    said = []
    if head.scale is not None:
        said.append(f"Every weight has the same size, {abs(head.scale):.3g}.")
    if head.bias_alone:
        said.append(f"With their bias alone, without any feature: {_listed([name(n) for n in head.bias_alone])}.")
    if head.kept_whole:
        names = _listed([name(n) for n in head.kept_whole])
        said.append(f"Without training images, so kept with all weights of the full head and not drawn: {names}.")
    if said:
        yield Text(" ".join(said))


def _matrix(context: Context, weights: _Weights) -> Iterator[Block]:
    source, users = weights.source, weights.users
    model = source.document.model
    names = [source.class_name(number) for number in weights.rows]
    columns = [weights.called(feature).removeprefix("feature ") for feature in users]
    every = f" of {model.num_features:,}" if model is not None else ""
    caption = f"Weights, k = {weights.head.k}: {len(names):,} classes by the {len(users):,}{every} features in use"
    if len(names) <= _MOST_ROWS and len(users) <= _MOST_COLUMNS:
        cells = [
            [_cell(weights, name, feature, row.get(feature)) for feature in users]
            for name, row in zip(names, weights.rows.values(), strict=True)
        ]
        yield Grid(caption, "Class, feature", names, columns, cells, is_signed=True)
        return
    place = {feature: column for column, feature in enumerate(users)}
    values = np.zeros((len(names), len(users)))
    for line, row in enumerate(weights.rows.values()):
        for feature, weight in row.items():
            values[line, place[feature]] = float(f"{weight:.3g}")
    alt = f"Weights of {len(names)} classes by {len(users)} features; the table below says the largest."
    what = "times the standardised feature"
    labels = [weights.called(feature) for feature in users]
    raster = context.raster(caption, alt, values, (names, labels), what, is_sparse=True)
    yield raster if raster is not None else Text(f"{caption}: the picture had no room on this page.")


def _cell(weights: _Weights, name: str, feature: int, weight: float | None) -> Shade:
    if weight is None:
        return Shade("", 0, "")
    what = weights.called(feature)
    return Shade(weights.cell(weight), weight / weights.largest, f"{name}: {weight:+.3f} times {what}")


def _sums(weights: _Weights) -> Table:
    source, head = weights.source, weights.head
    shown = list(weights.rows.items())[:_MOST_CLASSES]
    cut = "" if len(shown) == len(weights.rows) else f", the first {len(shown)} of {len(weights.rows):,}"
    rows = []
    for number, row in shown:
        strongest = _strongest_first(row)
        parts = [
            f"{weight:+.2f} \N{MULTIPLICATION SIGN} {weights.called(feature)}"
            for feature, weight in strongest[:_MOST_TERMS]
        ]
        more = len(strongest) - _MOST_TERMS
        text = ", ".join(parts) + (f" and {more} more" if more > 0 else "")
        rows.append([source.class_name(number), len(row), text or "its bias alone", head.biases[number]])
    return Table(
        f"Each class as a sum, k = {head.k}{cut}",
        [Column("Class"), Column("Features"), Column("Weights, the largest first"), Column("Bias", is_signed=True)],
        rows,
        is_folded=True,
    )


def _pictures(context: Context, shown: Source) -> _Shown:
    """What a result of filters or atlas shows, by feature."""
    results = shown.results
    if shown.command == "atlas":
        strips = strips_of(context, shown)
        first = {feature: _Pictured(one.first(_TILES), one.alt(_TILES)) for feature, one in strips.items()}
        return _Shown(first, strips)
    sheet = saved_image(context, shown, results.sheet)
    if sheet is None:
        return _Shown()
    columns = max((len(one.images) for one in results.filters[:MOST_ROWS]), default=0)
    cut = filter_strips(sheet, min(len(results.filters) + len(results.others), MOST_ROWS), columns)
    return _Shown(
        {
            one.feature: _Pictured(strip, strongest_alt(context.feature_name(one.feature), strongest(one)))
            for one, strip in zip(results.filters, cut, strict=False)  # a sheet of another size has no strips
        }
    )


def _is_same_network(context: Context, source: Source, shown: Source) -> bool:
    """Whether pictures are of the network that a run left as it was, or of a checkpoint that a run on it wrote."""
    first, second = source.document.model, shown.document.model
    if first is None or second is None:
        return False
    runs = [
        run
        for run in context.of("sparsify")
        if run.document.model is not None and run.document.model.weights.sha256 == first.weights.sha256
    ]
    written = {_place(run, head.checkpoint) for run in runs for head in heads_of(run) if head.checkpoint is not None}
    return first.weights.sha256 == second.weights.sha256 or _place(shown, second.weights.source) in written


def _place(source: Source, path: str) -> Path:
    return Path(str(source.document.environment.get("working_directory", "")), path)


def _terms(context: Context, weights: _Weights, number: int, pictures: Mapping[int, _Pictured]) -> Iterator[Term]:
    source, users = weights.source, weights.users
    for feature, weight in _strongest_first(weights.rows[number]):
        others = [source.class_name(other) for other in users[feature] if other != number]
        more = f"shared with {_listed(others)}" if others else "of this class alone"
        picture = context.picture(pictures[feature].strip, pictures[feature].alt)
        factor = Shade(f"{weight:+.2f}", weight / weights.largest, "")
        yield Term(factor, f"times {weights.called(feature)}", more, picture)
    yield Term(Shade(f"{weights.head.biases[number]:+.2f}", 0, ""), "bias", "", None)


def _sentence(context: Context, weights: _Weights, number: int, strips: Mapping[int, Strip]) -> Sentence:
    """A class of a head whose weights have one size, those that speak for it first."""
    row = sorted(weights.rows[number].items(), key=lambda item: (item[1] < 0, item[0]))
    parts = [
        Part(
            "+" if weight > 0 else "\N{MINUS SIGN}",
            weights.called(feature),
            context.picture(strips[feature].first(_TILES), strips[feature].alt(_TILES), quality=_STRIP_QUALITY),
        )
        for feature, weight in row
    ]
    return Sentence(weights.source.class_name(number), parts)


def _strongest_first(row: Mapping[int, float]) -> list[tuple[int, float]]:
    return sorted(row.items(), key=lambda item: (-abs(item[1]), item[0]))


def _hint(source: Source, *, is_pictured: bool) -> str:
    """Where pictures of features come from."""
    if is_pictured:
        return "Those classes are pictured whose features are all in results of atlas and filters on this page."
    if not isinstance(source.document.dataset, DatasetInfo):
        return "These features came without a network, so there are no pictures of them."
    written = [head for head in heads_of(source) if head.checkpoint is not None]
    if not written:
        return "Pictures of features need a checkpoint, and none was written; 'decompose sparsify -o FOLDER' does."
    head = min(written, key=lambda head: abs(head.k - DEFAULT_K))
    return (
        f"For pictures of the features run 'decompose atlas -w {head.checkpoint} -o looked', and put the folder that "
        "it writes on this page too."
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
