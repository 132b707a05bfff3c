"""What a network makes of single images: both heads, where it looks, and what the filters of its class see there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from decompose_cli.decomposition.chosen_images import ChosenImage
from decompose_cli.decomposition.deletion import DRAWS, FRACTION, deletion_drops, highlighted, places
from decompose_cli.decomposition.heads import Heads, with_decomposed_head
from decompose_cli.decomposition.reasons import Reason, reasons
from decompose_cli.errors import DecomposeError
from decompose_cli.models.cam_layer import CamLayer
from decompose_cli.models.copying import in_float32, number_type
from decompose_cli.models.logits import logits_of
from decompose_cli.models.maps import class_maps, feature_maps, grad_cam
from decompose_cli.models.network import Network
from decompose_cli.models.tracing import evaluating, example_images
from decompose_cli.preprocessing import Preprocessing, Size
from decompose_cli.statistics import mean_interval

_TOP = 5


class ClassScore(BaseModel):
    """One class: its number, name, logit and softmax probability."""

    number: int
    name: str
    logit: float
    probability: float


class FilterSums(BaseModel):
    """A logit of the predicted class, taken apart: ``own`` filters, ``others``, ``bias``.

    ``own`` + ``bias`` is the decomposed head's logit, ``own`` + ``others`` + ``bias`` the full head's, unless the
    decomposed head has weights of its own: then ``others`` is null. ``error`` is the largest difference between these
    sums and the logits that the heads give.
    """

    filters: list[int]
    own: float
    others: float | None
    bias: float
    error: float


class MapShown(BaseModel):
    """A map beside an image: ``what`` it shows, the ``largest`` value of its scale, and whether that has both signs."""

    what: str
    largest: float
    signed: bool


class Explanation(BaseModel):
    """The explanation of one image; ``name``: its file, relative to the data set, where it has one.

    ``original`` and ``decomposed`` are the five highest classes of each head.

    ``predicted`` is what the network says: the full head, unless the decomposed one has weights of its own.
    ``size`` is (height, width) of the image as it was given, and ``resized`` that to which it was resized before the
    network's part was cut out of its middle; null in results of before.

    ``maps`` are those of the picture, from the left, after the image, before which it stands whole where ``has_whole``
    says so; null in results of before.

    ``probability``: of the prediction, in the head that makes it; null in results of before.

    ``reasons``: where the prediction is not the label, what does most to put it above the label, in the decomposed head
    where that says the same, else in the full one.
    """

    image: str
    name: str | None = None
    label: int | None
    label_name: str | None
    predicted: int
    predicted_name: str
    original: list[ClassScore] | None
    decomposed: list[ClassScore] | None
    sums: FilterSums | None
    file: str | None
    size: Size | None = None
    resized: Size | None = None
    maps: list[MapShown] | None = None
    has_whole: bool = False
    reasons: list[Reason] = Field(default_factory=list)
    probability: float | None = None

    @property
    def shown(self) -> str:
        """The image by its file, or its number where it has none."""
        return self.name or self.image

    def geometry(self, crop: Sequence[int]) -> str | None:
        """How the image became what the network saw; None where it saw it pixel for pixel, or where that is not known.

        Args:
            crop: (height, width) of what the network takes.
        """
        if self.size is None or self.resized is None or tuple(crop) == self.resized == self.size:
            return None
        given, resized, seen = ("x".join(map(str, sides)) for sides in (self.size, self.resized, crop))
        made = f"{given} pixels" if self.resized == self.size else f"{given} pixels, made {resized}"
        if tuple(crop) == self.resized:
            return made
        if any(side < cut for side, cut in zip(self.resized, crop, strict=True)):
            return f"{made}, which the network sees with black around them, as {seen}"
        return f"{made}, of which the network sees the middle {seen}"


class DeletionFigures(BaseModel):
    """Mean loss of the predicted class's logit where a fifth of the image is replaced by the mean colour.

    ``images`` counts the images whose map is positive anywhere; other maps highlight nothing. ``highlighted`` is the
    loss for the fifth where the map is highest, ``elsewhere`` that for areas of the same shape at random places, and
    ``difference`` the first minus the second, with Student's interval over the images.
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
    """Maps (h, w) of one image: Grad-CAM of the predicted and of the true class, and the shares of the filters.

    ``own`` and ``others`` are the shares of each position in the logit of the predicted class, by the class's own
    filters and by all others; None where they are not known.
    """

    predicted: Tensor
    true: Tensor | None
    own: Tensor | None
    others: Tensor | None


class Explainer:
    """Makes explanations and maps of images, and remembers the effects of deletion on all of them.

    Args:
        network: The network, which is left as it is.
        preprocessing: Preprocessing of its images.
        names: Names of its classes.
        heads: The full and the decomposed head, as far as they are there.
        layer: The layer for Grad-CAM.
        seed: Seed of the random places elsewhere.
        device: Device that computes.
    """

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        names: Sequence[str],
        heads: Heads,
        layer: CamLayer,
        seed: int,
        device: torch.device,
    ) -> None:
        self.network, self.preprocessing, self.names, self.heads = network, preprocessing, names, heads
        self.device = device
        module = in_float32(network.module, example_images(network.input_size, model=network.module))
        if heads.original is None and not network.is_decomposed and heads.decomposed is not None:
            # The file has the published layout: the full head in it does not belong to the decomposed head.
            with_decomposed_head(module, network.head, heads.decomposed)
        self.module = module.to(device)
        self.layer = layer
        self.head = self.module.get_submodule(network.head.name)
        self.lacks_maps: bool | None = None
        self.moves = places(preprocessing.crop, seed)
        self.drops: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def explain(self, images: Sequence[ChosenImage]) -> list[tuple[Explanation, ImageMaps]]:
        """Explain images, at most a few at a time, in their order.

        Raises:
            DecomposeError: The network gives NaN or infinite features or logits.
        """
        given = self.preprocessing
        pixels = torch.stack([image.pixels for image in images])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (given.mean, given.std))
        x = ((pixels / 255 - mean) / std).to(self.device, number_type(self.module))
        features, maps = feature_maps(self.module, self.head, x)
        features, maps = features.cpu(), None if maps is None else maps.cpu()
        if self.lacks_maps is None:
            self.lacks_maps = maps is None
        original = self.heads.original(features) if self.heads.original is not None else None
        decomposed = self.heads.decomposed(features).detach() if self.heads.decomposed is not None else None
        main = original if self.heads.is_cut else decomposed
        assert main is not None
        bad = (~torch.isfinite(features).all(1) | ~torch.isfinite(main).all(1)).nonzero()[:, 0].tolist()
        if bad:
            raise DecomposeError(f"The network gives NaN or infinite numbers for image {images[bad[0]].name}.")
        predicted = main.argmax(1)
        cams = self._grad_cam(x, predicted.to(self.device))
        wrong = [n for n, image in enumerate(images) if image.label not in (None, int(predicted[n]))]
        true: dict[int, Tensor] = {}
        if wrong:
            labels = torch.tensor([images[n].label for n in wrong], device=self.device)
            shown = self._grad_cam(x[wrong], labels)
            true = dict(zip(wrong, shown, strict=True))
        own, others = self._filter_maps(None if self.lacks_maps else maps, predicted)
        self._delete(x, predicted, {"Grad-CAM": cams, "own filters": own})
        results = []
        for n, image in enumerate(images):
            c = int(predicted[n])
            explanation = Explanation(
                image=image.name,
                name=image.file,
                label=image.label,
                label_name=None if image.label is None else self.names[image.label],
                predicted=c,
                predicted_name=self.names[c],
                original=None if original is None else self._top(original[n]),
                decomposed=None if decomposed is None else self._top(decomposed[n]),
                sums=self._sums(n, c, own, others, original, decomposed),
                file=None,
                size=images[n].size,
                resized=given.resized(*images[n].size),
                probability=float(main[n].double().softmax(0)[c]),
                reasons=self._reasons(features[n], c, image.label, decomposed[n] if decomposed is not None else None),
            )
            seen = ImageMaps(
                cams[n], true.get(n), own[n] if own is not None else None, others[n] if others is not None else None
            )
            results.append((explanation, seen))
        return results

    def _reasons(self, values: Tensor, c: int, label: int | None, decomposed: Tensor | None) -> list[Reason]:
        if label is None or label == c:
            return []
        is_alike = decomposed is not None and int(decomposed.argmax()) == c
        head = self.heads.decomposed if is_alike else self.heads.own
        return [] if head is None else reasons(head, values, c, label)

    def _grad_cam(self, x: Tensor, classes: Tensor) -> Tensor:
        layer = self.module.get_submodule(self.layer.name)
        how = {"is_given": self.layer.is_given, "is_forced": self.layer.is_forced}
        return grad_cam(self.module, layer, x, classes, self.layer.planes, **how).cpu()

    def _filter_maps(self, maps: Tensor | None, classes: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The shares of each position in the logit of a class, by the class's own filters and by all others."""
        if maps is None or self.heads.decomposed is None:
            return None, None
        rows = self._own_weights()[classes]
        own = class_maps(maps, rows)
        if self.heads.original is None or not self.heads.is_cut:
            return own, None
        full = self.network.tensors.weight[classes]
        return own, class_maps(maps, torch.where(self._is_own()[classes], 0.0, full))

    def _own_weights(self) -> Tensor:
        """Weights (C, D) of the decomposed head, zero where a filter is not the class's own."""
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
        """Measure the effects of deletion on the logit; maps that are positive nowhere highlight nothing."""
        chosen = classes.to(self.device)[:, None]

        def logit(images: Tensor, which: Tensor = chosen) -> Tensor:
            with evaluating(self.module):
                logits = logits_of(self.module(images))
            return logits.float().gather(1, which)[:, 0]

        whole = logit(x)
        for name, values in maps.items():
            if values is None:
                continue
            shown = (values.flatten(1).amax(1) > 0).nonzero()[:, 0]
            if len(shown) == 0:
                continue
            mask = highlighted(values[shown], self.preprocessing.crop).to(self.device)
            here = shown.to(self.device)
            some = partial(logit, which=chosen[here])
            drops = deletion_drops(some, x[here], whole[here], mask, self.moves)
            self.drops.setdefault(name, []).append((drops[0].cpu(), drops[1].cpu()))

    def figures(self) -> list[DeletionFigures]:
        """The effects of deletion on all images so far."""
        figures = []
        for name, parts in self.drops.items():
            here, elsewhere = (torch.cat([part[side] for part in parts]) for side in (0, 1))
            difference, _, interval = mean_interval((here - elsewhere).tolist())
            figures.append(
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
        return figures

    def _top(self, logits: Tensor) -> list[ClassScore]:
        probabilities = logits.double().softmax(0)
        best = logits.argsort(descending=True, stable=True)[:_TOP].tolist()
        return [
            ClassScore(number=c, name=self.names[c], logit=float(logits[c]), probability=float(probabilities[c]))
            for c in best
        ]
