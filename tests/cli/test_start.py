"""Starting the program: help, version, and what is imported for them."""

from __future__ import annotations

import pytest
from helpers.command_line import COMMANDS, invoke, run
from helpers.processes import program, python

import decompose_cli

LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "sklearn",
    "PIL",
    "safetensors",
    "matplotlib",
    "lightning_fabric",
)


def test_every_help_answers_without_the_heavy_libraries() -> None:
    calls = [*([name, "--help"] for name in COMMANDS), ["--help"], ["-h"], ["validate", "-h"]]
    done = python(f"""
import sys
from decompose_cli.cli.app import app
for arguments in {calls!r}:
    try:
        app(arguments, prog_name="decompose")
    except SystemExit as done:
        assert done.code == 0, (arguments, done.code)
assert not [name for name in {LIBRARIES!r} if name in sys.modules], sorted(sys.modules)
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: decompose") == len(calls)
    for name in COMMANDS:
        assert f"Usage: decompose {name} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(command: str) -> None:
    text = run(command, "--help").stdout
    offered = [parameter for parameter in COMMANDS[command].params if not getattr(parameter, "hidden", False)]
    options = {option for parameter in offered for option in parameter.opts if option[:2] == "--"}
    assert {"--json", "--quiet", "--debug"} <= options
    assert {option for option in options if option not in text} == set()


def test_version_is_the_package_version() -> None:
    assert run("--version").stdout == f"decompose {decompose_cli.__version__}\n"


def test_python_dash_m_is_the_program() -> None:
    done = program("--version")
    assert (done.returncode, done.stdout) == (0, f"decompose {decompose_cli.__version__}\n")


def test_without_arguments_the_commands_are_listed() -> None:
    result = invoke()
    assert result.exit_code == 2
    assert all(command in result.output for command in COMMANDS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_sleep_soon_unless_the_user_says_otherwise(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a variable is set after torch has been imported, nothing looks at it."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    done = python("""
import os, sys
from decompose_cli.cli import app
app.app = lambda: print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
app.main()
""")
    assert done.stdout.split() == [str(expected), "False"], done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_for_a_shell(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: (shell, f"/bin/{shell}"))
    script = run("--show-completion").stdout
    assert "_DECOMPOSE_COMPLETE" in script or "COMPLETE=" in script or "complete" in script


def completed(words: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash is offered where these words are typed, without the heavy libraries."""
    monkeypatch.setenv("_DECOMPOSE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    done = python(f"""
import sys
from decompose_cli.cli import app
sys.argv = ["decompose"]
try:
    app.main()
finally:
    assert not [name for name in {LIBRARIES!r} if name in sys.modules]
""")
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"sweep", "sparsify", "selectivity"} == set(completed("decompose s", monkeypatch))
    assert completed("decompose validate --batch", monkeypatch) == ["--batch-size"]
    assert "--config" in completed("decompose validate --data-dir --json --c", monkeypatch), "nothing is refused"
    assert completed("decompose validate --config missing.toml --batch", monkeypatch) == ["--batch-size"]
