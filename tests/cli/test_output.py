"""Where output goes: stdout, stderr and files, and that the same call gives the same again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import COMMANDS, files_below, invoke, run

RUNNING = ["validate", "extract-indices", "demo"]  # those that run a network
KEEPING = ("demo", "export", "finetune", "train", "train-gate")  # their point is the files, also beside --json
# What keeps them short.
ARGUMENTS = {
    "layers": ["resnet20"],
    "train": ["resnet8", "--dataset", "{few}", "--iterations", "1", "--schedule", "constant"],
    "finetune": ["--dataset", "{few}", "--iterations", "1", "--schedule", "constant"],
    "explain": ["--indices-of", "0"],
    "filters": ["--class", "3", "-k", "2", "--images", "2"],
    "atlas": ["-k", "1", "--class", "3", "--images", "2"],
    "train-gate": ["resnet14", "--gate", "l2", "--dataset", "{few}", "--iterations", "1", "--schedule", "constant"],
    "report": ["../validate.json"],
    "compare": ["../one.json", "../other.json"],
    "selectivity": ["--layers", "layer3.2", "--dataset", "{few}"],
    "sparsify": ["--method", "contribution", "--l2", "1e-3"],
    "lr-find": ["resnet8", "--dataset", "{few}", "--steps", "40", "--lowest", "1e-3", "--set", "batch_size=8"],
}


@pytest.fixture
def arguments(command: str, few: str, validation: Path) -> list[str]:
    """The command and what it needs."""
    shutil.copy(validation, "..")
    for name, step in (("one", 1), ("other", 2)):
        rows = {str(number): [number, number + step] for number in range(10)}
        Path(f"../{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return [command, *(argument.format(few=few) for argument in ARGUMENTS.get(command, []))]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_alone_on_stdout_and_writes_nothing(
    command: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are there escape codes, as there would be on a terminal."""
    for variable in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    result = run(*arguments, "--json")
    json.loads(result.stdout)
    assert result.stderr, "people still see their tables"
    assert "\x1b" not in result.output
    if command not in KEEPING:
        assert not files_below()


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "demo"])  # which is long, and is quiet below
def test_quiet_leaves_nothing_but_the_json(arguments: list[str]) -> None:
    result = run(*arguments, "--json", "--quiet")
    assert result.stderr == ""
    json.loads(result.stdout)


@pytest.mark.usefixtures("warm")
def test_json_with_output_does_both_with_the_same_content() -> None:
    result = run("validate", "--json", "-o", "v.json")
    assert result.stdout == Path("v.json").read_text(encoding="utf-8")


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (("validate", "-o", "x.json"), "x.json"),
        (("extract-indices", "-o", "x.json"), "x.json"),
    ],
)
def test_output_is_replaced_only_when_asked_and_then_quietly(arguments: tuple[str, ...], file: str) -> None:
    path = Path(file)
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"0": [1]}', encoding="utf-8")
    refused = run(*arguments, code=2)
    assert refused.stderr.count("Error: ") == 1
    assert "--overwrite" in refused.stderr
    assert files_below() == [file]
    assert path.read_text(encoding="utf-8") == '{"0": [1]}'
    assert run(*arguments, "--overwrite", "-q").output == ""
    json.loads(path.read_text(encoding="utf-8"))


# The demo takes its names from where the others do, and takes long.
NAMED = [pytest.param(name, marks=pytest.mark.slow) if name == "demo" else name for name in RUNNING]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", NAMED)
def test_default_names_do_not_collide_within_a_second(command: str, stopped_clock: str) -> None:
    kept: dict[str, bytes] = {}
    for number in range(1, 4):
        assert run(command, "-q", *(["-k", str(number)] if command == "extract-indices" else [])).output == ""
        found = {name: Path(name).read_bytes() for name in files_below()}
        assert {name: found[name] for name in kept} == kept, "an earlier result was replaced"
        assert len(list(Path("results").iterdir())) == number
        kept = found
    assert all(stopped_clock in path.name for path in Path("results").iterdir())


@pytest.mark.usefixtures("warm", "stopped_clock")
def test_default_names_do_not_collide_when_two_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process that starts in the same second, before the first has written, keeps its result too."""
    from decompose_cli.engines import validate as engine

    inner, real = [["validate", "-q", "--split", "train"]], engine.validate

    def validate(*arguments: Any, **more: Any) -> Any:
        if inner:
            run(*inner.pop())
        return real(*arguments, **more)

    monkeypatch.setattr(engine, "validate", validate)
    run("validate", "-q")
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in Path("results").iterdir()]
    assert sorted(document["dataset"]["split"] for document in documents) == ["test", "train"]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", NAMED)
def test_first_line_says_which_network_is_used_when_none_was_named(command: str) -> None:
    assert run(command).stderr.splitlines()[0].startswith("No model was named: using resnet20-digits")
    assert "No model was named" not in run(command, "resnet20-digits").stderr


# --- the same again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("validate",), ("extract-indices", "-k", "5,0.9", "--method", "mean")])
def test_same_command_twice_gives_the_same_bytes(arguments: tuple[str, ...]) -> None:
    def result_bytes() -> bytes:
        text = run(*arguments, "--split", "test", "--no-cache", "--json").stdout
        return text[text.index('"results":') :].encode()

    assert result_bytes() == result_bytes()


def test_second_run_makes_no_forward_pass_and_says_so(few: str, forbid_forward_passes: Callable[[], None]) -> None:
    command = ("validate", "--dataset", few, "--json")
    first = json.loads(run(*command).stdout)
    forbid_forward_passes()
    again = run(*command)
    second = json.loads(again.stdout)
    assert (first["cache"]["features"], second["cache"]["features"]) == ("miss", "hit")
    assert "no forward pass" in again.stderr
    assert first["results"] == second["results"]
    # What is patched is what computes: where anything differs, it is called.
    for different in (["--mean", "0.5,0.5,0.5"], ["--no-cache"], ["--split", "train"], ["--precision", "bf16"]):
        failed = invoke(*command, *different)
        assert failed.exit_code == 1
        assert "a forward pass was made" in failed.stderr


@pytest.mark.usefixtures("warm")
def test_indices_that_are_tried_one_after_the_other_share_the_features(
    forbid_forward_passes: Callable[[], None],
) -> None:
    forbid_forward_passes()
    run("extract-indices", "-k", "3,4", "-o", "out")
    for k in (3, 4):
        run("validate", "-i", f"out/resnet20-digits_digits_k{k}_indices.json")
