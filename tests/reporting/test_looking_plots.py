"""Pictures of explanations and of filters: what is in them."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import PIL.Image
import pytest
import torch
from helpers.pictures import box_of, changed, colours_of, pixels
from matplotlib.figure import Figure

from decompose_cli.reporting.explain_plots import (
    Panel,
    Picture,
    Whole,
    picture_panels,
    picture_row,
    picture_sheet,
)
from decompose_cli.reporting.filter_plots import FilterRow, Response, filter_sheet, filter_strips


def picture(title: str = "a $title$") -> Picture:
    """An image, the left half of it red, and three maps."""
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    image[0, :, :3] = 200
    panels = [
        Panel("Grad-CAM\ncat", torch.tensor([[0.0, 2.0]]), signed=False),
        Panel("own\n+1.00", torch.tensor([[1.0, -3.0]]), signed=True),
        Panel("others\n+0.50", torch.tensor([[0.5, 0.5]]), signed=True),
    ]
    return Picture(title, image, panels, ["full head", " 99.0%  <script>", " 1.0%  $x$"])


def test_maps_of_filters_share_their_scale_and_names_are_no_mathematics(figures: list[Figure]) -> None:
    shown = picture()
    picture_row(shown)
    axes = figures[0].axes
    assert axes[0].get_title() == r"a \$title\$"
    assert np.array_equal(axes[0].images[0].get_array(), shown.image.permute(1, 2, 0))
    for ax, panel in zip(axes[1:4], shown.panels, strict=True):
        grey, values = ax.images
        assert np.allclose(grey.get_array(), shown.image.float().mean(0))
        assert np.array_equal(values.get_array(), panel.values)
        assert values.get_extent() == [-0.5, 5.5, 3.5, -0.5]
        assert values.get_cmap().name == ("RdBu_r" if panel.signed else "magma")
    assert [ax.images[1].get_clim() for ax in axes[1:4]] == [(0.0, 2.0), (-3.0, 3.0), (-3.0, 3.0)]
    assert [ax.get_title() for ax in axes[1:4]] == ["Grad-CAM\ncat", "own\n+1.00", "others\n+0.50"]
    assert not any(len(ax.images) > 1 for ax in axes[4:])
    bars = [[text.get_text() for text in ax.texts] for ax in axes[6:9]]
    assert bars == [["0", "2"], ["-3", "0", "3"], ["-3", "0", "3"]]
    assert [ax.images[0].get_clim() for ax in axes[6:9]] == [(0.0, 2.0), (-3.0, 3.0), (-3.0, 3.0)]
    assert axes[-1].texts[0].get_text() == "full head\n 99.0%  <script>\n 1.0%  \\$x\\$"


@pytest.mark.painted
def test_the_image_is_painted_as_it_is_and_a_map_over_its_own_panel(figures: list[Figure]) -> None:
    shown = picture()
    first = pixels(picture_row(shown))
    panels = [*shown.panels]
    panels[1] = dataclasses.replace(panels[1], values=torch.tensor([[-3.0, 1.0]]))
    second = pixels(picture_row(dataclasses.replace(shown, panels=panels)))
    top, bottom, left, right = box_of(figures[0].axes[0])
    middle = (left + right) // 2
    assert colours_of(first[top + 3 : bottom - 3, left + 3 : middle - 3]) == {(200, 0, 0)}
    assert colours_of(first[top + 3 : bottom - 3, middle + 3 : right - 3]) == {(0, 0, 0)}
    place, panel = changed(first, second), box_of(figures[0].axes[2])
    assert np.abs(np.subtract(place, panel)).max() <= 2, "all of the panel of this map, and nothing else"
    # Red stands for what speaks for a class, blue for what speaks against it.
    for row, speaks_for in ((first, "left"), (second, "right")):
        inside = row[panel[0] + 3 : panel[1] - 3, panel[2] + 3 : panel[3] - 3].astype(int)
        redness = inside[..., 0] - inside[..., 2]
        width = redness.shape[1] // 4
        left_part, right_part = redness[:, :width].mean(), redness[:, -width:].mean()
        assert speaks_for == ("left" if left_part > right_part else "right")


def test_an_image_of_another_size_stands_whole_before_what_was_seen_of_it(figures: list[Figure]) -> None:
    plain_one = picture("photo: cat\nas seen: 4x6 pixels")
    whole = Whole("photo\n20x40 pixels", torch.full((3, 20, 40), 90, dtype=torch.uint8), (0.25, 0.5, 0.75, 1.0))
    picture_row(dataclasses.replace(plain_one, whole=whole))
    first, second, third = figures[0].axes[:3]
    assert (first.get_title(), second.get_title()) == ("photo\n20x40 pixels", "photo: cat\nas seen: 4x6 pixels")
    assert np.array_equal(first.images[0].get_array(), whole.image.permute(1, 2, 0))
    assert np.array_equal(second.images[0].get_array(), plain_one.image.permute(1, 2, 0))
    assert third.get_title() == "Grad-CAM\ncat"
    (frame,) = first.patches
    assert frame.get_bbox().bounds == (19.5, 4.5, 20.0, 10.0)
    assert not second.patches


@pytest.mark.painted
def test_a_sheet_has_a_row_for_each_picture() -> None:
    rows = [picture_row(picture("first")), picture_row(picture("second"))]
    first, second = map(pixels, rows)
    bottom, right = changed(first, second)[1], changed(first, second)[3]
    assert bottom < first.shape[0] / 3, "only the title above the image is another"
    assert right < first.shape[1] / 4
    sheet = pixels(picture_sheet(rows))
    assert (sheet == np.concatenate([first, second])).all()


@pytest.mark.painted
@pytest.mark.parametrize("has_whole", [False, True])
def test_a_row_is_cut_into_its_panels(has_whole: bool) -> None:
    """Images alone, whole, without the white around them, text or scales."""
    shown = dataclasses.replace(picture(), image=torch.full((3, 4, 6), 250, dtype=torch.uint8))
    shown.image[2] = 0
    whole = Whole("photo", torch.full((3, 40, 20), 250, dtype=torch.uint8), (0.0, 0.0, 0.01, 0.01))
    whole.image[1] = 0
    row = PIL.Image.open(
        io.BytesIO(picture_row(dataclasses.replace(shown, whole=whole if has_whole else None)))
    ).convert("RGB")
    sizes = [(40, 20)] * has_whole + [(4, 6)] * 4
    panels = picture_panels(row, sizes, has_whole=has_whole)
    assert [panel.size for panel in panels] == [(109, 219)] * has_whole + [(219, 145)] * 4
    assert colours_of(np.asarray(panels[int(has_whole)])) == {(250, 250, 0)}
    if has_whole:
        assert (np.asarray(panels[0])[8:-8, 8:-8] == (250, 0, 250)).all()
    assert not any((255, 255, 255) in colours_of(np.asarray(panel)) for panel in panels)
    assert picture_panels(row, sizes, has_whole=not has_whole) == []
    assert picture_panels(row.resize((300, 100)), sizes, has_whole=has_whole) == []


IMAGE = torch.full((3, 4, 4), 7, dtype=torch.uint8)
IMAGE[2] = 90


def test_rows_of_filters(figures: list[Figure]) -> None:
    first = [
        Response(IMAGE, torch.tensor([[1.0, 4.0]]), "cat 4.00", True),
        Response(IMAGE + 1, torch.tensor([[0.0, 2.0]]), "dog 2.00", False),
    ]
    second = [Response(IMAGE + 2, None, "cat 1.00", True)]
    rows = [
        FilterRow("1. filter 7\nshared with " + ", ".join(f"class{n}" for n in range(60)), first),
        FilterRow("2.", second),
    ]
    filter_sheet("$f$", rows)
    axes = figures[0].axes
    assert figures[0].get_suptitle() == r"\$f\$"
    assert [ax.get_title() for ax in axes] == ["", "cat 4.00", "dog 2.00", "", "cat 1.00", ""]
    assert axes[1].title.get_color() != axes[2].title.get_color()
    for place, response in ((1, first[0]), (2, first[1]), (4, second[0])):
        assert np.array_equal(axes[place].images[0].get_array(), response.image.permute(1, 2, 0))
    for place, response in ((1, first[0]), (2, first[1])):
        image_of_map = axes[place].images[1]
        assert np.array_equal(image_of_map.get_array(), response.values)
        assert (image_of_map.get_clim(), image_of_map.get_cmap().name) == ((0.0, 4.0), "magma")
        assert image_of_map.get_extent() == [-0.5, 3.5, 3.5, -0.5]
    assert [len(axes[place].images) for place in (0, 3, 4, 5)] == [0, 0, 1, 0]
    lines = axes[0].texts[0].get_text().split("\n")
    assert len(lines) == 7
    assert lines[:2] == ["1. filter 7", "shared with class0,"]
    assert lines[-1] == "…"
    assert axes[3].texts[0].get_text() == "2."


def test_negative_responses_have_white_in_the_middle(figures: list[Figure]) -> None:
    responses = [Response(IMAGE, torch.tensor([[low, 2.0]]), "", True) for low in (-3.0, 1.0)]
    filter_sheet("f", [FilterRow("", responses), FilterRow("", [Response(IMAGE, torch.tensor([[0.0]]), "", True)])])
    maps = [ax.images[1] for ax in figures[0].axes if len(ax.images) > 1]
    found = [(shown.get_clim(), shown.get_cmap().name) for shown in maps]
    assert found == [((-3.0, 3.0), "RdBu_r"), ((-3.0, 3.0), "RdBu_r"), ((0.0, 1.0), "magma")]


@pytest.mark.painted
def test_a_response_is_painted_where_it_is(figures: list[Figure]) -> None:
    """The map of the second image is another: nothing else is painted otherwise."""
    sheets = []
    for values in ([[0.0, 4.0]], [[4.0, 0.0]]):
        responses = [Response(IMAGE, None, "a", True), Response(IMAGE, torch.tensor(values), "b", True)]
        sheets.append(pixels(filter_sheet("f", [FilterRow("text", responses)]).content))
    _, first, second = (box_of(axes) for axes in figures[0].axes)
    assert np.abs(np.subtract(changed(*sheets), second)).max() <= 2
    top, bottom, left, right = first
    assert colours_of(sheets[0][top + 3 : bottom - 3, left + 3 : right - 3]) == {(7, 7, 90)}
    assert len(colours_of(sheets[0][second[0] : second[1], second[2] : second[3]])) > 20


@pytest.mark.painted
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (6, 3)])
def test_a_sheet_is_cut_into_its_filters(rows: int, columns: int) -> None:
    def row(number: int) -> FilterRow:
        colour = torch.tensor([10 * number, 200, 0], dtype=torch.uint8)
        response = Response(colour[:, None, None].expand(3, 4, 4), None, "cat 3.14", is_own=True)
        return FilterRow(f"{number}. filter 3\n" + "a long text beside it " * 20, [response] * columns)

    made = filter_sheet("title", [row(number) for number in range(rows)])
    sheet = PIL.Image.open(io.BytesIO(made.content))
    strips = filter_strips(sheet, rows, columns)
    assert len(strips) == rows
    for number, strip in enumerate(strips):
        shown = np.asarray(strip.convert("RGB"))
        images = shown[(shown[..., 1] == 200) & (shown[..., 2] == 0)]
        assert (images[:, 0] == 10 * number).all(), "images of this filter alone"
        assert len(images) > 130 * 130 * columns, "and all of them"
        assert (shown[:4] > 250).all()
        assert (shown[-4:] > 250).all(), "nothing is cut through"
        assert (shown[:, :3] > 250).all(), "no text stands beside them"
    for number, boxes in enumerate(made.boxes):
        assert len(boxes) == columns
        for box in boxes:
            shown = np.asarray(sheet.convert("RGB").crop(box)).reshape(-1, 3)
            assert (shown == [10 * number, 200, 0]).all(), "a box holds its image and nothing else"
            assert len(shown) > 130 * 130, "all of it"
    assert made.scales == [None] * rows
    assert filter_strips(sheet, rows + 1, columns) == []
    assert filter_strips(sheet, rows, columns + 1) == []
    assert filter_strips(sheet, 0, columns) == []
