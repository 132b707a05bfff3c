"""Every command from end to end: what it prints where, what it writes, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone, tzinfo
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner, Result

import decompose_cli
from decompose_cli.cli.app import app
from decompose_cli.cli.options import shared as options
from decompose_cli.decomposition.index_set import read_index_set
from decompose_cli.errors import DecomposeError
from decompose_cli.models.registry import registered_models
from decompose_cli.storage import result_document as results

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]
RUNNING = ["validate", "extract-indices", "demo"]  # those that run a network
PLAIN = ("validate", "layers", "report", "train")  # a table, a tree, a line, a progress bar


def slow(command: str) -> Any:
    """A command of which others are tests enough where time is short."""
    return pytest.param(command, marks=pytest.mark.slow)


QUICK = [slow(command) if command == "demo" else command for command in RUNNING]
LISTING = {"models": [], "layers": ["resnet20"], "datasets": [], "cache": []}
# What keeps training short.
ARGUMENTS = {
    **LISTING,
    "train": ["resnet8", "--dataset", "digits", "--iterations", "1"],
    "finetune": ["--iterations", "1"],
    "explain": ["--indices-of", "0"],
    "filters": ["--class", "3", "-k", "2", "--images", "2"],
    "train-gate": ["resnet8", "--gate", "exclusive", "--dataset", "digits", "--iterations", "1"],
    "report": ["../results"],
    "lr-find": ["resnet8", "--dataset", "digits", "--steps", "40", "--lowest", "1e-3", "--set", "batch_size=32"],
}
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "sklearn", "PIL", "safetensors", "matplotlib")
DOCUMENT_FIELDS = {
    "schema_version",
    "command",
    "arguments",
    "model",
    "dataset",
    "environment",
    "started_at",
    "seconds",
    "cache",
    "results",
}


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(autouse=True)
def something_to_report(isolated: None, tmp_path: Path, seen: Path) -> None:
    """A result outside the working directory, of which 'report' makes a page."""
    (tmp_path / "results").mkdir()
    shutil.copy(seen, tmp_path / "results")


@pytest.fixture(scope="session")
def seen(warm_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from decompose_cli.engines.validate import validate
    from decompose_cli.features.study import Inputs

    path = tmp_path_factory.mktemp("seen") / "validate.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DECOMPOSE_CACHE", str(warm_cache))
        validate(Inputs()).write(path)
    return path


def errors_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("Error: ")]


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def environment(**changes: str | None) -> dict[str, str]:
    values = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **changes}
    return {name: value for name, value in values.items() if value is not None}


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    command = [sys.executable, "-m", "decompose_cli", *arguments]
    options = {"capture_output": True, "env": environment(), **options}
    return subprocess.run(command, text=True, timeout=100, check=False, **options)


# --- happy paths ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("warm")
def test_validate_without_options_writes_one_document_and_nothing_on_stdout() -> None:
    result = run("validate")
    (file,) = files_below(Path.cwd())
    assert file.startswith("results/validate-")
    assert result.stdout == ""
    assert file in result.stderr
    assert "Correct by class" in result.stderr
    check_validation(json.loads(Path(file).read_text(encoding="utf-8")))


@pytest.mark.usefixtures("warm")
def test_validate_with_indices_compares_both_heads() -> None:
    run("extract-indices", "-k", "5", "-o", "indices.json")
    document = json.loads(run("validate", "-i", "indices.json", "--json").stdout)
    check_validation(document)
    found = document["results"]
    assert {"points", "ci95", "mcnemar_p"} <= set(found["difference"])
    difference = 100 * (found["decomposed"]["correct"] - found["original"]["correct"]) / found["total"]
    assert found["difference"]["points"] == pytest.approx(difference)
    low, high = found["difference"]["ci95"]
    assert low <= difference <= high


def check_validation(document: dict[str, Any]) -> None:
    """The shape of the result document of 'validate' on the digits, and what it must be consistent with."""
    check_document(document, "validate", "test", 360)
    assert {"total", "original", "decomposed", "difference"} <= set(document["results"])
    for head in ("original", "decomposed"):
        found = document["results"][head]
        if found is None:
            continue
        assert {"correct", "top1", "top5", "loss", "per_class", "confusion"} <= set(found)
        assert found["top1"] == pytest.approx(100 * found["correct"] / 360)
        assert found["top5"] is None
        assert [row["name"] for row in found["per_class"]] == [str(digit) for digit in range(10)]
        assert sum(row["correct"] for row in found["per_class"]) == found["correct"]
        assert [sum(row) for row in found["confusion"]] == [row["total"] for row in found["per_class"]]
        assert [row[c] for c, row in enumerate(found["confusion"])] == [r["correct"] for r in found["per_class"]]
    assert document["results"]["total"] == 360
    assert document["results"]["original"]["correct"] >= 353


def check_document(document: dict[str, Any], command: str, split: str, images: int) -> None:
    assert set(document) >= DOCUMENT_FIELDS
    assert document["schema_version"] == 1
    assert document["command"] == command
    model, dataset = document["model"], document["dataset"]
    assert {"name", "num_classes", "num_features", "head", "weights"} <= set(model)
    assert (model["name"], model["num_classes"], model["num_features"]) == ("resnet20-digits", 10, 64)
    assert set(model["weights"]) >= {"source", "sha256"}
    assert len(model["weights"]["sha256"]) == 64
    assert {"name", "split", "images", "fingerprint", "classes", "mean", "std"} <= set(dataset)
    assert (dataset["name"], dataset["split"], dataset["images"]) == ("digits", split, images)
    assert dataset["mean"] == [0.491, 0.482, 0.447]
    assert document["cache"]["features"] in ("hit", "miss", "off")
    assert document["environment"]["torch"] == torch.__version__
    assert document["environment"]["decompose"] == decompose_cli.__version__
    assert datetime.fromisoformat(document["started_at"]).utcoffset() == timezone.utc.utcoffset(None)
    assert document["seconds"] >= 0


@pytest.mark.usefixtures("warm")
def test_extract_indices_writes_an_index_file_that_can_be_used_at_once() -> None:
    result = run("extract-indices", "-k", "7", "-o", "k7.json")
    assert result.stdout == ""
    index_set = read_index_set(Path("k7.json"))
    assert [len(row) for row in index_set.classes] == [7] * 10
    content = json.loads(Path("k7.json").read_text(encoding="utf-8"))
    assert list(content) == [str(c) for c in range(10)], "the published layout"
    run("validate", "-i", "k7.json", "-o", "v.json")


@pytest.mark.usefixtures("warm")
def test_extract_indices_with_several_k_fills_a_folder() -> None:
    run("extract-indices", "-k", "5,10,0.5", "-o", "out")
    names = files_below(Path("out"))
    index_files = [name for name in names if name.endswith("_indices.json")]
    assert [name.rsplit("_k", 1)[1] for name in index_files] == [
        "0.5_indices.json",
        "10_indices.json",
        "5_indices.json",
    ]
    for name in index_files:
        assert read_index_set(Path("out") / name).num_classes == 10


@pytest.mark.usefixtures("warm")
def test_extract_indices_in_our_own_layout_says_where_the_indices_came_from() -> None:
    run("extract-indices", "--layout", "document", "--method", "mass", "-o", "d.json")
    content = json.loads(Path("d.json").read_text(encoding="utf-8"))
    assert content["num_features"] == 64
    assert content["provenance"]["method"] == "mass"
    assert content["provenance"]["model"]["name"] == "resnet20-digits"
    run("validate", "-i", "d.json", "-o", "v.json")


@pytest.mark.usefixtures("warm")
def test_extract_indices_as_json_says_per_k_what_was_found() -> None:
    document = json.loads(run("extract-indices", "-k", "5,10", "--json").stdout)
    check_document(document, "extract-indices", "train", 1437)
    assert set(document["results"]) == {"5", "10"}
    for k, found in document["results"].items():
        assert {"file", "k", "method"} <= set(found)
        assert (found["file"], found["k"], found["method"]) == (None, int(k), "frequency")


@pytest.mark.usefixtures("warm")
def test_demo_writes_its_steps_and_a_page_of_all_into_a_folder() -> None:
    result = run("demo", "-o", "out", "--json")
    names = files_below(Path("out"))
    written = {"k5_indices.json", "explain/result.json", "explain/sheet.png", "report.html"}
    assert written | {f"{name}.json" for name in json.loads(result.stdout)} <= set(names)
    page = Path("out/report.html").read_text(encoding="utf-8")
    sections = set(re.findall('<section id="([^"]+)"', page))
    assert sections == {
        *("glance", "accuracy", "by-k", "filters", "overlap", "essentiality"),
        *("confusion", "mistakes", "looking", "provenance"),
    }
    assert page.count("data:image/webp") == 6 + 9, "six explanations, nine images that the decomposed head gets wrong"
    assert "Report: out/report.html" in result.stderr
    document = json.loads(result.stdout)["accuracy-by-k"]
    assert set(document["results"]["by_k"]) == {str(k) for k in range(1, 65)}
    validated = json.loads(Path("out/validate.json").read_text(encoding="utf-8"))
    check_validation(validated)
    assert document["results"]["by_k"]["5"]["correct"] == validated["results"]["decomposed"]["correct"]
    assert document["results"]["by_k"]["64"]["correct"] == validated["results"]["original"]["correct"]
    assert json.loads(Path("out/accuracy-by-k.json").read_text(encoding="utf-8"))["results"] == document["results"]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("failure", [DecomposeError("No space left"), KeyboardInterrupt()], ids=["disk", "interrupt"])
def test_a_demo_that_fails_half_way_leaves_nothing(failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        assert Path("new/out/validate.json").exists()
        raise failure

    monkeypatch.setattr("decompose_cli.engines.demo.explain", fail)
    run("demo", "-o", "new/out", code=1 if isinstance(failure, DecomposeError) else 130)
    assert not files_below(Path.cwd())
    assert not Path("new/out").exists()


def test_models_lists_the_registry() -> None:
    listed = json.loads(run("models", "--json").stdout)
    assert [entry["name"] for entry in listed] == [entry.name for entry in registered_models()]
    assert {"name", "dataset", "parameters", "num_features", "weights", "accuracy", "source"} <= set(listed[0])
    assert {"resnet20", "resnet1202", "resnet50", "wide_resnet101_2"} <= {entry["name"] for entry in listed}


def test_layers_marks_the_head_and_the_layer_for_activation_maps() -> None:
    layers = json.loads(run("layers", "resnet20", "--json").stdout)["layers"]
    assert [layer["name"] for layer in layers if layer["is_head"]] == ["linear"]
    assert [layer["name"] for layer in layers if layer["is_cam_layer"]] == ["layer3"]
    assert next(layer for layer in layers if layer["is_head"])["output_shape"] == [10]
    assert not files_below(Path.cwd())


def test_datasets_says_what_is_there_and_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    listed = {entry["name"]: entry for entry in json.loads(run("datasets", "--json").stdout)}
    assert {"digits", "cifar10", "cifar100", "imagenet", "tiny-imagenet"} <= set(listed)
    assert listed["cifar10"]["found"] == str(tmp_path / "data" / "cifar-10-batches-py")
    assert listed["cifar100"]["found"] is None
    assert str(tmp_path / "data") in listed["cifar100"]["looked"][0]
    assert str(tmp_path / "data") in run("datasets").stderr
    assert not files_below(Path.cwd())


def test_cache_lists_and_clears(tmp_path: Path) -> None:
    assert json.loads(run("cache", "--json").stdout)["entries"] == []
    run("validate", "--json")
    (entry,) = json.loads(run("cache", "--json").stdout)["entries"]
    assert "resnet20-digits" in entry["description"]
    assert "digits test" in run("cache").stderr
    assert json.loads(run("cache", "--clear", "--older-than", "1", "--json").stdout)["deleted"] == 0
    cleared = json.loads(run("cache", "--clear", "--json").stdout)
    assert cleared == {"deleted": 1, "bytes": entry["size"]}
    assert json.loads(run("cache", "--json").stdout)["entries"] == []
    assert not files_below(tmp_path / "cache" / "features")


# --- where output goes ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_alone_on_stdout_and_writes_nothing(command: str) -> None:
    result = run(command, *ARGUMENTS.get(command, []), "--json")
    json.loads(result.stdout)
    if command not in ("demo", "finetune", "train", "train-gate"):  # their point is the files
        assert not files_below(Path.cwd())
    assert result.stderr, "people still see their tables"


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", [slow(c) if c in ("train-gate", "demo", "explain") else c for c in COMMANDS])
def test_quiet_leaves_nothing_but_the_json(command: str) -> None:
    result = run(command, *ARGUMENTS.get(command, []), "--json", "--quiet")
    assert result.stderr == ""
    json.loads(result.stdout)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", RUNNING)
def test_quiet_without_json_is_silent_and_still_writes(command: str) -> None:
    assert run(command, "-q").output == ""
    assert files_below(Path.cwd())


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
        (("extract-indices", "-k", "5,6", "-o", "out"), "out/resnet20-digits_digits_k6_indices.json"),
        (("demo", "-o", "out"), "out/accuracy-by-k.json"),
    ],
)
def test_output_is_replaced_only_when_asked(arguments: tuple[str, ...], file: str) -> None:
    path = Path(file)
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    refused = run(*arguments, code=2)
    assert refused.stderr.count("Error: ") == 1
    assert "--overwrite" in refused.stderr
    assert files_below(Path.cwd()) == [file]
    assert path.read_text(encoding="utf-8") == "mine"
    run(*arguments, "--overwrite")
    json.loads(path.read_text(encoding="utf-8"))


class StoppedClock(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime(2024, 1, 2, 3, 4, 5, tzinfo=tz)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", QUICK)
def test_default_names_do_not_collide_within_a_second(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "datetime", StoppedClock)
    kept: dict[str, bytes] = {}
    for number in range(1, 4):
        run(command, "-q", *(["-k", str(number)] if command == "extract-indices" else []))
        found = {name: Path(name).read_bytes() for name in files_below(Path.cwd())}
        assert {name: found[name] for name in kept} == kept, "an earlier result was replaced"
        assert len(list(Path("results").iterdir())) == number
        kept = found


@pytest.mark.usefixtures("warm")
def test_default_names_do_not_collide_when_two_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process that starts in the same second, before the first has written, keeps its result too."""
    from decompose_cli.engines import validate as engine

    inner, real = [["validate", "-q", "--split", "train"]], engine.validate

    def validate(*arguments: Any, **more: Any) -> Any:
        if inner:
            run(*inner.pop())
        return real(*arguments, **more)

    monkeypatch.setattr(engine, "validate", validate)
    monkeypatch.setattr(results, "datetime", StoppedClock)
    run("validate", "-q")
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in Path("results").iterdir()]
    assert sorted(document["dataset"]["split"] for document in documents) == ["test", "train"]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", QUICK)
def test_first_line_says_which_network_is_used_when_none_was_named(command: str) -> None:
    assert run(command).stderr.splitlines()[0].startswith("No model was named: using resnet20-digits")
    assert "No model was named" not in run(command, "resnet20-digits").stderr


# --- the same again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("validate",), ("extract-indices", "-k", "5,0.9", "--method", "mean")])
def test_same_command_twice_gives_the_same_bytes(arguments: tuple[str, ...]) -> None:
    def result_bytes() -> bytes:
        text = run(*arguments, "--no-cache", "--json").stdout
        return text[text.index('"results":') :].encode()

    assert result_bytes() == result_bytes()


def test_second_run_makes_no_forward_pass_and_says_so(forbid_forward_passes: Callable[[], None]) -> None:
    first = json.loads(run("validate", "--json").stdout)
    forbid_forward_passes()
    again = run("validate", "--json")
    second = json.loads(again.stdout)
    assert (first["cache"]["features"], second["cache"]["features"]) == ("miss", "hit")
    assert "no forward pass" in again.stderr
    assert first["results"] == second["results"]
    # What is patched is what computes: where anything differs, it is called.
    for different in (["--mean", "0.5,0.5,0.5"], ["--no-cache"], ["--split", "train"], ["--precision", "bf16"]):
        assert "a forward pass was made" in run("validate", *different, code=1).stderr


@pytest.mark.usefixtures("warm")
def test_indices_that_are_tried_one_after_the_other_share_the_features(
    forbid_forward_passes: Callable[[], None],
) -> None:
    forbid_forward_passes()
    run("extract-indices", "-k", "3,4", "-o", "out")
    for k in (3, 4):
        run("validate", "-i", f"out/resnet20-digits_digits_k{k}_indices.json")


# --- start and help ---------------------------------------------------------------------------------------------------


def test_every_help_answers_without_the_heavy_libraries() -> None:
    code = f"""
import sys
from decompose_cli.cli.app import app
for arguments in {[[], *([name] for name in COMMANDS)]!r}:
    for option in ("--help", "-h"):
        try:
            app([*arguments, option], prog_name="decompose")
        except SystemExit as done:
            assert done.code == 0, (arguments, done.code)
assert not [name for name in {LIBRARIES!r} if name in sys.modules], sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: decompose") == 2 * (len(COMMANDS) + 1)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(command: str) -> None:
    text = CliRunner(env={"COLUMNS": "200"}).invoke(app, [command, "--help"]).stdout
    declared = get_command(app).commands[command].params  # type: ignore[attr-defined]
    options = [option for parameter in declared for option in parameter.opts if option.startswith("--")]
    assert {"--json", "--quiet", "--debug"} <= set(options)
    assert all(option in text for option in options)


def test_version_is_the_package_version() -> None:
    assert run("--version").stdout == f"decompose {decompose_cli.__version__}\n"


def test_python_dash_m_is_the_program() -> None:
    done = program("--version")
    assert (done.returncode, done.stdout) == (0, f"decompose {decompose_cli.__version__}\n")


def test_without_arguments_the_commands_are_listed() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert all(command in result.output for command in COMMANDS)


# --- how it fails -----------------------------------------------------------------------------------------------------


def test_debug_shows_the_traceback_of_an_expected_error() -> None:
    done = program("validate", "-i", "none.json", "--debug")
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert "InputError" in done.stderr


@pytest.mark.usefixtures("warm")
def test_a_mistake_of_ours_is_one_sentence_and_a_traceback_with_debug(
    forbid_forward_passes: Callable[[], None],
) -> None:
    forbid_forward_passes()
    result = run("validate", "--no-cache", code=1)
    assert len(errors_in(result.stderr)) == 1
    assert "--debug" in result.stderr
    with_debug = CliRunner().invoke(app, ["validate", "--no-cache", "--debug"])
    assert with_debug.exit_code == 1
    assert isinstance(with_debug.exception, AssertionError)
    assert not files_below(Path.cwd())


# Interrupting is tried on a network that is slow on real batches (tracing uses two images), and says when it is there.
SLOW_NETWORK = """
import pathlib, time
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.out = nn.Linear(12, 10)

    def forward(self, x):
        if len(x) > 2:
            pathlib.Path(r"{started}").touch()
            time.sleep(0.1)
            for _ in range(600):
                time.sleep(0.1)
        return self.out(self.body(x))
"""


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, here and in processes started here, also where the tests run as a job in the background.

    Shells start such jobs with SIGINT ignored, and Python, as all that it starts, then goes on ignoring it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])


@pytest.mark.usefixtures("ctrl_c")
@SIGNALS
def test_interruption_gives_130_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    started, code = tmp_path / "started", tmp_path / "code"
    code.mkdir()
    (code / "slow.py").write_text(SLOW_NETWORK.format(started=started), encoding="utf-8")
    command = [sys.executable, "-m", "decompose_cli", "validate", "slow:Net", "--dataset", "digits", "-o", "v.json"]
    python_path = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=python_path, PYTHONDONTWRITEBYTECODE="1"),
    )
    limit = time.monotonic() + 60
    while not started.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    assert started.exists(), process.communicate()
    process.send_signal(number)
    out, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert out == ""
    assert "Traceback" not in said
    assert said.count("Error: Interrupted") == 1
    assert not files_below(Path.cwd())
    assert not files_below(tmp_path / "cache" / "features")
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Called with a signal, it has that arrive while torch is imported; returns what was done afterwards."""

    def prepare(number: int) -> list[str]:
        done: list[str] = []
        real = options._inputs

        def inputs(given: dict[str, Any]) -> Any:
            os.kill(os.getpid(), number)
            done.append("imported")
            return real(given)

        def run_nothing(*_: Any) -> None:
            done.append("run")

        monkeypatch.setattr(options, "_inputs", inputs)
        monkeypatch.setattr("decompose_cli.engines.validate.validate", run_nothing)
        return done

    return prepare


@pytest.mark.usefixtures("ctrl_c")
@SIGNALS
def test_interruption_waits_until_torch_is_imported(
    number: signal.Signals, signalled: Callable[[int], list[str]]
) -> None:
    """Raised in there it is lost, or torch is left half imported."""
    done = signalled(number)
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    assert errors_in(run("validate", code=130).stderr) == ["Error: Interrupted; no file was left half-written."]
    assert done == ["imported"]
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers


@pytest.mark.usefixtures("ctrl_c")
def test_a_job_in_the_background_ignores_what_interrupts_the_terminal(signalled: Callable[[int], list[str]]) -> None:
    done = signalled(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    CliRunner().invoke(app, ["validate"])
    assert done == ["imported", "run"]


def raising(error: BaseException) -> Callable[..., None]:
    def function(*_: Any, **__: Any) -> None:
        raise error

    return function


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("call", ["os.fsync", "tempfile.mkstemp", "pathlib.Path.replace"])
@pytest.mark.parametrize("command", RUNNING)
def test_full_disk_is_one_sentence_and_leaves_nothing(
    command: str, call: str, monkeypatch: pytest.MonkeyPatch, warm_cache: Path
) -> None:
    full = raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr(call, full)
    if call == "pathlib.Path.replace":  # or, under a name that must not be taken, a hard link
        monkeypatch.setattr("pathlib.Path.hardlink_to", full)
    result = run(command, code=1)
    (error,) = errors_in(result.stderr)
    assert error.startswith("Error: No space left on the disk while writing results/")
    assert not files_below(Path.cwd())
    assert not list(warm_cache.rglob("*.tmp"))


@pytest.mark.usefixtures("warm")
def test_interruption_while_writing_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", raising(KeyboardInterrupt()))
    assert "Interrupted" in run("validate", code=130).stderr
    assert not files_below(Path.cwd())


def test_cache_that_cannot_be_written_costs_a_warning_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any, path: Path, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("decompose_cli.features.cache.save_file", refuse)
    result = run("validate", "--json")
    assert result.stderr.count("Warning: ") == 1
    assert "could not be kept" in result.stderr
    assert json.loads(result.stdout)["results"]["total"] == 360


FULL_STDOUT = """
import errno, io, os, sys

class Full(io.RawIOBase):
    def writable(self):
        return True

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

sys.stdout = io.TextIOWrapper(io.BufferedWriter(Full()), encoding="utf-8")
from decompose_cli.cli.app import main
main()
"""


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", ["models", "validate"])
def test_stdout_on_a_full_disk_is_one_sentence(command: str) -> None:
    arguments = [sys.executable, "-c", FULL_STDOUT, command, "--json", "-q"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False, env=environment())
    assert done.returncode == 1
    (error,) = errors_in(done.stderr)
    assert "No space left" in error
    assert "unforeseen" not in error
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    "arguments", [("models", "--json"), ("validate", "--json"), ("--help",), ("validate", "--help"), ("--version",)]
)
def test_stdout_that_nobody_reads_gives_no_traceback(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = program(*arguments, stdout=writing, stderr=subprocess.PIPE, capture_output=False)
    finally:
        os.close(writing)
    assert done.returncode in (0, 1)
    for unwanted in ("Traceback", "Exception ignored", "BrokenPipe", "Error: "):
        assert unwanted not in done.stderr


# --- terminals --------------------------------------------------------------------------------------------------------

ODD_NAMES = ["[bold]<script>", "café", "žába", "[red]", "日本"]


@pytest.fixture
def odd_classes(tmp_path: Path, make_images: Callable[..., Path]) -> str:
    """A data set of ten classes, some of them with names that terminals and markup trip over."""
    return f"folder:{make_images(tmp_path / 'odd', [*ODD_NAMES, 'f', 'g', 'h', 'i', 'j'], n=1)}"


def test_class_names_are_shown_as_they_are(odd_classes: str) -> None:
    result = run("validate", "resnet20", "-w", "random", "--dataset", odd_classes)
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]
    below = result.stderr[result.stderr.index("Correct by class") :]
    for name in ODD_NAMES:
        assert name in warning
        assert name in below
    (file,) = files_below(Path.cwd())
    document = json.loads(Path(file).read_text(encoding="utf-8"))
    assert set(ODD_NAMES) <= {row["name"] for row in document["results"]["original"]["per_class"]}


def test_class_folder_whose_name_is_no_text_is_refused_or_shown(
    tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    root = make_images(tmp_path / "odd", [chr(ord("a") + number) for number in range(10)], n=1)
    for split in ("train", "test"):
        try:
            (root / split / "a").rename(os.fsdecode(os.fsencode(root / split) + b"/\xff\xfe"))
        except OSError:
            pytest.skip("this file system has no such names")
    result = CliRunner().invoke(app, ["validate", "resnet20", "-w", "random", "--dataset", f"folder:{root}"])
    assert result.exit_code in (0, 2), result.stderr
    assert "unforeseen" not in result.stderr


def test_ascii_terminal_gets_escapes_and_valid_json(odd_classes: str) -> None:
    arguments = ["validate", "resnet20", "-w", "random", "--dataset", odd_classes]
    ascii_only = environment(PYTHONIOENCODING="ascii")
    done = program(*arguments, "--json", env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert "caf\\xe9" in done.stderr
    names = [row["name"] for row in json.loads(done.stdout)["results"]["original"]["per_class"]]
    assert set(ODD_NAMES) <= set(names)


@pytest.mark.parametrize("command", [command if command in PLAIN else slow(command) for command in COMMANDS])
@pytest.mark.usefixtures("warm")
def test_output_to_a_file_has_no_escape_codes(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b" not in run(command, *ARGUMENTS.get(command, [])).output
    assert "\x1b" not in run(command, *ARGUMENTS.get(command, []), "--json").output


def test_error_to_a_file_has_no_escape_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b" not in run("validate", "resnet21", code=2).output


def test_no_color_is_honoured_on_a_terminal() -> None:
    """On a pseudo-terminal an error is red, unless NO_COLOR is set."""
    pty = pytest.importorskip("pty")
    red = "\x1b[1;31m"
    for no_color, expected in ((None, True), ("1", False)):
        main, terminal = pty.openpty()
        done = program(
            "validate",
            "-i",
            "none.json",
            env=environment(NO_COLOR=no_color, TERM="xterm-256color"),
            stdout=subprocess.DEVNULL,
            stderr=terminal,
            capture_output=False,
        )
        os.close(terminal)
        said = os.read(main, 10_000).decode()
        os.close(main)
        assert done.returncode == 2
        assert "none.json does not exist" in said
        assert (red in said) is expected, repr(said)
