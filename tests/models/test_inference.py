"""The faster copy of a network gives the features of the network itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models import inference
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.imagenet import build
from decompose_cli.models.inference import FeatureReader
from decompose_cli.models.network import network_of
from decompose_cli.models.tracing import evaluating, penultimate

CPU = torch.device("cpu")


def with_statistics(module: nn.Module) -> nn.Module:
    """Batch norms with statistics and parameters of their own, so that leaving one out would show."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
            with torch.no_grad():
                part.weight.uniform_(0.5, 1.5, generator=generator)
                part.bias.normal_(0, 0.3, generator=generator)
    return module.eval()


def images(n: int, side: int, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


class TokenMixer(nn.Module):
    """A small transformer whose forward pass looks at the shape of its input, which symbolic tracing cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.BatchNorm2d(16)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % 4 != 0:
            raise ValueError("patches of 4")
        tokens = self.norm(self.patches(x)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(torch.tanh(self.mlp(tokens[:, 0])))


class DependsOnData(nn.Module):
    """Each image takes the path that its mean decides."""

    def __init__(self) -> None:
        super().__init__()
        self.bright, self.dark = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for _ in range(2))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = [(self.bright if bool(image.mean() > 0) else self.dark)(image[None]) for image in x]
        return self.fc(torch.cat(maps).mean((2, 3)))


class SharedConvolution(nn.Module):
    """One convolution, two batch norms: folding either into it would be wrong for the other."""

    def __init__(self, second: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(self.conv(x)))
        return self.fc(F.relu(self.second(self.conv(x))).mean((2, 3)))


class SharedNorm(SharedConvolution):
    """The output of a convolution is used with and without the batch norm that follows."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.fc((F.relu(self.first(y)) + y).mean((2, 3)))


class TwoInARow(SharedConvolution):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.second(self.first(self.conv(x)))).mean((2, 3)))


class ConvolutionHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).flatten(1) * 0.125


class WithVolume(nn.Module):
    """Holds a five-dimensional parameter, which has no channels-last layout of the images' kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 4, (3, 3, 3))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x[:, None]).mean((2, 3, 4)))


CASES: list[tuple[str, Callable[[], nn.Module], int]] = [
    ("cifar resnet", lambda: CifarResNet(20), 32),
    ("resnet18", lambda: build("resnet18", 10), 64),
    ("mobilenet", lambda: build("mobilenet_v3_small", 10), 64),
    ("untraceable transformer", TokenMixer, 16),
    ("data-dependent", DependsOnData, 12),
    ("shared convolution", SharedConvolution, 12),
    ("convolution with two users", SharedNorm, 12),
    ("two norms in a row", TwoInARow, 12),
    ("convolution as head", ConvolutionHead, 12),
    ("volume", WithVolume, 12),
]
CASE = pytest.mark.parametrize(("make", "side"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])


@CASE
def test_features_are_those_of_the_network(make: Callable[[], nn.Module], side: int) -> None:
    torch.manual_seed(0)
    network = network_of(with_statistics(make()), (side, side))
    reader = FeatureReader(network, CPU, "32", images(4, side))
    for n, seed in ((1, 2), (3, 3), (7, 4)):
        batch = images(n, side, seed)
        with evaluating(network.module):
            expected = penultimate(network.module, network.module.get_submodule(network.head.name), batch)
        features = reader(batch)
        assert features.dtype == torch.float32
        assert features.shape == (n, network.tensors.num_features)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@CASE
def test_bfloat16_features_are_near_those_of_the_network(make: Callable[[], nn.Module], side: int) -> None:
    torch.manual_seed(0)
    network = network_of(with_statistics(make()), (side, side))
    reader = FeatureReader(network, CPU, "bf16", images(4, side))
    batch = images(5, side, 2)
    with evaluating(network.module):
        expected = penultimate(network.module, network.module.get_submodule(network.head.name), batch)
    features = reader(batch)
    assert features.dtype == torch.float32
    relative = float((features - expected).norm() / expected.norm())
    assert relative < 0.1
    if side == 32:  # whatever happened, it was computed in bfloat16
        assert relative > 1e-4


def test_network_that_makes_float32_tensors_of_its_own_works_in_bfloat16() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x + torch.zeros(1, 3, 1, 1, dtype=torch.float32)).mean((2, 3)))

    network = network_of(Own().eval(), (12, 12))
    batch = images(5, 12, 2)
    with evaluating(network.module):
        expected = penultimate(network.module, network.module.get_submodule(network.head.name), batch)
    reader = FeatureReader(network, CPU, "bf16", images(4, 12))
    torch.testing.assert_close(reader(batch), expected, rtol=0.05, atol=0.02)


def test_batch_norms_are_folded_where_that_is_possible() -> None:
    network = network_of(with_statistics(CifarResNet(8)), (32, 32))
    reader = FeatureReader(network, CPU, "32", images(2, 32))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in reader.module.modules())


def test_network_is_left_as_it_was_found() -> None:
    model = with_statistics(CifarResNet(8))
    model.layer1.train()
    network = network_of(model, (32, 32))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    for precision in ("32", "bf16"):
        FeatureReader(network, CPU, precision, images(2, 32))(images(3, 32))
    after = model.state_dict()
    assert all(after[name].dtype == before[name].dtype and torch.equal(after[name], before[name]) for name in before)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert isinstance(model.linear, nn.Linear)


def test_decomposed_head_gives_the_same_features() -> None:
    model = with_statistics(CifarResNet(8))
    network = network_of(model, (32, 32))
    batch = images(3, 32, 5)
    expected = FeatureReader(network, CPU, "32", images(2, 32))(batch)
    head = DecomposedLinear.from_dense(model.linear.weight.detach(), model.linear.bias.detach(), [[0, 1]] * 10)
    model.linear = head
    features = FeatureReader(network_of(model, (32, 32)), CPU, "32", images(2, 32))(batch)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    assert isinstance(model.linear, DecomposedLinear)


class Rereader(nn.Module):
    """Reads values again after a ReLU or an addition has used them, which working in place must not change."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = self.relu(a)
        c = self.second(b) + a
        view = b.view(b.shape)
        d = F.relu(view) + b
        e = self.relu(torch.add(c, d)) + c
        return self.head((e + e + a).mean((2, 3)))


def test_working_in_place_spares_what_is_read_again() -> None:
    network = network_of(Rereader().eval(), (8, 8))
    x = images(3, 8)
    with torch.no_grad():
        expected = penultimate(network.module, network.module.get_submodule("head"), x)
    reader = FeatureReader(network, CPU, "32", x[:2])
    assert isinstance(reader.module, torch.fx.GraphModule)
    torch.testing.assert_close(reader(x), expected, rtol=1e-5, atol=1e-5)


def test_residual_network_works_in_place() -> None:
    code = FeatureReader(network_of(with_statistics(CifarResNet(20)), (32, 32)), CPU, "32", images(2, 32)).module.code
    assert code.count("inplace = True") == 19
    assert code.count("operator_iadd") == 9 or code.count("+=") == 9


class OneIsHuge(nn.Module):
    """Four features, the first of which is a hundred thousand times as large as the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 3)
        with torch.no_grad():
            self.conv.weight[0] *= 1e5

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


def test_a_large_feature_does_not_hide_that_a_small_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: nn.Module) -> nn.Module:
        copied = copy.deepcopy(module)
        with torch.no_grad():
            copied.conv.weight[2] *= 1.01
        return copied

    torch.manual_seed(0)
    network = network_of(OneIsHuge().eval(), (16, 16))
    monkeypatch.setattr("decompose_cli.models.inference.fuse", wrong)
    with torch.no_grad():
        expected = penultimate(network.module, network.head.module, images(4, 16))
    found = FeatureReader(network, CPU, "32", images(8, 16))(images(4, 16))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_layers_that_are_used_twice_are_not_folded_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decompose_cli.models.inference.fuse", lambda _: pytest.fail("it was folded"))
    FeatureReader(network_of(SharedConvolution().eval(), (16, 16)), CPU, "32", images(4, 16))


def test_features_are_computed_with_all_digits_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def full_float32(device: torch.device) -> nullcontext[None]:
        asked.append(device)
        return nullcontext()

    monkeypatch.setattr(inference, "full_float32", full_float32)
    FeatureReader(network_of(CifarResNet(8).eval(), (32, 32)), CPU, "32", images(2, 32))(images(1, 32))
    assert asked == [CPU]
