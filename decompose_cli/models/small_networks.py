"""Entries of the networks for 32x32 images. Nothing here imports torch until a network is built."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from decompose_cli.errors import InputError, param
from decompose_cli.models.entry import OUR_LICENCE, OURS, ModelEntry, Options, hash_in_name
from decompose_cli.models.gate_entry import GATE_DETAILS, has_bottlenecks
from decompose_cli.models.gate_kinds import GATES, NO_GATE, gate_shown_by, settle_gate
from decompose_cli.preprocessing import CIFAR, CIFAR_OF_GATES, Size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from decompose_cli.models.blocks import PreActShortcut, Shortcut
    from decompose_cli.models.cifar_resnet import Block

_SHORTCUTS: Options = {"shortcut": ("identity", "projection")}
_ONLY_PROJECTION: Options = {"shortcut": ("projection",)}
_PREACT_SHORTCUTS: Options = {"shortcut": ("projection", "input-projection")}
_UNITS_OF = {"basic": 6, "bottleneck": 9}
"""Layers that a further block in each of the three stages adds: a depth is this number times n, plus 2."""


class _WithGates(Mapping[str, tuple[str, ...]]):
    """Options of a network, and those of the gates that are registered by the time someone looks.

    Args:
        own: Options of the network alone.
    """

    def __init__(self, own: Options) -> None:
        self._own = own

    def _all(self) -> Options:
        return {**self._own, "gate": (NO_GATE, *GATES), **GATE_DETAILS}

    @override
    def __getitem__(self, name: str) -> tuple[str, ...]:
        return self._all()[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    @override
    def __len__(self) -> int:
        return len(self._all())


def _build_cifar_resnet(
    depth: int,
    num_classes: int,
    *,
    block: Block = "basic",
    shortcut: Shortcut = "identity",
    gate: str = NO_GATE,
    input_size: Size = (32, 32),
    pretrained: bool = False,
    **gate_details: str,
) -> nn.Module:
    if gate == NO_GATE:
        from decompose_cli.models.cifar_resnet import CifarResNet

        return CifarResNet(depth, num_classes, shortcut=shortcut, block=block)
    from decompose_cli.models.gated_resnet import StageGatedResNet, UnitGatedResNet

    if num_classes < 2:
        raise InputError(f"A gate needs at least 2 classes to choose between, and there is {num_classes}.")
    if GATES[gate].level == "layer":
        return UnitGatedResNet(depth, num_classes, gate=gate, block=block, **gate_details)
    if depth < 2 * _UNITS_OF[block] + 2:
        raise InputError(
            f"resnet{depth} has stages of one unit, and gate {gate} needs a first and a last one: 14 layers at least, "
            "with bottlenecks 20."
        )
    return StageGatedResNet(depth, num_classes, gate=gate, block=block, input_size=input_size, **gate_details)


def _settle_cifar_resnet(usual: str, options: Mapping[str, str]) -> dict[str, str]:
    """Give gates and bottlenecks their projection shortcuts, and leave out options that are at their default."""
    wanted = dict(options)
    block = wanted.get("block", usual)
    gate = settle_gate({name: wanted[name] for name in ("gate", *GATE_DETAILS) if name in wanted})
    needs_projection = bool(gate) or block == "bottleneck"
    if needs_projection and wanted.get("shortcut") == "identity":
        what = "Gated networks" if gate else "Bottlenecks"
        raise InputError(f"{what} have projection shortcuts; leave {param('shortcut')} identity out.")
    default = "identity" if usual == "basic" else "projection"
    shortcut = wanted.get("shortcut", "projection" if needs_projection else default)
    return {
        **({} if block == usual else {"block": block}),
        **({} if shortcut == default else {"shortcut": shortcut}),
        **gate,
    }


def _build_preact_resnet(
    depth: int,
    num_classes: int,
    *,
    block: Block = "basic",
    shortcut: PreActShortcut = "projection",
    pretrained: bool = False,
) -> nn.Module:
    from decompose_cli.models.cifar_resnet import PreActCifarResNet

    return PreActCifarResNet(depth, num_classes, block=block, shortcut=shortcut)


def _build_custom_resnet(num_classes: int, *, pretrained: bool = False) -> nn.Module:
    from decompose_cli.models.custom_resnet import CustomResNet

    return CustomResNet(num_classes)


def _build_resnet_32x32(blocks: tuple[int, ...], num_classes: int, *, pretrained: bool = False) -> nn.Module:
    from decompose_cli.models.resnet_32x32 import ResNet32x32

    return ResNet32x32(blocks, num_classes)


def _recognise_cifar_resnet(usual: str, blocks: Collection[str], state: Mapping[str, Tensor]) -> dict[str, str]:
    """The options that a state dict shows.

    Projections have parameters called ``downsample``, identity shortcuts none at all; gates have names of their own.
    Details that no weight shows are those of the code that published such networks.
    """
    if any("layer4." in name for name in state):  # another kind of network, whose shortcuts are not these
        return {}
    gate = gate_shown_by(state)
    shown: dict[str, str] = {}
    block = "bottleneck" if has_bottlenecks(state) else "basic"
    if "layer1.0.conv2.weight" in state and block != usual and block in blocks:
        shown["block"] = block
    if gate is not None:
        shown |= {"gate": gate, **GATES[gate].published_for(state)}
    elif usual != "bottleneck" and any(".downsample." in name for name in state):
        shown["shortcut"] = "projection"
    return shown


def _recognise_preact_resnet(usual: str, blocks: Collection[str], state: Mapping[str, Tensor]) -> dict[str, str]:
    """The units that a state dict shows, and the shortcuts of published networks.

    Ours have the same weights, and say in a description that they are ours.
    """
    block = "bottleneck" if has_bottlenecks(state) else "basic"
    own = {"block": block} if block != usual and block in blocks else {}
    return {**own, "shortcut": "input-projection"}


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
    """A plain CIFAR ResNet of any depth 6n + 2, without weights."""
    architecture = {"family": "cifar_resnet", "depth": depth}
    entry = _untrained(f"resnet{depth}", partial(_build_cifar_resnet, depth), None, 64, architecture)
    return _with_options(entry, depth, "basic", _SHORTCUTS)


def bottleneck_resnet(depth: int, parameters: int | None = None) -> ModelEntry:
    """A plain CIFAR ResNet of bottlenecks, depth 9n + 2."""
    build = partial(_build_cifar_resnet, depth, block="bottleneck", shortcut="projection")
    architecture = {"family": "cifar_resnet", "depth": depth, "block": "bottleneck"}
    entry = _untrained(f"resnet{depth}", build, parameters, 256, architecture)
    return _with_options(entry, depth, "bottleneck", _ONLY_PROJECTION)


def _with_options(entry: ModelEntry, depth: int, usual: Block, shortcuts: Options) -> ModelEntry:
    blocks = _blocks_of(depth, usual)
    return replace(
        entry,
        options=_WithGates({**shortcuts, "block": blocks}),
        settle=partial(_settle_cifar_resnet, usual),
        recognise=partial(_recognise_cifar_resnet, usual, blocks),
        unseen=tuple(GATE_DETAILS),
        of_published_gates=CIFAR_OF_GATES,
        depends_on_size=True,
    )


def _blocks_of(depth: int, usual: Block) -> tuple[Block, ...]:
    """The kinds of residual units that a depth allows, the usual one first."""
    other: Block = "bottleneck" if usual == "basic" else "basic"
    return (usual, other) if depth % _UNITS_OF[other] == 2 else (usual,)


def preact_resnet(depth: int, parameters: int | None = None, *, block: Block = "basic") -> ModelEntry:
    """A pre-activation CIFAR ResNet, depth 6n + 2 with basic blocks, 9n + 2 with bottlenecks."""
    build = partial(_build_preact_resnet, depth, block=block)
    architecture = {"family": "preact_cifar_resnet", "depth": depth, "block": block}
    num_features = 64 if block == "basic" else 256
    entry = _untrained(f"preresnet{depth}", build, parameters, num_features, architecture)
    blocks = _blocks_of(depth, block)
    return replace(
        entry,
        options={**_PREACT_SHORTCUTS, "block": blocks},
        recognise=partial(_recognise_preact_resnet, block, blocks),
        unseen=("shortcut",),
    )


def custom_resnet(parameters: int) -> ModelEntry:
    """The shallow, wide ResNet."""
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
