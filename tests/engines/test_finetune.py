"""``finetune``: what it starts from, what it trains, and what it says of the difference."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command_line import row_of, run
from helpers.pictures import legend_of, points
from helpers.power_cut import PowerCut
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from decompose_cli.cli.app import app
from decompose_cli.decomposition import sampling
from decompose_cli.decomposition.heads import decomposed_head, with_decomposed_head
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.decomposition.metrics import Predictions, compare
from decompose_cli.decomposition.sparse_heads import fit_head
from decompose_cli.engines.export import export
from decompose_cli.engines.finetune import FinetuneSettings, finetune
from decompose_cli.engines.train import train
from decompose_cli.engines.validate import validate
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.models.registry import get_entry
from decompose_cli.storage.result_document import ResultDocument
from decompose_cli.training import evaluate, fit
from decompose_cli.training.evaluate import LabelledImages, batches_on
from decompose_cli.training.finetune_results import FinetuneResults, RepeatedFinetuning
from decompose_cli.training.session import Request

CLASSES = ["a", "b", "c"]
COLOURS = {"a": (200, 40, 40), "b": (40, 200, 40), "c": (40, 40, 200)}
SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 0.002}


def coloured(root: Path, classes: list[str], n: int, splits: tuple[str, ...] = ("train", "test"), side: int = 8) -> str:
    """Images that are hard enough for mistakes: a colour under much noise."""
    random = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(n):
                pixels = random.normal(0, 130, (side, side, 3)) + COLOURS[name]
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / split / name / f"{number:03d}.png")
    return f"folder:{root}"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and ``run/last.pt``, a network that has learned them to some degree."""
    root = tmp_path_factory.mktemp("start")
    images = coloured(root / "images", CLASSES, 16)
    inputs = Inputs(model="resnet8", dataset=images, input_size="8", workers=0, device="cpu", use_cache=False)
    settings = {"epochs": 4, "batch_size": 16, "lr": 0.05, "val_split": 0.0}
    train(Request(inputs, settings, folder=root / "run"))
    return root


@pytest.fixture
def inputs(start: Path) -> Inputs:
    return Inputs(
        weights=str(start / "run/last.pt"),
        dataset=f"folder:{start / 'images'}",
        input_size="8",
        workers=0,
        device="cpu",
    )


def tuned(
    inputs: Inputs, folder: str = "tuned", overrides: dict[str, Any] | None = None, **more: Any
) -> FinetuneResults:
    names = ("indices", "k", "method", "order", "only", "refit", "l2", "diversity", "full_head_control", "predictions")
    own = {name: more.pop(name) for name in names if name in more}
    own = own or {"k": 3}
    results = finetune(
        Request(inputs, {**SHORT, **(overrides or {})}, folder=Path(folder), **more), FinetuneSettings(**own)
    ).results
    assert isinstance(results, FinetuneResults)
    return results


def rows_of(k: int = 3, features: int = 64) -> IndexSet:
    return IndexSet(tuple(tuple((5 * number + 7 * j) % features for j in range(k)) for number in range(3)), features)


def validated(inputs: Inputs, weights: str | None = None, indices: Any = None) -> Any:
    given = inputs if weights is None else dataclasses.replace(inputs, weights=weights, head=None)
    return validate(dataclasses.replace(given, use_cache=False), indices).results


def logits_of(inputs: Inputs, weights: str | None = None) -> Tensor:
    """Of the whole network, image by image, on the test split."""
    study = Study(dataclasses.replace(inputs, weights=weights or inputs.weights), ("test",))
    network = study.classifier.load(study.preprocessing.crop)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (study.preprocessing.mean, study.preprocessing.std))
    found = []
    for images, _ in study.dataset.batches(study.preprocessing, 7, 0):
        with torch.no_grad():
            found.append(network.module.eval()((images.float() / 255 - mean) / std))
    return torch.cat(found).flatten(1)


# -------------------------------------------------------------------------------------------------------- the numbers


def test_accuracies_are_those_of_validate(inputs: Inputs) -> None:
    index_set = rows_of()
    results = tuned(inputs, indices=index_set)
    found = validated(inputs, indices=index_set)
    assert results.original is not None
    assert (results.original.correct, results.before.correct) == (found.original.correct, found.decomposed.correct)
    assert results.original.loss == pytest.approx(found.original.loss, rel=1e-5)
    assert results.before.loss == pytest.approx(found.decomposed.loss, rel=1e-5)
    end = validated(inputs, "tuned/last.pt")
    assert end.original is None
    assert (results.after.correct, results.after.images) == (end.decomposed.correct, 48)
    assert results.after.loss == pytest.approx(end.decomposed.loss, rel=1e-5)
    assert results.features_per_class == (3, 3)
    last = results.epochs[-1].test
    assert last is not None
    assert (last.correct, last.split) == (results.after.correct, "test")
    assert results.after.loss < results.before.loss, "it has learned something"
    assert 16 < results.original.correct < 48, "the case can tell networks apart"


def test_the_difference_is_that_of_the_predictions_image_by_image(inputs: Inputs) -> None:
    results = tuned(inputs, indices=rows_of(2), overrides={"lr": 0.01})
    labels = torch.arange(3).repeat_interleave(16)
    original, after = (logits_of(inputs, weights).argmax(1) for weights in (None, "tuned/last.pt"))
    expected = compare(Predictions(original, labels), Predictions(after, labels))
    found = results.difference
    assert found is not None
    assert (found.points, found.ci95, found.mcnemar_p) == (expected.points, expected.ci95, expected.mcnemar_p)
    assert (found.only_original_correct, found.only_decomposed_correct) == (expected.only_first, expected.only_second)
    assert expected.only_first + expected.only_second > 0, "the case has a difference"
    assert found.points == pytest.approx(results.after.top1 - (results.original.top1 if results.original else 0))


def test_ranking_first_is_extracting_and_giving_indices(inputs: Inputs) -> None:
    network = ["-w", str(inputs.weights), "--dataset", str(inputs.dataset), "--input-size", "8"]
    ranking = ["-k", "4", "--method", "mean", "-o", "indices.json", "-q", "-j", "0"]
    done = CliRunner().invoke(app, ["extract-indices", *network, *ranking])
    assert done.exit_code == 0, done.stderr
    tuned(inputs, "ranked", k=4, method="mean")
    tuned(inputs, "given", indices=Path("indices.json"))
    first, second = (read_checkpoint(Path(name) / "last.pt").state_dict for name in ("ranked", "given"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    rows = [sorted(row) for row in first["linear.indices"].tolist()]
    assert rows == [sorted(row) for row in read_index_set(Path("indices.json")).classes]


def test_by_default_five_frequent_features_are_kept(inputs: Inputs) -> None:
    results = finetune(Request(inputs, SHORT, folder=Path("tuned"))).results
    assert results.features_per_class == (5, 5)
    config = json.loads(Path("tuned/config.json").read_text())
    assert config["ranking"] == {"k": 5, "method": "frequency", "order": "highest"}


def test_the_document_and_the_folder(inputs: Inputs, figures: list[Figure]) -> None:
    document = finetune(Request(inputs, SHORT, folder=Path("tuned")), FinetuneSettings(indices=rows_of()))
    assert sorted(path.name for path in Path("tuned").iterdir()) == [
        "config.json",
        "curve.png",
        "last.pt",
        "log.csv",
        "result.json",
        "tensorboard",
    ]
    written = json.loads(Path("tuned/result.json").read_text())
    assert written == json.loads(document.to_json())
    assert ResultDocument[FinetuneResults].model_validate(written).results == document.results
    assert (written["command"], written["dataset"]["split"], written["dataset"]["images"]) == ("finetune", "test", 48)
    assert written["model"]["weights"]["source"] == inputs.weights
    assert written["arguments"]["only"] == "all"
    assert written["arguments"]["settings"]["optimizer"] == "adam"
    assert len(Path("tuned/log.csv").read_text().splitlines()) == 3
    loss, top1, _ = figures[0].axes
    for axes, value in ((loss, "loss"), (top1, "top1")):
        lines = dict(zip(legend_of(axes), axes.get_lines(), strict=True))
        assert list(lines) == ["training images", "test images"]
        for line, split in zip(lines.values(), ("train", "test"), strict=True):
            expected = [(epoch.epoch, getattr(getattr(epoch, split), value)) for epoch in document.results.epochs]
            assert points(line) == expected


def test_large_images_have_their_own_values(inputs: Inputs, tmp_path: Path) -> None:
    large = dataclasses.replace(inputs, dataset=coloured(tmp_path / "large", CLASSES, 2, side=72), input_size="72")
    document = finetune(Request(large, {"epochs": 1}, folder=Path("tuned")), FinetuneSettings(indices=rows_of()))
    settings = document.arguments["settings"]
    assert (settings["lr"], settings["augment"], settings["batch_size"]) == (1e-6, "affine", 64)


# --------------------------------------------------------------------------------------------------- what is trained


def changed_names(inputs: Inputs, folder: str) -> set[str]:
    before = read_checkpoint(Path(str(inputs.weights))).state_dict
    after = read_checkpoint(Path(folder) / "last.pt").state_dict
    return {name for name, value in after.items() if name not in before or not torch.equal(value, before[name])}


HEAD = {"linear.weight", "linear.bias", "linear.indices", "linear.mask"}


def test_only_the_head(inputs: Inputs) -> None:
    results = tuned(inputs, only="head", overrides={"weight_decay": 0.1})
    assert changed_names(inputs, "tuned") == HEAD
    assert results.after.loss != results.before.loss


def test_only_the_head_and_the_last_block(inputs: Inputs, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="decompose_cli"):
        tuned(inputs, only="head+last-block", overrides={"weight_decay": 0.1})
    assert "Trained: linear and layer3.0." in caplog.messages
    changed = changed_names(inputs, "tuned")
    assert {name for name in changed if not name.startswith("layer3.0.")} == HEAD
    assert "layer3.0.conv1.weight" in changed
    assert "layer3.0.bn1.running_mean" in changed


def test_all_parameters(inputs: Inputs) -> None:
    tuned(inputs)
    changed = changed_names(inputs, "tuned")
    parameters = {name for name, _ in Study(inputs, ("test",)).classifier.load((8, 8)).module.named_parameters()}
    assert parameters <= changed
    assert "bn1.running_mean" in changed


def test_features_of_other_classes_stay_out_of_the_head(inputs: Inputs) -> None:
    index_set = rows_of()
    tuned(inputs, indices=index_set)
    state = read_checkpoint(Path("tuned/last.pt")).state_dict
    assert [sorted(row) for row in state["linear.indices"].tolist()] == [sorted(row) for row in index_set.classes]
    assert state["linear.weight"].shape == (3, 3)


def test_classes_may_keep_different_numbers_of_features(inputs: Inputs) -> None:
    results = tuned(inputs, indices=IndexSet(((1, 2, 3, 4), (5,), (6, 7)), 64), overrides={"weight_decay": 0.5})
    assert results.features_per_class == (1, 4)
    state = read_checkpoint(Path("tuned/last.pt")).state_dict
    assert not state["linear.weight"][~state["linear.mask"]].any()
    assert results.after.correct == validated(inputs, "tuned/last.pt").decomposed.correct


# ------------------------------------------------------------------------------------------------------ held-out images


def test_with_held_out_images_the_best_epoch_is_what_counts(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = iter([9, 3, 5])
    original = fit.Trainer.score

    def rigged(self: Any, images: Any) -> Any:
        found = original(self, images)
        return found.model_copy(update={"correct": next(scored)}) if images.split == "held-out" else found

    monkeypatch.setattr(fit.Trainer, "score", rigged)
    results = tuned(inputs, overrides={"epochs": 3, "val_split": 0.25, "lr": 0.01})
    assert results.best is not None
    assert results.best.epoch == 1
    assert all(record.test is None for record in results.epochs), "the test images are not looked at on the way"
    assert results.after.correct == validated(inputs, "tuned/best.pt").decomposed.correct
    assert results.after.loss == pytest.approx(validated(inputs, "tuned/best.pt").decomposed.loss, rel=1e-5)
    assert results.after.loss != pytest.approx(validated(inputs, "tuned/last.pt").decomposed.loss, rel=1e-5)
    assert results.epochs[0].train.images == 36


def test_the_averaged_weights_are_what_is_measured(inputs: Inputs) -> None:
    results = tuned(inputs, overrides={"ema_decay": 0.9, "lr": 0.01})
    assert results.after.loss == pytest.approx(validated(inputs, "tuned/last.pt").decomposed.loss, rel=1e-5)


# --------------------------------------------------------------------------------------------------- other beginnings


NETWORKS = """
from torch import nn


def body():
    return nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1)


def convolutional():
    return nn.Sequential(*body(), nn.Conv2d(12, 3, 1), nn.Flatten())


def dense():
    return nn.Sequential(*body(), nn.Flatten(), nn.Linear(12, 3))
"""


@pytest.fixture
def user_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Path("tunednets.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    yield
    sys.modules.pop("tunednets", None)


@pytest.mark.usefixtures("user_networks")
@pytest.mark.parametrize("name", ["convolutional", "dense"])
def test_networks_of_the_users_with_either_kind_of_head(inputs: Inputs, name: str) -> None:
    own = dataclasses.replace(inputs, model=f"tunednets:{name}", weights=None)
    index_set = rows_of(2, 12)
    results = tuned(own, indices=index_set, overrides={"lr": 0.05})
    found = validated(own, indices=index_set)
    assert results.before.correct == found.decomposed.correct
    assert results.before.loss == pytest.approx(found.decomposed.loss, rel=1e-5)
    end = validated(own, "tuned/last.pt").decomposed
    assert results.after.correct == end.correct
    assert results.after.loss == pytest.approx(end.loss, rel=1e-5)
    assert results.after.loss < results.before.loss - 0.01


def test_a_constant_factor_after_the_head_counts_once(inputs: Inputs) -> None:
    torch.manual_seed(0)
    torch.save(get_entry("custom_resnet").build(3).state_dict(), "scaled.pt")
    scaled = dataclasses.replace(inputs, model="custom_resnet", weights="scaled.pt")
    index_set = rows_of(3, 512)
    results = tuned(scaled, indices=index_set, overrides={"epochs": 1, "batch_size": 64, "lr": 0.01})
    found = validated(scaled, indices=index_set)
    assert results.original is not None
    assert results.original.loss == pytest.approx(found.original.loss, rel=1e-5)
    assert results.before.loss == pytest.approx(found.decomposed.loss, rel=1e-5)
    assert (results.before.correct, results.original.correct) == (found.decomposed.correct, found.original.correct)
    end = validated(dataclasses.replace(scaled, model=None), "tuned/last.pt").decomposed
    assert (results.after.correct, results.after.loss) == (end.correct, pytest.approx(end.loss, rel=1e-5))
    study = Study(scaled, ("test",))
    dense = study.classifier.load((8, 8)).module.get_submodule("fc")
    assert isinstance(dense, nn.Linear)
    row = read_checkpoint(Path("tuned/last.pt")).state_dict["fc.weight"][0]
    close = dense.weight.detach()[0, list(index_set.classes[0])]
    assert (row - close).abs().max() < 0.03, "weights as the network has them, which the factor follows"


def test_a_decomposed_checkpoint_is_trained_further_without_its_original(inputs: Inputs) -> None:
    first = tuned(inputs, "first")
    again = dataclasses.replace(inputs, weights="first/last.pt")
    results = finetune(Request(again, SHORT, folder=Path("second"))).results
    assert (results.original, results.difference) == (None, None)
    assert results.before.correct == first.after.correct
    assert results.before.loss == pytest.approx(first.after.loss, rel=1e-6)
    a, b = (read_checkpoint(Path(name) / "last.pt").state_dict for name in ("first", "second"))
    assert torch.equal(a["linear.indices"], b["linear.indices"])
    assert not torch.equal(a["linear.weight"], b["linear.weight"])


def test_a_decomposed_checkpoint_cannot_be_decomposed_again(inputs: Inputs) -> None:
    """What was asked for is not left out without a word."""
    tuned(inputs, "first")
    for own in ({"k": 2}, {"indices": rows_of()}):
        with pytest.raises(InputError):
            tuned(dataclasses.replace(inputs, weights="first/last.pt"), "second", **own)
        assert not Path("second").exists()


def test_the_authors_layout_is_trained_further_with_its_indices(inputs: Inputs) -> None:
    generator = torch.Generator().manual_seed(0)
    state = read_checkpoint(Path(str(inputs.weights))).state_dict
    final = {"final_weights": torch.randn(3, 3, generator=generator), "final_bias": torch.randn(3, generator=generator)}
    torch.save({**state, **final}, "published.th")
    published = dataclasses.replace(inputs, model="resnet8", weights="published.th")
    index_set = rows_of()
    results = tuned(published, indices=index_set)
    found = validated(published, indices=index_set)
    assert results.before.correct == found.decomposed.correct
    assert results.before.loss == pytest.approx(found.decomposed.loss, rel=1e-5)
    assert results.after.correct == validated(published, "tuned/last.pt").decomposed.correct
    with pytest.raises(InputError):
        finetune(Request(published, SHORT, folder=Path("without")))
    assert not Path("without").exists()


def test_some_of_the_networks_classes(inputs: Inputs, tmp_path: Path) -> None:
    two = dataclasses.replace(inputs, dataset=coloured(tmp_path / "two", ["b", "c"], 8))
    index_set = rows_of()
    results = tuned(two, indices=index_set, overrides={"lr": 0.005})
    assert results.before.correct == validated(two, indices=index_set).decomposed.correct
    assert results.after.correct == validated(two, "tuned/last.pt").decomposed.correct
    assert read_checkpoint(Path("tuned/last.pt")).state_dict["linear.bias"].shape == (3,)
    metadata = read_checkpoint(Path("tuned/last.pt")).metadata
    assert metadata is not None
    assert metadata.class_names == CLASSES


def test_safetensors_need_neither_model_nor_indices(inputs: Inputs) -> None:
    results = tuned(inputs, export=["safetensors"])
    found = validated(inputs, results.checkpoints["safetensors"])
    assert found.decomposed.correct == results.after.correct


@pytest.mark.slow
def test_onnx_agrees(inputs: Inputs) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    results = tuned(inputs, export=["onnx"])
    assert results.export_errors["onnx"] <= 1e-4
    assert Path(results.checkpoints["onnx"]).is_file()


def test_the_command_in_a_checkpoint_can_be_run(inputs: Inputs, start: Path) -> None:
    tuned(inputs, indices=None, k=2, method="mean", only="head")
    metadata = read_checkpoint(Path("tuned/last.pt")).metadata
    assert metadata is not None
    assert metadata.command is not None
    words = shlex.split(metadata.command)[1:]
    done = CliRunner().invoke(app, [*words, "-o", "again", "-q", "-j", "0"])
    assert done.exit_code == 0, done.stderr
    first, second = (read_checkpoint(Path(name) / "last.pt").state_dict for name in ("tuned", "again"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


# ------------------------------------------------------------------------------------------------- several and resumed


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: without_clock(v) for k, v in value.items() if k not in ("seconds", "images_per_second", "checkpoints")
        }
    return [without_clock(item) for item in value] if isinstance(value, list) else value


def test_stopped_and_resumed_it_ends_as_if_it_had_not_been(inputs: Inputs, power_cut: PowerCut) -> None:
    whole = tuned(inputs, "whole")
    with power_cut("last.pt"):
        tuned(inputs, "tuned")
    done = finetune(Request(Inputs(workers=0, device="cpu"), resume=Path("tuned"))).results
    assert without_clock(done.model_dump()) == without_clock(whole.model_dump())
    first, second = (read_checkpoint(Path(name) / "last.pt").state_dict for name in ("whole", "tuned"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_several_seeds(inputs: Inputs, power_cut: PowerCut) -> None:
    def work(folder: str) -> Any:
        request = Request(inputs, {**SHORT, "epochs": 1}, folder=Path(folder), runs=2)
        return finetune(request, FinetuneSettings(indices=rows_of())).results

    whole = work("whole")
    assert isinstance(whole, RepeatedFinetuning)
    assert [run.seed for run in whole.runs] == [0, 1]
    assert whole.runs[0].before == whole.runs[1].before
    assert [found.what for found in whole.summary] == ["test top1 after fine-tuning"]
    assert whole.summary[0].values == [run.after.top1 for run in whole.runs]
    with power_cut("last.pt"):
        work("stopped")
    done = finetune(Request(Inputs(workers=0, device="cpu"), resume=Path("stopped"))).results
    assert without_clock(done.model_dump()) == without_clock(whole.model_dump())


CHANGES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"indices": rows_of(2)}, "indices"),
    ({}, {"only": "head"}, "only all, now head"),
    ({}, {"k": 3}, "ranking"),
    ({"overrides": {"lr": 0.5}}, {}, "lr 0.002, now 0.5"),
    ({"inputs": Inputs(weights="other.pt")}, {}, "now other.pt"),
]


def test_what_has_changed_is_named_and_refused(inputs: Inputs, power_cut: PowerCut) -> None:
    with power_cut("last.pt"):
        tuned(inputs, indices=rows_of())
    for request_values, own, fragment in CHANGES:
        request = Request(**{"inputs": Inputs(), "resume": Path("tuned"), **request_values})
        with pytest.raises(InputError, match="was begun otherwise") as caught:
            finetune(request, FinetuneSettings(**own))
        assert fragment in caught.value.message
        assert len(caught.value.message) < 400, "a sentence, not the content of a file"


def test_the_same_indices_may_be_given_again(inputs: Inputs, power_cut: PowerCut) -> None:
    with power_cut("last.pt"):
        tuned(inputs, indices=rows_of(), only="head")
    request = Request(Inputs(workers=0, device="cpu"), resume=Path("tuned"))
    assert finetune(request, FinetuneSettings(indices=rows_of(), only="head")).results.last.epoch == 2


def test_weights_that_have_been_replaced_are_noticed(inputs: Inputs, power_cut: PowerCut) -> None:
    Path("mine.pt").write_bytes(Path(str(inputs.weights)).read_bytes())
    with power_cut("last.pt"):
        tuned(dataclasses.replace(inputs, weights="mine.pt"), indices=rows_of())
    tuned(inputs, "other", overrides={"epochs": 1}, indices=rows_of())
    content = torch.load("mine.pt", weights_only=True)
    content["state_dict"]["linear.bias"] += 1
    torch.save(content, "mine.pt")
    with pytest.raises(InputError, match="The starting weights are not what they were when the run in tuned began"):
        finetune(Request(Inputs(workers=0, device="cpu"), resume=Path("tuned")))


def renamed(inputs: Inputs, root: Path, statement: str) -> Inputs:
    """The images with two classes of other names, and a class map for these."""
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for new, old in (("x", "a"), ("y", "b"), ("c", "c")):
            (root / split / new).symlink_to(Path(str(inputs.dataset).removeprefix("folder:")) / split / old)
    Path("map.json").write_text(statement)
    return dataclasses.replace(inputs, dataset=f"folder:{root}", class_map=Path("map.json"))


def test_a_class_map_that_says_something_else_is_noticed(inputs: Inputs, tmp_path: Path, power_cut: PowerCut) -> None:
    with power_cut("last.pt"):
        tuned(renamed(inputs, tmp_path / "renamed", '{"x": 0, "y": "b"}'), indices=rows_of())
    request = Request(Inputs(workers=0, device="cpu"), resume=Path("tuned"))
    Path("map.json").write_text('{"x": "b", "y": "a"}')
    with pytest.raises(InputError, match="The class map entries are not what they were when the run in tuned began"):
        finetune(request)
    Path("map.json").write_text('{ "y": "b", "x": 0 }')
    assert finetune(request).results.last.epoch == 2


@pytest.mark.parametrize("classes", ["all", "present"])
def test_the_checkpoint_knows_the_class_map(inputs: Inputs, tmp_path: Path, classes: str) -> None:
    mapped = dataclasses.replace(renamed(inputs, tmp_path / "renamed", '{"x": 2, "y": 1}'), classes=classes)
    for split in ("train", "test"):
        (tmp_path / "renamed" / split / "c").unlink()
    results = tuned(mapped)  # by number: with two classes present, those of the checkpoint are 0 and 1
    found = validate(Inputs(weights="tuned/last.pt", workers=0, device="cpu")).results
    assert found.decomposed is not None
    assert found.decomposed.correct == results.after.correct
    assert found.decomposed.loss == pytest.approx(results.after.loss, abs=1e-4)
    metadata = read_checkpoint(Path("tuned/last.pt")).metadata
    assert metadata is not None
    assert metadata.class_map == {"x": "c", "y": "b"}
    exported = export(Inputs(weights="tuned/last.pt", device="cpu"), Path("exported.safetensors"))
    again = validate(Inputs(weights=exported.file, workers=0, device="cpu")).results
    assert again.decomposed == found.decomposed
    further = Inputs(weights="tuned/last.pt", dataset=mapped.dataset, workers=0, device="cpu")
    train(Request(further, {**SHORT, "epochs": 1, "val_split": 0.0}, folder=Path("further")))
    assert validate(Inputs(weights="further/last.pt", workers=0, device="cpu")).results.total == found.total
    (tmp_path / "other").symlink_to(tmp_path / "renamed")
    folder = f"folder:{tmp_path / 'other'}"
    with pytest.raises(InputError, match="the class 'x'"):  # images of another name may mean something else by it
        validate(Inputs(weights="tuned/last.pt", dataset=folder, workers=0, device="cpu"))


# ------------------------------------------------------------------------------------- a refitted head, diverse maps


def refitted_by(inputs: Inputs, index_set: IndexSet, l2: float) -> Any:
    return validate(dataclasses.replace(inputs, use_cache=False), index_set, refit=True, l2=l2).results


def test_of_very_many_images_some_are_fitted(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_SEARCHED", 20)
    monkeypatch.setattr(sampling, "MOST_FITTED", 1)
    whole = tuned(inputs, refit=True, l2=0.01)
    assert whole.refitting is not None
    assert whole.refitting.fitted == 48  # as validate does; none is copied
    results = tuned(inputs, "held", refit=True, l2=0.01, overrides={"val_split": 0.25})
    assert results.refitting is not None
    assert 9 <= results.refitting.fitted <= 12  # half of the most, and rounding by class


def test_with_refit_training_begins_with_the_head_of_validate(inputs: Inputs) -> None:
    index_set = rows_of()
    results = tuned(inputs, indices=index_set, refit=True, l2=0.01)
    found = refitted_by(inputs, index_set, 0.01)
    assert results.cut is not None
    assert results.cut.correct == found.decomposed.correct
    assert results.cut.loss == pytest.approx(found.decomposed.loss, rel=1e-5)
    assert results.before.correct == found.refitted.correct
    assert results.before.loss == pytest.approx(found.refitted.loss, rel=1e-4)
    assert results.refitting == found.refitted.refitting
    assert results.before.loss < results.cut.loss
    plain = tuned(inputs, "plain", indices=index_set)
    assert (plain.cut, plain.refitting, plain.before) == (None, None, results.cut)


def test_with_a_held_backbone_and_no_steps_to_speak_of_the_refitted_head_is_in_the_checkpoint(inputs: Inputs) -> None:
    index_set = rows_of()
    tuned(inputs, indices=index_set, refit=True, l2=0.01, only="backbone", overrides={"lr": 1e-9})
    state = read_checkpoint(Path("tuned/last.pt")).state_dict
    head = fit_head(Study(inputs, ("train",)).labelled(), index_set, "real", 0.01)
    dense = torch.zeros(3, 64).scatter_(1, state["linear.indices"], state["linear.weight"])
    torch.testing.assert_close(dense, head.weight.float())
    torch.testing.assert_close(state["linear.bias"], head.bias.float())


def test_images_that_are_held_out_are_not_fitted(inputs: Inputs) -> None:
    index_set = rows_of()
    results = tuned(inputs, indices=index_set, refit=True, overrides={"val_split": 0.25})
    assert results.refitting is not None
    assert results.refitting.fitted == 36
    chosen = results.refitting.chosen_on
    assert chosen is not None
    assert (chosen.split, chosen.images + chosen.fitted, chosen.part_of_training) == ("train", 36, True)


def test_a_run_that_is_resumed_begins_with_the_same_head(inputs: Inputs, power_cut: PowerCut) -> None:
    own = {"indices": rows_of(), "refit": True, "diversity": 0.3}
    whole = tuned(inputs, "whole", **own)
    with power_cut("last.pt"):
        tuned(inputs, "tuned", **own)
    with pytest.raises(InputError, match=r"diversity 0\.3, now 0\.1"):
        finetune(Request(Inputs(), resume=Path("tuned")), FinetuneSettings(diversity=0.1))
    done = finetune(Request(Inputs(workers=0, device="cpu"), resume=Path("tuned"))).results
    assert without_clock(done.model_dump()) == without_clock(whole.model_dump())


def test_a_run_that_was_begun_before_there_was_a_refit_goes_on(inputs: Inputs, power_cut: PowerCut) -> None:
    with power_cut("last.pt"):
        tuned(inputs, indices=rows_of())
    path = Path("tuned/config.json")
    config = json.loads(path.read_text())
    for name in ("refit", "l2", "diversity"):
        del config[name]
    path.write_text(json.dumps(config))
    done = finetune(Request(Inputs(workers=0, device="cpu"), resume=Path("tuned"))).results
    assert without_clock(done.model_dump()) == without_clock(tuned(inputs, "whole", indices=rows_of()).model_dump())


def test_the_command_in_a_checkpoint_has_them(inputs: Inputs) -> None:
    tuned(inputs, k=2, method="mean", refit=True, l2=0.25, diversity=0.5, overrides={"epochs": 1})
    metadata = read_checkpoint(Path("tuned/last.pt")).metadata
    assert metadata is not None
    assert metadata.command is not None
    assert " --refit --l2 0.25 --diversity 0.5 " in metadata.command


ONE_STEP: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "epochs": None,
    "iterations": 1,
    "batch_size": 48,
    "augment": "none",
    "val_split": 0.0,
}


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_a_step_is_that_of_the_loss_written_out(inputs: Inputs, beta: float) -> None:
    index_set = rows_of()
    request = Request(inputs, ONE_STEP, folder=Path("tuned"))
    finetune(request, FinetuneSettings(indices=index_set, only="backbone", diversity=beta))
    study = Study(inputs, ("train",))
    network = study.classifier.load((8, 8))
    module, head = copy.deepcopy(network.module), network.tensors
    with_decomposed_head(module, network.head, decomposed_head(head, index_set))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (study.preprocessing.mean, study.preprocessing.std))
    images = torch.cat([part for part, _ in study.dataset.batches(study.preprocessing, 48, 0)]).float() / 255
    kept: list[Tensor] = []
    module.get_submodule("layer3").register_forward_hook(lambda _, __, output: kept.append(output))
    module.train()
    logits = module((images - mean) / std)
    (maps,) = kept
    loss = torch.nn.functional.cross_entropy(logits, study.labels)
    for image, c in enumerate(logits.argmax(1).tolist()):
        weight = torch.zeros(64)
        weight[list(index_set.classes[c])] = head.weight[c, list(index_set.classes[c])].abs()
        features = maps[image].mean((1, 2))
        factors = features / features.max() * weight / weight.square().sum().sqrt()
        softened = maps[image].flatten(1).softmax(1) * factors[:, None]
        loss = loss - beta / 48 * softened.max(0).values.sum()
    loss.backward()
    state, moved = read_checkpoint(Path("tuned/last.pt")).state_dict, 0.0
    for name, parameter in module.named_parameters():
        step = 0 if parameter.grad is None or name.startswith("linear") else 0.1 * parameter.grad
        torch.testing.assert_close(state[name], (parameter - step).detach(), rtol=1e-4, atol=1e-6)
        moved = max(moved, float((state[name] - parameter.detach()).abs().max()))
    assert moved > 1e-4


@pytest.mark.usefixtures("user_networks")
def test_diversity_of_features_that_are_no_means_is_refused(inputs: Inputs) -> None:
    flattened = "def flattened():\n    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 3))\n"
    Path("tunednets.py").write_text(NETWORKS + flattened)
    own = dataclasses.replace(inputs, model="tunednets:flattened", weights=None)
    with pytest.raises(InputError, match=r"^diversity needs features that are means of maps over positions, and those"):
        tuned(own, indices=rows_of(2, 72), diversity=0.2)
    assert not Path("tuned").exists()


def test_the_table_names_the_head_that_training_began_with(inputs: Inputs) -> None:
    network = ["-w", str(inputs.weights), "--dataset", str(inputs.dataset), "--input-size", "8", "-j", "0"]
    words = ["-k", "2", "--method", "weight", "--refit", "--epochs", "1", "--val-split", "0", "--device", "cpu"]
    said = run("finetune", *network, *words, "-o", "tuned").output
    results = json.loads(Path("tuned/result.json").read_text())["results"]
    for row, name in (("decomposed, weights of the full head", "cut"), ("decomposed, before, refitted", "before")):
        assert row_of(said, row)[2] == f"{results[name]['correct']} of 48"
    assert "Heads were fitted on 48 training images" in said


# ---------------------------------------------------------------------------------------------------------- bad input


BAD: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("k too large", {}, {"k": 999}, "999 is more than the 64 features"),
    ("no gates", {}, {"k": 3, "method": "csg"}, "needs class-specific gates"),
    ("both", {}, {"k": 3, "indices": rows_of()}, "nothing to rank"),
    ("index of no feature", {}, {"indices": IndexSet(((1,), (2,), (64,)))}, "64"),
    ("too few classes", {}, {"indices": IndexSet(((1,), (2,)))}, "2 classes"),
    ("head", {"inputs": {"head": "layer1"}}, {}, "layer1"),
    ("split", {"inputs": {"split": "test"}}, {}, "split has no effect"),
    ("nothing held out", {"overrides": {"val_split": 0.001}}, {}, "val_split 0.001"),
    ("size", {"inputs": {"input_size": "0"}}, {}, "input_size"),
]


@pytest.mark.parametrize(("given", "own", "fragment"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_cannot_be_used_leaves_no_folder(
    inputs: Inputs, given: dict[str, Any], own: dict[str, Any], fragment: str
) -> None:
    asked = dataclasses.replace(inputs, **given.get("inputs", {}))
    request = Request(asked, {**SHORT, **given.get("overrides", {})}, folder=Path("tuned"))
    with pytest.raises(InputError) as caught:
        finetune(request, FinetuneSettings(**own))
    assert fragment in caught.value.message
    assert not Path("tuned").exists()


def test_without_training_images_there_is_nothing_to_learn(inputs: Inputs, tmp_path: Path) -> None:
    only_test = dataclasses.replace(inputs, dataset=coloured(tmp_path / "only", CLASSES, 2, ("test",)))
    with pytest.raises(InputError, match="training images") as caught:
        tuned(only_test, indices=rows_of())
    assert "Features are ranked" not in caught.value.message, "with indices nothing is ranked"
    assert not Path("tuned").exists()


def test_without_test_images_the_sentence_says_so(inputs: Inputs, tmp_path: Path) -> None:
    only_train = dataclasses.replace(inputs, dataset=coloured(tmp_path / "only", CLASSES, 2, ("train",)))
    with pytest.raises(InputError, match="has no split test or val"):
        tuned(only_train)
    assert not Path("tuned").exists()


def test_everything_is_measured_with_as_many_images_as_a_step_takes(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def spied(device: torch.device, images: LabelledImages, size: int, workers: int) -> Iterator[Tensor]:
        sizes.append(size)
        return batches_on(device, images, size, workers)

    monkeypatch.setattr(evaluate, "batches_on", spied)
    tuned(inputs, overrides={"epochs": 1, "batch_size": 7})
    assert len(sizes) >= 3, "before, during and after"
    assert set(sizes) == {7}


# ------------------------------------------------------------------------------------------- full head, trained too


def test_the_full_head_is_trained_by_the_same_schedule(inputs: Inputs) -> None:
    own = {"k": 3, "full_head_control": True, "predictions": True}
    found, alone = tuned(inputs, **own), tuned(inputs, "alone")
    assert (found.before, found.after) == (alone.before, alone.after), "nothing of the decomposed network changes"
    control = found.control
    assert alone.control is None
    assert control is not None
    assert found.original is not None
    assert [record.epoch for record in control.epochs] == [record.epoch for record in found.epochs]
    assert control.gain.points == pytest.approx(control.score.top1 - found.original.top1)
    assert control.versus.points == pytest.approx(found.after.top1 - control.score.top1)
    again = validated(inputs, control.checkpoints["last"]).original
    assert again.correct == control.score.correct
    assert again.correct == sum(row["full_trained_margin"] > 0 for row in found.predictions.rows())
    assert set(found.predictions.heads) == {"full", "before", "full_trained", "after"}
    assert [row["head"] for row in found.tables()["heads"]] == ["full", "before", "after", "full, trained"]
    assert len(found.tables()["differences"]) == 3


def test_it_is_the_training_of_the_network_that_was_not_decomposed(inputs: Inputs, start: Path) -> None:
    """All features of all classes are the full head, whose training ends at the same weights but for rounding."""
    found = tuned(inputs, k=64, full_head_control=True)
    assert found.control is not None
    assert abs(found.control.versus.points) <= 100 / found.after.images
    assert found.control.epochs[-1].train.loss == pytest.approx(found.epochs[-1].train.loss, rel=1e-3)


def test_with_a_part_of_the_network_held(inputs: Inputs) -> None:
    found = tuned(inputs, k=3, only="head", full_head_control=True)
    assert found.control is not None
    before, after = (
        read_checkpoint(Path(str(name))).state_dict for name in (inputs.weights, "tuned/full-head/last.pt")
    )
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".")[0] for name in changed} == {"linear"}


def test_a_control_that_was_stopped_goes_on(inputs: Inputs, power_cut: PowerCut) -> None:
    whole = tuned(inputs, "whole", k=3, full_head_control=True)
    with power_cut("last.pt", SHORT["epochs"] + 1):
        tuned(inputs, "tuned", k=3, full_head_control=True)
    done = finetune(Request(Inputs(workers=0, device="cpu"), resume=Path("tuned"))).results
    assert without_clock(done.model_dump()) == without_clock(whole.model_dump())


def test_several_seeds_have_their_controls(inputs: Inputs) -> None:
    own = FinetuneSettings(k=3, full_head_control=True, predictions=True)
    found = finetune(Request(inputs, {**SHORT, "epochs": 1}, folder=Path("tuned"), runs=2), own).results
    assert [one.what for one in found.summary][1] == "test top1 of the full head, trained too"
    assert {"after_seed0", "after_seed1", "full_trained_seed1"} <= set(found.predictions.heads)


def test_without_a_full_head_there_is_none_to_train(inputs: Inputs, start: Path) -> None:
    tuned(inputs)
    decomposed = dataclasses.replace(inputs, weights="tuned/last.pt")
    with pytest.raises(InputError, match="full_head_control needs the full head"):
        finetune(Request(decomposed, SHORT, folder=Path("again")), FinetuneSettings(full_head_control=True))
    assert not Path("again").exists()
