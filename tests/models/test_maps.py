"""Maps behind features, and Grad-CAM, against what they are by definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models.head import find_head
from decompose_cli.models.maps import class_maps, feature_maps, grad_cam
from decompose_cli.models.planes import Planes
from decompose_cli.models.registry import get_entry
from decompose_cli.models.tracing import penultimate

AVERAGING = ["resnet14", "preresnet14", "resnet18_32x32", "mobilenet_v2", "densenet121", "efficientnet_b0"]
OTHERS = ["custom_resnet", "small vgg", pytest.param("vgg11", marks=pytest.mark.slow), "convnext_tiny"]
SIZES = {"resnet14": 32, "preresnet14": 32, "resnet18_32x32": 32, "custom_resnet": 32, "small vgg": 32}
pytestmark = pytest.mark.usefixtures("pooled_weights")


def small_vgg() -> nn.Module:
    """As VGG: maps are flattened, and hidden layers lie between them and the head."""
    maps = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
    head = nn.Sequential(nn.Linear(96, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 7))
    return nn.Sequential(maps, nn.Flatten(), head)


def network(name: str, **options: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """The network, its head, and images."""
    size = SIZES.get(name, 64)
    torch.manual_seed(1)
    is_own = name == "small vgg"
    module = (small_vgg() if is_own else get_entry(name).configured(**options).make(7, (size, size))).eval()
    head = find_head(module, (size, size), name=None, model_name=name)
    return module, head.module, torch.randn(3, 3, size, size)


@pytest.mark.parametrize("name", AVERAGING)
def test_features_are_the_means_of_their_maps_and_logits_sums_over_positions(name: str) -> None:
    module, head, images = network(name)
    features, maps = feature_maps(module, head, images)
    assert maps is not None
    with torch.no_grad():
        torch.testing.assert_close(features, penultimate(module, head, images))
        logits = module(images)
    assert maps.shape[2] * maps.shape[3] > 1
    torch.testing.assert_close(maps.mean((2, 3)), features, rtol=1e-4, atol=1e-5)
    for c in range(7):
        by_position = class_maps(maps, head.weight[c].detach().expand(3, -1))  # type: ignore[index]
        assert by_position.shape == (3, *maps.shape[2:])
        torch.testing.assert_close(by_position.sum((1, 2)) + head.bias[c], logits[:, c], rtol=1e-4, atol=1e-4)  # type: ignore[index]


@pytest.mark.parametrize("gate", ["entropy-classifier", "entropy-classifier-b3b2", "exclusive"])
def test_networks_with_gates_have_maps_too(gate: str) -> None:
    module, head, images = network("resnet14", gate=gate)
    features, maps = feature_maps(module, head, images)
    assert maps is not None
    torch.testing.assert_close(maps.mean((2, 3)), features)


@pytest.mark.parametrize("name", OTHERS)
def test_features_that_are_no_means_have_no_maps(name: str) -> None:
    module, head, images = network(name)
    features, maps = feature_maps(module, head, images)
    assert maps is None
    with torch.no_grad():
        torch.testing.assert_close(features, penultimate(module, head, images))


class Pools(nn.Module):
    """Averages over positions, in one of several ways to write it, and calls its head in one of two."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.head = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = F.silu(self.conv(x))
        pooled = {
            "flattened": lambda: maps.flatten(2).mean(-1),
            "twice": lambda: maps.mean(3).mean(2),
            "sum": lambda: maps.sum((2, 3)) / (maps.shape[2] * maps.shape[3]),
            "keyword": lambda: maps.mean((-2, -1)),
            "module": lambda: nn.AdaptiveAvgPool2d(1)(maps).flatten(1),
        }[self.way]()
        return self.head(input=pooled) if self.way == "keyword" else self.head(pooled)


@pytest.mark.parametrize("way", ["flattened", "twice", "sum", "keyword", "module"])
def test_maps_are_found_however_they_are_averaged(way: str) -> None:
    torch.manual_seed(0)
    module = Pools(way).eval()
    images = torch.randn(3, 3, 9, 11)
    features, maps = feature_maps(module, module.head, images)
    assert maps is not None
    assert maps.shape == (3, 6, 4, 5)
    torch.testing.assert_close(maps, F.silu(module.conv(images)).detach())
    assert float(maps.min()) < 0
    torch.testing.assert_close(features, maps.mean((2, 3)))


class Twin(nn.Module):
    """The same network with channels second, by convolutions, or last, by linear layers."""

    def __init__(self, is_last: bool) -> None:
        super().__init__()
        self.is_last = is_last
        self.embed = nn.Conv2d(3, 6, 2, 2)
        self.mix = nn.Linear(6, 6) if is_last else nn.Conv2d(6, 6, 1)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.is_last:
            return self.head(self.act(self.mix(x.permute(0, 2, 3, 1))).mean((1, 2)))
        return self.head(self.act(self.mix(x)).mean((2, 3)))


def test_maps_with_channels_last_are_those_of_the_same_network_with_channels_second() -> None:
    torch.manual_seed(0)
    first, last = Twin(False).eval(), Twin(True).eval()
    state = first.state_dict()
    last.load_state_dict({**state, "mix.weight": state["mix.weight"].flatten(1)})
    images, classes = torch.randn(3, 3, 12, 10), torch.tensor([0, 3, 1])
    pairs = [feature_maps(module, module.head, images)[1] for module in (first, last)]
    assert pairs[0] is not None
    assert pairs[1] is not None
    assert pairs[0].shape == (3, 6, 6, 5)
    torch.testing.assert_close(*pairs)
    cams = [
        grad_cam(module, module.mix, images, classes, planes)
        for module, planes in ((first, Planes()), (last, Planes((0, 3, 1, 2))))
    ]
    assert cams[0].shape == (3, 6, 5)
    torch.testing.assert_close(*cams)
    assert float(cams[0].max()) > 0
    assert not last.mix._forward_hooks
    with pytest.raises(RuntimeError):
        grad_cam(last, last.mix, images[:, :2], classes, Planes((0, 3, 1, 2)))
    assert not last.mix._forward_hooks


def test_grad_cam_of_swin_is_the_same_before_and_after_it_turns_its_maps() -> None:
    module, head, images = network("swin_t")
    classes = torch.tensor([1, 2, 3])
    norm = module.get_submodule("norm")
    before = grad_cam(module, norm, images, classes, Planes((0, 3, 1, 2)))
    assert before.shape == (3, 2, 2)
    torch.testing.assert_close(before, grad_cam(module, module.get_submodule("permute"), images, classes))
    _, maps = feature_maps(module, head, images)
    assert maps is not None
    assert maps.shape == (3, 768, 2, 2)


class Lined(nn.Module):
    """Averages positions that it has put into a line: their places in the image are not those in the line."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.flatten(2)[:, :, torch.arange(15, -1, -1)].unflatten(2, (4, 4))).relu()
        return self.head(x.flatten(2).unsqueeze(-1).mean((2, 3)))


def test_positions_in_a_line_are_no_picture() -> None:
    torch.manual_seed(0)
    module = Lined().eval()
    features, maps = feature_maps(module, module.head, torch.randn(3, 3, 4, 4))
    assert maps is None
    assert features.shape == (3, 6)


class Encoded(nn.Module):
    """An encoder layer of torch, which in evaluation does all of its work in one operation, between maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 4)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return self.head(self.encoder(maps.flatten(2).transpose(1, 2)).unflatten(1, maps.shape[2:]).mean((1, 2)))


def test_maps_are_found_behind_layers_that_work_in_one_operation() -> None:
    torch.manual_seed(0)
    module = Encoded().eval()
    before = torch.backends.mha.get_fastpath_enabled()
    features, maps = feature_maps(module, module.head, torch.randn(3, 3, 8, 12))
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert maps is not None
    assert maps.shape == (3, 8, 4, 6)
    torch.testing.assert_close(maps.mean((2, 3)), features)


def test_of_several_uses_of_a_layer_the_last_is_looked_at() -> None:
    torch.manual_seed(0)
    relu = nn.ReLU()
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), relu, nn.Conv2d(8, 6, 3), relu, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).eval()
    images, classes = torch.randn(3, 3, 9, 9), torch.tensor([0, 3, 1])
    shown = grad_cam(module, relu, images, classes)
    module[3] = nn.ReLU()
    torch.testing.assert_close(shown, grad_cam(module, module[3], images, classes))


class Scaled(nn.Module):
    """A layer is used for a number per channel before it is used for maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.act(x * self.act(x.mean((2, 3)))[..., None, None]).mean((2, 3)))


def test_earlier_uses_of_a_layer_may_be_no_maps() -> None:
    torch.manual_seed(0)
    module = Scaled().eval()
    images, classes = torch.randn(3, 3, 9, 9), torch.tensor([0, 3, 1])
    shown = grad_cam(module, module.act, images, classes)
    torch.testing.assert_close(shown, written_out(module, module.act, images, classes))


def test_a_network_is_left_as_it_was() -> None:
    module, head, images = network("resnet14")
    module.train()
    module.get_submodule("layer2").eval()
    modes = [part.training for part in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    feature_maps(module, head, images)
    grad_cam(module, module.get_submodule("layer3"), images, torch.tensor([0, 1, 2]))
    assert [part.training for part in module.modules()] == modes
    assert not head._forward_pre_hooks
    assert not module.get_submodule("layer3")._forward_hooks
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    with pytest.raises(RuntimeError):
        feature_maps(module, head, images[:, :2])
    assert not head._forward_pre_hooks


def written_out(module: Any, layer: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Selvaraju et al., equations 1 and 2, one image after the other."""
    found = []
    for image, c in zip(images, classes.tolist(), strict=True):
        kept: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out))
        logit = module(image[None])[0, c]
        handle.remove()
        (gradient,) = torch.autograd.grad(logit, kept[-1])
        alphas = gradient.mean((2, 3))[0]
        found.append(sum(alpha * plane for alpha, plane in zip(alphas, kept[-1][0], strict=True)).clamp(min=0))  # type: ignore[union-attr]
    return torch.stack(found).detach()


@pytest.mark.parametrize(("name", "layer"), [("resnet14", "layer3"), ("resnet14", "layer2"), ("small vgg", "0.2")])
def test_grad_cam_is_what_its_paper_says(name: str, layer: str) -> None:
    module, _, images = network(name)
    classes = torch.tensor([4, 0, 6])
    ours = grad_cam(module, module.get_submodule(layer), images, classes)
    theirs = written_out(module, module.get_submodule(layer), images, classes)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert float(ours.min()) >= 0
    assert float(ours.max()) > 0


def test_where_features_are_means_grad_cam_of_the_last_maps_is_the_positive_part_of_the_class_map() -> None:
    """a_j = w_cj / P there, so both are the same sum."""
    module, head, images = network("resnet14")
    _, maps = feature_maps(module, head, images)
    assert maps is not None
    classes = torch.tensor([1, 2, 3])
    ours = grad_cam(module, module.get_submodule("layer3"), images, classes)
    torch.testing.assert_close(ours, F.relu(class_maps(maps, head.weight[classes].detach())), rtol=1e-4, atol=1e-6)  # type: ignore[index]
