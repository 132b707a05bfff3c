"""Several processes train what one trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

NETWORK = """
from torch import nn


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )
"""


WITH_AUXILIARY_HEAD = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.auxiliary, self.fc = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        pooled = self.conv(x).relu().mean((2, 3))
        logits = self.fc(pooled)
        return (logits, self.auxiliary(pooled)) if self.training else {"logits": logits}
"""


@pytest.fixture
def images(make_images: Callable[..., Path]) -> str:
    """67 training images a class: no batch size divides them all."""
    Path("grouped.py").write_text(NETWORK)
    return f"folder:{make_images(Path('images'), ['a', 'b', 'c'], n=67, side=8)}"


def run(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    alone = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    environment = {name: value for name, value in os.environ.items() if name not in alone}
    command = [sys.executable, *launcher, "-m", "decompose_cli", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)


def trained(folder: str, *arguments: str, launcher: tuple[str, ...] = ()) -> tuple[dict[str, torch.Tensor], Any]:
    done = run(*arguments, "-o", folder, "--device", "cpu", launcher=launcher)
    assert done.returncode == 0, done.stderr
    weights = torch.load(Path(folder) / "last.pt", weights_only=True)["state_dict"]
    return weights, json.loads((Path(folder) / "result.json").read_text())["results"]


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-6, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(images: str) -> None:
    # One step at rate 1 without momentum: what weights lose is the gradient.
    options = (
        "grouped:net",
        "--dataset",
        images,
        "--iterations",
        "1",
        "--schedule",
        "constant",
        "-b",
        "64",
        "--lr",
        "1",
        "--momentum",
        "0",
    )
    options += ("--weight-decay", "0", "--schedule", "constant", "--val-split", "0")
    one, _ = trained("one", *options)
    two, _ = trained("two", *options, "--devices", "2")
    assert_close(one, two)


@pytest.mark.slow
def test_two_processes_train_a_network_with_an_auxiliary_head(images: str) -> None:
    Path("with_aux.py").write_text(WITH_AUXILIARY_HEAD)
    options = ("with_aux:Net", "--dataset", images, "--epochs", "2", "-b", "32", "--lr", "0.01", "--val-split", "0")
    one, _ = trained("one", *options)
    two, _ = trained("two", *options, "--devices", "2")
    assert_close(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("mix", ["none", "ricap", "cutmix"])
def test_two_processes_see_each_image_once_and_measure_what_one_measures(images: str, mix: str) -> None:
    options = ("grouped:net", "--dataset", images, "--epochs", "2", "-b", "32", "--lr", "0.01", "--val-split", "0.1")
    options += ("--mix", mix, "--final-test", "--accumulate", "2")
    one, first = trained("one", *options)
    two, second = trained("two", *options, "--devices", "2")
    assert_close(one, two)
    for a, b in zip(first["epochs"], second["epochs"], strict=True):
        assert a["train"]["images"] == b["train"]["images"] == 181
        assert a["val"]["images"] == b["val"]["images"] == 20
        for split in ("train", "val"):
            assert a[split]["correct"] == b[split]["correct"]
            assert a[split]["loss"] == pytest.approx(b[split]["loss"], rel=1e-6)
    assert first["last"]["test"]["correct"] == second["last"]["test"]["correct"]
    assert sorted(path.name for path in Path("two").iterdir()) == sorted(path.name for path in Path("one").iterdir())


@pytest.mark.slow
def test_a_last_batch_smaller_than_the_number_of_processes_is_trained_on(images: str) -> None:
    options = ("grouped:net", "--dataset", images, "--epochs", "1", "-b", "50", "--lr", "0.01", "--val-split", "0")
    one, first = trained("one", *options)  # 201 images: the last batch is a single one
    two, second = trained("two", *options, "--devices", "2")
    assert_close(one, two)
    assert first["epochs"][0]["train"]["images"] == second["epochs"][0]["train"]["images"] == 201


@pytest.mark.slow
def test_online_normalisation_in_two_processes_is_said_to_be_another_algorithm(images: str) -> None:
    options = (
        "resnet8",
        "--dataset",
        images,
        "--input-size",
        "8",
        "--norm-mode",
        "online",
        "--epochs",
        "1",
        "-b",
        "32",
    )
    done = run(*options, "-o", "two", "--devices", "2", "--device", "cpu", "--lr", "0.01")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("with 2 processes is not the algorithm of the paper") == 1
    weights = torch.load(Path("two/last.pt"), weights_only=True)["state_dict"]
    for name in ("bn1.norm.m", "bn1.norm.var", "bn1.norm.u", "bn1.norm.v"):
        assert weights[name].isfinite().all()
    assert not torch.equal(weights["bn1.norm.var"], torch.ones(16))
    alone = run(*options, "-b", "32", "-o", "one", "--device", "cpu", "--lr", "0.01")
    assert "algorithm of the paper" not in alone.stderr


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_torchrun_is_noticed_and_what_contradicts_it_refused(images: str) -> None:
    options = (
        "grouped:net",
        "--dataset",
        images,
        "--iterations",
        "2",
        "--schedule",
        "constant",
        "-b",
        "64",
        "--val-split",
        "0",
    )
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port())
    one, _ = trained("one", *options)
    two, _ = trained("two", *options, launcher=torchrun)
    assert_close(one, two)
    refused = run(*options, "-o", "three", "--devices", "1", launcher=torchrun)
    assert refused.returncode != 0
    assert "torchrun started 2 processes" in refused.stderr
    assert not Path("three").exists()


@pytest.mark.slow
def test_two_processes_count_the_gates_of_all_images(images: str) -> None:
    """Batch norm makes their steps others than those of one process; what is counted and measured is not."""
    options = ("resnet14", "--gate", "entropy-classifier-b3b2", "--gate-iters", "2", "--dataset", images)
    more = ("--input-size", "8", "-j", "0", "--epochs", "2", "-b", "32", "--val-split", "0.2", "--label-noise", "0.1")
    command = [sys.executable, "-m", "decompose_cli", "train-gate", *options, *more, "--device", "cpu"]
    done = subprocess.run(
        [*command, "--devices", "2", "-o", "two"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("get another label") == 1
    results = json.loads(Path("two/result.json").read_text())["results"]
    for record in results["epochs"]:
        for split, count in (("train", 161), ("val", 40)):
            assert record[split]["images"] == count
            assert [sum(gate["histogram"]) for gate in record[split]["gates"]] == [count, count]
    splits = {split["split"]: split for split in results["gates"]["splits"]}
    assert splits["held-out"]["correct"] == results["best"]["val"]["correct"]
    assert splits["held-out"]["g"]["g"] == pytest.approx(
        sum(gate["g"] for gate in results["epochs"][results["best"]["epoch"] - 1]["val"]["gates"]) / 2, rel=1e-5
    )
    assert splits["test"]["correct"] == results["best"]["test"]["correct"]
    again = subprocess.run([*command, "--devices", "2", "--resume", "two"], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "is finished" in again.stderr


@pytest.mark.slow
def test_fine_tuning_begins_as_with_one_process_and_ends_the_same_each_time(images: str) -> None:
    """Features are ranked, refitted and measured once, with the help of the others; training shares out batches."""
    command = [sys.executable, "-m", "decompose_cli", "finetune", "grouped:net", "--dataset", images, "-k", "3"]
    command += ["--refit", "--epochs", "1", "-b", "32", "--lr", "0.01", "--device", "cpu"]
    found = []
    for folder, devices in (("one", "1"), ("two", "2"), ("again", "2")):
        done = subprocess.run(
            [*command, "--devices", devices, "-o", folder], capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("features per class by frequency") == 1
        document = json.loads((Path(folder) / "result.json").read_text())
        found.append((document, torch.load(Path(folder) / "last.pt", weights_only=True)["state_dict"]))
    (one, weights), (two, shared), (again, repeated) = found
    for name in ("original", "cut", "before", "refitting", "features_per_class"):
        assert one["results"][name] == two["results"][name] is not None
    assert two["results"]["after"] == again["results"]["after"]
    for name, value in shared.items():
        assert torch.equal(value, repeated[name])
    indices = [name for name in weights if name.endswith("indices")]
    assert len(indices) == 1
    assert torch.equal(weights[indices[0]], shared[indices[0]])
