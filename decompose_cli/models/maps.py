"""Activation maps behind penultimate features: what is averaged over positions to make them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from decompose_cli.models.head import evaluating, penultimate, recorded_inputs

_TOLERANCE = 1e-5
_REMEMBERED = 12


class _Maps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the last maps (N, D, h, w) that operations made or were given, larger than one pixel.

    Functions are seen here like modules, wherever in a network they are called.

    Args:
        num_features: D.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_features = num_features
        self.found: deque[Tensor] = deque(maxlen=_REMEMBERED)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in (*args[:1], out):
            if isinstance(value, Tensor) and self._may_be_maps(value):
                self.found.append(value)
        return out

    def _may_be_maps(self, value: Tensor) -> bool:
        has_shape = value.ndim == 4 and value.shape[1] == self.num_features and value.shape[2] * value.shape[3] > 1
        return has_shape and not any(value is other for other in self.found)


def feature_maps(module: nn.Module, head: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Penultimate features, and the maps whose means over positions they are.

    With f_j = (1 / P) sum_p A_j(p) every linear function of the features is a sum over positions, so a logit can be
    taken apart exactly by position.

    Args:
        module: The network, float32; left as it was found.
        head: Its head.
        images: (N, 3, H, W), normalised.

    Returns:
        Features (N, D), and maps (N, D, h, w), or None where no maps were found whose means the features are (another
        pooling, or layers in between).
    """
    with evaluating(module), torch.no_grad():
        count = penultimate(module, head, images[:1]).shape[1]
        with recorded_inputs(head) as inputs, _Maps(count) as seen:
            module(images)
    found = inputs[0].flatten(1).float()
    scale = float(found.abs().max()) + 1e-12
    for maps in reversed(seen.found):
        # What was overwritten in place since is no mean of the features, and what was not is the last of its kind.
        if len(maps) == len(found) and float((maps.float().mean((2, 3)) - found).abs().max()) <= _TOLERANCE * scale:
            return found, maps.detach().float()
    return found, None


def grad_cam(module: nn.Module, layer: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., arXiv 1610.02391): relu(sum_j a_j A_j), a_j the mean over positions of dz_c / dA_j.

    Args:
        module: The network; left as it was found.
        layer: Of it, with outputs A of shape (N, D, h, w).
        images: (N, 3, H, W), normalised.
        classes: c for each image, int64 (N,).

    Returns:
        (N, h, w), not negative.
    """
    from captum.attr import LayerGradCam  # type: ignore[import-untyped]

    with _in_evaluation(module):
        found = LayerGradCam(module, layer).attribute(images, target=classes, relu_attributions=True)
    assert isinstance(found, Tensor)
    return found.detach().float()[:, 0]


@contextmanager
def _in_evaluation(module: nn.Module) -> Iterator[None]:
    """With gradients, unlike :func:`.head.evaluating`; every part is put back into the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def class_maps(maps: Tensor, weights: Tensor) -> Tensor:
    """What each position adds to a linear function of features that are means of maps.

    Args:
        maps: (N, D, h, w).
        weights: (N, D), of the function of each image.

    Returns:
        (N, h, w); the sum over positions is sum_j w_j f_j.
    """
    return torch.einsum("ndhw,nd->nhw", maps, weights) / (maps.shape[2] * maps.shape[3])
