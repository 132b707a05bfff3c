"""Networks whose weights have the same names and shapes, and that compute something else: each is built when asked."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.command_line import run
from torch import Tensor, nn

import decompose_cli as dc
from decompose_cli.errors import InputError
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.gates import from_entropy
from decompose_cli.models.registry import get_entry

SIZE = (16, 16)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(8))


def learned(module: nn.Module) -> nn.Module:
    """Statistics and parameters away from where they begin, so that every wiring shows."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = torch.randn(part.num_features, generator=generator) * 0.2
            part.running_var = torch.rand(part.num_features, generator=generator) + 0.5
            part.bias.data = torch.randn(part.num_features, generator=generator) * 0.3
    return module.eval()


def twin_of_preact(state: dict[str, Tensor], x: Tensor, projects_input: bool) -> Tensor:
    """Pre-activation ResNets written out, with the shortcut of the published code or with that of the paper."""

    def norm(name: str, value: Tensor) -> Tensor:
        parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(value, *parts)

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    names = sorted({name.rsplit(".", 2)[0] for name in state if name.endswith("bn1.weight")})
    for name in names:
        stride = 2 if name in ("layer2.0", "layer3.0") else 1
        activated = F.relu(norm(f"{name}.bn1", x))
        if f"{name}.conv3.weight" in state:
            out = F.conv2d(activated, state[f"{name}.conv1.weight"])
            out = F.conv2d(F.relu(norm(f"{name}.bn2", out)), state[f"{name}.conv2.weight"], stride=stride, padding=1)
            out = F.conv2d(F.relu(norm(f"{name}.bn3", out)), state[f"{name}.conv3.weight"])
        else:
            out = F.conv2d(activated, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(F.relu(norm(f"{name}.bn2", out)), state[f"{name}.conv2.weight"], padding=1)
        projection = state.get(f"{name}.downsample.0.weight")
        x = out + (x if projection is None else F.conv2d(x if projects_input else activated, projection, stride=stride))
    return F.relu(norm("bn", x)).mean((2, 3)) @ state["fc.weight"].t() + state["fc.bias"]


@pytest.mark.parametrize("name", ["preresnet20", "preresnet11", "preresnet29"])
def test_bare_preresnets_are_the_published_ones_and_the_others_can_be_asked_for(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    state = learned(get_entry(name).build(10)).state_dict()
    torch.save(state, "net.pth")
    caplog.set_level(logging.INFO)
    published = open_classifier(name, "net.pth")
    assert caplog.messages == [
        "No weight in net.pth shows shortcut: 'input-projection' is taken, as in published networks; model_options "
        "shortcut=projection takes another."
    ]
    ours = open_classifier(name, "net.pth", options={"shortcut": "projection"})
    assert len(caplog.messages) == 1
    assert published.identity != ours.identity, "their features are cached apart"
    for classifier, projects_input in ((published, True), (ours, False)):
        with torch.no_grad():
            found = classifier.load(SIZE).module(images())
        torch.testing.assert_close(found, twin_of_preact(state, images(), projects_input), rtol=1e-4, atol=1e-4)
    difference = twin_of_preact(state, images(), True) - twin_of_preact(state, images(), False)
    assert float(difference.abs().max()) > 0.1


def test_units_of_preresnets_are_told_from_the_weights() -> None:
    torch.save(get_entry("preresnet20").configured(block="bottleneck").build(10).state_dict(), "net.pth")
    assert open_classifier("preresnet20", "net.pth").load((32, 32)).tensors.num_features == 256
    with pytest.raises(InputError, match="does not fit preresnet26"):
        open_classifier("preresnet26", "net.pth").load((32, 32))


def test_our_own_files_say_what_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for shortcut in ("projection", "input-projection"):
        torch.manual_seed(0)
        model = dc.load_model("preresnet20", "random", model_options={"shortcut": shortcut})
        learned(model.module)
        dc.save_model(model, "own.safetensors", overwrite=True)
        caplog.clear()
        again = dc.load_model("preresnet20", "own.safetensors")
        assert not caplog.messages
        with torch.no_grad():
            assert torch.equal(again.module(images()), model.module(images()))
        other = {"projection": "input-projection", "input-projection": "projection"}[shortcut]
        with pytest.raises(InputError, match=f"trained with shortcut {shortcut}, not {other}"):
            dc.load_model("preresnet20", "own.safetensors", model_options={"shortcut": other})


@pytest.mark.parametrize(
    ("gate", "classes", "taken"),
    [
        ("entropy-classifier", 10, "original"),
        ("entropy-classifier-b3b2", 100, "plain"),
        ("entropy", 100, "plain-10"),
    ],
)
@pytest.mark.parametrize("asked", ["stretched", "plain", "original", "plain-10"])
def test_every_map_of_a_gate_can_be_asked_for_in_every_command(
    gate: str, classes: int, taken: str, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    module = learned(get_entry("resnet14").configured(gate=gate, gate_map=asked).make(classes, SIZE))
    torch.save(module.state_dict(), "net.pth")
    caplog.set_level(logging.INFO)
    options = {"gate": gate, "gate_map": asked}
    with torch.no_grad():
        expected = module(images())
        found = open_classifier("resnet14", "net.pth", options=options).load(SIZE).module(images())
        assert torch.equal(found, expected)
        caplog.clear()
        bare = open_classifier("resnet14", "net.pth")
        assert bare.entry.chosen["gate_map"] == taken
        assert any(f"'{taken}' is taken" in said for said in caplog.messages) == (taken != "plain")
        assert torch.equal(bare.load(SIZE).module(images()), expected) == (asked == taken)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_published_entropy_gate_takes_ten_classes_whatever_there_are(classes: int) -> None:
    entropy = torch.rand(50, dtype=torch.float64) * math.log(classes)
    expected = 1 / (1 + (2.3026 / 2 - entropy).exp())
    torch.testing.assert_close(from_entropy(entropy, classes, "plain-10"), expected)
    same = torch.allclose(from_entropy(entropy, classes, "plain"), expected, rtol=1e-4)
    assert same == (classes == 10)


def test_options_of_the_network_are_typed_for_any_command(make_images: Any) -> None:
    make_images(Path("images"), [str(number) for number in range(10)], ("train", "test"), n=2, side=16)
    torch.manual_seed(0)
    torch.save(learned(get_entry("preresnet20").build(10)).state_dict(), "net.pth")
    rest = ("preresnet20", "-w", "net.pth", "--dataset", "folder:images", "-j", "0", "--input-size", "16", "--no-cache")
    for command in (("validate",), ("extract-indices", "-k", "2"), ("sweep", "--ks", "1-2", "-o", "swept")):
        said = run(*command, *rest, "--model-options", "shortcut=projection", "--json").stderr
        assert "is taken" not in said, command
    assert "'input-projection' is taken" in run("validate", *rest, "--json").stderr
    for wrong, sentence in (
        ("shortcut", "--model-options 'shortcut' is not NAME=VALUE."),
        ("shortcut=", "--model-options 'shortcut=' is not NAME=VALUE."),
        ("shortcut=none", "'none' is not known to preresnet20; choose projection, input-projection."),
        ("shortcut=projection,shortcut=projection", "--model-options names shortcut twice."),
        ("width=3", "preresnet20 has no --width option"),
    ):
        assert sentence in run("validate", *rest, "--model-options", wrong, code=2).stderr


def test_gates_that_share_their_weights_are_named(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    module = learned(get_entry("resnet14").configured(gate="softmax").make(2, SIZE))
    torch.save(module.state_dict(), "net.pth")
    assert open_classifier("resnet14", "net.pth").entry.chosen["gate"] == "entropy"
    assert "its gate is entropy or softmax, which have the same weights: entropy is assumed" in caplog.text
    with torch.no_grad():
        asked = open_classifier("resnet14", "net.pth", options={"gate": "softmax"}).load(SIZE)
        assert torch.equal(asked.module(images()), module(images()))
