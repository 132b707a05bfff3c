"""``decompose demo``."""

from __future__ import annotations

from collections.abc import Mapping
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

_SIZES, _ROWS = (1, 2, 3, 5, 10), 6
_MORE_SIZES = (20, 50)


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
        show_curve(out.terminal, result.curve, manifest_of(folder))
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


def show_curve(terminal: Terminal, document: ResultDocument[CurveResults], file: Path) -> None:
    """Show the accuracy for a few numbers of features per class.

    Args:
        terminal: The terminal.
        document: The accuracy for every number.
        file: Where all of them are written.
    """
    results = document.results
    rows = [
        [str(k), str(results.by_k[k].correct), f"{results.by_k[k].top1:.2f}"]
        for k in telling_sizes({k: point.correct for k, point in results.by_k.items()}, results.original_correct)
    ]
    terminal.title(
        f"Accuracy with k features per class (full head: {results.original_correct} of {results.total} correct)"
    )
    terminal.print(make_table(["k", "Correct", "Top-1 %"], rows, left=0))
    terminal.print(f"All k up to {max(results.by_k)}: {file}")


def telling_sizes(correct: Mapping[int, int], full: int) -> list[int]:
    """Six numbers of features that tell how accuracy grows, among them the first that gets as many right as all do.

    >>> telling_sizes({k: 10 * k for k in range(1, 65)}, 210)
    [1, 2, 3, 5, 10, 21]

    Args:
        correct: Images that are right, by number of features per class.
        full: Images that the full head gets right.
    """
    enough = [k for k in sorted(correct) if correct[k] >= full][:1]
    wanted = dict.fromkeys((*_SIZES, *enough, *_MORE_SIZES, *sorted(correct)[::-1]))
    return sorted([k for k in wanted if k in correct][:_ROWS])
