"""The options that all commands share, written once.

A command is a function whose first two parameters are ``inputs: Inputs`` and ``out: Output``; one that trains may have
``tuning: Tuning`` and ``options: dict[str, str]``, of the network, too. :func:`command` replaces them, for Typer, by the
options that make them up, and turns expected errors into a sentence and an exit code.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from decompose_cli.cli.console import Terminal
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.progress import use_reporter

if TYPE_CHECKING:
    from decompose_cli.cli.options.training import Tuning
    from decompose_cli.features.study import Inputs

NETWORK, IMAGES, COMPUTING, OUTPUT = "Network", "Images", "Computing", "Output"


def option(*names: str, help: str, panel: str, **more: Any) -> Any:
    """An option for Typer, in a panel of the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=more.pop("show_default", False), **more)


# Typer evaluates these at run time, and Python 3.10's typing cannot evaluate "X | None" inside Annotated everywhere.
_INPUTS: dict[str, tuple[Any, Any]] = {
    "weights": (
        Annotated[Optional[str], option("--weights", "-w", metavar="FILE|URL|default|random", panel=NETWORK,
                                         help="Weights of the network. Default: the published ones, downloaded once; for package.module:callable its own.")],
        None,
    ),
    "head": (
        Annotated[Optional[str], option("--head", metavar="NAME", panel=NETWORK,
                                         help="Submodule that is the head, where several could be.")],
        None,
    ),
    "dataset": (
        Annotated[Optional[str], option("--dataset", metavar="NAME|folder:PATH", panel=IMAGES,
                                         help="Images to use. Default: what the network was trained on.")],
        None,
    ),
    "split": (
        Annotated[Optional[str], option("--split", metavar="train|val|test", panel=IMAGES,
                                         help="Part of the data set. Default: test, else val; to extract indices, rank features or measure layers, train.")],
        None,
    ),
    "data_dir": (
        Annotated[Optional[Path], option("--data-dir", metavar="DIR", panel=IMAGES,
                                          help="Where data sets are kept. Default: $DECOMPOSE_DATA, else data/.")],
        None,
    ),
    "no_download": (
        Annotated[bool, option("--no-download", panel=IMAGES, help="Never use the network.")],
        False,
    ),
    "mean": (
        Annotated[Optional[str], option("--mean", metavar="R,G,B", panel=IMAGES,
                                         help="Normalisation for pixel values in [0, 1]. Default: the network's; for one of yours the data set's.")],
        None,
    ),
    "std": (Annotated[Optional[str], option("--std", metavar="R,G,B", panel=IMAGES, help="Likewise.")], None),
    "input_size": (
        Annotated[Optional[str], option("--input-size", metavar="N|HxW", panel=IMAGES,
                                         help="Pixels that the network takes. Default: the network's.")],
        None,
    ),
    "resize": (
        Annotated[Optional[str], option("--resize", metavar="N|HxW", panel=IMAGES,
                                         help="Resize the shorter side to N, or to exactly HxW, before the crop.")],
        None,
    ),
    "crop": (
        Annotated[Optional[str], option("--crop", metavar="N|HxW", panel=IMAGES, help="Centre crop.")],
        None,
    ),
    "interpolation": (
        Annotated[Optional[str], option("--interpolation", metavar="nearest|bilinear|bicubic", panel=IMAGES,
                                         help="Of the resize.")],
        None,
    ),
    "device": (
        Annotated[Optional[str], option("--device", metavar="auto|cpu|cuda[:N]|mps", panel=COMPUTING,
                                         help="Where to compute. Default: auto.")],
        None,
    ),
    "gpu": (
        Annotated[Optional[int], option("--gpu", metavar="N", panel=COMPUTING, help="Short for --device cuda:N.")],
        None,
    ),
    "precision": (
        Annotated[str, option("--precision", metavar="32|bf16", panel=COMPUTING, show_default=True,
                               help="Number format of the network; bf16 is about twice as fast.")],
        "32",
    ),
    "batch_size": (
        Annotated[int, option("--batch-size", "-b", metavar="N", panel=COMPUTING, show_default=True,
                               help="Images read at a time.")],
        256,
    ),
    "workers": (
        Annotated[Optional[int], option("--workers", "-j", metavar="N", panel=COMPUTING,
                                         help="Processes that decode images. Default: one per core, at most 8.")],
        None,
    ),
    "seed": (
        Annotated[int, option("--seed", metavar="N", panel=COMPUTING, show_default=True, help="For everything random: noise, random sets, random weights.")],
        0,
    ),
    "no_cache": (
        Annotated[bool, option("--no-cache", panel=COMPUTING, help="Neither use nor keep computed features.")],
        False,
    ),
}  # fmt: skip

_OUTPUTS: dict[str, tuple[Any, Any]] = {
    "output": (
        Annotated[Optional[Path], option("--output", "-o", metavar="PATH", panel=OUTPUT,
                                          help="Where to write. Default: a new name in results/.")],
        None,
    ),
    "overwrite": (Annotated[bool, option("--overwrite", panel=OUTPUT, help="Replace what --output names.")], False),
    "json": (
        Annotated[bool, option("--json", panel=OUTPUT,
                                help="Print the result document to stdout; write nothing unless --output is given.")],
        False,
    ),
    "quiet": (Annotated[bool, option("--quiet", "-q", panel=OUTPUT, help="Only warnings and errors on stderr.")], False),
    "debug": (Annotated[bool, option("--debug", panel=OUTPUT, help="Show the traceback of an error.")], False),
}  # fmt: skip

_WRITING = ("output", "overwrite")
_JSON_ONLY = (Annotated[bool, option("--json", panel=OUTPUT, help="Print the same as JSON to stdout.")], False)

MODEL = (
    Annotated[
        Optional[str],
        typer.Argument(
            metavar="MODEL",
            help="A name from 'decompose models', any torchvision classifier, or package.module:callable. "
            "Left out: resnet20-digits, which ships with decompose.",
            show_default=False,
        ),
    ],
    None,
)


ORDER = Annotated[
    str,
    typer.Option(
        "--order",
        metavar="highest|lowest",
        help="Which gates csg takes. The publication took the lowest, of features that a class does not use.",
    ),
]


OPEN = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


@dataclass(frozen=True)
class Output:
    """Where results go, and the terminal."""

    terminal: Terminal
    path: Path | None
    overwrite: bool
    json: bool


def command(
    function: Callable[..., None],
    *,
    without: Sequence[str] = (),
    replaced: Mapping[str, tuple[Any, Any]] | None = None,
    writes: bool = False,
) -> Callable[..., None]:
    """Give a command the shared options; see the module.

    Args:
        function: The command.
        without: Names of shared options that it has no use for.
        replaced: Shared options that mean something else there.
        writes: Whether a command that runs no network has ``--output``.
    """
    declared = inspect.signature(function).parameters
    takes_inputs, trains = "inputs" in declared, "tuning" in declared
    bundled = ("inputs", "out", "tuning", "options")
    own = [_evaluated(p, function) for p in declared.values() if p.name not in bundled]
    tuned = {name: value for name, value in _training_options().items() if trains and name not in without}
    tuned |= {name: value for name, value in (replaced or {}).items() if name in tuned}
    chosen = _network_options() if "options" in declared else {}
    shared = {name: value for name, value in _INPUTS.items() if name not in tuned} if takes_inputs else {}
    shared = {name: value for name, value in shared.items() if name not in without}
    if takes_inputs:
        shared = {"model": MODEL, **shared}
    shared |= {name: value for name, value in (replaced or {}).items() if name in shared}
    outputs = _OUTPUTS if takes_inputs or writes else {**_OUTPUTS, "json": _JSON_ONLY}
    outputs = {name: value for name, value in outputs.items() if outputs is _OUTPUTS or name not in _WRITING}
    outputs = {name: value for name, value in outputs.items() if name not in tuned}
    parameters = [_parameter(name, *value) for name, value in {**shared, **chosen}.items()]
    parameters += own
    parameters += [_parameter(name, *value) for name, value in {**tuned, **outputs}.items()]

    @functools.wraps(function)
    def wrapper(**values: Any) -> None:
        tuning = {name: values.pop(name) for name in tuned}
        out = Output(
            Terminal(quiet=values.pop("quiet")),
            tuning.pop("output", None) if trains else values.pop("output", None),
            values.pop("overwrite", False),
            tuning.pop("json") if trains else values.pop("json"),
        )
        given = {name: values.pop(name) for name in shared}
        with _expected_errors(out.terminal, debug=values.pop("debug")), use_reporter(out.terminal):
            if takes_inputs:
                with _interrupts_held_back():
                    values["inputs"] = _inputs(given)
            if trains:
                values["tuning"] = _tuning(tuning)
            if chosen:
                values["options"] = _options({name: values.pop(name) for name in chosen})
            function(out=out, **values)

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _training_options() -> dict[str, tuple[Any, Any]]:
    from decompose_cli.cli.options.training import TRAINING

    return TRAINING


def _network_options() -> dict[str, tuple[Any, Any]]:
    from decompose_cli.cli.options.training import NETWORK_OPTIONS

    return NETWORK_OPTIONS


def _options(given: dict[str, Any]) -> dict[str, str]:
    from decompose_cli.cli.options.training import make_options

    return make_options(given)


def _tuning(given: dict[str, Any]) -> Tuning:
    from decompose_cli.cli.options.training import make_tuning

    return make_tuning(given)


def _evaluated(parameter: inspect.Parameter, function: Callable[..., None]) -> inspect.Parameter:
    """The parameter with its annotation as an object; those of ``inputs`` and ``out`` exist for type checkers only."""
    annotation = eval(parameter.annotation, function.__globals__)
    return parameter.replace(annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _inputs(given: dict[str, Any]) -> Inputs:
    from decompose_cli.features.study import Inputs

    gpu, device = given.pop("gpu"), given.pop("device")
    if gpu is not None and device is not None:
        raise InputError("--gpu and --device say the same thing; give one of them.")
    if gpu is not None and gpu < 0:
        raise InputError(f"--gpu {gpu} is negative.")
    device = f"cuda:{gpu}" if gpu is not None else device or "auto"
    allow_download, use_cache = not given.pop("no_download"), not given.pop("no_cache", False)
    return Inputs(device=device, allow_download=allow_download, use_cache=use_cache, **given)


def discard_stdout() -> None:
    """Let what Python would still flush at exit go nowhere."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115


@contextmanager
def _expected_errors(terminal: Terminal, *, debug: bool) -> Iterator[None]:
    """One sentence and the right exit code instead of a traceback; a traceback only with ``--debug``."""
    try:
        with _termination_as_interrupt():
            yield
    except DecomposeError as error:
        if debug:
            traceback.print_exc()
        terminal.error(error)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        terminal.error(DecomposeError("Interrupted; no file was left half-written."))
        raise typer.Exit(130) from None
    except BrokenPipeError:
        discard_stdout()  # whoever read it has closed it
        raise typer.Exit(1) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            raise
        reason = str(error).strip().splitlines()
        sentence = f"Something unforeseen went wrong: {type(error).__name__}{': ' + reason[0] if reason else ''}"
        terminal.error(DecomposeError(sentence, hint="Add --debug to see where; please report it."))
        raise typer.Exit(1) from error


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Interrupt only when the block is over: raised while torch is imported, interrupts are lost in it or break it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        arrived.append(number)

    # What is ignored (an interrupt of the terminal, by jobs in the background) stays ignored.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in handlers:
        signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            raise KeyboardInterrupt


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
