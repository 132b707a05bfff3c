"""``decompose demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.cli.browser import OPEN, show_page
from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.output import Output, print_json
from decompose_cli.cli.tables.accuracy import show_validation
from decompose_cli.cli.tables.indices import show_indices
from decompose_cli.errors import InputError, param
from decompose_cli.features.inputs import Inputs

if TYPE_CHECKING:
    from decompose_cli.engines.demo import CurveResults
    from decompose_cli.storage.result_document import ResultDocument

_CURVE_COLUMNS = 4


@command()
def demo(inputs: Inputs, out: Output, open_page: OPEN = False) -> None:
    """See the whole idea in a minute: by default on a network and images that ship with decompose, no downloads.

    Extracts five features per class, decomposes the head, measures what that costs, and varies k from 1 to 64; looks at
    overlap, essentiality and single images; and puts all of it on one page, report.html. With a MODEL it does the same
    for that network.
    """
    from decompose_cli.engines.demo import demo as run
    from decompose_cli.engines.demo import manifest_of, usual_files
    from decompose_cli.page.report import report
    from decompose_cli.storage.file_sets import check_replaceable, write_result
    from decompose_cli.storage.files import check_folder_writable, new_folder
    from decompose_cli.storage.result_document import default_names

    def show(folder: Path) -> None:
        page = folder / "report.html"
        check_replaceable([*usual_files(folder), page], manifest_of(folder), overwrite=True)
        result = run(inputs, folder)
        documents = [path for name, path in result.files.items() if name != "indices"]
        html = report(documents, unwritten=result.contents).html
        write_result(result.curve, manifest_of(folder), {**result.contents, page: html})
        show_indices(out.terminal, result.extracted)
        show_validation(out.terminal, result.validated)
        show_curve(out.terminal, result.curve)
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
        raise InputError(f"The folder {out.path} is not empty.", hint=f"Add {param('overwrite')} to write into it.")
    if out.path.exists():
        show(out.path)
        return
    with new_folder(iter([out.path])) as folder:  # removed again where the work fails
        show(folder)


def show_curve(terminal: Terminal, document: ResultDocument[CurveResults]) -> None:
    """Show the accuracy for each number of features per class, in columns side by side."""
    results = document.results
    cells = [(str(k), str(point.correct), f"{point.top1:.2f}") for k, point in results.by_k.items()]
    height = -(-len(cells) // _CURVE_COLUMNS)
    across = -(-len(cells) // height)
    cells += [("", "", "")] * (height * across - len(cells))  # where the last column is shorter
    rows = [[text for cell in cells[row::height] for text in cell] for row in range(height)]
    terminal.title(
        f"Accuracy with k features per class (full head: {results.original_correct} of {results.total} correct)"
    )
    terminal.print(make_table(["k", "Correct", "Top-1 %"] * across, rows, left=0))
