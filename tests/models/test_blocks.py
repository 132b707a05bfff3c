"""The residual blocks against numbers checked on paper, and against slow written-out twins in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from decompose_cli.models.blocks import (
    BasicBlock,
    Bottleneck,
    PreActBasicBlock,
    PreActBottleneck,
    initialise,
    stage,
)

State = dict[str, Tensor]


def convolved(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """out[n, o, i, j] = sum of weight[o, c, a, b] * x[n, c, i * stride + a - p, j * stride + b - p], zero outside."""
    n, _, height, width = x.shape
    outputs, _, size, _ = weight.shape
    p = size // 2
    out = x.new_zeros(n, outputs, -(-height // stride), -(-width // stride))
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            for a in range(size):
                for b in range(size):
                    row, column = i * stride + a - p, j * stride + b - p
                    if 0 <= row < height and 0 <= column < width:
                        out[:, :, i, j] += x[:, :, row, column] @ weight[:, :, a, b].t()
    return out


def normed(x: Tensor, state: State, name: str) -> Tensor:
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        deviation = (state[f"{name}.running_var"][c] + 1e-5) ** 0.5
        out[:, c] = (x[:, c] - state[f"{name}.running_mean"][c]) / deviation
        out[:, c] = out[:, c] * state[f"{name}.weight"][c] + state[f"{name}.bias"][c]
    return out


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def padded(x: Tensor, channels: int, stride: int) -> Tensor:
    """Option A: every ``stride``-th pixel, new channels of zeros, half of them before and half after."""
    out = x.new_zeros(len(x), channels, -(-x.shape[2] // stride), -(-x.shape[3] // stride))
    before = (channels - x.shape[1]) // 2
    out[:, before : before + x.shape[1]] = x[:, :, ::stride, ::stride]
    return out


def shortcut(x: Tensor, s: State, channels: int, stride: int) -> Tensor:
    if "downsample.0.weight" in s:
        return normed(convolved(x, s["downsample.0.weight"], stride), s, "downsample.1")
    return padded(x, channels, stride)


def basic(x: Tensor, s: State, stride: int) -> Tensor:
    out = relu(normed(convolved(x, s["conv1.weight"], stride), s, "bn1"))
    out = normed(convolved(out, s["conv2.weight"]), s, "bn2")
    return relu(out + shortcut(x, s, out.shape[1], stride))


def bottleneck(x: Tensor, s: State, stride: int) -> Tensor:
    out = relu(normed(convolved(x, s["conv1.weight"]), s, "bn1"))
    out = relu(normed(convolved(out, s["conv2.weight"], stride), s, "bn2"))
    out = normed(convolved(out, s["conv3.weight"]), s, "bn3")
    return relu(out + shortcut(x, s, out.shape[1], stride))


def preact_basic(x: Tensor, s: State, stride: int) -> Tensor:
    a = relu(normed(x, s, "bn1"))
    out = convolved(a, s["conv1.weight"], stride)
    out = convolved(relu(normed(out, s, "bn2")), s["conv2.weight"])
    return out + (convolved(a, s["downsample.0.weight"], stride) if "downsample.0.weight" in s else x)


def preact_bottleneck(x: Tensor, s: State, stride: int) -> Tensor:
    a = relu(normed(x, s, "bn1"))
    out = convolved(a, s["conv1.weight"])
    out = convolved(relu(normed(out, s, "bn2")), s["conv2.weight"], stride)
    out = convolved(relu(normed(out, s, "bn3")), s["conv3.weight"])
    return out + (convolved(a, s["downsample.0.weight"], stride) if "downsample.0.weight" in s else x)


def with_set_weights(block: nn.Module) -> nn.Module:
    """Weights that are a formula of their position, so that none is zero or one and no two are alike."""
    start = 1
    for name, value in block.state_dict().items():
        if value.is_floating_point():
            wave = torch.arange(start, start + value.numel(), dtype=torch.float64).reshape(value.shape).sin()
            # Norms leave numbers of both signs and of size 1, so that every ReLU has something to cut off.
            is_norm = value.ndim == 1
            value.copy_(wave * 0.2 if name.endswith(("bias", "mean")) else 1 + wave * 0.5 if is_norm else wave)
            start += value.numel()
    return block.eval()


def images(n: int, channels: int, side: int) -> Tensor:
    return torch.randn(n, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


CASES = [
    pytest.param(lambda: BasicBlock(4, 4, 1, shortcut="identity"), basic, 4, 1, id="identity, same shape"),
    pytest.param(lambda: BasicBlock(4, 8, 2, shortcut="identity"), basic, 4, 2, id="identity, wider and smaller"),
    pytest.param(lambda: BasicBlock(4, 4), basic, 4, 1, id="projection, same shape"),
    pytest.param(lambda: BasicBlock(4, 8, 2), basic, 4, 2, id="projection, wider and smaller"),
    pytest.param(lambda: BasicBlock(3, 5), basic, 3, 1, id="projection, wider"),
    pytest.param(lambda: Bottleneck(8, 2), bottleneck, 8, 1, id="bottleneck, same shape"),
    pytest.param(lambda: Bottleneck(3, 2), bottleneck, 3, 1, id="bottleneck, wider"),
    pytest.param(lambda: Bottleneck(4, 2, 2), bottleneck, 4, 2, id="bottleneck, wider and smaller"),
    pytest.param(lambda: PreActBasicBlock(4, 4), preact_basic, 4, 1, id="pre-activation, same shape"),
    pytest.param(lambda: PreActBasicBlock(3, 4, 2), preact_basic, 3, 2, id="pre-activation, wider and smaller"),
    pytest.param(lambda: PreActBottleneck(8, 2), preact_bottleneck, 8, 1, id="pre-act. bottleneck, same shape"),
    pytest.param(lambda: PreActBottleneck(3, 2), preact_bottleneck, 3, 1, id="pre-act. bottleneck, wider"),
    pytest.param(lambda: PreActBottleneck(4, 2, 2), preact_bottleneck, 4, 2, id="pre-act. bottleneck, smaller"),
]


@pytest.mark.parametrize("side", [4, 5])
@pytest.mark.parametrize(("make", "twin", "channels", "stride"), CASES)
def test_block_is_the_written_out_function(
    make: Callable[[], nn.Module], twin: Callable[[Tensor, State, int], Tensor], channels: int, stride: int, side: int
) -> None:
    block = with_set_weights(make().double())
    x = images(2, channels, side)
    with torch.no_grad():
        expected = twin(x, block.state_dict(), stride)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def _on_paper(block: nn.Module, **weights: float) -> nn.Module:
    """One channel; only the middle of each 3x3 kernel counts, and normalisation does nothing."""
    for name, value in block.double().state_dict().items():
        if name.endswith("running_var"):
            value.fill_(1 - 1e-5)
        elif value.ndim == 4:
            value.zero_()
            value[:, :, value.shape[2] // 2, value.shape[3] // 2] = weights[name.removesuffix(".weight")]
    return block.eval()


@pytest.mark.parametrize(
    ("block", "values"),
    [
        # relu(0.5 * relu(2 x) + x): 3 -> 3 + 3, and -1 -> relu(0 - 1)
        (_on_paper(BasicBlock(1, 1, shortcut="identity"), conv1=2, conv2=0.5), {3: 6, -1: 0}),
        # as before with a shortcut of -4 x
        (_on_paper(BasicBlock(1, 1, 2), conv1=2, conv2=0.5, **{"downsample.0": -4}), {3: 0, -1: 4}),
        # a = relu(x); 0.5 * relu(2 a) + x, and nothing after it: 3 -> 3 + 3, and -1 -> 0 - 1
        (_on_paper(PreActBasicBlock(1, 1), conv1=2, conv2=0.5), {3: 6, -1: -1}),
        # the shortcut is -4 a, so of -1 nothing is left
        (_on_paper(PreActBasicBlock(1, 1, 2), conv1=2, conv2=0.5, **{"downsample.0": -4}), {3: 3 - 12, -1: 0}),
    ],
    ids=["identity", "projection", "pre-activation", "pre-activation projection"],
)
def test_numbers_on_paper(block: nn.Module, values: dict[float, float]) -> None:
    with torch.no_grad():
        found = {x: block(torch.full((1, 1, 1, 1), float(x), dtype=torch.float64)).item() for x in values}
    assert found == pytest.approx(values)


@pytest.mark.parametrize(
    ("block", "names"),
    [
        (BasicBlock(4, 8, 2, shortcut="identity"), "conv1 bn1 conv2 bn2"),
        (BasicBlock(4, 4, 1), "conv1 bn1 conv2 bn2"),
        (BasicBlock(4, 8, 2), "conv1 bn1 conv2 bn2 downsample.0 downsample.1"),
        (BasicBlock(4, 8, 1), "conv1 bn1 conv2 bn2 downsample.0 downsample.1"),
        (BasicBlock(4, 4, 2), "conv1 bn1 conv2 bn2 downsample.0 downsample.1"),
        (Bottleneck(4, 1), "conv1 bn1 conv2 bn2 conv3 bn3"),
        (Bottleneck(4, 4), "conv1 bn1 conv2 bn2 conv3 bn3 downsample.0 downsample.1"),
        (PreActBasicBlock(4, 4), "bn1 conv1 bn2 conv2"),
        (PreActBasicBlock(4, 8, 2), "bn1 conv1 bn2 conv2 downsample.0"),
        (PreActBottleneck(4, 1), "bn1 conv1 bn2 conv2 bn3 conv3"),
        (PreActBottleneck(4, 4), "bn1 conv1 bn2 conv2 bn3 conv3 downsample.0"),
    ],
)
def test_names_of_the_parts_and_no_biases_in_convolutions(block: nn.Module, names: str) -> None:
    weights = [name.removesuffix(".weight") for name in block.state_dict() if name.endswith(".weight")]
    assert weights == names.split()
    assert not [name for name in block.state_dict() if name.endswith("bias") and "conv" in name]


class Scale(nn.Module):
    """A normalisation layer of another kind."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None]


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck, PreActBasicBlock, PreActBottleneck])
def test_another_normalisation_may_be_plugged_in(kind: Callable[..., nn.Module]) -> None:
    block = kind(4, 8, 2, norm_layer=Scale)
    assert not [part for part in block.modules() if isinstance(part, nn.BatchNorm2d)]
    assert block(torch.ones(1, 4, 4, 4)).shape[2:] == (2, 2)
    scales = [part for part in block.modules() if isinstance(part, Scale)]
    before = block(torch.ones(1, 4, 4, 4))
    for scale in scales:
        with torch.no_grad():
            scale.weight.mul_(1.5)
    assert not torch.equal(block(torch.ones(1, 4, 4, 4)), before)


def test_a_residual_of_another_kind_may_be_put_in() -> None:
    class Silent(BasicBlock):
        def residual(self, x: Tensor) -> Tensor:
            return 0 * super().residual(x)

    x = images(1, 4, 4).float()
    assert torch.equal(Silent(4, 4)(x), x.clamp(min=0))


def test_stage_narrows_once_and_takes_over_what_the_block_makes() -> None:
    calls: list[tuple[int, int, int]] = []

    def make(in_channels: int, channels: int, stride: int) -> nn.Module:
        calls.append((in_channels, channels, stride))
        return nn.Identity()

    assert len(stage(make, 16, 32, 4, blocks=3, stride=2)) == 3
    assert calls == [(16, 32, 2), (128, 32, 1), (128, 32, 1)]


def test_initial_weights_have_the_variance_of_he() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 256, 3), nn.Linear(128, 512), nn.BatchNorm2d(3))
    initialise(model)
    assert model[0].weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.01)
    assert model[1].weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.01)
    assert model[2].weight.tolist() == [1, 1, 1]
