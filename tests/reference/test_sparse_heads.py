"""Sparse heads on the published ResNet-20: the published cut to the image, and how much more fitted heads keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import run

from decompose_cli.datasets.registry import open_dataset
from decompose_cli.preprocessing import Preprocessing

CUT = {"1": 662, "2": 742, "3": 807, "5": 878, "10": 910}
REAL = {"1": 755, "2": 885, "3": 897, "5": 911, "10": 912}


def sparsify(reference_dir: Path, *words: str) -> dict[str, Any]:
    weights = reference_dir / "weights" / "resnet20-12fca82f.th"
    images = f"folder:{reference_dir / 'data' / 'cifar10-lossless'}"
    run("sparsify", "resnet20", "-w", str(weights), "--dataset", images, *words, "-o", "out", "-q")
    results: dict[str, Any] = json.loads(Path("out/result.json").read_text())["results"]
    return results


def test_the_same_features_keep_more_with_weights_of_their_own(reference_dir: Path) -> None:
    results = sparsify(reference_dir, "-k", "1,2,3,5,10", "--method", "frequency", "--l2", "1e-3")
    assert results["original"]["correct"] == 915
    assert {k: head["cut"]["correct"] for k, head in results["heads"].items()} == CUT
    for k, head in results["heads"].items():
        assert head["point"]["correct"] >= CUT[k] + (5 if k == "10" else 25)


@pytest.mark.slow
def test_few_features_keep_nearly_everything(reference_dir: Path) -> None:
    results = sparsify(reference_dir, "-k", ",".join(REAL))
    for k, head in results["heads"].items():
        assert head["point"]["correct"] >= REAL[k], k
    images = f"folder:{reference_dir / 'data' / 'cifar10-lossless'}"
    for head in results["heads"].values():
        document = json.loads(run("validate", "-w", head["checkpoint"], "--dataset", images, "--json").stdout)
        assert document["results"]["decomposed"]["correct"] == head["point"]["correct"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "least"),
    [
        (("-k", "5", "--values", "ternary"), {"5": 908}),
        (("-k", "3,5", "--values", "binary"), {"3": 893, "5": 910}),
        (("-k", "5", "--pool", "20"), {"5": 900}),
    ],
)
def test_so_do_few_values_and_few_features_for_all_classes(
    reference_dir: Path, words: tuple[str, ...], least: dict[str, int]
) -> None:
    results = sparsify(reference_dir, *words)
    for k, head in results["heads"].items():
        assert head["point"]["correct"] >= least[k], k
        assert head["features"] <= 20 or "--pool" not in words


@pytest.mark.slow
def test_another_runtime_gives_the_same_classes(reference_dir: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    results = sparsify(reference_dir, "-k", "5", "--method", "backward", "--values", "binary")
    head = results["heads"]["5"]
    run("export", "-w", head["checkpoint"], "--format", "onnx", "-o", "net.onnx", "-q")
    session = runtime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    images = open_dataset(f"folder:{reference_dir / 'data' / 'cifar10-lossless'}", "test", Path("data"))
    said = json.loads(Path("out/result.json").read_text())["dataset"]
    seen = Preprocessing(tuple(said["mean"]), tuple(said["std"]), resize=32, crop=(32, 32))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (seen.mean, seen.std))
    right = 0
    for pixels, labels in images.batches(seen, 100, 0):
        (logits,) = session.run(None, {given.name: ((pixels / 255 - mean) / std).numpy()})
        right += int((torch.from_numpy(logits).argmax(1) == labels).sum())
    assert right == head["point"]["correct"]
