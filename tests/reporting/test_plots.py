"""Plots: files that are whole or not there, with the names as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.pictures import box_of, changed, colours_of, legend_of, pixels, points
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure

from decompose_cli.reporting.plots import Curve, accuracy_curves, accuracy_figure
from decompose_cli.reporting.style import new_figure, png

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
    before, after = (axes.transData.transform((k, 70))[0] for k in (2, 4))
    assert before < place[2] < place[3] < after, "between the sizes before and after"
    assert not list(Path.cwd().iterdir())


@pytest.mark.painted
def test_the_same_curves_give_the_same_bytes() -> None:
    assert draw() == draw()


def test_a_line_and_a_point_show_their_numbers_and_intervals(figures: list[Figure]) -> None:
    draw()
    (axes,) = figures[0].axes
    line, mark, full = axes.get_lines()
    assert [list(values) for values in line.get_data()] == [[1, 2, 3, 4, 5], [50, 60, 70, 80, 85]]
    assert line.get_linestyle() == "-"
    assert set(full.get_ydata()) == {91.5}
    assert full.get_linestyle() == "--"
    band = axes.collections[0].get_paths()[0].vertices
    assert {(1.0, 45.0), (1.0, 55.0), (5.0, 80.0), (5.0, 90.0)} <= {tuple(vertex) for vertex in band}
    (point,) = axes.containers
    assert point[0] is mark
    assert [list(values) for values in point[0].get_data()] == [[5], [70]]
    (bar,) = point[2][0].get_segments()
    assert bar.tolist() == [[5, 66], [5, 73]]
    legend = legend_of(axes)
    assert list(legend) == ["frequency", "file", "full head"]
    for shown, drawn_line in zip(legend.values(), (line, mark, full), strict=True):
        for look in ("get_color", "get_marker", "get_linestyle"):
            assert getattr(shown, look)() == getattr(drawn_line, look)()


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
    assert points(anew) == [(5.0, 80.0)]
    assert anew.get_color() == cut.get_color()
    assert (anew.get_linestyle(), anew.get_markerfacecolor()) == ("None", "white")
    (bar,) = axes.containers[1][2][0].get_segments()
    assert bar.tolist() == [[5, 76], [5, 83]]
    assert list(legend_of(axes)) == ["frequency", "file", "the same, weights fitted anew", "full head"]


@pytest.mark.parametrize(
    ("ks", "named"),
    [([1, 2, 3, 5, 10], [10, 5, 3, 2, 1]), ([1, 10, 11, 12, 13, 14], [14, 11, 1]), ([500, 512], [512])],
)
def test_on_a_scale_of_factors_no_two_names_are_in_one_place(
    figures: list[Figure], ks: list[int], named: list[int]
) -> None:
    flat = [50.0] * len(ks)
    accuracy_curves("", {"a": Curve(ks, flat, flat, flat)}, 90.0, {"a": Curve(ks, flat, flat, flat)})
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
    assert list(legend) == [*names, "full head"]
    for name, line in zip(names, lines, strict=True):
        assert (legend[name].get_color(), legend[name].get_marker()) == (line.get_color(), line.get_marker())


@pytest.mark.painted
def test_there_may_be_more_curves_than_colours(written: list[tuple[str, Any]], figures: list[Figure]) -> None:
    curves = {f"curve {number}": Curve([1, 2], [number, 2 * number], [0, 0], [50, 50]) for number in range(20)}
    draw(curves=curves)
    assert set(curves) <= {text for text, _ in written}
    lines = figures[0].axes[0].get_lines()[:20]
    assert [points(line) for line in lines] == [[(1, number), (2, 2 * number)] for number in range(20)]


def test_without_a_full_head_there_is_no_line_for_it() -> None:
    (axes,) = accuracy_figure("", {"frequency": LINE}, None).axes
    assert len(axes.get_lines()) == 1
    assert list(legend_of(axes)) == ["frequency"]


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
