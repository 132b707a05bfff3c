"""The files that ``compare`` is given: index files, result documents and checkpoints."""

from __future__ import annotations

from pathlib import Path

from decompose_cli.decomposition.compared import Entry, entry_of_checkpoint
from decompose_cli.decomposition.compared_documents import entries_of_document, origin_of_set
from decompose_cli.decomposition.index_set import index_set_from_json, split_name
from decompose_cli.errors import InputError, param
from decompose_cli.models.bias_alone import say_bias_alone
from decompose_cli.storage.download import is_url
from decompose_cli.storage.files import sha256_of, user_path
from decompose_cli.storage.journal import settle
from decompose_cli.storage.matrices import put_back
from decompose_cli.storage.names import CONFIG, RESULT
from decompose_cli.storage.run_configuration import has_configuration, unfinished
from decompose_cli.storage.text_files import read_result

_OF_FOLDERS = ("result", "last", "best")  # names of files that say nothing; their folders have others
_WHAT = "The file"
_CONTROLS = {*range(32)} - set(b"\t\n\f\r")


def read_entries(given: str) -> list[Entry]:
    """Read ``NAME=FILE`` or ``FILE``; a document with several sets or heads becomes several entries.

    Raises:
        InputError: The file is missing, or none of those that can be compared, or what is in it does not fit together.
    """
    name, text = split_name(given, None)
    is_named = text != given
    if is_url(text):
        raise InputError(f"Files on this machine are compared, and {text} is a URL.")
    path = _found(user_path(text), text)
    if not is_named:
        name = path.name.removesuffix(".result.json").removesuffix(path.suffix)
        name = path.absolute().parent.name if name in _OF_FOLDERS else name
    if not _is_json(path):
        return [entry_of_checkpoint(name, path)]
    content = read_result(path, _WHAT)
    if isinstance(content, dict) and "schema_version" in content:
        return entries_of_document(name, path, put_back(content, path))
    index_set = index_set_from_json(content, str(path))
    say_bias_alone(index_set.classes, index_set.source)
    return [Entry(name, str(path), sha256_of(path), index_set, origin_of_set(index_set))]


def _found(path: Path, text: str) -> Path:
    """The file, or the document in the folder."""
    try:
        settle(path if path.is_dir() else path.parent)
        if path.is_dir():
            if (why := unfinished(path)) is not None:
                raise why
            if not (path / RESULT).is_file():
                raise InputError(f"The folder {path} holds no {RESULT}.", hint="Name the file that is compared.")
            return path / RESULT
        if path.name == CONFIG and has_configuration(path.parent):
            raise InputError(f"{path} has the settings of a run.", hint=f"Its folder, {path.parent}, has the result.")
        if not path.exists():
            raise InputError(
                f"The file {path} does not exist.",
                hint=f"A network is named with {param('model')}." if path.name == text and not path.suffix else None,
            )
    except OSError as error:
        raise InputError(f"The file {path} cannot be read: {error.strerror or error}.") from error
    return path


def _is_json(path: Path) -> bool:
    """Whether a file is JSON by its name or its beginning; what cannot be read is refused by the readers.

    Raises:
        InputError: It is text of another kind.
    """
    if path.suffix == ".json" or not path.is_file():
        return path.suffix == ".json"
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return False
    # A safetensors file begins with the length of its header, whose upper bytes are 0.
    if start.lstrip()[:1] in (b"{", b"[") and b"\0" not in start[:9]:
        return True
    if start and not _CONTROLS.intersection(start):  # every form of checkpoint has some
        raise InputError(
            f"The file {path} is text, but neither an index file nor a result, which are JSON, nor a checkpoint."
        )
    return False
