"""``train``: what it measures, keeps and goes on with."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.pictures import legend_of, points
from helpers.power_cut import PowerCut, watched
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from decompose_cli.datasets.folders import FolderImages
from decompose_cli.datasets.training_images import TrainingImages
from decompose_cli.engines.train import TrainResults, train
from decompose_cli.engines.validate import validate
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.features import inputs as seen_inputs
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.storage.result_document import ResultDocument
from decompose_cli.training.config import FROM_INPUTS, shown_command
from decompose_cli.training.outcome import RepeatedResults, RunResults, spread
from decompose_cli.training.run_folder import read_state
from decompose_cli.training.session import Request

CLASSES = ["a", "b", "c"]
SEEN = Inputs(model="resnet8", input_size="8", workers=0, device="cpu")
SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 0.05, "val_split": 0.25}


@pytest.fixture
def images(make_images: Callable[..., Path]) -> str:
    """36 training images and 24 for testing."""
    root = make_images(Path("images"), CLASSES, ("train",), n=12, side=8)
    return f"folder:{make_images(root, CLASSES, ('test',), n=8, side=8)}"


def request_of(images: str, folder: str = "run", overrides: dict[str, Any] | None = None, **more: Any) -> Request:
    inputs = dataclasses.replace(more.pop("inputs", SEEN), dataset=images)
    return Request(inputs, {**SMALL, **(overrides or {})}, folder=Path(folder), **more)


def trained(images: str, folder: str = "run", overrides: dict[str, Any] | None = None, **more: Any) -> RunResults:
    recipe, options = more.pop("recipe", None), more.pop("model_options", None)
    results = train(request_of(images, folder, overrides, **more), recipe=recipe, model_options=options).results
    assert isinstance(results, RunResults)
    return results


def validated(weights: str, images: str, model: str | None = None) -> Any:
    inputs = Inputs(model=model, weights=weights, dataset=images, input_size="8", workers=0, use_cache=False)
    return validate(inputs).results


# ---------------------------------------------------------------------------------------------------- what is written


def test_a_run_folder_holds_all_that_the_run_was(images: str) -> None:
    document = train(request_of(images))
    names = sorted(path.name for path in Path("run").iterdir())
    assert names == ["best.pt", "config.json", "curve.png", "last.pt", "log.csv", "result.json", "tensorboard"]
    written = json.loads(Path("run/result.json").read_text())
    assert written == json.loads(document.to_json())
    assert ResultDocument[TrainResults].model_validate(written).results == document.results
    assert (written["schema_version"], written["command"]) == (1, "train")
    assert written["model"]["name"] == "resnet8"
    assert (written["model"]["num_features"], written["model"]["head"]) == (64, "linear")
    assert written["dataset"]["images"] == 36
    assert written["dataset"]["classes"] == CLASSES
    assert written["dataset"]["crop"] == [8, 8]
    assert written["arguments"]["recipe"] == "cifar-resnet"
    assert written["arguments"]["settings"]["lr"] == 0.05
    assert written["environment"]["seed"] == 0
    config = json.loads(Path("run/config.json").read_text())
    assert written["arguments"] == config
    results = document.results
    assert results.checkpoints == {"last": "run/last.pt", "best": "run/best.pt"}


def test_logs_hold_the_records_of_the_result(images: str, figures: list[Figure]) -> None:
    results = trained(images)
    loss, top1, rate = figures[0].axes
    assert loss.get_title() == "resnet8 on folder:images, seed 0"
    for axes, value in ((loss, "loss"), (top1, "top1")):
        lines = dict(zip(legend_of(axes), axes.get_lines(), strict=True))
        assert list(lines) == ["training images", "held-out images"]
        for line, split in zip(lines.values(), ("train", "val"), strict=True):
            expected = [(record.epoch, getattr(getattr(record, split), value)) for record in results.epochs]
            assert points(line) == expected
    assert points(rate.get_lines()[0]) == [(record.epoch, record.lr) for record in results.epochs]
    rows = list(csv.DictReader(Path("run/log.csv").read_text().splitlines()))
    assert [{name: str(value) for name, value in record.flat().items()} for record in results.epochs] == rows
    board = EventAccumulator("run/tensorboard")
    board.Reload()
    for name in ("train/loss", "train/top1", "val/loss", "val/top1"):
        split, value = name.split("/")
        expected = [getattr(getattr(record, split), value) for record in results.epochs]
        assert [event.value for event in board.Scalars(name)] == pytest.approx(expected, rel=1e-6)
    assert [event.step for event in board.Scalars("lr")] == [record.steps for record in results.epochs] == [4, 8]


@pytest.mark.parametrize(
    ("share", "final_test", "in_epochs", "in_the_end"),
    [
        (0.0, False, {"test"}, {"test"}),
        (0.0, True, {"test"}, {"test"}),
        (0.25, False, {"val"}, {"val"}),
        (0.25, True, {"val"}, {"val", "test"}),
    ],
)
def test_which_images_are_measured_when(
    images: str, share: float, final_test: bool, in_epochs: set[str], in_the_end: set[str]
) -> None:
    results = trained(images, overrides={"val_split": share}, final_test=final_test)

    def measured(found: Any) -> set[str]:
        return {split for split in ("val", "test") if getattr(found, split) is not None}

    assert [measured(record) for record in results.epochs] == [in_epochs] * 2
    assert measured(results.last) == in_the_end
    assert (results.best is not None) == (share > 0)
    if results.best is not None:
        assert measured(results.best) == in_the_end
    for found in (results.last, *results.epochs):
        for split, name, count in (("val", "held-out", 9), ("test", "test", 24)):
            score = getattr(found, split)
            assert score is None or (score.split, score.images) == (name, count)
    assert [record.train.images for record in results.epochs] == [36 - round(36 * share)] * 2


def test_checkpoints_validate_to_what_was_recorded(images: str) -> None:
    results = trained(images, overrides={"epochs": 3, "lr": 0.3}, final_test=True)
    assert results.best is not None
    for name, measured in (("last", results.last), ("best", results.best)):
        found = validated(f"run/{name}.pt", images).original
        assert measured.test is not None
        assert (found.correct, found.loss) == (measured.test.correct, pytest.approx(measured.test.loss, rel=1e-5))
    assert read_checkpoint(Path("run/last.pt")).metadata is not None


def test_a_checkpoint_says_what_it_is(images: str) -> None:
    trained(images)
    metadata = read_checkpoint(Path("run/best.pt")).metadata
    assert metadata is not None
    assert (metadata.model, metadata.num_classes, metadata.class_names) == ("resnet8", 3, CLASSES)
    assert metadata.dataset == images
    assert metadata.mean is not None
    assert metadata.command is not None
    assert metadata.command.startswith(f"decompose train resnet8 --dataset {images} --input-size 8 --recipe")
    assert "--set lr=0.05" in metadata.command


def test_the_command_in_a_checkpoint_makes_the_same_network(images: str) -> None:
    """Run again as it stands, it gives the same weights."""
    import shlex

    from typer.testing import CliRunner

    from decompose_cli.cli.app import app

    trained(images, overrides={"milestones": (1,), "lr": 0.2}, model_options={"shortcut": "projection"})
    first = read_checkpoint(Path("run/last.pt"))
    assert first.metadata is not None
    assert first.metadata.command is not None
    words = shlex.split(first.metadata.command)[1:]
    done = CliRunner().invoke(app, [*words, "-o", "again", "-q", "-j", "0"])
    assert done.exit_code == 0, done.stderr
    second = read_checkpoint(Path("again/last.pt"))
    assert first.state_dict.keys() == second.state_dict.keys()
    assert all(torch.equal(value, second.state_dict[name]) for name, value in first.state_dict.items())


def test_projection_shortcuts_are_remembered_by_the_checkpoint(images: str) -> None:
    results = trained(images, model_options={"shortcut": "projection"}, overrides={"val_split": 0.0})
    state = read_checkpoint(Path("run/last.pt"))
    assert "layer2.0.downsample.0.weight" in state.state_dict
    assert "fc.weight" in state.state_dict
    assert results.last.test is not None
    assert validated("run/last.pt", images).original.correct == results.last.test.correct


def test_safetensors_are_the_best_weights_and_need_no_model_name(images: str) -> None:
    results = trained(images, overrides={"epochs": 3, "lr": 0.3}, export=["safetensors"], final_test=True)
    assert results.best is not None
    assert results.best.test is not None
    assert results.checkpoints["safetensors"] == "run/model.safetensors"
    exported, best = (read_checkpoint(Path("run") / name) for name in ("model.safetensors", "best.pt"))
    assert all(torch.equal(value, best.state_dict[name]) for name, value in exported.state_dict.items())
    assert validated("run/model.safetensors", images).original.correct == results.best.test.correct


def test_kinds_of_export_are_looked_at_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decompose_cli.training.session.start", lambda *_: pytest.fail("the devices were opened"))
    with pytest.raises(InputError, match=r"^export 'pdf' is unknown"):
        trained("folder:nowhere", export=["onnx", "pdf"])


def test_what_cannot_be_exported_is_known_before_training(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: Any, **__: Any) -> None:
        raise DecomposeError("The network cannot be exported.")

    monkeypatch.setattr("decompose_cli.training.session.export_network", cannot)
    with pytest.raises(DecomposeError, match="cannot be exported"):
        trained(images, export=["safetensors"])
    assert not Path("run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_programs_agree_with_the_network(images: str, kind: Any) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    results = trained(images, export=[kind])
    assert results.export_errors[kind] <= 1e-4
    assert Path(results.checkpoints[kind]).is_file()


def test_initial_weights_are_a_function_of_the_seed(images: str) -> None:
    ends = []
    for folder, seed in (("x", 0), ("y", 0), ("z", 1)):
        trained(images, folder, {"seed": seed, "epochs": 1})
        ends.append(read_checkpoint(Path(folder) / "last.pt").state_dict["linear.weight"])
        torch.rand(3)  # nothing global may have a part in it
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_training_goes_on_from_given_weights(images: str) -> None:
    trained(images, "first", {"lr": 0.3})
    again = trained(
        images,
        "second",
        {"lr": 1e-9, "epochs": 1, "weight_decay": 0.0},
        inputs=dataclasses.replace(SEEN, weights="first/last.pt"),
    )
    first, second = (read_checkpoint(Path(name) / "last.pt").state_dict for name in ("first", "second"))
    assert torch.allclose(first["linear.weight"], second["linear.weight"], atol=1e-6)
    assert again.epochs[0].lr == 1e-9


# ------------------------------------------------------------------------------------------------------------ several


def test_seeds_one_after_the_other(images: str) -> None:
    document = train(request_of(images, runs=3, final_test=True))
    results = document.results
    assert isinstance(results, RepeatedResults)
    assert [run.seed for run in results.runs] == [0, 1, 2]
    assert sorted(path.name for path in Path("run").iterdir()) == [
        "config.json",
        "result.json",
        "seed-0",
        "seed-1",
        "seed-2",
    ]
    alone = trained(images, "alone", {"seed": 1}, final_test=True)
    assert without_clock(alone) == without_clock(results.runs[1])
    assert [found.what for found in results.summary] == [
        "last held-out top1",
        "last test top1",
        "best held-out top1",
        "best test top1",
    ]
    for found in results.summary:
        assert (found.median, found.mean) == (statistics.median(found.values), pytest.approx(sum(found.values) / 3))
        assert (found.min, found.max) == (min(found.values), max(found.values))
        assert found.std == pytest.approx(statistics.stdev(found.values))
    assert [run.last.test.top1 for run in results.runs if run.last.test] == results.summary[1].values


def without_clock(value: Any) -> Any:
    if isinstance(value, RunResults):
        value = {name: item for name, item in value.model_dump().items() if name != "checkpoints"}
    if isinstance(value, dict):
        return {
            k: without_clock(v) for k, v in value.items() if k not in ("seconds", "images_per_second", "checkpoints")
        }
    return [without_clock(item) for item in value] if isinstance(value, list) else value


def test_several_seeds_stopped_anywhere_and_resumed_are_those_of_a_run_that_was_not(
    images: str, power_cut: PowerCut
) -> None:
    whole = train(request_of(images, "whole", runs=2)).results
    for after, moment in enumerate((("last.pt", 1), ("last.pt", 2), ("result.json", 1), ("last.pt", 3))):
        folder = f"run{after}"
        with power_cut(*moment):
            train(request_of(images, folder, runs=2))
        assert not Path(folder, "result.json").exists()
        done = train(Request(dataclasses.replace(SEEN, model=None, input_size=None), resume=Path(folder))).results
        assert [without_clock(run) for run in done.runs] == [without_clock(run) for run in whole.runs], moment
        assert done.summary == whole.summary


def test_several_seeds_in_a_folder_that_was_moved(images: str, power_cut: PowerCut) -> None:
    with power_cut("last.pt", 3):
        train(request_of(images, runs=2))
    Path("run").rename("moved")
    done = resumed("moved/seed-1")
    assert [run.checkpoints["last"] for run in done.runs] == ["moved/seed-0/last.pt", "moved/seed-1/last.pt"]
    assert Path("moved/result.json").is_file()


def test_seeds_that_were_overwritten_are_trained_anew(images: str) -> None:
    train(request_of(images, runs=2))
    again = train(request_of(images, overrides={"lr": 0.001}, runs=2, overwrite=True)).results
    assert [run.epochs[0].lr for run in again.runs] == [0.001, 0.001]


def test_spread() -> None:
    found = spread("x", [3.0, 1.0, 2.0, 6.0])
    assert (found.median, found.min, found.max, found.mean) == (2.5, 1.0, 6.0, 3.0)
    assert found.std == pytest.approx((14 / 3) ** 0.5)


# ------------------------------------------------------------------------------------------------------------- resume


def resumed(
    folder: str = "run", overrides: dict[str, Any] | None = None, inputs: Inputs | None = None, **more: Any
) -> Any:
    plain = Inputs(workers=0, device="cpu")
    options = {name: more.pop(name) for name in ("recipe", "model_options") if name in more}
    return train(Request(inputs or plain, overrides or {}, resume=Path(folder), **more), **options).results


@pytest.fixture
def stopped(images: str, power_cut: PowerCut) -> str:
    """A run after one of two epochs."""
    with power_cut("last.pt"):
        train(request_of(images))
    Path("run/.lock").unlink()  # of the process that is gone
    return images


def test_a_resumed_run_needs_to_be_told_nothing_and_ends_as_one_without_a_stop(stopped: str) -> None:
    done = resumed()
    assert without_clock(done) == without_clock(trained(stopped, "whole"))
    first, second = (read_checkpoint(Path(name) / "last.pt").state_dict for name in ("run", "whole"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_what_is_said_again_as_it_was_is_no_change(stopped: str) -> None:
    inputs = Inputs(model="resnet8", dataset=stopped, input_size="8", workers=0, device="cpu")
    resumed(
        overrides={**SMALL, "seed": 0, "milestones": (100, 150)},
        inputs=inputs,
        recipe="cifar-resnet",
        model_options={"shortcut": "identity"},
        runs=1,
    )
    assert Path("run/result.json").is_file()


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"overrides": {"lr": 0.2}}, "lr 0.05, now 0.2"),
    ({"overrides": {"epochs": 3}}, "epochs 2, now 3"),
    ({"overrides": {"seed": 1, "lr": 0.2}}, "seed 0, now 1; lr 0.05, now 0.2"),
    ({"inputs": Inputs(model="resnet20")}, "model resnet8, now resnet20"),
    ({"inputs": Inputs(dataset="digits")}, "dataset folder:images, now digits"),
    ({"inputs": Inputs(weights="run/last.pt")}, "weights None, now run/last.pt"),
    ({"inputs": Inputs(input_size="9")}, "input-size 8, now 9"),
    ({"recipe": "he2015"}, "recipe cifar-resnet, now he2015"),
    ({"runs": 2}, "runs 1, now 2"),
    ({"model_options": {"shortcut": "projection"}}, "projection"),
]


def files_of(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_changed_configuration_is_named_and_refused(stopped: str) -> None:
    before = files_of("run")
    for given, fragment in CHANGES:
        with pytest.raises(InputError, match="was begun otherwise") as caught:
            resumed(**given)
        assert fragment in caught.value.message
        assert files_of("run") == before, fragment


def test_changed_starting_weights_are_noticed(images: str, power_cut: PowerCut) -> None:
    trained(images, "first")
    inputs = dataclasses.replace(SEEN, weights="first/last.pt")
    with power_cut("last.pt"):
        train(request_of(images, inputs=inputs))
    trained(images, "first", {"seed": 1}, overwrite=True)
    with pytest.raises(InputError, match="The starting weights are not what they were"):
        resumed()


def test_how_often_to_save_is_remembered(images: str, power_cut: PowerCut) -> None:
    with power_cut("last.pt", 2):
        train(request_of(images, checkpoint_every=3))
    with saved_steps() as saved:
        resumed()
    assert saved == [7, 8]


@contextmanager
def saved_steps() -> Iterator[list[int]]:
    """At which steps ``last.pt`` is written in this block."""
    saved: list[int] = []
    with watched("last.pt", lambda path: saved.append(read_state(path)["global_step"])):
        yield saved


def test_changed_training_images_are_noticed(stopped: str) -> None:
    Image.new("RGB", (8, 8), "red").save("images/train/a/000.png")
    with pytest.raises(
        InputError, match=r"The training images, or .* are not what they were when the run in run began"
    ):
        resumed()


def test_a_run_that_an_earlier_version_began_goes_on(power_cut: PowerCut, make_images: Any) -> None:
    """It knew streamed images by the place of their files; where they lie there still, they are the same."""
    images = f"folder:{make_images(Path('images'), ['a', 'b'], n=2, side=70)}"
    with power_cut("last.pt"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderImages, "fingerprint", lambda dataset: dataset._by_place)
        train(request_of(images))
    Path("images").rename("moved")
    Path("images").symlink_to("moved")
    with pytest.raises(InputError, match="training images, or the order of their classes, are not what they were"):
        resumed()
    Path("images").unlink()
    Path("moved").rename("images")
    assert len(resumed().epochs) == 2


def test_class_folders_that_were_numbered_otherwise_are_spoken_of(power_cut: PowerCut, make_images: Any) -> None:
    """Folders 0 to 10 were once in the order of text, and so in the labels of a run that was begun then."""
    images = f"folder:{make_images(Path('images'), list(map(str, range(11))), ('train',), n=2, side=8)}"
    with power_cut("last.pt"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("decompose_cli.datasets.folders.class_folders", lambda *_: sorted(map(str, range(11))))
        train(request_of(images, overrides={"val_split": 0.5}))
    with pytest.raises(InputError, match="or the order of their classes, are not what they were") as refusal:
        resumed()
    assert refusal.value.hint == (
        "Put the images back. If they never changed, an earlier version began this run and read them differently: "
        "resume with that version, or start a new run with output."
    )


def test_a_resumed_run_finds_its_images_where_they_were(
    images: str, power_cut: PowerCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where data sets are kept is part of what was asked for."""
    inputs = dataclasses.replace(SEEN, data_dir=Path("elsewhere"))
    with power_cut("last.pt"):
        train(request_of(images, inputs=inputs))
    asked: list[Any] = []
    opened = seen_inputs.open_dataset

    def spied(name: str, split: str, folder: Path, **more: Any) -> Any:
        asked.append(folder)
        return opened(name, split, folder, **more)

    monkeypatch.setattr(seen_inputs, "open_dataset", spied)
    resumed()
    assert set(asked) == {Path("elsewhere")}


def test_a_finished_run_is_not_gone_on_with(images: str) -> None:
    trained(images)
    with pytest.raises(InputError, match="is finished"):
        resumed()


def test_a_run_folder_and_a_resumed_one_are_not_given_together(stopped: str) -> None:
    with pytest.raises(InputError, match="output and resume"):
        train(Request(Inputs(), folder=Path("x"), resume=Path("run")))
    assert not Path("x").exists()


NETWORKS = """
from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 3))


def headless():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Softplus())


def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))


def large():
    return nn.Sequential(nn.Conv2d(3, 4, 9), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def pixel():
    return nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def strange():
    class Strange(nn.Module):
        def forward(self, x):
            return {"logits": self.scale * x}

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(nn.Linear(1, 1).weight.detach()[0, 0])

    return Strange()
"""


@pytest.fixture
def user_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    Path("mynets.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.delitem(sys.modules, "mynets", raising=False)


# ----------------------------------------------------------------------------------------------- bad input, late


BAD: list[tuple[str, dict[str, Any], str]] = [
    # found only when the images or the network are looked at
    ("nothing held out", {"overrides": {"val_split": 0.001}}, "val_split 0.001"),
    ("all held out", {"overrides": {"val_split": 0.99}}, "[Hh]olding out|val_split"),
    (
        "one image alone",
        {"inputs": Inputs(model="mynets:pixel", input_size="8", workers=0), "overrides": {"batch_size": 26}},
        "single image",
    ),
    ("no full batch", {"overrides": {"batch_size": 99, "drop_last": True}}, "batch_size 99"),
    ("small images", {"inputs": Inputs(model="mynets:large", input_size="8", workers=0)}, "8x8 pixels"),
]


@pytest.mark.usefixtures("user_networks")
def test_what_cannot_be_used_leaves_no_folder_and_a_run_that_was_to_be_overwritten(images: str) -> None:
    for what, more, fragment in BAD:
        with pytest.raises(InputError, match=fragment):
            train(request_of(images, **more))
        assert not Path("run").exists(), what
    trained(images)
    before = files_of("run")
    for what, more, fragment in BAD:
        with pytest.raises(InputError, match=fragment):
            train(request_of(images, overwrite=True, **more))
        assert files_of("run") == before, what


def test_a_run_that_fails_before_its_first_checkpoint_leaves_the_folder_free(images: str) -> None:
    with pytest.raises(DecomposeError, match="nothing was saved yet"):
        trained(images, overrides={"lr": 1e30})
    assert not Path("run").exists()
    trained(images)


def test_so_does_one_that_fails_unforeseen(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("an assertion inside a library")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingImages, "batches", broken)
        with pytest.raises(RuntimeError, match="inside a library"):
            train(request_of(images))
    assert not Path("run").exists()


def test_a_rate_that_is_far_too_high_says_where_it_failed(images: str) -> None:
    settings = {"schedule": "steps", "milestones": (1,), "gamma": 1e30}
    with pytest.raises(DecomposeError, match=r"epoch 2, step 2, at a learning rate of 5e\+28; the last checkpoint"):
        trained(images, overrides=settings)
    state = read_checkpoint(Path("run/last.pt")).state_dict
    assert all(bool(torch.isfinite(value.float()).all()) for value in state.values())
    assert not Path("run/result.json").exists()


# ------------------------------------------------------------------------------------------------------------ others


@pytest.mark.usefixtures("user_networks")
def test_a_network_of_the_users_is_trained(images: str) -> None:
    inputs = dataclasses.replace(SEEN, model="mynets:net")
    results = trained(images, overrides={"val_split": 0.0}, inputs=inputs)
    assert results.last.test is not None
    assert validated("run/last.pt", images, "mynets:net").original.correct == results.last.test.correct


@pytest.mark.usefixtures("user_networks")
def test_a_network_without_a_head_to_decompose_can_be_trained(images: str) -> None:
    document = train(request_of(images, inputs=dataclasses.replace(SEEN, model="mynets:headless")))
    assert document.model is not None
    assert (document.model.num_features, document.model.head) == (0, "")


@pytest.mark.usefixtures("user_networks")
@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("narrow", r"output of shape \(2, 2\).* has 3 classes"),
        ("strange", r"output of shape \(2, 3, 8, 8\).* has 3 classes"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(images: str, name: str, fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        train(request_of(images, inputs=dataclasses.replace(SEEN, model=f"mynets:{name}")))
    assert not Path("run").exists()


def test_without_test_images_nothing_is_missing(make_images: Callable[..., Path]) -> None:
    alone = f"folder:{make_images(Path('alone'), CLASSES, ('train',), n=4, side=8)}"
    results = trained(alone, overrides={"val_split": 0.0}, final_test=True)
    assert (results.last.val, results.last.test, results.best) == (None, None, None)


def test_a_label_is_the_class_of_that_name_in_the_test_split(make_images: Callable[..., Path]) -> None:
    """The test split has two of three classes, so their numbers there are others."""
    make_images(Path("set"), ["a", "b", "c"], ("train",), n=6, side=8)
    make_images(Path("set"), ["b", "c"], ("test",), n=6, side=8)
    for split in ("train", "test"):
        for name, colour in (("a", "red"), ("b", "lime"), ("c", "blue")):
            for path in Path("set", split, name).glob("*.png"):
                Image.new("RGB", (8, 8), colour).save(path)
    results = trained("folder:set", overrides={"val_split": 0.0, "epochs": 15, "batch_size": 9})
    assert results.last.test is not None
    assert (results.last.test.correct, results.last.test.images) == (12, 12)


def test_the_announcement_says_recipe_and_images(images: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="decompose_cli"):
        trained(images)
    assert any(
        "Recipe cifar-resnet (akamaster/pytorch_resnet_cifar10): sgd, lr 0.05" in text for text in caplog.messages
    )
    assert any(
        "resnet8 on folder:images: 36 training images, a share of 0.25 held out" in text for text in caplog.messages
    )


def test_the_shown_command_quotes_what_a_shell_would_take_apart() -> None:
    config = {
        "command": "train",
        "model": "resnet8",
        "dataset": "folder:my images",
        "overrides": {"milestones": [1, 2], "lr": 0.5, "seed": 9},
    }
    config |= {name: None for name in FROM_INPUTS if name not in config}
    assert shown_command(config, 3, {"recipe": "he2015", "block": None}) == (
        "decompose train resnet8 --dataset 'folder:my images' --recipe he2015 --seed 3"
        " --set milestones=1,2 --set lr=0.5"
    )


def test_checkpoint_every_saves_within_an_epoch(images: str) -> None:
    with saved_steps() as saved:
        trained(images, checkpoint_every=3)  # 27 images in batches of 8: four steps an epoch
    assert saved == [3, 4, 7, 8]
    with pytest.raises(InputError, match="checkpoint_every 0 is not at least 1"):
        trained(images, "other", checkpoint_every=0)
    with pytest.raises(InputError, match="runs 0 is not at least 1"):
        trained(images, "other", runs=0)
    assert not Path("other").exists()
