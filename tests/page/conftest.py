"""Result files of every command, made up, for any number of classes and features."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from decompose_cli.page.report import report
from decompose_cli.reporting.atlas_sheet import AtlasSheet
from tests.helpers.visits import NAMES

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Documents = dict[str, dict[str, Any]]
DIGITS = tuple(f"class {number}" for number in range(10))


def envelope(command: str, names: Sequence[str], features: int, split: str, results: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "command": command,
        "arguments": {"model": "net"},
        "model": {
            "name": "net",
            "num_classes": len(names),
            "num_features": features,
            "head": "fc",
            "weights": {"source": "net.pth", "sha256": "a" * 64},
        },
        "dataset": {
            "name": "folder:nowhere",
            "split": split,
            "images": 5 * len(names),
            "fingerprint": "b" * 64,
            "classes": list(names),
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
            "resize": 32,
            "crop": [32, 32],
            "interpolation": "bilinear",
        },
        "environment": {"command_line": f"decompose {command} net", "torch": "2.13.0", "working_directory": "/nowhere"},
        "started_at": "2026-01-01T00:00:00+00:00",
        "seconds": 1.5,
        "cache": {"features": "off"},
        "results": results,
    }


def head(names: Sequence[str], wrong: int) -> dict[str, Any]:
    """Five images a class; the first ``wrong`` classes have one taken for the next class."""
    count = len(names)
    confusion = 5 * np.eye(count, dtype=int)
    for row in range(min(wrong, count)):
        confusion[row, row] -= 1
        confusion[row, (row + 1) % count] += 1
    correct = int(np.trace(confusion))
    return {
        "correct": correct,
        "top1": 100 * correct / (5 * count),
        "top1_ci95": [10.0, 90.0],
        "top5": None,
        "loss": 0.25,
        "per_class": [
            {"name": name, "correct": int(confusion[row, row]), "total": 5} for row, name in enumerate(names)
        ],
        "confusion": confusion.tolist(),
    }


def documents(names: Sequence[str], features: int, k: int = 5) -> Documents:
    random = np.random.default_rng(0)
    count = len(names)
    rows = {str(c): random.permutation(features)[:k].tolist() for c in range(count)}
    has = np.zeros((count, features))
    for row, used in rows.items():
        has[int(row), used] = 1
    common = has @ has.T
    matrix = common / (2 * k - common)
    numbers = matrix.round(6).tolist()
    score = {"images": 50, "correct": 40, "top1": 80.0, "loss": 0.5}
    gate = {"name": "stage3", "loss": 0.1, "correct": None, "top1": None, "g": 0.4, "histogram": [2] * 20}

    def epoch(number: int, **more: Any) -> dict[str, Any]:
        val = {"split": "test", **score, "top1": 50.0 + number, **more}
        times = {"seconds": 2.0, "images_per_second": 9.0}
        train = {"split": "train", **score, **more}
        return {"epoch": number, "steps": number, "lr": 0.1, "train": train, "val": None, "test": val, **times}

    def trained(**more: Any) -> dict[str, Any]:
        test = {"split": "test", **score, **more}
        last = {"epoch": 2, "val": None, "test": test}
        epochs = [epoch(1, **more), epoch(2, **more)]
        return {"seed": 0, "epochs": epochs, "last": last, "best": None, "checkpoints": {}}

    difference = {"points": -4.0, "ci95": [-9.0, 1.0], "mcnemar_p": 0.25, "only_original_correct": 3}
    difference["only_decomposed_correct"] = 1
    kept = {"images": 5, "clean": 5, "noise_at_inf": 2.0, "noise_at_inf_se": 0.1, "noise_at_inf_ci95": [1.8, 2.2]}
    kept |= {"noise_at_noninf": 4.0, "noise_at_noninf_se": 0.1, "noise_at_noninf_ci95": [3.8, 4.2]}
    kept |= {"essentiality": 40.0, "essentiality_ci95": [20.0, 60.0], "control_mean": -3.0, "p": 0.01}
    weights = {"source": "net.pth", "sha256": "a" * 64}
    summary = {**kept, "weights": weights, "indices": "five", "indices_sha256": None, "features_per_class": [k, k]}
    point = {"correct": 45, "top1": 90.0, "top1_ci95": [80.0, 95.0]}
    loss = {"split": "train", "total": 50, "full_correct": 50, "common_correct": 48, "correct": 48, "points": -4.0}
    loss |= {"ci95": [-9.0, 1.0], "mcnemar_p": 0.5, "loss_bound95": 5.0}
    mean = {"images": 25, "g": 0.4, "ci95": [0.3, 0.5]}
    contrast = {"first": mean, "second": mean, "difference": 0.0, "ci95": [-0.1, 0.1]}
    gates = {
        "splits": [
            {"split": "test", "images": 50, "correct": 40, "top1": 80.0, "g": mean, "range": [0.1, 0.9]}
            | {"right_and_wrong": contrast}
        ],
        "label_noise": {**contrast, "given": 1, "original": 2, "correct": 40},
        "skipping": {"split": "test", "below": 0.5, "images": 50, "skipped": [0.5], "correct": 39, "top1": 78.0}
        | {"full_correct": 40, "full_top1": 80.0, "images_per_second": 9.0, "full_images_per_second": 7.0},
    }
    tried = [{"method": method, "correct": right, "loss": 0.5, "l2": l2} for method, right, l2 in TRIED]
    versus = {"points": -2.0, "ci95": [-6.0, 2.0], "mcnemar_p": 0.5, "only_baseline_correct": 2}
    versus["only_sparse_correct"] = 1
    measures = {"features_used": 30, "classes_per_feature": {"min": 1, "mean": 1.5, "max": 3}, "sid5": None}
    measures |= {"class_independence": 0.7, "contrastiveness": 0.8, "correlation": 0.9, "one_difference": 45}
    measures["pairs"] = [{"classes": [0, 1], "features": [3, 4]}]

    def sparse(size: int) -> dict[str, Any]:
        """A head whose classes use the first features of the ones above; weights fall from 2, the last is below 0."""
        weights = [2.0 - number / size for number in range(size - 1)] + [-0.5]
        return {
            "method": "splicing",
            "k": size,
            "values": "real",
            "l2": 0.001,
            "point": point,
            "loss": 0.25,
            "cut": {**point, "correct": 40, "top1": 80.0},
            "versus_original": versus,
            "versus_refitted": {**versus, "points": -3.0},
            "features": 30,
            "features_per_class": [size, size],
            "bias_alone": [],
            "kept_whole": [],
            "scale": None,
            "indices": {number: row[:size] for number, row in rows.items()},
            "weights": dict.fromkeys(rows, weights),
            "biases": [0.25] * count,
            "measures": measures,
            "checkpoint": f"out/k{size}/sparse.safetensors",
            "candidates": tried,
        }

    few = {"accuracy": {"5": 91.5, "10": None}, "mean": 91.5}
    overlap = {"source": "k.json", "sha256": None, "num_features": features, "features_per_class": [k, k], "mean": 0.1}
    overlap |= {"off_diagonal_mean": 0.05, "normalized_mean": 0.1, "jaccard_mean": 0.1, "unused": 1, "exclusive": 2}
    overlap |= {"shared": 3, "matrix": numbers, "normalized_matrix": numbers, "jaccard_matrix": numbers}
    compared = {**point, "weights": "net.pth", "sha256": "a" * 64, "own_features": False}
    one_set = {
        "source": "k.json",
        "sha256": None,
        "num_features": features,
        "features_per_class": [k, k],
        "features": 9,
    }
    silent = {"images": 5, "silent": 0, "psi_mean": 0.5, "psi_median": 0.4}
    layer = {"filters": features, "psi_mean": 0.5, "psi_median": 0.4, "class_selectivity": 0.3}
    layer["per_class"] = {str(c): {"name": name, **silent} for c, name in enumerate(names)}
    scored = {"number": 0, "name": names[0], "logit": 2.0, "probability": 0.75}
    explanation = {"image": "7", "label": 1, "label_name": names[1], "predicted": 0, "predicted_name": names[0]}
    explanation |= {"original": [scored], "decomposed": [scored], "file": "elsewhere/01-7.png"}
    explanation |= {"sums": {"filters": [1, 2], "own": 1.5, "others": 0.5, "bias": 0.0, "error": 0.0}}
    deletion = {"map": "Grad-CAM", "images": 1, "fraction": 0.2, "draws": 9, "highlighted": 1.0, "elsewhere": 0.5}
    looked = {"feature": 3, "rank": 1, "weight": 0.5, "contribution": 1.0, "mean": 2.0, "mean_elsewhere": 1.0}
    looked |= {"shared_with": [names[1]], "of_class": 1}
    looked["images"] = [{"image": 7, "label": 0, "label_name": names[0], "value": 3.0}]
    uses = [
        {"class_number": c, "class_name": names[c], "weight": 0.5 - c, "rank": 1 + c, "contribution": 1.0 - c}
        for c in (0, 1)
    ]
    of_class = {"number": 0, "images": 5, "before": 5, "after": 3, "points": -40.0, "ci95": [-80.0, 10.0]}
    left_out = {"correct": 45, "points": -6.0, "ci95": [-12.5, -0.25], "mcnemar_p": 0.1, "only_with_correct": 4}
    left_out |= {"only_without_correct": 1, "worst_class": of_class, "halved_classes": [], "classes": [of_class]}
    nothing = {**left_out, "correct": 48, "points": 0.0, "worst_class": None, "classes": []}
    charted = [
        {"feature": 3, "used_by": uses, "lost": left_out, "selectivity": 0.75, "images": looked["images"] * 2}
        | {"of_users": 2},
        {"feature": 30, "used_by": uses[1:], "lost": nothing, "selectivity": None, "images": looked["images"]}
        | {"of_users": 0},
    ]
    mistake = {"image": 7, "label": 1, "original": {"predicted": 1, "probability": 0.6}}
    mistake["decomposed"] = {"predicted": 0, "probability": 0.9}

    def made(command: str, results: Any, split: str = "test") -> dict[str, Any]:
        return envelope(command, names, features, split, results)

    return {
        "validate": made(
            "validate",
            {
                "total": 5 * count,
                "original": head(names, 1),
                "decomposed": head(names, 3),
                "difference": difference,
                "indices": {"source": "k.json", "sha256": None, "k": [k, k]},
                "mistakes": [mistake],
            },
        ),
        "extract-indices": made(
            "extract-indices",
            {str(k): {"file": None, "k": k, "method": "frequency", "features_per_class": [k, k], "indices": rows}},
            "train",
        ),
        "demo": made(
            "demo",
            {"total": 50, "original_correct": 48, "method": "frequency", "by_k": {"1": point, "2": point}},
        ),
        "sweep": made(
            "sweep",
            {
                "total": 50,
                "original": point,
                "curves": {"frequency": {"1": point, "2": point}, "mine": {"2-7": point}},
                "chosen": {
                    "max_drop": 1.0,
                    "method": "frequency",
                    "k": 2,
                    "features": 17,
                    "features_per_class": [1, 2],
                    "file": None,
                    "indices": {name: row[:2] for name, row in rows.items()},
                    "chosen_on": loss,
                    "reported_on": {**loss, "split": "test"},
                    "candidates": {"frequency": {"k": 2, "features": 17}, "mean": None},
                },
                "plot": None,
            },
        ),
        "sparsify": made(
            "sparsify",
            {
                "total": 50,
                "original": point,
                "heads": {str(size): sparse(size) for size in (2, k)},
                "refitted": {"point": {**point, "correct": 46, "top1": 92.0}, "l2": 0.01, "versus_original": versus},
                "chosen_on": {
                    "split": "train",
                    "images": 20,
                    "fitted": 80,
                    "part_of_training": True,
                    "searched": 100,
                    "chosen": ["method", "strength"],
                },
                "smallest": {"max_drop": 1.0, "k": k, "tried": {"2": 3.5, str(k): 0.75}},
                "nec": {"elastic_net": few, "sparse": {**few, "mean": 93.5}, "means": {"5": 4.8}},
                "path": [PATH_ROW],
            },
        ),
        "mutual-info": made("mutual-info", {"sets": {"ours": {str(k): overlap}}}, "train"),
        "compare": made(
            "compare",
            {
                "total": 5 * count,
                "heads": {name: {**compared, "kind": kind} for name, kind in (("full head", "full"), ("five", "cut"))},
                "differences": [
                    {"first": "full head", "second": "five", "points": -4.0, "ci95": [-9.0, 1.0], "mcnemar_p": 0.25}
                    | {"only_first_correct": 3, "only_second_correct": 1}
                    | {
                        "worst_class": {"number": 1, "images": 5, "before": 5, "after": 4, "points": -20.0}
                        | {"ci95": [-60.0, 20.0]}
                    }
                ],
                "sets": {name: {**one_set, "indices": rows} for name in ("five", "other")},
                "set_differences": [
                    {"first": "five", "second": "other", "jaccard_mean": 0.5, "equal_classes": 0}
                    | {"used_by_both": [1, 2], "used_by_first": [3], "used_by_second": [4]}
                    | {
                        "classes": [
                            {"number": number, "both": row[:-1], "only_first": row[-1:], "only_second": [0]}
                            | {"jaccard": 0.5}
                            for number, row in enumerate(rows.values())
                        ]
                    }
                ],
                "unmeasured": {"other": "says of no network"},
            },
        ),
        "essential": made(
            "essential",
            {
                "repeats": 30,
                "noise": "gaussian",
                "controls": 100,
                "ours": {str(c): kept for c in range(count)},
                "summary": {"ours": {**summary, "features": rows}},
            },
        ),
        "selectivity": made(
            "selectivity",
            {
                "fraction": 0.5,
                "layers": {"stem": layer, "layer1": layer},
                "compared": {"other": {"weights": weights, "layers": {"stem": layer}}},
            },
            "train",
        ),
        "train": made("train", trained(), "train"),
        "finetune": made(
            "finetune",
            {
                **trained(),
                **{name: {"split": "test", **score} for name in ("original", "before", "after")},
                "difference": difference,
                "indices": "k.json",
                "features_per_class": [k, k],
            },
        ),
        "train-gate": made("train-gate", {**trained(gates=[gate]), "gates": gates}, "train"),
        "lr-find": made(
            "lr-find",
            {
                "lr": 0.01,
                "minimum_tenth": 0.01,
                "still_falling": False,
                "diverged": True,
                "worse_than_guessing": False,
                "rates": [0.001, 0.01, 0.1],
                "losses": [2.0, 1.0, 9.0],
                "smoothed": [2.0, 1.5, 5.0],
                "plot": None,
            },
            "train",
        ),
        "explain": made(
            "explain",
            {
                "layer": "layer3",
                "indices": None,
                "explanations": [explanation],
                "deletion": [{**deletion, "difference": 0.5, "ci95": [0.1, 0.9]}],
                "sheet": None,
            },
        ),
        "filters": made(
            "filters",
            {"class_number": 0, "class_name": names[0], "indices": "k.json", "filters": [looked], "sheet": None},
        ),
        "atlas": made(
            "atlas",
            {
                "total": 50,
                "head": {**point, "correct": 48, "top1": 96.0},
                "indices": "k.json",
                "classes": None,
                "kept_whole": [],
                "features": charted,
                "sheet": "atlas.png",
            },
        ),
    }


def fill(folder: Path, names: Sequence[str], features: int, only: Sequence[str] = ()) -> None:
    """Write one file per document, by default of every command, and the picture that belongs to them."""
    for command, document in documents(names, features).items():
        if not only or command in only:
            (folder / f"{command}.json").write_text(json.dumps(document), encoding="utf-8")
    Image.new("RGB", (300, 100), "red").save(folder / "01-7.png")
    sheet = AtlasSheet([3, 30], 2)
    for row, column in ((0, 0), (0, 1), (1, 0)):
        sheet.put(row, column, torch.full((3, 8, 8), 60 + 90 * row + 60 * column, dtype=torch.uint8), None)
    (folder / "atlas.png").write_bytes(sheet.png())


@pytest.fixture
def write_results(tmp_path: Path) -> Callable[..., Path]:
    """Write one file per document (by default of every command) into a folder; returns the folder."""

    def write(
        names: Sequence[str] = DIGITS, features: int = 64, *, only: Sequence[str] = (), folder: str = "found"
    ) -> Path:
        target = tmp_path / folder
        target.mkdir()
        fill(target, names, features, only)
        return target

    return write


def _reported(folder: Path, names: Sequence[str], features: int, only: Sequence[str] = ()) -> None:
    (folder / "found").mkdir()
    fill(folder / "found", names, features, only)
    made = report([folder / "found"], output=folder / "report.html")
    (folder / "left_out").write_text(str(made.left_out), encoding="utf-8")


@pytest.fixture(scope="session")
def whole(made_once: Callable[..., Path]) -> Path:
    """A folder with results of every command in ``found``, and their ``report.html``."""
    return made_once("whole-report", lambda folder: _reported(folder, DIGITS, 64))


TRIED = (("splicing", 18, 0.001), ("frequency", 16, 0.1), ("q-senn", 12, None))
PATH_ROW = {"strength": 0.125, "loss": 0.5, "objective": 0.75, "gap": 1.5e-8, "relative_gap": 2e-8, "weights": 40}
LARGE = (
    "validate",
    "extract-indices",
    "mutual-info",
    "compare",
    "essential",
    "selectivity",
    "sweep",
    "sparsify",
    "demo",
)


@pytest.fixture(scope="session")
def large(made_once: Callable[..., Path]) -> Path:
    """The same of a thousand classes and two thousand features, of the commands that count them."""
    names = [f"n{number:08d} some class, with, many, synonyms" for number in range(1000)]
    return made_once("large-report", lambda folder: _reported(folder, names, 2048, LARGE))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (requirements-dev.txt)")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs chromium, as from 'apt-get install chromium'")
    with playwright.sync_playwright() as driver:
        # Without a sandbox, which root cannot have; what is opened here is our own.
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(autouse=True)
def drawings_of_no_account(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are put together but not drawn, which takes most of the time, but where a test is about what is drawn."""
    if "painted" not in request.keywords and "browser" not in request.fixturenames:
        monkeypatch.setattr("decompose_cli.page.context.svg", lambda *_: '<svg aria-hidden="true"></svg>')
