"""How options are declared: each once, in a panel of the help, and in a bundle where several make up one object."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Optional

import typer

NETWORK, IMAGES, COMPUTING, OUTPUT = "Network", "Images", "Computing", "Output"
TRAINING, RUN, GATES = "Training", "Run", "Gates"

Declared = tuple[Any, Any]
"""An annotation for Typer, and the default."""


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """An option for Typer; its default is shown only where ``show_default=True`` says so.

    Args:
        names: Flags, the usual one first.
        help: One or two sentences.
        panel: Heading in the help; None for the command's own options.
        more: Further arguments of ``typer.Option``.
    """
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=more.pop("show_default", False), **more)


# Typer evaluates annotations at run time, and Python 3.10's typing cannot evaluate "X | None" inside Annotated.


def text(*names: str, metavar: str, help: str, panel: str | None = None) -> Declared:
    """An option with a text as its value, None where it is not given."""
    return Annotated[Optional[str], option(*names, metavar=metavar, help=help, panel=panel)], None


def number(*names: str, metavar: str, help: str, panel: str | None = None) -> Declared:
    """An option with a whole number as its value, None where it is not given."""
    return Annotated[Optional[int], option(*names, metavar=metavar, help=help, panel=panel)], None


def real(*names: str, metavar: str, help: str, panel: str | None = None) -> Declared:
    """An option with a real number as its value, None where it is not given."""
    return Annotated[Optional[float], option(*names, metavar=metavar, help=help, panel=panel)], None


def switch(*names: str, help: str, panel: str | None = None) -> Declared:
    """An option without a value, False where it is not given."""
    return Annotated[bool, option(*names, help=help, panel=panel)], False


def panel_of(declared: Declared) -> str | None:
    """The panel of the help that an option stands in."""
    (shown,) = declared[0].__metadata__
    panel: str | None = shown.rich_help_panel
    return panel


def hidden(declared: Declared) -> Declared:
    """The same option, of which the help says nothing."""
    shown = copy.copy(declared[0].__metadata__[0])
    shown.hidden = True
    return Annotated[declared[0].__origin__, shown], declared[1]


def with_variable(declared: Declared, variable: str) -> Declared:
    """The same option, which a variable of the environment gives where it is not typed; the help does not say so."""
    shown = copy.copy(declared[0].__metadata__[0])
    shown.envvar, shown.show_envvar = variable, False
    return Annotated[declared[0].__origin__, shown], declared[1]


@dataclass(frozen=True)
class Bundle:
    """The options that make up one object, which a command takes as a parameter of that type.

    Attributes:
        options: The options, by name of the parameter that Typer fills.
        make: Makes the object of the options' values, by the same names.
        leads: Whether the options come before the command's own options in the help, rather than after.
    """

    options: Mapping[str, Declared]
    make: Callable[[dict[str, Any]], Any]
    leads: bool = False
