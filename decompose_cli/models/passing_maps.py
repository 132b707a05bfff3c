"""The maps behind penultimate features in a forward pass that a network learns from, with their gradients."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from decompose_cli.errors import DecomposeError
from decompose_cli.models.maps import feature_maps
from decompose_cli.models.planes import Line, Planes
from decompose_cli.models.tracing import evaluating

_TOLERANCE = 1e-4
_REMEMBERED = 12


@dataclass(frozen=True)
class Place:
    """Where maps come by in a forward pass.

    Attributes:
        from_end: Of the activations that may be maps, the n-th last.
        planes: Where the maps are in it.
        num_features: Number of features D.
    """

    from_end: int
    planes: Planes
    num_features: int


class _Passing(TorchFunctionMode):
    """Remembers the last activations that may be maps, of those that functions made or were given.

    It stands above the recording of gradients, unlike what follows axes, so that losses can be made of what it sees.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.latest: deque[Tensor] = deque(maxlen=_REMEMBERED)

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in (*args[:1], out):
            if type(value) is Tensor and self._may_be_maps(value):
                self.latest.append(value)
        return out

    def _may_be_maps(self, value: Tensor) -> bool:
        has_shape = value.ndim in (3, 4) and self.num_features in value.shape[1:] and value.is_floating_point()
        is_larger = has_shape and value.shape[1:].numel() > self.num_features
        return is_larger and not any(value is maps for maps in self.latest)


def find_place(module: nn.Module, head: nn.Module, images: Tensor) -> Place | None:
    """Where the maps come by whose means over positions are the features; None where features are no such means.

    Args:
        module: The network, float32, which is left as it is.
        head: Head of the network.
        images: Images (N, 3, H, W), normalised.
    """
    features, maps = feature_maps(module, head, images)
    if maps is None:
        return None
    count = features.shape[1]
    with evaluating(module), _Passing(count) as seen:
        module(images)
    allowed = _TOLERANCE * (float(features.abs().max()) + 1e-12)
    for from_end, value in enumerate(reversed(seen.latest), 1):
        for planes in _possible(value, maps):
            if float((planes.maps(value).float().mean((2, 3)) - features).abs().max()) <= allowed:
                return Place(from_end, planes, count)
    return None


def _possible(value: Tensor, maps: Tensor) -> Iterator[Planes]:
    """Where an activation may have maps (N, D, h, w), by its shape."""
    (rows, columns), axes = maps.shape[2:], range(1, value.ndim)
    for axis in axes:
        if value.shape[axis] != maps.shape[1]:
            continue
        others = tuple(other for other in axes if other != axis)
        if value.ndim == 4:
            yield Planes((0, axis, *others))
            continue
        for first in range(value.shape[others[0]] - rows * columns + 1):
            yield Planes((0, axis, *others), Line(others[0], first, rows, columns))


def with_maps(model: Callable[[Tensor], Any], images: Tensor, place: Place) -> tuple[Any, Tensor]:
    """Run a network; return its output, and the maps (N, D, h, w) that it made on the way, with their gradients.

    Raises:
        DecomposeError: The network did not make them this time.
    """
    with _Passing(place.num_features) as seen:
        output = model(images)
    value = seen.latest[-place.from_end] if len(seen.latest) >= place.from_end else None
    if value is None or not place.planes.are_in(value) or value.shape[place.planes.order[1]] != place.num_features:
        raise DecomposeError("The network makes its features in another way in training than when it is evaluated.")
    return output, place.planes.maps(value)
