"""The diversity loss of SLDD: the features that a class is decided by should look at different places of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.passing_maps import Place, with_maps
from decompose_cli.training.objective import Objective


class Mapped(NamedTuple):
    """The output of a network in training mode, and the diversity (N,) of the maps behind its features."""

    output: Any
    diversity: Tensor


def diversity(maps: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """How different the places are that the features of a class look at (arXiv 2303.13166), (N,).

    d_n = sum_p max_j s_nj(p), with s_nj(p) = softmax_p(A_nj(p)) * (f_nj / max_i f_ni) * |w_nj| / |w_n|, where A are the
    maps of image n, p positions, f_nj the mean of A_nj, i all features, and w_n the weights of a class. Features
    without a weight have s = 0, and so has an image without any positive feature.

    Args:
        maps: A, (N, D, h, w).
        weights: Weights of the class that is predicted for each image, (N, k); 0 where there is none.
        indices: Their features, int64 (N, k).
    """
    means = maps.mean((2, 3))
    largest = means.amax(1, keepdim=True)
    is_positive = largest > 0
    shares = torch.where(is_positive, means / torch.where(is_positive, largest, 1.0), 0.0)
    factors = shares.gather(1, indices) * F.normalize(weights.abs(), dim=1)
    flat = maps.flatten(2)
    chosen = flat.gather(1, indices[:, :, None].expand(-1, -1, flat.shape[2]))
    largest_at = (chosen.softmax(2) * factors[:, :, None]).amax(1)
    if indices.shape[1] < maps.shape[1]:
        largest_at = largest_at.clamp(min=0)  # what has no weight
    return largest_at.sum(1)


class DiversityObjective(Objective):
    """Cross-entropy minus beta times the mean diversity over the images, of the class that is predicted for each.

    Args:
        label_smoothing: Label smoothing of the cross-entropy.
        beta: How much the diversity counts; 0.196 in the publication.
        head: The head of the network that is trained.
        place: Where the maps come by in that network.
    """

    counted = 1
    columns = ("Diversity",)

    def __init__(self, label_smoothing: float, beta: float, head: DecomposedLinear, place: Place) -> None:
        super().__init__(label_smoothing)
        self.beta, self.head, self.place = beta, head, place

    @override
    def forward(self, model: Callable[[Tensor], Any], images: Tensor) -> Mapped:
        output, maps = with_maps(model, images, self.place)
        predicted = super().logits(output).argmax(1)
        rows = (self.head.weight * self.head.mask).float()[predicted]
        # Softmaxes over positions and sums need more than the three digits of bfloat16.
        return Mapped(output, diversity(maps.float(), rows, self.head.indices[predicted]))

    @override
    def logits(self, output: Any) -> Tensor:
        return super().logits(output.output if isinstance(output, Mapped) else output)

    @override
    def losses(self, output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The cross-entropy minus beta times the diversities, and the cross-entropy; summed over the images."""
        shown, _ = super().losses(output, targets)
        if not isinstance(output, Mapped):
            return shown, shown
        return shown - self.beta * output.diversity.sum(), shown

    @override
    def counts(self, output: Any, targets: Tensor) -> Tensor:
        """The sum of the diversities in training; 0 of a network that is measured."""
        if not isinstance(output, Mapped):
            return torch.zeros(1, device=targets.device)
        return output.diversity.detach().sum()[None]

    @override
    def diversity(self, counts: Sequence[float], images: int) -> float | None:
        return counts[0] / images
