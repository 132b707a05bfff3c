"""``train-gate``: what it trains from, measures, keeps and goes on with."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pictures import legend_of, pixels, points
from helpers.power_cut import PowerCut
from matplotlib.figure import Figure
from torch import Tensor

from decompose_cli.decomposition.index_set import read_index_set
from decompose_cli.engines.extract_indices import ExtractSettings, extract_indices
from decompose_cli.engines.finetune import FinetuneSettings, finetune
from decompose_cli.engines.train import train
from decompose_cli.engines.train_gate import GateResults, evaluate_gates, train_gate
from decompose_cli.engines.validate import validate
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.models.gate_kinds import GATES
from decompose_cli.models.gated_resnet import from_plain
from decompose_cli.models.registry import get_entry
from decompose_cli.storage.result_document import ResultDocument
from decompose_cli.training import evaluate
from decompose_cli.training.evaluate import LabelledImages, batches_on
from decompose_cli.training.fit import Trainer
from decompose_cli.training.gating import report
from decompose_cli.training.gating.configuration import configure_gates, resolve_network
from decompose_cli.training.gating.settings import GateSettings
from decompose_cli.training.outcome import RepeatedResults
from decompose_cli.training.session import Request

CLASSES = ["a", "b", "c"]
SEEN = Inputs(model="resnet14", input_size="8", workers=0, device="cpu")
SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 0.05, "val_split": 0.25}
FILES = ["config.json", "curve.png", "g_distribution.png", "g_extremes.png", "g_values.csv", "last.pt", "log.csv"]


@pytest.fixture
def images(make_images: Callable[..., Path]) -> str:
    """36 training images and 24 for testing."""
    root = make_images(Path("images"), CLASSES, ("train",), n=12, side=8)
    return f"folder:{make_images(root, CLASSES, ('test',), n=8, side=8)}"


def trained(images: str, folder: str = "run", gate: str | None = None, **more: Any) -> ResultDocument[Any]:
    overrides = {**SMALL, **more.pop("overrides", {})}
    known = {name: more.pop(name) for name in list(more) if name in GateSettings.__dataclass_fields__}
    gates = GateSettings(gate=gate, **known, **more.pop("options", {}))
    inputs = dataclasses.replace(SEEN, dataset=images, **more.pop("inputs", {}))
    request = Request(inputs, overrides, folder=Path(folder) if "resume" not in more else None, **more)
    return train_gate(request, gates)


def results_of(document: ResultDocument[Any]) -> GateResults:
    assert isinstance(document.results, GateResults)
    return document.results


def rows_of(folder: str) -> list[dict[str, str]]:
    return list(csv.DictReader((Path(folder) / "g_values.csv").read_text().splitlines()))


OFTEN = ("entropy-classifier", "entropy-classifier-b3b2", "l2", "exclusive", "exclusive-tube-1x1")


@pytest.mark.parametrize(
    "gate", [gate if gate in OFTEN else pytest.param(gate, marks=pytest.mark.slow) for gate in GATES]
)
def test_every_gate_is_trained_measured_and_used_by_the_other_commands(images: str, gate: str) -> None:
    skips = {"skip_below": 0.4} if GATES[gate].level == "block" else {}
    document = trained(images, gate=gate, **skips)
    results = results_of(document)
    names = sorted(path.name for path in Path("run").iterdir())
    assert names == sorted([*FILES, "best.pt", "result.json", "tensorboard"])
    written = json.loads(Path("run/result.json").read_text())
    assert written == json.loads(document.to_json())
    assert ResultDocument[GateResults].model_validate(written).results == results
    assert (written["command"], written["model"]["head"], written["model"]["num_features"]) == ("train-gate", "fc", 64)
    assert written["model"]["options"]["gate"] == gate
    # The table, the report and 'validate' are three ways to the same figures, of the best weights.
    rows = rows_of("run")
    splits = {split.split: split for split in results.gates.splits}
    assert set(splits) == {"train", "held-out", "test"}
    for name, split in splits.items():
        own = [row for row in rows if row["split"] == name]
        assert len(own) == split.images == {"train": 27, "held-out": 9, "test": 24}[name]
        assert split.correct == sum(row["label"] == row["prediction"] for row in own)
        if not gate.endswith("b3b2"):
            assert split.g.g == pytest.approx(sum(float(row["g"]) for row in own) / len(own), rel=1e-4)
    assert results.best is not None
    assert results.best.test is not None
    assert splits["test"].correct == results.best.test.correct
    assert splits["held-out"].correct == results.best.val.correct  # type: ignore[union-attr]
    assert results.last.test is not None
    inputs = Inputs(weights="run/best.pt", dataset=images, input_size="8", workers=0, use_cache=False)
    found = validate(inputs).results
    assert found.original.correct == splits["test"].correct
    assert found.original.loss == pytest.approx(results.best.test.loss, rel=1e-4)
    assert (results.gates.skipping is not None) is bool(skips)
    evaluated = evaluate_gates(inputs, GateSettings(**skips), folder=None).results.gates
    assert evaluated.splits[0].correct == splits["test"].correct
    assert evaluated.splits[0].g.g == pytest.approx(splits["test"].g.g, rel=1e-5)
    if skips:
        assert evaluated.skipping is not None
        assert results.gates.skipping is not None
        assert evaluated.skipping.correct == results.gates.skipping.correct
        assert evaluated.skipping.full_correct == splits["test"].correct
    metadata = read_checkpoint(Path("run/best.pt")).metadata
    assert metadata is not None
    assert metadata.command is not None
    assert f"--gate {gate}" in metadata.command


@pytest.mark.painted
def test_pictures_show_the_gates_of_the_test_images(make_images: Callable[..., Path], figures: list[Figure]) -> None:
    """How the training went, how g is distributed, and of thirty images the 25 with the lowest and the highest g."""
    root = make_images(Path("images"), CLASSES, ("train",), n=8, side=8)
    images = f"folder:{make_images(root, CLASSES, ('test',), n=10, side=8)}"
    results = results_of(trained(images, gate="l2", overrides={"epochs": 1}))
    curve, distribution, both = figures
    rows = [row for row in rows_of("run") if row["split"] == "test"]
    (panel,) = distribution.axes
    counts = {"right": [], "wrong": []}
    for row in rows:
        counts["right" if row["label"] == row["prediction"] else "wrong"].append(float(row["g"]))
    expected = [
        f"{what} ({len(values)} images, mean g {sum(values) / len(values):.3f})"
        for what, values in counts.items()
        if values
    ]
    assert list(legend_of(panel)) == expected
    assert panel.get_title() == "resnet14 with gate l2 on folder:images, seed 0, test images"
    order = sorted(rows, key=lambda row: float(row["g"]))
    for half, shown in zip(both.subfigs, (order, order[::-1]), strict=True):
        for axes, row in zip(half.axes, shown, strict=False):
            assert np.array_equal(axes.images[0].get_array(), pixels(Path("images/test", row["file"])))
            g, label, *wrong = axes.get_title().split("\n")
            assert float(g) == pytest.approx(float(row["g"]), abs=6e-4)
            assert label == CLASSES[int(row["label"])]
            assert wrong == ([] if row["label"] == row["prediction"] else [f"as {CLASSES[int(row['prediction'])]}"])
    assert points(curve.axes[0].get_lines()[0]) == [(1, results.epochs[0].train.loss)]
    for name, figure in zip(("curve", "g_distribution", "g_extremes"), figures, strict=True):
        assert pixels(Path(f"run/{name}.png")).shape[:2] == (round(figure.bbox.height), round(figure.bbox.width))


def test_features_of_a_gated_network_can_be_ranked(images: str) -> None:
    trained(images, gate="entropy-classifier", overrides={"epochs": 1})
    inputs = Inputs(weights="run/last.pt", dataset=images, input_size="8", workers=0, use_cache=False)
    found = extract_indices(inputs, ExtractSettings(k=[5], method="weight"), folder=Path("indices"))
    written = read_index_set(next(Path("indices").glob("*_indices.json")))
    assert {len(row) for row in written.classes} == {5}
    assert found.model.num_features == 64


@pytest.mark.parametrize("gate", ["entropy-classifier", "softmax"])
def test_a_gated_network_is_decomposed_and_finetuned(images: str, gate: str) -> None:
    trained(images, gate=gate, overrides={"epochs": 1})
    inputs = dataclasses.replace(SEEN, model=None, weights="run/last.pt", dataset=images)
    request = Request(inputs, {"epochs": 1, "batch_size": 8, "lr": 0.01}, folder=Path("tuned"))
    found = finetune(request, FinetuneSettings(k=5, method="frequency")).results
    before, after = (read_checkpoint(Path(name, "last.pt")).state_dict for name in ("run", "tuned"))
    changed = {name for name, value in before.items() if name in after and name != "fc.weight" and value.ndim}
    changed = {name for name in changed if not torch.equal(before[name], after[name])}
    assert "o1.conv1.weight" in changed
    assert ("g_layer.0.weight" in changed) is (gate == "softmax"), "the classifier of a gate has a loss of its own"
    again = validate(
        Inputs(weights="tuned/last.pt", dataset=images, input_size="8", workers=0, use_cache=False)
    ).results
    assert again.decomposed.correct == found.after.correct
    with pytest.raises(InputError, match="This network has gates, which 'decompose train-gate' trains"):
        train(Request(inputs, SMALL, folder=Path("never")))
    assert not Path("never").exists()


def test_without_held_out_images_the_last_weights_are_measured(images: str) -> None:
    results = results_of(trained(images, overrides={"val_split": 0.0, "epochs": 1}))
    assert results.best is None
    assert [split.split for split in results.gates.splits] == ["train", "test"]
    assert results.last.test is not None
    assert results.gates.splits[1].correct == results.last.test.correct
    assert {row["split"] for row in rows_of("run")} == {"train", "test"}


def test_wrong_labels_are_listed_and_their_gates_compared(images: str) -> None:
    results = results_of(trained(images, label_noise=0.25, overrides={"epochs": 1}))
    changed = list(csv.DictReader(Path("run/label_noise.csv").read_text().splitlines()))
    assert len(changed) == round(0.25 * 27)
    assert all(row["label"] != row["original_label"] for row in changed)
    assert all(CLASSES[int(row["label"])] == row["label_name"] for row in changed)
    assert all(CLASSES[int(row["original_label"])] == row["original_label_name"] for row in changed)
    wrong = {
        row["image"]: row for row in rows_of("run") if row["split"] == "train" and row["label"] != row["original_label"]
    }
    assert set(wrong) == {row["image"] for row in changed}
    noise = results.gates.label_noise
    assert noise is not None
    assert noise.first.images == len(changed)
    assert noise.first.g == pytest.approx(sum(float(row["g"]) for row in wrong.values()) / len(wrong), rel=1e-4)
    # The network was told the wrong ones: with no noise it learns something else.
    other = results_of(trained(images, "clean", overrides={"epochs": 1}))
    assert other.epochs[0].train.loss != results.epochs[0].train.loss
    assert other.gates.label_noise is None
    assert not Path("clean/label_noise.csv").exists()


def test_a_baseline_is_where_the_backbone_begins(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = dataclasses.replace(SEEN, dataset=images)
    train(Request(inputs, {**SMALL, "epochs": 1}, folder=Path("plain")), model_options={"shortcut": "projection"})
    begun: list[dict[str, Any]] = []
    original = Trainer.run

    def seen(self: Trainer, table: Any) -> Any:
        begun.append({name: value.clone() for name, value in self.module.state_dict().items()})
        return original(self, table)

    monkeypatch.setattr(Trainer, "run", seen)
    document = trained(images, gate="softmax", baseline="plain/best.pt", overrides={"epochs": 1})
    config = json.loads(Path("run/config.json").read_text())
    assert (config["init"], config["baseline"]) == ("baseline", "plain/best.pt")
    assert config["baseline_weights"] == read_checkpoint(Path("plain/best.pt")).sha256
    torch.manual_seed(0)
    fresh = get_entry("resnet14").configured(gate="softmax").make(3, (8, 8))
    mapped = from_plain(read_checkpoint(Path("plain/best.pt")).state_dict, fresh)  # type: ignore[arg-type]
    for name, value in begun[0].items():
        assert torch.equal(value, mapped[name] if name in mapped else fresh.state_dict()[name]), name
    assert document.results.gates.splits


BASELINES: list[tuple[dict[str, str], str, str]] = [
    ({}, "resnet14", "has identity shortcuts, and gated networks have projections"),
    ({"shortcut": "projection"}, "resnet20", "is of resnet20, and the gated network is resnet14"),
    (
        {"shortcut": "projection", "norm_mode": "group"},
        "resnet14",
        "has group norm, and gated networks have batch norm",
    ),
    ({"gate": "entropy"}, "resnet14", "has gates already"),
]


@pytest.mark.parametrize(("options", "model", "sentence"), BASELINES)
@pytest.mark.parametrize("bare", [False, True])
def test_baselines_that_do_not_fit(images: str, options: dict[str, str], model: str, sentence: str, bare: bool) -> None:
    entry = get_entry(model).configured(**options)
    module = entry.make(3, (8, 8))
    if bare:
        torch.save(module.state_dict(), "plain.pt")
    else:
        from decompose_cli.models.checkpoint import METADATA_KEY, Metadata

        metadata = Metadata(model=model, num_classes=3, model_options=entry.chosen or None)
        torch.save({METADATA_KEY: metadata.model_dump_json(), "state_dict": module.state_dict()}, "plain.pt")
    if bare and "norm_mode" in options:
        sentence = "does not fit resnet14"  # nothing in the file says so
    if bare and model == "resnet20":
        sentence = "has a depth of 20, and the gated network of 14"
    with pytest.raises(InputError, match=sentence):
        trained(images, baseline="plain.pt")
    assert not Path("run").exists()


def test_a_baseline_of_other_classes(images: str) -> None:
    torch.save(get_entry("resnet14").configured(shortcut="projection").make(4, (8, 8)).state_dict(), "plain.pt")
    with pytest.raises(InputError, match="has 4 classes, and the images have 3"):
        trained(images, baseline="plain.pt")
    assert not Path("run").exists()


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        hidden = ("seconds", "images_per_second", "full_images_per_second", "started_at", "checkpoints", "model")
        return {k: without_clock(v) for k, v in value.items() if k not in hidden}
    return [without_clock(v) for v in value] if isinstance(value, list) else value


def test_a_run_that_was_stopped_goes_on_to_the_same_end(images: str, power_cut: PowerCut) -> None:
    given: dict[str, Any] = {"label_noise": 0.2, "gate_iters": 2, "skip_below": 0.5}
    whole = trained(images, "whole", **given)
    with power_cut("last.pt"):
        trained(images, **given)
    # All else is remembered, and what is given again has to be the same.
    with pytest.raises(InputError, match="was begun otherwise: gate-iters 2, now 3"):
        train_gate(Request(Inputs(device="cpu", workers=0), resume=Path("run")), GateSettings(gate_iters=3))
    with pytest.raises(InputError, match="was begun otherwise: gate entropy-classifier, now l2"):
        train_gate(Request(Inputs(device="cpu", workers=0), resume=Path("run")), GateSettings(gate="l2"))
    again = train_gate(Request(Inputs(device="cpu", workers=0), resume=Path("run")), GateSettings(gate_iters=2))
    assert without_clock(json.loads(again.to_json())["results"]) == without_clock(
        json.loads(whole.to_json())["results"]
    )
    assert Path("run/g_values.csv").read_text() == Path("whole/g_values.csv").read_text()
    assert Path("run/label_noise.csv").read_text() == Path("whole/label_noise.csv").read_text()


@pytest.mark.slow
def test_several_seeds_have_gates_each(images: str) -> None:
    document = trained(images, runs=2, overrides={"epochs": 1}, label_noise=0.2)
    results = document.results
    assert isinstance(results, RepeatedResults)
    assert [run.seed for run in results.runs] == [0, 1]
    noises = [Path(f"run/seed-{seed}/label_noise.csv").read_text() for seed in (0, 1)]
    assert noises[0] != noises[1]
    written = json.loads(Path("run/result.json").read_text())
    assert all(run["gates"]["splits"] for run in written["results"]["runs"])
    assert {spread["what"] for spread in written["results"]["summary"]} >= {"best test top1", "last test top1"}
    own = json.loads(Path("run/seed-1/result.json").read_text())
    assert own["results"]["gates"] == written["results"]["runs"][1]["gates"]


def test_training_goes_on_from_gated_weights(images: str) -> None:
    trained(images, gate="entropy", overrides={"epochs": 1})
    again = trained(images, "again", inputs={"weights": "run/last.pt"}, overrides={"epochs": 1})
    assert again.model.options["gate"] == "entropy"
    assert again.arguments["starting_weights"] == read_checkpoint(Path("run/last.pt")).sha256
    torch.save(get_entry("resnet14").configured(shortcut="projection").make(3, (8, 8)).state_dict(), "plain.pt")
    with pytest.raises(InputError, match=r"plain.pt has no gate"):
        trained(images, "never", inputs={"weights": "plain.pt"})
    config = json.loads(Path("again/config.json").read_text())
    assert config["init"] is None
    with pytest.raises(InputError, match="init and weights both say what to begin with; give one of them"):
        trained(images, "never", inputs={"weights": "run/last.pt"}, init="scratch")
    with pytest.raises(InputError, match="baseline and weights both say what to begin with"):
        trained(images, "never", inputs={"weights": "run/last.pt"}, baseline="plain.pt")


def test_other_refusals(images: str) -> None:
    for given, sentence in (
        ({"init": "baseline"}, "init baseline needs baseline"),
        ({"init": "scratch", "baseline": "x.pt"}, "init scratch does not go together with baseline"),
        ({"baseline": "random"}, "baseline random is no file or URL of weights"),
        ({"overrides": {"precision": "16"}}, "precision 16 needs a GPU"),
        ({"label_noise": 0.001}, "label_noise 0.001 of 27 training images is no image"),
        ({"inputs": {"model": "resnet50"}}, "resnet50 has no gate option; networks with it: "),
    ):
        with pytest.raises(InputError, match=sentence):
            trained(images, **given)  # type: ignore[arg-type]
        assert not Path("run").exists()


def test_model_and_depth_name_one_network() -> None:
    plain = Inputs()
    assert resolve_network(plain, 32).model == "resnet32"
    assert resolve_network(plain, 29).model == "resnet29"
    assert resolve_network(dataclasses.replace(plain, model="resnet20"), 20).model == "resnet20"
    assert resolve_network(plain, None).model is None
    assert resolve_network(dataclasses.replace(plain, dataset="cifar10"), None).model == "resnet110"
    assert resolve_network(dataclasses.replace(plain, weights="x.pt"), None).model is None
    with pytest.raises(InputError, match="resnet20 has a depth of 20, not 110"):
        resolve_network(dataclasses.replace(plain, model="resnet20"), 110)
    with pytest.raises(InputError, match="There is no gated network of depth 50: resnet50 is the one of torchvision"):
        resolve_network(plain, 50)
    with pytest.raises(InputError, match="There is no model 'resnet21'"):
        resolve_network(plain, 21)


@pytest.mark.parametrize(("model", "warms"), [("resnet110", True), ("resnet104", False)])
def test_deep_networks_warm_up_for_an_epoch_but_their_gates_do_not(images: str, model: str, warms: bool) -> None:
    from decompose_cli.training.gating.objective import classifier_settings

    inputs = dataclasses.replace(SEEN, model=model, dataset=images)
    _, settings, choices = configure_gates(inputs, {}, None, GateSettings(), lambda entry: None)
    assert (settings.lr, settings.epochs, settings.milestones, settings.val_split) == (0.1, 333, (133, 200), 0.1)
    assert choices["recipe"] == "soft-gates"
    assert (settings.warmup_epochs, settings.warmup_lr) == ((1, 0.01) if warms else (0, None))
    own = classifier_settings(settings, GateSettings.of_configuration(choices), 10)
    assert (own.lr, own.warmup_epochs, own.schedule) == (0.01, 0, "constant")


def test_gates_are_read_of_as_many_images_as_a_step_takes(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def spied(device: torch.device, images: LabelledImages, size: int, workers: int) -> Iterator[Tensor]:
        sizes.append(size)
        return batches_on(device, images, size, workers)

    for module in (evaluate, report):
        monkeypatch.setattr(module, "batches_on", spied)
    trained(images, overrides={"epochs": 1, "batch_size": 7})
    assert len(sizes) >= 3
    assert set(sizes) == {7}
