"""ResNets of the ImageNet type for small images: the published size, torchvision's names, the size of the maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from decompose_cli.models import imagenet
from decompose_cli.models.resnet_32x32 import ResNet32x32


def counted(blocks: tuple[int, ...], classes: int = 10) -> int:
    total, entering = 3 * 64 * 9 + 2 * 64, 64
    for channels, count in zip((64, 128, 256, 512), blocks, strict=True):
        total += entering * channels * 9 + (2 * count - 1) * channels * channels * 9 + 2 * count * 2 * channels
        total += entering * channels + 2 * channels if entering != channels else 0
        entering = channels
    return total + 512 * classes + classes


@pytest.mark.parametrize(
    ("blocks", "published"), [((2, 2, 2, 2), 11_173_962), ((3, 4, 6, 3), 21_282_122), ((1, 1, 1, 1), None)]
)
def test_number_of_parameters(blocks: tuple[int, ...], published: int | None) -> None:
    with torch.device("meta"):
        found = sum(parameter.numel() for parameter in ResNet32x32(blocks).parameters())
    assert found == counted(blocks)
    assert published is None or found == published


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", (2, 2, 2, 2)), ("resnet34", (3, 4, 6, 3))])
def test_only_the_stem_differs_from_torchvision(name: str, blocks: tuple[int, ...]) -> None:
    with torch.device("meta"):
        theirs = {key: value.shape for key, value in imagenet.build(name, 10).state_dict().items()}
        ours = {key: value.shape for key, value in ResNet32x32(blocks).state_dict().items()}
    assert list(ours) == list(theirs)
    assert [key for key in ours if ours[key] != theirs[key]] == ["conv1.weight"]


def test_function_is_torchvisions_behind_another_stem() -> None:
    """With the weights of ours, and its stem and pooling replaced, torchvision's network gives the same logits."""
    torch.manual_seed(0)
    model = ResNet32x32((2, 2, 2, 2), 7).double().eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(std=0.2)
    theirs = imagenet.build("resnet18", 7).double().eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False).double()
    theirs.maxpool = nn.Identity()
    theirs.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images), rtol=1e-9, atol=1e-9)


def test_shapes_of_the_stages() -> None:
    model = ResNet32x32((1, 1, 1, 1), 3).eval()
    x = F.relu(model.conv1(torch.randn(2, 3, 32, 32)))
    for stage, shape in (
        (model.layer1, (2, 64, 32, 32)),
        (model.layer2, (2, 128, 16, 16)),
        (model.layer3, (2, 256, 8, 8)),
        (model.layer4, (2, 512, 4, 4)),
    ):
        x = stage(x)
        assert x.shape == shape
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_another_normalisation_reaches_every_layer() -> None:
    model = ResNet32x32((1, 1, 1, 1), norm_layer=lambda channels: nn.GroupNorm(4, channels))
    kinds = [type(part) for part in model.modules()]
    assert kinds.count(nn.GroupNorm) == 1 + 4 * 2 + 3
    assert nn.BatchNorm2d not in kinds
