"""Plots of trainings: what is drawn is what was given, from one epoch to hundreds."""

from __future__ import annotations

import math
from io import BytesIO
from typing import Any

import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from PIL import Image

from decompose_cli.reporting.training_plots import lr_curve, training_curves

RATES = [1e-4 * 10 ** (i / 10) for i in range(40)]
SMOOTHED = [2.3 - 0.05 * i for i in range(35)] + [1.0, 3.0, 9.0, 40.0, 200.0]
LOSSES = [value + (0.1 if i % 2 else -0.1) for i, value in enumerate(SMOOTHED)]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they are when they are saved."""
    found: list[Figure] = []
    original = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **named: Any) -> None:
        found.append(self)
        original(self, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Texts as they reach the canvas, each with whether it is set as mathematics."""
    texts: dict[str, bool] = {}
    original = RendererAgg.draw_text

    def draw_text(self: Any, gc: Any, x: float, y: float, s: str, *more: Any, **named: Any) -> None:
        texts[s] = bool(named.get("ismath", more[2] if len(more) > 2 else False))
        original(self, gc, x, y, s, *more, **named)

    monkeypatch.setattr(RendererAgg, "draw_text", draw_text)
    return texts


def points(line: Any) -> list[tuple[float, float]]:
    return list(zip(*(list(values) for values in line.get_data()), strict=True))


def check_picture(content: bytes) -> None:
    with Image.open(BytesIO(content)) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.size[0] == 1200
        assert min(picture.size) >= 700


def legend_texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


# ---------------------------------------------------------------------------------------------------------- range test


def test_a_range_test_shows_its_losses_and_the_suggestion(figures: list[Figure]) -> None:
    check_picture(lr_curve("net on data", RATES, LOSSES, SMOOTHED, 0.0123))
    (axes,) = figures[0].axes
    single, average, suggested = axes.get_lines()
    assert points(single) == list(zip(RATES, LOSSES, strict=True))
    assert single.get_linestyle() == "None"
    assert points(average) == list(zip(RATES, SMOOTHED, strict=True))
    assert average.get_linestyle() == "-"
    assert set(suggested.get_xdata()) == {0.0123}
    assert axes.get_xscale() == "log"
    assert axes.get_title() == "net on data"
    assert legend_texts(axes)[2] == "suggested: 0.012"


def test_a_range_test_may_be_without_a_suggestion(figures: list[Figure]) -> None:
    check_picture(lr_curve("net", RATES, LOSSES, SMOOTHED, None))
    assert len(figures[0].axes[0].get_lines()) == 2
    assert len(legend_texts(figures[0].axes[0])) == 2


def test_losses_that_diverge_do_not_flatten_the_rest(figures: list[Figure]) -> None:
    lr_curve("net", RATES, LOSSES, SMOOTHED, 0.01)
    low, high = figures[0].axes[0].get_ylim()
    assert low < min(LOSSES)
    assert max(SMOOTHED[:35]) < high < 3.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_are_left_out(bad: float, figures: list[Figure]) -> None:
    check_picture(lr_curve("net", RATES, [*LOSSES[:-1], bad], [*SMOOTHED[:-1], bad], 0.01))
    for line in figures[0].axes[0].get_lines()[:2]:
        values = list(line.get_ydata())
        assert all(map(math.isfinite, values[:-1]))
        assert math.isnan(values[-1])
    assert all(map(math.isfinite, figures[0].axes[0].get_ylim()))
    check_picture(lr_curve("net", RATES, [bad] * 40, [bad] * 40, None))


@pytest.mark.parametrize("loss", [0.0, 2.3])
def test_a_loss_that_stays_can_be_drawn(loss: float) -> None:
    check_picture(lr_curve("net", RATES, [loss] * 40, [loss] * 40, None))
    check_picture(lr_curve("net", RATES[:1], [loss], [loss], None))


# ------------------------------------------------------------------------------------------------------------ training


def test_a_training_shows_loss_accuracy_and_rate(figures: list[Figure]) -> None:
    content = training_curves(
        "net on data",
        [1, 2, 3],
        {"train": [2.0, 1.0, 0.5], "test": [2.1, 1.5, 1.4]},
        {"test": [30.0, 50.0, 55.0]},
        [0.1, 0.1, 0.05],
    )
    check_picture(content)
    loss, top1, lr = figures[0].axes
    train, test = loss.get_lines()
    assert points(train) == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert points(test) == [(1, 2.1), (2, 1.5), (3, 1.4)]
    (accuracy,) = top1.get_lines()
    assert points(accuracy) == [(1, 30.0), (2, 50.0), (3, 55.0)]
    assert points(lr.get_lines()[0]) == [(1, 0.1), (2, 0.1), (3, 0.05)]
    assert (loss.get_title(), loss.get_ylabel()) == ("net on data", "loss")
    assert (top1.get_ylabel(), lr.get_ylabel(), lr.get_xlabel()) == ("top-1 accuracy (%)", "learning rate", "epoch")
    assert legend_texts(loss) == ["train", "test"]
    assert legend_texts(top1) == ["test"]
    assert same_color(accuracy.get_color(), test.get_color()), "a split keeps its colour"
    assert accuracy.get_marker() == test.get_marker()
    assert not same_color(train.get_color(), test.get_color())


def test_a_line_leads_over_epochs_that_were_not_measured(figures: list[Figure]) -> None:
    values = [None, 1.5, None, math.nan, 1.2, math.inf]
    training_curves("net", range(1, 7), {"test": values}, {"test": [None] * 6}, [0.1] * 6)
    loss, top1, _ = figures[0].axes
    assert points(loss.get_lines()[0]) == [(2, 1.5), (5, 1.2)]
    assert loss.get_lines()[0].get_linestyle() == "-"
    assert points(top1.get_lines()[0]) == []


def test_one_epoch_is_seen(figures: list[Figure]) -> None:
    check_picture(training_curves("net", [1], {"train": [2.0]}, {"train": [40.0]}, [0.1]))
    for axes in figures[0].axes:
        (line,) = axes.get_lines()
        assert line.get_marker() not in ("", "None")
        low, high = axes.get_xlim()
        assert (low, high) == (0.5, 1.5)
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_epochs_are_whole_numbers(count: int, figures: list[Figure]) -> None:
    values = [float(number) for number in range(count)]
    training_curves("net", range(1, count + 1), {"train": values}, {"train": values}, [0.1] * count)
    for axes in figures[0].axes:
        assert all(tick == int(tick) for tick in axes.get_xticks())


def test_many_epochs_are_lines_without_markers(figures: list[Figure]) -> None:
    epochs = list(range(1, 251))
    training_curves(
        "net", epochs, {"train": [1 / e for e in epochs]}, {"train": [1.0 * e for e in epochs]}, [0.1] * 250
    )
    for axes in figures[0].axes:
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
def test_rates_that_fall_by_tenths_are_told_apart(lr: list[float], scale: str, figures: list[Figure]) -> None:
    check_picture(training_curves("net", [1, 2, 3], {"train": [3.0, 2.0, 1.0]}, {"train": [1.0, 2.0, 3.0]}, lr))
    assert figures[0].axes[2].get_yscale() == scale


def test_curves_may_be_missing() -> None:
    check_picture(training_curves("net", [1, 2], {}, {}, [0.1, 0.1]))


@pytest.mark.parametrize("name", ["$k$", "a$b", r"$\frac{1}", "_hidden", "žába", "日本"])
def test_names_are_drawn_as_text(name: str, drawn: dict[str, bool], recwarn: pytest.WarningsRecorder) -> None:
    training_curves(f"net on {name}", [1, 2], {name: [2.0, 1.0]}, {name: [10.0, 20.0]}, [0.1, 0.1])
    lr_curve(f"rates of {name}", RATES, LOSSES, SMOOTHED, 0.01)
    for text in (name, f"net on {name}", f"rates of {name}"):
        assert drawn[text] is False
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert lr_curve("a", RATES, LOSSES, SMOOTHED, 0.1) == lr_curve("a", RATES, LOSSES, SMOOTHED, 0.1)
    first, second = (training_curves("a", [1, 2], {"t": [2.0, 1.0]}, {"t": [1.0, 2.0]}, [0.1, 0.2]) for _ in range(2))
    assert first == second


def test_a_value_for_each_epoch() -> None:
    with pytest.raises(ValueError, match="zip"):
        training_curves("net", [1, 2], {"train": [1.0]}, {}, [0.1, 0.1])
