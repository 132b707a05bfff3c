"""Look at what a network sees."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from decompose_cli.cli.options.shared import Output, command
from decompose_cli.cli.output import model_and_dataset, print_json

if TYPE_CHECKING:
    from decompose_cli.features.study import Inputs


INDICES = Annotated[
    Optional[Path],
    typer.Option("--indices", "-i", metavar="FILE", help="Index file: the filters of each class.", show_default=False),
]
FILTERS_PER_CLASS = Annotated[
    Optional[int],
    typer.Option(
        "-k", "--k", metavar="K", help="Without -i: the K highest weights of a class. Default: 5.", show_default=False
    ),
]

# Gradients are those of the network as it is, in float32.
explain_command = functools.partial(command, without=("precision",))


@explain_command
def explain(
    inputs: Inputs,
    out: Output,
    images: Annotated[
        Optional[list[Path]],
        typer.Argument(metavar="[IMAGE]...", help="Image files; or see --indices-of and --worst.", show_default=False),
    ] = None,
    indices_of: Annotated[
        Optional[str],
        typer.Option(
            "--indices-of", metavar="N[,N...]", help="Images of the data set by number, from 0.", show_default=False
        ),
    ] = None,
    worst: Annotated[
        Optional[int],
        typer.Option(
            "--worst", metavar="N", help="The N images of the data set with the highest loss.", show_default=False
        ),
    ] = None,
    indices: INDICES = None,
    k: FILTERS_PER_CLASS = None,
    layer: Annotated[
        Optional[str],
        typer.Option("--layer", metavar="NAME", help="Of Grad-CAM. Default: the last with maps.", show_default=False),
    ] = None,
) -> None:
    """Show where a network looks: Grad-CAM, and the map of the class's own filters beside that of all others.

    For networks that average maps over positions the two maps add up to the logit exactly. Writes a PNG file for each
    image, one with all of them, and result.json into a folder: --output, or a new one in results/.

    Example: decompose explain resnet20 --dataset cifar10 --worst 12 -i indices.json
    """
    from decompose_cli.cli.tables import looking as display
    from decompose_cli.engines.explain import SHEET
    from decompose_cli.engines.explain import explain as run
    from decompose_cli.errors import InputError

    if inputs.model is not None and Path(inputs.model).is_file():
        if inputs.weights is None:
            raise InputError(f"The network comes before its images: decompose explain MODEL {inputs.model}")
        images = [Path(inputs.model), *(images or [])]  # the weights say which network they are of
        inputs = dataclasses.replace(inputs, model=None)
    numbers = _numbers(indices_of)
    if k is not None and k < 1:
        raise InputError(f"-k {k} is not at least 1.")

    def go(folder: Path | None) -> None:
        document: Any = run(
            inputs,
            images or (),
            numbers=numbers,
            worst=worst,
            indices=indices,
            k=k,
            layer=layer,
            folder=folder,
            overwrite=out.overwrite,
        )
        display.show_explanations(out.terminal, document)
        if folder is not None:
            out.terminal.print(f"Written to {folder}: {SHEET}, a PNG file for each image, result.json")
        if out.json:
            print_json(document.model_dump(mode="json"))

    _in_folder(out, "explain", inputs, ("result.json", SHEET), go)


@command
def filters(
    inputs: Inputs,
    out: Output,
    wanted: Annotated[
        Optional[str],
        typer.Option("--class", metavar="NAME", help="The class, by name or number.", show_default=False),
    ] = None,
    indices: INDICES = None,
    k: FILTERS_PER_CLASS = None,
    images: Annotated[int, typer.Option("--images", metavar="N", help="For each filter.")] = 8,
) -> None:
    """Show what the filters of a class respond to: the test images with their highest values, and who shares them.

    Writes filters.png and result.json into a folder: --output, or a new one in results/.

    Example: decompose filters resnet20 --class cat -i indices.json
    """
    from decompose_cli.cli.tables import looking as display
    from decompose_cli.engines.filters import SHEET
    from decompose_cli.engines.filters import filters as run
    from decompose_cli.errors import InputError

    if wanted is None:
        raise InputError("Say of which class with --class NAME.")
    if k is not None and k < 1:
        raise InputError(f"-k {k} is not at least 1.")

    def go(folder: Path | None) -> None:
        document: Any = run(inputs, wanted, indices=indices, k=k, images=images, folder=folder)
        if folder is not None:
            document.write(folder / "result.json")
        display.show_filters(out.terminal, document)
        if folder is not None:
            out.terminal.print(f"Written to {folder}: {SHEET}, result.json")
        if out.json:
            print_json(document.model_dump(mode="json"))

    _in_folder(out, "filters", inputs, (SHEET, "result.json"), go)


def _in_folder(
    out: Output, command_name: str, inputs: Inputs, names: Sequence[str], go: Callable[[Path | None], None]
) -> None:
    """Do the work with the folder of ``--output``, a new one in ``results/``, or none where JSON is printed instead."""
    from decompose_cli.storage.files import check_folder_writable, check_writable, new_folder
    from decompose_cli.storage.result_document import default_names

    if out.path is not None:
        check_folder_writable(out.path)
        for name in names:
            check_writable(out.path / name, overwrite=out.overwrite)
        go(out.path)
    elif out.json:
        go(None)
    else:
        with new_folder(default_names(command_name, *model_and_dataset(inputs), suffix="")) as folder:
            go(folder)


def _numbers(text: str | None) -> list[int] | None:
    from decompose_cli.errors import InputError

    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise InputError(f"--indices-of {text!r} is not a list of numbers such as 0,5,9.")
    return [int(word) for word in words]
