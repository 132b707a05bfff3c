"""``lr-find``: the rates that are really used, and what is kept."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from decompose_cli.datasets.registry import open_dataset
from decompose_cli.datasets.sampling import epoch_order
from decompose_cli.engines.lr_find import LrFindResults, lr_find
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.registry import get_entry
from decompose_cli.storage.result_document import ResultDocument
from decompose_cli.training.fit import Trainer
from decompose_cli.training.lr_range import ramp, smooth, suggest
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


def test_each_step_is_made_at_its_rate_and_its_loss_recorded(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []
    losses: list[float] = []
    original = Trainer.step

    def spied(self: Trainer, batches: Any) -> Any:
        used.append(self.parts[0].optimizer.param_groups[0]["lr"])
        loss = original(self, batches)
        losses.append(float(loss))
        return loss

    monkeypatch.setattr(Trainer, "step", spied)
    found = lr_find(inputs, overrides=SETTINGS, lowest=1e-5, highest=0.1, steps=24).results
    assert used == found.rates == ramp(1e-5, 0.1, 24)[: len(used)]
    assert losses == found.losses
    assert found.smoothed == smooth(losses)
    assert found.lr == suggest(found.rates, found.losses).rate
    assert found.plot is None
    assert list(Path().iterdir()) == [Path("images")]


def test_the_first_loss_is_that_of_the_untrained_network(inputs: Inputs) -> None:
    found = lr_find(inputs, overrides=SETTINGS, lowest=1e-4, highest=0.1, steps=40).results
    dataset = open_dataset(str(inputs.dataset), "train", Path(), allow_download=False)
    network = initial_network(get_entry("resnet8"), 2, (32, 32), 0).train()
    batch = epoch_order(torch.arange(20), 0, 0)[:8]
    pixels = dataset.in_memory()
    assert pixels is not None
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (dataset.preprocessing.mean, dataset.preprocessing.std))
    entry = get_entry("resnet8").preprocessing
    if entry is not None:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (entry.mean, entry.std))
    loss = F.cross_entropy(network((pixels[batch].float() / 255 - mean) / std), dataset.labels[batch])
    assert found.losses[0] == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, False), (9.0, True)])
def test_a_fall_to_chance_is_told_apart(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, shift: float, expected: bool
) -> None:
    """Losses that fall from ln 2 or from far above it, the more the higher the rate."""
    rates = ramp(1e-4, 1.0, 40)
    losses = [shift + math.log(2) * (1 - 0.9 * t / 40) for t in range(40)]
    monkeypatch.setattr("decompose_cli.engines.lr_find._losses", lambda trainer, rates: iter(losses))
    found = lr_find(inputs, overrides=SETTINGS, lowest=1e-4, highest=1.0, steps=40).results
    assert found.rates == rates
    assert found.worse_than_guessing is expected


def test_a_loss_that_is_no_number_ends_the_test_and_is_not_written(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [2.0 - 0.05 * t for t in range(30)] + [math.nan]
    monkeypatch.setattr("decompose_cli.engines.lr_find._losses", lambda trainer, rates: iter(losses))
    document = lr_find(inputs, overrides=SETTINGS, lowest=1e-4, highest=1.0, steps=40, folder=Path("found"))
    assert document.results.diverged
    assert document.results.losses == losses[:30]
    assert len(document.results.rates) == len(document.results.smoothed) == 30
    written = json.loads(Path("found/result.json").read_text())
    assert (written["model"]["name"], written["dataset"]["images"]) == ("resnet8", 20)


def test_it_stops_where_the_loss_diverges(inputs: Inputs) -> None:
    found = lr_find(inputs, overrides=SETTINGS, lowest=1e-5, highest=1e9, steps=90).results
    assert found.diverged
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 90
    assert found.rates[0] <= found.lr <= found.rates[-1]
    assert 1e-5 <= found.lr < 1e3


def test_a_rate_that_is_suggested_lets_a_network_learn(inputs: Inputs) -> None:
    found = lr_find(inputs, overrides=SETTINGS, steps=60).results
    assert 1e-5 < found.lr < 5


def test_files_are_written_both_or_none(inputs: Inputs) -> None:
    document = lr_find(inputs, overrides=SETTINGS, steps=60, folder=Path("found"))
    assert sorted(path.name for path in Path("found").iterdir()) == ["curve.png", "result.json"]
    assert Path("found/curve.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads(Path("found/result.json").read_text())
    assert written == json.loads(document.to_json())
    assert ResultDocument[LrFindResults].model_validate(written).results == document.results
    arguments = written["arguments"]
    assert (arguments["recipe"], arguments["steps"], arguments["lowest"]) == ("cifar-resnet", 60, 1e-6)
    assert arguments["settings"]["schedule"] == "constant"
    assert written["command"] == "lr-find"


def test_it_is_a_function_of_the_seed(inputs: Inputs) -> None:
    runs = [
        lr_find(dataclasses.replace(inputs, seed=seed), overrides=SETTINGS, steps=60).results.losses
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("name", ["lr", "schedule", "epochs", "iterations", "ema_decay", "val_split"])
def test_settings_without_effect_are_refused(inputs: Inputs, name: str) -> None:
    with pytest.raises(InputError, match="has no effect here") as caught:
        lr_find(inputs, overrides={name: 1})
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
        lr_find(inputs, folder=Path("found"), **values)
    assert fragment in caught.value.message
    assert not Path("found").exists()


def test_a_test_that_diverges_too_early_says_what_to_change(inputs: Inputs) -> None:
    with pytest.raises(DecomposeError) as caught:
        lr_find(inputs, overrides=SETTINGS, lowest=1.0, highest=1e9, steps=40, folder=Path("found"))
    said = caught.value.message + (caught.value.hint or "")
    assert "lowest" in said or "steps" in said
    assert not Path("found").exists()
