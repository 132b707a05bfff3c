"""Every command from end to end: its result document, and the files that it writes."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import content, files_below, run

import decompose_cli
from decompose_cli.cli.commands.demo import show_curve
from decompose_cli.cli.console import Terminal
from decompose_cli.decomposition.index_set import read_index_set
from decompose_cli.decomposition.result_types import Point
from decompose_cli.engines.demo import CurveResults
from decompose_cli.errors import DecomposeError
from decompose_cli.models.registry import registered_models
from decompose_cli.storage.result_document import ResultDocument

DOCUMENT_FIELDS = {
    "schema_version",
    "command",
    "arguments",
    "model",
    "dataset",
    "environment",
    "started_at",
    "seconds",
    "cache",
    "results",
}


@pytest.mark.usefixtures("warm")
def test_validate_without_options_writes_one_document_and_nothing_on_stdout() -> None:
    result = run("validate")
    (file,) = files_below()
    assert file.startswith("results/validate-")
    assert result.stdout == ""
    assert file in result.stderr
    assert "Correct by class" in result.stderr
    check_validation(content(file))


@pytest.mark.usefixtures("warm")
def test_validate_with_indices_compares_both_heads() -> None:
    run("extract-indices", "-k", "5", "-o", "indices.json")
    document = json.loads(run("validate", "-i", "indices.json", "--json").stdout)
    check_validation(document)
    found = document["results"]
    assert {"points", "ci95", "mcnemar_p"} <= set(found["difference"])
    difference = 100 * (found["decomposed"]["correct"] - found["original"]["correct"]) / found["total"]
    assert found["difference"]["points"] == pytest.approx(difference)
    low, high = found["difference"]["ci95"]
    assert low <= difference <= high


def check_validation(document: dict[str, Any]) -> None:
    """The shape of the result document of 'validate' on the digits, and what it must be consistent with."""
    check_document(document, "validate", "test", 360)
    assert {"total", "original", "decomposed", "difference"} <= set(document["results"])
    for head in ("original", "decomposed"):
        found = document["results"][head]
        if found is None:
            continue
        assert {"correct", "top1", "top5", "loss", "per_class", "confusion"} <= set(found)
        assert found["top1"] == pytest.approx(100 * found["correct"] / 360)
        assert found["top5"] is None
        assert [row["name"] for row in found["per_class"]] == [str(digit) for digit in range(10)]
        assert sum(row["correct"] for row in found["per_class"]) == found["correct"]
        assert [sum(row) for row in found["confusion"]] == [row["total"] for row in found["per_class"]]
        assert [row[c] for c, row in enumerate(found["confusion"])] == [r["correct"] for r in found["per_class"]]
    assert document["results"]["total"] == 360
    assert document["results"]["original"]["correct"] >= 353


def check_document(document: dict[str, Any], command: str, split: str, images: int) -> None:
    assert set(document) >= DOCUMENT_FIELDS
    assert document["schema_version"] == 1
    assert document["command"] == command
    model, dataset = document["model"], document["dataset"]
    assert {"name", "num_classes", "num_features", "head", "weights"} <= set(model)
    assert (model["name"], model["num_classes"], model["num_features"]) == ("resnet20-digits", 10, 64)
    assert set(model["weights"]) >= {"source", "sha256"}
    assert len(model["weights"]["sha256"]) == 64
    assert {"name", "split", "images", "fingerprint", "classes", "mean", "std"} <= set(dataset)
    assert (dataset["name"], dataset["split"], dataset["images"]) == ("digits", split, images)
    assert dataset["mean"] == [0.491, 0.482, 0.447]
    assert document["cache"]["features"] in ("hit", "miss", "off")
    assert document["environment"]["torch"] == torch.__version__
    assert document["environment"]["decompose"] == decompose_cli.__version__
    assert datetime.fromisoformat(document["started_at"]).utcoffset() == timezone.utc.utcoffset(None)
    assert document["seconds"] >= 0


@pytest.mark.usefixtures("warm")
def test_extract_indices_writes_an_index_file_that_can_be_used_at_once() -> None:
    result = run("extract-indices", "-k", "7", "-o", "k7.json")
    assert result.stdout == ""
    index_set = read_index_set(Path("k7.json"))
    assert [len(row) for row in index_set.classes] == [7] * 10
    assert list(content("k7.json")) == [str(c) for c in range(10)], "the published layout"
    run("validate", "-i", "k7.json", "-o", "v.json")


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(("method", "has_scores"), [("weight", True), ("backward", False)])
def test_extract_indices_speaks_of_equal_scores_where_there_are_scores(method: str, *, has_scores: bool) -> None:
    said = run("extract-indices", "-k", "2", "--method", method, "-o", "k2.json").stderr
    assert f"2 features per class by {method}" in said
    assert ("Features with equal scores are a tie" in said) == has_scores


@pytest.mark.usefixtures("warm")
def test_extract_indices_with_several_k_fills_a_folder() -> None:
    run("extract-indices", "-k", "5,10,0.5", "-o", "out")
    names = files_below(Path("out"))
    index_files = [name for name in names if name.endswith("_indices.json")]
    assert [name.rsplit("_k", 1)[1] for name in index_files] == [
        "0.5_indices.json",
        "10_indices.json",
        "5_indices.json",
    ]
    for name in index_files:
        assert read_index_set(Path("out") / name).num_classes == 10


@pytest.mark.usefixtures("warm")
def test_extract_indices_in_our_own_layout_says_where_the_indices_came_from() -> None:
    run("extract-indices", "--layout", "document", "--method", "mass", "-o", "d.json")
    written = content("d.json")
    assert written["num_features"] == 64
    assert written["provenance"]["method"] == "mass"
    assert written["provenance"]["model"]["name"] == "resnet20-digits"
    run("validate", "-i", "d.json", "-o", "v.json")


@pytest.mark.usefixtures("warm")
def test_extract_indices_as_json_says_per_k_what_was_found() -> None:
    document = json.loads(run("extract-indices", "-k", "5,10", "--json").stdout)
    check_document(document, "extract-indices", "train", 1437)
    assert set(document["results"]) == {"5", "10"}
    for k, found in document["results"].items():
        assert {"file", "k", "method"} <= set(found)
        assert (found["file"], found["k"], found["method"]) == (None, int(k), "frequency")


@pytest.mark.usefixtures("warm")
def test_demo_writes_its_steps_and_a_page_of_all_into_a_folder() -> None:
    result = run("demo", "-o", "out", "--json")
    assert "Decomposed minus full" in result.stderr, "people still see their tables"
    names = files_below("out")
    written = {"k5_indices.json", "explain/result.json", "explain/sheet.png", "report.html"}
    written |= {"atlas/result.json", "atlas/atlas.png"}
    assert written | {f"{name}.json" for name in json.loads(result.stdout)} <= set(names)
    page = Path("out/report.html").read_text(encoding="utf-8")
    sections = set(re.findall('<section id="([^"]+)"', page))
    assert sections == {
        *("glance", "what-if", "accuracy", "by-k", "filters", "overlap", "essentiality"),
        *("confusion", "mistakes", "atlas", "looking", "provenance"),
    }
    features = len(content("out/atlas/result.json")["results"]["features"])
    explained = len(content("out/explain/result.json")["results"]["explanations"])
    wrong = len(content("out/validate.json")["results"]["mistakes"])
    assert page.count("data:image/webp") == explained + wrong + features, "explanations, wrong images, filters"
    assert "Report: out/report.html" in result.stderr
    document = json.loads(result.stdout)["accuracy-by-k"]
    assert set(document["results"]["by_k"]) == {str(k) for k in range(1, 65)}
    validated = content("out/validate.json")
    check_validation(validated)
    assert document["results"]["by_k"]["5"]["correct"] == validated["results"]["decomposed"]["correct"]
    assert document["results"]["by_k"]["64"]["correct"] == validated["results"]["original"]["correct"]
    assert content("out/accuracy-by-k.json")["results"] == document["results"]
    Path("out/report.html").write_text("an earlier page", encoding="utf-8")
    run("demo", "-o", "out", "--overwrite")
    assert Path("out/report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("count", "full", "shown"),
    [
        (1, 1, [1]),
        (1, 9, [1]),
        (4, 3, [1, 2, 3, 4]),
        (6, 6, [1, 2, 3, 4, 5, 6]),
        (9, 4, [1, 2, 3, 4, 5, 9]),
        (12, 100, [1, 2, 3, 5, 10, 12]),
        (64, 3, [1, 2, 3, 5, 10, 20]),
        (64, 21, [1, 2, 3, 5, 10, 21]),
        (64, 100, [1, 2, 3, 5, 10, 20]),
    ],
)
def test_the_curve_of_a_demo_shows_six_telling_numbers_and_where_all_are(
    count: int, full: int, shown: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    points = {k: Point(correct=k, top1=k / 2, top1_ci95=(0.0, 100.0)) for k in range(1, count + 1)}
    results = CurveResults(total=200, original_correct=full, method="mean", by_k=points)
    show_curve(Terminal(), ResultDocument.model_construct(results=results), Path("out/accuracy-by-k.json"))
    said = capsys.readouterr().err
    assert [float(text) for text in re.findall(r"\d+\.\d\d", said)] == [k / 2 for k in shown]
    assert f"All k up to {count}: out/accuracy-by-k.json" in said.splitlines()


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("failure", [DecomposeError("No space left"), KeyboardInterrupt()], ids=["disk", "interrupt"])
def test_a_demo_that_fails_half_way_leaves_nothing(failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr("decompose_cli.engines.demo.explanation", fail)
    run("demo", "-o", "new/out", code=1 if isinstance(failure, DecomposeError) else 130)
    assert not files_below()
    assert not Path("new/out").exists()


@pytest.mark.usefixtures("warm")
def test_one_of_a_thing_is_no_several() -> None:
    said = run("extract-indices", "-k", "1", "-o", "k1.json").stderr
    assert "1 feature per class by frequency" in said
    said = run("sweep", "--ks", "1,60,64", "--methods", "weight", "--max-drop", "1").stderr
    assert " has a 95% bound of at most 1 point\n" in said
    said = run("sparsify", "-k", "1,20", "--method", "weight", "--max-drop", "1").stderr
    assert " is the smallest within 1 point on these images." in said
    said = run("filters", "--class", "3", "-k", "1").stderr + run("explain", "--worst", "1").stderr
    assert "(1 image)" in said


@pytest.mark.usefixtures("warm")
def test_no_name_of_a_result_says_default() -> None:
    for line in ("validate -w default", "mutual-info -k 2 -w default", "filters --class 3 -w default"):
        run(*line.split())
    names = [path.name for path in Path("results").iterdir()]
    assert len(names) == 3
    assert all("-resnet20-digits-digits-" in name and "default" not in name for name in names)


def test_models_lists_the_registry() -> None:
    listed = json.loads(run("models", "--json").stdout)
    assert [entry["name"] for entry in listed] == [entry.name for entry in registered_models()]
    assert {"name", "dataset", "parameters", "num_features", "weights", "accuracy", "source"} <= set(listed[0])
    assert {"resnet20", "resnet1202", "resnet50", "wide_resnet101_2"} <= {entry["name"] for entry in listed}


def test_layers_marks_the_head_and_the_layer_for_activation_maps() -> None:
    layers = json.loads(run("layers", "resnet20", "--json").stdout)["layers"]
    assert [layer["name"] for layer in layers if layer["is_head"]] == ["linear"]
    assert [layer["name"] for layer in layers if layer["is_cam_layer"]] == ["layer3"]
    assert next(layer for layer in layers if layer["is_head"])["output_shape"] == [10]
    assert not files_below()


def test_datasets_says_what_is_there_and_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    listed = {entry["name"]: entry for entry in json.loads(run("datasets", "--json").stdout)}
    assert {"digits", "cifar10", "cifar100", "imagenet", "tiny-imagenet"} <= set(listed)
    assert listed["cifar10"]["found"] == str(tmp_path / "data" / "cifar-10-batches-py")
    assert listed["cifar100"]["found"] is None
    assert str(tmp_path / "data") in listed["cifar100"]["looked"][0]
    assert str(tmp_path / "data") in run("datasets").stderr
    assert not files_below()


def test_cache_lists_and_clears(tmp_path: Path) -> None:
    assert json.loads(run("cache", "--json").stdout)["entries"] == []
    run("validate", "--json")
    (entry,) = json.loads(run("cache", "--json").stdout)["entries"]
    assert "resnet20-digits" in entry["description"]
    assert "digits test" in run("cache").stderr
    assert json.loads(run("cache", "--clear", "--older-than", "1", "--json").stdout)["deleted"] == 0
    cleared = json.loads(run("cache", "--clear", "--json").stdout)
    assert cleared == {"deleted": 1, "bytes": entry["size"]}
    assert json.loads(run("cache", "--json").stdout)["entries"] == []
    assert not files_below(tmp_path / "cache" / "features")
