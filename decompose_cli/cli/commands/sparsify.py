"""``decompose sparsify``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Optional

from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import METHODS, PREDICTIONS
from decompose_cli.cli.output import Output, checked_predictions, in_folder, present, write_predictions
from decompose_cli.cli.tables.sparse import show_heads
from decompose_cli.decomposition.sparse_settings import AUTO, CUTS, LADDER, SLOW
from decompose_cli.features.inputs import Inputs
from decompose_cli.storage.names import RESULT


@command()
def sparsify(
    inputs: Inputs,
    out: Output,
    k: Annotated[
        Optional[str],
        option(
            "-k",
            "--k",
            metavar="K[,K...]",
            help="Features per class, several at once. Default: 5; with --max-drop 1, 2, 3, 5, 7, 10 and so on.",
        ),
    ] = None,
    method: Annotated[
        str,
        option(
            "--method",
            metavar="|".join((AUTO, METHODS, *CUTS)),
            help=(
                f"How features are chosen. auto: by the best of all rankings but {' and '.join(SLOW)}, on images that "
                f"are not measured. {', '.join(CUTS)}: published cuts of the elastic-net path, which --method "
                "elastic-net tries too."
            ),
            show_default=True,
        ),
    ] = "auto",
    indices: Annotated[
        Optional[Path],
        option("--indices", "-i", metavar="FILE", help="Index file that says which features classes have."),
    ] = None,
    features: Annotated[
        Optional[Path],
        option(
            "--features",
            metavar="FILE",
            help="Features from elsewhere (.npz, .safetensors) in place of a network: train_x, train_y, test_x...",
        ),
    ] = None,
    objective: Annotated[
        str,
        option(
            "--objective",
            metavar="loss|qpm",
            help="What chooses the features: the loss of the head, or the objective of QPM, which has binary weights.",
            show_default=True,
        ),
    ] = "loss",
    pool: Annotated[
        Optional[int], option("--pool", metavar="P", help="Features that all classes together may use.")
    ] = None,
    values: Annotated[
        Optional[str],
        option(
            "--values",
            metavar="real|nonnegative|ternary|binary",
            help="Weights on standardised features: any (default); none below zero; -a, 0, a; or 0, a: one a for all.",
        ),
    ] = None,
    l2: Annotated[
        Optional[float],
        option("--l2", metavar="STRENGTH", help="Strength of the penalty. Default: chosen, from 0.1 to 0.00001."),
    ] = None,
    toward: Annotated[
        str,
        option("--toward", metavar="zero|dense", help="What the penalty pulls real weights to.", show_default=True),
    ] = "zero",
    distil: Annotated[
        bool, option("--distil", help="Fit what the full head says of an image in place of its label.")
    ] = False,
    class_weights: Annotated[
        str,
        option(
            "--class-weights",
            metavar="none|balanced",
            help="balanced: all classes count the same in fits, whatever their numbers of images.",
            show_default=True,
        ),
    ] = "none",
    max_drop: Annotated[
        Optional[float],
        option(
            "--max-drop",
            metavar="POINTS",
            help="Keep the smallest k alone whose loss of accuracy is within so many points (one-sided 95% bound).",
        ),
    ] = None,
    max_class_drop: Annotated[
        Optional[float],
        option(
            "--max-class-drop",
            metavar="POINTS",
            help="With --max-drop: and of no class more than this, with 95% confidence for all classes together.",
        ),
    ] = None,
    nec: Annotated[
        bool, option("--nec", help="Measure accuracy at 5, 10, 15, 20, 25 and 30 features per class too.")
    ] = False,
    maps: Annotated[
        bool, option("--maps", help="Look at feature maps, for SID@5 and the locality of --objective qpm.")
    ] = False,
    predictions: PREDICTIONS = None,
) -> None:
    """Choose a few features per class and fit their weights anew, on the features of the network as it is.

    Writes result.json and for each k k5/sparse.safetensors, a checkpoint that the other commands take, and
    k5/indices.json into a folder: --output, or a new one in results/.

    Example: decompose sparsify resnet20 -k 1,2,3,5,10
    """
    from decompose_cli.decomposition.index_set import read_index_set
    from decompose_cli.decomposition.sparse_settings import SparsifySettings, parse_ks
    from decompose_cli.engines.sparsify import files_of
    from decompose_cli.engines.sparsify import sparsify as run

    index_set = None if indices is None else read_index_set(indices)
    settings = SparsifySettings(
        k=parse_ks(k, index_set, max_drop),
        method=method,
        values=values,  # type: ignore[arg-type]
        l2=l2,
        toward=toward,  # type: ignore[arg-type]
        distil=distil,
        class_weights=class_weights,  # type: ignore[arg-type]
        pool=pool,
        objective=objective,  # type: ignore[arg-type]
        indices=index_set,
        max_drop=max_drop,
        max_class_drop=max_class_drop,
        nec=nec,
        maps=maps,
        predictions=predictions is not None,
    )
    checked_predictions(out, predictions)

    def work(folder: Path | None) -> None:
        document = run(inputs, settings, features=features, folder=folder)
        write_predictions(out, document, predictions)
        written = f"Result written to {folder / RESULT}" if folder is not None else None
        present(out, document, lambda: show_heads(out.terminal, document), written=written)

    named = inputs
    if features is not None:
        named = dataclasses.replace(inputs, model="features", dataset=features.stem)
    in_folder(out, "sparsify", named, (RESULT, *files_of(settings.k or LADDER)), work)
