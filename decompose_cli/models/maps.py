"""Activation maps behind penultimate features, whose means over positions these features are."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models.axes import AxisTracer, slow_attention
from decompose_cli.models.cam_layer import GradientsKept, replaced_maps
from decompose_cli.models.copying import number_type
from decompose_cli.models.logits import logits_of
from decompose_cli.models.planes import CHANNELS_SECOND, Planes
from decompose_cli.models.tracing import evaluating, penultimate, recorded_inputs

_TOLERANCE = 1e-5
_REMEMBERED = 12
_SMALLEST_PART = 3 / 8  # of the side of an image; less of it shows nothing


class _Maps(AxisTracer):  # type: ignore[no-untyped-call]
    """Remembers the last maps that operations made or were given: values (N, ...) with an axis of D.

    It sees functions like modules, wherever in a network they are called.

    Args:
        images: Images (N, 3, H, W), which the network is then given.
        num_features: Number of features D.
    """

    def __init__(self, images: Tensor, num_features: int) -> None:
        super().__init__(images)
        self.num_features = num_features
        self.latest: deque[Tensor] = deque(maxlen=_REMEMBERED)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        for value in (*args[:1], out):
            if isinstance(value, Tensor) and self._may_be_maps(value):
                self.latest.append(value)
        return out

    def _may_be_maps(self, value: Tensor) -> bool:
        has_shape = value.ndim in (3, 4) and self.num_features in value.shape[1:] and not value.is_complex()
        is_larger = has_shape and value.shape[1:].numel() > self.num_features
        return is_larger and not any(value is maps for maps in self.latest)


def feature_maps(module: nn.Module, head: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return penultimate features, and the maps whose means over positions they are.

    With f_j = (1 / P) sum_p A_j(p) every linear function of the features is a sum over positions, so a logit can be
    taken apart exactly by position.

    Args:
        module: The network, float32, which is left as it is.
        head: Head of the network.
        images: Images (N, 3, H, W), normalised.

    Returns:
        Features (N, D), and maps (N, D, h, w), or None where the features are no means of maps (the network pools in
        another way, or has layers in between).
    """
    images = images.to(number_type(module))
    with evaluating(module), torch.no_grad():
        count = penultimate(module, head, images[:1]).shape[1]
        with recorded_inputs(head) as inputs, slow_attention(), _Maps(images, count) as seen:
            module(images)
    features = inputs[0].flatten(1).float()
    scale = float(features.abs().max()) + 1e-12
    for value in reversed(seen.latest):
        places = seen.axes(seen.layout(value)).places
        if places is None or len(places.order) != value.ndim:  # whatever its means are, they are of no picture
            continue
        if value.shape[places.order[1]] != count:
            continue
        maps = places.maps(value.detach().float())
        # Maps that were overwritten in place since do not have the features as means; the last that do are wanted.
        if float((maps.mean((2, 3)) - features).abs().max()) <= _TOLERANCE * scale:
            return features, maps
    return features, None


def grad_cam(
    module: nn.Module,
    layer: nn.Module,
    images: Tensor,
    classes: Tensor,
    planes: Planes = CHANNELS_SECOND,
    *,
    is_given: bool = False,
    is_forced: bool = False,
) -> Tensor:
    """Grad-CAM (Selvaraju et al., arXiv 1610.02391): relu(sum_j a_j A_j), a_j the mean over positions of dz_c / dA_j.

    Args:
        module: The network, which is left as it is.
        layer: Layer of the network, with the maps A; of several uses in a pass, the last is looked at.
        images: Images (N, 3, H, W), normalised.
        classes: Class c of each image, int64 (N,).
        planes: Where the maps are in what the layer yields, or is given.
        is_given: Whether they are in what the layer is given.
        is_forced: Whether the network is kept from holding gradients back.

    Returns:
        Maps (N, h, w), not negative.
    """
    from captum.attr import LayerGradCam  # type: ignore[import-untyped]

    def run(batch: Tensor) -> Tensor:
        with GradientsKept() if is_forced else nullcontext():
            return logits_of(module(batch))

    turned = nn.Identity()  # where captum looks at the outputs, as maps
    with replaced_maps(layer, planes, turned, is_given=is_given), evaluating(module):
        # captum asks for gradients itself
        cam = LayerGradCam(run, turned)
        maps = cam.attribute(images, target=classes, relu_attributions=True)
    assert isinstance(maps, Tensor)
    return maps.detach().float()[:, 0]


def class_maps(maps: Tensor, weights: Tensor) -> Tensor:
    """The share of each position in a linear function of features that are means of maps.

    Args:
        maps: Maps (N, D, h, w).
        weights: Weights (N, D) of the function, for each image.

    Returns:
        Maps (N, h, w), whose sum over positions is sum_j w_j f_j.
    """
    return torch.einsum("ndhw,nd->nhw", maps, weights) / (maps.shape[2] * maps.shape[3])


def firing_square(values: Tensor, height: int, width: int) -> tuple[int, int, int] | None:
    """The square part of an image where a feature fires.

    The map is scaled to the image. The square is around all that is above half of its maximum, at least 3/8 of the
    shorter side of the image and at most all of it, inside the image, and always has the maximum in it.

    Args:
        values: Map (h, w) of the feature.
        height: Height of the image in pixels.
        width: Its width.

    Returns:
        Left, top and side of the square in pixels; None where the map is not positive anywhere.
    """
    size = (height, width)
    scaled = F.interpolate(values[None, None].float(), size=size, mode="bilinear", align_corners=False)[0, 0]
    peak = int(scaled.argmax())
    highest = float(scaled.flatten()[peak])
    if not highest > 0:
        return None
    spans = [(int(along[0]), int(along[-1])) for along in _places(scaled > highest / 2)]
    shorter = min(size)
    needed = max(last - first + 1 for first, last in spans)
    side = min(shorter, max(needed, math.ceil(_SMALLEST_PART * shorter)))
    top, left = (
        _start(first, last, side, length, at)
        for (first, last), length, at in zip(spans, size, divmod(peak, width), strict=True)
    )
    return left, top, side


def _places(is_inside: Tensor) -> list[Tensor]:
    """The rows and the columns that have a true value."""
    return [is_inside.any(axis).nonzero()[:, 0] for axis in (1, 0)]


def _start(first: int, last: int, side: int, length: int, peak: int) -> int:
    """Where a part of this side begins: in the middle of a span, as far as it stays inside and has the peak."""
    middle = (first + last + 1 - side) // 2
    return min(max(middle, peak - side + 1, 0), peak, length - side)
