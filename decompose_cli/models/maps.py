"""Activation maps behind penultimate features: what is averaged over positions to make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from decompose_cli.models.head import evaluating

_TOLERANCE = 1e-5


class _Pooling(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the maps (N, D, H, W) that an operation makes D numbers for each image of.

    Functions are seen here like modules, wherever in a network they are called.

    Args:
        num_features: D.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_features = num_features
        self.found: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        maps = args[0] if args else None
        if isinstance(maps, Tensor) and isinstance(out, Tensor) and maps.ndim == 4:
            count = maps.shape[0] * self.num_features
            if maps.shape[1] == self.num_features and out.numel() == count < maps.numel():
                self.found.append(maps)
        return out


def feature_maps(module: nn.Module, head: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Penultimate features, and the maps whose means over positions they are.

    With f_j = (1 / P) sum_p A_j(p) every linear function of the features is a sum over positions, so a logit can be
    taken apart exactly by position.

    Args:
        module: The network; left as it was found.
        head: Its head.
        images: (N, 3, H, W), normalised.

    Returns:
        Features (N, D), and maps (N, D, h, w), or None where features are no means of maps (another pooling, or layers
        in between).
    """
    features: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    try:
        with evaluating(module), torch.no_grad():
            module(images[:1])
            count = features.pop().flatten(1).shape[1]
            with _Pooling(count) as pooling:
                module(images)
    finally:
        handle.remove()
    found = features[0].flatten(1).float()
    scale = float(found.abs().max()) + 1e-12
    for maps in reversed(pooling.found):
        if maps.shape[0] == len(found) and float((maps.float().mean((2, 3)) - found).abs().max()) <= _TOLERANCE * scale:
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

    was_training = module.training
    module.eval()
    try:
        found = LayerGradCam(module, layer).attribute(images, target=classes, relu_attributions=True)
    finally:
        module.train(was_training)
    assert isinstance(found, Tensor)
    return found.detach().float()[:, 0]


def class_maps(maps: Tensor, weights: Tensor) -> Tensor:
    """What each position adds to a linear function of features that are means of maps.

    Args:
        maps: (N, D, h, w).
        weights: (N, D), of the function of each image.

    Returns:
        (N, h, w); the sum over positions is sum_j w_j f_j.
    """
    return torch.einsum("ndhw,nd->nhw", maps, weights) / (maps.shape[2] * maps.shape[3])
