"""What a network makes of single images: both heads, where it looks, and what the filters of its class see there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel
from torch import Tensor

from decompose_cli.decomposition.chosen_images import ChosenImage
from decompose_cli.decomposition.deletion import DRAWS, FRACTION, deletion_drops, highlighted
from decompose_cli.decomposition.heads import Heads
from decompose_cli.decomposition.statistics import mean_interval
from decompose_cli.models.classifier import Network
from decompose_cli.models.head import evaluating
from decompose_cli.models.maps import class_maps, feature_maps, grad_cam
from decompose_cli.preprocessing import Preprocessing

_TOP = 5


class ClassScore(BaseModel):
    """One class: its number, name, logit and softmax probability."""

    number: int
    name: str
    logit: float
    probability: float


class FilterSums(BaseModel):
    """A logit of the predicted class, taken apart: ``own`` filters, ``others``, ``bias``.

    ``own`` + ``bias`` is the decomposed head's logit, ``own`` + ``others`` + ``bias`` the full one's. ``error``: the
    largest difference between these and the logits that the heads give.
    """

    filters: list[int]
    own: float
    others: float | None
    bias: float
    error: float


class Explanation(BaseModel):
    """Of one image; ``original`` and ``decomposed``: the five highest classes of each head."""

    image: str
    label: int | None
    label_name: str | None
    predicted: int
    predicted_name: str
    original: list[ClassScore] | None
    decomposed: list[ClassScore] | None
    sums: FilterSums | None
    file: str | None


class DeletionFigures(BaseModel):
    """Mean loss of the predicted class's logit where a fifth of the image is replaced by the mean colour.

    ``highlighted``: the fifth where the map is highest; ``elsewhere``: areas of the same shape at random places;
    ``difference`` first minus second, with Student's interval over the images.
    """

    map: str
    images: int
    fraction: float
    draws: int
    highlighted: float
    elsewhere: float
    difference: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class ImageMaps:
    """Maps (h, w) of one image: Grad-CAM of the predicted and of the true class, and what its class's filters add.

    ``own`` and ``others`` are what each position adds to the logit of the predicted class by its own filters and by all
    others; None where that cannot be told.
    """

    predicted: Tensor
    true: Tensor | None
    own: Tensor | None
    others: Tensor | None


class Explainer:
    """Makes explanations and pictures, and remembers what deletion does to all images.

    Args:
        network: Left as it was found.
        preprocessing: Of its images.
        names: Of its classes.
        heads: The full and the decomposed one, as far as there are.
        layer: Of Grad-CAM, by name.
        seed: For the places elsewhere.
    """

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        names: Sequence[str],
        heads: Heads,
        layer: str,
        seed: int,
    ) -> None:
        self.network, self.preprocessing, self.names, self.heads = network, preprocessing, names, heads
        self.module = network.module
        self.layer = self.module.get_submodule(layer)
        self.head = self.module.get_submodule(network.head_name)
        self.lacks_maps = False
        self.generator = torch.Generator().manual_seed(seed)
        self.drops: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def explain(self, images: Sequence[ChosenImage]) -> list[tuple[Explanation, ImageMaps]]:
        """Of at most a few images at a time."""
        given = self.preprocessing
        pixels = torch.stack([image.pixels for image in images])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (given.mean, given.std))
        x = (pixels / 255 - mean) / std
        features, maps = feature_maps(self.module, self.head, x)
        original = self.heads.original(features) if self.heads.original is not None else None
        decomposed = self.heads.decomposed(features).detach() if self.heads.decomposed is not None else None
        main = original if original is not None else decomposed
        assert main is not None
        predicted = main.argmax(1)
        labels = torch.tensor(
            [p if image.label is None else image.label for image, p in zip(images, predicted.tolist(), strict=True)]
        )
        cams = {"predicted": grad_cam(self.module, self.layer, x, predicted)}
        cams["true"] = grad_cam(self.module, self.layer, x, labels)
        own, others = self._filter_maps(maps, predicted)
        self._delete(x, predicted, {"Grad-CAM": cams["predicted"], "own filters": own})
        results = []
        for number, image in enumerate(images):
            label = image.label
            c = int(predicted[number])
            sums = self._sums(number, c, features, own, others, original, decomposed)
            names = self.names
            explanation = Explanation(
                image=image.name,
                label=label,
                label_name=None if label is None else names[label],
                predicted=c,
                predicted_name=names[c],
                original=None if original is None else self._top(original[number]),
                decomposed=None if decomposed is None else self._top(decomposed[number]),
                sums=sums,
                file=None,
            )
            is_wrong = label is not None and label != c
            seen = ImageMaps(
                cams["predicted"][number],
                cams["true"][number] if is_wrong else None,
                own[number] if own is not None else None,
                others[number] if others is not None else None,
            )
            results.append((explanation, seen))
        return results

    def _filter_maps(self, maps: Tensor | None, classes: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What each position adds to the logit of a class by its own filters, and by all others."""
        if maps is None:
            self.lacks_maps = True
        if maps is None or self.heads.decomposed is None:
            return None, None
        rows = self._own_weights()[classes]
        own = class_maps(maps, rows)
        if self.heads.original is None:
            return own, None
        full = self.network.tensors.weight[classes]
        return own, class_maps(maps, torch.where(self._is_own()[classes], 0.0, full))

    def _own_weights(self) -> Tensor:
        """(C, D), zero where a filter is not the class's own."""
        head = self.heads.decomposed
        assert head is not None
        dense = torch.zeros(len(head.bias), head.num_features)
        return dense.scatter_add_(1, head.indices, head.weight.detach() * head.mask)

    def _is_own(self) -> Tensor:
        head = self.heads.decomposed
        assert head is not None
        dense = torch.zeros(len(head.bias), head.num_features)
        return dense.scatter_add_(1, head.indices, head.mask.float()) > 0

    def _sums(
        self,
        number: int,
        c: int,
        features: Tensor,
        own: Tensor | None,
        others: Tensor | None,
        original: Tensor | None,
        decomposed: Tensor | None,
    ) -> FilterSums | None:
        head = self.heads.decomposed
        if own is None or head is None or decomposed is None:
            return None
        bias = float(head.bias.detach()[c])
        first = float(own[number].double().sum())
        errors = [abs(first + bias - float(decomposed[number, c]))]
        second = None
        if others is not None and original is not None:
            second = float(others[number].double().sum())
            errors.append(abs(first + second + bias - float(original[number, c])))
        return FilterSums(filters=list(head.classes()[c]), own=first, others=second, bias=bias, error=max(errors))

    def _delete(self, x: Tensor, classes: Tensor, maps: dict[str, Tensor | None]) -> None:
        def logit(images: Tensor) -> Tensor:
            with evaluating(self.module), torch.no_grad():
                found: Tensor = self.module(images)
            return found.gather(1, classes[:, None])[:, 0]

        for name, found in maps.items():
            if found is not None:
                mask = highlighted(found, self.preprocessing.crop)
                self.drops.setdefault(name, []).append(deletion_drops(logit, x, mask, self.generator))

    def figures(self) -> list[DeletionFigures]:
        """Of all images so far."""
        found = []
        for name, parts in self.drops.items():
            here, elsewhere = (torch.cat([part[side] for part in parts]) for side in (0, 1))
            difference, _, interval = mean_interval((here - elsewhere).tolist())
            found.append(
                DeletionFigures(
                    map=name,
                    images=len(here),
                    fraction=FRACTION,
                    draws=DRAWS,
                    highlighted=float(here.mean()),
                    elsewhere=float(elsewhere.mean()),
                    difference=difference,
                    ci95=interval,
                )
            )
        return found

    def _top(self, logits: Tensor) -> list[ClassScore]:
        probabilities = logits.double().softmax(0)
        best = logits.argsort(descending=True, stable=True)[:_TOP].tolist()
        return [
            ClassScore(number=c, name=self.names[c], logit=float(logits[c]), probability=float(probabilities[c]))
            for c in best
        ]
