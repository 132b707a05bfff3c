"""The section with every feature that classes use: what it responds to, who uses it, and what is lost without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decompose_cli.page.blocks import Atlas, Block, Column, Entry, Group, Lines, Section, Table, Text
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.page.saved import saved_image
from decompose_cli.printable import counted
from decompose_cli.reporting.atlas_sheet import atlas_strips

if TYPE_CHECKING:
    from PIL.Image import Image

_LEAD = (
    "A filter is one penultimate feature. Each row is one that some class uses, with the places of the test images "
    "that it responds to most; those without which most is lost come first. A rank is the place of the feature among "
    "those of the class by what it gives, weight times mean over the images of the class. Lost: what changes where "
    "this feature alone is left out of all classes that use it. Class selectivity is 1 for a feature that responds to "
    "one class only, and 0 for one that responds to all alike."
)
_COLUMNS = ("Filter", "Used by", "Lost without it", "Worst class", "Class selectivity", "Strongest of its classes")
_SIDE = 48
_MANY, _QUALITY, _LOWER_QUALITY = 100, 75, 55
_MOST_USERS, _MOST_ENTRIES = 6, 300
_MOST_LOSSES = 1000


@dataclass(frozen=True)
class Strip:
    """The parts of images that a feature responds to most, beside each other; what each is, and what the feature is."""

    image: Image
    name: str
    words: Sequence[str]

    def alt(self, count: int) -> str:
        """Words for the first of them."""
        return strongest_alt(self.name, self.words[:count])

    def first(self, count: int) -> Image:
        """The first of them, each 48 pixels wide."""
        tiles = min(count, self.image.width // self.image.height)
        cut = self.image.crop((0, 0, tiles * self.image.height, self.image.height))
        return cut.resize((tiles * _SIDE, _SIDE))


def section(context: Context) -> Section | None:
    """Make the section from atlas."""
    blocks: list[Block] = [Group(source.name, [*_blocks(context, source)]) for source in context.of("atlas")]
    return Section("atlas", "Atlas of filters", _LEAD, blocks) if blocks else None


def strips_of(context: Context, source: Source) -> dict[int, Strip]:
    """The pictures of a result of atlas, by feature; none where its picture is not there."""
    features = source.results.features
    sheet = saved_image(context, source, source.results.sheet)
    strips = [] if sheet is None else atlas_strips(sheet, [len(one.images) for one in features])
    return {
        one.feature: Strip(strip, context.feature_name(one.feature), strongest(one))
        for one, strip in zip(features, strips, strict=False)  # a sheet of another size has no strips
        if one.images
    }


def strongest_alt(name: str, images: Sequence[str]) -> str:
    """Words for a picture of the images that a feature responds to most."""
    return f"Images with the most of {name}: {', '.join(images)}"


def strongest(one: Any) -> list[str]:
    """The images that a feature responds to most, in words."""
    return [f"{image.label_name} {image.value:.2f}" for image in one.images]


def _blocks(context: Context, source: Source) -> Iterator[Block]:
    results = source.results
    of = f" of {', '.join(results.classes)}" if results.classes else ""
    yield Text(
        f"{counted(len(results.features), 'feature')}{of}. With all of them {results.head.correct:,} of "
        f"{results.total:,} images are right. Intervals are 95%, for each filter by itself; those of classes hold for "
        "all classes of a filter together."
    )
    if results.kept_whole:
        kept = ", ".join(results.kept_whole[:_MOST_USERS]) + (", ..." if len(results.kept_whole) > _MOST_USERS else "")
        yield Text(f"Classes that keep all features, as they had no training images, are not among the users: {kept}.")
    strips = strips_of(context, source)
    entries = [_entry(context, source, one, strips) for one in results.features[:_MOST_ENTRIES]]
    if (more := len(results.features) - len(entries)) > 0:
        yield Text(f"Not on this page: {counted(more, 'feature')} without which less is lost.")
    yield Atlas(f"Filters{of}", "filters", _COLUMNS, entries)
    if any(entry.picture is None for entry in entries):
        yield Text("Pictures of filters are missing here, as they are not beside the result or had no room.")
    yield _losses(context, source)
    if any(len(one.used_by) > _MOST_USERS for one in results.features):
        yield _users(context, source)


def _entry(context: Context, source: Source, one: Any, strips: Mapping[int, Strip]) -> Entry:
    picture = None
    if (strip := strips.get(one.feature)) is not None:
        quality = _QUALITY if len(source.results.features) <= _MANY else _LOWER_QUALITY
        count = len(one.images)
        picture = context.picture(strip.first(count), strip.alt(count), quality=quality)
    lost = one.lost
    low, high = lost.ci95
    users = [f"{use.class_name} {use.weight:+.2f}, rank {use.rank}" for use in one.used_by[:_MOST_USERS]]
    if (more := len(one.used_by) - _MOST_USERS) > 0:
        users.append(f"and {counted(more, 'more class', 'more classes')}")
    selectivity = "\N{EN DASH}" if one.selectivity is None else f"{one.selectivity:.2f}"
    return Entry(
        context.feature_name(one.feature),
        one.feature,
        picture,
        [
            Lines(users, len(one.used_by)),
            Lines(
                [f"{lost.points:+.2f} points", f"{low:+.2f} to {high:+.2f}", f"{lost.correct:,} right"],
                lost.points,
            ),
            _worst(source, lost.worst_class),
            Lines([selectivity], one.selectivity),
            Lines([f"{one.of_users} of {len(one.images)}"], one.of_users),
        ],
        [use.class_name for use in one.used_by],
    )


def _users(context: Context, source: Source) -> Table:
    found = [(one, use) for one in source.results.features for use in one.used_by]
    cut = f", the first {_MOST_LOSSES:,} of {len(found):,}" if len(found) > _MOST_LOSSES else ""
    return Table(
        f"Every class that uses a filter{cut}",
        [Column("Filter"), Column("Class"), Column("Weight", 3, is_signed=True), Column("Rank")],
        [
            [context.feature_name(one.feature), use.class_name, use.weight, use.rank]
            for one, use in found[:_MOST_LOSSES]
        ],
        is_folded=True,
    )


def _worst(source: Source, worst: Any) -> Lines:
    if worst is None:
        return Lines(["none loses"], 0.0)
    low, high = worst.ci95
    lines = [
        f"{source.class_name(worst.number)} {worst.points:+.1f} points",
        f"{low:+.1f} to {high:+.1f}",
        f"{worst.after:,} instead of {worst.before:,} of {worst.images:,}",
    ]
    return Lines(lines, worst.points)


def _losses(context: Context, source: Source) -> Table:
    found = [(one, loss) for one in source.results.features for loss in one.lost.classes]
    found.sort(key=lambda pair: pair[1].points)
    cut = f", the {_MOST_LOSSES:,} largest of {len(found):,}" if len(found) > _MOST_LOSSES else ""
    return Table(
        f"What each class loses or gains without a filter{cut}",
        [
            Column("Filter"),
            Column("Class"),
            Column("Images"),
            Column("Right with it"),
            Column("Right without it"),
            Column("Points", is_signed=True),
            Column("95% interval", is_signed=True),
        ],
        [_loss(context, source, one, loss) for one, loss in found[:_MOST_LOSSES]],
        is_folded=True,
    )


def _loss(context: Context, source: Source, one: Any, loss: Any) -> Sequence[Any]:
    name = context.feature_name(one.feature)
    return [name, source.class_name(loss.number), loss.images, loss.before, loss.after, loss.points, loss.ci95]
