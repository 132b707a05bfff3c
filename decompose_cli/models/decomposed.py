"""The head of a decomposed network: one small subspace of the features per class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DecomposedLinear(nn.Module):
    """logit_c = sum_j weight[c, j] * x[indices[c, j]] + bias[c]   (arXiv 2112.07719).

    The module replaces the final ``nn.Linear(D, C)`` or 1x1 convolution. The indices are buffers, so a checkpoint of a
    decomposed network is complete in itself. Where classes use different numbers of features, rows are padded to the
    longest, ``mask`` marks the real entries, and padding neither contributes to a logit nor receives a gradient. A
    class without features has its bias alone.

    The transposed features (D, N) are looked up as an embedding table and summed with the weights, which touches just
    the C*k products that the definition has. On 2 CPU cores, for N = 4096, C = 1000, D = 2048,
    k = 50, this takes 25 ms; a dense product with the weights scattered into (C, D) takes 86 ms, a sparse CSR product
    79 ms, gathering x into (N, C, k) 614 ms. For N = 10,000, C = 10, D = 64, k = 5: 0.5, 0.8, 1.5 and 0.9 ms. Forward
    and backward, as in training with N = 64: 3.1 ms against 5.5 (dense) and 19.6 ms (gathered) for the large sizes, and
    0.08 against 0.05 and 0.06 ms for the small ones, where the rest of the network takes tens of milliseconds. Graphs
    that are exported get the gathered form, made of operators that every runtime has.

    Features and weights of different precision meet in the higher one. So with autocast, which leaves the lookup as it
    is, features in bfloat16 give float32 logits, and float32 sums over the batch in the gradient of the weights.

    Args:
        indices: Per class the features that it uses, each in 0..num_features - 1; not all classes are without any.
        num_features: Number of features D.

    Shapes:
        Input (N, D), or with further axes of size 1, as (N, D, 1, 1) where a convolution stood; output (N, C), or
        (N, C, 1, 1) and the like.

    Raises:
        ValueError: A call passes input of another shape.
    """

    indices: Tensor
    mask: Tensor

    def __init__(self, indices: Sequence[Sequence[int]], num_features: int) -> None:
        super().__init__()
        width = max(len(row) for row in indices)
        # Padding repeats the class's own first index: always valid, and never a feature the class does not see. A class
        # without any has index 0.
        padded = [list(row) + [row[0] if row else 0] * (width - len(row)) for row in indices]
        mask = [[True] * len(row) + [False] * (width - len(row)) for row in indices]
        self.num_features = num_features
        self.weight = nn.Parameter(torch.zeros(len(indices), width))
        self.bias = nn.Parameter(torch.zeros(len(indices)))
        self.register_buffer("indices", torch.tensor(padded, dtype=torch.int64))
        self.register_buffer("mask", torch.tensor(mask))

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor, indices: Sequence[Sequence[int]]) -> DecomposedLinear:
        """Make the head that keeps only the used weights of a full head ``weight`` (C, D), ``bias`` (C,)."""
        head = cls(indices, weight.shape[1]).to(weight.device, weight.dtype)
        with torch.no_grad():
            head.weight.copy_(weight.gather(1, head.indices) * head.mask)
            head.bias.copy_(bias)
        return head

    @classmethod
    def from_subspaces(
        cls, weight: Tensor, bias: Tensor, indices: Sequence[Sequence[int]], num_features: int
    ) -> DecomposedLinear:
        """Make the head that has ``weight`` (C, k) as it stands, its columns in the order of ``indices``."""
        head = cls(indices, num_features).to(weight.device, weight.dtype)
        with torch.no_grad():
            head.weight.copy_(weight * head.mask)
            head.bias.copy_(bias)
        return head

    def classes(self) -> tuple[tuple[int, ...], ...]:
        """Per class the features that it uses, without padding."""
        rows = zip(self.indices.tolist(), self.mask.tolist(), strict=True)
        return tuple(tuple(i for i, real in zip(row, keep, strict=True) if real) for row, keep in rows)

    def forward(self, input: Tensor) -> Tensor:
        """Map features to logits, in the shapes that the class states."""
        x, shape = input, input.shape[1:]
        if self.num_features not in shape or shape.numel() != self.num_features:
            raise ValueError(f"expected (N, {self.num_features}) features, got {tuple(x.shape)}")
        axis = shape.index(self.num_features) if x.ndim == 4 else len(shape) - 1
        made = (*shape[:axis], len(self.bias), *shape[axis + 1 :])
        if _is_exporting():
            # Nothing here may turn the number of images into a constant of the graph.
            gathered = x.flatten(1).index_select(1, self.indices.flatten()).reshape(-1, *self.indices.shape)
            logits = (gathered * (self.weight * self.mask)).sum(-1) + self.bias
            return logits if x.ndim == 2 else logits.reshape(-1, *made)
        if x.shape[0] == 0:
            return x.new_zeros((0, *made))
        logits = subspace_logits(x.flatten(1), self.weight * self.mask, self.bias, self.indices)
        return logits.reshape(len(x), *made)

    def extra_repr(self) -> str:
        """C, k and D, as ``print(model)`` shows them."""
        return f"classes={len(self.bias)}, k={self.weight.shape[1]}, features={self.num_features}"


def subspace_logits(features: Tensor, weight: Tensor, bias: Tensor, indices: Tensor) -> Tensor:
    """Logits (N, C) of features (N, D), N >= 1, by weights (C, k) of the features with these indices (C, k)."""
    dtype = torch.promote_types(features.dtype, weight.dtype)
    table = features.t().to(dtype).contiguous()
    return F.embedding_bag(indices, table, per_sample_weights=weight.to(dtype), mode="sum").t() + bias


def _is_exporting() -> bool:
    """Whether a graph is being recorded that is going to run elsewhere."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
