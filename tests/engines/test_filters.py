"""``filters``: figures beside what features and heads give by themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command_line import content, run
from helpers.pictures import pixels
from matplotlib.figure import Figure
from PIL import Image

from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.engines.filters import FiltersResults, FiltersSettings, filters
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.models.registry import get_entry
from decompose_cli.reporting.filter_plots import filter_strips

DIGITS = Inputs()
ROWS = [[c, (c + 1) % 10, 40 + c] for c in range(10)]


def index_set() -> IndexSet:
    return IndexSet(ROWS, 64, source="by hand")


@pytest.mark.painted
@pytest.mark.usefixtures("warm")
def test_filters_are_told_by_their_images_weights_and_sharers(figures: list[Figure]) -> None:
    document = filters(DIGITS, FiltersSettings(class_name="7", indices=index_set(), images=6), folder=Path())
    results = document.results
    study = Study(DIGITS, ("test",))
    features, labels, weight = study.bank.features, study.labels, study.head.weight
    assert (results.class_number, results.class_name, results.indices) == (7, "7", "by hand")
    assert {info.feature for info in results.filters} == {7, 8, 47}
    assert [info.rank for info in results.filters] == [1, 2, 3]
    contributions = [info.contribution for info in results.filters]
    assert contributions == sorted(contributions, reverse=True)  # type: ignore[type-var]
    for info in results.filters:
        own = features[labels == 7, info.feature]
        assert info.weight == pytest.approx(float(weight[7, info.feature]))
        assert info.mean == pytest.approx(float(own.mean()), rel=1e-5)
        assert info.mean_elsewhere == pytest.approx(float(features[labels != 7, info.feature].mean()), rel=1e-5)
        assert info.contribution == pytest.approx(float(weight[7, info.feature] * own.mean()), rel=1e-5)
        best = features[:, info.feature].topk(6)
        assert [image.value for image in info.images] == pytest.approx(best.values.tolist())
        assert [image.label for image in info.images] == labels[[image.image for image in info.images]].tolist()
        assert info.of_class == sum(image.label == 7 for image in info.images)
        assert info.shared_with == [str(c) for c, row in enumerate(ROWS) if c != 7 and info.feature in row]
    assert document.command == "filters"
    check_sheet(figures[0], results, study)
    assert pixels("filters.png").shape[:2] == (round(figures[0].bbox.height), round(figures[0].bbox.width))


def check_sheet(figure: Figure, results: FiltersResults, study: Study) -> None:
    """A row for each filter: what it is, and its images in their order, each with the map whose mean is its value."""
    assert figure.get_suptitle() == "Filters of 7: resnet20-digits on digits test"
    rows = np.reshape(figure.axes, (3, 7))
    for (text, *shown), info in zip(rows, results.filters, strict=True):
        first, weight, *rest = text.texts[0].get_text().split("\n")
        assert (first, weight) == (f"{info.rank}. filter {info.feature}", f"weight {info.weight:+.3f}")
        shared = f"shared with {', '.join(info.shared_with)}" if info.shared_with else "of this class alone"
        assert " ".join(rest) == shared
        for axes, found in zip(shown, info.images, strict=True):
            image, values = (np.asarray(layer.get_array()) for layer in axes.images)
            whole = study.dataset.image(found.image).convert("RGB").resize(image.shape[1::-1])
            assert np.array_equal(image, np.asarray(whole))
            assert values.mean() == pytest.approx(found.value, rel=1e-4)
            assert axes.get_title() == f"{found.label_name} {found.value:.2f}"
        own, others = (
            {
                axes.title.get_color()
                for axes, image in zip(shown, info.images, strict=True)
                if (image.label == 7) is is_own
            }
            for is_own in (True, False)
        )
        assert not own & others


@pytest.mark.usefixtures("warm")
def test_without_index_file_a_class_has_its_highest_weights() -> None:
    results = filters(DIGITS, FiltersSettings(class_name="3", k=4)).results
    expected = Study(DIGITS, ("test",)).head.weight[3].topk(4).indices.tolist()
    assert sorted(info.feature for info in results.filters) == sorted(expected)
    assert results.sheet is None


def test_classes_go_by_name_in_any_case_or_by_number(make_images: Any) -> None:
    make_images(Path("images"), ["Cat", "dog", "2"], ("train", "test"), n=3, side=8)
    torch.manual_seed(0)
    torch.save(get_entry("resnet14").make(3, (8, 8)).state_dict(), "net.pt")
    inputs = Inputs(model="resnet14", weights="net.pt", dataset="folder:images", input_size="8", workers=0)
    names = {
        wanted: filters(inputs, FiltersSettings(class_name=wanted, k=1, images=1)).results.class_name
        for wanted in ("Cat", "cat", "dog", "1", "2")
    }
    assert names == {"Cat": "Cat", "cat": "Cat", "dog": "dog", "1": "Cat", "2": "2"}
    with pytest.raises(InputError, match="There is no class 'bird'; classes are 2, Cat, dog"):
        filters(inputs, FiltersSettings(class_name="bird"))


def test_networks_without_maps_show_the_images_alone(few: str, figures: list[Figure]) -> None:
    torch.manual_seed(0)
    torch.save(get_entry("custom_resnet").make(10, (32, 32)).state_dict(), "net.pt")
    inputs = Inputs(model="custom_resnet", weights="net.pt", dataset=few)
    results = filters(inputs, FiltersSettings(class_name="0", k=2, images=2), folder=Path()).results
    assert len(results.filters) == 2
    assert Path("filters.png").is_file()
    assert [len(axes.images) for axes in figures[0].axes] == [0, 1, 1, 0, 1, 1]


@pytest.mark.usefixtures("warm")
def test_filters_that_are_negative_everywhere_are_drawn(figures: list[Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    """Smooth activations have negative features."""
    from decompose_cli.decomposition import strongest_images as module

    original = module.feature_maps
    monkeypatch.setattr(module, "feature_maps", lambda *given: (original(*given)[0], -1 - original(*given)[1].abs()))
    filters(DIGITS, FiltersSettings(class_name="1", k=1, images=2), folder=Path())
    maps = [axes.images[1] for axes in figures[0].axes if axes.images]
    lowest = min(float(np.asarray(shown.get_array()).min()) for shown in maps)
    assert lowest < -1
    assert [shown.get_clim() for shown in maps] == [(lowest, -lowest)] * 2


@pytest.mark.slow
@pytest.mark.painted
@pytest.mark.usefixtures("warm")
def test_of_many_filters_the_strongest_are_drawn_and_all_are_told(figures: list[Figure]) -> None:
    features = [*range(20, 64), 3, 7, 11, 2, 5, 17]
    rows = [features, *([c, 10 + c, 17 + c % 2] for c in range(1, 10))]
    settings = FiltersSettings("0", indices=IndexSet(rows, 64, source="by hand"), images=2)
    found = filters(DIGITS, settings, folder=Path()).results.filters
    assert sorted(info.feature for info in found) == sorted(features)
    assert [info.rank for info in found] == list(range(1, 51))
    study = Study(DIGITS, ("test",))
    means = study.bank.features[study.labels == 0].double().mean(0)
    gains = [float(study.head.weight[0, info.feature]) * float(means[info.feature]) for info in found]
    assert gains == sorted(gains, reverse=True)
    for info in found:
        assert info.shared_with == [str(c) for c in range(1, 10) if info.feature in rows[c]]
    assert figures[0].get_suptitle() == "Filters of 0: resnet20-digits on digits test, the first 40 of 50"
    drawn = [axes.texts[0].get_text().split("\n")[0] for axes in figures[0].axes if axes.texts]
    assert drawn == [f"{info.rank}. filter {info.feature}" for info in found[:40]]
    with Image.open("filters.png") as sheet:
        strips = filter_strips(sheet, 40, 2)
    assert len(strips) == 40


@pytest.mark.usefixtures("warm")
def test_the_table_has_the_strongest_and_says_how_many_more(figures: list[Figure]) -> None:
    shown = run("filters", "--class", "1", "-k", "43", "--images", "1", "-o", "out")
    ranks = [int(number) for number in re.findall(r"^ +(\d+) +\d+ +[+-]", shown.stderr, re.MULTILINE)]
    assert ranks == list(range(1, 41))
    assert "The result document has 3 more filters, weaker than these." in shown.stderr
    assert len(content("out/result.json")["results"]["filters"]) == 43
    assert figures[0].get_suptitle() == "Filters of 1: resnet20-digits on digits test, the first 40 of 43"


@pytest.mark.parametrize(
    ("wanted", "given", "sentence"),
    [
        ("10", {}, "There is no class '10'; classes are 0, 1, 2"),
        ("", {}, "There is no class ''"),
        ("1", {"images": 0}, "^images 0 is not between 1 and 16"),
        ("1", {"images": 17}, "^images 17 is not between 1 and 16"),
    ],
)
def test_what_cannot_be_shown(wanted: str, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        filters(DIGITS, FiltersSettings(class_name=wanted, **given), folder=Path())
    assert not list(Path().glob("*.png"))


@pytest.mark.painted
def test_a_class_beside_another() -> None:
    settings = FiltersSettings("4", k=3, images=2, against="9")
    document = filters(Inputs(), settings, folder=Path("beside"))
    results = document.results
    assert results.beside is not None
    assert results.beside.class_name == "9"
    own = {one.feature for one in results.filters}
    assert {one.feature for one in results.beside.features if one.used_by != "second"} == own
    assert [one.feature for one in results.others] == [
        one.feature for one in results.beside.features if one.used_by == "second"
    ]
    assert all(len(one.images) == 2 and one.weight is None for one in results.others)
    turned = filters(Inputs(), FiltersSettings("9", k=3, images=2, against="4")).results.beside
    assert turned is not None
    assert {one.feature: one.apart for one in turned.features} == pytest.approx(
        {one.feature: one.apart for one in results.beside.features}
    )
    with Image.open("beside/filters.png") as both:
        filters(Inputs(), FiltersSettings("4", k=3, images=2), folder=Path("alone"))
        with Image.open("alone/filters.png") as alone:
            assert both.height > alone.height, "the filters of the other class are drawn too"
    assert len(results.neighbours) == 9


@pytest.mark.parametrize(
    ("other", "sentence"),
    [("4", "against 4 is the class itself"), ("cat", "There is no class 'cat'"), ("10", "There is no class '10'")],
)
def test_a_class_is_set_beside_another_one(other: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        filters(Inputs(), FiltersSettings("4", against=other))
