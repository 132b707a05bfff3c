"""The result document: what every command writes, and how."""

from __future__ import annotations

import itertools
import json
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from decompose_cli.storage.files import file_stem
from decompose_cli.storage.leftovers import sweep_reserved
from decompose_cli.storage.matrices import INLINE, set_apart
from decompose_cli.version import __version__

SCHEMA_VERSION = 1
Results = TypeVar("Results")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WeightsInfo(_Strict):
    """Where the weights came from and what they are."""

    source: str
    sha256: str


class ModelInfo(_Strict):
    """The network that was used; ``options`` are those of its options that are not at their defaults."""

    name: str
    num_classes: int
    num_features: int
    head: str
    options: dict[str, str] = {}
    weights: WeightsInfo


class FeaturesInfo(_Strict):
    """The labelled features that were used, of a file that was made elsewhere; ``images`` counts their rows."""

    name: str
    split: str
    images: int
    fingerprint: str
    classes: list[str]


class PartOfClasses(_Strict):
    """What was done where there are images of a part of a network's classes alone.

    ``policy``: ``all``, where the other classes keep their whole rows of the full head; or ``present``, where the head
    has no others. ``outputs``: number of outputs of the network. ``present``: those of them, by number, whose classes
    have images; ``names``: the names of these.
    """

    policy: Literal["all", "present"]
    outputs: int
    present: list[int]
    names: list[str]


class DatasetInfo(FeaturesInfo):
    """The images that were used; ``classes`` are the outputs of the network.

    ``part``: what was done about classes without images; null where every class has some.

    ``unreadable``: images that could not be read and were left out of everything, as the user allowed; those of other
    splits with the name of the split before them. ``fingerprint`` is of all images; ``images`` counts those used.

    ``outputs``: the number in ``classes`` of each class of the data set, -1 for those whose images are left out; null
    where the data set has the same classes in the same order.
    """

    mean: list[float]
    std: list[float]
    resize: int | list[int]
    crop: list[int]
    interpolation: str
    unreadable: list[str] = []
    part: PartOfClasses | None = None
    outputs: list[int] | None = None


class CacheInfo(_Strict):
    """Whether penultimate features came from the cache (hit), were computed and stored (miss), or the cache was off.

    ``computed_on``: the devices that computed them.
    """

    features: Literal["hit", "miss", "off"]
    computed_on: list[str] = []


class ResultDocument(BaseModel, Generic[Results]):
    """The results of a command, and everything needed to get them again. Field names are stable.

    ``files``: names of the files that were written together with the document, relative to its folder.
    """

    schema_version: int = SCHEMA_VERSION
    command: str
    arguments: dict[str, Any]
    model: ModelInfo | None = None
    dataset: DatasetInfo | FeaturesInfo | None = None
    environment: dict[str, Any]
    started_at: str
    seconds: float
    cache: CacheInfo | None = None
    files: list[str] = []
    results: Results

    def to_json(self) -> str:
        """The document as JSON text; numbers in it are finite."""
        return readable_json(self.model_dump(mode="json")) + "\n"

    def parts(self, matrices: str) -> tuple[str, bytes | None]:
        """The document as JSON text with large matrices set apart, and what comes into the file of this name beside it.

        See :mod:`decompose_cli.storage.matrices`; without such matrices the text is :meth:`to_json`, and nothing comes
        beside it.
        """
        content = self.model_dump(mode="json")
        content["results"], beside = set_apart(content["results"], matrices)
        return readable_json(content) + "\n", beside

    def write(self, path: Path) -> None:
        """Write the document, and large matrices in a file beside it, whole or not at all.

        Raises:
            DecomposeError: A file cannot be written.
        """
        from decompose_cli.storage.file_sets import write_document

        write_document(self, path)


def readable_json(value: Any, indent: str = "", *, ascii_only: bool = False, is_row: bool = False) -> str:
    """JSON text with one line per field, but each list of plain values on a line of its own.

    A confusion matrix of 1000 classes is then a thousand lines, not a million; so is a table of more than 100 classes,
    whose fields stand on one line for each class.

    Args:
        value: Plain values.
        indent: What lines begin with.
        ascii_only: Whether other letters are escaped.
        is_row: Whether the value is a row of such a table.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    inner = indent + "  "
    if isinstance(value, dict) and value:
        if is_row and not any(isinstance(item, dict) for item in value.values()):
            return json.dumps(value, allow_nan=False, ensure_ascii=ascii_only)
        are_rows = len(value) > INLINE
        names = [json.dumps(str(key), ensure_ascii=ascii_only) for key in value]
        texts = [readable_json(item, inner, ascii_only=ascii_only, is_row=are_rows) for item in value.values()]
        fields = (f"{inner}{name}: {text}" for name, text in zip(names, texts, strict=True))
        return "{\n" + ",\n".join(fields) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return (
            "[\n"
            + ",\n".join(inner + readable_json(item, inner, ascii_only=ascii_only) for item in value)
            + f"\n{indent}]"
        )
    return json.dumps(value, allow_nan=False, ensure_ascii=ascii_only)


class Stopwatch:
    """A clock that starts with a command and tells its result document when that was."""

    def __init__(self) -> None:
        self.started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Seconds since the start."""
        return round(time.perf_counter() - self._start, 3)


_beside: ContextVar[Mapping[str, Any]] = ContextVar("decompose_beside_the_command_line", default={})  # noqa: B039


@contextmanager
def beside_the_command_line(given: Mapping[str, Any]) -> Iterator[None]:
    """Let documents that are made in the block say what options came from elsewhere than the command line.

    Args:
        given: ``variables``, by name, and ``configuration``, a path; without what gave none.
    """
    token = _beside.set(given)
    try:
        yield
    finally:
        _beside.reset(token)


def describe_environment(device: str, seed: int) -> dict[str, Any]:
    """The versions, machine and command line of this run, and what gave options beside it."""
    import torch

    return {
        "decompose": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "command_line": shlex.join(sys.argv),
        "working_directory": str(Path.cwd()),
        **_beside.get(),
    }


def default_names(command: str, *parts: str, suffix: str = ".json") -> Iterator[Path]:
    """Yield ``results/<command>-<parts>-<UTC time>.json``, then that name with -2, -3, ... for where it is taken.

    Folders there that killed processes had made, and that hold nothing, are removed.
    """
    folder = Path("results")
    sweep_reserved(folder)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    name = "-".join([command, *(file_stem(part) for part in parts), stamp])
    yield folder / f"{name}{suffix}"
    for number in itertools.count(2):
        yield folder / f"{name}-{number}{suffix}"
