"""The command line. Each command parses, calls its engine, shows and saves; engines are imported inside.

Nothing here imports torch before a command runs, so every ``--help`` answers at once.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

import decompose_cli
from decompose_cli.options import Output, command, discard_stdout

if TYPE_CHECKING:
    from decompose_cli.decomposition.study import Inputs
    from decompose_cli.results import ResultDocument

app = typer.Typer(
    name="decompose",
    help="Find, keep and measure the few penultimate features that each class of an image classifier uses.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of classes may not fit the terminal's encoding
    # Importing torch makes a million objects that stay, and the collector would walk through them dozens of times, for
    # a third of a second. It still runs, for what a long training leaves, but a hundred times less often.
    gc.set_threshold(1_000_000, 10, 10)
    try:
        app()
    finally:
        gc.freeze()  # else the collector walks through all of torch once more at exit, for a quarter of a second


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"decompose {decompose_cli.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
@command
def validate(
    inputs: Inputs,
    out: Output,
    indices: Annotated[
        Optional[Path],
        typer.Option(
            "--indices", "-i", metavar="FILE", help="Index file: decompose the head and compare.", show_default=False
        ),
    ] = None,
) -> None:
    """Measure a classifier: with its full head and, given an index file, with a few features per class.

    Example: decompose validate resnet20 -i indices.json
    """
    from decompose_cli import display
    from decompose_cli.engines.validate import validate as run

    path = _checked_output(out)
    document = run(inputs, indices)
    display.show_validation(out.terminal, document)
    _finish(out, document, path, inputs)


@app.command("extract-indices")
@command
def extract_indices(
    inputs: Inputs,
    out: Output,
    k: Annotated[
        str,
        typer.Option(
            "-k", "--k", metavar="K[,K...]", help="Features per class; or a fraction, as 0.9, of the class's total."
        ),
    ] = "5",
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="frequency|mean|mass|contribution|weight",
            help="How features are scored; frequency is the published method.",
        ),
    ] = "frequency",
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            metavar="published|document",
            help="Index files with the indices only, or with D and where they come from.",
        ),
    ] = "published",
) -> None:
    """Find the k penultimate features that each class uses most, over the training images.

    Writes an index file for 'validate -i'. With several k, --output is a folder.

    Example: decompose extract-indices resnet20 -k 5,10,20 -o indices/
    """
    from decompose_cli import display
    from decompose_cli.decomposition.ranking import parse_k, parse_method
    from decompose_cli.engines.extract_indices import extract_indices as run
    from decompose_cli.errors import InputError
    from decompose_cli.files import check_writable, new_folder
    from decompose_cli.results import default_names

    if layout not in ("published", "document"):
        raise InputError(f"--layout {layout!r} is unknown; choose published or document.")
    ks = parse_k(k)

    def extract(file: Path | None, folder: Path | None) -> None:
        result_path = file.with_name(f"{file.stem}.result.json") if file else folder / "result.json" if folder else None
        for path in (file, result_path):
            if path is not None:
                check_writable(path, overwrite=out.overwrite)
        document = run(
            inputs,
            ks,
            parse_method(method),
            output=file,
            folder=folder,
            document=layout == "document",
            overwrite=out.overwrite,
        )
        display.show_indices(out.terminal, document)
        _finish(out, document, result_path)

    if out.path is not None and len(ks) > 1 and out.path.suffix == ".json":
        raise InputError(f"With several values of k --output is a folder, and {out.path} is named as a file.")
    if out.path is not None and (len(ks) > 1 or out.path.is_dir()):
        extract(None, out.path)
    elif out.path is not None or out.json:
        extract(out.path, None)
    else:
        with new_folder(default_names("extract-indices", *_model_and_dataset(inputs), suffix="")) as folder:
            extract(None, folder)


@app.command()
@command
def demo(inputs: Inputs, out: Output) -> None:
    """See the whole idea in a minute: by default on a network and images that ship with decompose, no downloads.

    Extracts five features per class, decomposes the head, measures what that costs, and varies k from 1 to 64. With a
    MODEL it does the same for that network.
    """
    from decompose_cli import display
    from decompose_cli.engines.demo import demo as run
    from decompose_cli.errors import InputError
    from decompose_cli.files import check_folder_writable, new_folder
    from decompose_cli.results import default_names

    def show(folder: Path) -> None:
        result = run(inputs, folder)
        display.show_indices(out.terminal, result.extracted)
        display.show_validation(out.terminal, result.validated)
        display.show_curve(out.terminal, result.curve)
        out.terminal.print(f"Written to {folder}")
        if out.json:
            documents: dict[str, ResultDocument[Any]] = {
                "extract-indices": result.extracted,
                "validate": result.validated,
                "accuracy-by-k": result.curve,
            }
            _print_json({name: document.model_dump(mode="json") for name, document in documents.items()})

    if out.path is None:
        with new_folder(default_names("demo", suffix="")) as folder:
            show(folder)
        return
    check_folder_writable(out.path)
    if out.path.exists() and any(out.path.iterdir()) and not out.overwrite:
        raise InputError(f"The folder {out.path} is not empty.", hint="Add --overwrite to write into it.")
    show(out.path)


@app.command()
@command
def models(out: Output) -> None:
    """List the networks known by name, their weights and their stated accuracy."""
    from decompose_cli import display
    from decompose_cli.models.registry import registered_models

    entries = registered_models()
    display.show_models(out.terminal, entries)
    if out.json:
        _print_json([entry.facts() for entry in entries])


@app.command()
@command
def layers(
    out: Output,
    model: Annotated[
        Optional[str],
        typer.Argument(metavar="MODEL", help="As for every command; its weights are not needed.", show_default=False),
    ] = None,
    head: Annotated[
        Optional[str], typer.Option("--head", metavar="NAME", help="Mark this one.", show_default=False)
    ] = None,
    input_size: Annotated[
        Optional[str], typer.Option("--input-size", metavar="N|HxW", help="Default: the network's.", show_default=False)
    ] = None,
) -> None:
    """List the modules of a network with their output shapes; marks the head and the layer for activation maps."""
    from decompose_cli import display
    from decompose_cli.engines.layers import list_layers

    found = list_layers(model, head=head, input_size=input_size)
    display.show_layers(out.terminal, found)
    if out.json:
        _print_json(asdict(found))


@app.command()
@command
def datasets(
    out: Output,
    data_dir: Annotated[
        Optional[Path],
        typer.Option("--data-dir", metavar="DIR", help="Default: $DECOMPOSE_DATA, else data/.", show_default=False),
    ] = None,
) -> None:
    """List the data sets: which are there, where decompose looked, and how to get the others."""
    from decompose_cli import display
    from decompose_cli.engines.datasets import list_datasets

    found = list_datasets(data_dir)
    display.show_datasets(out.terminal, found)
    if out.json:
        _print_json([asdict(status) for status in found])


@app.command()
@command
def cache(
    out: Output,
    clear: Annotated[bool, typer.Option("--clear", help="Delete the computed features.")] = False,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than", metavar="DAYS", min=0, help="With --clear: only what is older.", show_default=False
        ),
    ] = 0,
) -> None:
    """List or clear the features that were computed before; downloaded weights are never cleared."""
    from decompose_cli import display
    from decompose_cli.engines.cache import clear_cache, list_cache

    if clear:
        count, size = clear_cache(older_than)
        out.terminal.print(f"Deleted {count} files, {size / 1e6:.1f} MB.")
        if out.json:
            _print_json({"deleted": count, "bytes": size})
        return
    status = list_cache()
    display.show_cache(out.terminal, status)
    if out.json:
        _print_json(asdict(status))


def _model_and_dataset(inputs: Inputs) -> tuple[str, str]:
    """For the name of a result file."""
    from decompose_cli.models.registry import DEFAULT_MODEL, registered_models

    model = inputs.model or (Path(inputs.weights).stem if inputs.weights else DEFAULT_MODEL)
    usual = {entry.name: entry.dataset for entry in registered_models()}.get(model)
    return model, inputs.dataset or usual or "default"


def _checked_output(out: Output) -> Path | None:
    """The file given with ``--output``; one that cannot be written is refused before any work is done."""
    from decompose_cli.files import check_writable

    if out.path is not None:
        check_writable(out.path, overwrite=out.overwrite)
    return out.path


def _finish(out: Output, document: ResultDocument[Any], path: Path | None, inputs: Inputs | None = None) -> None:
    """Write the document to ``path``; without one, under a new name in ``results/`` unless it goes to stdout."""
    from decompose_cli.files import write_under_new_name
    from decompose_cli.results import default_names

    if path is not None:
        document.write(path)
    elif inputs is not None and not out.json:
        names = default_names(document.command, *_model_and_dataset(inputs))
        path = write_under_new_name(names, document.to_json())
    if path is not None:
        out.terminal.print(f"Result written to {path}")
    if out.json:
        _print_json(document.model_dump(mode="json"))


def _print_json(value: Any) -> None:
    """Print JSON to stdout, escaped where the terminal's encoding could not show every name."""
    from decompose_cli.errors import DecomposeError
    from decompose_cli.results import readable_json

    ascii_only = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "") != "utf8"
    try:
        sys.stdout.write(readable_json(value, ascii_only=ascii_only) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise DecomposeError(f"The result could not be printed: {error.strerror or error}.") from error
