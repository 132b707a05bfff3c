"""The section on where the network looks, and on what its filters respond to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from decompose_cli.page.blocks import Block, Column, Fold, Group, Panel, Panels, Picture, Section, Table, Text
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.page.saved import saved_image
from decompose_cli.page.sections.mistakes import said_of_reasons, taken_for
from decompose_cli.reporting.explain_plots import picture_panels
from decompose_cli.reporting.filter_plots import MOST_ROWS
from decompose_cli.storage.result_document import DatasetInfo

if TYPE_CHECKING:
    from PIL.Image import Image

_LEAD = (
    "Grad-CAM shows what raises a class's logit; the map of the class's own filters and that of all others are the two "
    "parts of the logit itself, position by position, on one scale: red speaks for the class, blue against it. "
    "Deletion says whether the highlighted places matter."
)
_MOST_ROWS, _MOST_SAID = 12, 3
_MOST_IMAGES, _MOST_MAPS = 16, 8


def section(context: Context) -> Section | None:
    """Make the section from explain and filters."""
    blocks: list[Block] = [Group(source.name, [*_explained(context, source)]) for source in context.of("explain")]
    for source in context.of("filters"):
        title = f"{source.name}, class {source.results.class_name}"
        blocks.append(Group(title, [*_filters(context, source)]))
    return Section("looking", "Where the network looks", _LEAD, blocks) if blocks else None


def _explained(context: Context, source: Source) -> Iterator[Block]:
    results = source.results
    if results.deletion:
        yield Table(
            "Loss of the predicted class's logit where the highlighted fifth of an image is deleted",
            [
                Column("Map"),
                Column("Images"),
                Column("Highlighted", 3),
                Column("Same shape elsewhere", 3),
                Column("Difference", 3, is_signed=True),
                Column("95% interval", 3, is_signed=True),
            ],
            [[d.map, d.images, d.highlighted, d.elsewhere, d.difference, d.ci95] for d in results.deletion],
        )
    yield Table(
        "Images",
        [
            Column("Image"),
            Column("Label"),
            Column("Network says"),
            Column("Probability", 3),
            Column("Decomposed head says"),
            Column("Probability", 3),
            Column("Own filters", 3, is_signed=True),
            Column("All others", 3, is_signed=True),
        ],
        [
            [e.shown, e.label_name, e.predicted_name, _probability(e), *_first(e.decomposed)]
            + ([e.sums.own, e.sums.others] if e.sums is not None else [None, None])
            for e in results.explanations
        ],
        is_folded=True,
    )
    shown = results.explanations[:_MOST_ROWS]
    crop = source.document.dataset.crop if isinstance(source.document.dataset, DatasetInfo) else ()
    made = [e.geometry(crop) for e in shown]
    pictures = [
        _picture(context, source, e, f"{_caption(e)}{f' ({geometry})' if geometry else ''}", crop)
        for e, geometry in zip(shown, made, strict=True)
    ]
    yield from (picture for picture in pictures if picture is not None)
    more = len(results.explanations) - len([picture for picture in pictures if picture is not None])
    if more > 0:
        yield Text(f"{more} of {len(results.explanations)} pictures are not on this page.")


def _first(scores: Any) -> list[Any]:
    return [scores[0].name, scores[0].probability] if scores else [None, None]


def _probability(explanation: Any) -> float | None:
    """Of the prediction; results of before say it of the head that has the same class first."""
    if explanation.probability is not None:
        return float(explanation.probability)
    for scores in (explanation.original, explanation.decomposed):
        if scores and scores[0].number == explanation.predicted:
            return float(scores[0].probability)
    return None


def _caption(explanation: Any) -> str:
    """An image and what it is taken for, as ``00456.png: cat taken for deer (71%)``."""
    probability = _probability(explanation)
    sure = "" if probability is None else f" ({100 * probability:.0f}%)"
    return f"{explanation.shown}: {taken_for(explanation.label_name, explanation.predicted_name)}{sure}"


def _picture(
    context: Context, source: Source, explanation: Any, caption: str, crop: Sequence[int]
) -> Picture | Panels | None:
    """The image and its maps one by one; the picture as it was saved where the result does not say what is in it."""
    row = saved_image(context, source, explanation.file)
    if row is None:
        return None
    name = explanation.shown
    names = ["the whole image"] * explanation.has_whole + ["what the network sees"]
    scales: list[tuple[float, float] | None] = [None] * len(names)
    for one in (explanation.maps or [])[:_MOST_MAPS]:
        names.append(one.what)
        scales.append((-one.largest if one.signed else 0.0, one.largest))
    seen = (crop[0], crop[1]) if len(crop) == 2 else (1, 1)
    sizes = [explanation.size or seen] * explanation.has_whole + [seen] * (len(names) - explanation.has_whole)
    images = picture_panels(row, sizes, has_whole=explanation.has_whole) if explanation.maps else []
    if not images:
        return context.picture(row, _alt(explanation), caption)
    panels = []
    for image, what, scale in zip(images, names, scales, strict=True):
        picture = context.picture(image, f"{name}: {what}", what)
        if picture is None:
            return None
        panels.append(Panel(picture, scale))
    return Panels(caption, panels, [*_said(explanation), *_why(context, source, explanation)])


def _said(explanation: Any) -> Iterator[str]:
    """What the heads say, the most probable classes first."""
    for head, scores in (("Full head", explanation.original), ("Decomposed head", explanation.decomposed)):
        if scores:
            said = ", ".join(f"{score.name} {100 * score.probability:.1f}%" for score in scores[:_MOST_SAID])
            yield f"{head}: {said}"


def _why(context: Context, source: Source, explanation: Any) -> Iterator[str]:
    """What does most to put the predicted class above the image's own."""
    if explanation.reasons:
        predicted, label = explanation.predicted_name, explanation.label_name
        yield f"By {said_of_reasons(context, predicted, label, explanation.reasons)}"


def _alt(explanation: Any) -> str:
    sums = explanation.sums
    parts = f" Its own filters give {sums.own:+.2f} of the logit." if sums is not None else ""
    return f"Image {_caption(explanation)}: the image, Grad-CAM, and maps of filters.{parts}"


def _filters(context: Context, source: Source) -> Iterator[Block]:
    results = source.results
    columns = [
        Column("Filter"),
        Column("Rank"),
        Column("Weight", 3, is_signed=True),
        Column("Mean over its images", 3),
        Column("Mean over others", 3),
        Column("Of the class among the top images"),
        Column("Shared with"),
    ]
    rows = [
        [
            context.feature_name(f.feature).removeprefix("feature "),
            f.rank,
            f.weight,
            f.mean,
            f.mean_elsewhere,
            f"{f.of_class} of {len(f.images)}",
            ", ".join(f.shared_with) or "no other class",
        ]
        for f in results.filters
    ]
    title = f"Filters of {results.class_name}"
    first, others = rows[:_MOST_ROWS], rows[_MOST_ROWS:]
    yield Table(f"{title}, the strongest {len(first)} of {len(rows)}" if others else title, columns, first)
    if others:
        yield Table(f"{title}, the other {len(others)}", columns, others, is_folded=True)
    if results.beside is not None:
        yield _beside(context, results)
    yield from _pictured(context, source, title)


def _pictured(context: Context, source: Source, title: str) -> Iterator[Block]:
    """The images of each filter; the picture as it was saved where the result does not say what is where in it."""
    results = source.results
    drawn = [*results.filters, *results.others][:MOST_ROWS]
    if (sheet := saved_image(context, source, results.sheet)) is None:
        yield Text("The picture of the filters is not on this page.")
        return
    if not all(_is_inside(image.box, sheet) for one in drawn for image in one.images):
        count = len(results.filters) + len(results.others)
        alt = f"The images that each filter of {results.class_name} responds to most, with the places."
        caption = f"{title}, the first {len(drawn)} of {count}" if len(drawn) < count else title
        whole = context.picture(sheet, alt, caption)
        if whole is not None:
            yield whole
        return
    rows = [_row(context, source, sheet, one, is_own=place < len(results.filters)) for place, one in enumerate(drawn)]
    there = [row for row in rows if row is not None]
    yield from there[:_MOST_ROWS]
    if there[_MOST_ROWS:]:
        yield Fold(f"{title}: pictures of {len(there) - _MOST_ROWS} more", there[_MOST_ROWS:])


def _row(context: Context, source: Source, sheet: Image, one: Any, *, is_own: bool) -> Panels | None:
    name = context.feature_name(one.feature)
    panels: list[Panel] = []
    for image in one.images[:_MOST_IMAGES]:
        what = f"{image.name or image.image}: {image.label_name} {image.value:.2f}"
        picture = context.picture(sheet.crop(image.box), f"{name}, strongest: {what}", what)
        if picture is None:
            return None
        panels.append(Panel(picture, None if panels else one.scale))
    if is_own:
        others = ", ".join(one.shared_with)
        weight = "" if one.weight is None else f", weight {one.weight:+.3f}"
        caption = f"{one.rank}. {name}{weight}, {f'shared with {others}' if others else 'of this class alone'}"
    else:
        caption = f"{name}, of {source.results.beside.class_name} and not of {source.results.class_name}"
    return Panels(caption, panels, is_small=True)


def _is_inside(box: tuple[int, int, int, int] | None, sheet: Image) -> bool:
    if box is None:
        return False
    left, top, right, bottom = box
    return 0 <= left < right <= sheet.width and 0 <= top < bottom <= sheet.height


def _beside(context: Context, results: Any) -> Table:
    """Two classes beside each other, the features that tell them apart best first."""
    first, found = results.class_name, results.beside
    second = found.class_name
    who = {"both": "both", "first": first, "second": second}
    return Table(
        f"{first} beside {second}: {found.both} in common, {found.only_first} of {first} alone, {found.only_second} of "
        f"{second} alone",
        [
            Column("Filter"),
            Column("Used by"),
            *(Column(f"To {to}, on {on}", 3, is_signed=True) for to in (first, second) for on in (first, second)),
            Column("Apart", 3, is_signed=True),
        ],
        [
            [
                context.feature_name(one.feature).removeprefix("feature "),
                who[one.used_by],
                one.to_first.first,
                one.to_first.second,
                one.to_second.first,
                one.to_second.second,
                one.apart,
            ]
            for one in found.features
        ],
        is_folded=len(found.features) > _MOST_ROWS,
    )
