"""The numbers that the published code gives on the published checkpoints, through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from decompose_cli.cli.app import app
from decompose_cli.decomposition.heads import resolve_heads
from decompose_cli.decomposition.index_set import read_index_set
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study

README = Path(__file__).parents[2] / "README.md"

# weights, index file, key of the published counts, head that they belong to
CASES = [
    ("resnet20-12fca82f.th", None, "resnet20-12fca82f.th", "original"),
    ("resnet20-12fca82f.th", "resnet20_cifar-10_indices.json", None, "decomposed"),
    ("resnet20-12fca82f.th", "resnet20_cifar-10_10_10_indices.json", None, "decomposed"),
    ("resnet20-12fca82f.th", "resnet20_cifar-10_20_20_indices.json", None, "decomposed"),
    ("best_save_CSG.pth", None, "best_save_CSG.pth", "original"),
    ("best_save_CSG.pth", "resnet20_cifar-10_csg_indices.json", None, "decomposed"),
    ("resnet20-decomposed.pth", "resnet20-decomposed.indices.json", None, "decomposed"),
    ("resnet20-regularized.pth", None, "resnet20-regularized.pth", "original"),
]


def run(reference_dir: Path, *arguments: str) -> dict[str, Any]:
    images = reference_dir / "data" / "cifar10-lossless"
    result = CliRunner().invoke(app, [*arguments, "--dataset", f"folder:{images}", "--json", "--quiet"])
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def validate(reference_dir: Path, weights: str, indices: str | None, *more: str) -> dict[str, Any]:
    arguments = ["validate", "resnet20", "-w", str(reference_dir / "weights" / weights), *more]
    if indices is not None:
        arguments += ["-i", str(reference_dir / "weights" / indices)]
    return run(reference_dir, *arguments)


@pytest.mark.parametrize(("weights", "indices", "key", "head"), CASES)
def test_counts(
    reference_dir: Path, published: dict[str, Any], weights: str, indices: str | None, key: str | None, head: str
) -> None:
    expected = published["validate"][key or f"{weights} + {indices}"]
    document = validate(reference_dir, weights, indices, "--split", "test")
    found = document["results"][head]
    assert (found["correct"], document["results"]["total"]) == (expected["correct"], expected["total"])
    if "per_class_correct" in expected:
        assert [row["correct"] for row in found["per_class"]] == expected["per_class_correct"]


def test_fine_tuned_weights_with_the_wrong_order_of_indices_are_noticed(reference_dir: Path) -> None:
    weights = reference_dir / "weights"
    images = reference_dir / "data" / "cifar10-lossless"
    arguments = [
        "validate",
        "resnet20",
        "-w",
        str(weights / "resnet20-decomposed.pth"),
        "--dataset",
        f"folder:{images}",
    ]
    wrong = CliRunner().invoke(app, [*arguments, "-i", str(weights / "resnet20_cifar-10_indices.json"), "--json"])
    assert json.loads(wrong.stdout)["results"]["decomposed"]["correct"] == 913
    assert "Warning: The order of the indices" in wrong.stderr
    right = CliRunner().invoke(app, [*arguments, "-i", str(weights / "resnet20-decomposed.indices.json"), "--json"])
    assert "Warning" not in right.stderr
    without = CliRunner().invoke(app, [*arguments, "--json"])
    assert without.exit_code == 2
    assert "without the indices that belong to it" in without.stderr


def test_logits_of_the_first_image(reference_dir: Path, published: dict[str, Any]) -> None:
    """``test/cat/00000.png`` through features and all heads, to 1e-4 and the rounding of the reference (4 decimals)."""
    weights = reference_dir / "weights"
    images = f"folder:{reference_dir / 'data' / 'cifar10-lossless'}"
    study = Study(Inputs("resnet20", str(weights / "resnet20-12fca82f.th"), images), ("test",))
    first = [path.parent.name + "/" + path.name for path in study.dataset.files].index("cat/00000.png")  # type: ignore[attr-defined]
    for file, expected in [
        (None, published["first_image_logits"]),
        *published["first_image_logits_decomposed"].items(),
    ]:
        heads = resolve_heads(study.head, read_index_set(weights / file) if file else None)
        head = heads.decomposed or heads.original
        assert head is not None
        logits = head(study.bank.features[first : first + 1])[0]
        torch.testing.assert_close(logits, torch.tensor(expected), rtol=0, atol=1.5e-4)


def test_extracted_indices_agree_with_the_published_files(reference_dir: Path, published: dict[str, Any]) -> None:
    document = run(
        reference_dir, "extract-indices", "resnet20", "-w", str(reference_dir / "weights" / "resnet20-12fca82f.th"),
        "-k", "5,10,20", "--split", "train",
    )  # fmt: skip
    for k, name in ((5, ""), (10, "_10_10"), (20, "_20_20")):
        theirs = json.loads((reference_dir / "weights" / f"resnet20_cifar-10{name}_indices.json").read_text())
        ours = document["results"][str(k)]["indices"]
        shared = sum(len(set(ours[number]) & set(theirs[number])) for number in theirs)
        assert shared >= published["extract_overlap"][f"k={k}"], k


def test_bf16_stays_within_a_few_images(reference_dir: Path) -> None:
    document = validate(reference_dir, "resnet20-12fca82f.th", None, "--precision", "bf16")
    assert abs(document["results"]["original"]["correct"] - 915) <= 5
    assert document["arguments"]["precision"] == "bf16"


def test_readme_table_is_what_the_reference_says(published: dict[str, Any]) -> None:
    table = re.findall(r"^\| [^|]+ \| (\d+) \| (\d+) \|$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    counts = [
        str(published["validate"][key or f"{weights} + {indices}"]["correct"]) for weights, indices, key, _ in CASES
    ]
    assert [row[0] for row in table] == counts
    assert [row[1] for row in table] == counts  # test_counts shows that ours are the same
