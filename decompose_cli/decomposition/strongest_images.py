"""The images that features respond to most, and how a network sees them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel
from torch import Tensor

from decompose_cli.datasets.batches import shown_levels
from decompose_cli.decomposition.chosen_images import from_dataset
from decompose_cli.features.study import Study
from decompose_cli.messages import track
from decompose_cli.models.copying import in_float32
from decompose_cli.models.maps import feature_maps
from decompose_cli.models.tracing import example_images

_AT_ONCE = 16


class FilterImage(BaseModel):
    """One of the images with the highest value of a feature: its number in the split, from 0, and its file, if any.

    ``box``: where it lies in a picture of ``filters``: left, top, right and bottom in pixels; null if it does not.
    """

    image: int
    name: str | None = None
    label: int
    label_name: str
    value: float
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class SeenImage:
    """An image that ran through the network.

    Attributes:
        number: Its number in the split.
        pixels: Its pixels as the network sees them, uint8 (3, H, W).
        maps: Maps (d, h, w) of the d features that were asked for; None where features are no means of maps.
    """

    number: int
    pixels: Tensor
    maps: Tensor | None


def strongest_images(study: Study, values: Tensor, count: int) -> list[FilterImage]:
    """The images with the highest values of a feature, the highest first, of equals the first of the split.

    Args:
        study: The images.
        values: Values of the feature, (N,).
        count: How many images.
    """
    names = study.class_map.names
    best = values.argsort(descending=True, stable=True)[:count].tolist()
    return [
        FilterImage(
            image=number,
            name=study.split.file_of(number),
            label=int(study.labels[n]),
            label_name=names[int(study.labels[n])],
            value=float(values[n]),
        )
        for n, number in zip(best, study.in_split(best), strict=True)
    ]


def seen_images(study: Study, numbers: Collection[int], features: Sequence[int]) -> Iterator[SeenImage]:
    """Run images through the network, each of them once.

    Args:
        study: The network and the images.
        numbers: Numbers of images in the split.
        features: The features whose maps are wanted.

    Yields:
        The images in the order of their numbers.
    """
    network = study.classifier.load(study.preprocessing.crop)
    module = in_float32(network.module, example_images(network.input_size, model=network.module))
    head = module.get_submodule(network.head.name)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (study.preprocessing.mean, study.preprocessing.std))
    ordered, wanted = sorted(set(numbers)), list(features)
    with track("Pictures", len(ordered)) as advance:
        for start in range(0, len(ordered), _AT_ONCE):
            part = ordered[start : start + _AT_ONCE]
            images = torch.stack([image.pixels for image in from_dataset(study, part)])
            _, maps = feature_maps(module, head, (images / 255 - mean) / std)
            for place, number in enumerate(part):
                own = None if maps is None else maps[place, wanted]
                yield SeenImage(number, shown_levels(images[place]), own)
            advance(len(part))
