"""Study the features that classes use: how many are needed, whether they matter, whether they overlap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from decompose_cli.cli.options.shared import ORDER, Output, command
from decompose_cli.cli.output import checked_output, finish, model_and_dataset, numbered, present

if TYPE_CHECKING:
    from decompose_cli.features.study import Inputs

_CSG = Annotated[
    Optional[str],
    typer.Option(
        "--csg",
        metavar="CHECKPOINT",
        help="Compare with a network trained with class-specific gates, and its gates.",
        show_default=False,
    ),
]
_INDEX_FILES = Annotated[
    Optional[list[str]],
    typer.Option(
        "--indices", "-i", metavar="[NAME=]FILE", help="An index file, used whole; repeatable.", show_default=False
    ),
]


@command
def mutual_info(
    inputs: Inputs,
    out: Output,
    indices: _INDEX_FILES = None,
    csg: _CSG = None,
    k: Annotated[
        Optional[str],
        typer.Option(
            "-k",
            "--k",
            metavar="K[,K...]",
            help="Features per class of sets ranked here. Default: the sizes of the files, else 5,10,20.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="frequency|mean|mass|contribution|weight|csg",
            help="How features are ranked where no files are given.",
        ),
    ] = "frequency",
    order: ORDER = "highest",
    num_features: Annotated[
        Optional[int],
        typer.Option(
            "--num-features",
            metavar="D",
            help="Features to choose from, for files that do not say and no MODEL.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure how much the classes' feature sets overlap: mutual information, Jaccard index, shared features.

    Compares the sets in index files; without any it ranks the features of MODEL first.

    Example: decompose mutual-info -i ours=k5.json -i ours=k10.json --csg best_save_CSG.pth --order lowest
    """
    from decompose_cli.cli.tables import studies as display
    from decompose_cli.decomposition.ranking import parse_k, parse_method, parse_order
    from decompose_cli.engines.mutual_info import mutual_info as run
    from decompose_cli.storage.result_document import default_names

    path = checked_output(out)
    document = run(
        inputs,
        indices or [],
        csg=csg,
        ks=parse_k(k) if k is not None else None,
        method=parse_method(method),
        order=parse_order(order),
        num_features=num_features,
    )
    names = default_names("mutual-info", *(model_and_dataset(inputs) if document.model else ("index-files",)))
    finish(out, document, path, names=names, show=lambda: display.show_overlap(out.terminal, document))


@command
def essential(
    inputs: Inputs,
    out: Output,
    indices: Annotated[
        Optional[Path],
        typer.Option(
            "--indices",
            "-i",
            metavar="FILE",
            help="Features of each class. Default: the k most frequent over the training images.",
            show_default=False,
        ),
    ] = None,
    csg: _CSG = None,
    method: Annotated[
        Optional[list[str]],
        typer.Option(
            "--method",
            metavar="NAME=WEIGHTS[,INDICES]",
            help="The same architecture with other weights, and its index file; repeatable.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[
        Optional[str],
        typer.Option(
            "-k",
            "--k",
            metavar="K",
            help="Features per class ranked here, or a fraction. Default: 5.",
            show_default=False,
        ),
    ] = None,
    order: ORDER = "highest",
    noise: Annotated[
        str, typer.Option("--noise", metavar="gaussian|matched|zero|mean|permute", help="What replaces features.")
    ] = "gaussian",
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="Draws of the noise.")] = 30,
    controls: Annotated[
        int, typer.Option("--controls", metavar="N", help="Random feature sets of the same size to compare with.")
    ] = 100,
) -> None:
    """Put noise on each class's features, and on all its others, and count the images the class still gets.

    Example: decompose essential resnet20 -i indices.json --csg best_save_CSG.pth --order lowest
    """
    from decompose_cli.cli.tables import studies as display
    from decompose_cli.decomposition.ranking import parse_k, parse_order
    from decompose_cli.engines.essential import essential as run
    from decompose_cli.engines.essential import parse_method, parse_noise
    from decompose_cli.errors import InputError

    path = checked_output(out)
    ks = parse_k(k) if k is not None else [None]
    if len(ks) > 1:
        raise InputError(f"-k {k}: essential looks at one k at a time.")
    document = run(
        inputs,
        indices,
        csg=csg,
        methods=[parse_method(text) for text in method or []],
        k=ks[0],
        order=parse_order(order),
        noise=parse_noise(noise),
        repeats=repeats,
        controls=controls,
    )
    names = numbered("results_essential_features")
    finish(out, document, path, names=names, show=lambda: display.show_essentiality(out.terminal, document))


@command
def selectivity(
    inputs: Inputs,
    out: Output,
    layers: Annotated[
        str,
        typer.Option("--layers", metavar="all|NAME[,NAME...]", help="all: the stem and every residual unit."),
    ] = "all",
    fraction: Annotated[
        float, typer.Option("--fraction", metavar="F", help="Share of an image's activation, between 0 and 1.")
    ] = 0.5,
    compare: Annotated[
        Optional[list[str]],
        typer.Option(
            "--compare",
            metavar="[NAME=]WEIGHTS",
            help="The same architecture with other weights; repeatable.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure how few filters of each layer respond to an image, and how much they prefer one class.

    Example: decompose selectivity resnet20 --layers layer3.2 --compare regularized=resnet20-regularized.pth
    """
    from decompose_cli.cli.tables import studies as display
    from decompose_cli.engines.selectivity import selectivity as run

    path = checked_output(out)
    names = [name.strip() for name in layers.split(",") if name.strip()]
    document = run(inputs, layers=names, fraction=fraction, compare=compare or [])
    finish(out, document, path, inputs, show=lambda: display.show_selectivity(out.terminal, document))


@command
def sweep(
    inputs: Inputs,
    out: Output,
    methods: Annotated[
        Optional[str],
        typer.Option(
            "--methods",
            metavar="M[,M...]",
            help="frequency, mean, mass, contribution, weight, csg. Default: all that fit the network.",
            show_default=False,
        ),
    ] = None,
    ks: Annotated[
        Optional[str],
        typer.Option(
            "--ks", metavar="A-B[,K...]", help="Features per class. Default: 1-64, at most D.", show_default=False
        ),
    ] = None,
    indices: _INDEX_FILES = None,
    order: ORDER = "highest",
    max_drop: Annotated[
        Optional[float],
        typer.Option(
            "--max-drop",
            metavar="POINTS",
            help="Look for the smallest index set that loses, on the training images and with 95% confidence, no more.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure accuracy for every number of features per class, and choose the smallest index set within a given loss.

    Writes result.json, curve.png and, with --max-drop, indices.json into a folder: --output, or a new one in results/.

    Example: decompose sweep resnet20 --methods frequency,weight --ks 1-64 --max-drop 0.5
    """
    from decompose_cli.cli.tables import studies as display
    from decompose_cli.decomposition.ranking import parse_order
    from decompose_cli.engines.sweep import parse_ks, parse_methods
    from decompose_cli.engines.sweep import sweep as run
    from decompose_cli.storage.files import check_folder_writable, check_writable, new_folder
    from decompose_cli.storage.result_document import default_names

    def go(folder: Path | None) -> None:
        document = run(
            inputs,
            methods=parse_methods(methods) if methods is not None else None,
            ks=parse_ks(ks) if ks is not None else None,
            files=indices or [],
            order=parse_order(order),
            max_drop=max_drop,
            folder=folder,
        )
        path = folder / "result.json" if folder is not None else None  # the engine has written it, with the curve
        present(out, document, path, show=lambda: display.show_sweep(out.terminal, document))

    if out.path is not None:
        check_folder_writable(out.path)
        for name in ("result.json", "curve.png", "indices.json"):
            check_writable(out.path / name, overwrite=out.overwrite)
        go(out.path)
    elif out.json:
        go(None)
    else:
        with new_folder(default_names("sweep", *model_and_dataset(inputs), suffix="")) as folder:
            go(folder)
