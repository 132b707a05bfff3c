"""The catalogue knows what every command leaves behind."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

from decompose_cli.cli.app import app
from decompose_cli.engines.catalogue import RESULTS, results_type

WITHOUT_DOCUMENTS = ["cache", "datasets", "export", "layers", "models", "report"]


def test_every_command_that_leaves_a_document_is_there() -> None:
    commands: Any = typer.main.get_command(app)
    assert set(RESULTS) == set(commands.commands) - set(WITHOUT_DOCUMENTS)


@pytest.mark.parametrize("command", RESULTS)
def test_results_are_models_or_mappings_of_them(command: str) -> None:
    found = results_type(command)
    kinds = [kind for kind in get_args(found) if kind is not str] or [found]
    assert all(issubclass(kind, BaseModel) for kind in kinds)


@pytest.mark.parametrize("command", [*WITHOUT_DOCUMENTS, "none", ""])
def test_other_commands_have_none(command: str) -> None:
    assert results_type(command) is None


def test_engines_are_imported_only_when_asked_for() -> None:
    code = "import sys, decompose_cli.engines.catalogue; print([name for name in sys.modules if 'engines.' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['decompose_cli.engines.catalogue']"
