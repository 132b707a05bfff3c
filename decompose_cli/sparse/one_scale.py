"""Heads of one scale: weights a s with s an integer, the scale a and the biases fitted by Newton steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import beginning

_TOLERANCE = 1e-10
_MOST_STEPS = 100


@dataclass(frozen=True)
class FewValues:
    """A head on standardised features whose weights are one scale times integers.

    Attributes:
        matrix: The integers, int8 (C, D).
        scale: a. Zero where no positive scale is better than none: the biases alone.
        bias: float64 (C,).
        head: scale * matrix and the bias as the last column, float64 (C, D + 1).
        loss: Mean cross-entropy.
        objective: loss + (l2 / 2) |W|^2.
        rounds: Rounds of the search that led here, 0 where the matrix was given.
    """

    matrix: Tensor
    scale: float
    bias: Tensor
    head: Tensor
    loss: float
    objective: float
    rounds: int = 0


def fit_scale(problem: Problem, matrix: Tensor, l2: float) -> FewValues:
    """Minimise mean cross-entropy + (l2 / 2) |a S|^2 over the scale a >= 0 and the biases, at a matrix S.

    Args:
        problem: The images.
        matrix: S, integers (C, D).
        l2: Strength of the penalty, positive.

    Raises:
        ValueError: l2 is not positive.
    """
    matrix = matrix.to(torch.int8) * problem.scale.varies.to(torch.int8)
    return fitted(problem, matrix, sums_of(problem, matrix), l2)


def sums_of(problem: Problem, matrix: Tensor) -> Tensor:
    """S z of each image, (C, N) in the problem's precision."""
    head = torch.cat([matrix.double(), matrix.new_zeros(len(matrix), 1).double()], 1)
    result = problem.features.new_empty(problem.num_classes, len(problem.labels))
    for start in range(0, len(problem.labels), problem.step):
        images = slice(start, start + problem.step)
        result[:, images] = problem.logits(head, images).t()
    return result


def fitted(problem: Problem, matrix: Tensor, sums: Tensor, l2: float, near: FewValues | None = None) -> FewValues:
    """The fit at a matrix whose sums (C, N) are known, begun at a fit nearby, of which it is the next round."""
    if l2 <= 0:
        raise ValueError(f"l2 {l2} is not positive")
    count = float(matrix.double().square().sum())
    if near is None:
        bias = beginning(problem)[:, -1]
        parameters = torch.cat([bias.new_zeros(1), bias])
    else:
        parameters = torch.cat([near.bias.new_tensor([near.scale]), near.bias])
    free = torch.ones_like(parameters, dtype=torch.bool)
    free[0] = count > 0
    loss, parameters = _newton(problem, sums, l2 * count, parameters, free)
    if float(parameters[0]) < 0:  # convex, so the best scale that is not negative is zero
        parameters[0], free[0] = 0.0, False
        loss, parameters = _newton(problem, sums, l2 * count, parameters, free)
    scale = float(parameters[0])
    head = torch.cat([scale * matrix.double(), parameters[1:, None]], 1)
    objective = loss + l2 * count * scale**2 / 2
    return FewValues(matrix, scale, head[:, -1].clone(), head, loss, objective, 0 if near is None else near.rounds + 1)


def _newton(problem: Problem, sums: Tensor, ridge: float, parameters: Tensor, free: Tensor) -> tuple[float, Tensor]:
    """Minimise loss + ridge a^2 / 2 over the free ones of (a, biases); the loss without the penalty."""
    chosen = free.nonzero()[:, 0]
    loss, gradient, matrix = _derivatives(problem, sums, parameters)
    for _ in range(_MOST_STEPS):
        value = loss + ridge * float(parameters[0]) ** 2 / 2
        gradient[0] += ridge * parameters[0]
        matrix[0, 0] += ridge
        inner = matrix[chosen[:, None], chosen]
        # The same number added to all biases may change nothing, nor may the bias of a class without images.
        inner.diagonal().add_(1e-12 + 1e-10 * float(inner.diagonal().mean()))
        step = torch.zeros_like(parameters)
        step[chosen] = -torch.linalg.solve(inner, gradient[chosen])
        decrement = -float(gradient @ step)
        if decrement <= _TOLERANCE * abs(value):
            break
        length = 1.0
        while length > 1e-6:
            tried = parameters + length * step
            outcome = _derivatives(problem, sums, tried)
            if outcome[0] + ridge * float(tried[0]) ** 2 / 2 <= value - 1e-4 * length * decrement:
                break
            length /= 2
        else:
            break
        parameters, (loss, gradient, matrix) = tried, outcome
    return loss, parameters


def _derivatives(problem: Problem, sums: Tensor, parameters: Tensor) -> tuple[float, Tensor, Tensor]:
    """Loss, its gradient (1 + C,) and second derivative (1 + C, 1 + C) in (a, biases), in float64.

    With q_c = S_c z (0 for a rest): dl_c/da = q_c and dl_c/db_c = 1, so that the derivatives are moments of q and of
    the indicator under p.
    """
    classes = len(sums)
    loss = parameters.new_zeros(())
    gradient = parameters.new_zeros(1 + classes)
    matrix = parameters.new_zeros(1 + classes, 1 + classes)
    for start in range(0, sums.shape[1], problem.step):
        images = slice(start, start + problem.step)
        q = sums[:, images].double()
        logits = torch.addcmul(parameters[1:, None], parameters[:1, None], q)
        normaliser = problem.log_sum(logits, images, 0)
        p = (logits - normaliser).exp()
        weights = None if problem.image_weights is None else problem.image_weights[images].double()
        if problem.targets is None:
            labels = problem.labels[images]
            losses = normaliser - logits.gather(0, labels[None])[0]
            residual = p.clone()
            residual.scatter_add_(0, labels[None], p.new_full((1, len(labels)), -1.0))
        else:
            targets = problem.targets[images].double().t()
            losses = normaliser - (targets * logits).sum(0)
            residual = p - targets
        if problem.rest is not None:
            losses = losses - problem.rest.meant[images]
        if weights is not None:
            residual, losses = residual * weights, losses * weights
        weighted = p if weights is None else p * weights
        loss += losses.sum()
        gradient[0] += (residual * q).sum()
        gradient[1:] += residual.sum(1)
        mean = (p * q).sum(0)
        matrix[0, 0] += (weighted * (q - mean).square()).sum()
        if problem.rest is not None:  # where q - mean is -mean
            left = (problem.rest.log_sums[images] - normaliser).exp() * mean.square()
            matrix[0, 0] += (left if weights is None else left * weights).sum()
        matrix[0, 1:] += (weighted * (q - mean)).sum(1)
        matrix[1:, 1:] -= weighted @ p.t()
        matrix[1:, 1:].diagonal().add_(weighted.sum(1))
    matrix[1:, 0] = matrix[0, 1:]
    return float(loss) / problem.total, gradient / problem.total, matrix / problem.total
