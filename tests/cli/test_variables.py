"""Variables of the environment give the options that commands share."""

from __future__ import annotations

import pytest
from helpers.command_line import COMMANDS, document_of, invoke, only_error, refused, run, warnings_in

from decompose_cli.cli.options.elsewhere import VARIABLES
from decompose_cli.cli.options.inputs import INPUTS


def variables_of(command: str) -> dict[str, str]:
    return {one.name: one.envvar for one in COMMANDS[command].params if one.envvar is not None}


def test_every_shared_option_has_its_variable() -> None:
    assert variables_of("validate") == VARIABLES
    assert set(INPUTS.options) - VARIABLES.keys() == {"model", "data_dir", "gpu"}
    assert VARIABLES["batch_size"] == "DECOMPOSE_BATCH_SIZE"
    for command in COMMANDS:
        found = variables_of(command)
        assert found.items() <= VARIABLES.items()
        assert not {"output", "overwrite", "json", "config"} & found.keys()


def test_a_variable_means_the_same_in_every_command() -> None:
    for command in ("train", "finetune", "train-gate", "lr-find"):
        assert not {"batch_size", "precision"} & variables_of(command).keys(), "settings of a recipe"
        assert {"device", "seed", "dataset"} <= variables_of(command).keys()


def test_variables_do_not_fill_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOMPOSE_DEVICE", "cpu")
    assert "DECOMPOSE_DEVICE" not in run("validate", "--help").stdout


@pytest.mark.usefixtures("warm")
def test_results_say_which_variables_had_an_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "variables" not in document_of("validate", "-q")["environment"]
    monkeypatch.setenv("DECOMPOSE_BATCH_SIZE", "9")
    monkeypatch.setenv("DECOMPOSE_SEED", "3")
    monkeypatch.setenv("DECOMPOSE_NO_DOWNLOAD", "1")
    document = document_of("validate", "-q", "--seed", "4")
    assert document["environment"]["variables"] == {"DECOMPOSE_BATCH_SIZE": "9", "DECOMPOSE_NO_DOWNLOAD": "1"}
    assert (document["arguments"]["batch_size"], document["arguments"]["seed"]) == (9, 4)
    assert document["arguments"]["allow_download"] is False


WRONG = [
    ("DECOMPOSE_BATCH_SIZE", "many", "DECOMPOSE_BATCH_SIZE 'many' is not a whole number."),
    ("DECOMPOSE_BATCH_SIZE", " ", "DECOMPOSE_BATCH_SIZE ' ' is not a whole number."),
    ("DECOMPOSE_NO_CACHE", "perhaps", "DECOMPOSE_NO_CACHE 'perhaps' is not true or false."),
    ("DECOMPOSE_CLASS_MAP", " ", "DECOMPOSE_CLASS_MAP ' ' cannot be: the path is empty"),
    ("DECOMPOSE_BATCH_SIZE", "0", "--batch-size 0 is not at least 1."),
    ("DECOMPOSE_DEVICE", "abacus", "--device 'abacus'"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), WRONG)
def test_what_no_variable_can_be_is_refused(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    refused(["validate"], 2, sentence)


@pytest.mark.usefixtures("warm")
def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES.values():
        monkeypatch.setenv(name, "")
    assert document_of("validate", "-q")["arguments"]["batch_size"] == 256


def test_what_is_typed_beats_a_variable_that_says_the_same_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOMPOSE_DEVICE", "cpu")
    assert "cuda:0" in only_error(invoke("validate", "--gpu", "0").stderr)


def test_a_variable_without_effect_is_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOMPOSE_SPLIT", "val")
    assert warnings_in(run("layers", "resnet20").stderr) == []
