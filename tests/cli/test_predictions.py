"""``--predictions``: what each head says of every image, against a plain loop over features."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command_line import invoke
from PIL import Image

import decompose_cli as dc


def read(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def twin(features: dc.Features, rows: list[list[int]]) -> list[tuple[int, float, float]]:
    """Prediction, probability and margin of each image, in Python's own numbers."""
    assert features.head is not None
    weight, bias = features.head.weight.tolist(), features.head.bias.tolist()
    said = []
    for values, label in zip(features.values.tolist(), features.labels.tolist(), strict=True):
        logits = [bias[c] + math.fsum(weight[c][j] * values[j] for j in row) for c, row in enumerate(rows)]
        best = max(range(len(logits)), key=lambda c: logits[c])
        total = math.fsum(math.exp(logit - logits[best]) for logit in logits)
        others = max(logit for c, logit in enumerate(logits) if c != label)
        said.append((best, 1 / total, logits[label] - others))
    return said


@pytest.fixture(scope="module")
def features() -> dict[str, dc.Features]:
    model = dc.load_model()
    return {split: dc.extract_features(model, dc.load_dataset("digits", split)) for split in ("train", "test")}


def check(rows: list[dict[str, str]], head: str, expected: list[tuple[int, float, float]]) -> None:
    for row, (prediction, probability, margin) in zip(rows, expected, strict=True):
        assert row[f"{head}_prediction"] == str(prediction)
        assert float(row[f"{head}_probability"]) == pytest.approx(probability, abs=1e-5)
        assert float(row[f"{head}_margin"]) == pytest.approx(margin, abs=1e-4)


def test_validate(features: dict[str, dc.Features]) -> None:
    indices = dc.extract_indices(features["train"], k=5)
    dc.write_index_set(indices, "k5.json")
    done = invoke("validate", "-i", "k5.json", "--predictions", "said.csv", "--refit", "-o", "result.json")
    assert done.exit_code == 0, done.stderr
    assert "Predictions written to said.csv" in done.stderr
    rows = read("said.csv")
    assert list(rows[0])[:4] == ["image", "file", "label", "full_prediction"]
    assert [int(row["image"]) for row in rows] == list(range(360))
    assert [int(row["label"]) for row in rows] == features["test"].labels.tolist()
    check(rows, "full", twin(features["test"], [list(range(64))] * 10))
    check(rows, "decomposed", twin(features["test"], list(map(list, indices.classes))))
    document = json.loads(Path("result.json").read_text())
    for head, name in (("full", "original"), ("decomposed", "decomposed"), ("refitted", "refitted")):
        right = sum(row[f"{head}_prediction"] == row["label"] for row in rows)
        assert right == document["results"][name]["correct"]
        assert right == sum(float(row[f"{head}_margin"]) > 0 for row in rows)
    assert "predictions" not in document["arguments"]


def test_sparsify_sweep_and_finetune(features: dict[str, dc.Features]) -> None:
    runs: dict[str, Any] = {
        "sparsify": (
            ["-k", "2,3", "--method", "backward"],
            {"k2": ("heads", "2", "point"), "k3": ("heads", "3", "point")},
        ),
        "sweep": (["--methods", "frequency", "--ks", "5", "--max-drop", "5"], {"chosen": ("chosen", "reported_on")}),
        "finetune": (["-k", "2", "--epochs", "1"], {"before": ("before",), "after": ("after",)}),
    }
    for command, (options, heads) in runs.items():
        done = invoke(command, *options, "--predictions", f"{command}.csv", "-o", command)
        assert done.exit_code == 0, done.stderr
        rows = read(f"{command}.csv")
        check(rows, "full", twin(features["test"], [list(range(64))] * 10))
        results = json.loads(Path(command, "result.json").read_text())["results"]
        for head, place in heads.items():
            found = results
            for name in place:
                found = found[name]
            assert found["correct"] == sum(row[f"{head}_prediction"] == row["label"] for row in rows)


def test_images_are_named_by_their_files(tmp_path: Path) -> None:
    """Also where some are left out, and where classes are named as a formula."""
    random = np.random.default_rng(0)
    for split, name, number in [(s, n, i) for s in ("train", "test") for n in ("=a", "b") for i in range(3)]:
        path = Path("images", split, name, f"photo {number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    Path("images/test/=a/photo 1.png").write_bytes(b"none")
    Path("map.csv").write_text("=a,0\nb,1\n")
    shared = ["--dataset", "folder:images", "--class-map", "map.csv", "--skip-unreadable", "1"]
    done = invoke("validate", *shared, "--predictions", "said.csv", "-o", "result.json")
    assert done.exit_code == 0, done.stderr
    rows = read("said.csv")
    assert [row["image"] for row in rows] == ["0", "2", "3", "4", "5"]
    assert [row["file"] for row in rows][1:3] == ["'=a/photo 2.png", "b/photo 0.png"]
    mistakes = json.loads(Path("result.json").read_text())["results"]["mistakes"]
    assert {one["name"] for one in mistakes} <= {
        "=a/photo 0.png",
        "=a/photo 2.png",
        *(f"b/photo {n}.png" for n in range(3)),
    }
    assert all(one["name"].endswith(f"{one['image'] % 3}.png") for one in mistakes)
    done = invoke("filters", *shared, "--class", "0", "-o", "filters")
    assert done.exit_code == 0, done.stderr
    shown = json.loads(Path("filters/result.json").read_text())["results"]["filters"][0]["images"]
    assert {one["name"] for one in shown} == {row["file"].removeprefix("'") for row in rows}
    done = invoke("explain", *shared, "--indices-of", "3", "-o", "explained")
    assert done.exit_code == 0, done.stderr
    (explained,) = json.loads(Path("explained/result.json").read_text())["results"]["explanations"]
    assert (explained["image"], explained["name"]) == ("3", "b/photo 0.png")
    assert Path(explained["file"]).name == "01-photo_0.png"
    assert "photo 0.png" in done.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["validate", "--predictions", "said.txt"], "--predictions said.txt does not end in .csv."),
        (["validate", "--predictions", "there.csv"], "there.csv exists already."),
        (["validate", "--predictions", "x.csv", "-o", "./x.csv"], "--predictions and --output both name x.csv"),
        (["validate", "--predictions", "folder.csv"], "Cannot write folder.csv: it is a folder."),
        (["sweep", "--predictions", "said.csv"], "none is looked for."),
        (["sparsify", "--predictions", "there.csv"], "there.csv exists already."),
        (["finetune", "--predictions", "there.csv"], "there.csv exists already."),
        (["extract-indices", "--predictions", "said.csv"], "extract-indices has no option --predictions."),
    ],
)
def test_what_cannot_be_written_is_refused_first(options: list[str], sentence: str) -> None:
    Path("there.csv").write_text("mine\n")
    Path("folder.csv").mkdir()
    before = sorted(Path().iterdir())
    done = invoke(*options)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert sorted(Path().iterdir()) == before
    assert Path("there.csv").read_text() == "mine\n"


def test_only_a_table_of_predictions_is_replaced() -> None:
    again = ["validate", "--predictions", "said.csv", "-o", "result.json"]
    assert invoke(*again).exit_code == 0
    assert invoke(*again, "--overwrite").exit_code == 0
    assert len(read("said.csv")) == 360
    Path("said.csv").write_text("mine\n")
    done = invoke(*again, "--overwrite")
    assert done.exit_code == 2
    assert "said.csv was not written by decompose, so it is not overwritten." in done.stderr
    assert Path("said.csv").read_text() == "mine\n"


def test_predictions_that_cannot_be_written_cost_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise dc.DecomposeError("Cannot write said.csv: No space left on device.")

    monkeypatch.setattr("decompose_cli.reporting.predictions.write_text", full)
    done = invoke("validate", "--predictions", "said.csv", "-o", "result.json")
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert json.loads(Path("result.json").read_text())["results"]["original"]["correct"] == 358
    assert not Path("said.csv").exists()
