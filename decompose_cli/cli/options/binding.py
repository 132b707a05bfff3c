"""Commands get their options: a parameter whose type is one of :data:`BUNDLES` stands for the options that make it up.

A command is a function such as ``validate(inputs: Inputs, out: Output, indices: ... = None)``. :func:`command` replaces
its parameters of those types, for Typer, by their options; makes the objects of the values; and turns expected errors
into a sentence and an exit code. All other parameters are the command's own options.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from decompose_cli.cli.guard import expected_errors, interrupts_held_back
from decompose_cli.cli.options.declaration import Bundle, Declared, hidden, with_variable
from decompose_cli.cli.options.elsewhere import CONFIG, variable_of
from decompose_cli.cli.options.gates import GATE_SETTINGS
from decompose_cli.cli.options.given import given_path
from decompose_cli.cli.options.inputs import INPUTS
from decompose_cli.cli.options.outputs import LISTING, RESULT, RUN
from decompose_cli.cli.options.training import NETWORK_OPTIONS, TUNING, NetworkOptions, Tuning
from decompose_cli.cli.output import Listing, Output, RunOutput
from decompose_cli.cli.stdout import kept_for_results
from decompose_cli.datasets.listed_once import listed_once
from decompose_cli.errors import DecomposeError, InputError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.messages import use_reporter, warn_no_effect
from decompose_cli.training.gating.settings import GateSettings

BUNDLES: dict[type, Bundle] = {
    Inputs: INPUTS,
    NetworkOptions: NETWORK_OPTIONS,
    GateSettings: GATE_SETTINGS,
    Tuning: TUNING,
    Output: RESULT,
    Listing: LISTING,
    RunOutput: RUN,
}
"""The bundles by the type of the parameter, in the order of the help."""

Command = Callable[..., None]


def command(
    *,
    without: Sequence[str] = (),
    idle: Mapping[str, str] | None = None,
    replaced: Mapping[str, Declared] | None = None,
) -> Callable[[Command], Command]:
    """Give a command the options that its parameters stand for, as the module describes.

    Where two of its bundles have the same option, the later bundle gets it, and the earlier object keeps its default.

    Args:
        without: Names of options in bundles that would ask for what the command cannot do.
        idle: Options in bundles that change nothing in the command, and why: it takes them, so that commands may share
            a script, warns of them, and does not show them in the help.
        replaced: Options in bundles that are declared otherwise for this command.
    """

    def decorate(function: Command) -> Command:
        # Annotations are evaluated, because Typer would not find the names in annotations that are text.
        declared = inspect.signature(function, eval_str=True).parameters
        kinds = {parameter.annotation: name for name, parameter in declared.items() if parameter.annotation in BUNDLES}
        bundles = {kind: bundle for kind, bundle in BUNDLES.items() if kind in kinds}
        known = {name: option for bundle in (INPUTS, *bundles.values()) for name, option in bundle.options.items()}
        left_out = {*without, *(idle or {})}
        owners = {name: kind for kind, bundle in bundles.items() for name in bundle.options if name not in left_out}
        unused = {name: hidden(known[name]) for name in idle or {}}
        if unknown := {*left_out, *(replaced or {})} - known.keys():
            raise ValueError(f"{function.__name__} has no bundle with the options {sorted(unknown)}")
        options = {
            kind: {
                name: (replaced or {}).get(name, option)
                for name, option in bundle.options.items()
                if owners.get(name) is kind
            }
            for kind, bundle in bundles.items()
        }
        spoken = function.__name__.replace("_", "-")
        own = [parameter for parameter in declared.values() if parameter.annotation not in BUNDLES]
        shares = Inputs in bundles or bool(idle)  # its options with other commands
        parameters = [
            *(_parameter(*item) for kind in bundles if bundles[kind].leads for item in options[kind].items()),
            *(_parameter(each.name, (each.annotation, each.default)) for each in own),
            *([_parameter("config", CONFIG)] if shares else []),
            *(_parameter(*item) for kind in bundles if not bundles[kind].leads for item in options[kind].items()),
        ]
        if shares:
            parameters = [_with_variable(parameter) for parameter in parameters]
        parameters += [_parameter(*item) for item in unused.items()]

        @functools.wraps(function)
        def wrapper(**values: Any) -> None:
            values.pop("config", None)  # which has given values by now
            given = {kind: {name: values.pop(name) for name in options[kind]} for kind in bundles}
            in_vain = [name for name, (_, default) in unused.items() if values.pop(name) != default]
            kind_of_output = next(kind for kind in bundles if issubclass(kind, Output))
            out: Output = bundles[kind_of_output].make(given.pop(kind_of_output))
            guarded = expected_errors(out.terminal, debug=out.debug)
            with kept_for_results(), guarded, use_reporter(out.terminal), listed_once():
                if Inputs in bundles:
                    with interrupts_held_back():
                        load_torch()
                _refuse_replacing(out, [*values.values(), *(value for one in given.values() for value in one.values())])
                for name in in_vain:
                    warn_no_effect([name], f"in '{spoken}': {(idle or {})[name]}")
                made = {kinds[kind]: bundles[kind].make(given[kind]) for kind in given}
                run = functools.partial(function, **made, **{kinds[kind_of_output]: out}, **values)
                if Inputs in bundles and Tuning not in bundles:
                    led(made[kinds[Inputs]], run)
                else:
                    run()

        for parameter in parameters:
            _check_paths(parameter.annotation)
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def _refuse_replacing(out: Output, values: Iterable[Any]) -> None:
    """Refuse to replace what the command reads: a file that is its output, or one that goes with the output's folder."""
    if out.path is None or not out.overwrite or not out.path.exists():
        return
    from decompose_cli.storage.file_sets import replaced_with
    from decompose_cli.storage.files import user_path
    from decompose_cli.storage.names import RESULT as DOCUMENT

    goes = {path.resolve() for path in replaced_with(out.path, DOCUMENT)}
    for value in values:
        for text in value if isinstance(value, list | tuple) else [value]:
            whole = str(text) if isinstance(text, str | Path) else ""
            for part in filter(None, (whole, whole.partition("=")[2])):
                with suppress(OSError, ValueError):  # a text that is no path
                    if user_path(part).resolve() in goes:
                        raise InputError(
                            f"{part} is read by this command, so it is not overwritten.",
                            hint=f"Choose another {param('output')}.",
                        )


def _check_paths(annotation: Any) -> None:
    """Have the paths of a parameter checked, and their ``~`` expanded, when they are typed."""
    kind, info = annotation.__origin__, annotation.__metadata__[0]
    while kind is not Path and (inner := [each for each in get_args(kind) if each is not type(None)]):
        (kind,) = inner
    if kind is Path:
        info.parser = given_path


def _parameter(name: str, declared: Declared) -> inspect.Parameter:
    annotation, default = declared
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _with_variable(parameter: inspect.Parameter) -> inspect.Parameter:
    declared = parameter.annotation, parameter.default
    variable = variable_of(parameter.name, declared)
    return parameter if variable is None else _parameter(parameter.name, with_variable(declared, variable))


def led(inputs: Inputs, run: Callable[[], None]) -> None:
    """Run a command that trains nothing, in the first of its processes; the others help it where it runs a network.

    Raises:
        InputError: The processes cannot be started as they were asked for.
    """
    from decompose_cli.processes.cluster import Machines, processes_of
    from decompose_cli.processes.cores import use_threads

    machines = Machines(inputs.devices, inputs.num_nodes)
    processes = processes_of(machines)
    if processes.count == 1:
        use_threads(inputs.threads)
        run()
        return
    from decompose_cli.processes.launch import start
    from decompose_cli.processes.team import on_first

    fabric = start(inputs.device, machines, trains=False)
    use_threads(inputs.threads)
    try:
        on_first(fabric, run)
    except DecomposeError:
        if fabric.is_global_zero:
            raise
        # The first process has said it, and its exit code counts; another that failed would have it killed on its way.


def load_torch() -> None:
    """Import what every command with inputs needs."""
    import decompose_cli.features.study  # noqa: F401
