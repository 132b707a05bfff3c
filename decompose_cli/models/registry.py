"""The networks known by name, each with its facts. Nothing here imports torch until a network is built."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.errors import InputError
from decompose_cli.preprocessing import CIFAR, IMAGENET, Preprocessing

if TYPE_CHECKING:
    from torch import nn

DEFAULT_MODEL = "resnet20-digits"


@dataclass(frozen=True)
class ModelEntry:
    """A network and where its published weights are.

    Attributes:
        name: As written on the command line.
        build: Takes the number of classes and ``pretrained`` (whether the default weights will be loaded, which a few
            torchvision networks need to know), returns the untrained module.
        dataset: What it was trained on, the default of ``--dataset``; None if unknown.
        num_classes: Of the default weights.
        parameters: Number of trainable parameters with that many classes.
        num_features: D, the size of the input of the head.
        weights: URL of the default weights, or the path of a file that ships with the package; None if there are none.
        sha256: Leading hexadecimal digits of the file's hash (at least 8), if known.
        accuracy: Top-1 accuracy in percent stated by ``source`` for the default weights.
        source: Who trained it.
        licence: Of the weights.
        preprocessing: What the network expects; None for a network of the user's, which takes the data set's.
        unread: Prefixes of parameters that training used and inference never reads (auxiliary heads).
        caution: What to say when other than the default weights are loaded.
        architecture: Identifies the function that ``build`` makes; part of the key of cached features.
    """

    name: str
    build: Callable[..., nn.Module]
    dataset: str | None
    num_classes: int
    preprocessing: Preprocessing | None
    parameters: int | None = None
    num_features: int | None = None
    weights: str | Path | None = None
    sha256: str | None = None
    accuracy: float | None = None
    source: str = ""
    licence: str = ""
    architecture: dict[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    caution: str | None = None

    def facts(self) -> dict[str, Any]:
        """What is known, JSON-ready."""
        names = (
            "name",
            "dataset",
            "num_classes",
            "parameters",
            "num_features",
            "accuracy",
            "sha256",
            "licence",
            "source",
        )
        return {**{name: getattr(self, name) for name in names}, "weights": str(self.weights)}


_REGISTRY: dict[str, ModelEntry] = {}


def register(entry: ModelEntry) -> None:
    """Add a network.

    Raises:
        ValueError: The name is taken.
    """
    if entry.name in _REGISTRY:
        raise ValueError(f"a model named {entry.name!r} is registered already")
    _REGISTRY[entry.name] = entry


def registered_models() -> tuple[ModelEntry, ...]:
    """All registered networks, in the order in which they are shown."""
    return tuple(_REGISTRY.values())


def get_entry(name: str) -> ModelEntry:
    """Find a network by name: a registered one or any torchvision classifier.

    Raises:
        InputError: No such network; the sentence names similar ones.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    if re.fullmatch(r"[a-z][a-z0-9_]*", name):
        from decompose_cli.models.imagenet import torchvision_entry

        entry = torchvision_entry(name)
        if entry is not None:
            return entry
    hint = _NAMES_HINT
    if Path(name).suffix in (".pt", ".pth", ".th", ".safetensors"):
        hint = f"A weights file comes after the model: MODEL -w {name}."
    raise InputError(f"There is no model {name!r}{_suggestion(name)}.", hint=hint)


_NAMES_HINT = (
    "'decompose models' lists the models; any torchvision classifier goes by its name, and a network of yours as "
    "package.module:callable."
)


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), _REGISTRY, n=2)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def hash_in_name(url: str) -> str | None:
    """The leading digits of the SHA-256 in a file name such as ``resnet50-19c8e357.pth`` (torch.hub's convention).

    Digits alone are rather a date or an epoch.
    """
    match = re.search(r"-([0-9a-f]{8,64})\.[A-Za-z]+$", url.split("?")[0])
    return match.group(1) if match and not match.group(1).isdigit() else None


def _build_cifar_resnet(depth: int, num_classes: int, *, pretrained: bool = False) -> nn.Module:
    from decompose_cli.models.cifar_resnet import CifarResNet

    return CifarResNet(depth, num_classes)


def _cifar_resnet(depth: int, parameters: int, file: str, accuracy: float) -> ModelEntry:
    return ModelEntry(
        name=f"resnet{depth}",
        build=partial(_build_cifar_resnet, depth),
        dataset="cifar10",
        num_classes=10,
        preprocessing=CIFAR,
        parameters=parameters,
        num_features=64,
        weights=f"https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/{file}",
        sha256=hash_in_name(file),
        accuracy=accuracy,
        source="akamaster/pytorch_resnet_cifar10",
        licence="BSD-2-Clause",
        architecture={"family": "cifar_resnet", "depth": depth},
    )


def _torchvision_resnet(name: str, parameters: int, num_features: int, file: str, accuracy: float) -> ModelEntry:
    from decompose_cli.models import imagenet

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


register(
    ModelEntry(
        name=DEFAULT_MODEL,
        build=partial(_build_cifar_resnet, 20),
        dataset="digits",
        num_classes=10,
        preprocessing=CIFAR,
        parameters=269_722,
        num_features=64,
        weights=Path("resnet20-digits.safetensors"),
        sha256="9b4bf3f0",
        accuracy=98.89,
        source="this project",
        licence="MIT",
        architecture={"family": "cifar_resnet", "depth": 20},
    )
)
for _entry in (
    _cifar_resnet(20, 269_722, "resnet20-12fca82f.th", 91.73),
    _cifar_resnet(32, 464_154, "resnet32-d509ac18.th", 92.63),
    _cifar_resnet(44, 658_586, "resnet44-014dd654.th", 93.10),
    _cifar_resnet(56, 853_018, "resnet56-4bfd9763.th", 93.39),
    _cifar_resnet(110, 1_727_962, "resnet110-1d1ed7c2.th", 93.68),
    _cifar_resnet(1202, 19_421_274, "resnet1202-f3b1deed.th", 93.82),
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
