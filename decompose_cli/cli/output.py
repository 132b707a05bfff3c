"""Where results go: into a file or a folder, to the terminal, to stdout."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.cli import stdout
from decompose_cli.cli.console import Terminal, is_first_process
from decompose_cli.errors import DecomposeError, InputError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.reporting.predictions import SUFFIX
from decompose_cli.storage.files import (
    check_folder_writable,
    check_writable,
    new_folder,
)
from decompose_cli.storage.names import RESULT

if TYPE_CHECKING:
    from decompose_cli.storage.result_document import ResultDocument

RESULTS = Path("results")


@dataclass(frozen=True)
class Output:
    """Where the result of a command goes, and the terminal.

    Attributes:
        terminal: The terminal, which shows what a person sees.
        debug: Whether errors show their traceback.
        path: The file or folder of ``--output``; None for a new name.
        overwrite: Whether this file, or what is in the folder, may be replaced.
        json: Whether the document is printed to stdout.
    """

    terminal: Terminal
    debug: bool
    path: Path | None
    overwrite: bool
    json: bool


class Listing(Output):
    """The output of a command that shows something and writes nothing."""


class RunOutput(Output):
    """The output of a command that keeps a run in a folder, and writes it itself."""


def model_and_dataset(inputs: Inputs) -> tuple[str, ...]:
    """The names of network and, if they are known before it is opened, images, for the name of a result file."""
    from decompose_cli.models.registry import DEFAULT_MODEL, get_entry

    is_file = inputs.weights not in (None, "default", "random")
    model = inputs.model or (_stem(str(inputs.weights)) if is_file else DEFAULT_MODEL)
    try:
        usual = get_entry(model).dataset
    except InputError:  # a network of the user's, or a file
        usual = None
    return tuple(filter(None, (model, inputs.dataset or usual)))


def _stem(weights: str) -> str:
    """The stem of a weights file; for a checkpoint of a run, ``last`` or ``best``, with the name of its folder."""
    path = Path(weights)
    return f"{path.absolute().parent.name}-{path.stem}" if path.stem in ("last", "best") else path.stem


def checked_output(out: Output, folder: Path = RESULTS) -> Path | None:
    """The file given with ``--output``; a place that cannot be written is refused before any work is done.

    Args:
        out: What the user chose.
        folder: Where the result goes under a usual name.
    """
    if out.path is not None:
        check_writable(out.path, overwrite=out.overwrite)
    elif not out.json:
        check_folder_writable(folder)
    return out.path


def checked_predictions(out: Output, path: Path | None) -> None:
    """Refuse, before any work is done, a file that cannot get the predictions.

    Raises:
        InputError: It does not end in ``.csv``, exists and may not be replaced, or cannot be written.
    """
    if path is None:
        return
    if path.suffix.lower() != SUFFIX:
        raise InputError(f"{param('predictions')} {path} does not end in {SUFFIX}.")
    if out.path is not None and path.resolve() == out.path.resolve():
        raise InputError(
            f"{param('predictions')} and {param('output')} both name {path}; each needs a file of its own."
        )
    check_writable(path, overwrite=out.overwrite)


def write_predictions(out: Output, document: ResultDocument[Any], path: Path | None) -> None:
    """Write what each head says of each image, where that was asked for."""
    if path is not None and is_first_process():
        document.results.predictions.write(path)
        out.terminal.print(f"Predictions written to {path}")


def finish(
    out: Output,
    document: ResultDocument[Any],
    path: Path | None,
    inputs: Inputs | None = None,
    names: Iterator[Path] | None = None,
    *,
    show: Callable[[], None],
) -> None:
    """Write the document to ``path``, or under a name that is not taken, unless it goes to stdout only; then show it.

    The document is written first, so that a terminal that goes away costs no result.

    Args:
        out: What the user chose.
        document: The result.
        path: Where the document is written, if that is settled.
        inputs: Without a path: network and data set, which make the usual name in ``results/``.
        names: Without a path: other names to try.
        show: Prints the tables.
    """
    from decompose_cli.storage.file_sets import write_new_document
    from decompose_cli.storage.result_document import default_names

    if names is None and inputs is not None:
        names = default_names(document.command, *model_and_dataset(inputs))
    if path is not None:
        document.write(path)
    elif names is not None and not out.json:
        path = write_new_document(document, names)
    present(out, document, show, written=f"Result written to {path}" if path is not None else None)


def present(
    out: Output, document: ResultDocument[Any], show: Callable[[], None], *, written: str | None = None
) -> None:
    """Show the tables, say what was written, and print the document if asked to, also where nothing can be shown."""
    try:
        show()
        if written is not None:
            out.terminal.print(written)
    finally:
        if out.json and is_first_process():
            print_json(document.model_dump(mode="json"))


def in_folder(
    out: Output, command: str, inputs: Inputs, files: Sequence[str], work: Callable[[Path | None], None]
) -> None:
    """Do the work with the folder of ``--output``, a new one in ``results/``, or none where JSON is printed instead.

    Args:
        out: What the user chose.
        command: Name of the command, for the name of a new folder.
        inputs: Network and data set, for the name of a new folder.
        files: Names of the files that may be written; one that is there and may not be replaced is refused first.
        work: The work, which takes the folder.
    """
    from decompose_cli.storage.file_sets import check_replaceable
    from decompose_cli.storage.result_document import default_names

    if out.path is not None:
        check_folder_writable(out.path)
        check_replaceable([out.path / name for name in files], out.path / RESULT, overwrite=out.overwrite)
        work(out.path)
    elif out.json:
        work(None)
    else:
        with new_folder(default_names(command, *model_and_dataset(inputs), suffix="")) as folder:
            work(folder)


def numbered(stem: str) -> Iterator[Path]:
    """``stem.json``, then ``stem-2.json``, ..., to be tried until a name is free."""
    yield Path(f"{stem}.json")
    for number in itertools.count(2):
        yield Path(f"{stem}-{number}.json")


def print_json(value: Any) -> None:
    """Print JSON to stdout, escaped where the terminal could not show every name, or would do what a name says."""
    from decompose_cli.storage.result_document import readable_json

    if stdout.was_closed():
        raise DecomposeError("The result could not be printed: stdout is closed.")
    stream = stdout.results()
    ascii_only = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "") != "utf8"
    lines = readable_json(value, ascii_only=ascii_only).split("\n")
    try:
        stream.write("".join(f"{line if line.isprintable() else _escaped(line)}\n" for line in lines))
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        stdout.discard()
        raise DecomposeError(f"The result could not be printed: {error.strerror or error}.") from error


def _escaped(line: str) -> str:
    """A line of JSON that means the same, in letters that can be seen."""
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in line)
