"""The atlas of filters, classes as pictured sentences, and names of features."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from decompose_cli.errors import InputError
from decompose_cli.page.blocks import Atlas, Block, Grid, Group, Sentence, Sum, Table, Text
from decompose_cli.page.report import Report, report

WriteResults = Callable[..., Path]


def blocks_of(found: Report, section: str) -> list[Block]:
    def flat(blocks: Any) -> Iterator[Block]:
        for block in blocks:
            yield from flat(block.blocks) if isinstance(block, Group) else (block,)

    (one,) = [each for each in found.sections if each.id == section]
    return list(flat(one.blocks))


def atlas_of(found: Report) -> Atlas:
    (shown,) = [block for block in blocks_of(found, "atlas") if isinstance(block, Atlas)]
    return shown


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def test_each_filter_has_its_picture_users_loss_and_selectivity(write_results: WriteResults) -> None:
    found = report([write_results(only=("atlas",))])
    first, second = atlas_of(found).entries
    assert (first.name, first.number) == ("feature 3", 3)
    assert [(cell.lines, cell.order) for cell in first.cells] == [
        (["class 0 +0.50, rank 1", "class 1 -0.50, rank 2"], 2),
        (["-6.00 points", "-12.50 to -0.25", "45 right"], -6.0),
        (["class 0 -40.0 points", "-80.0 to +10.0", "3 instead of 5 of 5"], -40.0),
        (["0.75"], 0.75),
        (["2 of 2"], 2),
    ]
    assert first.picture is not None
    assert (first.picture.width, first.picture.height) == (96, 48)
    assert first.picture.alt == "Images with the most of feature 3: class 0 3.00, class 0 3.00"
    assert second.picture is not None
    assert second.picture.width == 48
    assert [cell.lines for cell in second.cells[2:4]] == [["none loses"], ["\N{EN DASH}"]]
    assert second.cells[3].order is None
    (losses,) = [block for block in blocks_of(found, "atlas") if isinstance(block, Table)]
    assert losses.rows == [["feature 3", "class 0", 5, 5, 3, -40.0, (-80.0, 10.0)]]
    assert [module.id for module in found.sections] == ["atlas", "provenance"]


def test_many_users_are_counted_and_those_left_alone_are_said(write_results: WriteResults) -> None:
    folder = write_results(only=("atlas",))

    def more(document: dict[str, Any]) -> None:
        results = document["results"]
        results["features"][0]["used_by"] *= 4
        results["classes"], results["kept_whole"] = ["class 0"], ["class 7"]

    edited(folder / "atlas.json", more)
    found = report([folder])
    assert atlas_of(found).entries[0].cells[0].lines[-1] == "and 2 more classes"
    everyone = [block for block in blocks_of(found, "atlas") if isinstance(block, Table)][-1]
    assert everyone.caption == "Every class that uses a filter"
    assert len([row for row in everyone.rows if row[0] == "feature 3"]) == 8
    said = " ".join(block.text for block in blocks_of(found, "atlas") if isinstance(block, Text))
    assert "2 features of class 0. With all of them 48 of 50 images are right." in said
    assert "not among the users: class 7." in said


def test_without_its_picture_the_atlas_has_words(write_results: WriteResults) -> None:
    folder = write_results(only=("atlas",))
    (folder / "atlas.png").unlink()
    found = report([folder])
    assert all(entry.picture is None for entry in atlas_of(found).entries)
    assert "Pictures of filters are missing here" in found.html


def test_features_without_images_have_no_picture_and_too_many_are_counted(
    write_results: WriteResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_results(only=("atlas",))
    edited(folder / "atlas.json", lambda document: document["results"]["features"][1].update(images=[]))
    assert [entry.picture is None for entry in atlas_of(report([folder])).entries] == [False, True]
    monkeypatch.setattr("decompose_cli.page.sections.atlas._MOST_ENTRIES", 1)
    found = report([folder])
    assert len(atlas_of(found).entries) == 1
    assert "Not on this page: 1 feature without which less is lost." in found.html


def ternary(document: dict[str, Any]) -> None:
    """Class 0 is made of features 3 and 30; class 1 has one that the atlas has not."""
    head = document["results"]["heads"]["2"]
    head |= {"values": "ternary", "scale": 0.5}
    head["indices"] = {str(number): [5, 6] for number in range(10)} | {"0": [30, 3], "1": [3, 4]}
    head["weights"] = {str(number): [0.5, 0.5] for number in range(10)} | {"0": [-0.5, 0.5]}


def test_a_head_of_signs_reads_as_sentences_with_pictures(write_results: WriteResults) -> None:
    folder = write_results(only=("sparsify", "atlas"))
    edited(folder / "sparsify.json", ternary)
    found = report([folder], names={3: "<b>wheels"})
    (sentence,) = [block for block in blocks_of(found, "sums") if isinstance(block, Sentence)]
    assert sentence.text == "class 0 = <b>wheels (3) \N{MINUS SIGN} feature 30"
    assert [part.picture is not None for part in sentence.parts] == [True, True]
    assert "&lt;b&gt;wheels" in found.html
    assert "<b>wheels" not in found.html
    edited(folder / "atlas.json", lambda document: document["model"]["weights"].update(sha256="d" * 64))
    assert not [block for block in blocks_of(report([folder]), "sums") if isinstance(block, Sentence | Sum)]


def test_a_head_of_other_weights_has_sums_with_pictures_of_the_atlas(write_results: WriteResults) -> None:
    folder = write_results(only=("sparsify", "atlas"))

    def two(document: dict[str, Any]) -> None:
        ternary(document)
        document["results"]["heads"]["2"]["scale"] = None

    edited(folder / "sparsify.json", two)
    (shown,) = [block for block in blocks_of(report([folder]), "sums") if isinstance(block, Sum)]
    assert shown.caption == "class 0, k = 2: the sum of"
    assert [term.what for term in shown.terms] == ["times feature 3", "times feature 30", "bias"]


def test_no_more_classes_are_pictured_than_have_room(
    write_results: WriteResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_results(only=("sparsify", "atlas"))

    def all_alike(document: dict[str, Any]) -> None:
        ternary(document)
        document["results"]["heads"]["2"]["indices"] = {str(number): [3, 30] for number in range(10)}

    edited(folder / "sparsify.json", all_alike)
    monkeypatch.setattr("decompose_cli.page.sections.sums._MOST_STRIPS", 9)
    blocks = blocks_of(report([folder]), "sums")
    assert len([block for block in blocks if isinstance(block, Sentence)]) == 4
    assert "6 more classes would be pictured" in " ".join(block.text for block in blocks if isinstance(block, Text))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.json", '{"3": " wheels ", "30": "legs"}'),
        ("names.csv", "feature,name\n3,wheels\n\n30,legs\n"),
        ("names.csv", '\ufeffFeature, Name\r\n3,"wheels"\r\n30,legs\r\n'),
    ],
)
def test_names_stand_where_features_do(file: str, text: str, write_results: WriteResults) -> None:
    folder = write_results(only=("atlas", "extract-indices", "sparsify"))
    Path(file).write_text(text, encoding="utf-8")
    found = report([folder], names=file)
    first, second = atlas_of(found).entries
    assert (first.name, second.name) == ("wheels (3)", "legs (30)")
    assert first.picture is not None
    assert "the most of wheels (3)" in first.picture.alt
    grid = next(block for block in blocks_of(found, "filters") if isinstance(block, Grid))
    assert "wheels (3)" in grid.columns
    tables = [block for block in blocks_of(found, "filters") if isinstance(block, Table)]
    assert "wheels (3)" in {row[0] for row in tables[0].rows}
    matrix = next(block for block in blocks_of(found, "sums") if isinstance(block, Grid))
    assert {"wheels (3)", "legs (30)"} & set(matrix.columns)


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("names.json", None, "The file of names names.json does not exist."),
        ("names.csv", None, "The file of names names.csv does not exist."),
        ("names.json", " ", "The file of names names.json is empty."),
        ("names.csv", "", "The file of names names.csv is empty."),
        ("names.csv", "\ufeff\n", "The file of names names.csv has no header feature,name."),
        ("names.txt", "3 wheels", "The file of names names.txt ends neither in .json nor in .csv."),
        ("names.json", "{", "The file of names names.json is not valid JSON"),
        ("names.json", '["wheels"]', "The file of names names.json has no names by feature."),
        ("names.json", "{}", "The file of names names.json has no names."),
        ("names.json", '{"three": "wheels"}', "The file of names names.json names 'three', which is no number"),
        ("names.json", '{"-1": "wheels"}', "The file of names names.json names '-1', which is no number"),
        ("names.json", '{"3": 4}', "The file of names names.json gives feature 3 no name."),
        ("names.json", '{"3": " "}', "The file of names names.json gives feature 3 no name."),
        (
            "names.json",
            '{"3": "a", "3": "b"}',
            "names.json is not valid JSON: the key '3' stands twice",
        ),
        ("names.json", '{"3": "a", "03": "b"}', "The file of names names.json names feature 3 twice."),
        ("names.json", json.dumps({"3": "a" * 61}), "gives feature 3 a name of more than 60 letters."),
        (
            "names.json",
            '{"64": "wheels"}',
            "names the feature 64, and the network has the features 0 to 63 only.",
        ),
        ("names.csv", "3,wheels\n", "The file of names names.csv has no header feature,name."),
        ("names.csv", "feature,name\n", "The file of names names.csv has no names."),
        ("names.csv", "feature,name\n3\n", "The file of names names.csv has a row of 1 cells, not of 2: '3'."),
        ("names.csv", "feature,name\n3,a\n3,b\n", "The file of names names.csv names feature 3 twice."),
        ("names.csv", 'feature,name\n3,"a\n', "The file of names names.csv is not valid CSV"),
    ],
)
def test_names_that_cannot_be_used(file: str, text: str | None, sentence: str, write_results: WriteResults) -> None:
    folder = write_results(only=("atlas",))
    if text is not None:
        Path(file).write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        report([folder], names=file, output="page.html")
    assert sentence in refused.value.message
    assert not Path("page.html").exists()
