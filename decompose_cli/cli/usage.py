"""What the parser refuses, as one sentence like any other error, in place of the parser's box."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from decompose_cli.cli.configured import CONFIGURATION
from decompose_cli.cli.console import Terminal
from decompose_cli.errors import InputError, first_few, shortened

HELP = ("-h", "--help")
"""The options that ask for help."""
_KINDS = {
    "valid integer": "a whole number",
    "valid number": "a number",
    "valid float": "a number",
    "valid boolean": "true or false",
}
"""What the parser says of a value, and what it should be."""


@contextmanager
def refused_in_a_sentence(arguments: Sequence[str]) -> Iterator[None]:
    """Show what the parser raises inside the block as a sentence and, where there is one, a hint; exit with code 2.

    Args:
        arguments: What was typed, from which values are quoted.
    """
    try:
        yield
    except InputError as error:
        Terminal().error(error)
        raise typer.Exit(error.exit_code) from error
    except Exception as error:
        # Typer has the parser's errors from click, or from a copy of its own, as its version is.
        if not hasattr(error, "format_message") or type(error).__name__ == "NoArgsIsHelpError":
            raise
        Terminal().error(_sentence(error, arguments))
        raise typer.Exit(InputError.exit_code) from error


def check_values(command: Any, arguments: Sequence[str]) -> None:
    """Refuse an option in the place of the value that the option before it needs; the parser would take it as that.

    Raises:
        InputError: There is one.
    """
    options = [each for each in command.params if each.opts[0].startswith("-")]
    every = {*HELP, *(text for each in options for text in (*each.opts, *each.secondary_opts))}
    takes = {text: not each.is_flag and not each.count for each in options for text in each.opts}
    for typed, value in itertools.pairwise(arguments):
        if typed == "--":
            return
        option = typed
        if re.fullmatch(r"-[a-zA-Z]{2,}", typed) and not any(takes.get(f"-{letter}", True) for letter in typed[1:-1]):
            option = f"-{typed[-1]}"  # the last of several that are written together
        if takes.get(option) and value in every:
            raise InputError(f"{option} needs a value, and {value} after it is an option.")


def _sentence(error: Any, arguments: Sequence[str]) -> InputError:
    if (name := getattr(error, "option_name", None)) is not None and type(error).__name__ == "NoSuchOption":
        return _no_such_option(name, error.ctx)
    if (parameter := getattr(error, "param", None)) is not None and parameter.opts[0].startswith("-"):
        value = _typed(arguments, parameter.opts)
        given = _given_elsewhere(error, parameter) if value is None else f"{parameter.opts[0]} {value!r}"
        kind = next((kind for said, kind in _KINDS.items() if said in error.message), None)
        message = error.message[:1].lower() + error.message[1:].rstrip(".")
        return InputError(f"{given} is not {kind}." if kind is not None else f"{given} cannot be: {message}.")
    said, _, guess = error.format_message().partition(" Did you mean ")
    return InputError(f"{said.rstrip('.')}.", hint=f"Did you mean {guess}" if guess else None)


def _given_elsewhere(error: Any, parameter: Any) -> str:
    """An option that was not typed, with its value and where that is from."""
    option: str = parameter.opts[0]
    if parameter.envvar is not None and (value := os.environ.get(parameter.envvar)):
        return f"{parameter.envvar} {shortened(value)!r}"
    value = (getattr(error.ctx, "default_map", None) or {}).get(parameter.name)
    if value is None:
        return option
    return f"{option} {shortened(str(value))!r} of the configuration {error.ctx.meta[CONFIGURATION]}"


def _no_such_option(name: str, context: Any) -> InputError:
    known = _options(context.command)
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.7)
    commands = getattr(context.parent and context.parent.command, "commands", {})
    having = [other for other, command in commands.items() if name in _options(command)]
    hint = f"'decompose {context.info_name} --help' lists the options." if context.parent else None
    if close:
        hint = f"Did you mean {' or '.join(close)}?"
    if having:
        hint = f"{f'{hint} ' if close else ''}{name} is an option of {first_few(having)}."
    return InputError(f"{context.info_name if context.parent else 'decompose'} has no option {name}.", hint=hint)


def _options(command: Any) -> list[str]:
    """The options of a command that its help shows."""
    return [
        text for each in command.params if not getattr(each, "hidden", False) for text in each.opts if text[:1] == "-"
    ]


def _typed(arguments: Sequence[str], names: Sequence[str]) -> str | None:
    """The value that an option was given last."""
    found = None
    for place, argument in enumerate(arguments):
        name, sign, value = argument.partition("=")
        if name in names:
            found = value if sign else next(iter(arguments[place + 1 :]), found)
    return found
