"""Figures of studies: what is seen in them, besides what their points say."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.pictures import legend_of, points
from matplotlib.colors import same_color

from decompose_cli.reporting.study_plots import (
    NoiseMarks,
    essentiality_figure,
    gate_histogram,
    interval_figure,
    layers_figure,
)
from decompose_cli.reporting.style import NARROW, png


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


def test_essentiality_is_both_noises_beside_each_other_and_their_difference_beside_random_sets() -> None:
    cat = NoiseMarks(20.0, 60.0, 40.0, (30.0, 50.0), -2.0, (-12.0, 8.0))
    figure = essentiality_figure(
        ["cat", "dog"], {"ours": [cat, None], "$csg$": [NoiseMarks(55, 50, -5), NoiseMarks(49, 50, 1)]}
    )
    kept, difference = figure.axes
    line, own, others, *_ = kept.get_lines()
    assert points(line) == [(20, pytest.approx(-0.2)), (60, pytest.approx(-0.2))]
    assert (points(own), points(others)) == ([(20, pytest.approx(-0.2))], [(60, pytest.approx(-0.2))])
    assert (own.get_markerfacecolor(), others.get_markerfacecolor()) == (own.get_color(), "white")
    (span,) = difference.patches
    assert (span.get_x(), span.get_width(), span.get_y() + span.get_height() / 2) == (-12, 20, pytest.approx(-0.2))
    mean, interval, mark, second, third, zero = difference.get_lines()
    assert [x for x, _ in points(mean)] == [-2, -2]
    assert [x for x, _ in points(interval)] == [30, 50]
    assert [points(one)[0] for one in (mark, second, third)] == [
        (40, pytest.approx(-0.2)),
        (-5, pytest.approx(0.2)),
        (1, pytest.approx(1.2)),
    ]
    assert [x for x, _ in points(zero)] == [0, 0]
    assert not same_color(mark.get_color(), second.get_color())
    assert [(tick.get_position()[1], tick.get_text()) for tick in kept.get_yticklabels()] == [(0, "cat"), (1, "dog")]
    assert kept.get_ylim() == difference.get_ylim() == (1.5, -0.5), "the first class is at the top"
    assert list(legend_of(kept)) == [
        "ours",
        r"\$csg\$",
        "noise on its own features",
        "noise on all others",
        "difference, with 95% interval",
        "random sets of the same size",
    ]


def test_on_a_phone_panels_of_essentiality_stand_one_below_the_other() -> None:
    marks = {"ours": [NoiseMarks(20, 60, 40)] * 3}
    kept, difference = essentiality_figure(["a", "b", "c"], marks, NARROW).axes
    assert kept.get_subplotspec().get_geometry()[:2] == (2, 1)
    assert [tick.get_text() for tick in difference.get_yticklabels()] == ["a", "b", "c"]


def test_on_a_phone_names_stand_above_their_intervals() -> None:
    (axes,) = interval_figure("%", [("first " * 10, 90.0, (80.0, 95.0)), ("second", 70.0, None)], NARROW).axes
    assert [text.get_text() for text in axes.texts] == ["first " * 5 + "first\n" + "first " * 3 + "first", "second"]
    assert all(text.get_position()[1] < place for place, text in enumerate(axes.texts))
    assert not axes.get_yticks().size


def test_of_many_layers_some_have_their_names() -> None:
    names = [f"layer{number}" for number in range(200)]
    (axes,) = layers_figure("Psi", names, {"Psi": [0.5] * 200}).axes
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert len(shown) < 40
    assert [names[int(place)] for place in axes.get_xticks()] == shown


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
    figure = essentiality_figure(
        ["cat", "dog"], {"empty": [None, None], "ours": [NoiseMarks(1, 2, 1, None, 0.5), None]}
    )
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (names[0], names[-1]) == ("noise on its own features", "random sets of the same size")
    png(essentiality_figure(["cat"], {"empty": [None]}))
    assert not recwarn.list
