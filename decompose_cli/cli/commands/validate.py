"""``decompose validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import L2, PREDICTIONS
from decompose_cli.cli.output import (
    Output,
    checked_output,
    checked_predictions,
    finish,
    model_and_dataset,
    write_predictions,
)
from decompose_cli.cli.tables.accuracy import show_validation
from decompose_cli.errors import one_of
from decompose_cli.features.inputs import Inputs


@command()
def validate(
    inputs: Inputs,
    out: Output,
    indices: Annotated[
        Optional[Path],
        option("--indices", "-i", metavar="FILE", help="Index file: decompose the head and compare."),
    ] = None,
    features: Annotated[
        Optional[Path],
        option(
            "--features",
            metavar="FILE",
            help="Features from elsewhere (.npz, .safetensors), on which the head of --weights is measured, without a "
            "network.",
        ),
    ] = None,
    refit: Annotated[
        bool, option("--refit", help="With -i: also fit the weights of its features anew, on training images.")
    ] = False,
    l2: L2 = None,
    temperature: Annotated[
        Optional[str],
        option(
            "--temperature",
            metavar="fit",
            help="fit: divide the logits of each head by the number that calibrates them best on half of the images, "
            "and report on the other half.",
        ),
    ] = None,
    coverage: Annotated[
        Optional[float],
        option(
            "--coverage",
            metavar="SHARE",
            help="Prediction sets that hold the class of so many images, as 0.9 (split conformal): their size for each "
            "head.",
        ),
    ] = None,
    calibrate_on: Annotated[
        Optional[str],
        option(
            "--calibrate-on",
            metavar="half|val",
            help="What temperature and sets are fitted on: half of the images (default), or a split val that neither "
            "network nor head has seen.",
        ),
    ] = None,
    predictions: PREDICTIONS = None,
) -> None:
    """Measure a classifier: with its full head and, given an index file, with a few features per class.

    Example: decompose validate resnet20 -i indices.json
    """
    from decompose_cli.decomposition.calibration import Adjusting
    from decompose_cli.engines.validate import validate as run
    from decompose_cli.storage.result_document import default_names

    path = checked_output(out)
    checked_predictions(out, predictions)
    if temperature is not None:
        one_of(temperature, ("fit",), "temperature")
    adjusting = Adjusting(temperature is not None, coverage, calibrate_on)
    document = run(inputs, indices, features=features, refit=refit, l2=l2, adjusting=adjusting)
    names = None
    if features is not None:
        names = default_names("validate", model_and_dataset(inputs)[0], features.stem)

    def show() -> None:
        write_predictions(out, document, predictions)  # after the document, which a full disk must not cost
        show_validation(out.terminal, document)

    finish(out, document, path, inputs, names, show=show)
