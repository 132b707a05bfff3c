"""compare from end to end: what it prints, what it writes, and what it does not touch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command_line import COMMANDS, content, files_below, only_error, row_of, run, warnings_in

from decompose_cli.cli.commands.compare import show_comparison
from decompose_cli.cli.console import Terminal
from decompose_cli.decomposition.compare_results import CompareResults
from decompose_cli.decomposition.index_set import IndexSet, write_index_set
from decompose_cli.storage.result_document import ResultDocument

pytestmark = pytest.mark.usefixtures("warm")

LINE = ["compare", "a=k5.json", "b=w5.json", "--model", "resnet20-digits"]


@pytest.fixture(autouse=True)
def sets() -> None:
    run("extract-indices", "-k", "5", "-o", "k5.json", "-q")
    run("extract-indices", "-k", "5", "--method", "weight", "-o", "w5.json", "-q")
    for name in ("k5", "w5"):
        Path(f"{name}.result.json").unlink()


def test_tables_go_to_stderr_and_only_json_to_stdout() -> None:
    result = run(*LINE, "--json")
    document = json.loads(result.stdout)
    found = document["results"]
    assert document["command"] == "compare"
    assert document["arguments"]["files"] == ["a=k5.json", "b=w5.json"]
    assert files_below() == ["k5.json", "w5.json"]
    top, rest = result.stderr.split("Accuracy of each head")
    heads, rest = rest.split("Features: mean Jaccard")
    assert top.count("full head") == 2
    assert "Others" not in top
    one = found["differences"][2]
    low, high = one["ci95"]
    assert row_of(top, "a") == [
        *("a", "b", f"{one['points']:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{one['mcnemar_p']:.4f}"),
        *(str(one["only_first_correct"]), str(one["only_second_correct"])),
    ]
    full = found["differences"][0]["worst_class"]
    assert f"{document['dataset']['classes'][full['number']]} {full['points']:+.2f}" in top
    head = found["heads"]["b"]
    low, high = head["top1_ci95"]
    counts = [f"{head['correct']} of 360", f"{head['top1']:.2f}", f"{low:.2f} to {high:.2f}"]
    assert row_of(heads, "b") == ["b", "cut", "of the network", *counts]
    pair = found["set_differences"][0]
    whole, by_class = rest.split("Features by class: a and b")
    used = [str(len(pair[name])) for name in ("used_by_both", "used_by_first", "used_by_second")]
    assert row_of(whole, "a") == ["a", "b", f"{pair['jaccard_mean']:.3f}", f"{pair['equal_classes']} of 10", *used]
    row = pair["classes"][2]
    lists = [" ".join(map(str, row[name])) for name in ("both", "only_first", "only_second")]
    assert row_of(by_class, "2") == ["2", *lists, f"{row['jaccard']:.3f}"]
    quiet = run(*LINE, "--json", "-q")
    assert quiet.stderr == ""
    assert json.loads(quiet.stdout)["results"] == found


def test_features_from_the_cache_need_no_forward_pass(forbid_forward_passes: Callable[[], None]) -> None:
    forbid_forward_passes()
    assert json.loads(run(*LINE, "--json").stdout)["cache"]["features"] == "hit"


def test_results_are_named_after_command_network_data_and_time(stopped_clock: str) -> None:
    run(*LINE)
    run("compare", "k5.json", "w5.json")
    names = [f"compare-index-files-{stopped_clock}.json", f"compare-resnet20-digits-digits-{stopped_clock}.json"]
    assert files_below("results") == names


def test_a_file_is_replaced_only_when_asked_and_none_that_is_read() -> None:
    run(*LINE, "-o", "x.json")
    assert "x.json exists already" in only_error(run(*LINE, "-o", "x.json", code=2).stderr)
    run(*LINE, "-o", "x.json", "--overwrite")
    assert content("x.json")["command"] == "compare"
    before = Path("k5.json").read_bytes()
    said = only_error(run(*LINE, "-o", "k5.json", "--overwrite", code=2).stderr)
    assert "k5.json is read by this command" in said
    assert Path("k5.json").read_bytes() == before


def test_sets_alone_say_what_has_no_effect() -> None:
    said = run("compare", "k5.json", "w5.json", "--dataset", "digits", "-b", "7", "--json")
    assert warnings_in(said.stderr) == [
        "--dataset and --batch-size have no effect: no file says which network it is of, and --model names none."
    ]
    assert "Second minus first" not in said.stderr
    assert json.loads(said.stdout)["results"]["heads"] == {}


def test_of_many_classes_and_pairs_a_part_is_shown() -> None:
    rows = [[(number + place) % 90 for place in range(20)] for number in range(30)]
    for name in "abc":
        rows[3] = rows[3][:-1]
        write_index_set(Path(f"{name}.json"), IndexSet(tuple(map(tuple, rows))))
    said = run("compare", "a.json", "b.json", "c.json", "d=a.json").stderr
    assert "Features by class: a and b, the 20 of 30 that differ most" in said
    assert "and 8 more" in said
    shown = said.split("that differ most")[1].split("Features by class")[0]
    assert sum(line.strip()[:1].isdigit() for line in shown.splitlines()) == 20
    assert "The classes of 3 more pairs are in the result" in said
    assert "a and d" in said
    assert "b and c" not in said


def test_the_network_is_an_option_here() -> None:
    names = {text for one in COMMANDS["compare"].params for text in one.opts}
    assert {"--model", "--weights", "--dataset", "files"} <= names


@pytest.mark.parametrize(
    ("name", "said"),
    [("norm-compare", "Others    5 more networks with"), ("custom-compare", "Others    1 more network with")],
)
def test_networks_beside_the_one_at_the_head_are_counted(
    name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parents[2] / "docs" / "results" / f"{name}.json"
    document = ResultDocument[CompareResults].model_validate_json(path.read_text(encoding="utf-8"))
    show_comparison(Terminal(), document)
    shown = capsys.readouterr().err
    assert f"{said} features of other weights, on the same images" in shown.splitlines()
    assert shown.index("Weights ") < shown.index("Others ") < shown.index("Second minus first")
    for head in document.results.heads.values():
        head.sha256 = "of one network"
    show_comparison(Terminal(), document)
    assert "Others    1 more network with" in capsys.readouterr().err
