"""Plots of trainings: what is drawn is what was given, from one epoch to hundreds."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.pictures import Pixels, box_of, changed, colours_of, legend_of, pixels, points
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from decompose_cli.reporting.training_plots import lr_curve, lr_figure, training_curves, training_figure

RATES = [1e-4 * 10 ** (i / 10) for i in range(40)]
SMOOTHED = [2.3 - 0.05 * i for i in range(35)] + [1.0, 3.0, 9.0, 40.0, 200.0]
LOSSES = [value + (0.1 if i % 2 else -0.1) for i, value in enumerate(SMOOTHED)]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Texts as they reach the canvas, each with whether it is set as mathematics."""
    texts: dict[str, bool] = {}
    original = RendererAgg.draw_text

    def draw_text(self: Any, gc: Any, x: float, y: float, s: str, *more: Any, **named: Any) -> None:
        texts[s] = bool(named.get("ismath", more[2] if len(more) > 2 else False))
        original(self, gc, x, y, s, *more, **named)

    monkeypatch.setattr(RendererAgg, "draw_text", draw_text)
    return texts


def check_picture(content: bytes) -> Pixels:
    picture = pixels(content)
    assert picture.shape[1] == 1200
    assert picture.shape[0] >= 700
    return picture


# ---------------------------------------------------------------------------------------------------------- range test


def test_a_range_test_shows_its_losses_and_the_suggestion(figures: list[Figure]) -> None:
    lr_curve("net on data", RATES, LOSSES, SMOOTHED, 0.0123)
    (axes,) = figures[0].axes
    single, average, suggested = axes.get_lines()
    assert points(single) == list(zip(RATES, LOSSES, strict=True))
    assert single.get_linestyle() == "None"
    assert points(average) == list(zip(RATES, SMOOTHED, strict=True))
    assert average.get_linestyle() == "-"
    assert set(suggested.get_xdata()) == {0.0123}
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (
        "net on data",
        "learning rate",
        "training loss",
    )
    legend = legend_of(axes)
    assert list(legend) == ["single batches", "their moving average, which trails", "suggested: 0.012"]
    for shown, line in zip(legend.values(), (single, average, suggested), strict=True):
        assert same_color(shown.get_color(), line.get_color())


@pytest.mark.painted
def test_the_suggestion_is_painted_at_its_rate(figures: list[Figure]) -> None:
    without, with_one, elsewhere = (
        check_picture(lr_curve("net", RATES, LOSSES, SMOOTHED, rate)) for rate in (None, 0.01, 0.1)
    )
    assert len(figures[0].axes[0].get_lines()) == 2
    assert list(legend_of(figures[0].axes[0])) == ["single batches", "their moving average, which trails"]
    vermillion, blue = (213, 94, 0), (0, 114, 178)
    assert {vermillion, blue} & colours_of(without) == {blue}
    assert {vermillion, blue} <= colours_of(with_one)
    axes = figures[1].axes[0]
    height = with_one.shape[0]
    for picture, rate in ((with_one, 0.01), (elsewhere, 0.1)):
        column = round(float(axes.transData.transform((rate, 1.0))[0]))
        top, bottom = (round(height - y) for y in (axes.bbox.y0 + axes.bbox.height * 0.5, axes.bbox.y0 + 5))
        below_the_legend = picture[top:bottom, column - 2 : column + 3]
        assert vermillion in colours_of(below_the_legend)


def test_losses_that_diverge_do_not_flatten_the_rest() -> None:
    low, high = lr_figure("net", RATES, LOSSES, SMOOTHED, 0.01).axes[0].get_ylim()
    assert low < min(LOSSES)
    assert max(SMOOTHED[:35]) < high < 3.0
    scaled = lr_figure("net", RATES, *([10 * loss for loss in losses] for losses in (LOSSES, SMOOTHED)), 0.01)
    assert scaled.axes[0].get_ylim() == pytest.approx((10 * low, 10 * high)), "the same picture, whatever the loss"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_are_left_out(bad: float) -> None:
    figure = lr_figure("net", RATES, [*LOSSES[:-1], bad], [*SMOOTHED[:-1], bad], 0.01)
    for line in figure.axes[0].get_lines()[:2]:
        values = list(line.get_ydata())
        assert all(map(math.isfinite, values[:-1]))
        assert math.isnan(values[-1])
    assert all(map(math.isfinite, figure.axes[0].get_ylim()))
    nothing = lr_figure("net", RATES, [bad] * 40, [bad] * 40, None)
    assert all(map(math.isnan, nothing.axes[0].get_lines()[1].get_ydata()))
    nothing.draw_without_rendering()


@pytest.mark.parametrize("loss", [0.0, 2.3])
def test_a_loss_that_stays_is_inside_the_picture(loss: float) -> None:
    for count in (40, 1):
        figure = lr_figure("net", RATES[:count], [loss] * count, [loss] * count, None)
        figure.draw_without_rendering()
        low, high = figure.axes[0].get_ylim()
        assert low < loss < high
        left, right = figure.axes[0].get_xlim()
        assert left < RATES[0] <= RATES[count - 1] < right


# ------------------------------------------------------------------------------------------------------------ training


LOSS = {"train": [2.0, 1.0, 0.5], "test": [2.1, 1.5, 1.4]}
TOP1 = {"test": [30.0, 50.0, 55.0]}


def test_a_training_shows_loss_accuracy_and_rate(figures: list[Figure]) -> None:
    training_curves("net on data", [1, 2, 3], LOSS, TOP1, [0.1, 0.1, 0.05])
    loss, top1, lr = figures[0].axes
    train, test = loss.get_lines()
    assert points(train) == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert points(test) == [(1, 2.1), (2, 1.5), (3, 1.4)]
    (accuracy,) = top1.get_lines()
    assert points(accuracy) == [(1, 30.0), (2, 50.0), (3, 55.0)]
    assert points(lr.get_lines()[0]) == [(1, 0.1), (2, 0.1), (3, 0.05)]
    assert (loss.get_title(), loss.get_ylabel()) == ("net on data", "loss")
    assert (top1.get_ylabel(), lr.get_ylabel(), lr.get_xlabel()) == ("top-1 accuracy (%)", "learning rate", "epoch")
    for axes, lines in ((loss, {"train": train, "test": test}), (top1, {"test": accuracy})):
        legend = legend_of(axes)
        assert list(legend) == list(lines)
        for name, line in lines.items():
            assert same_color(legend[name].get_color(), line.get_color())
            assert legend[name].get_marker() == line.get_marker()
    assert same_color(accuracy.get_color(), test.get_color()), "a split keeps its colour"
    assert accuracy.get_marker() == test.get_marker()
    assert not same_color(train.get_color(), test.get_color())


@pytest.mark.painted
def test_a_value_that_changes_is_painted_in_its_panel_alone(figures: list[Figure]) -> None:
    values: list[Any] = [LOSS, TOP1, [0.1, 0.1, 0.05]]
    others = [{**LOSS, "train": [2.0, 1.9, 0.5]}, {"test": [30.0, 33.0, 55.0]}, [0.1, 0.06, 0.05]]
    first = check_picture(training_curves("net on data", [1, 2, 3], *values))
    for panel, other in enumerate(others):
        changed_values = [*values[:panel], other, *values[panel + 1 :]]
        second = check_picture(training_curves("net on data", [1, 2, 3], *changed_values))
        top, bottom, left, right = box_of(figures[0].axes[panel])
        place = changed(first, second)
        assert top < place[0] < place[1] < bottom
        assert left < place[2] < place[3] < right


def test_a_line_leads_over_epochs_that_were_not_measured() -> None:
    values = [None, 1.5, None, math.nan, 1.2, math.inf]
    loss, top1, _ = training_figure("net", range(1, 7), {"test": values}, {"test": [None] * 6}, [0.1] * 6).axes
    assert points(loss.get_lines()[0]) == [(2, 1.5), (5, 1.2)]
    assert loss.get_lines()[0].get_linestyle() == "-"
    assert points(top1.get_lines()[0]) == []


@pytest.mark.painted
def test_one_epoch_is_seen(figures: list[Figure]) -> None:
    picture = check_picture(training_curves("net", [1], {"train": [2.0]}, {"train": [40.0]}, [0.1]))
    for axes in figures[0].axes:
        (line,) = axes.get_lines()
        assert line.get_marker() not in ("", "None")
        low, high = axes.get_xlim()
        assert (low, high) == (0.5, 1.5)
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]
        top, bottom, left, right = box_of(axes)
        rows, columns = (top + bottom) // 2, (left + right) // 2
        in_the_middle = picture[rows - 3 : rows + 4, columns - 3 : columns + 4].reshape(-1, 3)
        assert (in_the_middle == in_the_middle[24]).all(1).mean() > 0.5, "a marker covers it"
        assert in_the_middle[24].min() < 150, "of a colour"


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_epochs_are_whole_numbers(count: int) -> None:
    values = [float(number) for number in range(count)]
    for axes in training_figure("net", range(1, count + 1), {"a": values}, {"a": values}, [0.1] * count).axes:
        assert all(tick == int(tick) for tick in axes.get_xticks())


def test_many_epochs_are_lines_without_markers() -> None:
    epochs = list(range(1, 251))
    values = {"train": [1 / epoch for epoch in epochs]}
    for axes in training_figure("net", epochs, values, values, [0.1] * 250).axes:
        (line,) = axes.get_lines()
        assert len(line.get_xdata()) == 250
        assert line.get_marker() in ("", "None")
        assert all(tick == int(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize(
    ("lr", "scale"),
    [
        ([0.1, 0.01, 0.001], "log"),
        ([0.1, 0.01, 0.0], "log"),
        ([0.1, 0.1, 0.1], "linear"),
        ([0.1, 0.05, 0.02], "linear"),
        ([0.0, 0.0, 0.0], "linear"),
    ],
)
def test_rates_that_fall_by_tenths_are_told_apart(lr: list[float], scale: str) -> None:
    figure = training_figure("net", [1, 2, 3], LOSS, TOP1, lr)
    figure.draw_without_rendering()
    axes = figure.axes[2]
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert all(low <= rate <= high for rate in lr if rate > 0 or scale == "linear")


def test_curves_may_be_missing() -> None:
    figure = training_figure("net", [1, 2], {}, {}, [0.1, 0.1])
    figure.draw_without_rendering()
    assert [len(axes.get_lines()) for axes in figure.axes] == [0, 0, 1]
    assert [axes.get_legend() for axes in figure.axes] == [None] * 3


@pytest.mark.painted
def test_names_are_painted_as_text(written: dict[str, bool], recwarn: pytest.WarningsRecorder) -> None:
    names = ["$k$", "a$b", r"$\frac{1}", "_hidden", "žába", "日本"]
    title = " and ".join(names)
    values = {name: [2.0, 1.0] for name in names}
    training_curves(title, [1, 2], values, values, [0.1, 0.1])
    lr_curve(f"rates of {title}", RATES, LOSSES, SMOOTHED, 0.01)
    for text in (*names, title, f"rates of {title}"):
        assert written[text] is False
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]


@pytest.mark.painted
def test_the_same_numbers_give_the_same_bytes() -> None:
    first, second = (training_curves("a", [1, 2], {"t": [2.0, 1.0]}, {"t": [1.0, 2.0]}, [0.1, 0.2]) for _ in range(2))
    assert first == second


def test_a_value_for_each_epoch() -> None:
    with pytest.raises(ValueError, match="zip"):
        training_curves("net", [1, 2], {"train": [1.0]}, {}, [0.1, 0.1])
