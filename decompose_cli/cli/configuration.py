"""Options that a file gives: a configuration in TOML or JSON, a result document, or the configuration of a run."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decompose_cli.cli.repeated import is_document, options_of
from decompose_cli.errors import InputError, shortened
from decompose_cli.storage.names import CONFIG, RESULT
from decompose_cli.storage.text_files import read_result, read_text

WHAT = "The configuration"
NEVER = ("output", "overwrite", "json", "resume", "config", "predictions")
"""Options that must be typed: what says where files are written, or what is replaced there."""
_MOST_BYTES = 1_000_000  # of a file that a person writes
_DOCUMENTS = (CONFIG, RESULT)


def read_configuration(path: Path, command: str, options: Sequence[Any]) -> dict[str, Any]:
    """What a file gives for the options of a command, as they would be typed, by name of the parameter.

    Args:
        path: The file, or the folder of a run or of a result.
        command: Name of the command.
        options: Its options and arguments, as the parser has them.

    Raises:
        InputError: The file cannot be read, is of another command, or has what is no option, or no value of one.
    """
    try:
        path = _file_of(path)
    except OSError as error:  # of a folder that may not be looked into
        raise InputError(f"{WHAT} {path} cannot be read: {error.strerror or error}.") from error
    content = _content(path)
    if not isinstance(content, dict):
        raise InputError(f"{WHAT} {path} has no names of options.")
    names = _names(options)
    is_repeated = is_document(content)
    if is_repeated:
        content = options_of(content, command, names, path)
    found: dict[str, Any] = {}
    for key, value in content.items():
        option = names.get(key.replace("-", "_"))
        if option is None or option.name in NEVER:
            raise _not_taken(key, option, command, path)
        if option.name in found:
            raise InputError(f"{WHAT} {path} gives {shown_name(option)} twice, the second time as {key}.")
        typed = _typed(value, option, path)
        if not (is_repeated and typed in (option.default, str(option.default))):
            found[option.name] = typed
    if os.environ.get("DECOMPOSE_DATA"):  # a variable beats a file; this one is read elsewhere
        found.pop("data_dir", None)
    return found


def shown_name(option: Any) -> str:
    """An option or argument as a sentence names it."""
    first: str = option.opts[0]
    return first if first.startswith("-") else option.metavar or first.upper()


def _names(options: Sequence[Any]) -> dict[str, Any]:
    """The options by all names that a file may have for them."""
    found = {}
    for option in options:
        for name in (option.name, *option.opts):
            found[name.lstrip("-").replace("-", "_")] = option
    return found


def _not_taken(key: str, option: Any, command: str, path: Path) -> InputError:
    if option is not None:
        return InputError(
            f"{WHAT} {path} gives {shortened(key)}, which is never taken from a file.",
            hint=f"Type {shown_name(option)} itself.",
        )
    return InputError(
        f"{WHAT} {path} gives {shortened(key)!r}, which is no option of '{command}'.",
        hint=f"'decompose {command} --help' lists the options.",
    )


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in _DOCUMENTS:
        if (path / name).exists():
            return path / name
    raise InputError(f"{WHAT} {path} is a folder with neither {' nor '.join(_DOCUMENTS)}.")


def _content(path: Path) -> Any:
    kind = path.suffix.lower()
    if kind == ".json":
        return read_result(path, WHAT)
    if kind == ".toml":
        return _toml(path)
    if not path.exists():
        raise InputError(f"{WHAT} {path} does not exist.")
    raise InputError(
        f"{WHAT} {path} is neither a .toml nor a .json file.",
        hint="A result document and the folder of a run can be named, too.",
    )


def _toml(path: Path) -> Any:
    if sys.version_info < (3, 11):
        raise InputError(f"Reading {path} needs Python 3.11 or later.", hint="Write the configuration as JSON.")
    import tomllib

    text = read_text(path, WHAT, "a TOML text file", most=_MOST_BYTES).removeprefix("\ufeff")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{WHAT} {path} is not valid TOML: its lists lie too deep in one another.") from None
    except ValueError as error:
        reason = shortened(str(error), 200)
        if "int_max_str_digits" in reason:
            reason = "a number in it has thousands of digits"
        raise InputError(f"{WHAT} {path} is not valid TOML: {reason}.") from error


def _typed(value: Any, option: Any, path: Path) -> Any:
    """A value as the parser takes it: a truth value, a text, or a list of texts.

    Raises:
        InputError: The option has no such value.
    """
    where = f"{WHAT} {path} gives {shown_name(option)}"
    if getattr(option, "is_flag", False):
        if isinstance(value, bool):
            return value
        raise InputError(f"{where} {_quoted(value)}, which is neither true nor false.")
    is_several = option.nargs != 1 or getattr(option, "multiple", False)
    if isinstance(value, dict) and option.name == "model_options":
        value = [f"{name}={_text(one, where)}" for name, one in value.items()]
    if isinstance(value, list) and is_several:
        return [_text(one, where) for one in value]
    if isinstance(value, list) and value:
        return ",".join(_text(one, where) for one in value)
    text = _text(value, where)
    return [text] if is_several else text


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{where} {_quoted(value)}, which is neither a text nor a number.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} {value}, which is not a finite number.")
    try:
        return str(value)
    except ValueError:  # of an integer with thousands of digits
        raise InputError(f"{where} a number with thousands of digits.") from None


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int):
        return "a whole number"
    if value is None:
        return "null"
    return shortened(repr(value)) if isinstance(value, str | float) else f"a {type(value).__name__}"


def must_be_typed(value: Any, option: Any, path: Path) -> None:
    """Refuse a value of a file that runs code or asks a server, which a file of somebody else's must not decide.

    Raises:
        InputError: It is such a value.
    """
    from decompose_cli.models.entry import is_user_code

    for text in map(str, value if isinstance(value, list | tuple) else [value]):
        if option.name == "model" and is_user_code(text):
            raise InputError(
                f"{WHAT} {path} names the network {shortened(text)}, which is Python code of its own.",
                hint="If you trust it, type it as MODEL.",
            )
        if "://" in text:
            raise InputError(
                f"{WHAT} {path} gives {shown_name(option)} the address {shortened(text, 200)}, which has to be typed.",
                hint=f"If you trust it, type it after {shown_name(option)}.",
            )
