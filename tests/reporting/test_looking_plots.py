"""Pictures of explanations and of filters: what is in them."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from decompose_cli.reporting import explain_plots, filter_plots
from decompose_cli.reporting.explain_plots import Panel, Picture, picture_row, picture_sheet
from decompose_cli.reporting.filter_plots import FilterRow, Response, filter_sheet


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that become files."""
    found: list[Any] = []
    for module in (explain_plots, filter_plots):
        png = module.png
        monkeypatch.setattr(module, "png", lambda figure, png=png: (found.append(figure), png(figure))[1])
    return found


def picture(title: str = "a $title$") -> Picture:
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    image[0] = 200
    panels = [
        Panel("Grad-CAM\ncat", torch.tensor([[0.0, 2.0]]), signed=False),
        Panel("own\n+1.00", torch.tensor([[1.0, -3.0]]), signed=True),
        Panel("others\n+0.50", torch.tensor([[0.5, 0.5]]), signed=True),
    ]
    return Picture(title, image, panels, ["full head", " 99.0%  <script>", " 1.0%  $x$"])


def test_maps_of_filters_share_their_scale_and_names_are_no_mathematics(figures: list[Any]) -> None:
    content = picture_row(picture())
    assert Image.open(BytesIO(content)).format == "PNG"
    axes = figures[0].axes
    assert axes[0].get_title() == r"a \$title\$"
    assert axes[0].images[0].get_array()[0, 0].tolist() == [200, 0, 0]
    limits = [ax.images[1].get_clim() for ax in axes[1:4]]
    assert limits == [(0.0, 2.0), (-3.0, 3.0), (-3.0, 3.0)]
    assert [ax.get_title() for ax in axes[1:4]] == ["Grad-CAM\ncat", "own\n+1.00", "others\n+0.50"]
    assert axes[1].images[1].get_extent() == [-0.5, 5.5, 3.5, -0.5]
    assert axes[-1].texts[0].get_text() == "full head\n 99.0%  <script>\n 1.0%  \\$x\\$"


def test_a_sheet_has_a_row_for_each_picture() -> None:
    rows = [picture_row(picture("first")), picture_row(picture("second"))]
    first, second = (np.asarray(Image.open(BytesIO(row)).convert("RGB")) for row in rows)
    sheet = np.asarray(Image.open(BytesIO(picture_sheet(rows))))
    assert (first != second).any()
    assert (sheet == np.concatenate([first, second])).all()


def test_rows_of_filters(figures: list[Any]) -> None:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    first = [
        Response(image, torch.tensor([[1.0, 4.0]]), "cat 4.00", True),
        Response(image, torch.tensor([[0.0, 2.0]]), "dog 2.00", False),
    ]
    second = [Response(image, None, "cat 1.00", True)]
    rows = [
        FilterRow("1. filter 7\nshared with " + ", ".join(f"class{n}" for n in range(60)), first),
        FilterRow("2.", second),
    ]
    content = filter_sheet("$f$", rows)
    assert Image.open(BytesIO(content)).format == "PNG"
    axes = figures[0].axes
    assert figures[0].get_suptitle() == r"\$f\$"
    assert [ax.get_title() for ax in axes] == ["", "cat 4.00", "dog 2.00", "", "cat 1.00", ""]
    assert axes[1].title.get_color() != axes[2].title.get_color()
    assert [ax.images[1].get_clim() for ax in axes[1:3]] == [(0.0, 4.0), (0.0, 4.0)]
    assert len(axes[4].images) == 1
    lines = axes[0].texts[0].get_text().split("\n")
    assert len(lines) == 7
    assert lines[-1] == "…"
