"""The networks known by name, each with its facts. Nothing here imports torch until a network is built."""

from __future__ import annotations

import difflib
import re
from bisect import bisect
from dataclasses import replace
from functools import partial
from pathlib import Path

from decompose_cli.errors import InputError, param
from decompose_cli.models import imagenet, small_networks
from decompose_cli.models.entry import (
    DEFAULT_MODEL,
    OUR_LICENCE,
    OURS,
    ModelEntry,
    hash_in_name,
    register,
    registered_models,
)
from decompose_cli.preprocessing import IMAGENET

__all__ = ["DEFAULT_MODEL", "ModelEntry", "get_entry", "hash_in_name", "register", "registered_models"]

_DEEPEST = 1202  # in the paper; deeper ones could hardly be trained


def get_entry(name: str) -> ModelEntry:
    """Find a network by name: a registered one, a CIFAR ResNet of any depth, or any torchvision classifier.

    Raises:
        InputError: There is no such network; the sentence names similar ones.
    """
    for entry in registered_models():
        if entry.name == name:
            return entry
    # These come before torchvision, which takes a second to import and has no such names but the registered ones.
    if match := re.fullmatch(r"(pre)?resnet([1-9]\d{0,8})", name, re.ASCII):
        return _cifar_resnet_of_depth(match.group(1) or "", int(match.group(2)))
    if re.fullmatch(r"[a-z][a-z0-9_]*", name):
        torchvision = imagenet.torchvision_entry(name)
        if torchvision is not None:
            return torchvision
    hint = _NAMES_HINT
    if Path(name).suffix in (".pt", ".pth", ".th", ".safetensors"):
        hint = f"Is {name} a weights file? Name its model, and give the file with {param('weights')}."
    elif Path(name).suffix == ".json":
        hint = f"Is {name} an index file? Name its model, and give the file with {param('indices')}."
    elif Path(name).is_dir():
        hint = f"Is {name} the folder of a run? Give its weights with {param('weights')} {Path(name) / 'best.pt'}."
    raise InputError(f"There is no model {name!r}{_suggestion(name)}.", hint=hint)


_NAMES_HINT = (
    "'decompose models' lists the models; any torchvision classifier goes by its name, others as timm:NAME or "
    "hf:ORG/NAME, and a network of yours as package.module:callable."
)


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), [entry.name for entry in registered_models()], n=2)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _cifar_resnet_of_depth(prefix: str, depth: int) -> ModelEntry:
    """A CIFAR ResNet that is not registered; ``resnet50`` and the like are, so these are torchvision's."""
    if depth % 6 == 2 and 8 <= depth <= _DEEPEST:
        return small_networks.untrained_cifar_resnet(depth) if prefix == "" else small_networks.preact_resnet(depth)
    if depth % 9 == 2 and 11 <= depth <= _DEEPEST:
        if prefix == "":
            return small_networks.bottleneck_resnet(depth)
        return small_networks.preact_resnet(depth, block="bottleneck")
    names = [entry.name for entry in registered_models()]
    known = {int(n.removeprefix(f"{prefix}resnet")) for n in names if re.fullmatch(rf"{prefix}resnet\d+", n)}
    depths = sorted(known.union(range(8, _DEEPEST + 1, 6), range(11, _DEEPEST + 1, 9)))
    nearest = [depths[: bisect(depths, depth)][-1:], depths[bisect(depths, depth) :][:1]]
    near = " or ".join(f"{prefix}resnet{depth}" for neighbours in nearest for depth in neighbours)
    raise InputError(
        f"There is no model '{prefix}resnet{depth}': such networks have 6n + 2 layers, with bottlenecks 9n + 2, "
        f"{_DEEPEST} at most (did you mean {near}?).",
        hint=_NAMES_HINT,
    )


def _torchvision_resnet(name: str, parameters: int, num_features: int, file: str, accuracy: float) -> ModelEntry:
    return ModelEntry(
        name=name,
        build=partial(imagenet.build, name),
        dataset="imagenet",
        num_classes=1000,
        preprocessing=IMAGENET,
        parameters=parameters,
        num_features=num_features,
        weights=f"https://download.pytorch.org/models/{file}",
        sha256=hash_in_name(file),
        accuracy=accuracy,
        source="torchvision",
        licence="BSD-3-Clause",
        architecture={"family": "torchvision", "name": name},
    )


_resnet20 = small_networks.cifar_resnet(20, 269_722, "resnet20-12fca82f.th", 91.73)
for _entry in (
    replace(
        _resnet20,
        name=DEFAULT_MODEL,
        dataset="digits",
        weights=Path("resnet20-digits.safetensors"),
        sha256="3f915981",
        accuracy=99.44,
        source=OURS,
        licence=OUR_LICENCE,
    ),
    _resnet20,
    small_networks.cifar_resnet(32, 464_154, "resnet32-d509ac18.th", 92.63),
    small_networks.cifar_resnet(44, 658_586, "resnet44-014dd654.th", 93.10),
    small_networks.cifar_resnet(56, 853_018, "resnet56-4bfd9763.th", 93.39),
    small_networks.cifar_resnet(110, 1_727_962, "resnet110-1d1ed7c2.th", 93.68),
    small_networks.cifar_resnet(1202, 19_421_274, "resnet1202-f3b1deed.th", 93.82),
    small_networks.bottleneck_resnet(164, 1_704_154),
    small_networks.preact_resnet(20, 272_282),
    small_networks.preact_resnet(110, 1_730_522),
    small_networks.preact_resnet(164, 1_703_258, block="bottleneck"),
    small_networks.custom_resnet(6_573_130),
    small_networks.resnet_32x32(18, 11_173_962, (2, 2, 2, 2)),
    small_networks.resnet_32x32(34, 21_282_122, (3, 4, 6, 3)),
    _torchvision_resnet("resnet18", 11_689_512, 512, "resnet18-5c106cde.pth", 69.758),
    _torchvision_resnet("resnet34", 21_797_672, 512, "resnet34-333f7ec4.pth", 73.314),
    _torchvision_resnet("resnet50", 25_557_032, 2048, "resnet50-19c8e357.pth", 76.130),
    _torchvision_resnet("resnet101", 44_549_160, 2048, "resnet101-5d3b4d8f.pth", 77.374),
    _torchvision_resnet("resnet152", 60_192_808, 2048, "resnet152-b121ed2d.pth", 78.312),
    _torchvision_resnet("resnext50_32x4d", 25_028_904, 2048, "resnext50_32x4d-7cdf4587.pth", 77.618),
    _torchvision_resnet("resnext101_32x8d", 88_791_336, 2048, "resnext101_32x8d-8ba56ff5.pth", 79.312),
    _torchvision_resnet("wide_resnet50_2", 68_883_240, 2048, "wide_resnet50_2-95faca4d.pth", 78.468),
    _torchvision_resnet("wide_resnet101_2", 126_886_696, 2048, "wide_resnet101_2-32ee1156.pth", 78.848),
):
    register(_entry)
