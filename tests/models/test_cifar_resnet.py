"""The CIFAR ResNets against the same function written out with plain operations in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decompose_cli.models.cifar_resnet import CifarResNet


def _norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / (variance + 1e-5).sqrt()
    return (x - mean[None, :, None, None]) * scale[None, :, None, None] + state[f"{name}.bias"][None, :, None, None]


def _convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution with a border of zeros, as nine matrix products."""
    n, channels, height, width = x.shape
    padded = x.new_zeros(n, channels, height + 2, width + 2)
    padded[:, :, 1:-1, 1:-1] = x
    out = x.new_zeros(n, len(weight), -(-height // stride), -(-width // stride))
    for i in range(3):
        for j in range(3):
            shifted = padded[:, :, i : i + height : stride, j : j + width : stride]
            out += torch.einsum("nchw,oc->nohw", shifted, weight[:, :, i, j])
    return out


def _shortcut(x: Tensor, channels: int, stride: int) -> Tensor:
    """Option A: every second pixel, new channels of zeros, half of them before and half after."""
    out = x.new_zeros(len(x), channels, -(-x.shape[2] // stride), -(-x.shape[3] // stride))
    before = (channels - x.shape[1]) // 2
    out[:, before : before + x.shape[1]] = x[:, :, ::stride, ::stride]
    return out


def written_out(x: Tensor, state: dict[str, Tensor], depth: int) -> Tensor:
    x = _norm(_convolve(x, state["conv1.weight"], 1), state, "bn1").clamp(min=0)
    for stage, channels in ((1, 16), (2, 32), (3, 64)):
        for block in range((depth - 2) // 6):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = _norm(_convolve(x, state[f"{name}.conv1.weight"], stride), state, f"{name}.bn1").clamp(min=0)
            y = _norm(_convolve(y, state[f"{name}.conv2.weight"], 1), state, f"{name}.bn2")
            x = (y + _shortcut(x, channels, stride)).clamp(min=0)
    return x.mean((2, 3)) @ state["linear.weight"].t() + state["linear.bias"]


def _random_network(depth: int, num_classes: int = 10) -> CifarResNet:
    """A network whose every parameter and statistic counts: none is left at zero or one."""
    torch.manual_seed(depth)
    model = CifarResNet(depth, num_classes).double().eval()
    for name, value in model.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight")):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(std=0.2)
    return model


@pytest.mark.parametrize(("depth", "side"), [(8, 32), (20, 32), (32, 16), (14, 31), (8, 5)])
def test_forward_is_the_written_out_function(depth: int, side: int) -> None:
    model = _random_network(depth, num_classes=7)
    images = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(images), written_out(images, model.state_dict(), depth), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth", [-4, 0, 2, 7, 9, 18, 21, 52])
def test_depths_that_are_not_6n_plus_2_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth {depth} is not 6n"):
        CifarResNet(depth)


def test_parameter_names_are_those_of_the_published_checkpoints() -> None:
    names = list(CifarResNet(20).state_dict())
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    expected = ["conv1.weight", *(f"bn1.{part}" for part in norm)]
    for stage in (1, 2, 3):
        for block in range(3):
            for number in (1, 2):
                expected.append(f"layer{stage}.{block}.conv{number}.weight")
                expected += [f"layer{stage}.{block}.bn{number}.{part}" for part in norm]
    assert names == [*expected, "linear.weight", "linear.bias"]


def test_shapes_and_classes() -> None:
    model = CifarResNet(8, num_classes=3).eval()
    assert model(torch.zeros(4, 3, 32, 32)).shape == (4, 3)
    assert model.layer3(torch.zeros(1, 32, 16, 16)).shape == (1, 64, 8, 8)


def test_published_checkpoint_fits_key_for_key(reference_dir) -> None:
    from decompose_cli.models.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(reference_dir / "weights" / "resnet20-12fca82f.th")
    expected = {k for k in CifarResNet(20).state_dict() if not k.endswith("num_batches_tracked")}
    assert {k for k in checkpoint.state_dict if not k.endswith("num_batches_tracked")} == expected
