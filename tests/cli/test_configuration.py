"""Options from a file: what it may have, what beats it, what has to be typed, and results that are repeated."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import COMMANDS, content, document_of, invoke, only_error, refused, run, warnings_in

from decompose_cli.cli.configuration import NEVER

TOML = sys.version_info >= (3, 11)
needs_toml = pytest.mark.skipif(not TOML, reason="this Python cannot read TOML")


def written(text: str | bytes, name: str = "c.toml") -> str:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def as_json(**values: Any) -> str:
    return written(json.dumps(values), "c.json")


@pytest.fixture
def arguments(warm: None) -> Any:
    """The arguments that a call of 'validate' records, beside those of others."""

    def of(*line: str) -> dict[str, Any]:
        return dict(document_of("validate", "-q", *line)["arguments"])

    return of


def test_every_command_that_opens_a_network_takes_a_configuration() -> None:
    having = {name for name, command in COMMANDS.items() if any(one.name == "config" for one in command.params)}
    assert set(COMMANDS) - having == {"report", "models", "datasets", "cache"}
    assert all("--config" in run(name, "--help").stdout for name in having)


NAMES = ["batch-size = 7", "batch_size = 7", 'batch-size = "7"', "b = 7"]


@needs_toml
@pytest.mark.parametrize("line", NAMES)
def test_keys_are_the_names_of_options(line: str, arguments: Any) -> None:
    assert arguments("--config", written(f"{line}\n"))["batch_size"] == 7


@pytest.mark.usefixtures("warm")
def test_a_configuration_gives_every_kind_of_value() -> None:
    Path("k5.json").write_text(json.dumps({str(digit): [1, 2, 3] for digit in range(10)}), encoding="utf-8")
    file = as_json(model="resnet20-digits", mean=[0.5, 0.5, 0.5], seed=3, indices="k5.json", refit=True, l2=0.01)
    file = written(file and Path(file).read_text(encoding="utf-8"), "c.json")
    document = document_of("validate", "-q", "--config", file)
    wanted = {"model": "resnet20-digits", "mean": "0.5,0.5,0.5", "seed": 3, "indices": "k5.json", "refit": True}
    assert {name: document["arguments"][name] for name in wanted} == wanted
    assert document["arguments"]["l2"] == 0.01
    assert document["environment"]["configuration"] == file


@pytest.mark.usefixtures("warm")
def test_a_list_is_taken_by_options_that_are_repeatable_and_by_those_with_commas() -> None:
    for name in "ab":
        Path(f"{name}.json").write_text(json.dumps({"0": [0, 1], "1": [1, 2]}), encoding="utf-8")
    file = as_json(indices=["a=a.json", "b=b.json"], **{"num-features": 8})
    assert set(document_of("mutual-info", "--config", file)["results"]["sets"]) == {"a", "b"}
    file = as_json(k=[2, 3])
    assert document_of("extract-indices", "-q", "--config", file)["arguments"]["k"] == [2, 3]


@needs_toml
def test_what_is_typed_beats_a_variable_which_beats_the_file(arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written("batch-size = 7\nseed = 7\nworkers = 7\n")
    monkeypatch.setenv("DECOMPOSE_BATCH_SIZE", "8")
    monkeypatch.setenv("DECOMPOSE_SEED", "8")
    found = arguments("--config", file, "--seed", "9")
    assert (found["workers"], found["batch_size"], found["seed"]) == (7, 8, 9)


@needs_toml
def test_a_switch_is_true_or_false(arguments: Any) -> None:
    assert arguments("--config", written("no-cache = true\n"))["use_cache"] is False
    assert arguments("--config", written("no-cache = false\n"))["use_cache"] is True


@needs_toml
def test_what_says_the_same_thing_is_beaten_too(arguments: Any) -> None:
    file = written('device = "cpu"\n')
    assert "cuda:0" in only_error(invoke("validate", "--config", file, "--gpu", "0").stderr)
    assert arguments("--config", written("gpu = 0\n"), "--device", "cpu")["device"] == "cpu"
    said = refused(["validate", "--config", written('gpu = 0\ndevice = "cpu"\n')], 2)
    assert "--gpu and --device say the same thing" in said
    file = written("scale-epochs = 0.5\n")
    invoke("train", "resnet8", "--dataset", "digits", "--config", file, "--epochs", "1", "-o", "run", "-q")
    settings = json.loads(Path("run/config.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["epochs"], settings["scale_epochs"]) == (1, None), "the length that is typed beats the file's"


@needs_toml
def test_the_variable_of_the_data_folder_beats_the_file(arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written('data-dir = "there"\n')
    assert arguments("--config", file)["data_dir"] is None
    monkeypatch.delenv("DECOMPOSE_DATA")
    assert arguments("--config", file)["data_dir"] == "there"


def test_an_option_without_effect_is_warned_of() -> None:
    said = invoke("layers", "resnet21", "--config", as_json(split="val"))
    assert any(text.startswith("--split has no effect in 'layers'") for text in warnings_in(said.stderr))


REFUSED = [
    ("bathc-size = 3", "gives 'bathc-size', which is no option of 'validate'."),
    ("k = 3", "gives 'k', which is no option of 'validate'."),
    ('batch-size = "many"', "--batch-size 'many' of the configuration"),
    ("batch-size = 2.5", "--batch-size '2.5' of the configuration"),
    ("batch-size = [1, 2]", "--batch-size '1,2' of the configuration"),
    ("batch-size = []", "gives --batch-size a list, which is neither a text nor a number."),
    ("batch-size = true", "gives --batch-size true, which is neither a text nor a number."),
    ("split = true", "gives --split true, which is neither a text nor a number."),
    ('ema = "yes"', "gives --ema 'yes', which is neither true nor false."),
    ("ema = 1", "gives --ema a whole number, which is neither true nor false."),
    ("l2 = nan", "gives --l2 nan, which is not a finite number."),
    ("mean = [0.1, inf, 0.1]", "gives --mean inf, which is not a finite number."),
    ("mean = [[0.1], 0.2]", "gives --mean a list, which is neither a text nor a number."),
    ("seed = 1979-05-27", "gives --seed a date, which is neither a text nor a number."),
    ("[network]\nmodel = 'x'", "gives 'network', which is no option of 'validate'."),
    ("[head]\nname = 'x'", "gives --head a table, which is neither a text nor a number."),
    ("batch-size = 3\nbatch_size = 3", "gives --batch-size twice, the second time as batch_size."),
    ("batch-size = 3\nbatch-size = 3", "is not valid TOML: Cannot overwrite a value"),
    ("batch-size", "is not valid TOML: "),
    ("seed = 0x" + "f" * 9000, "gives --seed a number with thousands of digits."),
    ("seed = " + "9" * 9000, "is not valid TOML: a number in it has thousands of digits."),
    ("mean = " + "[" * 5000, "is not valid TOML: "),
    ("", "is empty."),
    ("  \n", "is empty."),
    (b"\xff\xfe\x00", "is not a TOML text file."),
    ("seed = 1 #" + "x" * 1_100_000, "and no such file has more than 1 MB."),
    *((f"{name} = true", f"gives {name}, which is never taken from a file.") for name in NEVER),
    ("overwrite = false", "gives overwrite, which is never taken from a file."),
    ('output = "x.json"', "gives output, which is never taken from a file."),
    ('o = "x.json"', "gives o, which is never taken from a file."),
]  # fmt: skip


@needs_toml
@pytest.mark.parametrize(("text", "sentence"), REFUSED, ids=[repr(text)[:40] for text, _ in REFUSED])
def test_what_a_toml_file_may_not_have_is_refused_in_a_sentence(text: str | bytes, sentence: str) -> None:
    command = "train" if b"resume" in (text if isinstance(text, bytes) else text.encode()) else "validate"
    refused([command, "--config", written(text)], 2, sentence)


@needs_toml
def test_comments_alone_give_nothing_and_a_mark_of_byte_order_means_nothing(arguments: Any) -> None:
    assert arguments("--config", written("# nothing\n")) == arguments()
    assert arguments("--config", written(b"\xef\xbb\xbfseed = 3\n"))["seed"] == 3


REFUSED_JSON = [
    ("[1, 2]", "has no names of options."),
    ('"batch-size"', "has no names of options."),
    ("{", "is not valid JSON: "),
    ('{"seed": NaN}', "is not valid JSON: NaN is not a JSON number."),
    ('{"seed": 1, "seed": 1}', "the key 'seed' stands twice."),
    ('{"seed": null}', "gives --seed null, which is neither a text nor a number."),
    ('{"seed": {"a": 1}}', "gives --seed a table, which is neither a text nor a number."),
    ('{"": 1}', "gives '', which is no option of 'validate'."),
    ("[" * 5000, "is not valid JSON: "),
    ("", "is empty."),
    ('{"command": "sweep", "schema_version": 1}', "is a result of 'sweep', so 'validate' cannot be repeated with it."),
    ('{"command": ["validate"], "schema_version": 1}', "so 'validate' cannot be repeated with it."),
    ('{"command": "validate", "schema_version": 2}', "has the schema version 2, and this program reads version 1."),
    ('{"command": "validate", "schema_version": 1, "arguments": 3}', "has no arguments with names."),
    ('{"command": "validate", "schema_version": 1, "arguments": {"later": 3}}',
     "gives 'later', which is no option of 'validate'."),
    ('{"command": "validate", "schema_version": 1, "arguments": {"output": "x.json"}}',
     "gives output, which is never taken from a file."),
    ('{"command": "validate", "schema_version": 1, "arguments": {"overrides": 3}}',
     "is damaged: its overrides are not given by names."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), REFUSED_JSON, ids=[text[:40] for text, _ in REFUSED_JSON])
def test_what_a_json_file_may_not_have_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    refused(["validate", "--config", written(text, "c.json")], 2, sentence)


def test_places_that_are_no_configuration_are_refused_in_a_sentence(tmp_path: Path) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe.json")
    Path("c.yaml").write_text("seed: 3\n", encoding="utf-8")
    Path("empty.json.json").symlink_to("/dev/zero")
    for place, sentence in {
        "missing.toml": "missing.toml does not exist." if TOML else "needs Python 3.11",
        "missing.json": "missing.json does not exist.",
        "missing": "missing does not exist.",
        "folder": "is a folder with neither config.json nor result.json.",
        "c.yaml": "is neither a .toml nor a .json file.",
        "/dev/null": "is neither a .toml nor a .json file.",
        "empty.json.json": "is a device, not a file.",
        "pipe.json": "is a pipe, not a file.",
        "": "the path is empty",
        "a\0b.json": "",
    }.items():
        refused(["validate", "--config", place], 2, sentence, keeps=False)


def test_toml_needs_a_python_that_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    said = refused(["validate", "--config", written("seed = 3\n")], 2, "Reading c.toml needs Python 3.11 or later.")
    assert "Write the configuration as JSON." in said


def test_help_is_shown_whatever_the_configuration_is() -> None:
    assert "Usage" in run("validate", "--config", "missing.json", "--help").stdout


MUST_BE_TYPED = [
    ({"model": "package.module:net"}, "which is Python code of its own"),
    ({"weights": "http://example.org/w.pt"}, "gives --weights the address http://example.org/w.pt"),
    ({"weights": "HTTPS://example.org/w.pt"}, "gives --weights the address HTTPS://example.org/w.pt"),
    ({"dataset": "wds:https://example.org/a.tar"}, "gives --dataset the address wds:https://example.org/a.tar"),
    ({"class_map": "http://example.org/m.csv"}, "gives --class-map the address"),
]


@pytest.mark.parametrize(("given", "sentence"), MUST_BE_TYPED, ids=[str(given) for given, _ in MUST_BE_TYPED])
@pytest.mark.parametrize("is_document", [False, True])
def test_code_and_addresses_are_not_taken_from_a_file(given: Any, sentence: str, is_document: bool) -> None:
    values = {"schema_version": 1, "command": "validate", "arguments": given} if is_document else given
    said = refused(["validate", "--config", as_json(**values)], 2, sentence)
    assert "Hint: If you trust it, type it " in said


def test_code_that_is_typed_is_taken_and_the_rest_is_the_files() -> None:
    Path("own.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    file = as_json(model="own:net", weights="https://example.org/w.pt", head="fc")
    error = only_error(invoke("validate", "own:net", "-w", "random", "--config", file).stderr)
    assert "RuntimeError: imported" in error
    assert "imported" not in only_error(invoke("validate", "-w", "random", "--config", file).stderr)


@pytest.mark.usefixtures("warm")
def test_a_result_repeats_its_command() -> None:
    run("extract-indices", "-k", "5", "-o", "k5.json", "-q")
    run("validate", "-i", "k5.json", "-b", "16", "--no-download", "-o", "first.json", "-q")
    run("validate", "--config", "first.json", "-o", "second.json", "-q")
    first, second = content("first.json"), content("second.json")
    assert first["arguments"] == second["arguments"]
    assert first["results"] == second["results"]
    third = document_of("validate", "--config", "first.json", "-b", "32", "-q")
    assert third["arguments"] == {**first["arguments"], "batch_size": 32}


STUDIES = {
    "extract-indices": ["-k", "3,4", "--method", "mean", "--layout", "document"],
    "essential": ["--repeats", "2", "--controls", "1", "--noise", "zero"],
    "mutual-info": ["-k", "2", "--method", "weight"],
    "selectivity": ["--fraction", "0.4", "--layers", "layer3.2"],
    "sweep": ["--ks", "1,5", "--methods", "weight,mean", "--max-drop", "50"],
    "filters": ["--class", "3", "-k", "2", "--images", "2"],
    "atlas": ["--class", "3", "--class", "4", "-k", "2", "--images", "2"],
    "explain": ["--worst", "1", "-k", "3"],
    "sparsify": ["-k", "2", "--values", "ternary", "--method", "weight"],
}


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", STUDIES)
def test_any_study_is_repeated_by_its_result(command: str, few: str) -> None:
    line = [command, *STUDIES[command], "-q", "--json"]
    if command == "selectivity":
        line += ["--dataset", few]
    first = json.loads(run(*line).stdout)
    Path("first.json").write_text(json.dumps(first), encoding="utf-8")
    second = json.loads(run(command, "--config", "first.json", "-q", "--json").stdout)
    assert second["arguments"] == first["arguments"]


TRAININGS = {
    "train": ["resnet20", "--norm-mode", "group", "--lr", "0.05", "--set", "rise=0.2", "--milestones", "1"],
    "finetune": ["resnet20-digits", "-k", "5", "--method", "mean", "--only", "head", "--seed", "3"],
    "train-gate": ["--gate-map", "plain", "--lr-gate", "0.02", "--label-noise", "0.1"],
    "lr-find": ["--steps", "20", "--set", "optimizer=adam", "-b", "32"],
}


@pytest.mark.parametrize("command", TRAININGS)
def test_any_training_is_repeated_by_its_run(command: str, few: str) -> None:
    data = [] if command == "lr-find" else ["--dataset", few]
    line = [command, *TRAININGS[command], *data, "-q", "-o", "first"]
    run(*line, *([] if command == "lr-find" else ["--epochs", "1", "-b", "8"]))
    files = ["first"] if command == "lr-find" else ["first", "first/config.json", "first/result.json"]
    first = content("first/result.json")
    for number, file in enumerate(files):
        run(command, "--config", file, "-q", "-o", f"again{number}")
        again = content(f"again{number}/result.json")
        for name in ("settings", "model", "dataset", "model_options", "recipe", "ranking", "label_noise"):
            assert again["arguments"].get(name) == first["arguments"].get(name)
        assert again["environment"]["configuration"].startswith("first")


def test_the_result_of_another_command_is_refused(validation: Path) -> None:
    said = refused(["sweep", "--config", str(validation)], 2, "is a result of 'validate', so 'sweep' cannot be")
    assert "a configuration of yours" in said
