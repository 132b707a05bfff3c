"""``decompose mutual-info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import CSG, INDEX_FILES, METHODS, ORDER
from decompose_cli.cli.output import Output, checked_output, finish, model_and_dataset
from decompose_cli.cli.tables.accuracy import show_setting
from decompose_cli.cli.tables.words import label
from decompose_cli.decomposition.ranking import DEFAULT_METHOD
from decompose_cli.features.inputs import Inputs

if TYPE_CHECKING:
    from decompose_cli.decomposition.overlap_results import MutualInfoResults, SetOverlap
    from decompose_cli.storage.result_document import ResultDocument


@command()
def mutual_info(
    inputs: Inputs,
    out: Output,
    indices: INDEX_FILES = None,
    csg: CSG = None,
    k: Annotated[
        Optional[str],
        option(
            "-k",
            "--k",
            metavar="K[,K...]",
            help="Features per class of sets ranked here. Default: the sizes of the files, else 5,10,20.",
        ),
    ] = None,
    method: Annotated[
        str,
        option(
            "--method", metavar=METHODS, help="How features are ranked where no files are given.", show_default=True
        ),
    ] = DEFAULT_METHOD,
    order: ORDER = "highest",
    num_features: Annotated[
        Optional[int],
        option(
            "--num-features",
            metavar="D",
            help="Number of features to choose from, where neither the files nor a MODEL say it.",
        ),
    ] = None,
) -> None:
    """Measure how much the classes' feature sets overlap: mutual information, Jaccard index, shared features.

    Compares the sets in index files; without any it ranks the features of MODEL first.

    Example: decompose mutual-info -i ours=k5.json -i ours=k10.json --csg best_save_CSG.pth --order lowest
    """
    from decompose_cli.decomposition.ranking import parse_method, parse_order
    from decompose_cli.decomposition.sizes import parse_k
    from decompose_cli.engines.mutual_info import MutualInfoSettings
    from decompose_cli.engines.mutual_info import mutual_info as run
    from decompose_cli.storage.result_document import default_names

    path = checked_output(out)
    settings = MutualInfoSettings(
        indices=indices or (),
        csg=csg,
        k=parse_k(k) if k is not None else None,
        method=parse_method(method),
        order=parse_order(order),
        num_features=num_features,
    )
    document = run(inputs, settings)
    names = default_names("mutual-info", *(model_and_dataset(inputs) if document.model else ("index-files",)))
    finish(out, document, path, names=names, show=lambda: show_overlap(out.terminal, document))


def show_overlap(terminal: Terminal, document: ResultDocument[MutualInfoResults]) -> None:
    """Show mutual information as in the paper, a row per number of features and a column per set, then the overlap."""
    show_setting(terminal, document)
    sets = document.results.sets
    ks = list(dict.fromkeys(k for by_k in sets.values() for k in by_k))
    arguments = document.arguments
    # An index file may have any name; only beside gates that were given is this one theirs.
    from_gates = "csg" if arguments["csg"] is not None else None
    names = {name: label(name, arguments["order"], has_gates=name == from_gates) for name in sets}
    terminal.title(
        "Mutual information of the classes' feature sets, in nats: mean over all pairs, as published, which includes "
        "each class with itself"
    )
    rows = [[k, *(f"{sets[name][k].mean:.8f}" if k in sets[name] else "" for name in sets)] for k in ks]
    terminal.print(make_table(["k", *names.values()], rows))
    terminal.title("Overlap between different classes, and how many classes use a feature")
    columns = ["Set", "k", "Mutual information", "Normalized", "Jaccard", "None", "One", "Several"]
    rows = [_overlap_row(names[name], k, overlap) for name, by_k in sets.items() for k, overlap in by_k.items()]
    terminal.print(make_table(columns, rows, left=2))


def _overlap_row(name: str, k: str, overlap: SetOverlap) -> list[str]:
    means = (overlap.off_diagonal_mean, overlap.normalized_mean, overlap.jaccard_mean)
    return [
        name,
        k,
        *("" if mean is None else f"{mean:.4f}" for mean in means),
        f"{overlap.unused} of {overlap.num_features}",
        str(overlap.exclusive),
        str(overlap.shared),
    ]
