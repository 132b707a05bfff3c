"""Plots of gates: what is in them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.pictures import box_of, changed, colours_of, legend_of, pixels
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from PIL import Image

from decompose_cli.reporting.gate_plots import SHOWN, extremes, gate_distribution

GROUPS = {"right": [[0.1, 0.12, 0.9], [0.5]], "wrong": [[0.6], []]}


def test_each_gate_has_a_panel_with_the_share_of_both_groups(figures: list[Figure]) -> None:
    gate_distribution("a $title$", ["g of stage 2", "g of stage 3"], GROUPS)
    first, second = figures[0].axes
    assert first.get_title() == r"a \$title\$"
    assert (first.get_xlabel(), second.get_xlabel()) == ("g of stage 2", "g of stage 3")
    legend = legend_of(first)
    assert list(legend) == ["right (3 images, mean g 0.373)", "wrong (1 images, mean g 0.600)"]
    assert list(legend_of(second)) == ["right (1 images, mean g 0.500)"]
    right, wrong = (handle.get_facecolor()[:3] for handle in legend.values())
    assert not same_color(right, wrong)
    bars = [bar for bar in first.patches if hasattr(bar, "get_height") and bar.get_height() > 0]
    found = {(bar.get_facecolor()[:3], round(bar.get_x(), 3)): bar.get_height() for bar in bars}
    share = pytest.approx(100 / 3)  # per cent of either group, in bins of 1/40; 0.12 is in that from 0.1 on
    assert found == {(right, 0.1): pytest.approx(200 / 3), (right, 0.9): share, (wrong, 0.6): 100}
    assert {round(bar.get_width(), 9) for bar in bars} == {0.025}
    means = {line.get_color(): line.get_xdata()[0] for line in first.get_lines()}
    assert list(means.values()) == [pytest.approx(1.12 / 3), 0.6]
    assert [same_color(colour, group) for colour, group in zip(means, (right, wrong), strict=True)] == [True, True]
    assert (first.get_xlim(), second.get_xlim()) == ((0, 1), (0, 1))


@pytest.mark.painted
def test_another_image_changes_the_panel_of_its_gate_alone(figures: list[Figure]) -> None:
    other = {"right": GROUPS["right"], "wrong": [[0.6], [0.8]]}
    first, second = (pixels(gate_distribution("title", ["a", "b"], groups)) for groups in (GROUPS, other))
    top, _, _, _ = changed(first, second)
    assert top > box_of(figures[0].axes[0])[1], "the panel above stays as it is"
    orange = (213, 94, 0)
    assert orange in colours_of(first)
    blank = gate_distribution("title", ["a", "b"], {"right": GROUPS["right"], "wrong": [[], []]})
    assert orange not in colours_of(pixels(blank))


def image(red: int) -> Image.Image:
    return Image.new("RGB", (4, 3), (red, 0, 0))


LOWEST = [(image(number), number / 100, "cat", "cat") for number in range(3)]
HIGHEST = [(image(200), 0.99, "a very long name of a class", "$dog$")]


def test_extremes_show_images_labels_and_mistakes(figures: list[Figure]) -> None:
    extremes("$t$", LOWEST, HIGHEST)
    figure = figures[0]
    assert figure.get_suptitle() == r"\$t\$"
    assert [half.get_suptitle() for half in figure.subfigs] == ["Lowest g", "Highest g"]
    assert [len(half.axes) for half in figure.subfigs] == [SHOWN, SHOWN]
    shown = [[axes for axes in half.axes if axes.images] for half in figure.subfigs]
    titles = [[axes.get_title() for axes in half] for half in shown]
    assert titles == [["0.000\ncat", "0.010\ncat", "0.020\ncat"], ["0.990\na very long …\nas \\$dog\\$"]]
    arrays = [axes.images[0].get_array() for half in shown for axes in half]
    assert [array.shape for array in arrays] == [(3, 4, 3)] * 4
    assert [np.unique(array.reshape(-1, 3), axis=0).tolist() for array in arrays] == [
        [[red, 0, 0]] for red in (0, 1, 2, 200)
    ]
    colours = [axes.title.get_color() for half in shown for axes in half]
    assert len(set(colours[:3])) == 1
    assert colours[3] != colours[0]


@pytest.mark.painted
def test_each_image_is_painted_in_its_place(figures: list[Figure]) -> None:
    """Images of two colours, in a picture that is white without them."""
    halves = Image.new("RGB", (2, 1), (250, 10, 20))
    halves.putpixel((1, 0), (10, 20, 250))
    picture = pixels(extremes("t", [(halves, 0.1, "cat", "cat")], [(image(200), 0.9, "cat", "cat")]))
    first, last = figures[0].subfigs[0].axes[0], figures[0].subfigs[1].axes[0]
    top, bottom, left, right = box_of(first)
    middle = (left + right) // 2
    assert colours_of(picture[top + 2 : bottom - 2, left + 2 : middle - 2]) == {(250, 10, 20)}
    assert colours_of(picture[top + 2 : bottom - 2, middle + 2 : right - 2]) == {(10, 20, 250)}
    top, bottom, left, right = box_of(last)
    assert colours_of(picture[top + 2 : bottom - 2, left + 2 : right - 2]) == {(200, 0, 0)}
    empty = box_of(figures[0].subfigs[0].axes[1])
    assert colours_of(picture[empty[0] : empty[1], empty[2] : empty[3]]) == {(255, 255, 255)}
