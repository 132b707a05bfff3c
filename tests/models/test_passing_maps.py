"""Maps that losses are made of: the same that are looked at, in training too, with their gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError
from decompose_cli.models.head import find_head
from decompose_cli.models.maps import feature_maps
from decompose_cli.models.passing_maps import Place, find_place, with_maps
from decompose_cli.models.planes import Planes
from decompose_cli.models.registry import get_entry
from decompose_cli.models.tracing import recorded_inputs

SIZES = {"resnet14": 32, "preresnet14": 32, "resnet18_32x32": 32, "custom_resnet": 32}
SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("swin_t", "densenet121", "efficientnet_b0", "mobilenet_v2")
]
pytestmark = pytest.mark.usefixtures("pooled_weights")


def network(name: str, **options: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """The network, its head, and images."""
    size = SIZES.get(name, 64)
    torch.manual_seed(1)
    module = get_entry(name).configured(**options).make(7, (size, size)).eval()
    head = find_head(module, (size, size), name=None, model_name=name)
    return module, head.module, torch.randn(4, 3, size, size)


@pytest.mark.parametrize("name", ["resnet14", "preresnet14", *SLOW])
def test_maps_are_those_behind_the_features_and_have_gradients(name: str) -> None:
    module, head, images = network(name)
    place = find_place(module, head, images)
    assert place is not None
    expected = feature_maps(module, head, images)[1]
    assert expected is not None
    output, maps = with_maps(module, images, place)
    torch.testing.assert_close(maps.detach(), expected)
    with torch.no_grad():
        torch.testing.assert_close(output, module(images))
    for other in module.modules():
        if isinstance(other, nn.Dropout):
            other.p = 0.0
    module.train()
    with recorded_inputs(head) as inputs:
        _, maps = with_maps(module, images, place)
    torch.testing.assert_close(maps.mean((2, 3)), inputs[0].flatten(1), rtol=1e-4, atol=1e-5)
    first = next(module.parameters())
    (gradient,) = torch.autograd.grad(maps.square().sum(), [first])
    assert float(gradient.abs().max()) > 0


def test_gates_change_nothing() -> None:
    module, head, images = network("resnet14", gate="entropy-classifier")
    place = find_place(module, head, images)
    assert place is not None
    module.train()
    with recorded_inputs(head) as inputs:
        output, maps = with_maps(module, images, place)
    torch.testing.assert_close(maps.mean((2, 3)), inputs[0].flatten(1))
    assert len(output.readings) > 0


def test_features_that_are_no_means_have_none() -> None:
    module, head, images = network("custom_resnet")
    assert find_place(module, head, images) is None


class Ends(nn.Module):
    """Ends in one of several ways to make maps and to average them, none of which is a module's output."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.conv(x))
        pooled = {
            "functions": lambda: F.adaptive_avg_pool2d(F.silu(maps), 1).flatten(1),
            "in place": lambda: F.relu(maps, inplace=True).mean((2, 3)),
            "added in place": lambda: maps.add_(1).mean((2, 3)),
            "methods": lambda: maps.sigmoid().flatten(2).mean(-1),
            "channels last": lambda: maps.permute(0, 2, 3, 1).tanh().mean((1, 2)),
            "dropped": lambda: F.dropout(maps.relu().mean((2, 3)), 0.5, self.training),
            "looked at later": lambda: (maps.relu().mean((2, 3)), maps * 2, maps * 3)[0],
            "random depth": lambda: (maps + (maps * 0 if self.training else 0)).mean((2, 3)),
        }[self.way]()
        return self.head(pooled)


ENDS = [
    "functions",
    "in place",
    "added in place",
    "methods",
    "channels last",
    "dropped",
    "looked at later",
    "random depth",
]


@pytest.mark.parametrize("way", [*ENDS, "random depth"])
def test_maps_are_found_however_a_network_ends(way: str) -> None:
    torch.manual_seed(0)
    module = Ends(way)
    images = torch.randn(5, 3, 9, 11)
    before = copy.deepcopy(module.state_dict())
    place = find_place(module, module.head, images)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training
    assert place is not None
    for mode in (True, False):
        module.train(mode)
        with recorded_inputs(module.head) as inputs:
            _, maps = with_maps(module, images, place)
        assert maps.shape[:2] == (5, 6)
        assert maps.shape[2:].numel() == 20
        means = maps.mean((2, 3))
        features = inputs[0]
        if way == "dropped" and mode:
            means, features = means * (features != 0), features / 2
        torch.testing.assert_close(means, features, rtol=1e-4, atol=1e-5)
        weights = torch.randn(5, 6)
        a, b = (
            torch.autograd.grad((value * weights).sum(), [module.conv.weight], retain_graph=True)[0]
            for value in (means, features)
        )
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_in_half_precision_maps_are_those_of_the_network() -> None:
    torch.manual_seed(0)
    module = Ends("functions").eval()
    images = torch.randn(5, 3, 9, 11)
    place = find_place(module, module.head, images)
    assert place is not None
    with torch.autocast("cpu", torch.bfloat16):
        _, maps = with_maps(module, images, place)
    assert maps.dtype == torch.bfloat16
    torch.testing.assert_close(maps.float(), F.silu(module.norm(module.conv(images))), rtol=2e-2, atol=2e-2)


def test_maps_that_do_not_come_by_are_missed() -> None:
    with pytest.raises(DecomposeError, match="in another way in training"):
        with_maps(Ends("functions"), torch.randn(2, 3, 9, 11), Place(9, Planes(), 6))
