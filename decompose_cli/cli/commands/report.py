"""``decompose report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from decompose_cli.cli.browser import OPEN, show_page
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.output import Output, checked_output, print_json
from decompose_cli.printable import counted


@command()
def report(
    out: Output,
    results: Annotated[
        Optional[list[Path]],
        typer.Argument(
            metavar="[NAME=]RUN|RESULT.json...",
            help="Result files, runs, and folders of them such as results/; NAME is what the page calls one.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[
        Optional[str],
        option("--title", metavar="TEXT", help="Title of the page. Default: what the results are about."),
    ] = None,
    no_images: Annotated[
        bool, option("--no-images", help="Do not look up misclassified images in their data sets.")
    ] = False,
    static: Annotated[
        bool,
        option(
            "--static",
            help="Without the part that computes accuracies anew as features are switched off and on, and the features "
            "that it needs.",
        ),
    ] = False,
    names: Annotated[
        Optional[Path],
        option(
            "--names",
            metavar="FILE",
            help='Names of features: JSON such as {"3": "wheels"}, or CSV with the header feature,name.',
        ),
    ] = None,
    open_page: OPEN = False,
) -> None:
    """Put results on one HTML page that needs nothing else: no network, no other file.

    Takes what any of the commands wrote, in any mix, and shows what there is: accuracies with intervals, curves, which
    classes share which filters, overlap, essentiality, selectivity, confusion, misclassified images, an atlas of
    filters, explanations, trainings, gates, and where every number comes from.

    Example: decompose report results/ -o report.html
    """
    from decompose_cli.page.report import LARGEST
    from decompose_cli.page.report import report as run
    from decompose_cli.storage.files import user_path, write_under_new_name
    from decompose_cli.storage.result_document import default_names

    checked_output(out)
    page = run(
        [user_path(path) for path in results or ()],
        output=out.path,
        title=title,
        overwrite=out.overwrite,
        with_images=not no_images,
        is_live=not static,
        names=names,
    )
    path, count = out.path, len(page.sources)
    if path is None and not out.json:
        path = write_under_new_name(default_names("report", suffix=".html"), page.html)
    if page.size > LARGEST:
        out.terminal.warn(f"The page has {page.size / 1e6:.1f} MB; name fewer results for a smaller one.")
    try:
        out.terminal.print(
            f"{counted(count, 'result')}, {counted(len(page.sections), 'section')}, {page.size / 1e6:.1f} MB"
        )
        if path is not None:
            out.terminal.print(f"Report written to {path}")
    finally:
        if out.json:
            print_json(
                {
                    "file": str(path) if path is not None else None,
                    "bytes": page.size,
                    "sections": [section.id for section in page.sections],
                    "results": [{"file": str(source.path), "command": source.command} for source in page.sources],
                    "pictures_left_out": page.left_out,
                }
            )
    if open_page and path is not None:
        show_page(path)
