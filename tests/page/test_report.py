"""The report: what is on the page, and that it is made of what the files say."""

from __future__ import annotations

import html
import itertools
import json
import re
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from decompose_cli.cli.app import app
from decompose_cli.decomposition.chance import expected_information, expected_jaccard
from decompose_cli.errors import InputError
from decompose_cli.page.blocks import Chart, Column, Fold, Grid, Group, Panels, Table
from decompose_cli.page.documents import read_sources
from decompose_cli.page.report import LARGEST, Report, report
from decompose_cli.reporting.explain_plots import row_size
from decompose_cli.storage.result_document import ResultDocument

WriteResults = Callable[..., Path]
DIGITS = [f"class {number}" for number in range(10)]
WITHOUT_RESULTS = {"models", "layers", "datasets", "cache", "export", "report"}
VOID = {"meta", "link", "img", "br", "path", "use", "rect", "input"}


class Page(HTMLParser):
    """What a browser would make of the page, as far as the tests ask."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"{tag} closes something else"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(found: Report | str) -> tuple[Page, str]:
    page = Page(found if isinstance(found, str) else found.html)
    assert not page.open
    return page, " ".join(" ".join(page.text).split())


def glance(found: Report) -> str:
    (section,) = re.findall('<section id="glance".*?</section>', found.html, re.DOTALL)
    return str(section)


@pytest.fixture
def whole_html(whole: Path) -> str:
    return (whole / "report.html").read_text(encoding="utf-8")


def edited(folder: Path, command: str, change: Callable[[dict[str, Any]], None]) -> Path:
    path = folder / f"{command}.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_every_command_that_writes_a_result_is_on_the_page(write_results: WriteResults) -> None:
    known = {source.command for source in read_sources([write_results()])}
    assert known == set(get_command(app).commands) - WITHOUT_RESULTS  # type: ignore[attr-defined]


def test_the_page_has_every_section_and_says_what_the_files_say(whole_html: str) -> None:
    page, text = page_of(whole_html)
    assert [section.get("id") for section in page.all("section")] == [
        "glance",
        "what-if",
        "accuracy",
        "compare",
        "by-k",
        "sparse",
        "sums",
        "filters",
        "overlap",
        "essentiality",
        "selectivity",
        "confusion",
        "mistakes",
        "atlas",
        "looking",
        "training",
        "gates",
        "provenance",
    ]
    for said in (
        "98.00%",  # 49 of 50 with the full head
        "-4.00 points",
        "49 of 50 test images; 95% interval 89.50 to 99.65",  # Wilson
        "decomposed, 5 per class",
        "Differences of heads on the same images",
        "five minus full head",
        "Features by class: five and other",
        "The smallest set within 1 point: 17 features",
        "only reported",
        "Grad-CAM",
        "class 1 -0.50, rank 2",
        "7: class 1 taken for class 0 (75%)",
        "suggested: 0.01",
        "g of stage3 after epoch 2",
        "Training images whose label was made wrong",
        "aaaaaaaa",
        "bbbbbbbb",
        "decompose validate net",
    ):
        assert said in text, said


def test_the_page_can_be_used_without_seeing_it(whole_html: str) -> None:
    page, _ = page_of(whole_html)
    assert all(image.get("alt") for image in page.all("img"))
    assert all(heading.get("scope") in ("col", "row") for heading in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), "every id once"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), "no level is skipped"
    assert sum("Classes by filters" in (region.get("aria-label") or "") for region in page.all("div")) == 2, (
        "each set once"
    )
    (html,) = page.all("html")
    assert html["lang"] == "en"


def test_the_difference_says_what_the_decomposition_changed(write_results: WriteResults) -> None:
    found = report([write_results(only=("validate",))])
    difference, fold, pairs = of(found, "confusion")
    assert isinstance(difference, Grid)
    assert difference.caption.startswith("Decomposed minus full head")
    texts = [[cell.text for cell in row] for row in difference.cells]
    assert texts[0] == [""] * 10, "both heads take one for another"
    assert texts[1] == ["", "-1", "+1", *[""] * 7]
    assert texts[2] == ["", "", "-1", "+1", *[""] * 6]
    assert difference.cells[1][1].value == -difference.cells[1][2].value == -1
    assert difference.is_signed
    assert isinstance(fold, Fold)
    assert [grid.caption.partition(":")[0] for grid in fold.blocks] == ["Full head", "Decomposed"]
    assert [list(row) for row in pairs.rows] == [
        ["class 1", "class 2", 1, 0, 1, 5],
        ["class 2", "class 3", 1, 0, 1, 5],
    ], "those that grew most come first, and no others"
    assert pairs.is_folded


def test_confusions_that_only_shrank_are_listed_as_what_there_is(write_results: WriteResults) -> None:
    folder = write_results([f"c{number}" for number in range(8)], only=("validate",))

    def shrunk(document: dict[str, Any]) -> None:
        for name, wrong in (("original", 3), ("decomposed", 2)):
            head = document["results"][name]
            head["confusion"] = [[5 * (row == column) for column in range(8)] for row in range(8)]
            head["confusion"][0][:2] = [5 - wrong, wrong]

    edited(folder, "validate", shrunk)
    *_, pairs = of(report([folder]), "confusion")
    assert (pairs.caption, pairs.rows) == ("What is confused most", [["c0", "c1", -1, 3, 2, 5]])


def test_names_of_classes_are_those_of_the_same_weights_and_number(write_results: WriteResults) -> None:
    folder = write_results([f"c{number}" for number in range(10)], only=("validate", "mutual-info"))

    def names() -> set[str]:
        (source,) = [one for one in report([folder]).sources if one.command == "mutual-info"]
        return {source.class_name(number) for number in range(10)}

    edited(folder, "mutual-info", lambda d: d.update(dataset=None))
    assert names() == {f"c{number}" for number in range(10)}
    edited(folder, "mutual-info", lambda d: d["model"].update(num_classes=100))
    assert names() == {str(number) for number in range(10)}
    edited(folder, "mutual-info", lambda d: d["model"].update(num_classes=10))
    edited(folder, "mutual-info", lambda d: d["model"]["weights"].update(sha256="f" * 64))
    assert names() == {str(number) for number in range(10)}


def test_sets_of_hostile_numbers_take_no_time(write_results: WriteResults) -> None:
    """Numbers of features beyond any network's, and sizes of other classes, are not compared with chance."""
    folder = write_results(only=("mutual-info",))
    for change in ({"num_features": 2 * 10**9, "features_per_class": [10**9, 10**9]}, {"sizes": [5] * 11}):
        edited(folder, "mutual-info", lambda d, change=change: d["results"]["sets"]["ours"]["5"].update(change))
        (section,) = [one for one in report([folder]).sections if one.id == "overlap"]
        means = section.blocks[0]
        assert isinstance(means, Table)
        assert means.rows[0][2] is None


def test_of_many_classes_the_confusions_that_grew_come_first_and_pictures_are_folded(
    write_results: WriteResults,
) -> None:
    folder = write_results([f"c{number}" for number in range(30)], only=("validate",))
    pairs, fold = of(report([folder]), "confusion")
    assert not pairs.is_folded
    assert pairs.rows[0][:3] == ["c1", "c2", 1]
    assert [raster.caption.partition(":")[0] for raster in fold.blocks] == [
        "Decomposed minus full head",
        "Full head",
        "Decomposed",
    ]
    edited(folder, "validate", lambda d: d["results"].update(decomposed=None, difference=None, indices=None))
    pairs, raster = of(report([folder]), "confusion")
    assert (pairs.caption, pairs.rows) == ("What is confused most", [["c0", "c1", 1, 5]])
    assert raster.caption.startswith("Full head")


def test_counts_stand_beside_percents(write_results: WriteResults) -> None:
    found = report([write_results(only=("validate",))])
    (section,) = [section for section in found.sections if section.id == "accuracy"]
    (table,) = section.blocks[-1].blocks  # type: ignore[union-attr]
    assert isinstance(table, Table)
    assert [column.title for column in table.columns] == [
        *("Class", "Change, points", "Full head right", "Full head %", "Decomposed right", "Decomposed %", "Images")
    ]
    assert list(table.rows[1]) == ["class 1", -20.0, 5, 100.0, 4, 80.0, 5]


def test_p_is_said_once_where_it_cannot_be_smaller(write_results: WriteResults) -> None:
    folder = write_results(only=("essential",))

    def with_p(p: float) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            results = document["results"]
            for kept in (*results["ours"].values(), results["summary"]["ours"]):
                kept.update(p=1 / 101, control_range=[-12.0, 8.0])
            results["ours"]["3"]["p"] = p

        return change

    edited(folder, "essential", with_p(1 / 101))
    chart, text, whole = of(report([folder]), "essentiality")
    assert text.text == "p = 0.0099 for every class, the smallest with 100 random sets: no random set did as well."
    assert "p" not in [column.title for table in (whole, chart.values) for column in table.columns]
    assert list(whole.rows[0]) == ["all", "this network", 40.0, (20.0, 60.0), -3.0, (-12.0, 8.0), 5, 5, 2.0, 4.0]
    edited(folder, "essential", with_p(0.25))
    chart, whole = of(report([folder]), "essentiality")
    place = [column.title for column in chart.values.columns].index("p")
    assert [row[place] for row in chart.values.rows][2:5] == [1 / 101, 0.25, 1 / 101]


@pytest.mark.painted
def test_the_demo_has_the_floor_of_random_features(write_results: WriteResults) -> None:
    floor = {"draws": 9, "images": 50, "by_k": {"1": {"mean": 20.0, "min": 10.0, "max": 30.0}}}
    folder = write_results(only=("demo",))
    edited(folder, "demo", lambda d: d["results"].update(random=floor))
    _, text = page_of(report([folder]))
    assert "random features, k = 1: -76.00 points, 20.00% (10.00 to 30.00)" in text
    assert "Features drawn at random, 9 times, on 50 images: the floor below every ranking" in text


def test_one_layer_is_a_sentence_and_no_chart(write_results: WriteResults) -> None:
    folder = write_results(only=("selectivity",))
    assert isinstance(of(report([folder]), "selectivity")[0], Chart)

    def one(document: dict[str, Any]) -> None:
        del document["results"]["layers"]["layer1"]
        document["results"]["compared"] = {}

    edited(folder, "selectivity", one)
    text, by_class = of(report([folder]), "selectivity")
    assert text.text == "stem, 64 filters: psi 0.5000 (mean), 0.4000 (median); class selectivity 0.3000."
    assert isinstance(by_class, Table)


def test_nothing_on_the_page_is_elsewhere(whole_html: str) -> None:
    page, _ = page_of(whole_html)
    for _, attributes in page.tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), value
    assert "url(http" not in whole_html
    assert "@import" not in whole_html
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; ")
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    referred = set(re.findall(r"url\(#([^)]+)\)", whole_html)) | {
        value.removeprefix("#")
        for _, attributes in page.tags
        if (value := attributes.get("href")) is not None and value.startswith("#")
    }
    assert referred <= ids


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></script><script>alert(1)//",
    "'; alert(1); '",
    "$\\frac{1}{0}$ ${x} {{ 7 * 7 }} {% raw %}",
    "<!-- & &amp; ]]>",
    "\u202eabc\u0007\u001b[31m\ud800",
    "javascript:alert(1)",
    " ",
    "长名字" * 40,
)


def test_names_from_files_stay_text(write_results: WriteResults) -> None:
    folder = write_results(HOSTILE)
    for path in folder.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"name": "net"', '"name": "<b onclick=alert(1)>net</b>"'), encoding="utf-8")
    edited(folder, "mutual-info", lambda d: d["results"]["sets"].update({"<svg/onload=alert(1)>": {}}))
    edited(
        folder,
        "validate",
        lambda d: d["environment"].update(command_line="decompose </table><script>alert(1)</script>"),
    )
    found = report([folder], title="</title><script>alert(1)</script>")
    page, text = page_of(found)
    assert [tag for tag, _ in page.tags].count("script") == 1  # our own; matrices this small need no data
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "b" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>" in text, "shown as it is"
    assert "{{ 7 * 7 }}" in text
    assert not re.search("[\u202e\u0007\u001b\ud800]", found.html)
    found.html.encode()


def test_names_in_the_data_of_large_matrices_stay_text(write_results: WriteResults) -> None:
    names = [*HOSTILE, *(f"n{number}" for number in range(30))]
    found = report([write_results(names, only=("validate", "mutual-info", "extract-indices"))])
    page, _ = page_of(found)
    data = [script for script in page.all("script") if script.get("type") == "application/json"]
    assert len(data) == 6, "three confusion matrices, two of overlap, filters by classes"
    assert len(page.all("script")) == len(data) + 1
    texts = re.findall(r'<script type="application/json">(.*?)</script>', found.html, re.DOTALL)
    assert HOSTILE[0] in json.loads(texts[0])["rows"]


def test_the_strongest_of_many_filters_are_shown_and_the_others_folded(write_results: WriteResults) -> None:
    folder = write_results(only=("filters",))
    document = json.loads((folder / "filters.json").read_text(encoding="utf-8"))
    (one,) = document["results"]["filters"]
    document["results"]["filters"] = [{**one, "feature": 100 + n, "rank": n + 1} for n in range(50)]
    (folder / "filters.json").write_text(json.dumps(document), encoding="utf-8")
    found = report(folder)
    _, text = page_of(found)
    name = document["results"]["class_name"]
    assert f"Filters of {name}, the strongest 12 of 50" in text
    assert f"Filters of {name}, the other 38" in text
    folded = re.findall(r"<details>.*?</details>", found.html, re.DOTALL)
    assert [n for n in range(50) if any(f">{100 + n}<" in part for part in folded)] == list(range(12, 50))
    assert all(f">{100 + n}<" in found.html for n in range(50))


def test_a_thousand_classes_and_two_thousand_filters_fit(large: Path) -> None:
    path = large / "report.html"
    assert path.stat().st_size < LARGEST
    page, _ = page_of(path.read_text(encoding="utf-8"))
    sizes = {(image["width"], image["height"]) for image in page.all("img")}
    results = json.loads((large / "found/extract-indices.json").read_text(encoding="utf-8"))["results"]
    used = {feature for features in results["5"]["indices"].values() for feature in features}
    assert {(str(len(used)), "1000"), ("1000", "1000")} <= sizes
    assert (large / "left_out").read_text(encoding="utf-8") == "0"


def test_matrices_beside_the_results_are_on_the_page(write_results: WriteResults) -> None:
    """Of 101 classes, matrices lie in files beside the documents; the page has them, or one sentence says why not."""
    inline = write_results([f"class {number}" for number in range(101)], 120, only=("validate", "mutual-info"))
    apart = inline.parent / "apart"
    apart.mkdir()
    for path in sorted(inline.glob("*.json")):
        ResultDocument[Any].model_validate(json.loads(path.read_text(encoding="utf-8"))).write(apart / path.name)
    names = {"mutual-info.json", "mutual-info.npz", "validate.json", "validate.npz"}
    assert {path.name for path in apart.iterdir()} == names
    first, second = (report(sorted(folder.glob("*.json"))) for folder in (inline, apart))
    for section in ("confusion", "overlap"):
        pattern = f'<section id="{section}".*?</section>'
        (expected,), (found,) = (re.findall(pattern, page.html, re.DOTALL) for page in (first, second))
        assert found == expected
        assert "<img" in found
    (apart / "validate.npz").write_bytes((apart / "mutual-info.npz").read_bytes())
    with pytest.raises(
        InputError, match=r"validate\.npz is not the file that was written together with .*validate\.json"
    ):
        report(apart)


def test_matrices_as_pictures_are_what_they_were(write_results: WriteResults) -> None:
    import base64
    import io

    from PIL import Image

    names = [f"c{number}" for number in range(40)]
    folder = write_results(names, 200, only=("extract-indices", "mutual-info"))
    rows = json.loads((folder / "extract-indices.json").read_text())["results"]["5"]["indices"]
    overlap = json.loads((folder / "mutual-info.json").read_text())["results"]["sets"]["ours"]["5"]["jaccard_matrix"]
    found = report([folder])
    page, _ = page_of(found)
    data = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', found.html)]
    pictures = []
    for image in page.all("img"):
        content = base64.b64decode((image["src"] or "").partition(",")[2])
        pictures.append(np.asarray(Image.open(io.BytesIO(content))).astype(float))
    used, jaccard, _ = zip(pictures, data, strict=True)
    order = [names.index(name) for name in used[1]["rows"]]
    features = [int(label.removeprefix("filter ")) for label in used[1]["columns"]]
    assert sorted(features) == sorted({feature for row in rows.values() for feature in row})
    expected = [[feature in rows[str(number)] for feature in features] for number in order]
    assert ((used[0] == 0) == expected).all()
    order = [names.index(name) for name in jaccard[1]["rows"]]
    chance = expected_jaccard(5, 5, 200)
    values = np.asarray(overlap)[np.ix_(order, order)] - chance
    red, blue = jaccard[0][..., 0], jaccard[0][..., 2]
    shades = np.where(red < blue, red - 255, 255 - blue) / 255
    away = ~np.eye(40, dtype=bool)
    largest = np.abs(values[away]).max()
    assert jaccard[1]["largest"] == pytest.approx(largest)
    assert np.abs(shades * largest - values)[away].max() <= largest / 255
    assert not shades[~away].any()


def of(report_: Report, section: str) -> list[Any]:
    """The blocks of the one result in a section."""
    (found,) = [one for one in report_.sections if one.id == section]
    return [block for group in found.blocks if isinstance(group, Group) for block in group.blocks]


def test_overlap_is_shown_as_what_is_above_or_below_chance(write_results: WriteResults) -> None:
    folder = write_results(only=("mutual-info",))
    results = json.loads((folder / "mutual-info.json").read_text(encoding="utf-8"))["results"]["sets"]["ours"]["5"]
    grid, fold = of(report([folder]), "overlap")
    assert isinstance(grid, Grid)
    assert isinstance(fold, Fold)
    assert grid.is_signed
    chance = expected_jaccard(5, 5, 64)
    order = [DIGITS.index(name) for name in grid.rows]
    for row, line in zip(order, grid.cells, strict=True):
        for column, cell in zip(order, line, strict=True):
            above = results["jaccard_matrix"][row][column] - chance
            assert cell.text == ("" if row == column else f"{above:+.2f}")
    edited(folder, "mutual-info", lambda d: d["results"]["sets"]["ours"]["5"].update(features_per_class=[4, 6]))
    grid, _ = of(report([folder]), "overlap")
    assert not grid.is_signed, "chance is not known where sizes are not"
    sizes = {"sizes": [4, 6] + [5] * 8}
    edited(folder, "mutual-info", lambda d: d["results"]["sets"]["ours"]["5"].update(sizes))
    grid, _ = of(report([folder]), "overlap")
    row, column = grid.rows.index("class 0"), grid.columns.index("class 1")
    above = results["jaccard_matrix"][0][1] - expected_jaccard(4, 6, 64)
    assert grid.cells[row][column].text == f"{above:+.2f}"


def test_a_matrix_that_says_nothing_is_a_sentence(write_results: WriteResults) -> None:
    def flat(document: dict[str, Any]) -> None:
        matrix = np.full((10, 10), 0.0071)
        matrix[2, 3] = matrix[3, 2] = 0.0365
        document["results"]["sets"]["ours"]["5"]["matrix"] = matrix.tolist()

    folder = write_results(only=("mutual-info",))
    edited(folder, "mutual-info", flat)
    _, text = of(report([folder]), "overlap")
    chance = expected_information(5, 5, 64)
    assert text.text.startswith(
        "Mutual information, this network, k = 5: 0.007 nats for 44 of 45 pairs of classes, as by chance "
        f"({chance:.4f} on average)."
    )
    assert re.search("The largest is that of class [23] and class [23], 0.0365.$", text.text)


def test_of_many_classes_the_pairs_that_share_most_come_first(write_results: WriteResults) -> None:
    names = [f"c{number}" for number in range(30)]
    table, fold, *_ = of(report([write_results(names, only=("mutual-info",))]), "overlap")
    assert isinstance(table, Table)
    assert not table.is_folded
    above = [row[2] for row in table.rows]
    assert above == sorted(above, reverse=True)
    assert isinstance(fold, Fold)


def test_sets_that_came_without_images_have_the_names_of_their_network(write_results: WriteResults) -> None:
    folder = write_results(only=("mutual-info", "validate"))
    edited(folder, "mutual-info", lambda d: d.update(model=None, dataset=None))
    assert set(of(report([folder]), "overlap")[0].rows) == set(DIGITS)
    edited(folder, "mutual-info", lambda d: d["arguments"].update(model="another"))
    assert set(of(report([folder]), "overlap")[0].rows) == set(map(str, range(10)))


@pytest.mark.parametrize(
    ("cell", "column", "shown", "order"),
    [
        (None, Column(""), "\N{EN DASH}", ""),
        ("a<b", Column(""), "a<b", ""),
        (1234, Column(""), "1,234", "1234"),
        (-3, Column("", is_signed=True), "-3", "-3"),
        (0.12345, Column("", 3), "0.123", "0.12345"),
        (2.0, Column("", is_signed=True), "+2.00", "2.0"),
        (4.34e-07, Column("", is_p=True), "4.3e-07", "4.34e-07"),
        (0.0099, Column("", is_p=True), "0.0099", "0.0099"),
        ((1.0, 3.0), Column("", 1), "1.0 to 3.0", "2.0"),
    ],
)
def test_cells(cell: Any, column: Column, shown: str, order: str) -> None:
    assert (column.shown(cell), column.order(cell)) == (shown, order)


def test_misclassified_images_are_shown_where_they_are_the_same(
    write_results: WriteResults, make_images: Callable[..., Path], tmp_path: Path
) -> None:
    from decompose_cli.datasets.registry import open_dataset

    root = make_images(tmp_path / "images", ["cat", "dog"], splits=("test",), n=5)
    folder = write_results(("cat", "dog"), only=("validate",))
    path = folder / "validate.json"
    fingerprint = open_dataset(f"folder:{root}", "test", tmp_path).fingerprint()

    def moved(document: dict[str, Any]) -> None:
        document["dataset"].update(name="folder:images", fingerprint=fingerprint)
        document["environment"]["working_directory"] = str(tmp_path)

    edited(folder, "validate", moved)
    page, text = page_of(report([path]))
    (image,) = [image for image in page.all("img") if "image 7:" in (image["alt"] or "")]
    assert image["alt"] == "image 7: dog taken for cat (90%); the full head says dog"
    assert not page_of(report([path], with_images=False))[0].all("img")
    (root / "test" / "cat" / "new.png").write_bytes((root / "test" / "cat" / "000.png").read_bytes())
    page, text = page_of(report([path]))
    assert not page.all("img")
    assert "The images are not at hand where the result says, or have changed since." in text


def test_numbers_to_see_first_name_their_result_where_there_are_several(write_results: WriteResults) -> None:
    folder = write_results(only=("validate", "train"))
    names = [source.name for source in read_sources([folder])]
    assert len(names) == 2
    assert all(f"<dt>{html.escape(name)}: " in glance(report([folder])) for name in names)
    (alone,) = read_sources([folder / "validate.json"])
    assert html.escape(alone.name) not in glance(report([folder / "validate.json"]))


@pytest.mark.painted
def test_curves_of_weights_fitted_anew_stand_beside_those_of_the_cut(write_results: WriteResults) -> None:
    folder = write_results(only=("sweep",))
    _, before = page_of(report([folder]))
    difference = {"points": 1.5, "ci95": [-2.25, 5.75], "mcnemar_p": 0.375}
    difference |= {"only_original_correct": 1, "only_decomposed_correct": 3}
    anew = {"correct": 47, "top1": 94.0, "top1_ci95": [83.0, 98.0], "difference": difference}
    curves = {"frequency": {"1": anew, "2": {**anew, "correct": 48, "top1": 96.0}}, "mine": {"2-7": anew}}
    refitting = {"l2": 0.001, "fitted": 40, "chosen_on": None}
    edited(folder, "sweep", lambda d: d["results"].update(refitted=curves, refitting=refitting))
    _, text = page_of(report([folder]))
    assert "weights fitted anew (penalty of strength 0.001)" in text
    assert "frequency 1 45 47 94.00 83.00 to 98.00 +1.50 -2.25 to +5.75 0.38" in text
    assert "frequency, refitted, k = 2: +6.00 points, 96.00% (83.00 to 98.00)" in text
    assert "mine, refitted, k = 7: +4.00 points, 94.00% (83.00 to 98.00)" in text
    assert "frequency, k = 2: +0.00 points, 90.00% (80.00 to 95.00)" in text
    assert "refitted, k" not in before


def test_heads_fitted_anew_have_a_row_beside_the_cut(write_results: WriteResults) -> None:
    folder = write_results(only=("validate", "finetune"))
    refitting = {"l2": 0.001, "fitted": 40, "chosen_on": None}
    gain = {"points": 2.0, "ci95": [0.0, 4.0], "mcnemar_p": 0.5, "only_cut_correct": 0, "only_refitted_correct": 1}

    def of_validate(document: dict[str, Any]) -> None:
        results = document["results"]
        more = {"difference": results["difference"], "gain": gain, "refitting": refitting}
        results["refitted"] = {**results["decomposed"], **more, "correct": 41}

    edited(folder, "validate", of_validate)
    edited(folder, "finetune", lambda d: d["results"].update(cut={**d["results"]["before"], "correct": 23}))
    edited(folder, "finetune", lambda d: d["results"].update(refitting=refitting))
    _, text = page_of(report([folder]))
    assert "the same features, weights fitted anew test 41 50 82.00" in text
    assert "decomposed, 5 per class, weights of the full head test 23 50 46.00" in text
    assert "decomposed, 5 per class, not trained, weights fitted anew test 40 50 80.00" in text


def test_sets_of_mixed_sizes_are_named_as_the_result_names_them(write_results: WriteResults) -> None:
    def mixed(document: dict[str, Any]) -> None:
        (sets,) = document["results"]["sets"].values()
        sets["2-5"] = sets.pop("5")

    folder = write_results(only=("mutual-info",))
    edited(folder, "mutual-info", mixed)
    assert "this network, k = 2-5" in page_of(report([folder]))[1]


def test_pictures_are_taken_from_beside_the_result_only(write_results: WriteResults, tmp_path: Path) -> None:
    folder = write_results(only=("explain",))
    assert len(page_of(report([folder]))[0].all("img")) == 1
    (tmp_path / "secret.png").write_bytes((folder / "01-7.png").read_bytes())
    edited(folder, "explain", lambda d: d["results"]["explanations"][0].update(file="../secret.png"))
    page, text = page_of(report([folder]))
    assert not page.all("img")
    assert "1 of 1 pictures are not on this page." in text


def test_the_page_says_what_was_seen_of_a_photograph(write_results: WriteResults) -> None:
    folder = write_results(only=("explain",))
    assert "pixels" not in page_of(report([folder]))[1].split("01-7")[0].split("taken for")[-1]
    edited(folder, "explain", lambda d: d["results"]["explanations"][0].update(size=[300, 400], resized=[32, 42]))
    assert "(300x400 pixels, made 32x42, of which the network sees the middle 32x32)" in page_of(report([folder]))[1]


def test_images_and_maps_of_explanations_are_shown_one_by_one(write_results: WriteResults) -> None:
    """Each with its words and scale as text, which a phone does not shrink."""
    folder = write_results(only=("explain",))
    panels = [("Grad-CAM, predicted: class 0", 0.25, False), ("5 filters of class 0: +1.50", 1.5, True)]
    maps = [dict(zip(("what", "largest", "signed"), one, strict=True)) for one in panels]
    edited(folder, "explain", lambda d: d["results"]["explanations"][0].update(maps=maps))
    assert len(page_of(report([folder]))[0].all("img")) == 1, "a picture of another size is shown as it is"
    Image.new("RGB", row_size(5), "red").save(folder / "01-7.png")
    found = report([folder])
    page, text = page_of(found)
    assert [image["alt"] for image in page.all("img")] == [
        "7: what the network sees",
        *(f"7: {what}" for what, _, _ in panels),
    ]
    (block,) = [block for block in of(found, "looking") if isinstance(block, Panels)]
    assert [panel.scale for panel in block.panels] == [None, (0.0, 0.25), (-1.5, 1.5)]
    assert (block.caption, list(block.lines)) == (
        "7: class 1 taken for class 0 (75%)",
        ["Full head: class 0 75.0%", "Decomposed head: class 0 75.0%"],
    )
    assert "5 filters of class 0: +1.50 -1.5 0 1.5" in text


def test_one_full_head_of_a_network_and_images_is_enough(write_results: WriteResults) -> None:
    first, second = (write_results(only=("validate",), folder=folder) for folder in ("first", "second"))
    edited(second, "validate", lambda d: d["results"]["original"].update(loss=0.25001))
    assert len(re.findall("<dt>[^<]*full head</dt>", glance(report([first, second])).replace("minus full", ""))) == 1
    edited(second, "validate", lambda d: d["model"]["weights"].update(sha256="c" * 64))
    assert len(re.findall("<dt>[^<]*full head</dt>", glance(report([first, second])).replace("minus full", ""))) == 2


def test_no_set_is_called_ours(whole_html: str) -> None:
    assert "ours" not in re.sub("[a-z]ours", "", page_of(whole_html)[1])


def test_damaged_pictures_are_left_out(write_results: WriteResults) -> None:
    folder = write_results(only=("explain",))
    (folder / "01-7.png").write_bytes((folder / "01-7.png").read_bytes()[:60])
    assert not page_of(report([folder]))[0].all("img")


def test_several_runs_have_their_spread_and_each_its_curves(write_results: WriteResults) -> None:
    def twice(document: dict[str, Any]) -> None:
        run = document["results"]
        spread = {"what": "last test top1", "values": [80.0, 90.0], "median": 85.0, "min": 80.0, "max": 90.0}
        document["results"] = {
            "runs": [run, {**run, "seed": 1}],
            "summary": [{**spread, "mean": 85.0, "std": 7.071}],
        }

    folder = write_results(only=("train", "train-gate", "finetune"))
    for command in ("train", "train-gate", "finetune"):
        edited(folder, command, twice)
    _, text = page_of(report([folder]))
    assert text.count("7.071") == 3
    assert "seed 1: after epoch 2" in text
    assert "Seed 1: g of stage3 after epoch 2" in text
    assert "g by images, seed 1" in text
    assert "seed 1: decomposed, fine-tuned" in text


def test_titles_tell_the_results_apart(write_results: WriteResults) -> None:
    first = write_results(only=("validate",))
    second = write_results(only=("validate", "sweep"), folder="second")
    names = [source.name for source in read_sources([first, second, first / "validate.json"])]
    assert len(names) == 3, "what is named twice is read once"
    assert names[0] == "validate, test images (found/validate.json)"
    edited(second, "sweep", lambda d: d["model"].update(name="other"))
    names = [source.name for source in read_sources([first, second])]
    assert "sweep: other on nowhere, test images" in names


def test_folders_are_looked_through_but_not_runs(write_results: WriteResults) -> None:
    folder = write_results(only=("validate",))
    run = folder / "run"
    (run / "seed-0").mkdir(parents=True)
    (folder / "indices.json").write_text('{"0": [1, 2]}', encoding="utf-8")
    text = (folder / "validate.json").read_text(encoding="utf-8")
    (run / "seed-0" / "result.json").write_text(text, encoding="utf-8")
    assert len(read_sources([folder])) == 2
    (run / "result.json").write_text(text, encoding="utf-8")
    found = [source.path for source in read_sources([folder])]
    assert found == [folder / "validate.json", run / "result.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(schema_version=2), "was written by a later version of decompose (schema 2)"),
        (lambda d: d.update(command="dance"), "is a result of 'dance', a command that the report does not know"),
        (lambda d: d.pop("results"), "is no result of decompose"),
        (lambda d: d["results"].pop("total"), "is no usable result of 'validate': results.total: Field required"),
        (lambda d: d["results"].update(total="many"), "results.total: Input should be a valid integer"),
        (lambda d: d["results"]["original"].update(loss=float("nan")), "NaN is not a JSON number"),
        (lambda d: d["dataset"].update(classes=7), "dataset.classes: Input should be a valid list"),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    change: Callable[[dict[str, Any]], None], said: str, write_results: WriteResults
) -> None:
    path = edited(write_results(only=("validate",)), "validate", change)
    with pytest.raises(InputError, match=re.escape(said)):
        report([path])


def test_nothing_is_written_where_something_is_wrong(write_results: WriteResults, tmp_path: Path) -> None:
    folder, target = write_results(only=("validate",)), tmp_path / "page.html"
    (tmp_path / "empty").mkdir()
    for places in ([], [folder / "none.json"], [tmp_path / "empty"], [folder, tmp_path / "empty"]):
        with pytest.raises(InputError):
            report(places, output=target)
        assert not target.exists()
    target.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="exists already"):
        report([folder], output=target)
    assert target.read_text(encoding="utf-8") == "mine"
    with pytest.raises(InputError, match="was not written by decompose, so it is not overwritten"):
        report([folder], output=target, overwrite=True)
    assert target.read_text(encoding="utf-8") == "mine"
    target.write_text("", encoding="utf-8")
    for _ in range(2):
        report([folder], output=target, overwrite=True)
        assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_page_that_is_full_takes_no_more_pictures() -> None:
    from PIL import Image

    from decompose_cli.page.context import Context

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    context = Context([], _left=20_000)
    found = [context.picture(Image.fromarray(pixels), "noise") for _ in range(3)]
    assert found[0] is not None
    assert (found[1:], context.left_out) == ([None, None], 2)
    assert context.raster("", "", pixels[:20, :20, 0].astype(float), ([], []), "", is_sparse=False) is not None, (
        "still room"
    )
    assert context.left_out == 2
    names = [f"{number} {'x' * 1000}" for number in range(20)]
    assert context.raster("", "", pixels[:20, :20, 0].astype(float), (names, []), "", is_sparse=False) is None, (
        "its names have none"
    )


def test_held_out_images_that_chose_the_best_epoch_do_not_measure_it(write_results: WriteResults) -> None:
    def held_out(document: dict[str, Any]) -> None:
        last = document["results"]["last"]
        last["val"], last["test"] = {**last["test"], "split": "held-out"}, None
        document["results"]["best"] = {**last, "epoch": 1}

    folder = write_results(only=("train",))
    edited(folder, "train", held_out)
    _, text = page_of(report([folder]))
    assert "after epoch 2" in text
    assert "best epoch, 1" not in text


def test_an_index_file_has_no_ranks(write_results: WriteResults) -> None:
    _, text = page_of(report([write_results(only=("essential",))]))
    assert "\N{BULLET}" in text
    page, _ = page_of(report([write_results(only=("extract-indices",), folder="ranked")]))
    assert [cell.get("data-tip") for cell in page.all("td") if "rank 1" in (cell.get("data-tip") or "")]


def test_a_gate_in_every_unit_is_not_counted_in_images(write_results: WriteResults) -> None:
    folder = write_results(only=("train-gate",))
    assert "Images by g of stage3" not in page_of(report([folder]))[1], "40 counts, and 50 images"
    assert "Images times units by g of stage3" in page_of(report([folder]))[1]


def test_the_page_is_not_written_over_what_it_is_made_of(write_results: WriteResults) -> None:
    path = write_results(only=("validate",)) / "validate.json"
    before = path.read_bytes()
    with pytest.raises(InputError, match="is one of the results"):
        report([path], output=path, overwrite=True)
    assert path.read_bytes() == before


def test_places_may_be_texts(write_results: WriteResults, tmp_path: Path) -> None:
    folder = write_results(only=("validate",))
    assert len(report(str(folder), output=str(tmp_path / "page.html")).sources) == 1
    assert (tmp_path / "page.html").exists()


UNFIT: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "no images": ("validate", lambda d: d["results"].update(total=0)),
    "more right than there are": ("validate", lambda d: d["results"]["original"].update(correct=999)),
    "ragged": ("validate", lambda d: d["results"]["original"]["confusion"][0].pop()),
    "of another size": ("validate", lambda d: d["results"]["decomposed"]["confusion"].pop()),
    "too few classes": ("validate", lambda d: d["results"]["decomposed"]["per_class"].pop()),
    "huge count": ("validate", lambda d: d["results"]["original"]["confusion"][0].__setitem__(0, 10**30)),
    "no such method": ("essential", lambda d: d["results"].pop("ours")),
    "no class number": ("essential", lambda d: d["results"]["ours"].update(abc=d["results"]["ours"].pop("0"))),
    "no number": ("sweep", lambda d: d["results"]["curves"]["frequency"].update({"0.5": {**POINT}})),
    "no number of a refit": (
        "sweep",
        lambda d: d["results"].update(refitted={"frequency": {"x": {**POINT, "difference": DIFFERENCE}}}),
    ),
    "ragged matrix": ("mutual-info", lambda d: d["results"]["sets"]["ours"]["5"]["matrix"][0].pop()),
    "too many features": ("extract-indices", lambda d: d["model"].update(num_features=60_000_000)),
    "a feature too far": ("extract-indices", lambda d: d["results"]["5"]["indices"].update({"0": [10**11]})),
}
POINT = {"correct": 45, "top1": 90.0, "top1_ci95": [80.0, 95.0]}
DIFFERENCE = {
    "points": 1.0,
    "ci95": [0.0, 2.0],
    "mcnemar_p": 0.5,
    "only_original_correct": 0,
    "only_decomposed_correct": 1,
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_together_is_one_sentence_with_the_file(case: str, write_results: WriteResults) -> None:
    command, change = UNFIT[case]
    folder = write_results(only=(command, "lr-find"))
    path = edited(folder, command, change)
    with pytest.raises(InputError) as refusal:
        report([folder])
    assert str(path) in refusal.value.message


def test_nested_lists_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text('{"schema_version": 1, "command": "validate", "results": ' + "[" * 900 + "]" * 900 + "}")
    with pytest.raises(InputError, match=r"deep\.json"):
        report([path])


def test_data_sets_are_not_sought_in_strange_places(write_results: WriteResults) -> None:
    folder = write_results(only=("validate",))
    for name in ("folder:~nobody-of-that-name/images", "folder:" + "x" * 5000, "folder:/", "nothing"):
        edited(folder, "validate", lambda d, name=name: d["dataset"].update(name=name))
        assert "The images are not at hand where the result says" in page_of(report([folder]))[1]


def test_a_pipe_or_a_huge_picture_is_no_picture(write_results: WriteResults) -> None:
    import os

    from PIL import Image

    folder = write_results(only=("explain",))
    Image.new("1", (9000, 9000)).save(folder / "01-7.png")
    assert not page_of(report([folder]))[0].all("img")
    (folder / "01-7.png").unlink()
    os.mkfifo(folder / "01-7.png")
    assert not page_of(report([folder]))[0].all("img")


def test_a_tall_picture_is_made_smaller(write_results: WriteResults) -> None:
    from PIL import Image

    folder = write_results(only=("explain",))
    Image.new("L", (60, 20_000)).save(folder / "01-7.png")
    (image,) = page_of(report([folder]))[0].all("img")
    assert int(image["height"] or 0) <= 4000


def test_names_of_folders_and_classes_reach_the_page_as_letters(write_results: Callable[..., Path]) -> None:
    evil = "a\x1b[2J\x9b\u202eb\rc"
    folder = write_results([evil, *map(str, range(1, 10))], folder=evil)
    page = report([folder], title=evil * 2).html
    assert r"a\x1b[2J\x9b\u202eb\rc" in page
    shown = page.replace("\n", "")
    assert not [letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp")]
    long = report([write_results(["y" * 100_000, *map(str, range(1, 10))], folder="long", only=["validate"])]).html
    assert "y" * 20_000 not in long


def test_sets_of_lowest_gates_are_called_so(write_results: Callable[..., Path]) -> None:
    folder = write_results(only=["extract-indices"])
    (file,) = folder.glob("*.json")
    assert "(lowest gates)" not in report([folder]).html
    document = json.loads(file.read_text(encoding="utf-8"))
    document["arguments"] |= {"method": "csg", "order": "lowest"}
    for extracted in document["results"].values():
        extracted["method"] = "csg"
    file.write_text(json.dumps(document), encoding="utf-8")
    assert "ranked by csg (lowest gates)" in report([folder]).html


def test_what_was_compared_comes_differences_first(write_results: WriteResults) -> None:
    found = report([write_results(only=("compare",))])
    (section,) = [section for section in found.sections if section.id == "compare"]
    (group,) = section.blocks
    assert isinstance(group, Group)
    chart, heads, missing, sets, classes = group.blocks
    assert isinstance(chart, Chart)
    assert list(chart.values.rows[0]) == [
        *("five minus full head", -4.0, (-9.0, 1.0), 0.25, 3, 1, "class 1", -20.0, (-60.0, 20.0))
    ]
    assert isinstance(heads, Table)
    assert [row[0] for row in heads.rows] == ["full head", "five"]
    assert isinstance(missing, Table)
    assert missing.rows == [["other", "says of no network"]]
    assert isinstance(sets, Table)
    assert list(sets.rows[0]) == ["five", "other", 0.5, 0, 10, 2, 1, 1]
    assert isinstance(classes, Table)
    assert len(classes.rows) == 10
    assert not classes.is_folded
    names = [f"class {number}" for number in range(31)]
    folder = write_results(names, only=("compare",), folder="many")
    (section,) = [section for section in report([folder]).sections if section.id == "compare"]
    (group,) = section.blocks
    assert isinstance(group, Group)
    assert isinstance(group.blocks[-1], Table)
    assert group.blocks[-1].is_folded, "it is long"


def test_sets_that_were_compared_without_a_network_have_a_section(write_results: WriteResults) -> None:
    def alone(document: dict[str, Any]) -> None:
        document |= {"model": None, "dataset": None, "cache": None}
        document["results"] |= {"total": None, "heads": {}, "differences": []}

    folder = write_results(only=("compare",))
    edited(folder, "compare", alone)
    (section,) = [section for section in report([folder]).sections if section.id == "compare"]
    (group,) = section.blocks
    assert isinstance(group, Group)
    captions = [block.caption for block in group.blocks if isinstance(block, Table)]
    assert captions[1:] == ["Features of every two sets", "Features by class: five and other"]


@pytest.mark.slow  # for a training
def test_what_single_results_say_beyond_accuracy_is_on_the_page(tmp_path: Path) -> None:
    """Calibration and sets, the floor of random features, the control of fine-tuning, a class beside another."""
    import decompose_cli as dc

    model = dc.load_model()
    images = {split: dc.load_dataset("digits", split) for split in ("train", "test")}
    train, test = (dc.extract_features(model, images[split]) for split in ("train", "test"))
    indices = dc.extract_indices(train, k=2)
    results = {
        "validate": dc.validate(test, indices, temperature="fit", coverage=0.8),
        "sweep": dc.sweep(test, train, methods=["frequency"], ks=[1, 2, 5]),
        "finetune": dc.finetune(
            model, images["train"], images["test"], indices, epochs=1, only="head", full_head_control=True
        ),
        "filters": dc.filters(model, images["test"], "4", k=2, against="9"),
    }
    for name, found in results.items():
        found.save(tmp_path / f"{name}.json")
    _, text = page_of(report([tmp_path]))
    validated = results["validate"]
    assert validated.adjusted is not None
    sets = validated.adjusted.heads["decomposed"].sets
    assert sets is not None
    assert f"On {validated.adjusted.images} images, fitted on the other half; sets with a coverage of 80%" in text
    assert f"{sets.mean_size:.2f}" in text
    assert validated.difference is not None
    worst = validated.difference.worst_class
    assert worst is not None
    assert f"{worst.number} ({worst.before} to {worst.after} of {worst.images})" in text
    assert "Features drawn at random, 100 times, on 360 images: the floor below every ranking" in text
    assert "What training alone gains: the full head by the same schedule" in text
    assert "4 beside 9: 0 in common, 2 of 4 alone, 2 of 9 alone" in text
    assert "Reliability: how often each head is right, against how sure it is" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/runs/last.pt", "~/runs/last.pt"),
        (
            "decompose validate -w /Users/ann/w.pt --dataset folder:/home/bob",
            "decompose validate -w ~/w.pt --dataset folder:~",
        ),
        ("/root", "~"),
        ("folder:/root/data '/root/x y'", "folder:~/data '~/x y'"),
        ("C:\\Users\\ann\\w.pt", "~\\w.pt"),
        ("/data/home/ann and /rooted and a/root/b", "/data/home/ann and /rooted and a/root/b"),
    ],
)
def test_folders_of_people_are_not_on_the_page(write_results: WriteResults, text: str, shown: str) -> None:
    folder = write_results(only=("validate",))
    edited(folder, "validate", lambda d: d["environment"].update(working_directory=text))
    assert f"working directory {shown}" in page_of(report([folder]))[1]
