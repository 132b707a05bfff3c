"""Where results go."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.cli.options.shared import Output, discard_stdout

if TYPE_CHECKING:
    from decompose_cli.features.study import Inputs
    from decompose_cli.storage.result_document import ResultDocument


def model_and_dataset(inputs: Inputs) -> tuple[str, str]:
    """For the name of a result file."""
    from decompose_cli.errors import InputError
    from decompose_cli.models.registry import DEFAULT_MODEL, get_entry

    model = inputs.model or (_stem(inputs.weights) if inputs.weights else DEFAULT_MODEL)
    try:
        usual = get_entry(model).dataset
    except InputError:  # a network of the user's, or a file
        usual = None
    return model, inputs.dataset or usual or "default"


def _stem(weights: str) -> str:
    """Of the checkpoint of a run, its folder and which one it is."""
    path = Path(weights)
    return f"{path.absolute().parent.name}-{path.stem}" if path.stem in ("last", "best") else path.stem


def checked_output(out: Output) -> Path | None:
    """The file given with ``--output``; one that cannot be written is refused before any work is done."""
    from decompose_cli.storage.files import check_writable

    if out.path is not None:
        check_writable(out.path, overwrite=out.overwrite)
    return out.path


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

    In this order, so that a terminal that goes away costs no result.

    Args:
        out: What the user chose.
        document: The result.
        path: Where to write it, if that is settled.
        inputs: Without a path: what makes the usual name in ``results/``.
        names: Without a path: other names to try.
        show: Prints the tables.
    """
    from decompose_cli.storage.files import write_under_new_name
    from decompose_cli.storage.result_document import default_names

    if names is None and inputs is not None:
        names = default_names(document.command, *model_and_dataset(inputs))
    if path is not None:
        document.write(path)
    elif names is not None and not out.json:
        path = write_under_new_name(names, document.to_json())
    present(out, document, path, show)


def present(out: Output, document: ResultDocument[Any], path: Path | None, show: Callable[[], None]) -> None:
    """Show the tables, say where the document is, and print it if asked to, also where nothing can be shown."""
    try:
        show()
        if path is not None:
            out.terminal.print(f"Result written to {path}")
    finally:
        if out.json:
            print_json(document.model_dump(mode="json"))


def numbered(stem: str) -> Iterator[Path]:
    """``stem.json``, then ``stem-2.json``, ... for whoever finds it taken."""
    yield Path(f"{stem}.json")
    for number in itertools.count(2):
        yield Path(f"{stem}-{number}.json")


def print_json(value: Any) -> None:
    """Print JSON to stdout, escaped where the terminal's encoding could not show every name."""
    from decompose_cli.errors import DecomposeError
    from decompose_cli.storage.result_document import readable_json

    ascii_only = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "") != "utf8"
    try:
        sys.stdout.write(readable_json(value, ascii_only=ascii_only) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise DecomposeError(f"The result could not be printed: {error.strerror or error}.") from error
