"""The section in which features of classes are switched off and on, and the page says what becomes of the accuracy."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decompose_cli.errors import DecomposeError
from decompose_cli.page.blocks import Block, Fold, Group, Live, Section, Text
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from torch import Tensor

    from decompose_cli.decomposition.index_set import Layout
    from decompose_cli.decomposition.live_head import LiveHead

_LEAD = (
    "Switch a feature of a class off or on, or give every class its first k: the page computes the head anew on the "
    "images of the result. What is found so was chosen on these very images; it says what a feature does, and is no "
    "estimate for others."
)
_MOST_STARTS = 4
_BY_HAND = "chosen by hand on these {split} images"


@dataclass(frozen=True)
class _Start:
    """A head that a result measured: the features of each class (None for a head with its own), and its figures."""

    source: Source
    what: str
    layout: Layout | None
    correct: int
    confusion: Any = None
    full_confusion: Any = None

    @property
    def title(self) -> str:
        """What the page calls it."""
        return f"{self.source.name}: {self.what}"


def section(context: Context) -> Section | None:
    """Make the section from validate and sweep, where the features of their images are in the cache."""
    starts = [*_starts(context)]
    if not context.is_live or not starts:
        return None
    blocks: list[Block] = []
    sentences: list[str] = []
    seen: list[object] = []
    left = len({repr(_identity(start)) for start in starts})
    for start in starts:
        identity = _identity(start)
        if identity in seen:
            continue
        if len(seen) == _MOST_STARTS:
            sentences.append(f"Left out for {start.title}: the page has {_MOST_STARTS} such heads already.")
            continue
        found, why = _live(context, start, max(1, min(left, _MOST_STARTS - len(seen))))
        if found is None:
            sentences.append(f"Left out for {start.title}: {why}")
            continue
        seen.append(identity)
        left -= 1
        blocks.append(Fold(start.title, [found]) if blocks else Group(start.title, [found]))
    is_open = bool(blocks)
    return Section("what-if", "What if", _LEAD, [*blocks, *map(Text, sentences)], is_open=is_open)


def _starts(context: Context) -> Iterator[_Start]:
    for source in context.of("validate"):
        results = source.results
        if results.decomposed is None or results.indices is None:
            continue
        cut = results.indices.features if results.original is not None and _is_cut(source) else None
        low, high = results.indices.k
        size = counted(low, "feature") if low == high else f"{low} to {high} features"
        full = None if results.original is None else results.original.confusion
        decomposed = results.decomposed
        yield _Start(source, f"{size} per class", cut, decomposed.correct, decomposed.confusion, full)
    for source in context.of("sweep"):
        chosen = source.results.chosen
        if chosen is not None:
            yield _Start(source, "the chosen set", chosen.indices, chosen.reported_on.correct)


def _is_cut(source: Source) -> bool:
    """Whether the head was cut by an index set, and has no features of its own."""
    return source.command == "sweep" or source.document.arguments.get("indices") is not None


def _identity(start: _Start) -> object:
    """What tells a head and its images from others."""
    document = start.source.document
    weights = document.model.weights.sha256 if document.model is not None else ""
    images = None if document.dataset is None else document.dataset.model_dump(exclude={"name", "classes"})
    rows = None if start.layout is None else {name: sorted(row) for name, row in start.layout.items()}
    return weights, images, document.arguments.get("precision"), rows


def _live(context: Context, start: _Start, share: int) -> tuple[Live | None, str]:
    """The head as a block, with its share of the room that is left; else None, and why there is none."""
    from decompose_cli.decomposition.index_set import index_set_from_json
    from decompose_cli.decomposition.live_head import Figures, live_head
    from decompose_cli.features.recalled import recalled

    document, is_cut = start.source.document, _is_cut(start.source)
    if document.model is None:
        return None, "the result names no network."
    if is_cut and start.layout is None:
        return None, "the result was written by an earlier version, and does not say the features of each class."
    try:
        index_set = None
        if start.layout is not None:
            index_set = index_set_from_json(start.layout, "its set", document.model.num_features)  # no path
        figures = Figures(start.correct, start.confusion, start.full_confusion)
        for found in recalled(document):
            made = live_head(found, index_set, context.room_for_live // share, figures)
            if made is not None:
                data = _data(context, start, made, is_cut=is_cut)
                context.take_live(data)
                return Live(_caption(made), data), ""
    except DecomposeError as error:
        return None, error.sentence
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        return None, f"what is in it does not fit together ({type(error).__name__})."
    return None, "the features of its images are not in the cache; the command that wrote the result puts them there."


def _caption(made: LiveHead) -> str:
    images = f"On all {made.total:,} images of the result."
    if made.images < made.total:
        images = f"On {made.images:,} of the {made.total:,} images of the result, the same share of each class."
    if made.best_other is None:
        return images
    if len(made.classes) + len(made.whole) == made.num_classes:
        return f"{images} The {counted(len(made.classes), 'class', 'classes')} without all features can change."
    return f"{images} The {len(made.classes)} classes that lose most can change."


def _data(context: Context, start: _Start, made: LiveHead, *, is_cut: bool) -> dict[str, object]:
    """What the script of the page computes with; arrays are base64 of little-endian numbers, rows first."""
    import numpy as np

    document, name = start.source.document, start.source.class_name
    assert document.model is not None
    assert document.dataset is not None
    of_classes = [name(number) for number in made.classes]
    other: Mapping[str, object] | None = None
    if made.best_other is not None:
        value, number = made.best_other
        other = {"value": _packed(value, np.float32), "class": _packed(number, np.uint32)}
        other["names"] = {str(n): name(n) for n in sorted(set(number.tolist()) | set(made.labels.tolist()))}
    return {
        "caption": start.title,
        "names": of_classes,
        "classes": list(made.classes),
        "features": list(made.features),
        "featureNames": [context.feature_name(feature).removeprefix("feature ") for feature in made.features],
        "weight": _packed(made.weight, np.float32),
        "open": _packed(made.is_open, np.uint8),
        "order": [list(row) for row in made.order],
        "sizes": list(made.sizes),
        "labels": _packed(made.labels, np.uint32),
        "logits": _packed(made.logits, np.float32),
        "other": other,
        "levels": _packed(made.levels, np.uint8),
        "values": _packed(made.values, np.float32),
        "errors": _packed(made.errors, np.uint8),
        "errorStep": made.error_step.tolist(),
        "full": None if made.full is None else made.full.tolist(),
        "images": made.images,
        "total": made.total,
        "correct": made.correct,
        "file": _file(start, made) if is_cut else None,
    }


def _file(start: _Start, made: LiveHead) -> dict[str, object]:
    """The index file, but for the features of the classes that can be changed."""
    from decompose_cli.decomposition.index_set import ALL, FORMAT, FORMAT_VERSION, WITH_WHOLE_CLASSES

    document = start.source.document
    assert document.model is not None
    assert document.dataset is not None
    rows = [ALL if number in made.whole else list(made.rest.get(number, ())) for number in range(made.num_classes)]
    dataset = document.dataset
    provenance: dict[str, Any] = {
        "command": "report",
        "method": _BY_HAND.format(split=dataset.split),
        "model": {"name": document.model.name, "weights": document.model.weights.model_dump()},
        "dataset": {"name": dataset.name, "split": dataset.split, "fingerprint": dataset.fingerprint},
        "images": made.images,
    }
    return {
        "format": FORMAT,
        "format_version": WITH_WHOLE_CLASSES if made.whole else FORMAT_VERSION,
        "num_features": made.num_features,
        "provenance": provenance,
        "classes": rows,
    }


def _packed(values: Tensor, kind: Any) -> str:
    import numpy as np

    return base64.b64encode(values.numpy().astype(np.dtype(kind).newbyteorder("<")).tobytes()).decode()
