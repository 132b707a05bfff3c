"""Transfer learning: a network that was trained for some classes learns others."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command_line import content, refused, run
from PIL import Image
from torch import Tensor

from decompose_cli.engines.finetune import FinetuneSettings, finetune
from decompose_cli.engines.train import TrainResults, Transfer, train
from decompose_cli.engines.validate import validate
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.models.classifier import open_classifier
from decompose_cli.training.data import hold_out
from decompose_cli.training.finetune_results import FinetuneResults
from decompose_cli.training.session import Request

COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40), "white": (180, 180, 180)}
SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 0.01, "val_split": 0.25}


def coloured(root: Path, classes: list[str]) -> str:
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 8)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.normal(0, 110, (8, 8, 3)) + COLOURS[name]
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / split / name / f"{number:02d}.png")
    return f"folder:{root}"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network that knows two colours, ``two/last.pt``, and with images of four."""
    root = tmp_path_factory.mktemp("transfer")
    inputs = Inputs(
        model="resnet8",
        dataset=coloured(root / "two-images", ["green", "red"]),
        input_size="8",
        workers=0,
        device="cpu",
        use_cache=False,
    )
    train(Request(inputs, {**SHORT, "lr": 0.05, "val_split": 0.0}, folder=root / "two"))
    coloured(root / "images", list(COLOURS))
    return root


@pytest.fixture
def inputs(start: Path) -> Inputs:
    return Inputs(weights=str(start / "two/last.pt"), dataset=f"folder:{start / 'images'}", workers=0, device="cpu")


def trained(inputs: Inputs, transfer: Transfer, folder: str = "run", **overrides: Any) -> TrainResults:
    request = Request(inputs, {**SHORT, **overrides}, folder=Path(folder), final_test=True)
    results = train(request, transfer=transfer).results
    assert isinstance(results, TrainResults)
    return results


def tuned(
    inputs: Inputs, folder: str = "tuned", overrides: dict[str, Any] | None = None, **own: Any
) -> FinetuneResults:
    given = {**SHORT, "val_split": 0.0, **(overrides or {})}
    results = finetune(Request(inputs, given, folder=Path(folder)), FinetuneSettings(new_head=True, **own)).results
    assert isinstance(results, FinetuneResults)
    return results


def weights_of(file: str | Path) -> dict[str, Tensor]:
    return read_checkpoint(Path(file)).state_dict


def fitted_twin(features: Tensor, labels: Tensor, l2: float, weight: Tensor, bias: Tensor) -> float:
    """The largest part of the gradient, in float64, of the mean cross-entropy plus (l2 / 2) |W|^2 on features with mean
    zero and deviation one, at a head that is given for features as they are."""
    x = features.double()
    deviation = x.std(0, correction=0)
    varies = deviation > 0
    z = (x - x.mean(0))[:, varies] / deviation[varies]
    on_z = (weight.double()[:, varies] * deviation[varies]).requires_grad_()
    offset = (bias.double() + weight.double() @ x.mean(0)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(z @ on_z.T + offset, labels) + l2 / 2 * on_z.square().sum()
    gradients = torch.autograd.grad(loss, (on_z, offset))
    return max(float(gradient.abs().max()) for gradient in gradients)


# ------------------------------------------------------------------------------------------------------------- train


@pytest.mark.parametrize("only", [None, "head", "head+last-block", "backbone"])
def test_other_classes_are_learned_and_the_checkpoint_opens_by_itself(only: Any, inputs: Inputs) -> None:
    results = trained(inputs, Transfer(new_head=True, only=only))
    before, after = weights_of(inputs.weights or ""), weights_of("run/last.pt")
    same = {name for name, value in after.items() if name in before and torch.equal(value, before[name])}
    assert after["linear.weight"].shape == (4, 64)
    counters = {name for name in after if name.endswith("num_batches_tracked")}
    others = after.keys() - {"linear.weight", "linear.bias"}
    if only == "head":
        assert same == others
    elif only == "head+last-block":
        assert {name for name in same if name.startswith("layer3.0")} == set()
        assert others - {name for name in others if name.startswith("layer3.0")} <= same
    else:
        assert not same - counters
    found = validate(Inputs(weights="run/last.pt", dataset=inputs.dataset, workers=0, device="cpu")).results
    assert results.last.test is not None
    assert found.original.correct == results.last.test.correct
    assert [row.name for row in found.original.per_class] == list(COLOURS)
    metadata = read_checkpoint(Path("run/last.pt")).metadata
    assert metadata is not None
    assert metadata.class_names == list(COLOURS)
    assert metadata.command is not None
    assert "--new-head True" in metadata.command or "--new-head" in metadata.command
    assert (f"--only {only}" in metadata.command) == (only is not None)


def test_the_head_begins_as_the_seed_says_and_stays_with_the_backbone_alone(inputs: Inputs) -> None:
    trained(inputs, Transfer(new_head=True, only="backbone"), seed=3)
    torch.manual_seed(3)
    expected = torch.nn.Linear(64, 4)
    after = weights_of("run/last.pt")
    assert torch.equal(after["linear.weight"], expected.weight)
    assert torch.equal(after["linear.bias"], expected.bias)


def test_what_was_done_is_in_the_configuration(inputs: Inputs) -> None:
    trained(inputs, Transfer(new_head=True, only="head", refit=True, l2=0.01))
    config = content("run/config.json")
    assert {name: config[name] for name in ("new_head", "only", "refit", "l2", "recipe")} == {
        "new_head": True,
        "only": "head",
        "refit": True,
        "l2": 0.01,
        "recipe": "transfer",
    }
    trained(dataclasses.replace(inputs, weights=None, model="resnet8", input_size="8"), Transfer(), "plain")
    config = content("plain/config.json")
    assert (config["new_head"], config["only"], config["recipe"]) == (False, "all", "cifar-resnet")


@pytest.mark.parametrize("is_new", [True, False])
def test_a_fitted_head_is_the_minimum_on_the_images_that_are_not_held_out(
    is_new: bool, inputs: Inputs, start: Path
) -> None:
    if not is_new:
        inputs = dataclasses.replace(inputs, dataset=f"folder:{start / 'two-images'}")
    results = trained(inputs, Transfer(new_head=is_new, only="backbone", refit=True), lr=1e-12, epochs=1)
    count = 4 if is_new else 2
    assert results.refitting is not None
    assert results.refitting.fitted == count * 12
    assert results.refitting.chosen_on is not None
    after = weights_of("run/last.pt")
    head = after["linear.weight"], after["linear.bias"]
    study = Study(inputs, ("train",))
    features, labels = study._kept.bank.features, study.dataset.labels
    kept, _ = hold_out(labels, 0.25, 0)
    l2 = results.refitting.l2
    assert fitted_twin(features[kept], labels[kept], l2, *head) < 1e-5 < fitted_twin(features, labels, l2, *head)


def test_the_same_seed_gives_the_same_bytes(inputs: Inputs) -> None:
    for folder in ("one", "two"):
        trained(inputs, Transfer(new_head=True, refit=True), folder)
    one, two = weights_of("one/last.pt"), weights_of("two/last.pt")
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_several_seeds_begin_with_heads_of_their_own(inputs: Inputs) -> None:
    request = Request(inputs, {**SHORT, "epochs": 1}, folder=Path("run"), runs=2)
    train(request, transfer=Transfer(new_head=True, only="backbone"))
    for seed in (0, 1):
        torch.manual_seed(seed)
        assert torch.equal(weights_of(f"run/seed-{seed}/last.pt")["linear.weight"], torch.nn.Linear(64, 4).weight)


def test_a_run_is_resumed_without_being_told_anything(inputs: Inputs, capsys: Any) -> None:
    command = ("train", "-w", str(inputs.weights), "--dataset", str(inputs.dataset), "-j", "0", "-q", "--epochs", "2")
    run(*command, "--new-head", "--only", "head", "-o", "run", "--set", "lr=0.01")
    whole = weights_of("run/last.pt")
    Path("run/result.json").unlink()
    said = refused(["train", "--resume", "run", "--only", "all"], 2, "only head, now all", keeps=False)
    assert "begun otherwise" in said
    run("train", "--resume", "run", "-q")
    assert all(torch.equal(value, weights_of("run/last.pt")[name]) for name, value in whole.items())


def test_other_classes_without_a_new_head_are_refused_with_the_way_to_it(inputs: Inputs) -> None:
    same = ("-w", str(inputs.weights), "--dataset", str(inputs.dataset), "-o", "run")
    for command in ("train", "finetune"):
        said = refused([command, *same], 2, "not among the network's 2 classes", keeps=False)
        assert "replace its head: --new-head." in said.replace("\n", " ")
        assert ("--class-map" in said) == (command == "finetune"), "an option that the command has"
    said = refused(["lr-find", *same[:4]], 2, "not among the network's 2 classes", keeps=False)
    assert "--new-head" not in said
    assert "--class-map" not in said


@pytest.mark.parametrize("option", [["--new-head"], ["--refit"], ["--only", "head"]])
def test_random_weights_have_no_head_to_go_on_from(option: list[str], inputs: Inputs) -> None:
    same = ["resnet8", "--dataset", str(inputs.dataset), "--input-size", "8", "-o", "run"]
    refused(["train", *same, *option], 2, f"{option[0]} needs a network that has been trained")
    refused(["train", *same, "-w", "random", *option], 2, f"{option[0]} needs a network that has been trained")


def test_options_that_mean_nothing_are_refused(inputs: Inputs) -> None:
    same = ["train", "-w", str(inputs.weights), "--dataset", str(inputs.dataset), "-o", "run"]
    refused([*same, "--only", "tail"], 2, "--only 'tail' is unknown")
    refused([*same, "--new-head", "--l2", "0.1"], 2, "no weights are fitted")
    refused([*same, "--refit", "--l2", "-1"], 2, "--l2")
    refused([*same, "--evaluate", "--new-head"], 2, "trains nothing: leave out --new-head")
    refused([*same, "--new-head", "--head", "conv1"], 2, "'conv1'")


def test_the_network_keeps_what_it_is_in_the_cache(inputs: Inputs, start: Path) -> None:
    trained(inputs, Transfer(new_head=True, refit=True), epochs=1)
    tuned(inputs, k=3)
    again = validate(dataclasses.replace(inputs, dataset=f"folder:{start / 'two-images'}")).results
    assert len(again.original.per_class) == 2
    with pytest.raises(InputError, match="not among the network's 2 classes"):
        validate(inputs)


# ---------------------------------------------------------------------------------------------------------- finetune


def test_finetune_fits_the_head_first_and_decomposes_it_then(inputs: Inputs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    results = tuned(inputs, k=3, method="weight", only="head", l2=0.01, overrides={"lr": 1e-12, "epochs": 1})
    assert results.new_head is not None
    assert (results.new_head.l2, results.new_head.fitted) == (0.01, 64)
    plain = open_classifier(None, str(inputs.weights))
    train, test = (Study(inputs, (split,), plain) for split in ("train", "test"))
    features, labels = train._kept.bank.features, train.dataset.labels
    after = weights_of("tuned/last.pt")
    rows, mask = after["linear.indices"], after["linear.mask"]
    assert bool(mask.all())
    # With hardly any rate the decomposed head is the fitted one, cut: the whole is known from a fit of one's own.
    from sklearn.linear_model import LogisticRegression

    x = features.double()
    deviation = x.std(0, correction=0)
    deviation[deviation == 0] = 1
    z = (x - x.mean(0)) / deviation
    twin = LogisticRegression(C=1 / (0.01 * len(z)), tol=1e-10, max_iter=10_000).fit(z.numpy(), labels.numpy())
    weight = torch.from_numpy(twin.coef_) / deviation
    bias = torch.from_numpy(twin.intercept_) - weight @ x.mean(0)
    assert torch.allclose(after["linear.weight"].double(), weight.gather(1, rows), atol=1e-3)
    held, truth = test._kept.bank.features.double(), test.dataset.labels
    assert results.original is not None
    assert results.original.correct == int(((held @ weight.T + bias).argmax(1) == truth).sum())
    cut = torch.zeros_like(weight).scatter(1, rows, weight.gather(1, rows))
    assert results.before.correct == int(((held @ cut.T + bias).argmax(1) == truth).sum()) == results.after.correct
    found = validate(Inputs(weights="tuned/last.pt", dataset=inputs.dataset, workers=0, device="cpu")).results
    assert found.decomposed.correct == results.after.correct


def test_finetune_of_other_classes_with_everything(inputs: Inputs) -> None:
    results = tuned(inputs, k=3, refit=True, only="head", overrides={"val_split": 0.25})
    assert results.cut is not None
    assert results.best is not None
    assert results.new_head is not None
    assert results.new_head.fitted == 48, "the 16 images that choose the best epoch play no part in the head"
    config = content("tuned/config.json")
    assert config["new_head"]
    command = read_checkpoint(Path("tuned/best.pt")).metadata
    assert command is not None
    assert "--new-head" in (command.command or "")
    assert read_checkpoint(Path("tuned/best.pt")).has_decomposed_head


def test_finetune_begins_from_a_decomposed_file_as_well(inputs: Inputs, start: Path) -> None:
    two = dataclasses.replace(inputs, dataset=f"folder:{start / 'two-images'}")
    finetune(Request(two, {**SHORT, "val_split": 0.0}, folder=Path("two")), FinetuneSettings(k=2))
    results = tuned(dataclasses.replace(inputs, weights="two/last.pt"), k=3)
    assert results.features_per_class == (3, 3)
    assert weights_of("tuned/last.pt")["linear.weight"].shape == (4, 3)


def test_a_finetuning_is_resumed(inputs: Inputs) -> None:
    tuned(inputs, k=3)
    whole = weights_of("tuned/last.pt")
    Path("tuned/result.json").unlink()
    run("finetune", "--resume", "tuned", "-q")
    assert all(torch.equal(value, weights_of("tuned/last.pt")[name]) for name, value in whole.items())
    assert content("tuned/result.json")["results"]["new_head"]["fitted"] == 64


def test_the_table_says_that_the_full_head_is_new(inputs: Inputs) -> None:
    same = ("-w", str(inputs.weights), "--dataset", str(inputs.dataset), "-j", "0", "--epochs", "1", "-k", "3")
    assert "full head, new" in run("finetune", *same, "--new-head", "-o", "run").stderr
    refused(
        ["finetune", "resnet8", "-w", "random", *same[2:], "--input-size", "8", "--new-head"], 2, "--new-head needs"
    )


# ------------------------------------------------------------------------------------------------- somebody's own code


OWN = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 12, 3), nn.Linear(12, 10)
    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))
"""


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_a_network_of_ones_own_opens_its_checkpoint(command: str, inputs: Inputs) -> None:
    Path("own_net.py").write_text(OWN, encoding="utf-8")
    classifier = open_classifier("own_net:Net", None)
    torch.save(classifier.load((8, 8)).module.state_dict(), "own.pth")
    same = ("--dataset", str(inputs.dataset), "-j", "0", "--input-size", "8", "--epochs", "1")
    more = ("-k", "3") if command == "finetune" else ("--refit",)
    run(command, "own_net:Net", "-w", "own.pth", *same, *more, "--new-head", "-o", "run", "-q")
    said = run("validate", "own_net:Net", "-w", "run/last.pt", *same[:-2]).stderr
    assert "12 features into 'fc', 4 classes" in said


def test_a_network_that_comes_frozen_is_trained_as_far_as_it_is_asked_for(inputs: Inputs) -> None:
    frozen = "\n\ndef frozen():\n    return Net().requires_grad_(False)\n"
    Path("frozen_net.py").write_text(OWN.replace("10", "4") + frozen, encoding="utf-8")
    before = open_classifier("frozen_net:Net", None).load((8, 8)).module.state_dict()
    torch.save(before, "own.pth")
    same = ("--dataset", str(inputs.dataset), "-j", "0", "--input-size", "8", "--epochs", "1", "-q")
    command = ("train", "frozen_net:frozen", "-w", "own.pth", *same)
    run(*command, "--only", "head", "-o", "run")
    learned = weights_of("run/last.pt")
    assert torch.equal(learned["conv.weight"], before["conv.weight"])
    run(*command, "--only", "head", "--lr", "0.3", "-o", "faster")
    assert not torch.equal(learned["fc.weight"], weights_of("faster/last.pt")["fc.weight"])
    for only in ("all", "backbone"):
        refused([*command, "--only", only, "-o", "none"], 2, "has no parameter that learns", keeps=False)


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_a_new_head_is_not_offered_where_no_head_is_found(command: str, inputs: Inputs) -> None:
    Path("headless_net.py").write_text(
        OWN + "\n\nclass Ends(Net):\n    def forward(self, x):\n        return super().forward(x).softmax(1)\n",
        encoding="utf-8",
    )
    torch.save(open_classifier("headless_net:Net", None).load((8, 8)).module.state_dict(), "own.pth")
    same = ("--dataset", str(inputs.dataset), "-j", "0", "--input-size", "8", "-o", "run")
    more = ("-k", "3") if command == "finetune" else ()
    said = refused([command, "headless_net:Ends", "-w", "own.pth", *same, *more], 2, "softmax", keeps=False)
    assert "--new-head" not in said
