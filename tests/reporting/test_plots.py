"""Plots: files that are whole or not there, with the names as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.pictures import box_of, changed, colours_of, legend_of, pixels, points
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure

from decompose_cli.reporting.plots import Curve, accuracy_curves, accuracy_figure
from decompose_cli.reporting.style import COLOURS, NARROW, WIDE, look, new_figure, png

LINE = Curve([1, 2, 3, 4, 5], [50.0, 60, 70, 80, 85], [45.0, 55, 65, 75, 80], [55.0, 65, 75, 85, 90])
POINT = Curve([5], [70.0], [66.0], [73.0], is_line=False)


def draw(curves: dict[str, Curve] | None = None, title: str = "net on data") -> bytes:
    return accuracy_curves(title, {"frequency": LINE, "file": POINT} if curves is None else curves, 91.5)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Texts as they reach the canvas, each with whether it is set as mathematics."""
    texts: list[tuple[str, Any]] = []
    original = RendererAgg.draw_text

    def draw_text(self: Any, gc: Any, x: float, y: float, s: str, *more: Any, **named: Any) -> None:
        texts.append((s, named.get("ismath", more[2] if len(more) > 2 else False)))
        original(self, gc, x, y, s, *more, **named)

    monkeypatch.setattr(RendererAgg, "draw_text", draw_text)
    return texts


BLUE, ORANGE = (0, 0x72, 0xB2), (0xE6, 0x9F, 0)


@pytest.mark.painted
def test_a_value_that_changes_is_painted_otherwise_and_no_file_is_written(figures: list[Figure]) -> None:
    first = pixels(draw())
    assert min(first.shape[:2]) >= 500
    assert {BLUE, ORANGE} <= colours_of(first)
    assert ORANGE not in colours_of(pixels(draw({"file": POINT})))
    lower = Curve(LINE.ks, [*LINE.top1[:2], 69.0, *LINE.top1[3:]], LINE.low, LINE.high)
    second = pixels(draw({"frequency": lower, "file": POINT}))
    axes = figures[0].axes[0]
    top, bottom, _, _ = box_of(axes)
    place = changed(first, second, by=100)
    assert top < place[0] < place[1] < bottom
    before, after = (axes.transData.transform((k, -20))[0] for k in (2, 4))
    assert before < place[2] < place[3] < after, "between the sizes before and after"
    assert not list(Path.cwd().iterdir())


@pytest.mark.painted
def test_the_same_curves_give_the_same_bytes() -> None:
    assert draw() == draw()


def test_a_line_and_a_point_show_their_numbers_and_intervals(figures: list[Figure]) -> None:
    draw()
    (axes,) = figures[0].axes
    line, mark, full = axes.get_lines()
    assert [list(values) for values in line.get_data()] == [[1, 2, 3, 4, 5], [-41.5, -31.5, -21.5, -11.5, -6.5]]
    assert line.get_linestyle() == "-"
    assert set(full.get_ydata()) == {0}, "the full head, 91.5%"
    assert full.get_linestyle() == "--"
    band = axes.collections[0].get_paths()[0].vertices
    assert {(1.0, -46.5), (1.0, -36.5), (5.0, -11.5), (5.0, -1.5)} <= {tuple(vertex) for vertex in band}
    (point,) = axes.containers
    assert point[0] is mark
    assert [list(values) for values in point[0].get_data()] == [[5], [-21.5]]
    (bar,) = point[2][0].get_segments()
    assert bar.tolist() == [[5, -25.5], [5, -18.5]]
    legend = legend_of(axes)
    assert list(legend) == ["frequency", "file", "full head: 91.50%"]
    for shown, drawn_line in zip(legend.values(), (line, mark, full), strict=True):
        for getter in ("get_color", "get_marker", "get_linestyle"):
            assert getattr(shown, getter)() == getattr(drawn_line, getter)()


def first_of_line(count: int, *, is_line: bool) -> Curve:
    return Curve(LINE.ks[:count], LINE.top1[:count], LINE.low[:count], LINE.high[:count], is_line)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_points_are_not_joined(figures: list[Figure], count: int) -> None:
    draw(curves={"points": first_of_line(count, is_line=False)})
    (axes,) = figures[0].axes
    (points,) = axes.containers
    assert points[0].get_linestyle() == "None"
    assert list(points[0].get_xdata()) == list(LINE.ks[:count])
    assert not axes.collections[1:], "bars, no band"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_line_is_one_however_short(figures: list[Figure], count: int) -> None:
    draw(curves={"line": first_of_line(count, is_line=True)})
    (axes,) = figures[0].axes
    assert not axes.containers
    line, _ = axes.get_lines()
    assert line.get_linestyle() == "-"
    assert list(line.get_xdata()) == list(LINE.ks[:count])
    assert len(axes.collections) == 1


def test_refitted_points_are_open_and_of_the_colour_of_the_cut(figures: list[Figure]) -> None:
    accuracy_curves("", {"frequency": LINE, "file": POINT}, 91.5, {"file": Curve([5], [80.0], [76.0], [83.0], False)})
    (axes,) = figures[0].axes
    cut, anew = (container[0] for container in axes.containers)
    assert points(anew) == [(5.0, -11.5)]
    assert anew.get_color() == cut.get_color()
    assert (anew.get_linestyle(), anew.get_markerfacecolor()) == ("None", "white")
    (bar,) = axes.containers[1][2][0].get_segments()
    assert bar.tolist() == [[5, -15.5], [5, -8.5]]
    assert list(legend_of(axes)) == ["frequency", "file", "the same, weights fitted anew", "full head: 91.50%"]


@pytest.mark.parametrize(
    ("ks", "named"),
    [
        ([1, 2, 3, 5, 10], [10, 5, 2, 1]),
        ([*range(1, 65)], [64, 50, 20, 10, 5, 2, 1]),
        ([3, 10, 11, 12, 13, 14], [14, 10, 5, 3]),
        ([500, 512], [512]),
        ([7], [7]),
    ],
)
def test_on_a_scale_of_factors_no_two_names_are_in_one_place(
    figures: list[Figure], ks: list[int], named: list[int]
) -> None:
    flat = [50.0] * len(ks)
    accuracy_curves("", {"a": Curve(ks, flat, flat, flat)}, 90.0)
    (axes,) = figures[0].axes
    assert [int(label.get_text()) for label in axes.get_xticklabels()] == named


def test_every_curve_is_named_and_told_apart(figures: list[Figure]) -> None:
    names = [f"curve {number}" for number in range(7)]
    draw(curves=dict.fromkeys(names, LINE))
    (axes,) = figures[0].axes
    lines = axes.get_lines()[:7]
    assert len({line.get_color() for line in lines}) == 7
    assert len({line.get_marker() for line in lines}) == 7
    legend = legend_of(axes)
    assert list(legend) == [*names, "full head: 91.50%"]
    for name, line in zip(names, lines, strict=True):
        assert (legend[name].get_color(), legend[name].get_marker()) == (line.get_color(), line.get_marker())


@pytest.mark.painted
def test_there_may_be_more_curves_than_colours(written: list[tuple[str, Any]], figures: list[Figure]) -> None:
    curves = {f"curve {number}": Curve([1, 2], [number, 2 * number], [0, 0], [50, 50]) for number in range(20)}
    draw(curves=curves)
    assert set(curves) <= {text for text, _ in written}
    lines = figures[0].axes[0].get_lines()[:20]
    assert [points(line) for line in lines] == [[(1, n - 91.5), (2, 2 * n - 91.5)] for n in range(20)]


def test_without_a_full_head_there_is_no_line_for_it() -> None:
    (axes,) = accuracy_figure("", {"frequency": LINE}, None).axes
    (line,) = axes.get_lines()
    assert list(line.get_ydata()) == LINE.top1, "accuracy itself"
    assert axes.get_yscale() == "linear"
    assert list(legend_of(axes)) == ["frequency"]


def test_points_near_the_full_head_have_the_most_room_and_say_the_accuracy() -> None:
    deep = Curve([1, 5], [11.5, 90.5], [9.0, 89.0], [14.0, 92.0])
    (axes,) = accuracy_figure("", {"frequency": deep}, 91.5, 5).axes
    ticks = {label.get_text(): place for label, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    assert ticks["0 (91.5%)"] == 0
    assert ticks["-50 (41.5%)"] == -50
    bottom, five, zero = axes.transData.transform([(1, -80), (1, -5), (1, 0)])[:, 1]
    assert zero - five > 0.3 * (zero - bottom), "five of eighty points fill a third and more"
    assert [text.get_text() for text in axes.texts] == ["chosen: k = 5"]


def test_small_differences_are_not_blown_up_to_the_whole_height() -> None:
    flat = Curve([1, 2], [91.4, 91.5], [91.4, 91.5], [91.4, 91.5])
    low, high = accuracy_figure("", {"frequency": flat}, 91.5).axes[0].get_ylim()
    assert low <= -1 < 1 <= high


def test_a_floor_is_drawn_below_the_curves() -> None:
    floor = Curve([1, 5], [20.0, 40.0], [10.0, 30.0], [30.0, 50.0])
    (axes,) = accuracy_figure("", {"frequency": LINE}, 90.0, floor=floor).axes
    assert points(axes.get_lines()[1]) == [(1, -70), (5, -50)]
    band = {tuple(vertex) for vertex in axes.collections[1].get_paths()[0].vertices}
    assert {(1, -80), (1, -60), (5, -60), (5, -40)} <= band
    assert "random features: mean and range" in legend_of(axes)


def test_on_a_phone_texts_keep_their_size_and_what_is_long_is_written_in_lines() -> None:
    wide, narrow = (accuracy_figure("", {"a " * 40: LINE}, 90.0, width=width) for width in (WIDE, NARROW))
    assert (wide.get_figwidth(), narrow.get_figwidth()) == (WIDE, NARROW)
    sizes = {text.get_fontsize() for figure in (wide, narrow) for text in figure.legends[0].get_texts()}
    assert len(sizes) == 1
    assert "\n" in narrow.legends[0].get_texts()[0].get_text()
    assert "\n" not in wide.legends[0].get_texts()[0].get_text()
    assert [label.get_text() for label in narrow.axes[0].get_yticklabels()][-2:] == ["0", "+1"]


ODD = [
    "$k$",
    "a$b",
    "$5 and $10",
    r"$\frac{1}",
    r"a\$b",
    r"\alpha",
    "<b>bold</b>",
    "a & b < c",
    "100%",
    "žába",
    "a_b^c",
    "_line",
]


@pytest.mark.painted
def test_names_are_painted_as_text_and_never_as_mathematics(written: list[tuple[str, Any]]) -> None:
    """Also those with a leading underscore, which a legend would leave out."""
    draw(curves=dict.fromkeys(ODD, LINE) | {f"_point {name}": POINT for name in ODD}, title=f"net on {ODD[0]}")
    draw(title=r"net on $\frac{1}")
    shown = dict(written)
    for text in (*ODD, *(f"_point {name}" for name in ODD), f"net on {ODD[0]}", r"net on $\frac{1}"):
        assert shown[text] is False


@pytest.mark.painted
def test_a_name_that_is_no_utf8_is_drawn_escaped() -> None:
    pictures = []
    for title in ("caf\udce9", "caf\\udce9", "caf"):
        figure = new_figure(1)
        figure.suptitle(title)
        pictures.append(png(figure))
    assert pictures[0] == pictures[1] != pictures[2]


def test_many_curves_can_be_told_apart() -> None:
    found = [tuple(look(number).values()) for number in range(49)]
    assert len(set(found)) == 49
    assert [colour for colour, _ in found[:7]] == list(COLOURS)
