"""``lr-find``: the rates that are really used, and what is kept."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.pictures import pixels, points
from matplotlib.figure import Figure
from PIL import Image

from decompose_cli.datasets.registry import open_dataset
from decompose_cli.datasets.sampling import epoch_order
from decompose_cli.engines.lr_find import LrFindResults, LrFindSettings, lr_find
from decompose_cli.engines.train import train
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.registry import get_entry
from decompose_cli.storage.result_document import ResultDocument
from decompose_cli.training.lr_range import ramp, smooth, suggest
from decompose_cli.training.session import Request
from decompose_cli.training.setup import initial_network

SETTINGS: dict[str, Any] = {"batch_size": 8, "augment": "none"}


@pytest.fixture
def inputs(make_images: Callable[..., Path]) -> Inputs:
    """20 training images that can be told apart: the range test goes over them several times."""
    images = make_images(Path("images"), ["a", "b"], ("train",), n=10, side=8)
    for name, colour in (("a", "red"), ("b", "blue")):
        for path in Path("images/train", name).iterdir():
            Image.blend(Image.open(path), Image.new("RGB", (8, 8), colour), 0.3).save(path)
    return Inputs("resnet8", dataset=f"folder:{images}", input_size="8", workers=0, device="cpu")


def plain_losses(inputs: Inputs, rates: list[float]) -> list[float]:
    """The losses of stochastic gradient descent in plain arithmetic, over the same batches, each at its rate."""
    dataset = open_dataset(str(inputs.dataset), "train", Path(), allow_download=False)
    pixels = dataset.in_memory()
    assert pixels is not None
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (dataset.preprocessing.mean, dataset.preprocessing.std))
    images, labels = (pixels.float() / 255 - mean) / std, dataset.labels
    network = initial_network(get_entry("resnet8"), 2, (8, 8), inputs.seed).train()
    parameters = list(network.parameters())
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    losses: list[float] = []
    for epoch in itertools.count():
        order = epoch_order(torch.arange(len(labels)), inputs.seed, epoch)
        for batch in (order[start : start + 8] for start in range(0, len(order), 8)):
            if len(losses) == len(rates):
                return losses
            shares = network(images[batch]).softmax(1)[range(len(batch)), labels[batch]]
            loss = -shares.log().mean()
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
                    velocity.mul_(0.9).add_(gradient + 1e-4 * parameter)
                    parameter.sub_(rates[len(losses)] * velocity)
            losses.append(float(loss.detach()))
    raise AssertionError("there is no last epoch")


def test_the_losses_are_those_of_training_at_rising_rates(inputs: Inputs) -> None:
    """20 images in batches of 8: seven epochs, the last of them not to its end."""
    document = lr_find(inputs, LrFindSettings(overrides=SETTINGS, lowest=1e-3, highest=0.05, steps=20))
    found = document.results
    settings = document.arguments["settings"]
    assert {name: settings[name] for name in ("optimizer", "momentum", "nesterov", "weight_decay", "augment")} == {
        "optimizer": "sgd",
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "augment": "none",
    }
    assert found.rates == ramp(1e-3, 0.05, 20)
    assert found.losses == pytest.approx(plain_losses(inputs, found.rates), rel=2e-3)
    assert found.losses != pytest.approx(plain_losses(inputs, [1e-3] * 20), rel=2e-3), "the rates matter"
    assert found.losses[-1] < found.losses[0] / 2, "it has learned"
    assert found.smoothed == smooth(found.losses)
    assert found.lr == suggest(found.rates, found.losses).rate
    assert found.plot is None
    assert list(Path().iterdir()) == [Path("images")]


@pytest.mark.parametrize(("factor", "expected"), [(0.1, False), (1.0, True), (10.0, True)])
def test_a_fall_to_chance_is_told_apart(inputs: Inputs, factor: float, expected: bool) -> None:
    """A network that is as sure as it is wrong gets better by forgetting what it knows."""
    network = initial_network(get_entry("resnet8"), 2, (8, 8), 0)
    state = network.state_dict()
    for name in ("linear.weight", "linear.bias"):
        state[name] *= factor
    torch.save(state, "start.pt")
    given = dataclasses.replace(inputs, weights="start.pt")
    found = lr_find(given, LrFindSettings(overrides=SETTINGS, lowest=1e-4, highest=0.5, steps=40)).results
    at_the_rate = found.smoothed[sum(rate <= found.lr for rate in found.rates) - 1]
    assert (at_the_rate > math.log(2)) is expected
    assert found.worse_than_guessing is expected


BREAKING = """
from torch import nn


class Breaking(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.steps = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), 0

    def forward(self, x):
        self.steps += self.training
        return self.body(x) * (float("nan") if self.steps > 30 else 1)
"""


def test_a_loss_that_is_no_number_ends_the_test_and_is_not_written(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("breaking.py").write_text(BREAKING)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    settings = LrFindSettings(overrides=SETTINGS, lowest=1e-4, highest=0.03, steps=40)
    document = lr_find(dataclasses.replace(inputs, model="breaking:Breaking"), settings, folder=Path("found"))
    found = document.results
    assert found.diverged
    assert all(map(math.isfinite, found.losses))
    assert found.rates == ramp(1e-4, 0.03, 40)[:30]
    assert (len(found.losses), len(found.smoothed)) == (30, 30)
    written = json.loads(Path("found/result.json").read_text(), parse_constant=pytest.fail)
    assert (written["model"]["name"], written["dataset"]["images"]) == ("breaking:Breaking", 20)
    assert written["results"]["losses"] == found.losses


def test_it_stops_where_the_loss_diverges(inputs: Inputs) -> None:
    found = lr_find(inputs, LrFindSettings(overrides=SETTINGS, lowest=1e-5, highest=1e9, steps=90)).results
    assert found.diverged
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 90
    assert found.rates[0] <= found.lr <= found.rates[-1]
    assert 1e-5 <= found.lr < 1e3


def test_a_rate_that_is_suggested_lets_a_network_learn(inputs: Inputs) -> None:
    found = lr_find(inputs, LrFindSettings(overrides=SETTINGS, steps=60)).results
    assert 1e-5 < found.lr < 5
    ends = {}
    for rate in (found.lr, found.lr / 1000):
        settings = {**SETTINGS, "lr": rate, "epochs": 4, "val_split": 0.0}
        results = train(Request(inputs, settings, folder=Path(f"run-{rate}"))).results
        ends[rate] = [record.train.loss for record in results.epochs]
    assert ends[found.lr][-1] < ends[found.lr][0] / 2
    assert ends[found.lr][-1] < ends[found.lr / 1000][-1] / 2


def test_files_are_written_both_or_none(inputs: Inputs, figures: list[Figure]) -> None:
    document = lr_find(inputs, LrFindSettings(overrides=SETTINGS, steps=60), folder=Path("found"))
    assert sorted(path.name for path in Path("found").iterdir()) == ["curve.png", "result.json"]
    found = document.results
    single, average, suggested = figures[0].axes[0].get_lines()
    assert points(single) == list(zip(found.rates, found.losses, strict=True))
    assert points(average) == list(zip(found.rates, found.smoothed, strict=True))
    assert set(suggested.get_xdata()) == {found.lr}
    assert figures[0].axes[0].get_title() == "resnet8 on folder:images"
    assert pixels(Path("found/curve.png")).size
    written = json.loads(Path("found/result.json").read_text())
    assert written == json.loads(document.to_json())
    assert ResultDocument[LrFindResults].model_validate(written).results == document.results
    arguments = written["arguments"]
    assert (arguments["recipe"], arguments["steps"], arguments["lowest"]) == ("cifar-resnet", 60, 1e-6)
    assert arguments["settings"]["schedule"] == "constant"
    assert written["command"] == "lr-find"


def test_it_is_a_function_of_the_seed(inputs: Inputs) -> None:
    runs = [
        lr_find(dataclasses.replace(inputs, seed=seed), LrFindSettings(overrides=SETTINGS, steps=60)).results.losses
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_it_runs_in_one_process(inputs: Inputs) -> None:
    with pytest.raises(InputError, match="A range test trains in one process, not in 2"):
        lr_find(dataclasses.replace(inputs, devices=2))


@pytest.mark.parametrize("name", ["lr", "schedule", "epochs", "iterations", "scale_epochs", "ema_decay", "val_split"])
def test_settings_without_effect_are_refused(inputs: Inputs, name: str) -> None:
    with pytest.raises(InputError, match="has no effect here") as caught:
        lr_find(inputs, LrFindSettings(overrides={name: 1}))
    assert name in caught.value.message.replace("-", "_")


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        ({"lowest": 0.0}, "positive"),
        ({"lowest": 1.0, "highest": 0.1}, "not 1.0 to 0.1"),
        ({"highest": float("nan")}, "nan"),
        ({"highest": float("inf")}, "inf"),
        ({"steps": 1}, "not 1"),
        ({"recipe": "none"}, "recipe 'none'"),
        ({"overrides": {"precision": "16"}}, "precision 16"),
        ({"overrides": {"batch_size": 0}}, "batch_size 0"),
        ({"model_options": {"shortcut": "none"}}, "shortcut 'none'"),
    ],
)
def test_bad_values_leave_no_folder(inputs: Inputs, values: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        lr_find(inputs, LrFindSettings(**values), folder=Path("found"))
    assert fragment in caught.value.message
    assert not Path("found").exists()


def test_a_test_that_diverges_too_early_says_what_to_change(inputs: Inputs) -> None:
    with pytest.raises(DecomposeError) as caught:
        lr_find(inputs, LrFindSettings(overrides=SETTINGS, lowest=1.0, highest=1e9, steps=40), folder=Path("found"))
    said = caught.value.message + (caught.value.hint or "")
    assert "lowest" in said or "steps" in said
    assert not Path("found").exists()
