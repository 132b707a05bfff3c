"""The options that say where results go."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Optional

from decompose_cli.cli.console import Terminal
from decompose_cli.cli.options.declaration import OUTPUT, Bundle, option, switch
from decompose_cli.cli.output import Listing, Output, RunOutput

_ALL: dict[str, tuple[Any, Any]] = {
    "quiet": switch("--quiet", "-q", panel=OUTPUT, help="Show only warnings and errors on stderr."),
    "debug": switch("--debug", panel=OUTPUT, help="Show the traceback of an error."),
}
_OVERWRITE = switch("--overwrite", panel=OUTPUT, help="Replace what --output names.")


def output_path(*names: str, metavar: str, help: str) -> tuple[Any, Any]:
    """An option with a path that a command writes, None where it is not given."""
    return Annotated[Optional[Path], option(*names, metavar=metavar, panel=OUTPUT, help=help)], None


def _make(kind: type[Output], given: dict[str, Any]) -> Output:
    return kind(
        terminal=Terminal(quiet=given["quiet"]),
        debug=given["debug"],
        path=given.get("output"),
        overwrite=given.get("overwrite", False),
        json=given["json"],
    )


RESULT = Bundle(
    {
        "output": output_path(
            "--output", "-o", metavar="PATH", help="Where to write. Default: a new name, which is shown."
        ),
        "overwrite": _OVERWRITE,
        "json": switch(
            "--json",
            panel=OUTPUT,
            help="Print the result document to stdout; write nothing unless --output is given.",
        ),
        **_ALL,
    },
    partial(_make, Output),
)
LISTING = Bundle(
    {"json": switch("--json", panel=OUTPUT, help="Print the same as JSON to stdout."), **_ALL}, partial(_make, Listing)
)
RUN = Bundle(
    {
        "output": output_path(
            "--output",
            "-o",
            "--model-dir",
            metavar="DIR",
            help="Run folder. Default: runs/<run-name>; without training, a new file in results/.",
        ),
        "json": switch("--json", panel=OUTPUT, help="Also print the result document to stdout."),
        "overwrite": _OVERWRITE,
        **_ALL,
    },
    partial(_make, RunOutput),
)
