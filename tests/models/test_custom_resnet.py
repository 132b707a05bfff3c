"""The shallow, wide network: its published size, its function written out, its scaled logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models.custom_resnet import CustomResNet, ResidualPair
from decompose_cli.models.head import find_head
from decompose_cli.models.tracing import evaluating, example_images, penultimate

SIZE = (32, 32)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def counted(classes: int) -> int:
    convolutions = [(3, 64), (64, 128), (128, 128), (128, 128), (128, 256), (256, 512), (512, 512), (512, 512)]
    return sum(9 * a * b + 2 * b for a, b in convolutions) + 512 * classes + classes


def test_published_number_of_parameters() -> None:
    assert parameters(CustomResNet()) == counted(10) == 6_573_130
    assert parameters(CustomResNet(100)) == counted(100)


@pytest.mark.parametrize(("scale", "expected"), [(2.0, 3 + 6), (1.0, 3 + 3), (0.0, 3)])
def test_residual_pair_with_numbers_on_paper(scale: float, expected: float) -> None:
    """relu(0.5 * relu(2 * 3)) + scale * 3; only the middle of each kernel counts."""
    pair = ResidualPair(1, scale).double().eval()
    with torch.no_grad():
        for convolution, weight in ((pair.conv1, 2.0), (pair.conv2, 0.5)):
            convolution.weight.zero_()
            convolution.weight[0, 0, 1, 1] = weight
        for norm in (pair.bn1, pair.bn2):
            norm.running_var.fill_(1 - 1e-5)
        assert pair(torch.full((1, 1, 1, 1), 3.0).double()).item() == pytest.approx(expected)
        # nothing follows the addition: what is negative stays so
        assert pair(torch.full((1, 1, 1, 1), -3.0).double()).item() == pytest.approx(-3 * scale)


def _block(x: Tensor, state: dict[str, Tensor], conv: str, bn: str, pool: bool = False) -> Tensor:
    x = F.conv2d(x, state[f"{conv}.weight"], padding=1)
    if pool:
        n, channels, height, width = x.shape
        x = x.reshape(n, channels, height // 2, 2, width // 2, 2).amax((3, 5))
    scale = state[f"{bn}.weight"] / (state[f"{bn}.running_var"] + 1e-5).sqrt()
    x = (x - state[f"{bn}.running_mean"][:, None, None]) * scale[:, None, None] + state[f"{bn}.bias"][:, None, None]
    return x.clamp(min=0)


def written_out(x: Tensor, state: dict[str, Tensor], scale: float) -> Tensor:
    x = _block(x, state, "prep.0", "prep.1")
    for number in (1, 2, 3):
        x = _block(x, state, f"layer{number}.0", f"layer{number}.2", pool=True)
        name = f"residual{number}"
        if number != 2:
            x = _block(_block(x, state, f"{name}.conv1", f"{name}.bn1"), state, f"{name}.conv2", f"{name}.bn2") + (
                scale * x
            )
    assert x.shape[1:] == (512, 4, 4)
    return (x.amax((2, 3)) @ state["fc.weight"].t() + state["fc.bias"]) / 8


@pytest.mark.parametrize("scale", [2.0, 1.0])
def test_forward_is_the_written_out_function(scale: float) -> None:
    torch.manual_seed(0)
    model = (CustomResNet(7) if scale == 2 else CustomResNet(7, residual_scale=scale)).double().eval()
    for name, value in model.state_dict().items():
        if name.endswith(("running_var", "1.weight", "2.weight")) and value.ndim == 1:
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(std=0.2)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = written_out(images, model.state_dict(), scale)
        torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)


def test_factor_of_the_logits_belongs_to_the_head() -> None:
    model = CustomResNet(5).eval()
    head = find_head(model, SIZE)
    assert (head.name, head.num_features, head.num_classes) == ("fc", 512, 5)
    assert head.following.factor.tolist() == [0.125] * 5
    images = example_images(SIZE, seed=7)
    with evaluating(model):
        features, expected = penultimate(model, model.fc, images), model(images)
    weight, bias = head.weight, head.bias
    assert torch.equal(bias, model.fc.bias / 8)
    torch.testing.assert_close(features @ weight.t() + bias, expected, rtol=1e-5, atol=1e-6)


def test_another_normalisation_reaches_every_layer() -> None:
    model = CustomResNet(norm_layer=lambda channels: nn.GroupNorm(4, channels))
    kinds = [type(part) for part in model.modules()]
    assert kinds.count(nn.GroupNorm) == 8
    assert nn.BatchNorm2d not in kinds
