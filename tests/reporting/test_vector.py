"""Figures as SVG inside a page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from helpers.pictures import legend_of
from matplotlib.figure import Figure

from decompose_cli.reporting.plots import Curve, accuracy_figure
from decompose_cli.reporting.study_plots import (
    NoiseMarks,
    essentiality_figure,
    gate_histogram,
    interval_figure,
    layers_figure,
)
from decompose_cli.reporting.style import COLOURS, GREY, MARKED, new_figure
from decompose_cli.reporting.training_plots import lr_figure, training_figure
from decompose_cli.reporting.vector import svg, tell, tell_points


def told(figure: Figure) -> list[str]:
    """What the points and shapes say."""
    root = ElementTree.fromstring(svg(figure, "p"))
    return [element.text or "" for element in root.iter("title")]


def drawn(prefix: str = "c1") -> str:
    figure = new_figure(3)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=COLOURS[0], marker="o")
    axes.plot([0, 1], [1, 0], color=GREY)
    axes.set_title("#0072b2 & <b> in a title")
    return svg(figure, prefix)


def test_colours_are_those_of_the_page_and_texts_are_left_alone() -> None:
    text = drawn()
    assert "var(--series-0)" in text
    assert "var(--ink)" in text
    assert "var(--muted)" in text
    assert re.findall("#[0-9a-f]{6}", text) == ["#0072b2"]
    assert "#0072b2 &amp; &lt;b&gt; in a title" in text
    assert "font-family" not in text


def test_ids_of_two_figures_differ_and_every_reference_is_one_of_its_own() -> None:
    ids = []
    for prefix in ("c1", "c2"):
        text = drawn(prefix)
        own = set(re.findall(' id="([^"]+)"', text))
        referred = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall('href="#([^"]+)"', text))
        assert referred
        assert referred <= own
        ids.append(own)
    assert not ids[0] & ids[1]


def test_the_page_decides_how_large_a_figure_is() -> None:
    (opening,) = re.findall("<svg [^>]*>", drawn())
    assert "viewBox=" in opening
    assert not re.search(r"\s(width|height)=", opening)


def test_nothing_outside_is_named() -> None:
    text = drawn()
    assert "http" not in text
    assert "xlink" not in text
    assert "<!DOCTYPE" not in text
    assert "metadata" not in text


def test_the_same_figure_is_the_same_text() -> None:
    assert drawn() == drawn()


def test_points_and_shapes_say_what_they_are() -> None:
    figure = new_figure(3)
    axes = figure.add_subplot()
    tell_points(axes, [1, 2, 3], [3.0, 2.0, 1.0], ["a", "<b>", 'c "quoted"'])
    (bar,) = axes.bar([1], [2])
    tell(bar, "bar")
    tell_points(axes, [], [], [])
    assert sorted(told(figure)) == ["<b>", "a", "bar", 'c "quoted"']


def test_points_outside_the_range_keep_the_others_right() -> None:
    figure = lr_figure("", [1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.0, 500.0, 1e6], [2.0, 1.5, 300.0, 1e5], 0.01)
    texts = told(figure)
    assert texts == [
        f"rate {rate:.3g}: average loss {loss:.4f}" for rate, loss in ((1e-3, 2), (1e-2, 1.5), (0.1, 300), (1, 1e5))
    ]


FIGURES = {
    "accuracy": (
        lambda: accuracy_figure("", {"mean": Curve([1, 2], [50.0, 60.0], [40.0, 50.0], [60.0, 70.0])}, 90.0, 2),
        [
            "mean, k = 1: -40.00 points, 50.00% (40.00 to 60.00)",
            "mean, k = 2: -30.00 points, 60.00% (50.00 to 70.00)",
        ],
    ),
    "intervals": (
        lambda: interval_figure("%", [("full", 90.0, (80.0, 95.0)), ("other", 70.0, None)]),
        ["full: 90.00 (80.00 to 95.00)", "other: 70.00"],
    ),
    "essentiality": (
        lambda: essentiality_figure(
            ["cat", "dog"],
            {
                "ours": [NoiseMarks(20.0, 60.0, 40.0, (30.0, 50.0), -2.0, (-12.0, 8.0)), None],
                "csg": [None, NoiseMarks(49.0, 50.0, 1.0)],
            },
        ),
        [
            "ours, cat: 20.0% stay under noise on its own features",
            "ours, cat: 60.0% stay under noise on all others",
            "csg, dog: 49.0% stay under noise on its own features",
            "csg, dog: 50.0% stay under noise on all others",
            "ours, cat: random sets -2.00 (-12.00 to 8.00)",
            "ours, cat: +40.00 points (30.00 to 50.00); random sets -2.00 (-12.00 to 8.00)",
            "csg, dog: +1.00 points",
        ],
    ),
    "layers": (
        lambda: layers_figure("Psi", ["stem", "layer1"], {"Psi": [0.5, None], "other": [None, 0.25]}),
        ["Psi, stem: 0.5000", "other, layer1: 0.2500"],
    ),
    "gates": (
        lambda: gate_histogram("g", {"test": [3, 1], "train": [0, 0]}),
        [
            "test, g 0.00 to 0.50: 3 (75.0%)",
            "test, g 0.50 to 1.00: 1 (25.0%)",
            "train, g 0.00 to 0.50: 0 (0.0%)",
            "train, g 0.50 to 1.00: 0 (0.0%)",
        ],
    ),
    "training": (
        lambda: training_figure("", [1, 2], {"test": [1.0, None]}, {"test": [50.0, 60.0]}, [0.1, 0.01]),
        [
            "test, epoch 1: 1",
            "test, epoch 1: 50",
            "test, epoch 2: 60",
            "learning rate, epoch 1: 0.1",
            "learning rate, epoch 2: 0.01",
        ],
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_say_their_values(name: str) -> None:
    make, expected = FIGURES[name]
    assert told(make()) == expected


def test_a_chosen_size_is_marked() -> None:
    curve = {"mean": Curve([1, 2], [50.0, 60.0], [40.0, 50.0], [60.0, 70.0])}
    marked = [line for line in accuracy_figure("", curve, 90.0, 2).axes[0].get_lines() if line.get_color() == MARKED]
    assert [line.get_xdata() for line in marked] == [[2, 2]]
    assert not [line for line in accuracy_figure("", curve, 90.0).axes[0].get_lines() if line.get_color() == MARKED]


def test_levels_are_lines_with_bands() -> None:
    curve = {"mean": Curve([1, 2], [50.0, 60.0], [40.0, 50.0], [60.0, 70.0])}
    levels = {"full head": (90.0, (85.0, 95.0)), "other": (91.0, (86.0, 96.0))}
    (axes,) = accuracy_figure("", curve, None, levels=levels).axes
    lines = [line for line in axes.get_lines() if list(line.get_xdata()) == [0, 1]]
    assert [line.get_ydata()[0] for line in lines] == [90.0, 91.0]
    assert len({line.get_linestyle() for line in lines}) == 2
    assert [patch.get_bbox().intervaly.tolist() for patch in axes.patches] == [[85.0, 95.0], [86.0, 96.0]]
    assert axes.get_xscale() == "log"
    assert list(legend_of(axes)) == ["mean", "full head", "other"]
