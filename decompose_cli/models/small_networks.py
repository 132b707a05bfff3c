"""Entries of the networks for 32x32 images. Nothing here imports torch until a network is built."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from decompose_cli.models.entry import OUR_LICENCE, OURS, ModelEntry, hash_in_name
from decompose_cli.preprocessing import CIFAR

if TYPE_CHECKING:
    from torch import nn

    from decompose_cli.models.blocks import Shortcut
    from decompose_cli.models.cifar_resnet import Block

Options = dict[str, tuple[str, ...]]
_SHORTCUTS: Options = {"shortcut": ("identity", "projection")}
_ONLY_PROJECTION: Options = {"shortcut": ("projection",)}


def _build_cifar_resnet(
    depth: int,
    num_classes: int,
    *,
    block: Block = "basic",
    shortcut: Shortcut = "identity",
    pretrained: bool = False,
) -> nn.Module:
    from decompose_cli.models.cifar_resnet import CifarResNet

    return CifarResNet(depth, num_classes, shortcut=shortcut, block=block)


def _build_preact_resnet(
    depth: int, block: Block, num_classes: int, *, shortcut: Shortcut = "projection", pretrained: bool = False
) -> nn.Module:
    from decompose_cli.models.cifar_resnet import PreActCifarResNet

    return PreActCifarResNet(depth, num_classes, block=block)


def _build_custom_resnet(num_classes: int, *, pretrained: bool = False) -> nn.Module:
    from decompose_cli.models.custom_resnet import CustomResNet

    return CustomResNet(num_classes)


def _build_resnet_32x32(blocks: tuple[int, ...], num_classes: int, *, pretrained: bool = False) -> nn.Module:
    from decompose_cli.models.resnet_32x32 import ResNet32x32

    return ResNet32x32(blocks, num_classes)


def _recognise_shortcut(names: Collection[str]) -> dict[str, str]:
    """Projections have parameters called ``downsample``; identity shortcuts have none at all."""
    # A fourth stage is that of another kind of network, and nothing is to be said of its shortcuts.
    is_projection = any(".downsample." in name for name in names) and not any("layer4." in name for name in names)
    return {"shortcut": "projection"} if is_projection else {}


def cifar_resnet(depth: int, parameters: int, file: str, accuracy: float) -> ModelEntry:
    """A plain CIFAR ResNet with published weights, option-A shortcuts unless others are chosen."""
    return replace(
        untrained_cifar_resnet(depth),
        parameters=parameters,
        weights=f"https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/{file}",
        sha256=hash_in_name(file),
        accuracy=accuracy,
        source="akamaster/pytorch_resnet_cifar10",
        licence="BSD-2-Clause",
    )


def untrained_cifar_resnet(depth: int) -> ModelEntry:
    """As :func:`cifar_resnet`, of any depth 6n + 2 and without weights."""
    architecture = {"family": "cifar_resnet", "depth": depth}
    entry = _untrained(f"resnet{depth}", partial(_build_cifar_resnet, depth), None, 64, architecture)
    return replace(entry, options=_SHORTCUTS, recognise=_recognise_shortcut)


def bottleneck_resnet(depth: int, parameters: int) -> ModelEntry:
    """A plain CIFAR ResNet of bottlenecks, depth 9n + 2."""
    build = partial(_build_cifar_resnet, depth, block="bottleneck", shortcut="projection")
    architecture = {"family": "cifar_resnet", "depth": depth, "block": "bottleneck"}
    return replace(_untrained(f"resnet{depth}", build, parameters, 256, architecture), options=_ONLY_PROJECTION)


def preact_resnet(depth: int, parameters: int | None = None, *, block: Block = "basic") -> ModelEntry:
    """A pre-activation CIFAR ResNet, depth 6n + 2 with basic blocks, 9n + 2 with bottlenecks."""
    build = partial(_build_preact_resnet, depth, block)
    architecture = {"family": "preact_cifar_resnet", "depth": depth, "block": block}
    num_features = 64 if block == "basic" else 256
    entry = _untrained(f"preresnet{depth}", build, parameters, num_features, architecture)
    return replace(entry, options=_ONLY_PROJECTION)


def custom_resnet(parameters: int) -> ModelEntry:
    """The shallow, wide one."""
    return _untrained("custom_resnet", _build_custom_resnet, parameters, 512, {"family": "custom_resnet"})


def resnet_32x32(depth: int, parameters: int, blocks: tuple[int, ...]) -> ModelEntry:
    """A ResNet of the ImageNet type with a stem for 32x32 images."""
    architecture = {"family": "resnet_32x32", "blocks": list(blocks)}
    return _untrained(f"resnet{depth}_32x32", partial(_build_resnet_32x32, blocks), parameters, 512, architecture)


def _untrained(
    name: str, build: Callable[..., nn.Module], parameters: int | None, num_features: int, architecture: dict[str, Any]
) -> ModelEntry:
    return ModelEntry(
        name=name,
        build=build,
        dataset="cifar10",
        num_classes=10,
        preprocessing=CIFAR,
        parameters=parameters,
        num_features=num_features,
        source=OURS,
        licence=OUR_LICENCE,
        architecture=architecture,
    )
