"""Networks with another normalisation: built, saved, recognised, loaded."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from decompose_cli.errors import InputError
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.registry import get_entry
from decompose_cli.models.tracing import example_images
from decompose_cli.norms.factory import MapNorm, convert_norm
from decompose_cli.norms.modes import NORM_MODES, Norm
from decompose_cli.norms.online import OnlineNorm2d

SIZE = (32, 32)
ONLINE = {"norm_mode": "online", "afwd": "0.9990234375", "abkw": "0.9921875", "ecm": "ls"}


def learned(module: nn.Module, size: tuple[int, int] = SIZE) -> nn.Module:
    """With statistics that are not those of a new network."""
    torch.manual_seed(5)
    for _ in range(2):
        module.train()(torch.randn(4, 3, *size)).square().sum().backward()
    return module.eval()


def test_a_norm_is_an_option_of_every_network() -> None:
    for name in ("resnet20", "resnet164", "preresnet20", "custom_resnet", "resnet18_32x32", "resnet18", "vgg11_bn"):
        entry = get_entry(name)
        chosen = entry.configured(**ONLINE)
        assert chosen.chosen == ONLINE
        assert chosen.architecture == {**entry.architecture, **ONLINE}
        assert (chosen.weights, chosen.sha256, chosen.parameters, chosen.accuracy) == (None, None, None, None)
        assert chosen.configured(norm_mode="batch").architecture == entry.architecture
        with torch.device("meta"):
            module = chosen.make(3, SIZE if name != "vgg11_bn" else (224, 224))
        kinds = {type(child) for child in module.modules()}
        assert OnlineNorm2d in kinds
        assert nn.BatchNorm2d not in kinds


LARGE = ("resnet34", "resnet50", "resnext50_32x4d", "resnet101", "resnet152", "resnext101_32x8d")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *itertools.product(("resnet18", "resnet14"), NORM_MODES),
        ("resnet50", "online"),
        *(pytest.param(name, mode, marks=pytest.mark.slow) for name, mode in itertools.product(LARGE, NORM_MODES)),
    ],
)
def test_the_published_networks_have_every_norm(name: str, mode: str) -> None:
    size = SIZE if name == "resnet14" else (224, 224)
    groups = {"gn_num_groups": "8" if name == "resnet14" else "32"} if mode == "group" else {}
    with torch.device("meta"):
        entry = get_entry(name)
        module = entry.configured(norm_mode=mode, **groups).make(entry.num_classes, size)
        assert module(torch.zeros(2, 3, *size)).shape == (2, entry.num_classes)
    assert any(isinstance(child, nn.BatchNorm2d) for child in module.modules()) is (mode == "batch")


def test_it_goes_together_with_other_options() -> None:
    both = get_entry("resnet20").configured(shortcut="projection", norm_mode="group", gn_num_groups="4")
    assert both.chosen == {"shortcut": "projection", "norm_mode": "group", "gn_num_groups": "4"}
    module = both.make(10, SIZE)
    assert isinstance(module.get_submodule("layer2.0.downsample.1"), nn.GroupNorm)
    assert both.configured(norm_mode="batch").chosen == {"shortcut": "projection"}
    assert both.configured(shortcut="identity").chosen == {"norm_mode": "group", "gn_num_groups": "4"}
    assert both.configured() is both


def test_details_are_changed_and_another_norm_forgets_them() -> None:
    online = get_entry("resnet20").configured(**ONLINE)
    assert online.configured(afwd="0.5").chosen == {**ONLINE, "afwd": "0.5"}
    assert online.configured(norm_mode="layer").chosen == {"norm_mode": "layer"}


def test_the_other_weights_of_a_seed_are_the_same_whatever_the_norm() -> None:
    states = []
    for mode in NORM_MODES:
        torch.manual_seed(3)
        states.append(get_entry("resnet20").configured(norm_mode=mode).make(10, SIZE).state_dict())
    for name in ("conv1.weight", "layer3.2.conv2.weight", "linear.weight", "linear.bias"):
        assert all(torch.equal(state[name], states[0][name]) for state in states)


def test_layer_norm_is_made_for_the_size_of_the_images() -> None:
    module = get_entry("resnet20").configured(norm_mode="layer").make(10, (40, 24))
    assert isinstance(module.get_submodule("bn1"), MapNorm)
    assert module.get_submodule("bn1").weight.shape == (16, 40, 24)
    assert module.get_submodule("layer3.2.bn2").weight.shape == (64, 10, 6)


@pytest.mark.parametrize(
    ("mode", "model"), [*((mode, None) for mode in NORM_MODES if mode != "batch"), ("online", "resnet20")]
)
def test_a_checkpoint_computes_what_was_saved(mode: str, model: str | None) -> None:
    entry = get_entry("resnet20").configured(norm_mode=mode)
    trained = learned(entry.make(10, SIZE))
    metadata = Metadata(model="resnet20", num_classes=10, model_options=entry.chosen)
    write_checkpoint(Path("net.safetensors"), trained.state_dict(), metadata)
    classifier = open_classifier(model, "net.safetensors")
    assert classifier.entry.chosen == entry.chosen
    images = example_images(SIZE, seed=2)
    with torch.no_grad():
        assert torch.equal(classifier.load(SIZE).module(images), trained(images))


def test_images_of_another_size_than_layer_norm_has_seen() -> None:
    entry = get_entry("resnet20").configured(norm_mode="layer")
    metadata = Metadata(model="resnet20", num_classes=10, model_options=entry.chosen)
    write_checkpoint(Path("net.safetensors"), entry.make(10, SIZE).state_dict(), metadata)
    with pytest.raises(InputError, match="38 of another shape") as refusal:
        open_classifier(None, "net.safetensors").load((40, 40))
    assert refusal.value.hint is not None
    assert "give the size that it was trained on" in refusal.value.hint


@pytest.mark.usefixtures("pooled_weights")
@pytest.mark.parametrize(
    ("prefix", "model", "options"),
    [
        ("", "resnet20", {"shortcut": "projection"}),
        ("module.", "resnet18", {}),
        ("", "preresnet20", {"shortcut": "input-projection"}),
    ],
)
def test_published_checkpoints_are_recognised_by_their_names(
    prefix: str, model: str, options: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """The published code saves the statistics as X.norm.m and so on, next to X.weight and X.bias."""
    size = SIZE if model != "resnet18" else (64, 64)
    module = convert_norm(get_entry(model).configured(**options).build(7), Norm("online", ecm="ls"), size)
    trained = learned(module, size)
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    assert f"{prefix}bn1.norm.m" in state or f"{prefix}bn.norm.m" in state
    torch.save({"epoch": 3, "state_dict": state}, "checkpoint.pth")
    with caplog.at_level(logging.INFO, "decompose_cli"):
        classifier = open_classifier(model, "checkpoint.pth")
    assert "norm_mode 'online', ecm 'ls'; it is loaded as that" in caplog.text
    images = example_images(size, seed=2)
    with torch.no_grad():
        assert torch.equal(classifier.load(size).module(images), trained(images))


def test_the_network_that_would_fit_is_named_whatever_its_norm() -> None:
    module = get_entry("preresnet20").configured(norm_mode="online").make(5, SIZE)
    torch.save(module.state_dict(), "net.pth")
    with pytest.raises(InputError) as refusal:
        open_classifier("resnet20", "net.pth").load(SIZE)
    assert refusal.value.hint == "These weights fit preresnet20."


OWN = """
from torch import nn
from decompose_cli.norms.online import OnlineNorm2d

def net(num_classes=10):
    return nn.Sequential(nn.Conv2d(3, 4, 3), OnlineNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
"""


def test_a_network_of_the_users_keeps_what_it_was_written_with(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_online.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    import own_online  # type: ignore[import-not-found]

    trained = learned(own_online.net())
    torch.save(trained.state_dict(), "net.pth")
    network = open_classifier("own_online:net", "net.pth").load(SIZE)
    images = example_images(SIZE, seed=2)
    with torch.no_grad():
        assert torch.equal(network.module(images), trained(images))


def test_groups_that_do_not_divide_the_channels() -> None:
    with pytest.raises(InputError, match="gn_num_groups 5 does not divide the 16 channels of a layer"):
        get_entry("resnet20").configured(norm_mode="group", gn_num_groups="5").make(10, SIZE)
    with torch.device("meta"), pytest.raises(InputError, match="no batch norm that another normalisation could repl"):
        get_entry("vgg11").configured(norm_mode="online").make(10, (224, 224))
