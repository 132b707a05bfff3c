"""Which layers of a network are looked at by default, and what is measured there, on networks that are no ResNets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers.selectivity import measure_selectivity
from torch import Tensor, nn

from decompose_cli.decomposition.selectivity import (
    LayerSelectivity,
    layers_passed_over,
    selectable_layers,
    units_left_out,
)
from decompose_cli.models import imagenet
from decompose_cli.models.outputs import trace_outputs
from decompose_cli.models.tracing import example_images

SLOW = pytest.mark.slow


def found_in(module: nn.Module, side: int = 32) -> tuple[list[str], list[str]]:
    """The layers that are chosen, and the units that are left out; what is chosen can be measured."""
    torch.manual_seed(0)
    images = example_images((side, side))
    outputs = trace_outputs(module.eval(), images)
    names, left_out = selectable_layers(module, outputs), units_left_out(module, outputs)
    measured = measure_selectivity(module, [(images, torch.tensor([0, 1]))], names, outputs, 2, 0.5)
    assert list(measured) == names
    for name, layer in measured.items():
        values = next((use.values for use in outputs if use.name == name), None)
        assert values is None or layer.num_filters == values.shape[values.channels or 0]
    return names, left_out


class Unit(nn.Module):
    """A residual unit that ends in ``end``, and has ``inside`` before its last layer."""

    def __init__(self, end: Callable[[], nn.Module], inside: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.one, self.inside, self.two, self.end = nn.Conv2d(6, 9, 1), inside(), nn.Conv2d(9, 6, 1), end()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(x + self.two(self.inside(self.one(x))))


class Net(nn.Module):
    """A stem, ``body`` whose units are called one after another, and a head."""

    def __init__(self, body: nn.Module, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.stem, self.body, self.head = nn.Conv2d(3, 6, 3), stem or nn.ReLU(), body, nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = run(self.body, self.stem(self.conv(x)))
        return self.head(x.mean((2, 3)))


def run(part: nn.Module, x: Tensor) -> Tensor:
    if not isinstance(part, (nn.ModuleList, nn.ModuleDict)):
        return part(x)  # type: ignore[no-any-return]
    for one in part.values() if isinstance(part, nn.ModuleDict) else part:
        x = run(one, x)
    return x


def units(end: Callable[[], nn.Module] = nn.ReLU, inside: Callable[[], nn.Module] = nn.Identity) -> list[nn.Module]:
    return [Unit(end, inside), Unit(end, inside)]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (lambda: nn.Sequential(*units()), ["body.0", "body.1"]),
        (lambda: nn.ModuleList(units()), ["body.0", "body.1"]),
        (lambda: nn.ModuleDict(dict(zip("ab", units(), strict=True))), ["body.a", "body.b"]),
        (lambda: nn.ModuleList([nn.ModuleList(units()), Unit(nn.ReLU)]), ["body.0.0", "body.0.1", "body.1"]),
        (lambda: nn.Sequential(nn.Sequential(Net2(nn.ModuleList(units())))), ["body.0.0"]),
        (lambda: nn.ModuleList([Unit(nn.ReLU)] * 3), ["body.0#1", "body.0#2", "body.0#3"]),
    ],
)  # fmt: skip
def test_units_stand_in_a_list_of_any_kind(body: Callable[[], nn.Module], names: list[str]) -> None:
    assert found_in(Net(body()), 8) == (["stem", *names], [])


class Net2(nn.Module):
    """A stage that holds its units in a list of its own."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        return run(self.blocks, x)


def clipped() -> nn.Module:
    return nn.Hardtanh(0, 4)


@pytest.mark.parametrize(
    ("stem", "end", "inside", "names", "left_out"),
    [
        (nn.ReLU6, nn.ReLU6, nn.Identity, ["stem", "body.0", "body.1"], 0),
        (nn.ReLU6, nn.Identity, nn.ReLU6, ["stem", "body.0.inside", "body.1.inside"], 0),
        (clipped, nn.Identity, lambda: nn.Threshold(0.1, 0), ["stem", "body.0.inside", "body.1.inside"], 0),
        (nn.ReLU, nn.Softplus, nn.Hardswish, ["stem", "body.0", "body.1"], 0),
        (nn.ReLU, nn.Hardswish, nn.Hardswish, ["stem"], 2),
        (nn.Hardswish, nn.Hardswish, nn.ReLU, ["body.0.inside", "body.1.inside"], 0),
        (nn.GELU, nn.Identity, nn.SiLU, [], 2),
    ],
)  # fmt: skip
def test_where_units_are_negative_a_layer_inside_them_stands_in(
    stem: Callable[[], nn.Module],
    end: Callable[[], nn.Module],
    inside: Callable[[], nn.Module],
    names: list[str],
    left_out: int,
) -> None:
    module = Net(nn.ModuleList(units(end, inside)), stem())
    assert found_in(module, 8) == (names, ["body.0", "body.1"][:left_out])


def test_a_layer_that_sees_fewer_positions_than_its_unit_does_not_stand_in() -> None:
    class Squeezing(Unit):
        def forward(self, x: Tensor) -> Tensor:
            gates = self.inside(self.one(x.mean((2, 3), keepdim=True)))
            return x * self.two(gates).sigmoid() - 1

    assert found_in(Net(nn.ModuleList([Squeezing(nn.Identity, nn.ReLU)])), 8) == (["stem"], ["body.0"])


class Frequencies(nn.Module):
    """Of channels too: it cannot be told which axis counts filters."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(x, dim=(1, 2, 3)).abs().relu()


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(x, x)


class Last(nn.Module):
    """A head on values of which nothing shows the axes."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.head = nn.Sequential(nn.Conv2d(3, 6, 3), *parts), nn.Linear(6 * 6 * 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.parts(x).abs().flatten(1))


class Wrapped(nn.ReLU):
    """A ReLU of what cannot be read."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(Frequencies()(x))


@pytest.mark.parametrize(
    ("module", "names", "passed_over", "why"),
    [
        (Last(Unit(nn.ReLU), Unit(Frequencies)), ["parts.1"], ["parts.2"], "after the operation _fft_c2c"),
        (Last(Unit(nn.ReLU), Unit(Complex)), ["parts.1"], ["parts.2"], "complex numbers"),
        (Last(Unit(Frequencies)), [], ["parts.1"], "after the operation _fft_c2c"),
        (Last(nn.ReLU(), Wrapped()), ["parts.1"], ["parts.2"], "after the operation _fft_c2c"),
        (Last(nn.ReLU(), Unit(nn.ReLU)), ["parts.1", "parts.2"], [], ""),
    ],
)
def test_layers_whose_filters_cannot_be_told_are_said(
    module: nn.Module, names: list[str], passed_over: list[str], why: str
) -> None:
    assert found_in(module, 8)[0] == names
    found = layers_passed_over(module, trace_outputs(module, example_images((8, 8))))
    assert [use.name for use in found] == passed_over
    for use in found:
        assert use.values is not None
        assert str(use.values.obstacle).endswith(why)


class Tokens(nn.Module):
    """A small MLP-Mixer with a ReLU, whose tokens (N, L, D) are no maps."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.mix = nn.Conv2d(3, 6, 2, 2), nn.LayerNorm(6), nn.Linear(6, 10)
        self.act, self.back, self.head = nn.ReLU(), nn.Linear(10, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head((x + self.back(self.act(self.mix(self.norm(x))))).mean(1))


def test_filters_of_tokens_are_their_channels() -> None:
    torch.manual_seed(0)
    module = Tokens().eval()
    images = torch.randn(6, 3, 8, 8)
    outputs = trace_outputs(module, images[:2])
    assert selectable_layers(module, outputs) == ["act"]
    labels = torch.arange(6) % 2
    found = measure_selectivity(module, [(images, labels)], ["act"], outputs, 2, 0.5)["act"]
    with torch.no_grad():
        tokens = module.embed(images).flatten(2).transpose(1, 2)
        values = F.relu(module.mix(module.norm(tokens))).mean(1)
    check(found, values, labels)


def check(found: LayerSelectivity, values: Tensor, labels: Tensor) -> None:
    """By a plain loop over images and filters: how many are needed before half of the activation is reached."""
    assert found.num_filters == values.shape[1]
    for c in range(2):
        needed = []
        for row in values[labels == c].double().tolist():
            reached, count = 0.0, 0
            for value in sorted(row, reverse=True):
                reached += value
                if reached / sum(row) >= 0.5:
                    break
                count += 1
            needed.append(count)
        assert float(found.mean_filters[c]) == pytest.approx(sum(needed) / len(needed))


class LastNet(nn.Module):
    """Maps (N, h, w, D), whose number of channels is that of their rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.act, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.mix(self.embed(x).permute(0, 2, 3, 1))).mean((1, 2)))


def test_filters_of_maps_with_channels_last_are_their_channels() -> None:
    torch.manual_seed(0)
    module = LastNet().eval()
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6) % 2
    outputs = trace_outputs(module, images[:2])
    found = measure_selectivity(module, [(images, labels)], selectable_layers(module, outputs), outputs, 2, 0.5)
    with torch.no_grad():
        values = F.relu(module.mix(module.embed(images).permute(0, 2, 3, 1)))
    check(found["act"], values.mean((1, 2)), labels)


@pytest.mark.parametrize(
    ("name", "some", "count"),
    [
        ("mobilenet_v2", ["features.0.2", "features.1.conv.0.2", "features.2.conv.1.2", "features.17.conv.1.2"], 18),
        ("shufflenet_v2_x0_5", ["conv1.2", "stage2.0", "stage4.3"], 17),
        ("regnet_y_400mf", ["stem.2", "trunk_output.block1.block1-0", "trunk_output.block4.block4-5"], 17),
        pytest.param("mnasnet0_5", ["layers.8.0.layers.5", "layers.13.0.layers.5"], 17, marks=SLOW),
        pytest.param("densenet121", ["features.relu0", "features.denseblock1.denselayer6.relu2"], 5, marks=SLOW),
        pytest.param("squeezenet1_1", ["features.1", "features.3", "features.12"], 9, marks=SLOW),
        pytest.param("alexnet", ["features.1", "classifier.5"], 7, marks=SLOW),
        pytest.param("vgg11_bn", ["features.2", "classifier.4"], 10, marks=SLOW),
        pytest.param("googlenet", ["inception3a.branch2.0"], 46, marks=SLOW),
    ],
)  # fmt: skip
def test_layers_of_torchvision_that_end_in_a_relu(name: str, some: list[str], count: int) -> None:
    names, left_out = found_in(imagenet.build(name, 10), 64)
    assert set(some) <= set(names)
    assert (len(names), left_out) == (count, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "names", "left_out"),
    [
        ("efficientnet_b0", 0, 16),
        ("convnext_tiny", 0, 18),
        ("swin_t", 0, 15),
        ("swin_v2_t", 0, 15),
        ("mobilenet_v3_small", 3, 8),
        ("vit_b_32", 0, 12),
        ("maxvit_t", 0, 4),
    ],
)
def test_layers_of_torchvision_that_are_negative_are_left_out(name: str, names: int, left_out: int) -> None:
    found = found_in(imagenet.build(name, 10), 224 if name.startswith(("vit", "maxvit")) else 64)
    assert tuple(map(len, found)) == (names, left_out)
