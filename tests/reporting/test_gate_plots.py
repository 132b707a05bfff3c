"""Plots of gates: what is in them."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from decompose_cli.reporting import gate_plots
from decompose_cli.reporting.gate_plots import SHOWN, extremes, gate_distribution


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that become files."""
    found: list[Any] = []
    png = gate_plots.png
    monkeypatch.setattr(gate_plots, "png", lambda figure: (found.append(figure), png(figure))[1])
    return found


def test_each_gate_has_a_panel_with_the_share_of_both_groups(figures: list[Any]) -> None:
    groups = {"right": [[0.1, 0.12, 0.9], [0.5]], "wrong": [[0.6], []]}
    content = gate_distribution("a $title$", ["g of stage 2", "g of stage 3"], groups)
    assert Image.open(BytesIO(content)).format == "PNG"
    first, second = figures[0].axes
    assert first.get_title() == r"a \$title\$"
    assert (first.get_xlabel(), second.get_xlabel()) == ("g of stage 2", "g of stage 3")
    texts = [text.get_text() for text in first.get_legend().get_texts()]
    assert texts == ["right (3 images, mean g 0.373)", "wrong (1 images, mean g 0.600)"]
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["right (1 images, mean g 0.500)"]
    heights = [patch.get_height() for patch in first.patches if hasattr(patch, "get_height")]
    assert sum(heights) == pytest.approx(200)  # per cent of either group
    assert (first.get_xlim(), second.get_xlim()) == ((0, 1), (0, 1))


def test_extremes_show_images_labels_and_mistakes(figures: list[Any]) -> None:
    def image(red: int) -> Image.Image:
        return Image.new("RGB", (4, 3), (red, 0, 0))

    lowest = [(image(number), number / 100, "cat", "cat") for number in range(3)]
    highest = [(image(200), 0.99, "a very long name of a class", "$dog$")]
    content = extremes("title", lowest, highest)
    assert Image.open(BytesIO(content)).format == "PNG"
    titles = [axes.get_title() for axes in figures[0].axes if axes.images]
    assert titles == ["0.000\ncat", "0.010\ncat", "0.020\ncat", "0.990\na very long …\nas \\$dog\\$"]
    reds = [int(axes.images[0].get_array()[0, 0, 0]) for axes in figures[0].axes if axes.images]
    assert reds == [0, 1, 2, 200]
    assert len(figures[0].axes) == 2 * SHOWN
    colours = [axes.title.get_color() for axes in figures[0].axes if axes.images]
    assert len(set(colours[:3])) == 1
    assert colours[3] != colours[0]
