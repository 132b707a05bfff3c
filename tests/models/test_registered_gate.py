"""A gate of a program's own: a class and an entry, which networks, training and every command then take by its name."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from decompose_cli.cli.app import app
from decompose_cli.errors import InputError
from decompose_cli.models import gate_kinds
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.gate_entry import GateKind, Place, StageSite, UnitSite
from decompose_cli.models.gate_kinds import EVERY_UNIT, GATES, gate_shown_by, register
from decompose_cli.models.gated_resnet import StageGatedResNet, UnitGatedResNet, from_plain
from decompose_cli.models.gates import Reading, UnitGate
from decompose_cli.models.registry import get_entry

SIZE = (16, 16)


class MeanGate(nn.Linear):
    """g = sigmoid of one layer on the pooled output of the first unit."""

    def __init__(self, site: StageSite, scale: float) -> None:
        super().__init__(site.channels, 1)
        self.site, self.scale = site, scale

    def forward(self, maps: Tensor) -> Reading:
        g = torch.sigmoid(self.scale * super().forward(maps.mean((2, 3))))[:, 0]
        return Reading(g, penalty=g)


class HalfGate(UnitGate):
    """g = 1/2 + 0 x its score, of all channels."""

    def __init__(self, site: UnitSite) -> None:
        super().__init__(site.in_channels, 1, site.stride)

    def reading(self, scores: Tensor) -> Reading:
        return Reading(0.5 + 0 * scores)


MEAN = GateKind(
    "mean",
    "one layer on the pooled output of the first unit",
    Place("over every stage", "block", (1, 2, 3)),
    lambda site, gate_scale: MeanGate(site, float(gate_scale)),
    lambda state: "g_layer_b1.weight" in state,
    reads_first=True,
    penalty=0.25,
    details={"gate_scale": "2.0"},
    published={"gate_scale": "3.0"},
)
HALF = GateKind(
    "half",
    "nothing",
    EVERY_UNIT,
    HalfGate,
    lambda state: len(state.get("layer1.0.gate_layer.weight", "")) == 1,
)


@pytest.fixture
def mine() -> Iterator[None]:
    """The table has two more gates, which are gone after the test."""
    register(MEAN)
    register(HALF)
    yield
    del GATES["mean"], GATES["half"]


def made(gate: str, depth: int = 14, **more: str) -> Any:
    torch.manual_seed(1)
    return get_entry(f"resnet{depth}").configured(gate=gate, **more).make(5, SIZE)


@pytest.mark.usefixtures("mine")
def test_stages_get_gates_as_the_entry_says() -> None:
    module = made("mean", gate_scale="0.5")
    assert isinstance(module, StageGatedResNet)
    sites = [gate.site for gate in module.gates()]
    assert sites == [StageSite(1, 16, (16, 16), 5), StageSite(2, 32, (8, 8), 5), StageSite(3, 64, (4, 4), 5)]
    assert [gate.scale for gate in module.gates()] == [0.5] * 3
    found = module.train().read(torch.randn(2, 3, *SIZE))
    assert [reading.g.shape for reading in found.readings] == [(2,)] * 3
    assert gate_shown_by(module.state_dict()) == "mean"


@pytest.mark.usefixtures("mine")
def test_a_baseline_is_taken_apart_where_the_entry_says() -> None:
    module, plain = made("mean", 20), CifarResNet(20, 5, shortcut="projection")
    for stage in (1, 2, 3):
        module.get_submodule(f"g_layer_b{stage}").bias.data.fill_(1e4)  # open
    missing, unexpected = module.load_state_dict(from_plain(plain.state_dict(), module), strict=False)
    assert {name.split(".")[0] for name in missing} == {"g_layer_b1", "g_layer_b2", "g_layer_b3"}
    assert not unexpected
    x = torch.randn(3, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(x), plain.eval()(x))


@pytest.mark.usefixtures("mine")
def test_units_get_gates_as_the_entry_says() -> None:
    module = made("half")
    assert isinstance(module, UnitGatedResNet)
    assert len(module.gates()) == 6
    unit, x = module.layer1[0].eval(), torch.rand(2, 16, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(unit(x), torch.relu(0.5 * unit.residual(x) + 0.5 * unit.shortcut(x)))
    assert gate_shown_by(module.state_dict()) == "half"


@pytest.mark.usefixtures("mine")
def test_options_checks_and_help_texts_know_it() -> None:
    entry = get_entry("resnet14")
    assert entry.configured(gate="mean").chosen == {"shortcut": "projection", "gate": "mean"}
    assert "mean" in entry.facts()["options"]["gate"]
    with pytest.raises(InputError, match=r"gate_scale has no effect with gate half; it is of .*, mean\."):
        entry.configured(gate="half", gate_scale="1")
    with pytest.raises(InputError, match="gate_map has no effect with gate mean"):
        entry.configured(gate="mean", gate_map="plain")
    assert gate_kinds.shown_gates().endswith("exclusive-tube-3x3, half; over every stage: mean")
    assert gate_kinds.shown_penalties().endswith("0.25 for mean")
    assert gate_kinds.shown_defaults("gate_scale").endswith("2.0 for mean")


@pytest.mark.usefixtures("mine")
def test_weights_without_a_description_are_loaded_as_published() -> None:
    torch.save(made("mean", gate_scale="3").state_dict(), "own.pt")
    chosen = open_classifier("resnet14", "own.pt").entry.chosen
    assert chosen == {"shortcut": "projection", "gate": "mean", "gate_scale": "3.0"}
    with pytest.raises(InputError, match=r"The weights in own.pt are of gate mean, not half\."):
        open_classifier("resnet14", "own.pt", options={"gate": "half"})


@pytest.mark.usefixtures("mine")
def test_it_is_trained_measured_and_used_by_its_name(make_images: Callable[..., Path]) -> None:
    root = make_images(Path("images"), ["a", "b"], ("train", "test"), n=6, side=8)
    given = ["--dataset", f"folder:{root}", "--input-size", "8", "-j", "0", "--device", "cpu"]
    train = ["train-gate", "resnet14", "--gate", "mean", "--epochs", "1", "-b", "4", "--skip-below", "0.5", "-o", "run"]
    result = CliRunner().invoke(app, [*train, *given])
    assert result.exit_code == 0, result.stderr
    assert re.search(r"g < 0.5: [0-9.]+% in stage 1 and [0-9.]+% in stage 2 and [0-9.]+% in stage 3 of", result.stderr)
    config = json.loads(Path("run/config.json").read_text())
    assert (config["lambda"], config["lr_gate"], config["model_options"]["gate"]) == (0.25, None, "mean")
    with Path("run/g_values.csv").open() as handle:
        assert {"g_b1", "g_b2", "g_b3"} <= set(csv.DictReader(handle).fieldnames or ())
    again = CliRunner().invoke(app, ["validate", "-w", "run/last.pt", *given, "--json"])
    assert again.exit_code == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["model"]["options"]["gate"] == "mean"


@pytest.mark.parametrize("name", ["l2", "none"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    before = dict(GATES)
    with pytest.raises(ValueError, match=f"a gate named '{name}' is registered already"):
        register(GateKind(name, "", EVERY_UNIT, HalfGate, lambda _: False))
    assert before == GATES


def test_texts_for_help_are_of_the_table() -> None:
    assert gate_kinds.shown_gates() == (
        "Over the last stage: entropy-classifier (default), entropy, l2, softmax; over the last two stages: "
        "entropy-classifier-b3b2; in every unit: exclusive, shortcut, exclusive-element-1x1, exclusive-tube-1x1, "
        "exclusive-tube-3x3"
    )
    assert gate_kinds.shown_penalties() == (
        "0.5 for l2, 0.1 for softmax, 0 for exclusive and shortcut, 0.01 for exclusive-element-1x1, exclusive-tube-1x1 "
        "and exclusive-tube-3x3"
    )
    assert gate_kinds.shown_defaults("gate_map") == "stretched for entropy-classifier, plain for " + (
        "entropy-classifier-b3b2 and entropy"
    )
    assert gate_kinds.gates_with("gate_loss") == ["softmax"]
