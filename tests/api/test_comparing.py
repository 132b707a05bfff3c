"""dc.compare of what is in memory: the same figures as of files, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import decompose_cli as dc
from decompose_cli.engines.compare import compare as compare_engine
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs


@pytest.fixture(scope="module")
def model() -> dc.Model:
    return dc.load_model()


@pytest.fixture(scope="module")
def train(model: dc.Model) -> dc.Features:
    return dc.extract_features(model, dc.load_dataset("digits", "train"))


@pytest.fixture(scope="module")
def test(model: dc.Model) -> dc.Features:
    return dc.extract_features(model, dc.load_dataset("digits", "test"))


@pytest.fixture(scope="module")
def indices(train: dc.Features) -> dc.IndexSet:
    return dc.extract_indices(train, k=5)


@pytest.mark.usefixtures("warm")
def test_sets_heads_and_networks_are_compared_as_their_files(
    model: dc.Model, train: dc.Features, test: dc.Features, indices: dc.IndexSet, tmp_path: Path
) -> None:
    head = dc.sparsify(train, 3, "contribution")
    small = dc.decompose(model, indices)
    given: dict[str, Any] = {"set": indices, "head": head, "network": dc.extract_features(small, images())}
    found = dc.compare(given, test)
    dc.write_index_set(indices, "set.json")
    dc.save_model(head.decompose(model), "head.safetensors")
    dc.save_model(small, "network.safetensors")
    files = ["set.json", "head.safetensors", "network.safetensors"]
    expected = compare_engine(Inputs(model="resnet20-digits"), files).results
    assert found.differences == expected.differences
    assert found.set_differences == expected.set_differences
    assert found.heads["network"].correct == found.heads["set"].correct == 351
    assert [one.kind for one in found.heads.values()] == ["full", "cut", "own", "own"]
    assert not any(one.own_features for one in found.heads.values())
    assert found.document.command == "compare"
    frame = found.to_frame("differences")
    assert list(frame["head"][:3]) == ["set", "head", "network"]
    assert found.figure().axes
    assert "full head" in found._repr_html_()
    found.save(tmp_path / "compare.json")
    sections = dc.report(tmp_path / "compare.json").sections
    assert [section.id for section in sections] == ["compare", "provenance"]


def images() -> Any:
    return dc.load_dataset("digits", "test")


def test_rows_and_files_are_index_sets(test: dc.Features, indices: dc.IndexSet) -> None:
    dc.write_index_set(indices, "set.json")
    found = dc.compare({"a": "set.json", "b": dict(enumerate(indices.classes)), "c": list(indices.classes)}, test)
    assert {one.points for one in found.differences[3:]} == {0.0}
    assert {one.jaccard_mean for one in found.set_differences} == {1.0}


def test_other_weights_have_features_of_their_own(test: dc.Features, indices: dc.IndexSet) -> None:
    other = dc.load_model("resnet20-digits", "random")
    found = dc.compare({"set": indices, "other": dc.extract_features(other, images())}, test)
    assert found.heads["other"].own_features
    assert found.heads["other"].kind == "full"
    assert list(found.sets) == ["set"]


def test_what_cannot_be_compared(model: dc.Model, train: dc.Features, test: dc.Features, indices: dc.IndexSet) -> None:
    reversed_images = dc.Features(test.values.flip(0), test.labels.flip(0), head=test.head)
    headless = dc.Features(test.values, test.labels)
    narrow = dc.Features(test.values[:, :8], test.labels)
    other_head = dc.sparsify(narrow, 2, "mean")
    refused: list[tuple[Any, Any, str]] = [
        ({"a": indices}, test, "nothing to compare a with"),
        ({}, test, "nothing to compare"),
        ([indices, indices], test, "has no names"),
        ({1: indices, 2: indices}, test, "has no names"),
        ({"a": indices, "full head": indices}, test, "cannot be named 'full head'"),
        ({"a": indices, "b": train}, test, "'b' has features of 1,437 images, but there are 360"),
        ({"a": indices, "b": reversed_images}, test, "b is of other images"),
        ({"a": indices, "b": headless}, test, "no head in the features 'b'"),
        ({"a": indices, "b": other_head}, test, "head 'b' takes 8 features into 10 classes, but there are 64 and 10"),
        ({"a": indices, "b": 3}, test, "is no index set"),
        ({"a": indices, "b": [[64]] * 10}, test, "class 0 has the index 64"),
        ({"a": indices, "b": [[1]] * 9}, test, "classes 0 to 9"),
        ({"a": indices, "b": indices}, model, "is of the type Model, not Features"),
        ({"a": indices, "b": indices}, headless, "no head in test"),
    ]
    for given, measured, said in refused:
        with pytest.raises(InputError, match=said):
            dc.compare(given, measured)


@pytest.mark.usefixtures("warm")
def test_results_with_one_head_stand_for_it_and_others_have_a_short_sentence(
    train: dc.Features, test: dc.Features, indices: dc.IndexSet
) -> None:
    measured = dc.sparsify(train, [2], "contribution", test=test)
    found = dc.compare({"set": indices, "sparse": measured}, test)
    assert found.heads["sparse"].correct == measured.heads["2"].point.correct
    with pytest.raises(InputError) as refused:
        dc.compare({"set": indices, "validated": dc.validate(test, indices)}, test)  # type: ignore[dict-item]
    assert len(refused.value.message) < 200


@pytest.mark.usefixtures("warm")
def test_a_page_is_made_of_results_in_memory_as_of_their_files(
    model: dc.Model, test: dc.Features, indices: dc.IndexSet, tmp_path: Path
) -> None:
    validated, looked = dc.validate(test, indices), dc.explain(model, images(), numbers=[3], indices=indices)
    validated.save(tmp_path / "validate.json")
    looked.save(tmp_path / "explain")
    of_files = dc.report([tmp_path / "validate.json", tmp_path / "explain"], title="t", is_live=False)
    found = dc.report([validated, looked], title="t", is_live=False)
    assert [section.id for section in found.sections] == [section.id for section in of_files.sections]
    assert found.html.count("<img") == of_files.html.count("<img") > 0
    assert len(repr(found)) < 20_000
    with pytest.raises(InputError, match="A result is of the type int, neither a file nor"):
        dc.report([validated, 3])  # type: ignore[list-item]
