"""The section on misclassified images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.errors import DecomposeError
from decompose_cli.page.blocks import Block, Column, Gallery, Group, Picture, Section, Table, Text
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.storage.files import user_path
from decompose_cli.storage.result_document import FeaturesInfo

if TYPE_CHECKING:
    from decompose_cli.datasets.base import ImageDataset
    from decompose_cli.decomposition.reasons import Reason

_LEAD = (
    "The most confident errors come first; where there are two heads, the images that only the full head gets right "
    "come before them. A number is the image's place in its split, counted from 0."
)
_WHY = (
    " The feature that is named does most to put the predicted class above the image's own; in brackets is what it "
    "adds to the logits of both."
)
_ABSENT = "The images are not at hand where the result says, or have changed since."
_SIDE = 96


def section(context: Context) -> Section | None:
    """Make the section from validate; its images are looked up in their data set."""
    blocks: list[Block] = []
    for source in context.of("validate"):
        if source.results.mistakes:
            blocks.append(Group(source.name, [*_blocks(context, source)]))
    has_reasons = any(one.reasons for source in context.of("validate") for one in source.results.mistakes)
    return Section("mistakes", "Misclassified images", _LEAD + _WHY * has_reasons, blocks) if blocks else None


def _blocks(context: Context, source: Source) -> Iterator[Block]:
    mistakes = source.results.mistakes
    pictures: list[Picture] = []
    if context.has_images and type(source.document.dataset) is not FeaturesInfo:
        try:
            dataset = _dataset(source)
        except (DecomposeError, OSError, ValueError):  # other images in their place are nothing for this page
            yield Text(_ABSENT)
        else:
            pictures = [picture for picture in (_picture(context, source, dataset, m) for m in mistakes) if picture]
    if pictures:
        yield Gallery(f"{len(pictures)} misclassified images", pictures)
    name, has_reasons = source.class_name, any(mistake.reasons for mistake in mistakes)
    used = source.results.decomposed or source.results.original
    wrong = source.results.total - used.correct if used is not None else len(mistakes)
    yield Table(
        f"{len(mistakes)} of {wrong:,} misclassified images, as a table",
        [
            Column("Image"),
            Column("File"),
            Column("Class"),
            Column("Full head says"),
            Column("Probability", 3),
            Column("Decomposed head says"),
            Column("Probability", 3),
            *([Column("Why: what features add to the logits")] if has_reasons else []),
        ],
        [
            [str(m.image), m.name, name(m.label)]
            + [
                value
                for guess in (m.original, m.decomposed)
                for value in ((name(guess.predicted), guess.probability) if guess is not None else (None, None))
            ]
            + ([_why(context, source, m, m.reasons) or None] if has_reasons else [])
            for m in mistakes
        ],
        is_folded=bool(pictures),
    )


def _dataset(source: Source) -> ImageDataset:
    """Open the images that the result is about, if they still are what they were.

    Raises:
        DecomposeError: The images are elsewhere, have changed, or would have to be downloaded.
    """
    from decompose_cli.datasets.kinds import seen_from
    from decompose_cli.datasets.registry import default_data_dir, open_dataset
    from decompose_cli.datasets.source import parse_columns

    about, arguments = source.document.dataset, source.document.arguments
    if about is None:
        raise DecomposeError("the result does not say which they are.")
    base = Path(str(source.document.environment.get("working_directory", ".")))
    columns = arguments.get("columns")
    given = arguments.get("data_dir")
    data_dir = user_path(given) if isinstance(given, str) else default_data_dir()
    if not data_dir.is_dir() and not data_dir.is_absolute():
        data_dir = base / data_dir
    dataset = open_dataset(
        seen_from(about.name, base),
        about.split,
        data_dir,
        allow_download=False,
        columns=parse_columns(columns if isinstance(columns, str) else None),
    )
    if not dataset.has_fingerprint(about.fingerprint):
        raise DecomposeError(f"those of {about.name} {about.split} have changed since.")
    return dataset


def _picture(context: Context, source: Source, dataset: ImageDataset, mistake: Any) -> Picture | None:
    if not 0 <= mistake.image < len(dataset):
        return None
    try:
        image = dataset.image(mistake.image).convert("RGB")
    except (DecomposeError, OSError):
        return None
    image.thumbnail((_SIDE, _SIDE))
    used = mistake.decomposed or mistake.original
    text = f"{mistake.name or f'image {mistake.image}'}: "
    text += taken_for(source.class_name(mistake.label), source.class_name(used.predicted))
    text += f" ({100 * used.probability:.0f}%)"
    if mistake.reasons:
        text += f" by {_why(context, source, mistake, mistake.reasons[:1])}"
    if mistake.decomposed is not None and mistake.original is not None:
        text += f"; the full head says {source.class_name(mistake.original.predicted)}"
    return context.picture(image, text, text)


def _why(context: Context, source: Source, mistake: Any, reasons: Sequence[Reason]) -> str:
    used = mistake.decomposed or mistake.original
    return said_of_reasons(context, source.class_name(used.predicted), source.class_name(mistake.label), reasons)


def said_of_reasons(context: Context, predicted: str, label: str, reasons: Sequence[Reason]) -> str:
    """What does most to put the predicted class above the image's own, as ``feature 49 (dog +3.83, cat +1.20)``."""

    def given(name: str, value: float | None) -> str:
        return f"not of {name}" if value is None else f"{name} {value:+.2f}"

    return "; ".join(
        f"{context.feature_name(one.feature)} ({given(predicted, one.to_predicted)}, {given(label, one.to_label)})"
        for one in reasons
    )


def taken_for(label: str | None, predicted: str) -> str:
    """What an image is and what it is taken for, in words."""
    if label is None:
        return f"taken for {predicted}"
    return f"{label} recognised" if label == predicted else f"{label} taken for {predicted}"
