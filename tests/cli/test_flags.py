"""Parameters in sentences: below the command line by name, on it by a flag that there is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

import decompose_cli
from decompose_cli.cli.app import app
from decompose_cli.cli.flags import flag, with_flags
from decompose_cli.errors import InputError, param

PACKAGE = Path(decompose_cli.__file__).parent

COMMAND_LINES = (
    "decompose train {} --shortcut projection --recipe soft-gates",
    "decompose {} --resume {}",
    "train {} --evaluate -w {} --norm-mode MODE",
    "decompose train --new-head",
    "decompose validate -w FILE --features FEATURES",
    "decompose sparsify --features",
    "decompose sparsify -o FOLDER",
    "decompose atlas -w {} -o looked",
    "validate -i",
)
"""What sentences quote to be typed. Elsewhere below ``cli/`` a parameter goes by its name."""

MAKE_COMMAND_LINES = ("training/config.py",)
"""Modules that write the command of a run down, which has flags."""

FLAG = re.compile(r"(?<![\w-])(?<!var\()(--[a-z][a-z-]*|--{}|-[a-zA-Z])(?![\w-])")


def options() -> dict[str, set[str]]:
    """The flags of every command."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {text for parameter in command.params for text in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in commands.items()
    }


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package, parsed, by its path in it."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def places_of_names() -> dict[str, set[int]]:
    """Functions that take the name of a parameter for their sentences, as ``parameter``, and where among the others."""
    places: dict[str, set[int]] = {"param": {0}}
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
                if "parameter" in names:
                    places.setdefault(node.name, set()).add(names.index("parameter"))
    return places


def named_parameters() -> dict[str, str]:
    """The names of parameters that stand as literals in calls, each with a place where it does."""
    places = places_of_names()
    found: dict[str, str] = {}
    for file, tree in sources().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [node.args[place] for place in places.get(called, ()) if place < len(node.args)]
            if called in places:
                given += [keyword.value for keyword in node.keywords if keyword.arg == "parameter"]
            for value in given:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found.setdefault(value.value, f"{file}:{node.lineno}")
    return found


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The strings of a module, without docstrings, with their lines; what is filled in stands as ``{}``."""
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant):
        return
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.lineno, tree.value
    if isinstance(tree, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in tree.values]
        yield tree.lineno, "".join(map(str, parts))
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(tree, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from literals(child)


def below_the_command_line() -> Iterator[tuple[str, str]]:
    """Strings of the modules below ``cli/``, each with its place."""
    for file, tree in sources().items():
        if not file.startswith(("cli/", *MAKE_COMMAND_LINES)):
            for line, text in literals(tree):
                yield f"{file}:{line}", text


def without_command_lines(text: str) -> str:
    for line in sorted(COMMAND_LINES, key=len, reverse=True):
        text = text.replace(line, "")
    return text


def test_every_parameter_that_is_mentioned_is_an_option() -> None:
    known = set().union(*options().values())
    found = named_parameters()
    assert {"weights", "batch_size", "num_features", "compare", "norm_mode", "input_size", "ks"} <= found.keys()
    assert {name: place for name, place in found.items() if flag(name) not in known} == {}


def test_names_are_found_wherever_they_are_given() -> None:
    places = places_of_names()
    assert places["one_of"] == {2}
    assert places["given_file"] == {1}
    assert places["parse_size"] == {1}


def test_no_sentence_below_the_command_line_has_a_flag() -> None:
    found = {place: text for place, text in below_the_command_line() if FLAG.search(without_command_lines(text))}
    assert found == {}


def test_flags_are_found_in_strings() -> None:
    source = '''
def function(x):
    """Not --this."""
    first = f"Use --that {x} or " f"{x} -k, {'--inner' if x else ''}."
    return first, f"--{x} 3", "plain --one", "var(--ink)", "twenty-one -1 a-b"
'''
    found = [text for _, text in literals(ast.parse(source)) if FLAG.search(text)]
    assert found == ["Use --that {} or {} -k, {}.", "--inner", "--{} 3", "plain --one"]
    assert not FLAG.search(without_command_lines("Use 'train {} --evaluate -w {} --norm-mode MODE'."))
    assert FLAG.search(without_command_lines("Use 'validate -i', or --indices."))


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_quoted_command_lines_are_used_and_right(line: str) -> None:
    assert any(line in text for _, text in below_the_command_line())
    command = line.removeprefix("decompose ").split()[0]
    assert any(set(FLAG.findall(line)) <= known for name, known in options().items() if command in (name, "{}"))


def test_one_error_reads_both_ways() -> None:
    error = InputError(f"{param('k')} and {param('batch_size')} x-y.", hint=f"Give it with {param('class')}.")
    assert (str(error), error.hint) == ("k and batch_size x-y.", "Give it with class.")
    assert with_flags(error.sentence) == "-k and --batch-size x-y."
    assert with_flags(error.advice or "") == "Give it with --class."
