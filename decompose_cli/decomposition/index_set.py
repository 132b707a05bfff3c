"""The features that each class uses: one type, one reader for every layout, one writer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decompose_cli.errors import InputError, param
from decompose_cli.models.bias_alone import say_bias_alone
from decompose_cli.storage.files import file_stem, read_json, user_path, write_text

FORMAT = "decompose-index-set"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class IndexSet:
    """For each class the indices of the penultimate features that it uses; classes may use different numbers of them.

    A class without any index has its bias alone.

    Attributes:
        classes: One tuple of feature indices per class, in the order of the classes.
        num_features: Number of features D, or None if unknown (published files do not say).
        provenance: Origin of the set; free-form, written to and read from our own document.
        source: Name of the set in messages, usually the file that it was read from.

    Raises:
        InputError: There is no class, no class has an index, or an index is not a whole number, is negative or not
            below ``num_features``, or stands twice in its class. The sentence names source, class and value.
    """

    classes: tuple[tuple[int, ...], ...]
    num_features: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)
    source: str = field(default="index set", compare=False)

    def __post_init__(self) -> None:
        if not self.classes:
            raise InputError(f"{self.source} has no classes.")
        if not any(self.classes):
            raise InputError(f"{self.source} has no indices: every class is empty.")
        for number, indices in enumerate(self.classes):
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
        """The largest number of indices of a class."""
        return max(len(indices) for indices in self.classes)

    @property
    def sizes(self) -> tuple[int, int]:
        """The smallest and the largest number of indices of a class."""
        counts = [len(indices) for indices in self.classes]
        return min(counts), max(counts)

    @property
    def k_label(self) -> str:
        """The number of indices per class as text: ``5``, or ``2-7`` where classes differ."""
        low, high = self.sizes
        return str(low) if low == high else f"{low}-{high}"

    @property
    def is_ragged(self) -> bool:
        """Whether classes have different numbers of indices."""
        return len({len(indices) for indices in self.classes}) > 1

    def fitted_to(self, num_classes: int, num_features: int) -> IndexSet:
        """Check the set against a head with C = ``num_classes`` and D = ``num_features``, and return it with that D.

        Raises:
            InputError: The set belongs to a head of another size.
        """
        if self.num_classes != num_classes:
            raise InputError(f"{self.source} has {self.num_classes} classes, but the network has {num_classes}.")
        if self.num_features not in (None, num_features):
            raise InputError(f"{self.source} is for {self.num_features} features, but the network has {num_features}.")
        return IndexSet(self.classes, num_features, self.provenance, self.source)

    def published_layout(self) -> dict[str, list[int]]:
        """``{"0": [7, 23, ...], ...}``, the layout of the authors' files."""
        return {str(number): list(indices) for number, indices in enumerate(self.classes)}


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


def index_set_from_json(content: Any, source: str) -> IndexSet:
    """Make an index set from parsed JSON of any layout; the errors are those of :func:`read_index_set`."""
    num_features: int | None = None
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
    for number, row in enumerate(rows):
        if not isinstance(row, list):
            raise InputError(f"{source}: class {number} has {_shown(row)}, not a list of indices.")
    return IndexSet(tuple(tuple(row) for row in rows), num_features, provenance, source)


def split_name(text: str, parameter: str, what: str = "FILE") -> tuple[str, str]:
    """Read ``NAME=FILE``; without a name, or where the whole text is a file, the name is the file's stem.

    Raises:
        InputError: The name or the file is empty.
    """
    name, sign, rest = text.partition("=")
    if not sign or "/" in name or user_path(text).exists():
        name, rest = file_stem(user_path(text).stem), text
    if not name.strip() or not rest.strip():
        raise InputError(f"{param(parameter)} {text!r} is neither {what} nor NAME={what}.")
    return name.strip(), rest


def write_index_set(path: Path, index_set: IndexSet, *, document: bool = False) -> None:
    """Write an index file with the content that :func:`index_set_text` makes.

    Raises:
        DecomposeError: The file cannot be written; nothing is left behind.
    """
    write_text(path, index_set_text(index_set, document=document))


def index_set_text(index_set: IndexSet, *, document: bool = False) -> str:
    """The content of an index file: the published layout, or our own document with D and provenance."""
    content: dict[str, Any] = index_set.published_layout()
    if document:
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
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
    model = content.get("model")
    if not isinstance(model, dict):
        return extracted["indices"], None, {}
    return extracted["indices"], _stated_features(model.get("num_features"), source), {"model": model}


def _open_document(content: dict[str, Any], source: str) -> tuple[Any, int | None, Mapping[str, Any]]:
    if content["format"] != FORMAT:
        raise InputError(f"{source} is a {_shown(content['format'])} file, not an index set.")
    version = content.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version != FORMAT_VERSION:
        raise InputError(f"{source} has format version {_shown(version)}; this program reads version {FORMAT_VERSION}.")
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
    if value < 1:
        raise InputError(f"{source}: num_features is {value}, not at least 1.")
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
