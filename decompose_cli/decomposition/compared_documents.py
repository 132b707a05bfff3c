"""The result documents that ``compare`` is given: what they say of features, heads, networks and images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from decompose_cli.datasets.kinds import seen_from
from decompose_cli.decomposition.compared import Entry, Origin, TrainedRun, entry_of_checkpoint
from decompose_cli.decomposition.compared_trainings import conditions_of
from decompose_cli.decomposition.index_set import IndexSet, index_set_from_json, read_index_set
from decompose_cli.errors import InputError
from decompose_cli.models.bias_alone import say_bias_alone
from decompose_cli.models.lone_head import FEATURES
from decompose_cli.models.weights import DEFAULT, RANDOM
from decompose_cli.storage.download import is_url
from decompose_cli.storage.files import sha256_of, user_path
from decompose_cli.storage.result_document import SCHEMA_VERSION

TRAININGS = ("finetune", "train", "train-gate")
COMMANDS = ("validate", "sparsify", *TRAININGS, "sweep", "extract-indices")
"""Those whose documents say which features classes use, or have networks with heads."""
Parsed = TypeVar("Parsed", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Weights(_Strict):
    source: str
    sha256: str


class _Model(_Strict):
    name: str
    num_features: int
    weights: _Weights


class _Images(_Strict):
    name: str
    split: str
    fingerprint: str


class _Arguments(_Strict):
    """The options that decide what a network is and what it sees."""

    weights: str | None = None
    head: str | None = None
    ema: bool = False
    weights_key: str | None = None
    model_options: dict[str, str] | None = None
    features_only: bool = False
    columns: str | None = None
    classes: str = "all"
    class_map: str | None = None
    data_dir: str | None = None
    mean: str | None = None
    std: str | None = None
    input_size: str | None = None
    resize: str | None = None
    crop: str | None = None
    interpolation: str | None = None
    indices: Any = None


class _Environment(_Strict):
    working_directory: str = "."


class _Document(_Strict):
    schema_version: int
    command: str
    arguments: _Arguments
    model: _Model | None = None
    dataset: _Images | None = None
    environment: _Environment
    results: Any


class _IndicesInfo(_Strict):
    source: str
    sha256: str | None


class _Validated(_Strict):
    indices: _IndicesInfo | None


class _Rows(_Strict):
    indices: dict[str, Any]
    checkpoint: str | None = None


class _Sparsified(_Strict):
    heads: dict[str, _Rows]


class _Extracted(_Strict):
    sets: dict[str, _Rows]


class _Swept(_Strict):
    chosen: _Rows | None


class _Trained(_Strict):
    seed: int
    checkpoints: dict[str, str]


class _Repeated(_Strict):
    runs: list[_Trained]


def entries_of_document(name: str, path: Path, content: Any) -> list[Entry]:
    """The entries of a result document: one, or one for each k, or for each seed.

    Args:
        name: What results call it.
        path: The file.
        content: The document as JSON has it.

    Raises:
        InputError: It is of another command, is damaged, or lacks what it was made with.
    """
    command = content.get("command")
    if command not in COMMANDS:
        raise InputError(
            f"{path} is a result of {command!r}, which has neither sets of features nor a network.",
            hint=f"Results of {', '.join(COMMANDS)} can be compared.",
        )
    document = _parsed(_Document, content, path)
    if not 1 <= document.schema_version <= SCHEMA_VERSION:
        raise InputError(f"{path} was written by another version of decompose (schema {document.schema_version}).")
    readers: dict[str, Callable[[_Read], list[Entry]]] = {
        "validate": _validated,
        "sparsify": _sparsified,
        **dict.fromkeys(TRAININGS, _trained),
        "sweep": _swept,
        "extract-indices": _extracted,
    }
    return readers[document.command](_Read(name, path, document, sha256_of(path), content))


@dataclass(frozen=True)
class _Read:
    """A document that has been read, and what its entries share."""

    name: str
    path: Path
    document: _Document
    sha256: str
    content: Mapping[str, Any]

    @property
    def base(self) -> Path:
        """The folder that the command was started in."""
        return Path(self.document.environment.working_directory)

    def seen(self, place: str) -> Path:
        """A file that the document names: beside the document, or where that says, or as the command saw it."""
        named = user_path(place)
        beside = (self.path.parent / Path(*named.parts[-depth:]) for depth in (2, 1))
        return next((each for each in (*beside, named, self.base / named) if each.is_file()), named)

    def origin(self, *, has_measured: bool = True) -> Origin | None:
        """The network and the images; None for features without a network."""
        model, images, arguments = self.document.model, self.document.dataset, self.document.arguments
        if model is None or model.name == FEATURES:
            return None
        options: dict[str, Any] = arguments.model_dump(exclude={"indices"})
        if arguments.weights not in (None, DEFAULT, RANDOM) and not is_url(arguments.weights):
            options["weights"] = str(self.seen(arguments.weights))
        for name in ("class_map", "data_dir"):
            if options[name] is not None:
                place = user_path(options[name])
                options[name] = place if place.exists() else self.base / place
        if images is not None:
            options["dataset"] = seen_from(images.name, self.base)
        measured = None
        if images is not None and has_measured:
            measured = (options["dataset"], images.split, images.fingerprint)
            options["split"] = images.split
        return Origin(model.name, model.weights.sha256, options, measured)

    def entry(self, rows: Any, what: str = "", *, has_measured: bool = True, missing: str | None = None) -> Entry:
        """The entry of an index set in the document."""
        model = self.document.model
        index_set = index_set_from_json(rows, str(self.path), None if model is None else model.num_features)
        say_bias_alone(index_set.classes, index_set.source)
        if model is not None:
            made_from = {"name": model.name, "weights": model.weights.model_dump()}
            index_set = dataclasses.replace(index_set, provenance={"model": made_from})
        origin = self.origin(has_measured=has_measured)
        return Entry(f"{self.name}{what}", str(self.path), self.sha256, index_set, origin, missing=missing)


def _validated(read: _Read) -> list[Entry]:
    origin = read.origin()
    if origin is None:
        raise InputError(
            f"{read.path} is about features without a network, and does not say which of them classes use."
        )
    found = _parsed(_Validated, read.document.results, read.path, "results").indices
    if found is None or read.document.arguments.indices is None:  # the full head, or that of a checkpoint
        return [Entry(read.name, str(read.path), read.sha256, origin=origin)]
    place = read.seen(found.source)
    if not place.is_file():
        raise InputError(f"{read.path} was made with the index file {found.source}, which is not there.")
    if found.sha256 is not None and sha256_of(place) != found.sha256:
        raise InputError(f"{read.path} was made with the index file {found.source}, which has changed since.")
    return [Entry(read.name, str(read.path), read.sha256, read_index_set(place), origin)]


def _sparsified(read: _Read) -> list[Entry]:
    heads = _parsed(_Sparsified, read.document.results, read.path, "results").heads
    entries = []
    for k, head in heads.items():
        what = f" k={k}" if len(heads) > 1 else ""
        place = None if head.checkpoint is None else read.seen(head.checkpoint)
        if place is not None and place.is_file():
            expected = read.entry(head.indices, what)
            entries.append(entry_of_checkpoint(expected.name, place, expected.origin, expected.index_set))
            continue
        gone = "it was printed, and no checkpoint was written" if place is None else f"{head.checkpoint} is not there"
        missing = f"has weights on standardised features, but not their means and deviations, and {gone}"
        entries.append(read.entry(head.indices, what, missing=missing))
    return entries


def _extracted(read: _Read) -> list[Entry]:
    sets = _parsed(_Extracted, {"sets": read.document.results}, read.path).sets
    if not sets:
        raise InputError(f"{read.path} is a result document without indices.")
    several = len(sets) > 1
    return [read.entry(one.indices, f" k={k}" if several else "", has_measured=False) for k, one in sets.items()]


def _swept(read: _Read) -> list[Entry]:
    chosen = _parsed(_Swept, read.document.results, read.path, "results").chosen
    if chosen is None:
        raise InputError(
            f"{read.path} is a sweep that chose no set.", hint="'decompose sweep' chooses one within a given loss."
        )
    return [read.entry(chosen.indices)]


def _trained(read: _Read) -> list[Entry]:
    results = read.document.results
    if isinstance(results, dict) and not {"runs", "seed"} & results.keys() and "gates" in results:
        raise InputError(f"{read.path} measured the gates of a network and trained none; name its weights instead.")
    several = isinstance(results, dict) and "runs" in results
    if several:
        runs = _parsed(_Repeated, results, read.path, "results").runs
    else:
        runs = [_parsed(_Trained, results, read.path, "results")]
    if not runs:
        raise InputError(f"{read.path} has no runs.")
    if len({run.seed for run in runs}) < len(runs):
        raise InputError(f"{read.path} has two runs of the same seed.")
    entries = []
    for run in runs:
        which = "best" if "best" in run.checkpoints else "last"
        named = run.checkpoints.get(which)
        if named is None:
            raise InputError(f"{read.path} names no checkpoint of the network that was trained.")
        place = read.seen(named)
        if not place.is_file():
            raise InputError(f"{read.path} has its network in {named}, which is not there.")
        what = f" seed {run.seed}" if several else ""
        entry = entry_of_checkpoint(f"{read.name}{what}", place, read.origin())
        conditions = conditions_of(read.content)
        found = TrainedRun(read.name, str(read.path), run.seed, read.document.command, which, conditions)
        if read.document.command != "finetune":
            entry = dataclasses.replace(entry, origin=_of_training(read, entry))
            if (images := read.document.dataset) is not None:
                name = seen_from(images.name, read.base)
                found = dataclasses.replace(found, images=name, fingerprint=images.fingerprint)
        entries.append(dataclasses.replace(entry, run=found))
    return entries


def _of_training(read: _Read, entry: Entry) -> Origin | None:
    """The network that was trained, rather than the one that training began with, and the data set."""
    origin = read.origin(has_measured=False)
    if origin is None or entry.sha256 is None:
        return None
    said = {
        "weights": entry.source,
        "weights_key": None,
        "ema": False,
        "model_options": None,
    }  # the file says it itself
    return dataclasses.replace(origin, sha256=entry.sha256, options={**origin.options, **said})


def origin_of_set(index_set: IndexSet) -> Origin | None:
    """What an index file says of the network that it was made from; the images it does not say."""
    try:
        model = _Model.model_validate({"num_features": 1, **index_set.provenance["model"]})
    except (KeyError, TypeError, ValidationError):
        return None
    if model.name == FEATURES:
        return None
    source = model.weights.source
    return Origin(model.name, model.weights.sha256, {"weights": source} if user_path(source).is_file() else {})


def _parsed(kind: type[Parsed], value: Any, path: Path, *where: str) -> Parsed:
    try:
        return kind.model_validate(value)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise InputError(f"{path} is no usable result: its lists lie too deep in one another.") from error
        first = error.errors(include_url=False)[0]
        place = ".".join([*where, *map(str, first["loc"])])
        reason = first["msg"].partition(" or instance of")[0]
        raise InputError(f"{path} is no usable result of decompose: {place}: {reason}.") from error
