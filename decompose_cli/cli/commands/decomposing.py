"""Find the features that classes use, decompose, measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from decompose_cli.cli.options.shared import OPEN, ORDER, Output, command
from decompose_cli.cli.output import checked_output, finish, model_and_dataset, print_json

if TYPE_CHECKING:
    from decompose_cli.features.study import Inputs


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
    from decompose_cli.cli.tables import basics as display
    from decompose_cli.engines.validate import validate as run

    path = checked_output(out)
    document = run(inputs, indices)
    finish(out, document, path, inputs, show=lambda: display.show_validation(out.terminal, document))


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
            metavar="frequency|mean|mass|contribution|weight|csg",
            help="How features are scored; frequency is the published method, csg takes the gates in the weights file.",
        ),
    ] = "frequency",
    order: ORDER = "highest",
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
    from decompose_cli.cli.tables import basics as display
    from decompose_cli.decomposition.ranking import parse_k, parse_method, parse_order
    from decompose_cli.engines.extract_indices import extract_indices as run
    from decompose_cli.errors import InputError
    from decompose_cli.storage.files import check_writable, new_folder
    from decompose_cli.storage.result_document import default_names

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
            order=parse_order(order),
            output=file,
            folder=folder,
            document=layout == "document",
            overwrite=out.overwrite,
        )
        finish(out, document, result_path, show=lambda: display.show_indices(out.terminal, document))

    if out.path is not None and len(ks) > 1 and out.path.suffix == ".json":
        raise InputError(f"With several values of k --output is a folder, and {out.path} is named as a file.")
    if out.path is not None and (len(ks) > 1 or out.path.is_dir()):
        extract(None, out.path)
    elif out.path is not None or out.json:
        extract(out.path, None)
    else:
        with new_folder(default_names("extract-indices", *model_and_dataset(inputs), suffix="")) as folder:
            extract(None, folder)


@command
def demo(inputs: Inputs, out: Output, open_page: OPEN = False) -> None:
    """See the whole idea in a minute: by default on a network and images that ship with decompose, no downloads.

    Extracts five features per class, decomposes the head, measures what that costs, and varies k from 1 to 64; looks at
    overlap, essentiality and single images; and puts all of it on one page, report.html. With a MODEL it does the same
    for that network.
    """
    from decompose_cli.cli.commands.reporting import show_page
    from decompose_cli.cli.tables import basics as display
    from decompose_cli.engines.demo import demo as run
    from decompose_cli.errors import InputError
    from decompose_cli.page.report import report
    from decompose_cli.storage.files import check_folder_writable, check_writable, new_folder
    from decompose_cli.storage.result_document import default_names

    def show(folder: Path) -> None:
        page = folder / "report.html"
        check_writable(page, overwrite=True)
        result = run(inputs, folder)
        report([path for name, path in result.files.items() if name != "indices"], output=page, overwrite=True)
        display.show_indices(out.terminal, result.extracted)
        display.show_validation(out.terminal, result.validated)
        display.show_curve(out.terminal, result.curve)
        out.terminal.print(f"Written to {folder}")
        out.terminal.print(f"Report: {page}")
        if out.json:
            print_json({name: document.model_dump(mode="json") for name, document in result.documents().items()})
        if open_page:
            show_page(page)

    if out.path is None:
        with new_folder(default_names("demo", suffix="")) as folder:
            show(folder)
        return
    check_folder_writable(out.path)
    if out.path.exists() and any(out.path.iterdir()) and not out.overwrite:
        raise InputError(f"The folder {out.path} is not empty.", hint="Add --overwrite to write into it.")
    if out.path.exists():
        show(out.path)
        return
    with new_folder(iter([out.path])) as folder:  # which does not stay behind empty
        show(folder)
