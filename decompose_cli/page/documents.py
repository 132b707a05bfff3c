"""Reading back the results that other commands wrote."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from decompose_cli.datasets.kinds import place_in
from decompose_cli.engines.catalogue import results_type
from decompose_cli.errors import InputError
from decompose_cli.messages import note
from decompose_cli.printable import printable
from decompose_cli.storage.journal import settle
from decompose_cli.storage.matrices import put_back
from decompose_cli.storage.names import RESULT
from decompose_cli.storage.result_document import SCHEMA_VERSION, DatasetInfo, FeaturesInfo, ResultDocument
from decompose_cli.storage.run_configuration import unfinished
from decompose_cli.storage.text_files import read_result

_WHAT, _HINT = "The result file", "Name the JSON file that a command wrote, or the folder of a run."
_LONGEST = 10_000  # a command line may be long
_ALTERNATIVES = (DatasetInfo.__name__, FeaturesInfo.__name__)  # which pydantic puts into the places of errors


@dataclass(frozen=True)
class Source:
    """One result document.

    Attributes:
        path: The file that was read.
        name: What the page calls the result: what was done to what. No two results have the same name.
        document: Content of the file, with the results as the type of the command.
        class_names: Names of the outputs of the network; without any, where they are not known.
    """

    path: Path
    name: str
    document: ResultDocument[Any]
    class_names: Sequence[str] = ()

    @property
    def command(self) -> str:
        """The command that made the result."""
        return self.document.command

    @property
    def results(self) -> Any:
        """The results of the command."""
        return self.document.results

    @property
    def subject(self) -> str:
        """The network and the images, as ``resnet20 on cifar10``."""
        return _subject(self.document)

    def class_name(self, number: int) -> str:
        """The name of an output of the network, or its number where names are not known."""
        return self.class_names[number] if 0 <= number < len(self.class_names) else str(number)


def called_set(name: str) -> str:
    """A feature set by a name that says whose it is; the field of documents keeps its own."""
    return "this network" if name == "ours" else name


def read_sources(
    places: Sequence[Path], unwritten: Mapping[Path, object] | None = None, names: Mapping[Path, str] | None = None
) -> list[Source]:
    """Read result files, and those in folders: runs, and folders of results and of runs.

    Args:
        places: At least one file or folder; a file that is named twice is read once.
        unwritten: Texts of documents that are not read from the disk.
        names: What the page calls the results of a place; where it has several, each with what it is.

    Raises:
        InputError: A place is missing, is no result, cannot be used, or is a folder without results.
    """
    paths: dict[Path, Path] = {}
    called: dict[Path, tuple[str, bool]] = {}
    for place in places:
        files = _files_in(place) if place.is_dir() else [place]
        for path in files:
            paths.setdefault(path.resolve(), path)
            if names is not None and place in names:
                called.setdefault(paths[path.resolve()], (names[place], len(files) == 1))
    documents = [(path, _read(path, (unwritten or {}).get(path))) for path in paths.values()]
    subjects = {_subject(document) for _, document in documents}
    is_one = len(subjects - {""}) <= 1  # the one subject is the title of the page; sets alone have none
    titles = []
    for path, document in documents:
        title = _title(document, with_subject=not is_one)
        name, is_alone = called.get(path, ("", False))
        titles.append(name if is_alone else f"{name}: {title}" if name else title)
    return [
        Source(
            path,
            title if titles.count(title) == 1 else f"{title} ({_short(path, paths.values())})",
            document,
            _class_names(document, [other for _, other in documents]),
        )
        for (path, document), title in zip(documents, titles, strict=True)
    ]


def _class_names(document: ResultDocument[Any], others: Sequence[ResultDocument[Any]]) -> Sequence[str]:
    """The names that a document says; where it is about no images, those that all others of its network say."""
    if document.dataset is not None:
        return document.dataset.classes
    asked, model = document.arguments.get("model"), document.model

    def is_same(other: ResultDocument[Any]) -> bool:
        if model is not None and other.model is not None:
            return model.weights.sha256 == other.model.weights.sha256
        return asked is not None and asked == other.arguments.get("model")

    found = {
        tuple(other.dataset.classes)
        for other in others
        if other.dataset is not None and other.dataset.classes and is_same(other)
    }
    if model is not None:
        found = {names for names in found if len(names) == model.num_classes}
    return found.pop() if len(found) == 1 else ()


def _short(path: Path, others: Collection[Path]) -> str:
    """The end of a path that tells it from the others."""
    for length in range(1, len(path.parts)):
        end = path.parts[-length:]
        if sum(other.parts[-length:] == end for other in others) == 1 and end != (RESULT,):
            return printable("/".join(end))
    return printable(str(path))


def _read(path: Path, text: object) -> ResultDocument[Any]:
    value = json.loads(text) if isinstance(text, str) else read_result(path, _WHAT, _HINT)
    if not _has_parts(value):  # before anything is done with each of its values
        raise InputError(
            f"{path} is no result of decompose.",
            hint="An index file says too little by itself; the result file beside it, or 'validate -i', says more.",
        )
    try:
        return _parsed(path, _cleaned(put_back(value, path)))
    except RecursionError as error:
        raise InputError(f"{path} is no result of decompose: its lists lie too deep in one another.") from error


def _files_in(folder: Path) -> list[Path]:
    paths = _documents_below(folder)
    if not paths and (why := unfinished(folder)) is not None:
        raise why
    if not paths:
        raise InputError(
            f"The folder {folder} holds no results.",
            hint="Name a run, a folder of results, or the JSON files that commands write.",
        )
    return paths


def _documents_below(folder: Path) -> list[Path]:
    """The documents in a folder; those below it too, unless it is a run, whose document says what is below it."""
    settle(folder)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read: {error.strerror or error}.") from error
    paths = [path for path in entries if path.suffix == ".json" and path.is_file() and _is_document(path)]
    if folder / RESULT not in paths:
        below = [path for path in entries if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")]
        paths += [document for path in below for document in _documents_below(path)]
        if paths and (why := unfinished(folder)) is not None:
            note(f"{why.sentence} The page has what is there.")
    return paths


def _is_document(path: Path) -> bool:
    """Whether a file is to be read as a document; index files and the settings of a run lie beside results."""
    return _has_parts(read_result(path, _WHAT, _HINT))


def _has_parts(value: Any) -> bool:
    return isinstance(value, dict) and {"schema_version", "command", "results"} <= value.keys()


def _parsed(path: Path, value: Any) -> ResultDocument[Any]:
    version, command = value["schema_version"], value["command"]
    if not isinstance(version, int) or version < 1:
        raise InputError(f"{path} has no usable schema_version: {str(version)[:40]!r}.")
    if version > SCHEMA_VERSION:
        raise InputError(f"{path} was written by a later version of decompose (schema {version}).")
    model = results_type(command) if isinstance(command, str) else None
    if model is None:
        raise InputError(f"{path} is a result of {command!r}, a command that the report does not know.")
    try:
        return ResultDocument[model].model_validate(value)  # type: ignore[valid-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part not in _ALTERNATIVES)
        raise InputError(f"{path} is no usable result of '{command}': {place}: {first['msg']}.") from error


def _title(document: ResultDocument[Any], *, with_subject: bool) -> str:
    """A title as ``validate: resnet20 on cifar10, test images``; trainings, which use several splits, name none."""
    parts = ["accuracy by k" if document.command == "demo" else document.command]
    subject = _subject(document)
    if with_subject and subject:
        parts[0] += f": {subject}"
    if document.dataset is not None and document.command not in ("train", "finetune", "train-gate", "lr-find"):
        parts.append(f"{document.dataset.split} images")
    return ", ".join(parts)


def _subject(document: ResultDocument[Any]) -> str:
    names = [document.model.name] if document.model is not None else []
    if document.dataset is not None:
        names.append(place_in(document.dataset.name))
    return " on ".join(names)


def _cleaned(value: Any) -> Any:
    """The value with every text printable; XML has no control characters, but names of folders may have them."""
    if isinstance(value, str):
        return printable(value, _LONGEST)
    if isinstance(value, list):
        return [_cleaned(item) for item in value] if any(isinstance(i, str | list | dict) for i in value) else value
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    return value
