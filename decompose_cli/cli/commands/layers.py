"""``decompose layers``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.inputs import MODEL_HELP
from decompose_cli.cli.output import Listing, print_json
from decompose_cli.features.inputs import ABOUT_IMAGES, ABOUT_RUNNING

if TYPE_CHECKING:
    from decompose_cli.engines.layers import Layers

_ABOUT_IMAGES = [name for name in ABOUT_IMAGES if name != "input_size"]


@command(
    idle={
        **dict.fromkeys((*_ABOUT_IMAGES, "split"), "no image is looked at"),
        **dict.fromkeys(("device", "gpu", *ABOUT_RUNNING, "threads", "seed", "no_cache"), "nothing is computed"),
    }
)
def layers(
    out: Listing,
    model: Annotated[
        Optional[str],
        typer.Argument(
            metavar="MODEL",
            help=f"{MODEL_HELP}It needs no weights. Default: the one that --weights names, else resnet20-digits.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        Optional[str],
        option(
            "--weights",
            "-w",
            metavar="FILE|URL|default|random",
            help="Weights whose classes, options and decomposed head it gets; FILE may name the network itself.",
        ),
    ] = None,
    ema: Annotated[bool, option("--ema", help="Take the averaged weights of the file.")] = False,
    weights_key: Annotated[
        Optional[str], option("--weights-key", metavar="KEY", help="Place of the weights in the file.")
    ] = None,
    head: Annotated[Optional[str], option("--head", metavar="NAME", help="Submodule to mark as the head.")] = None,
    input_size: Annotated[
        Optional[str], option("--input-size", metavar="N|HxW", help="Pixels of the images. Default: the network's.")
    ] = None,
    features_only: Annotated[bool, option("--features-only", help="List it without its classifier.")] = False,
    no_download: Annotated[bool, option("--no-download", help="Never download anything.")] = False,
) -> None:
    """List the modules of a network with their output shapes; marks the head and the layer for activation maps."""
    from decompose_cli.engines.layers import list_layers

    listed = list_layers(
        model,
        weights=weights,
        ema=ema,
        weights_key=weights_key,
        head=head,
        input_size=input_size,
        allow_download=not no_download,
        features_only=features_only,
    )
    show_layers(out.terminal, listed)
    if out.json:
        print_json(asdict(listed))


def show_layers(terminal: Terminal, listed: Layers) -> None:
    """Show the modules of a network."""
    rows = []
    for layer in listed.layers:
        marks = [mark for mark, is_set in (("head", layer.is_head), ("CAM", layer.is_cam_layer)) if is_set]
        shape = "x".join(map(str, layer.output_shape)) if layer.output_shape else ""
        rows.append([layer.name, layer.kind, ", ".join(marks), shape, f"{layer.parameters:,}"])
    height, width = listed.input_size
    title = f"Modules of {listed.model} for images of {height}x{width} pixels"
    terminal.title(title)
    terminal.print(make_table(["Module", "Kind", "", "Output", "Parameters"], rows, left=3))
    if listed.refusal:
        terminal.warn(listed.refusal)
