"""``decompose sparsify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import METHODS
from decompose_cli.cli.output import RESULT, Output, in_folder, present
from decompose_cli.cli.tables.accuracy import show_setting
from decompose_cli.cli.tables.words import p_value
from decompose_cli.features.inputs import Inputs

if TYPE_CHECKING:
    from decompose_cli.engines.sparsify import SparsifyResults, Versus
    from decompose_cli.storage.result_document import ResultDocument


@command()
def sparsify(
    inputs: Inputs,
    out: Output,
    k: Annotated[
        str, option("-k", "--k", metavar="K[,K...]", help="Features per class, several at once.", show_default=True)
    ] = "5",
    method: Annotated[
        str,
        option(
            "--method",
            metavar=f"auto|{METHODS}",
            help="How features are chosen. auto: by the best of all but elastic-net, on images that are not measured.",
            show_default=True,
        ),
    ] = "auto",
    values: Annotated[
        str,
        option(
            "--values",
            metavar="real|nonnegative|ternary|binary",
            help="Weights on standardised features: any; none below zero; -a, 0, a; or 0, a, with one a for all.",
            show_default=True,
        ),
    ] = "real",
    l2: Annotated[
        Optional[float],
        option("--l2", metavar="STRENGTH", help="Strength of the penalty. Default: chosen, from 0.1 to 0.00001."),
    ] = None,
    toward: Annotated[
        str,
        option("--toward", metavar="zero|dense", help="What the penalty pulls real weights to.", show_default=True),
    ] = "zero",
) -> None:
    """Choose a few features per class and fit their weights anew, on the features of the network as it is.

    Writes result.json and for each k k5/sparse.safetensors, a checkpoint that the other commands take, and
    k5/indices.json into a folder: --output, or a new one in results/.

    Example: decompose sparsify resnet20 -k 1,2,3,5,10
    """
    from decompose_cli.engines.sparsify import SparsifySettings, files_of, parse_whole
    from decompose_cli.engines.sparsify import sparsify as run

    ks = parse_whole(k)
    settings = SparsifySettings(k=ks, method=method, values=values, l2=l2, toward=toward)  # type: ignore[arg-type]

    def work(folder: Path | None) -> None:
        document = run(inputs, settings, folder=folder)
        written = f"Result written to {folder / RESULT}" if folder is not None else None
        present(out, document, lambda: show_sparsify(out.terminal, document), written=written)

    in_folder(out, "sparsify", inputs, (RESULT, *files_of(ks)), work)


def show_sparsify(terminal: Terminal, document: ResultDocument[SparsifyResults]) -> None:
    """Show the heads with both baselines."""
    show_setting(terminal, document)
    results = document.results
    refitted = results.refitted
    low, high = results.original.top1_ci95
    terminal.title(
        f"Images classified correctly, of {results.total} (full head: {results.original.correct}, "
        f"{results.original.top1:.2f}%, 95% interval {low:.2f} to {high:.2f}; the same fitted anew: "
        f"{refitted.point.correct})"
    )
    rows = [
        [
            k,
            head.method,
            str(head.cut.correct),
            str(head.point.correct),
            f"{head.point.top1:.2f}",
            *_versus(head.versus_original),
            *_versus(head.versus_refitted),
            str(head.features),
        ]
        for k, head in results.heads.items()
    ]
    columns = ["k", "Method", "Cut", "Sparse", "Top-1 %", "- full", "p", "- refitted", "p", "Features"]
    terminal.print(make_table(columns, rows, left=2))
    terminal.print("Cut: the same features with the weights of the full head.")
    chosen = results.chosen_on
    what = f"{chosen.images:,} images of {chosen.split}"
    terminal.print(f"Methods and strengths were chosen on {what}; test images chose nothing.")
    for head in results.heads.values():
        if head.checkpoint is not None:
            terminal.print(f"Checkpoint {head.checkpoint}")


def _versus(found: Versus) -> list[str]:
    low, high = found.ci95
    return [f"{found.points:+.2f} [{low:+.2f}, {high:+.2f}]", p_value(found.mcnemar_p).removeprefix("= ")]
