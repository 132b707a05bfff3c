"""Networks with other normalisation layers than they were written with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from decompose_cli.errors import InputError
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.norms.factory import MapNorm, convert_norm, make_layer
from decompose_cli.norms.modes import NORM_MODES, Norm, NormMode
from decompose_cli.norms.online import OnlineNorm1d, OnlineNorm2d

KINDS: dict[NormMode, type[nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": nn.GroupNorm,
    "layer": MapNorm,
    "instance": nn.InstanceNorm2d,
    "online": OnlineNorm2d,
    "none": nn.Identity,
}


def network(seed: int = 0) -> CifarResNet:
    torch.manual_seed(seed)
    return CifarResNet(8)


@pytest.mark.parametrize("mode", NORM_MODES)
def test_every_batch_norm_is_replaced_and_the_rest_is_as_it_was(mode: NormMode) -> None:
    before = network()
    names = [name for name, module in before.named_modules() if isinstance(module, nn.BatchNorm2d)]
    after = convert_norm(copy.deepcopy(before), Norm(mode), (32, 32))
    assert len(names) == 7
    assert all(type(after.get_submodule(name)) is KINDS[mode] for name in names)
    kept = {n: p for n, p in before.named_parameters() if not any(n.startswith(f"{name}.") for name in names)}
    found = dict(after.named_parameters())
    assert all(torch.equal(parameter, found[name]) for name, parameter in kept.items())
    assert after(torch.randn(4, 3, 32, 32)).shape == (4, 10)
    assert after.training


@pytest.mark.parametrize("mode", NORM_MODES)
def test_gradients_reach_every_parameter(mode: NormMode) -> None:
    model = convert_norm(network(), Norm(mode), (32, 32))
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_layer_norm_is_over_channels_and_positions_with_weights_for_each() -> None:
    model = convert_norm(network(), Norm("layer"), (32, 32))
    sizes = [tuple(m.normalized_shape) for m in model.modules() if isinstance(m, MapNorm)]
    assert sizes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 2 + [(64, 8, 8)] * 2
    layer = MapNorm(3, (2, 4))
    x = torch.randn(5, 3, 2, 4)
    flat = x.flatten(1)
    expected = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x).flatten(1), expected)
    assert layer.weight.shape == layer.bias.shape == (3, 2, 4)


def test_another_size_than_layer_norm_was_made_for_is_a_sentence() -> None:
    model = convert_norm(network(), Norm("layer"), (32, 32))
    with pytest.raises(InputError, match=r"A layer norm for maps of 16x32x32 .* cannot take 16x40x40"):
        model(torch.randn(1, 3, 40, 40))


def test_options_reach_the_layers() -> None:
    online = make_layer(Norm("online", alpha_fwd=0.5, alpha_bkw=0.25, ecm="ls"), 4)
    assert isinstance(online, OnlineNorm2d)
    assert (online.alpha_fwd, online.alpha_bkw, online.ecm) == (0.5, 0.25, "ls")
    group = make_layer(Norm("group", num_groups=2), 4)
    assert isinstance(group, nn.GroupNorm)
    assert group.num_groups == 2
    instance = make_layer(Norm("instance"), 4)
    assert isinstance(instance, nn.InstanceNorm2d)
    assert instance.affine


def test_training_and_evaluation_mode_are_kept() -> None:
    model = network().eval()
    model.layer1.train()
    convert_norm(model, Norm("layer"), (32, 32))
    assert not model.bn1.training
    assert model.layer1[0].bn1.training


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"mode": "spectral"}, "norm_mode 'spectral' is unknown; choose batch, group"),
        ({"alpha_fwd": 1.0}, "afwd 1 is not between 0 and 1"),
        ({"alpha_bkw": 0.0}, "abkw 0 is not between 0 and 1"),
        ({"alpha_fwd": float("nan")}, "afwd nan"),
        ({"num_groups": 0}, "gn_num_groups 0"),
        ({"ecm": "both"}, "ecm 'both' is unknown; choose ac, ls"),
    ],
)
def test_bad_options_are_a_sentence(options: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InputError, match=f"^{fragment}"):
        Norm(**options)


def test_groups_that_do_not_divide_the_channels_change_nothing() -> None:
    model = network()
    with pytest.raises(InputError, match="gn_num_groups 5 does not divide the 16 channels") as refusal:
        convert_norm(model, Norm("group", num_groups=5), (32, 32))
    assert refusal.value.hint == "Numbers that divide the channels of all layers: 1, 2, 4, 8, 16."
    assert isinstance(model.bn1, nn.BatchNorm2d)


def test_a_network_without_batch_norm() -> None:
    with pytest.raises(InputError, match="has no batch norm"):
        convert_norm(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), Norm("online"), (2, 2))


def test_images_that_the_network_does_not_take() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 9), nn.BatchNorm2d(4))
    with pytest.raises(InputError, match="does not take images of 4x4 pixels"):
        convert_norm(model, Norm("layer"), (4, 4))


def test_batch_norm_of_features_becomes_a_layer_of_features() -> None:
    def mlp() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    kinds = {"online": OnlineNorm1d, "layer": MapNorm, "group": nn.GroupNorm, "none": nn.Identity}
    for mode, kind in kinds.items():
        network = convert_norm(mlp(), Norm(mode), (2, 2))  # type: ignore[arg-type]
        assert type(network[2]) is kind  # type: ignore[index]
        assert network(torch.randn(5, 3, 2, 2)).shape == (5, 2)
    with pytest.raises(InputError, match="Instance norm is over positions"):
        convert_norm(mlp(), Norm("instance"), (2, 2))


def test_batch_norm_over_sequences() -> None:
    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.norm(self.conv(x.flatten(2)))
            return found

    for mode, kind in (("instance", nn.InstanceNorm1d), ("online", OnlineNorm1d), ("layer", MapNorm)):
        network = convert_norm(Sequences(), Norm(mode), (4, 4))  # type: ignore[arg-type]
        assert type(network.norm) is kind
        assert network(torch.randn(2, 3, 4, 4)).shape == (2, 4, 14)


@pytest.mark.parametrize("mode", NORM_MODES[1:])
def test_numbers_of_the_network_are_those_of_its_layers(mode: NormMode) -> None:
    network = convert_norm(CifarResNet(8).double(), Norm(mode), (32, 32))
    assert network(torch.randn(2, 3, 32, 32).double()).dtype == torch.float64
    assert {value.dtype for value in network.state_dict().values()} == {torch.float64}


def test_a_layer_that_stands_in_several_places_still_does() -> None:
    norm = nn.BatchNorm2d(3)
    network = convert_norm(nn.Sequential(norm, nn.Conv2d(3, 3, 1), norm), Norm("online"), (4, 4))
    assert network[0] is network[2]  # type: ignore[index]
    assert isinstance(network[0], OnlineNorm2d)  # type: ignore[index]


@pytest.mark.parametrize(
    ("network", "fragment"),
    [
        (nn.BatchNorm2d(3), "no batch norm that another"),
        (nn.Sequential(nn.BatchNorm3d(3), nn.Conv3d(3, 2, 1)), "has a BatchNorm3d, which no other"),
    ],
)
def test_what_cannot_be_replaced(network: nn.Module, fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        convert_norm(network, Norm("online"), (4, 4))


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "densenet121", "mobilenet_v3_small"])
def test_networks_of_torchvision(name: str) -> None:
    """For those that take a norm layer, the same as handing it in."""
    import torchvision

    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=4)
    convert_norm(network, Norm("online"), (64, 64))
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    if not name.startswith("res"):
        return
    torch.manual_seed(0)
    expected = getattr(torchvision.models, name)(num_classes=4, norm_layer=OnlineNorm2d).state_dict()
    torch.manual_seed(0)
    found = convert_norm(getattr(torchvision.models, name)(num_classes=4), Norm("online"), (64, 64)).state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_network_on_a_device_gets_its_layers_there() -> None:
    network = convert_norm(CifarResNet(8).to("meta"), Norm("layer"), (32, 32))
    assert all(tensor.is_meta for tensor in network.state_dict().values())
