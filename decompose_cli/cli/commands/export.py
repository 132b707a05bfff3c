"""``decompose export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

from decompose_cli.cli.console import Terminal
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import OUTPUT, option
from decompose_cli.cli.options.outputs import output_path
from decompose_cli.cli.output import Output, checked_output, model_and_dataset, print_json
from decompose_cli.features.inputs import ABOUT_RUNNING, Inputs
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from decompose_cli.engines.export import Exported

_ABOUT_IMAGES = ("dataset", "columns", "split", "classes", "class_map", "data_dir", "skip_unreadable")
_ABOUT_COMPUTING = ("device", "gpu", *ABOUT_RUNNING, "threads", "no_cache")


@command(
    idle={
        **dict.fromkeys(_ABOUT_IMAGES, "no image is looked at"),
        **dict.fromkeys(_ABOUT_COMPUTING, "the network is written as it is, in float32, by one process"),
    },
    replaced={
        "output": output_path("--output", "-o", metavar="FILE", help="The file. Default: a new name, which is shown.")
    },
)
def export(
    inputs: Inputs,
    out: Output,
    format: Annotated[
        Optional[str],
        option(
            "--format",
            metavar="onnx|safetensors|torchscript",
            panel=OUTPUT,
            help="Kind of file. Default: by the ending of --output; without one, safetensors.",
        ),
    ] = None,
) -> None:
    """Write a network to one file: a program for other software, or a checkpoint that says what it is.

    Takes any weights, full, decomposed or sparse, and measures nothing; the file is compared with the network.

    Example: decompose export -w sparse.safetensors -o sparse.onnx
    """
    from dataclasses import asdict

    from decompose_cli.engines.export import export as run
    from decompose_cli.engines.export import format_of
    from decompose_cli.storage.result_document import default_names
    from decompose_cli.training.export import SUFFIXES

    checked_output(out)
    kind = format_of(out.path, format)
    names = default_names("export", *model_and_dataset(inputs), suffix=SUFFIXES[kind])
    path = out.path or next(name for name in names if not name.exists())
    exported = run(inputs, path, kind)
    try:
        show_export(out.terminal, exported)
    finally:
        if out.json:
            print_json(asdict(exported))


def show_export(terminal: Terminal, exported: Exported) -> None:
    """Show what was written, and how it was compared with the network."""
    head = "decomposed head" if exported.is_decomposed else "full head"
    height, width = exported.input_size
    terminal.print(
        f"Network   {exported.model} for images of {height}x{width} pixels, "
        f"{counted(exported.num_classes, 'class', 'classes')}, {head}",
        f"Weights   {exported.weights}",
    )
    if exported.error is not None:
        terminal.print(f"Compared  logits of random images differ by at most {exported.error:.0e} of the largest")
    terminal.print(f"Written   {exported.file}")
