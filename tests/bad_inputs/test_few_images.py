"""Images of some classes only, of one split only, or one for each class: refused, or a documented result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.command_line import REFUSED, refused, run
from helpers.inputs import CLASSES, FEATURES
from helpers.rows import Rows, cases, results, words


def test_essential_leaves_out_classes_without_images_and_says_so(material: Path) -> None:
    found, said = results("essential {images}/test_lacks_3 -i {m}/plain.json --repeats 2 --controls 2", material)
    assert set(found["ours"]) == {str(number) for number in range(CLASSES)} - {"3"}
    assert found["summary"]["ours"]["images"] == CLASSES - 1
    warnings = [line for line in said.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 1
    assert "has no images of 1 of the 10 classes (3); they are left out" in warnings[0]


def test_selectivity_leaves_out_classes_without_images_and_says_so(material: Path) -> None:
    found, said = results("selectivity {images}/lacks_3 --layers layer3.2", material)
    layer = found["layers"]["layer3.2"]
    assert set(layer["per_class"]) == {str(number) for number in range(CLASSES)} - {"3"}
    warnings = [line for line in said.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 1
    assert "lacks_3 train has no images of 1 of the 10 classes (3); they are left out" in warnings[0]
    rows = layer["per_class"].values()
    assert layer["psi_mean"] == pytest.approx(sum(row["psi_mean"] for row in rows) / len(rows))


def test_selectivity_of_a_single_class_has_no_index(material: Path) -> None:
    found, _ = results("selectivity {images}/single --layers layer3.2", material)
    layer = found["layers"]["layer3.2"]
    assert set(layer["per_class"]) == {"3"}
    assert layer["class_selectivity"] is None
    assert 0 < layer["psi_mean"] <= 1


RANKED: Rows = [
    ("extract-indices", "extract-indices {images}/lacks_3"),
    ("mutual-info", "mutual-info {images}/lacks_3"),
    ("mutual-info by mass", "mutual-info {images}/lacks_3 --method mass"),
    ("sweep", "sweep {images}/lacks_3 --ks 1"),
    ("sweep by mean", "sweep {images}/lacks_3 --ks 1 --methods mean"),
    ("essential", "essential {images}/lacks_3"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(RANKED))
def test_classes_without_images_keep_all_features_which_is_said(
    material: Path, line: str, fragments: tuple[str, ...]
) -> None:
    _, said = results(line, material)
    sentence = "There are no training images of 1 of the 10 classes (3): such a class keeps its row of the full head"
    assert said.count(sentence) == 1


@pytest.mark.parametrize(("line", "fragments"), cases(RANKED))
def test_classes_without_images_are_left_out_of_the_head(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    document = json.loads(run(*words(line, material), "--classes", "present", "--json").stdout)
    assert document["model"]["num_classes"] == CLASSES - 1
    assert "3" not in document["dataset"]["classes"]


@pytest.mark.parametrize(
    ("line", "ending"),
    [
        ("validate {images}/lacks_3", "can still be predicted"),
        ("validate {images}/lacks_3 -i {m}/plain.json", "can still be predicted"),  # it has a row for class 3
        ("extract-indices {images}/lacks_3", "keep all features"),
        ("validate {images}/lacks_3 --classes present", "the head has no others"),
    ],
)
def test_what_is_said_of_the_other_classes_is_true(material: Path, line: str, ending: str) -> None:
    lines = run(*words(line, material)).output.splitlines()
    (said,) = (row for row in lines if row.startswith("Classes   "))
    assert said.startswith("Classes   9 of the network's 10 have images")
    assert said.endswith(ending)


def test_rankings_that_need_no_images_work_for_classes_without(material: Path) -> None:
    found, _ = results("sweep {images}/lacks_3 --ks 1,2 --methods weight -i {m}/plain.json", material)
    assert {name: set(points) for name, points in found["curves"].items()} == {"weight": {"1", "2"}, "plain": {"3"}}


@pytest.mark.parametrize("noise", ["gaussian", "matched", "zero", "mean", "permute"])
def test_one_image_per_class_has_counts_but_no_interval_over_images(material: Path, noise: str) -> None:
    line = f"essential {{images}}/one_each -i {{m}}/plain.json --repeats 3 --controls 4 --noise {noise}"
    found, _ = results(line, material)
    assert len(found["ours"]) == CLASSES
    for row in found["ours"].values():
        assert row["images"] == 1
        assert row["essentiality_ci95"] is None
        assert row["noise_at_inf_ci95"] is not None
        assert 0.2 <= row["p"] <= 1
        if noise == "permute":  # the only image of a class trades places with itself
            assert row["noise_at_inf"] == row["noise_at_noninf"] == row["clean"]
    assert found["summary"]["ours"]["essentiality_ci95"] is not None


def test_one_repeat_without_controls_has_neither_error_nor_p(material: Path) -> None:
    found, _ = results("essential {images}/one_each -i {m}/plain.json --repeats 1 --controls 0", material)
    for row in [*found["ours"].values(), found["summary"]["ours"]]:
        for name in ("noise_at_inf_se", "noise_at_inf_ci95", "noise_at_noninf_se", "control_mean", "p"):
            assert row[name] is None, name


def test_one_image_in_all(material: Path) -> None:
    found, said = results("essential {images}/single -i {m}/plain.json --repeats 2 --controls 2", material)
    assert set(found["ours"]) == {"3"}
    assert "has no images of 9 of the 10 classes (0, 1, 2, ...)" in said


def test_one_image_per_class_is_enough_for_the_others(material: Path) -> None:
    found, _ = results("sweep {images}/one_each --ks 1-3", material)
    assert found["total"] == CLASSES
    found, _ = results("selectivity {images}/one_each --layers layer3.2", material)
    assert all(row["psi_mean"] == row["psi_median"] for row in found["layers"]["layer3.2"]["per_class"].values())
    found, _ = results("mutual-info {images}/one_each -k 2", material)
    assert set(found["sets"]["ours"]) == {"2"}


SPLITS: Rows = [
    ("essential", "essential {images}/no_train", "Features are ranked over training images, and", "no_train has none"),
    ("mutual-info", "mutual-info {images}/no_train", "no_train has no split train; it has test"),
    ("sweep", "sweep {images}/no_train --ks 1", "Features are ranked over training images, and", "no_train has none"),
    ("selectivity", "selectivity {images}/no_train", "no_train has no split train; it has test"),
    ("extract-indices", "extract-indices {images}/no_train", "no_train has no split train; it has test"),
    ("essential: nothing to look at", "essential {images}/no_test", "no_test has no split test or val; it has train"),
    ("sweep: nothing to look at", "sweep {images}/no_test", "no_test has no split test or val; it has train"),
    ("selectivity: no images at all", "selectivity {images}/taken", "has none of the folders train, val and test"),
    ("essential: no folder", "essential {images}/nowhere", "nowhere", "does not exist"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(SPLITS))
def test_folder_without_the_split(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    refused(words(line, material), REFUSED, *fragments)


@pytest.mark.parametrize("line", ["essential {images}/no_train", "sweep {images}/no_train --split test --ks 1"])
def test_hint_for_a_folder_without_training_images_is_of_use(material: Path, line: str) -> None:
    said = refused(words(line, material), REFUSED, "no_train has none")
    assert "Hint: Add a folder 'train' with images, or look at index files made elsewhere with -i." in said
    assert "--split test" not in said


def test_folder_without_training_images_is_enough_where_none_are_needed(material: Path) -> None:
    found, _ = results("essential {images}/no_train -i {m}/plain.json --repeats 1 --controls 0", material)
    assert found["summary"]["ours"]["images"] == CLASSES
    found, _ = results("selectivity {images}/no_train --split test --layers layer3.2", material)
    assert found["layers"]["layer3.2"]["filters"] == FEATURES
