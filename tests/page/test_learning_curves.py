"""The drawing that has several trainings in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from scipy import stats

from decompose_cli.page.blocks import Chart, Figures, Group
from decompose_cli.page.report import Report, report
from decompose_cli.reporting.style import COLOURS
from decompose_cli.reporting.training_plots import Curve, trainings_figure

WriteResults = Callable[..., Path]


def section(found: Report, name: str) -> list[Any]:
    return [block for one in found.sections if one.id == name for block in one.blocks]


def together(found: Report) -> list[Chart]:
    (group,) = [block for block in section(found, "training") if block.title == "Learning curves"] or [Group("", [])]
    assert all(isinstance(block, Chart) for block in group.blocks)
    return list(group.blocks)


@pytest.fixture
def write(write_results: WriteResults) -> Callable[..., Path]:
    """Write a training by its held-out accuracies, by seed and epoch, with losses that tell these apart."""

    def make(name: str, by_seed: list[list[float]], change: Callable[[dict[str, Any]], object] | None = None) -> Path:
        path = write_results(only=("train",), folder=name) / "train.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        one = document["results"]
        runs = []
        for seed, accuracies in enumerate(by_seed):
            epochs = []
            for number, top1 in enumerate(accuracies, 1):
                record = json.loads(json.dumps(one["epochs"][0])) | {"epoch": number}
                record["val"] = {**record["test"], "split": "held-out", "top1": top1}
                record["train"]["loss"] = seed + number / 4
                record["test"]["top1"] = 1.0
                epochs.append(record)
            runs.append({**one, "seed": seed, "epochs": epochs})
        document["results"] = runs[0]
        if len(runs) > 1:
            values = [accuracies[-1] for accuracies in by_seed]
            spread = {"what": "best test top1", "values": values, "median": 0, "min": 0, "max": 0, "mean": 0, "std": 0}
            document["results"] = {"runs": runs, "summary": [spread]}
        if change is not None:
            change(document)
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    return make


def test_trainings_of_the_same_images_are_in_one_drawing(write: Callable[..., Path]) -> None:
    found = report([write("batch", [[40.0, 60.0], [50.0, 61.0]]), write("online", [[30.0, 50.0]])])
    (chart,) = together(found)
    assert "held-out images" in chart.title
    names = [f"train ({name}/train.json)" for name in ("batch", "online")]
    assert [list(row) for row in chart.values.rows] == [
        [names[0], "1", 2, 45.0, 40.0, 50.0, 0.75],
        [names[0], "2", 2, 60.5, 60.0, 61.0, 1.0],
        [names[1], "1", 1, 30.0, None, None, 0.25],
        [names[1], "2", 1, 50.0, None, None, 0.5],
    ]
    assert all(name in found.html for name in names)


def test_seeds_of_one_training_are_drawn_together_and_one_run_is_not_drawn_twice(write: Callable[..., Path]) -> None:
    assert len(together(report([write("seeds", [[40.0, 60.0], [50.0, 61.0]])]))) == 1
    assert together(report([write("alone", [[40.0, 60.0]])])) == []


@pytest.mark.parametrize("what", ["dataset", "share", "chosen on"])
def test_trainings_of_other_images_are_not_mixed(what: str, write: Callable[..., Path]) -> None:
    def other(document: dict[str, Any]) -> None:
        epochs = document["results"]["epochs"]
        if what == "share":
            document["arguments"]["settings"] = {"val_split": 0.5}
        if what == "dataset":
            document["dataset"]["fingerprint"] = "0" * 64
        for epoch in epochs:
            if what == "chosen on":
                epoch["test"], epoch["val"] = epoch["val"], None

    paths = [write("one", [[40.0, 60.0]]), write("two", [[30.0, 50.0]], other)]
    assert together(report(paths)) == []
    assert len(together(report([*paths, write("three", [[30.0, 50.0]])]))) == 1


def test_drawings_of_several_data_sets_say_which_is_which(write: Callable[..., Path]) -> None:
    def elsewhere(document: dict[str, Any]) -> None:
        document["dataset"].update(name="elsewhere", fingerprint="0" * 64)

    one, other = write("one", [[40.0], [50.0]]), write("two", [[40.0], [50.0]], elsewhere)
    assert together(report([one]))[0].title.startswith("Accuracy on held-out images")
    assert [chart.title.split(":")[0] for chart in together(report([one, other]))] == ["nowhere", "elsewhere"]


def test_thick_lines_are_spoken_of_where_there_are_some(write: Callable[..., Path]) -> None:
    one, other = write("one", [[40.0]]), write("two", [[50.0]])
    assert "thick" not in together(report([one, other]))[0].title
    assert "thick" in together(report([one, write("three", [[40.0], [50.0]])]))[0].title


def test_impossible_accuracies_are_in_no_interval(write: Callable[..., Path]) -> None:
    (figures,) = [
        block for block in section(report([write("seeds", [[40.0], [90.0]])]), "glance") if isinstance(block, Figures)
    ]
    assert figures.items[0][2].endswith("95% interval over seeds 0.00 to 100.00")


def test_one_data_set_of_two_names_is_one(write: Callable[..., Path]) -> None:
    def moved(document: dict[str, Any]) -> None:
        document["dataset"]["name"] = "elsewhere"

    assert len(together(report([write("one", [[40.0]]), write("two", [[50.0]], moved)]))) == 1


def test_fine_tuned_heads_are_not_drawn_with_trainings(write_results: WriteResults, write: Callable[..., Path]) -> None:
    tuned = [write_results(only=("finetune",), folder=folder) for folder in ("a", "b")]
    assert together(report([write("one", [[40.0, 60.0]]), *tuned])) == []


def test_the_mean_over_seeds_is_seen_first(write: Callable[..., Path]) -> None:
    values = [70.0, 71.0, 75.0]
    (figures,) = [
        block
        for block in section(report([write("seeds", [[40.0, value] for value in values])]), "glance")
        if isinstance(block, Figures)
    ]
    low, high = stats.t.interval(0.95, 2, loc=72.0, scale=stats.sem(values))
    assert list(figures.items) == [
        ("mean of 3 seeds, best epoch", "72.00%", f"test images; 95% interval over seeds {low:.2f} to {high:.2f}")
    ]


def test_means_are_of_the_epochs_that_all_seeds_have() -> None:
    curve = Curve([{1: 1.0, 2: 2.0, 3: float("nan")}, {1: 2.0, 3: 4.0}])
    assert curve.mean == {1: 1.5}
    assert Curve([]).mean == {}


def test_seeds_of_a_single_epoch_are_points() -> None:
    curve = {"a": Curve([{1: 10.0}, {1: 20.0}])}
    upper, _ = trainings_figure("", curve, curve, "test images").axes
    assert [line.get_marker() for line in upper.get_lines()[:2]] == [".", "."]


def test_a_training_has_one_colour_a_thick_mean_and_thin_seeds() -> None:
    top1 = {"_a $x$": Curve([{1: 10.0, 2: 20.0}, {1: 20.0, 2: 40.0}]), "b": Curve([{1: 5.0}])}
    losses = {"_a $x$": Curve([{1: 2.0, 2: 1.0}, {1: 3.0, 2: 1.0}]), "b": Curve([{1: 4.0}])}
    figure = trainings_figure("", losses, top1, "held-out images", width=3.75)
    upper, lower = figure.axes
    for axes, expected in ((upper, [[10.0, 20.0], [20.0, 40.0], [15.0, 30.0], [5.0]]), (lower, None)):
        lines = axes.get_lines()
        assert [to_hex(line.get_color()).upper() for line in lines] == [*[COLOURS[0]] * 3, COLOURS[1]]
        assert lines[0].get_linewidth() < lines[2].get_linewidth()
        if expected is not None:
            assert [list(line.get_ydata()) for line in lines] == expected
    assert upper.get_ylabel() == "held-out images, top-1 (%)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r"_a \$x\$", "b"]


def test_a_colour_that_comes_again_is_dashed() -> None:
    curves = {f"training {number}": Curve([{1: 2.0, 2: 1.0}]) for number in range(9)}
    for axes in trainings_figure("", curves, curves, "held-out images").axes:
        lines = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
        assert len(set(lines.values())) == len(curves)
        assert [style for _, style in lines.values()] == ["-"] * 7 + ["--"] * 2
