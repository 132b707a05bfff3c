"""mutual-info, essential, selectivity and sweep from end to end: what they print where, and what they write."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import content, files_below, names_in, only_error, row_of, run
from PIL import Image
from typer.testing import Result

from decompose_cli.decomposition.index_set import IndexSet, read_index_set, write_index_set
from decompose_cli.features.study import Inputs, Study
from decompose_cli.models.checkpoint import read_checkpoint

COMMANDS = ["mutual-info", "essential", "selectivity", "sweep"]
BRIEF = {
    "mutual-info": [],
    "essential": ["--repeats", "2", "--controls", "2"],
    "selectivity": ["--layers", "layer3.2", "--dataset", "{few}"],
    "sweep": ["--ks", "1-3", "--methods", "frequency,weight"],
}
Brief = Callable[..., Result]

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def brief(few: str) -> Brief:
    """Call a command so that it does not more work than it takes to see all of it."""

    def call(command: str, *more: str, code: int = 0) -> Result:
        return run(command, *(argument.format(few=few) for argument in BRIEF[command]), *more, code=code)

    return call


# --------------------------------------------------------------------------------------------------- without arguments


@pytest.mark.parametrize(
    "command",
    # All layers over all training images take a while, and docs/selectivity.md shows them: test_docs.py compares it.
    [pytest.param(name, marks=pytest.mark.slow) if name == "selectivity" else name for name in COMMANDS],
)
def test_without_arguments_a_command_says_what_it_uses_and_writes_one_result(command: str) -> None:
    result = run(command)
    assert result.stdout == ""
    first = result.stderr.splitlines()[0]
    assert first.startswith("No model was named: using resnet20-digits")
    assert "digits" in first.removeprefix("No model was named: using resnet20-digits")
    documents = [name for name in files_below() if name.endswith(".json")]
    assert len(documents) == 1
    assert f"Result written to {documents[0]}" in result.stderr
    document = content(documents[0])
    assert document["command"] == command
    assert (document["model"]["name"], document["dataset"]["name"]) == ("resnet20-digits", "digits")
    assert "Network   resnet20-digits" in result.stderr
    assert "Images    digits" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_named_network_is_not_announced(brief: Brief, command: str) -> None:
    assert "No model was named" not in brief(command, "resnet20-digits").stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_tables_go_to_stderr_and_only_json_to_stdout(brief: Brief, command: str) -> None:
    result = brief(command, "--json")
    document = json.loads(result.stdout)
    assert document["command"] == command
    assert "───" in result.stderr
    assert not files_below()
    quiet = brief(command, "--json", "-q")
    assert quiet.stderr == ""
    assert json.loads(quiet.stdout)["results"] == document["results"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_command_twice_gives_the_same_bytes(brief: Brief, command: str) -> None:
    texts = [brief(command, "--json", "-q").stdout for _ in range(2)]
    one, two = (text[text.index('"results":') :] for text in texts)
    assert one == two


@pytest.mark.parametrize("command", ["mutual-info", "essential", "sweep"])
def test_features_from_the_cache_need_no_forward_pass(
    brief: Brief, command: str, forbid_forward_passes: Callable[[], None]
) -> None:
    forbid_forward_passes()
    result = brief(command, "--json")
    assert json.loads(result.stdout)["cache"]["features"] == "hit"
    assert "from the cache, no forward pass" in result.stderr


# ---------------------------------------------------------------------------------------------------------- file names


def test_essential_numbers_its_files_and_replaces_none(brief: Brief) -> None:
    names = [
        "results_essential_features.json",
        "results_essential_features-2.json",
        "results_essential_features-3.json",
    ]
    kept: dict[str, bytes] = {}
    for number, name in enumerate(names):
        result = brief("essential", "--seed", str(number))
        assert f"Result written to {name}" in result.stderr
        assert files_below() == sorted(names[: number + 1])
        assert all(Path(other).read_bytes() == data for other, data in kept.items())
        kept[name] = Path(name).read_bytes()
    assert [content(name)["environment"]["seed"] for name in names] == [0, 1, 2]


@pytest.mark.parametrize(("command", "data"), [("mutual-info", "digits"), ("selectivity", "few")])
def test_results_are_named_after_command_network_data_and_time(
    brief: Brief, command: str, data: str, stopped_clock: str
) -> None:
    brief(command)
    brief(command)
    stem = f"results/{command}-resnet20-digits-{data}-{stopped_clock}"
    assert files_below() == [f"{stem}-2.json", f"{stem}.json"]


def test_a_comparison_of_files_is_not_named_after_a_network(stopped_clock: str) -> None:
    write_index_set(Path("i.json"), IndexSet(((1, 2), (2, 3))))
    result = run("mutual-info", "-i", "i.json", "--num-features", "8")
    assert "No model was named" not in result.stderr
    assert files_below("results") == [f"mutual-info-index-files-{stopped_clock}.json"]


@pytest.mark.painted
def test_sweep_makes_a_folder_of_its_own(brief: Brief, stopped_clock: str) -> None:
    result = brief("sweep", "--max-drop", "5")
    brief("sweep")
    folder = Path(f"results/sweep-resnet20-digits-digits-{stopped_clock}")
    assert files_below(folder) == ["curve.png", "indices.json", "result.json"]
    assert files_below(Path(f"{folder}-2")) == ["curve.png", "result.json"]
    document = content(folder / "result.json")
    assert document["results"]["plot"] == str(folder / "curve.png")
    assert document["results"]["chosen"]["file"] == str(folder / "indices.json")
    for name in files_below(folder):
        assert str(folder / name) in result.stderr
    with Image.open(folder / "curve.png") as picture:
        assert picture.format == "PNG"
    assert not list(Path.cwd().rglob("*.tmp"))


def test_sweep_writes_into_the_folder_named_with_output(brief: Brief) -> None:
    result = brief("sweep", "--max-drop", "5", "-o", "a/b", "--json")
    assert files_below() == ["a/b/curve.png", "a/b/indices.json", "a/b/result.json"]
    assert result.stdout == Path("a/b/result.json").read_text(encoding="utf-8")


def test_the_set_that_sweep_chose_can_be_validated(brief: Brief) -> None:
    brief("sweep", "--max-drop", "5", "-o", "out")
    reported = content("out/result.json")["results"]["chosen"]["reported_on"]
    document = json.loads(run("validate", "-i", "out/indices.json", "--json").stdout)
    assert document["dataset"]["split"] == reported["split"] == "test"
    assert document["results"]["decomposed"]["correct"] == reported["correct"]
    assert document["results"]["original"]["correct"] == reported["full_correct"]


def test_a_failed_sweep_leaves_no_folder(brief: Brief) -> None:
    brief("sweep", "-i", "none.json", code=2)
    assert not list(Path.cwd().iterdir())


# ----------------------------------------------------------------------------------------------------------- overwrite


@pytest.mark.parametrize("command", ["mutual-info", "essential", "selectivity"])
def test_a_file_named_with_output_is_replaced_only_when_asked(brief: Brief, command: str) -> None:
    Path("x.json").write_text("[[1]]", encoding="utf-8")
    refused = brief(command, "-o", "x.json", code=2)
    assert "x.json exists already" in only_error(refused.stderr)
    assert "--overwrite" in refused.stderr
    assert Path("x.json").read_text(encoding="utf-8") == "[[1]]"
    brief(command, "-o", "x.json", "--overwrite")
    assert content("x.json")["command"] == command
    assert files_below() == ["x.json"]


@pytest.mark.parametrize("name", ["result.json", "curve.png", "indices.json"])
def test_none_of_the_files_of_a_sweep_is_replaced_unless_asked(brief: Brief, name: str) -> None:
    Path("out").mkdir()
    Path("out", name).write_text("mine", encoding="utf-8")
    refused = brief("sweep", "--max-drop", "5", "-o", "out", code=2)
    assert f"out/{name} exists already" in only_error(refused.stderr)
    refused = brief("sweep", "--max-drop", "5", "-o", "out", "--overwrite", code=2)
    assert f"out/{name} is not listed in a result of decompose" in only_error(refused.stderr)
    assert files_below() == [f"out/{name}"]
    assert Path("out", name).read_text(encoding="utf-8") == "mine"


def test_other_files_in_the_folder_of_a_sweep_are_left_alone(brief: Brief) -> None:
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine", encoding="utf-8")
    brief("sweep", "-o", "out")
    assert files_below("out") == ["curve.png", "notes.txt", "result.json"]
    assert Path("out/notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_cannot_be_written_is_refused_before_the_work(
    brief: Brief, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr("decompose_cli.features.study.Study.__init__", fail)
    Path("file").write_text("mine", encoding="utf-8")
    assert "file" in only_error(brief(command, "-o", "file/x", code=2).stderr)
    assert files_below() == ["file"]


# -------------------------------------------------------------------------------------------------------------- tables


def test_the_table_of_mutual_info_has_a_column_per_set_as_the_papers() -> None:
    write_index_set(Path("a.json"), IndexSet(((0, 1), (1, 2)), 64))
    write_index_set(Path("b.json"), IndexSet(((0, 1, 5), (1, 2, 3)), 64))
    result = run("mutual-info", "-i", "x=a.json", "-i", "y=b.json", "-i", "x=b.json", "--num-features", "64", "--json")
    sets = json.loads(result.stdout)["results"]["sets"]
    assert row_of(result.stderr, "k") == ["k", "x", "y"]
    assert row_of(result.stderr, "3") == ["3", *(f"{sets[name]['3']['mean']:.8f}" for name in ("x", "y"))]
    assert row_of(result.stderr, "2") == ["2", f"{sets['x']['2']['mean']:.8f}"]
    below = result.stderr[result.stderr.index("Overlap between") :]
    found = sets["y"]["3"]
    assert row_of(below, "y") == [
        "y",
        "3",
        f"{found['off_diagonal_mean']:.4f}",
        f"{found['normalized_mean']:.4f}",
        f"{found['jaccard_mean']:.4f}",
        "59 of 64",
        "4",
        "1",
    ]


def test_the_tables_of_essential_show_counts_in_percent(brief: Brief) -> None:
    result = brief("essential", "--json")
    found = json.loads(result.stdout)["results"]
    title = "Images still assigned to their class, in percent (gaussian noise, 2 draws)"
    assert title in result.stderr
    whole, by_class = result.stderr.split("ours by class")
    for first, text, one in (("ours", whole, found["summary"]["ours"]), ("9", by_class, found["ours"]["9"])):
        cells, share = row_of(text, first), 100 / one["images"]
        assert cells[1] == ("5" if first == "ours" else str(one["images"]))
        assert cells[2] == f"{one['clean'] * share:.1f}"
        assert cells[3] == f"{one['noise_at_inf'] * share:.1f} ± {one['noise_at_inf_se'] * share:.1f}"
        assert cells[4] == f"{one['noise_at_noninf'] * share:.1f} ± {one['noise_at_noninf_se'] * share:.1f}"
        assert cells[5] == f"{one['essentiality']:+.1f}"
        low, high = one["essentiality_ci95"]
        assert cells[6] == f"{low:+.1f} to {high:+.1f}"
        assert cells[7:] == [f"{one['control_mean']:+.1f}", f"{one['p']:.3f}"]


def test_one_draw_and_no_controls_leave_cells_empty() -> None:
    result = run("essential", "--repeats", "1", "--controls", "0", "--json")
    one = json.loads(result.stdout)["results"]["summary"]["ours"]
    cells = row_of(result.stderr.split("ours by class")[0], "ours")
    assert cells[3] == f"{100 * one['noise_at_inf'] / one['images']:.1f}"
    assert len(cells) == 7


def test_the_table_of_selectivity_has_a_row_per_layer_and_their_mean(few: str) -> None:
    result = run("selectivity", "--layers", "layer3.2,stem", "--dataset", few, "--json")
    layers = json.loads(result.stdout)["results"]["layers"]
    assert list(layers) == ["layer3.2", "stem"]
    for name, layer in layers.items():
        numbers = [f"{layer[key]:.5f}" for key in ("psi_mean", "psi_median", "class_selectivity")]
        assert row_of(result.stderr, name) == [name, str(layer["filters"]), *numbers]
    mean = sum(layer["psi_mean"] for layer in layers.values()) / 2
    assert row_of(result.stderr, "mean")[1] == f"{mean:.5f}"


def test_selectivity_of_several_checkpoints_is_compared_in_one_table(brief: Brief) -> None:
    source = Study(Inputs(), ("test",)).classifier.weights_source
    state = {
        name: -value if name == "conv1.weight" else value
        for name, value in read_checkpoint(Path(source)).state_dict.items()
    }
    torch.save(state, "other.pth")
    result = brief("selectivity", "--compare", f"same={source}", "--compare", "other.pth", "--json")
    found = json.loads(result.stdout)["results"]
    values = [found["layers"], found["compared"]["same"]["layers"], found["compared"]["other"]["layers"]]
    titles = {
        "psi_mean": "Psi (mean), compared",
        "psi_median": "Psi (median), compared",
        "class_selectivity": "Class selectivity, compared",
    }
    starts = [*(result.stderr.index(title) for title in titles.values()), len(result.stderr)]
    assert starts == sorted(starts)
    for field, start, end in zip(titles, starts, starts[1:], strict=False):
        table = result.stderr[start:end]
        assert row_of(table, "Layer") == ["Layer", "this", "same", "other"]
        expected = [f"{layers['layer3.2'][field]:.5f}" for layers in values]
        assert row_of(table, "layer3.2") == ["layer3.2", *expected]
        assert expected[0] == expected[1] != expected[2]


def test_the_table_of_sweep_has_a_column_per_method_and_index_files_below(brief: Brief) -> None:
    run("extract-indices", "-k", "4", "-o", "four.json", "-q")
    result = brief("sweep", "-i", "four.json", "--max-drop", "5", "--json")
    found = json.loads(result.stdout)["results"]
    assert f"full head: {found['original']['correct']} of 360" in result.stderr
    top, below = result.stderr.split("Index files")
    assert row_of(top, "k") == ["k", "frequency", "weight"]
    for k in "123":
        assert row_of(top, k) == [k, *(str(found["curves"][m][k]["correct"]) for m in ("frequency", "weight"))]
    point = found["curves"]["four"]["4"]
    low, high = point["top1_ci95"]
    expected = ["four", "4", str(point["correct"]), f"{point['top1']:.2f}", f"{low:.2f} to {high:.2f}"]
    assert row_of(below, "four") == expected
    chosen = found["chosen"]
    low, high = chosen["features_per_class"]
    assert (
        f"Smallest index set found: {chosen['features']} features in all, {low} to {high} per class "
        f"({chosen['method']}, from a common k of {chosen['k']}), whose loss on train has a 95% bound of at most 5 "
        "points"
    ) in " ".join(below.split())
    by_method = ", ".join(f"{name} {one['features']}" for name, one in chosen["candidates"].items())
    assert list(chosen["candidates"]) == ["frequency", "weight"]
    assert f"Features in all by method: {by_method}" in below
    for loss, role in (("chosen_on", "chosen on train"), ("reported_on", "reported on test")):
        numbers = [str(chosen[loss][name]) for name in ("total", "full_correct", "common_correct", "correct")]
        assert row_of(below, role)[1:5] == numbers


def test_many_sizes_are_shown_in_part_and_kept_whole() -> None:
    result = run("sweep", "--methods", "weight", "--json")
    assert len(json.loads(result.stdout)["results"]["curves"]["weight"]) == 64
    assert "17 of 64 values of k are shown" in result.stderr
    shown = re.findall(r"^\s*(\d+)\s+\d+\s*$", result.stderr, flags=re.MULTILINE)
    assert shown == ["1", "2", "3", "4", *(str(k) for k in range(5, 61, 5)), "64"]


ODD = ["[bold]<script>", "[red]", "[x", "žába"]


@pytest.mark.parametrize("name", ODD)
def test_names_are_shown_as_they_are(brief: Brief, name: str) -> None:
    write_index_set(Path("i.json"), IndexSet(tuple((c, c + 1) for c in range(10)), 64))
    source = Study(Inputs(), ("test",)).classifier.weights_source
    named = f"{name}=i.json"
    assert name in run("mutual-info", "-i", named, "--num-features", "64").stderr
    assert name in brief("sweep", "-i", named, "-q", "--json").stdout
    assert name in brief("sweep", "-i", named).stderr
    assert f"{name} by class" in brief("essential", "--method", f"{name}={source},i.json").stderr


def test_a_data_set_of_the_users_is_shown_by_its_class_names(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    names = ["[bold]<b>", "café", *"cdefghij"]
    root = make_images(tmp_path / "odd", names, n=1)
    result = run(
        "essential", "resnet20", "-w", "random", "--dataset", f"folder:{root}", "--repeats", "2", "--controls", "0"
    )
    below = result.stderr.split("ours by class")[1]
    assert all(row_of(below, name)[1] == "1" for name in names)


# ------------------------------------------------------------------------------------------------------------- options


def test_options_reach_the_engines(few: str) -> None:
    write_index_set(Path("i.json"), IndexSet(tuple((c, c + 1) for c in range(10)), 64))
    found = json.loads(
        run(
            "essential",
            "-i",
            "i.json",
            "--noise",
            "matched",
            "--repeats",
            "3",
            "--controls",
            "1",
            "--seed",
            "5",
            "--json",
        ).stdout
    )
    assert found["arguments"]["indices"] == "i.json"
    assert (found["results"]["noise"], found["results"]["repeats"], found["results"]["controls"]) == ("matched", 3, 1)
    assert found["results"]["summary"]["ours"]["features_per_class"] == [2, 2]
    assert found["environment"]["seed"] == 5
    found = json.loads(run("mutual-info", "-k", "3,7", "--method", "weight", "--json").stdout)
    assert list(found["results"]["sets"]["ours"]) == ["3", "7"]
    assert found["arguments"]["method"] == "weight"
    layers = ("--layers", " layer3.2 , stem", "--fraction", "0.9")
    found = json.loads(run("selectivity", "--dataset", few, *layers, "--json").stdout)
    assert (found["results"]["fraction"], list(found["results"]["layers"])) == (0.9, ["layer3.2", "stem"])
    found = json.loads(run("sweep", "--ks", "2,60-61", "--methods", "mass", "--json").stdout)
    assert {name: list(points) for name, points in found["results"]["curves"].items()} == {"mass": ["2", "60", "61"]}
    assert found["arguments"]["order"] == "highest"


def test_gates_are_compared_by_name(brief: Brief, tmp_path: Path) -> None:
    source = Study(Inputs(), ("test",)).classifier.weights_source
    gates = torch.rand(10, 64, generator=torch.Generator().manual_seed(0))
    torch.save({**read_checkpoint(Path(source)).state_dict, "csg": gates}, "gates.pth")
    lowest = [set(row) for row in gates.argsort(1)[:, :5].tolist()]
    run("extract-indices", "resnet20-digits", "-w", "gates.pth", "--method", "csg", "--order", "lowest", "-o", "g.json")
    assert [set(row) for row in read_index_set(Path("g.json")).classes] == lowest
    found = json.loads(
        run("mutual-info", "-i", "file=g.json", "--csg", "gates.pth", "--order", "lowest", "--json").stdout
    )["results"]["sets"]
    assert found["file"]["5"]["matrix"] == found["csg"]["5"]["matrix"]
    essential = brief("essential", "--csg", "gates.pth", "--order", "lowest", "--json")
    assert list(json.loads(essential.stdout)["results"]["summary"]) == ["ours", "csg"]
    assert "csg by class" in essential.stderr
    assert row_of(essential.stderr.split("by class")[0], "csg (lowest gates)")[1] == "5"
    both = run("mutual-info", "-i", "file=g.json", "--csg", "gates.pth", "--order", "lowest").stderr
    assert row_of(both.split("Overlap")[1], "csg (lowest gates)")[1] == "5"
    # What only has the name says nothing about gates.
    alone = run("mutual-info", "resnet20-digits", "-i", "csg=g.json", "-i", "CSG=g.json").stderr
    assert "gates)" not in alone
    assert row_of(alone.split("Overlap")[1], "csg")[1] == "5"
    sweep = ("sweep", "resnet20-digits", "-w", "gates.pth", "--ks", "1-3", "--methods", "weight,csg")
    for order in ("highest", "lowest"):
        result = run(*sweep, "--order", order, "--json")
        assert row_of(result.stderr, "k") == ["k", "weight", f"csg ({order} gates)"]
        assert json.loads(result.stdout)["arguments"]["order"] == order


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("mutual-info", "-i", "none.json"), "none.json does not exist"),
        (("mutual-info", "-i", "i.json"), "does not say how many features"),
        (("mutual-info", "-k", "65"), "-k 65 is more than the 64 features"),
        (("mutual-info", "-k", "x"), "-k 'x'"),
        (("mutual-info", "--method", "best"), "--method 'best' is unknown"),
        (("mutual-info", "--order", "middle"), "'middle' is unknown"),
        (("mutual-info", "--order", "lowest"), "--order lowest has no effect"),
        (("mutual-info", "--csg", "none.pth"), "none.pth"),
        (("essential", "-k", "5,10"), "one k at a time"),
        (("mutual-info", "-i", "i.json", "--num-features", "8", "-k", "2"), "-k and --method have no effect"),
        (("mutual-info", "-i", "i.json", "--num-features", "8", "--method", "mean"), "-k and --method have no effect"),
        (("essential", "--noise", "loud"), "'loud' is unknown"),
        (("essential", "--repeats", "0"), "--repeats 0"),
        (("essential", "--method", "a"), "NAME=WEIGHTS"),
        (("essential", "--method", "noise=default"), "'noise'"),
        (("essential", "--order", "middle"), "'middle' is unknown"),
        (("selectivity", "--layers", "layer9"), "layer9"),
        (("selectivity", "--layers", ","), "--layers names no layer"),
        (("selectivity", "--fraction", "1"), "--fraction 1 is"),
        (("selectivity", "--compare", "a=none.pth"), "none.pth"),
        (("sweep", "--ks", "0-4"), "--ks '0-4' starts below 1"),
        (("sweep", "--ks", "1-65"), "--ks 65 is more than the 64 features"),
        (("sweep", "--methods", "best"), "--methods 'best' is unknown"),
        (("sweep", "--methods", "csg"), "'csg'"),
        (("sweep", "--max-drop", "-1"), "--max-drop -1 is"),
        (("sweep", "--max-drop", "0.5", "--split", "train"), "chooses on the training images"),
        (("sweep", "-i", "i.json"), "2 classes, but the network has 10"),
    ],
)
def test_wrong_use_is_one_sentence_with_exit_code_2_and_writes_nothing(
    arguments: tuple[str, ...], sentence: str
) -> None:
    write_index_set(Path("i.json"), IndexSet(((0, 1), (1, 2))))
    assert sentence in only_error(run(*arguments, code=2).stderr)
    assert files_below() == ["i.json"]


# ---------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("mutual-info", ["--indices", "--csg", "--order", "--num-features", "--method", "-k"]),
        ("essential", ["--indices", "--csg", "--order", "--noise", "--repeats", "--controls", "--method", "-k"]),
        ("selectivity", ["--layers", "--fraction", "--compare"]),
        ("sweep", ["--methods", "--ks", "--indices", "--max-drop", "--order"]),
    ],
)
def test_help_names_the_options_of_each_study_and_an_example(command: str, options: list[str]) -> None:
    text = run(command, "--help").stdout
    assert all(option in text for option in [*options, "--output", "--overwrite", "--seed"])
    assert f"Example: decompose {command}" in text


def test_an_index_file_cannot_have_the_name_of_a_method() -> None:
    run("extract-indices", "-k", "5", "-o", "frequency.json", "-q")
    arguments = ["sweep", "--methods", "frequency,mean", "--ks", "1-3", "-o", "out", "-i"]
    result = run(*arguments, "frequency.json", code=2)
    assert "'frequency' is the name of a ranking" in result.stderr
    assert not Path("out").exists()
    assert row_of(run(*arguments, "other=frequency.json").stderr.split("Index files")[1], "other")[1] == "5"


@pytest.mark.parametrize("name", ["[red]", "[bold]<script>"])
def test_names_in_table_heads_are_shown_as_they_are(name: str) -> None:
    write_index_set(Path("i.json"), IndexSet(((0, 1), (1, 2)), 64))
    assert row_of(run("mutual-info", "-i", f"{name}=i.json", "--num-features", "64").stderr, "k") == ["k", name]


@pytest.mark.painted
def test_letters_that_the_font_lacks_are_no_python_warning() -> None:
    write_index_set(Path("i.json"), IndexSet(tuple((c, c + 1) for c in range(10)), 64))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run("sweep", "--ks", "1", "--methods", "weight", "-i", "日本=i.json")
    assert [warning for warning in warned if issubclass(warning.category, UserWarning)] == []


def test_an_overwritten_sweep_keeps_no_set_of_the_one_before() -> None:
    arguments = ("sweep", "--ks", "1-3", "--methods", "weight", "-o", "out")
    run(*arguments, "--max-drop", "5")
    assert Path("out/indices.json").is_file()
    run(*arguments, "--overwrite")
    assert names_in("out") == ["curve.png", "result.json"]


def test_an_order_that_no_method_of_the_sweep_follows_is_refused() -> None:
    result = run("sweep", "--ks", "1", "--order", "lowest", code=2)
    assert "--order lowest has no effect" in result.stderr
    assert not Path("results").exists() or not list(Path("results").iterdir())


def test_extracted_features_are_called_what_they_are() -> None:
    source = Study(Inputs(), ("test",)).classifier.weights_source
    gates = torch.rand(10, 64, generator=torch.Generator().manual_seed(0))
    torch.save({**read_checkpoint(Path(source)).state_dict, "csg": gates}, "gates.pth")
    extract = ("extract-indices", "resnet20-digits", "-w", "gates.pth", "-k", "3")
    for more, expected in (
        (("--method", "csg", "--order", "lowest"), "csg (lowest gates)"),
        (("--method", "csg"), "csg (highest gates)"),
        (("--method", "weight"), "weight"),
    ):
        said = run(*extract, *more, "--json").stderr
        assert f"3 features per class by {expected}, in the order of the ranking (k = 3)" in said
        assert "equal scores are a tie" in said
        assert "influential" not in said


def test_what_becomes_of_classes_without_images_is_said_as_it_is(make_images: Callable[..., Path]) -> None:
    make_images(Path("images"), ["3", "4"], n=3, side=32)
    given = ("resnet20-digits", "--dataset", "folder:images", "-j", "0")
    some = "2 of the network's 10 have images (3, 4)"
    assert f"{some}; the others can still be predicted" in run("validate", *given).stderr
    assert f"{some}; the others keep all features" in run("extract-indices", *given, "-k", "2", "-o", "k.json").stderr
    assert f"{some}; the others can still be predicted" in run("validate", *given, "-i", "k.json").stderr
    assert f"{some}; the head has no others" in run("validate", *given, "--classes", "present").stderr
