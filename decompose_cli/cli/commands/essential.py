"""``decompose essential``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import CSG, ORDER
from decompose_cli.cli.output import Output, checked_output, finish, numbered
from decompose_cli.cli.tables.accuracy import show_setting
from decompose_cli.cli.tables.words import label
from decompose_cli.errors import InputError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from decompose_cli.decomposition.essential_results import EssentialResults, Kept
    from decompose_cli.storage.result_document import ResultDocument

_MOST_CLASSES = 20


@command()
def essential(
    inputs: Inputs,
    out: Output,
    indices: Annotated[
        Optional[Path],
        option(
            "--indices",
            "-i",
            metavar="FILE",
            help="Features of each class. Default: the k most frequent over the training images.",
        ),
    ] = None,
    csg: CSG = None,
    method: Annotated[
        Optional[list[str]],
        option(
            "--method",
            metavar="NAME=WEIGHTS[,INDICES]",
            help="A further row of the tables: the same architecture with other weights, its index file; repeatable.",
        ),
    ] = None,
    k: Annotated[
        Optional[str],
        option("-k", "--k", metavar="K", help="Features per class, or a fraction, for sets ranked here. Default: 5."),
    ] = None,
    order: ORDER = "highest",
    noise: Annotated[
        str,
        option(
            "--noise",
            metavar="gaussian|matched|zero|mean|permute",
            help="What replaces features.",
            show_default=True,
        ),
    ] = "gaussian",
    repeats: Annotated[int, option("--repeats", metavar="N", help="Draws of the noise.", show_default=True)] = 30,
    controls: Annotated[
        int,
        option(
            "--controls", metavar="N", help="Random feature sets of the same size to compare with.", show_default=True
        ),
    ] = 100,
) -> None:
    """Put noise on each class's features, and on all its others, and count the images the class still gets.

    Example: decompose essential resnet20 -i indices.json --csg best_save_CSG.pth --order lowest
    """
    from decompose_cli.decomposition.ranking import parse_order
    from decompose_cli.decomposition.sizes import parse_k
    from decompose_cli.engines.essential import EssentialSettings, parse_method, parse_noise
    from decompose_cli.engines.essential import essential as run

    path = checked_output(out, Path())
    ks = parse_k(k) if k is not None else [None]
    if len(ks) > 1:
        raise InputError(f"{param('k')} {k}: essential looks at one k at a time.")
    settings = EssentialSettings(
        indices=indices,
        csg=csg,
        method=[parse_method(text) for text in method or []],
        k=ks[0],
        order=parse_order(order),
        noise=parse_noise(noise),
        repeats=repeats,
        controls=controls,
    )
    document = run(inputs, settings)
    names = numbered("results_essential_features")
    finish(out, document, path, names=names, show=lambda: show_essentiality(out.terminal, document))


def show_essentiality(terminal: Terminal, document: ResultDocument[EssentialResults]) -> None:
    """Show all methods together, then each of them class by class."""
    show_setting(terminal, document)
    results = document.results
    times = f", {results.repeats} draws" if results.repeats > 1 else ""
    terminal.title(f"Images still assigned to their class, in percent ({results.noise} noise{times})")
    columns = ["Method", "k", "No\nnoise", "Noise on\nfeatures", "Noise on\nothers", "Differ-\nence", "95% interval"]
    columns += ["Random\nsets", "p"]
    rows = []
    for name, kept in results.summary.items():
        low, high = kept.features_per_class
        rows.append(
            [
                label(name, document.arguments["order"], has_gates=name == "csg"),  # no other method may be named so
                f"{low}" if low == high else f"{low}-{high}",
                *_kept_cells(kept),
            ]
        )
    terminal.print(make_table(columns, rows))
    terminal.print(
        "Difference: noise on all other features minus noise on the class's own, in points; the larger, the more the "
        "class rests on its features. ±: standard error over the draws."
    )
    if results.controls:
        terminal.print(
            f"Random sets: the mean difference of {counted(results.controls, 'random set')} of the same size. p: "
            "how often they "
            f"reach the difference of the features, at least {1 / (1 + results.controls):.3g} with so many sets."
        )
    for name, kept in results.summary.items():
        terminal.print(f"{name}: features from {kept.indices}; weights {kept.weights.source}")
    for name in results.summary:
        by_class = results.by_class(name)
        shown = list(by_class)
        more = ""
        if len(shown) > _MOST_CLASSES:
            shown = sorted(shown, key=lambda number: by_class[number].essentiality)[:_MOST_CLASSES]
            more = f", the {_MOST_CLASSES} of {len(by_class)} classes with the smallest difference"
        names = document.dataset.classes if document.dataset else []
        terminal.title(f"{name} by class{more}")
        rows = [[names[int(number)], str(by_class[number].images), *_kept_cells(by_class[number])] for number in shown]
        terminal.print(make_table(["Class", "Images", *columns[2:]], rows))


def _kept_cells(kept: Kept) -> list[str]:
    interval = kept.essentiality_ci95
    return [
        f"{100 * kept.clean / kept.images:.1f}",
        *(
            f"{100 * count / kept.images:.1f}" + ("" if error is None else f" ± {100 * error / kept.images:.1f}")
            for count, error in (
                (kept.noise_at_inf, kept.noise_at_inf_se),
                (kept.noise_at_noninf, kept.noise_at_noninf_se),
            )
        ),
        f"{kept.essentiality:+.1f}",
        "" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}",
        "" if kept.control_mean is None else f"{kept.control_mean:+.1f}",
        "" if kept.p is None else f"{kept.p:.3f}",
    ]
