"""The sections on sparse heads: accuracy by k, the weights, and classes as sums of pictured features."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from decompose_cli.errors import InputError
from decompose_cli.page.blocks import Block, Chart, Figures, Grid, Group, Raster, Section, Sum, Table, Text
from decompose_cli.page.report import Report, report
from decompose_cli.reporting.filter_plots import MOST_ROWS, FilterRow, Response, filter_sheet

WriteResults = Callable[..., Path]


def section_of(found: Report, name: str) -> Section:
    (section,) = [section for section in found.sections if section.id == name]
    return section


def blocks_of(found: Report, name: str) -> Iterator[Block]:
    """All blocks of a section that are no groups."""
    waiting = list(section_of(found, name).blocks)
    while waiting:
        block = waiting.pop(0)
        if isinstance(block, Group):
            waiting = [*block.blocks, *waiting]
        else:
            yield block


def tables(found: Report) -> dict[str, Table]:
    return {block.caption: block for block in blocks_of(found, "sparse") if isinstance(block, Table)}


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document).replace("Infinity", "1e999"), encoding="utf-8")
    return path


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "sparsify.json").read_text(encoding="utf-8"))["results"]
    return results


def alone(write_results: WriteResults, change: Callable[[dict[str, Any]], Any] = lambda _: None, **how: Any) -> Path:
    """A folder with one result of sparsify, changed."""
    folder = write_results(only=("sparsify",), **how)
    edited(folder / "sparsify.json", lambda document: change(document["results"]))
    return folder


def test_tables_say_what_the_result_says(write_results: WriteResults) -> None:
    found = tables(report([alone(write_results)]))
    assert found["Accuracy on 50 images"].rows == [
        ["full head", None, None, 45, 90.0, (80.0, 95.0), None, None, None, None],
        ["full head, refitted", None, None, 46, 92.0, (80.0, 95.0), None, None, None, 0.01],
        ["k = 2", "splicing", 30, 45, 90.0, (80.0, 95.0), 40, 80.0, 0.25, 0.001],
        ["k = 5", "splicing", 30, 45, 90.0, (80.0, 95.0), 40, 80.0, 0.25, 0.001],
    ]
    both = (("full head", -2.0), ("full head, refitted", -3.0))
    differences = found["Against the full heads, image by image"].rows
    assert [row[:3] for row in differences] == [
        ["full head, refitted", "full head", -2.0],
        *([f"k = {k}", what, points] for k in (2, 5) for what, points in both),
    ]
    assert all(row[3:] == [(-6.0, 2.0), 0.5, 2, 1] for row in differences)
    (measures,) = [table for caption, table in found.items() if caption.startswith("What the heads are like")]
    assert measures.rows[0] == [2, 30, 1.5, (1.0, 3.0), 0.7, 0.8, 0.9, None, 45]
    (pairs,) = [table for caption, table in found.items() if caption.startswith("Classes that are one feature apart")]
    assert pairs.caption.endswith("apart, 2 of 90")
    assert pairs.rows[0] == [2, "class 0", "class 1", "feature 3", "feature 4"]
    (nec,) = [table for caption, table in found.items() if caption.startswith("NEC")]
    assert nec.rows == [["elastic-net path", 91.5, None, 91.5], ["sparse heads", 91.5, None, 93.5]]
    (path,) = [table for caption, table in found.items() if caption.startswith("Elastic-net path")]
    assert path.is_folded
    assert "each at most 2.0e-08 of its objective" in path.caption
    assert path.rows == [[0.125, 40, 4.0, 0.5, 0.75, 1.5e-8, 2e-8]]
    (smallest,) = [table for caption, table in found.items() if caption.startswith("The smallest k within 1 point: 5")]
    assert smallest.rows == [[2, 3.5], [5, 0.75]]


def test_methods_stand_on_the_images_that_chose(write_results: WriteResults) -> None:
    (grid,) = [block for block in blocks_of(report([alone(write_results)]), "sparse") if isinstance(block, Grid)]
    assert grid.caption.startswith("All methods on the 20 choosing images, not the ones above")
    assert (grid.rows, grid.columns) == (["splicing", "frequency", "q-senn"], ["k = 2", "k = 5"])
    assert [[cell.text for cell in row] for row in grid.cells] == [["18 *", "18 *"], ["16", "16"], ["12", "12"]]
    assert [row[0].value for row in grid.cells] == [1.0, pytest.approx(2 / 3), 0.0]
    assert grid.cells[0][1].tip == "splicing, k = 5: 18 of 20 (90.00%), loss 0.5000; chosen"


@pytest.mark.painted
def test_the_chart_has_the_cut_and_both_full_heads(write_results: WriteResults) -> None:
    folder = alone(write_results)
    for said in ("sparse head, k = 5: 90.00%", "k = 5: sparse head: 90.00"):
        found = report([folder])
        edited(folder / "sparsify.json", lambda document: document["results"]["heads"].pop("2", None))
        (chart,) = [block for block in blocks_of(found, "sparse") if isinstance(block, Chart)]
        assert said in chart.svg
        assert [[row[0], row[2]] for row in chart.values.rows if row[1] in (None, 5)] == [
            ["full head", 45],
            ["full head, refitted", 46],
            ["sparse head", 45],
            ["the same features, cut", 40],
        ]
        assert all(name in chart.svg for name in ("full head", "full head, refitted", "the same features, cut"))


def test_sparse_heads_are_seen_at_a_glance(write_results: WriteResults) -> None:
    *_, figures = blocks_of(report([alone(write_results)]), "glance")
    assert isinstance(figures, Figures)
    assert list(figures.items) == [
        (
            f"sparse head, k = {k}",
            "90.00%",
            "45 of 50 images; -2.00 points (-6.00 to +2.00) against the full head",
        )
        for k in (2, 5)
    ]


def test_the_choice_is_described(write_results: WriteResults) -> None:
    def text(folder: str, **chosen: Any) -> str:
        found = report([alone(write_results, lambda results: results["chosen_on"].update(chosen), folder=folder)])
        return next(block.text for block in blocks_of(found, "sparse") if isinstance(block, Text))

    assert "on 20 images of train, which the network was trained on, while the other 80" in text("a")
    assert "drawn by class" not in text("b")
    assert "looked for on 60 of the training images" in text("c", searched=60)
    held = text("d", split="val", part_of_training=False)
    assert held.startswith("Chosen (method, strength) on the 20 images of val. The 50 images")
    assert text("e", chosen=[]).startswith("Method, strength and k were given, and nothing was chosen. The 50 images")


def test_features_from_elsewhere_have_one_full_head_and_no_pictures(write_results: WriteResults) -> None:
    def without(results: dict[str, Any]) -> None:
        results["original"] = results["refitted"]["versus_original"] = None
        for head in results["heads"].values():
            head["versus_original"] = None
        results["feature_names"] = [f"patch {number}" for number in range(64)]

    folder = alone(write_results, without)
    for name in ("mean", "std", "resize", "crop", "interpolation"):
        edited(folder / "sparsify.json", lambda document, name=name: document["dataset"].pop(name))
    found = report([folder])
    assert [row[0] for row in tables(found)["Accuracy on 50 images"].rows] == ["full head, refitted", "k = 2", "k = 5"]
    assert len(tables(found)["Against the full heads, image by image"].rows) == 2
    texts = [block.text for block in blocks_of(found, "sums") if isinstance(block, Text)]
    assert texts[-1] == "These features came without a network, so there are no pictures of them."
    assert "network was trained on" not in found.html
    grid = next(block for block in blocks_of(found, "sums") if isinstance(block, Grid))
    assert all(name.startswith("patch ") for name in grid.columns)


def test_weights_are_drawn_by_class_and_feature(write_results: WriteResults) -> None:
    folder = alone(write_results)
    head = results_of(folder)["heads"]["5"]
    grid = [block for block in blocks_of(report([folder]), "sums") if isinstance(block, Grid)][1]
    columns = [int(name) for name in grid.columns]
    assert sorted(columns) == sorted({feature for row in head["indices"].values() for feature in row})
    users = [sum(feature in row for row in head["indices"].values()) for feature in columns]
    assert users == sorted(users, reverse=True), "shared features stand together"
    for number, (name, cells) in enumerate(zip(grid.rows, grid.cells, strict=True)):
        assert name == f"class {number}"
        drawn = {
            feature: (cell.text, cell.value) for feature, cell in zip(columns, cells, strict=True) if cell.value != 0
        }
        weights = dict(zip(head["indices"][str(number)], head["weights"][str(number)], strict=True))
        assert drawn == {feature: (f"{weight:.1f}", weight / 2.0) for feature, weight in weights.items()}
    assert grid.is_signed


def test_features_that_the_same_classes_share_are_neighbours(write_results: WriteResults) -> None:
    def sets(results: dict[str, Any]) -> None:
        head = results["heads"]["2"]
        head["indices"] = {str(number): [9, 3] if number % 2 else [7, 5] for number in range(10)}
        del results["heads"]["5"]

    (grid,) = [block for block in blocks_of(report([alone(write_results, sets)]), "sums") if isinstance(block, Grid)]
    assert grid.columns == ["5", "7", "3", "9"]


def test_many_classes_become_a_picture_that_knows_its_weights(write_results: WriteResults) -> None:
    names = [f"c{number}" for number in range(40)]
    folder = alone(write_results, names=names, features=200)
    head = results_of(folder)["heads"]["5"]
    raster = [block for block in blocks_of(report([folder]), "sums") if isinstance(block, Raster)][1]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(raster.uri.partition(",")[2])))).astype(int)
    columns = [int(name.removeprefix("feature ")) for name in raster.data["columns"]]  # type: ignore[attr-defined]
    values = np.zeros((40, 200))
    for number, row in head["indices"].items():
        values[int(number), row] = head["weights"][number]
    drawn = values[:, columns]
    assert (drawn != 0).sum() == 200
    assert ((image[..., 0] > image[..., 2]) == (drawn > 0)).all(), "orange speaks for a class"
    assert ((image[..., 2] > image[..., 0]) == (drawn < 0)).all(), "blue against it"
    cells = raster.data["cells"]
    assert isinstance(cells, dict)
    assert {int(place): value for place, value in cells.items()} == {
        int(place): drawn.flat[place] for place in np.flatnonzero(drawn)
    }


def test_what_is_odd_about_classes_is_said(write_results: WriteResults) -> None:
    def odd(results: dict[str, Any]) -> None:
        head = results["heads"]["5"]
        results["heads"] = {"5": head}
        head["values"], head["scale"] = "ternary", 0.75
        head["weights"] = {number: [0.75, 0.75, 0.75, 0.75, -0.75] for number in head["weights"]}
        head["bias_alone"], head["kept_whole"] = [3], [6]
        head["indices"]["3"], head["weights"]["3"] = [], []
        head["indices"]["6"], head["weights"]["6"] = list(range(64)), [0.5] * 64

    found = report([alone(write_results, odd)])
    said, _ = [block.text for block in blocks_of(found, "sums") if isinstance(block, Text)]
    assert said == (
        "Every weight has the same size, 0.75. With their bias alone, without any feature: class 3. Without training "
        "images, so kept with all weights of the full head and not drawn: class 6."
    )
    (grid,) = [block for block in blocks_of(found, "sums") if isinstance(block, Grid)]
    assert grid.rows == [f"class {number}" for number in range(10) if number != 6]
    assert len(grid.columns) < 50, "the features of the class that was kept are not in use by the choice"
    assert not any(cell.text for cell in grid.cells[3])
    assert {cell.text for row in grid.cells for cell in row} == {"", "+", "\N{MINUS SIGN}"}
    (sums,) = [block for block in blocks_of(found, "sums") if isinstance(block, Table)]
    assert sums.rows[3] == ["class 3", 0, "its bias alone", 0.25]


def test_runs_on_the_same_images_stand_side_by_side(write_results: WriteResults) -> None:
    def binary(results: dict[str, Any]) -> None:
        for head in results["heads"].values():
            head["values"], head["scale"] = "binary", 1.0

    real, other = alone(write_results, folder="real"), alone(write_results, binary, folder="binary")
    found = report([real, other])
    first = section_of(found, "sparse").blocks[0]
    assert isinstance(first, Group)
    assert first.title == "net on nowhere: 2 runs side by side"
    (chart,) = first.blocks
    assert isinstance(chart, Chart)
    smallest = "the smallest k within 1 point"
    assert list(dict.fromkeys(row[0] for row in chart.values.rows)) == [
        "full head",
        "full head, refitted",
        f"real weights, {smallest}",
        f"weights all alike, or 0, {smallest}",
    ]
    edited(other / "sparsify.json", lambda document: document["dataset"].update(fingerprint="c" * 64))
    assert "side by side" not in report([real, other]).html


@pytest.mark.painted
def test_runs_that_are_alike_are_told_apart_by_their_folders(write_results: WriteResults) -> None:
    places = [alone(write_results, folder=f"run{number}") for number in range(7)]
    edited(places[6] / "sparsify.json", lambda document: document["results"]["refitted"]["point"].update(correct=47))
    first = section_of(report(places), "sparse").blocks[0]
    assert isinstance(first, Group)
    (chart,) = first.blocks
    assert isinstance(chart, Chart)
    names = list(dict.fromkeys(str(row[0]) for row in chart.values.rows))
    label = "real weights, the smallest k within 1 point"
    assert names == [
        "full head",
        "full head, refitted",
        f"full head, refitted ({label} (run6))",
        *(f"{label} (run{number})" for number in range(7)),
    ]
    assert f"k = 2: {label} (run0): 90.00" in chart.svg, "too many for curves"


def pictured(folder: Path, feature: int, weights: str, sha256: str, *, others: int = 0) -> None:
    """A result of filters beside the others, of one feature and two images, with others that are weaker."""
    image = Response(torch.full((3, 8, 8), 100, dtype=torch.uint8), None, "cat", is_own=True)
    drawn = [FilterRow("row", [image, image])] * min(1 + others, MOST_ROWS)
    (folder / "filters.png").write_bytes(filter_sheet("sheet", drawn).content)

    def change(document: dict[str, Any]) -> None:
        document["model"]["weights"] = {"source": weights, "sha256": sha256}
        (one,) = document["results"]["filters"]
        one["feature"], one["images"] = feature, one["images"] * 2
        document["results"]["filters"] += [{**one, "feature": 20 + number} for number in range(others)]
        document["results"]["sheet"] = "filters.png"

    edited(folder / "filters.json", change)


@pytest.mark.painted
@pytest.mark.parametrize(
    ("weights", "sha256", "is_shown", "others"),
    [
        ("net.pth", "a" * 64, True, 0),
        pytest.param("net.pth", "a" * 64, True, 43, marks=pytest.mark.slow),  # more than one sheet has
        ("/nowhere/out/k1/sparse.safetensors", "c" * 64, True, 0),
        ("out/k1/sparse.safetensors", "c" * 64, True, 0),
        ("other/k1/sparse.safetensors", "c" * 64, False, 0),
    ],
)
def test_classes_are_sums_of_pictured_features(
    weights: str, sha256: str, *, is_shown: bool, others: int, write_results: WriteResults
) -> None:
    folder = write_results(only=("sparsify", "filters"))

    def one_feature(document: dict[str, Any]) -> None:
        head = document["results"]["heads"]["2"]
        head["indices"] = {str(number): [5, 6] for number in range(10)}
        head["indices"]["0"], head["weights"]["0"] = [3], [-1.5]
        head["indices"]["1"] = [3, 4]
        head["checkpoint"] = "out/k1/sparse.safetensors"

    edited(folder / "sparsify.json", one_feature)
    pictured(folder, 3, weights, sha256, others=others)
    found = report([folder])
    sums = [block for block in blocks_of(found, "sums") if isinstance(block, Sum)]
    hint = [block.text for block in blocks_of(found, "sums") if isinstance(block, Text)][-1]
    if not is_shown:
        assert sums == []
        assert "'decompose atlas -w out/k5/sparse.safetensors -o looked'" in hint
        return
    (shown,) = sums  # class 1 has another feature too, without a picture
    assert shown.caption == "class 0, k = 2: the sum of"
    term, bias = shown.terms
    assert (term.factor.text, term.what, term.more) == ("-1.50", "times feature 3", "shared with class 1")
    assert term.picture is not None
    assert term.picture.alt == "Images with the most of feature 3: class 0 3.00, class 0 3.00"
    assert (bias.factor.text, bias.what, bias.picture) == ("+0.25", "bias", None)
    assert "results of atlas and filters on this page" in hint
    (folder / "filters.png").unlink()
    assert not [block for block in blocks_of(report([folder]), "sums") if isinstance(block, Sum)]


def test_without_a_checkpoint_there_is_nothing_to_picture(write_results: WriteResults) -> None:
    def unwritten(results: dict[str, Any]) -> None:
        for head in results["heads"].values():
            head["checkpoint"] = None

    found = report([alone(write_results, unwritten)])
    hint = [block.text for block in blocks_of(found, "sums") if isinstance(block, Text)][-1]
    assert "need a checkpoint, and none was written; 'decompose sparsify -o FOLDER' does" in hint


UNFIT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a weight too few": lambda results: results["heads"]["2"]["weights"]["0"].pop(),
    "a class without weights": lambda results: results["heads"]["2"]["weights"].pop("0"),
    "a bias too few": lambda results: results["heads"]["5"]["biases"].pop(),
    "no class number": lambda results: results["heads"]["2"]["indices"].update(cat=[]),
    "no name": lambda results: results.update(feature_names=["one"]),
    "no images": lambda results: results["chosen_on"].update(images=0),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_together_names_the_file(case: str, write_results: WriteResults) -> None:
    folder = alone(write_results, UNFIT[case])
    with pytest.raises(InputError, match=r"sparsify\.json is no usable result of 'sparsify'"):
        report([folder])
