"""Figures of studies: what is seen in them, besides what their points say."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.pictures import legend_of, points
from matplotlib.colors import same_color

from decompose_cli.reporting.study_plots import essentiality_figure, gate_histogram, interval_figure, layers_figure
from decompose_cli.reporting.style import png


def test_intervals_are_lines_through_their_values() -> None:
    figure = interval_figure("top-1 ($%$)", [("full", 90.0, (80.0, 95.0)), ("other $x$", 70.0, None)])
    (axes,) = figure.axes
    interval, first, second = axes.get_lines()
    assert points(interval) == [(80, 0), (95, 0)]
    assert interval.get_marker() == "None"
    assert (points(first), points(second)) == ([(90, 0)], [(70, 1)])
    assert (first.get_marker(), second.get_marker()) == ("o", "o")
    assert [(tick.get_position()[1], tick.get_text()) for tick in axes.get_yticklabels()] == [
        (0, "full"),
        (1, r"other \$x\$"),
    ]
    assert axes.get_ylim() == (1.5, -0.5), "the first is at the top"
    assert axes.get_xlabel() == r"top-1 (\$%\$)"
    low, high = axes.get_xlim()
    assert low < 70 < 95 < high


def test_long_names_of_intervals_are_written_in_several_lines_and_given_the_room() -> None:
    short, long = (interval_figure("%", [(name, 1.0, None)] * 3) for name in ("name", "name " * 20))
    assert short.axes[0].get_yticklabels()[0].get_text() == "name"
    assert long.axes[0].get_yticklabels()[0].get_text().split("\n") == ["name " * 8 + "name"] * 2 + ["name name"]
    assert long.get_figheight() > short.get_figheight()


def test_essentiality_is_bars_beside_each_other_with_their_intervals_and_random_sets() -> None:
    figure = essentiality_figure(
        ["cat", "dog"],
        {"ours": [(40.0, (30.0, 50.0), -2.0), None], "$csg$": [(-5.0, None, None), (1.0, None, None)]},
    )
    (axes,) = figure.axes
    bars = [(round(bar.get_x(), 3), round(bar.get_width(), 3), bar.get_height()) for bar in axes.patches]
    assert bars == [(-0.384, 0.368, 40), (0.016, 0.368, -5), (1.016, 0.368, 1)]
    ours, cat, dog = (bar.get_facecolor() for bar in axes.patches)
    assert cat == dog != ours
    interval, control, zero = axes.get_lines()
    assert points(interval) == [(pytest.approx(-0.2), 30), (pytest.approx(-0.2), 50)]
    assert [y for _, y in points(control)] == [-2, -2]
    assert [x for x, _ in points(control)] == pytest.approx([-0.384, -0.016])
    assert [y for _, y in points(zero)] == [0, 0]
    assert [(tick.get_position()[0], tick.get_text()) for tick in axes.get_xticklabels()] == [(0, "cat"), (1, "dog")]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ours", r"\$csg\$", "random sets of the same size"]
    first, second, marks = legend.legend_handles
    assert (first.get_facecolor(), second.get_facecolor()) == (ours, cat)
    assert same_color(marks.get_color(), "black")


@pytest.mark.parametrize(("names", "turned"), [(["cat"] * 16, False), (["cat"] * 17, True)])
def test_many_classes_have_their_names_turned(names: list[str], turned: bool) -> None:
    figure = essentiality_figure(names, {"ours": [(1.0, None, None)] * len(names)})
    assert {label.get_rotation() for label in figure.axes[0].get_xticklabels()} == {45.0 if turned else 0.0}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours"]


def test_layers_are_a_line_for_each_network() -> None:
    curves: dict[str, Any] = {"Psi": [0.5, None, 0.25], "other": [None, 0.1, 0.2]}
    (axes,) = layers_figure("$Psi$", ["stem", "layer1", "layer2"], curves).axes
    first, second = axes.get_lines()
    assert (points(first), points(second)) == ([(0, 0.5), (2, 0.25)], [(1, 0.1), (2, 0.2)])
    assert (first.get_linestyle(), first.get_marker()) == ("-", "o")
    legend = legend_of(axes)
    assert list(legend) == ["Psi", "other"]
    for handle, line in zip(legend.values(), (first, second), strict=True):
        assert same_color(handle.get_color(), line.get_color())
    assert not same_color(first.get_color(), second.get_color())
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["stem", "layer1", "layer2"]
    assert axes.get_ylabel() == r"\$Psi\$"


def test_gates_are_outlines_in_percent() -> None:
    (axes,) = gate_histogram("stage 2", {"test": [3, 1], "train": [0, 0]}).axes
    outlines = [(patch.get_data().values.tolist(), patch.get_data().edges.tolist()) for patch in axes.patches]
    assert outlines == [([75, 25], [0, 0.5, 1])] * 2 + [([0, 0], [0, 0.5, 1])] * 2
    assert [patch.get_fill() for patch in axes.patches] == [False, True, False, True]
    legend = legend_of(axes)
    assert list(legend) == ["test", "train"]
    test, train = axes.patches[0].get_edgecolor(), axes.patches[2].get_edgecolor()
    assert (legend["test"].get_color(), legend["train"].get_color()) == (test, train)
    assert test != train
    assert (axes.get_xlim(), axes.get_ylim()[0]) == ((0, 1), 0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("g of stage 2", "% of these")


@pytest.mark.painted
def test_a_method_without_any_bar_has_no_name_in_the_legend(recwarn: pytest.WarningsRecorder) -> None:
    figure = essentiality_figure(["cat", "dog"], {"empty": [None, None], "ours": [(1.0, None, 0.5), None]})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "random sets of the same size"]
    png(essentiality_figure(["cat"], {"empty": [None]}))
    assert not recwarn.list
