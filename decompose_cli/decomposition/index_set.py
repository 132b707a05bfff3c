"""The features that each class uses: one type, one reader for every layout, one writer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from decompose_cli.errors import InputError, param
from decompose_cli.models.bias_alone import say_bias_alone
from decompose_cli.storage.files import file_stem, given_file, sha256_of, user_path, write_text
from decompose_cli.storage.text_files import read_json

MOST_FEATURES = 1_000_000
"""Features that a network may have, far beyond any that there is."""
FORMAT = "decompose-index-set"
FORMAT_VERSION = 1
WITH_WHOLE_CLASSES = 2
"""Version of documents in which ``all`` stands for all features of a class."""
ALL: Literal["all"] = "all"
Layout = dict[str, list[int] | Literal["all"]]
"""Features by class number, as text; ``all`` for a class that keeps its whole row of the full head."""


@dataclass(frozen=True)
class IndexSet:
    """For each class the indices of the penultimate features that it uses; classes may use different numbers of them.

    A class without any index has its bias alone.

    Attributes:
        classes: One tuple of feature indices per class, in the order of the classes.
        num_features: Number of features D, or None if unknown (published files do not say).
        provenance: Origin of the set; free-form, written to and read from our own document.
        source: Name of the set in messages, usually the file that it was read from.
        whole: Numbers of classes that keep their whole row of the full head, as there was no image to choose features
            by; they have all features, in their order.

    Raises:
        InputError: There is no class, no class has an index, or an index is not a whole number, is negative or not
            below ``num_features``, or stands twice in its class; or a class that is whole lacks a feature. The sentence
            names source, class and value.
    """

    classes: tuple[tuple[int, ...], ...]
    num_features: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)
    source: str = field(default="index set", compare=False)
    whole: frozenset[int] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        if not self.classes:
            raise InputError(f"{self.source} has no classes.")
        if not any(self.classes):
            raise InputError(f"{self.source} has no indices: every class is empty.")
        everything = tuple(range(self.num_features or 0)) if self.whole else ()
        for number, indices in enumerate(self.classes):
            if number in self.whole and indices != everything:
                raise InputError(f"{self.source}: class {number} keeps its whole row, but has not all features.")
            if number in self.whole:
                continue
            seen: set[int] = set()
            for index in indices:
                self._check_index(number, index, seen)
                seen.add(index)

    def _check_index(self, number: int, index: Any, seen: set[int]) -> None:
        if isinstance(index, bool) or not isinstance(index, int):
            raise InputError(f"{self.source}: class {number} has {_shown(index)}, which is not a whole number.")
        if index < 0 or (self.num_features is not None and index >= self.num_features):
            limit = "no feature" if self.num_features is None else f"not one of 0 to {self.num_features - 1}"
            raise InputError(f"{self.source}: class {number} has the index {_shown(index)}, which is {limit}.")
        if index in seen:
            raise InputError(f"{self.source}: class {number} has the index {index} twice.")

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.classes)

    @property
    def largest_k(self) -> int:
        """The largest number of indices of a class that is not whole."""
        return self.sizes[1]

    @property
    def sizes(self) -> tuple[int, int]:
        """The smallest and the largest number of indices of a class that is not whole."""
        counts = self._counts
        return min(counts), max(counts)

    @property
    def _counts(self) -> list[int]:
        chosen = [len(indices) for number, indices in enumerate(self.classes) if number not in self.whole]
        return chosen or [len(indices) for indices in self.classes]

    @property
    def k_label(self) -> str:
        """The number of indices per class as text: ``5``, or ``2-7`` where classes differ."""
        low, high = self.sizes
        return str(low) if low == high else f"{low}-{high}"

    @property
    def is_ragged(self) -> bool:
        """Whether classes have different numbers of indices."""
        return len({len(indices) for indices in self.classes}) > 1

    def spread(self, num_classes: int, numbers: Sequence[int]) -> IndexSet:
        """The set as one of C = ``num_classes`` classes: its own have these numbers, and all others are whole.

        Its number of features is known.
        """
        assert self.num_features is not None
        rows = [tuple(range(self.num_features))] * num_classes
        whole = set(range(num_classes))
        for number, row in zip(numbers, self.classes, strict=True):
            rows[number] = row
            whole.remove(number)
        whole |= {numbers[place] for place in self.whole}
        return replace(self, classes=tuple(rows), whole=frozenset(whole))

    def of_classes(self, numbers: Sequence[int]) -> IndexSet:
        """The set of some of its classes, which have the numbers 0, 1, ... in it."""
        whole = frozenset(place for place, number in enumerate(numbers) if number in self.whole)
        return replace(self, classes=tuple(self.classes[number] for number in numbers), whole=whole)

    def fitted_to(self, num_classes: int, num_features: int) -> IndexSet:
        """Check the set against a head with C = ``num_classes`` and D = ``num_features``, and return it with that D.

        Raises:
            InputError: The set belongs to a head of another size.
        """
        if self.num_classes != num_classes:
            hint = f"A set of the classes with images alone goes with {param('classes')} present."
            raise InputError(
                f"{self.source} has {self.num_classes} classes, but the network has {num_classes}.",
                hint=hint if self.num_classes < num_classes else None,
            )
        if self.num_features not in (None, num_features):
            raise InputError(f"{self.source} is for {self.num_features} features, but the network has {num_features}.")
        return replace(self, num_features=num_features)

    def published_layout(self) -> Layout:
        """``{"0": [7, 23, ...], ...}``, the layout of the authors' files, with ``all`` for classes that are whole."""
        rows = enumerate(self.classes)
        return {str(number): ALL if number in self.whole else list(indices) for number, indices in rows}


def read_index_set(path: Path) -> IndexSet:
    """Read an index file: the published mapping, a list of lists, our own document, or an extraction's result.

    The order inside a published file carries no rank (the file for k = 5 lists the least frequent features first, those
    for k = 10 and 20 the most frequent), so a file is only ever used whole. A note names classes without any index.

    Raises:
        InputError: The file is missing, not JSON, of another layout, or its content is invalid.
    """
    hint = f"Are {param('indices')} and {param('weights')} swapped?"
    index_set = index_set_from_json(read_json(path, "The index file", hint), str(path))
    say_bias_alone(index_set.classes, index_set.source)
    return index_set


def index_set_from_json(content: Any, source: str, num_features: int | None = None) -> IndexSet:
    """Make an index set from parsed JSON of any layout; the errors are those of :func:`read_index_set`.

    Args:
        content: The JSON.
        source: What the set is called in messages.
        num_features: Number of features, where it is known beside the content.
    """
    provenance: Mapping[str, Any] = {}
    if isinstance(content, dict) and "schema_version" in content:
        content, num_features, provenance = _open_result(content, source)
    elif isinstance(content, dict) and "format" in content:
        content, num_features, provenance = _open_document(content, source)
    if isinstance(content, dict):
        rows = _rows_of_mapping(content, source)
    elif isinstance(content, list):
        rows = content
    else:
        raise InputError(f"{source} holds {_shown(content)}, not a mapping of classes to indices.")
    whole = [number for number, row in enumerate(rows) if isinstance(row, str) and row == ALL]
    if whole and num_features is None:
        raise InputError(f"{source}: class {whole[0]} has all features, but the file does not say how many there are.")
    if whole and num_features is not None and num_features > MOST_FEATURES:
        raise InputError(f"{source}: num_features is {num_features:,}; no network has so many.")
    everything = tuple(range(num_features or 0)) if whole else ()
    for number, row in enumerate(rows):
        if not isinstance(row, list) and not (isinstance(row, str) and row == ALL):
            raise InputError(f"{source}: class {number} has {_shown(row)}, not a list of indices.")
    classes = tuple(tuple(row) if isinstance(row, list) else everything for row in rows)
    if len(whole) == len(classes) > 0:
        raise InputError(f"{source} has all features of every class, so none were chosen.")
    return IndexSet(classes, num_features, provenance, source, frozenset(whole))


def split_name(text: str, parameter: str | None, what: str = "FILE") -> tuple[str, str]:
    """Read ``NAME=FILE``; without a name, or where the whole text is a file, the name is the file's stem.

    Args:
        text: What was given.
        parameter: The parameter that took it; None for an argument, which has no name.
        what: What is named.

    Raises:
        InputError: The name or the file is empty.
    """
    name, sign, rest = text.partition("=")
    if not sign or "/" in name or user_path(text).exists():
        name, rest = file_stem(user_path(text).stem), text
    if not name.strip() or not rest.strip():
        start = "" if parameter is None else f"{param(parameter)} "
        raise InputError(f"{start}{text!r} is neither {what} nor NAME={what}.")
    return name.strip(), rest


@dataclass(frozen=True)
class NamedSet:
    """An index set with the name that results give it, and the hash of its file, where it has one."""

    name: str
    index_set: IndexSet
    sha256: str | None = None

    def __str__(self) -> str:
        """As it would be typed."""
        return f"{self.name}={self.index_set.source}"


def read_named(given: str | NamedSet, parameter: str) -> NamedSet:
    """Read ``NAME=FILE`` or ``FILE``, unless it is an index set already.

    Raises:
        InputError: The text has no such form, or the file is no index file.
    """
    if isinstance(given, NamedSet):
        return given
    name, file = split_name(given, parameter)
    path = given_file(file, parameter)
    index_set = read_index_set(path)
    return NamedSet(name, index_set, sha256_of(path))


def write_index_set(path: Path, index_set: IndexSet, *, document: bool = False) -> None:
    """Write an index file with the content that :func:`index_set_text` makes.

    Raises:
        DecomposeError: The file cannot be written; nothing is left behind.
    """
    write_text(path, index_set_text(index_set, document=document))


def index_set_text(index_set: IndexSet, *, document: bool = False) -> str:
    """The content of an index file: the published layout, or our own document with D and provenance.

    A set with classes that are whole is always a document: the published layout has no D that ``all`` could stand for.
    """
    content: dict[str, Any] = dict(index_set.published_layout())
    if document or index_set.whole:
        content = {
            "format": FORMAT,
            "format_version": WITH_WHOLE_CLASSES if index_set.whole else FORMAT_VERSION,
            "num_features": index_set.num_features,
            "provenance": dict(index_set.provenance),
            "classes": list(content.values()),
        }
    return json.dumps(content, allow_nan=False) + "\n"


def _open_result(content: dict[str, Any], source: str) -> tuple[Any, int | None, Mapping[str, Any]]:
    """The indices in the result document of an extraction."""
    results = content.get("results")
    if content.get("command") != "extract-indices" or not isinstance(results, dict):
        raise InputError(f"{source} is a result document of {_shown(content.get('command'))}, not an index file.")
    if len(results) != 1:
        raise InputError(
            f"{source} is a result document with the indices for k = {', '.join(results)}.",
            hint="Give one of the index files that were written with it.",
        )
    (extracted,) = results.values()
    if not isinstance(extracted, dict) or not isinstance(extracted.get("indices"), dict):
        raise InputError(f"{source} is a result document without indices.")
    model, dataset = content.get("model"), content.get("dataset")
    part = dataset.get("part") if isinstance(dataset, dict) else None
    provenance = {} if part is None else {"part": part}  # what an index file says of it
    if not isinstance(model, dict):
        return extracted["indices"], None, provenance
    num_features = _stated_features(model.get("num_features"), source)
    return extracted["indices"], num_features, {"model": model, **provenance}


def _open_document(content: dict[str, Any], source: str) -> tuple[Any, int | None, Mapping[str, Any]]:
    if content["format"] != FORMAT:
        raise InputError(f"{source} is a {_shown(content['format'])} file, not an index set.")
    version = content.get("format_version")
    known = (FORMAT_VERSION, WITH_WHOLE_CLASSES)
    if isinstance(version, bool) or not isinstance(version, int) or version not in known:
        raise InputError(
            f"{source} has format version {_shown(version)}; this program reads versions {FORMAT_VERSION} and "
            f"{WITH_WHOLE_CLASSES}."
        )
    num_features, provenance = _stated_features(content.get("num_features"), source), content.get("provenance", {})
    if not isinstance(provenance, dict):
        raise InputError(f"{source}: provenance is {_shown(provenance)}, not a mapping.")
    if not isinstance(content.get("classes"), list):
        raise InputError(f"{source} has no list of classes.")
    return content["classes"], num_features, provenance


def _stated_features(value: Any, source: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{source}: num_features is {_shown(value)}, not a whole number.")
    if not 1 <= value <= MOST_FEATURES:
        raise InputError(f"{source}: num_features is {_shown(value)}, not between 1 and {MOST_FEATURES:,}.")
    return value


def _rows_of_mapping(content: dict[str, Any], source: str) -> Sequence[Any]:
    expected = [str(number) for number in range(len(content))]
    if set(content) != set(expected):
        unexpected = sorted(set(content) - set(expected))
        raise InputError(
            f"{source} has {len(content)} classes, so they must be numbered 0 to {len(content) - 1}, "
            f"but {_shown(unexpected[0])} is there."
        )
    return [content[number] for number in expected]


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value) if not isinstance(value, str) else repr(value)
    except RecursionError:  # nested as deeply as the parser just allows
        text = f"a nested {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "..."
