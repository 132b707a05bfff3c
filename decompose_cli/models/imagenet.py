"""Torchvision's classifiers, found by name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from decompose_cli.errors import param
from decompose_cli.models.entry import ModelEntry, hash_in_name
from decompose_cli.preprocessing import IMAGENET, Preprocessing, parse_interpolation

if TYPE_CHECKING:
    from torch import nn

# These two rescale their input when (and only when) torchvision loads its own weights into them.
_RESCALES_INPUT = ("googlenet", "inception_v3")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_CAUTION = (
    "{} is used with ImageNet's normalisation; torchvision's own weights, and what is fine-tuned from them, expect "
    f"each channel as (x - 0.5) / 0.5: then give {param('mean')} 0.5,0.5,0.5 and {param('std')} 0.5,0.5,0.5."
)


def build(name: str, num_classes: int, *, pretrained: bool = False) -> nn.Module:
    """Build torchvision's ``name`` with random weights.

    Args:
        name: A classifier of ``torchvision.models``.
        num_classes: Outputs of its head.
        pretrained: Whether torchvision's published weights are going to be loaded.
    """
    from torchvision.models import get_model

    arguments: dict[str, Any] = {}
    if name in _RESCALES_INPUT:
        arguments = {"init_weights": False, "aux_logits": False, "transform_input": pretrained}
    module: nn.Module = get_model(name, weights=None, num_classes=num_classes, **arguments)
    return module


def torchvision_classifiers() -> list[str]:
    """Names of all classifiers of the installed torchvision."""
    from torchvision import models

    return list(models.list_models(module=models))


def torchvision_entry(name: str) -> ModelEntry | None:
    """The entry of a torchvision classifier that is not in the registry, or None if there is no such classifier.

    Its weights, input size and constants are those of the oldest ImageNet-1k weights that torchvision publishes.
    """
    if name not in torchvision_classifiers():
        return None
    from torchvision.models import get_model_weights

    weights = next(iter(get_model_weights(name)), None)
    preprocessing, url, parameters, accuracy = IMAGENET, None, None, None
    if weights is not None:
        preprocessing = _preprocessing_of(weights.transforms())
        url = weights.url
        parameters = weights.meta.get("num_params")
        metrics: dict[str, dict[str, float]] = weights.meta.get("_metrics", {})
        accuracy = metrics.get("ImageNet-1K", {}).get("acc@1")
    return ModelEntry(
        name=name,
        build=partial(build, name),
        dataset="imagenet",
        num_classes=1000,
        preprocessing=preprocessing,
        parameters=parameters,
        weights=url,
        sha256=hash_in_name(url) if url else None,
        accuracy=accuracy,
        source="torchvision",
        licence="BSD-3-Clause",
        architecture={"family": "torchvision", "name": name},
        unread=_AUXILIARY if name in _RESCALES_INPUT else (),
        caution=_CAUTION.format(name) if name in _RESCALES_INPUT else None,
    )


def _preprocessing_of(transforms: Any) -> Preprocessing:
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    return Preprocessing(
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        resize=resize,
        crop=(crop, crop),
        interpolation=parse_interpolation(transforms.interpolation.value),
    )
