"""Second derivatives of the cross-entropy, for what single weights gain or cost."""

from __future__ import annotations

import torch
from torch import Tensor

from decompose_cli.sparse.problem import Problem

_VALUES_AT_ONCE = 1 << 22  # of a block of features or probabilities
_RIDGE = 1e-9


def second_derivatives(problem: Problem, head: Tensor) -> Tensor:
    """H_cf = sum_i a_i p_ic (1 - p_ic) z_if^2 / sum_i a_i, float64 (C, D + 1), with z = 1 in the column of the biases.

    With G the gradient and l2 added to H, a weight outside the support lowers the penalised loss by about G^2 / (2 H)
    when it is freed, and a fitted weight w raises it by about H w^2 / 2 when it is taken away.

    Args:
        problem: The images.
        head: Head on standardised features, (C, D + 1), last column the bias.
    """
    scale, dtype = problem.scale, problem.dtype
    mean, inverse = scale.mean.to(dtype), scale.inverse.to(dtype)
    result = scale.mean.new_zeros(problem.num_classes, problem.num_features + 1)
    step = max(1, _VALUES_AT_ONCE // max(problem.num_classes, problem.num_features))
    for start in range(0, len(problem.labels), step):
        rows = slice(start, start + step)
        p = problem.probabilities(head, rows)
        spread = p.mul_(1 - p)
        if problem.image_weights is not None:
            spread *= problem.image_weights[rows, None]
        z = (problem.features[rows] - mean).mul_(inverse)
        result[:, :-1] += (spread.t() @ z.square_()).double()
        result[:, -1] += spread.sum(0, dtype=torch.float64)
    return result / problem.total


def standardised(problem: Problem, columns: Tensor) -> Tensor:
    """z of some features with a last column of ones, for the bias, float64 (N, k + 1)."""
    scale = problem.scale
    z = (problem.features[:, columns].double() - scale.mean[columns]) * scale.inverse[columns]
    return torch.cat([z, z.new_ones(len(z), 1)], 1)


def invert(matrix: Tensor) -> Tensor:
    """The inverse of a matrix that is positive definite but for rounding."""
    inverse: Tensor = torch.linalg.inv(ridged(matrix))
    return inverse


def ridged(matrix: Tensor) -> Tensor:
    """The matrix with next to nothing added to its diagonal, so that it has an inverse."""
    result = matrix.clone()
    result.diagonal().add_(_RIDGE * float(matrix.diagonal().mean()) + 1e-15)
    return result
