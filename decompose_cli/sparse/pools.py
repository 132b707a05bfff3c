"""Pools: few features for all classes together, by elimination of whole columns of the head."""

from __future__ import annotations

import torch
from torch import Tensor

from decompose_cli.messages import Advance
from decompose_cli.sparse.elimination import removal, sizes
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit_loosely
from decompose_cli.sparse.second_order import invert
from decompose_cli.sparse.threads import in_few_threads

_VALUES_AT_ONCE = 1 << 22  # of a block of features


@in_few_threads
def shared_pool(
    problem: Problem,
    size: int,
    l2: float,
    *,
    start: Tensor | None = None,
    advance: Advance = lambda _: None,
) -> Tensor:
    """Choose features for all classes together: refit, drop a sixth of the features, and again.

    The loss is taken as quadratic around the refitted head, with one second derivative for all classes,
    H = mean over classes and images of p (1 - p) z z' + l2, and columns go one after another as
    :func:`.elimination.removal` has it: the column of the smallest Euclidean norm, as far as the others cannot take
    over what it says. So of two features that say the same, whose weights are halved, one goes and the other is worth
    both. Constant features, which have no weight, go first, and of equal ones the last.

    Args:
        problem: The images.
        size: Number of features P, from 1 to D; D takes all of them, and nothing is fitted.
        l2: Strength of the penalty, positive.
        start: Dense head on standardised features to begin with, (C, D + 1), last column the bias; by default none.
        advance: Told of each of the ``len(sizes(D, size)) - 1`` steps.

    Returns:
        The features, ascending, int64 (P,).

    Raises:
        ValueError: The size is not from 1 to D.
    """
    features, classes = problem.num_features, problem.num_classes
    if not 1 <= size <= features:
        raise ValueError(f"{size} is not a number of {features} features")
    pool, head = torch.arange(features, device=problem.device), start
    steps = sizes(features, size)[1:]
    for following in steps:
        support = torch.zeros(classes, features, dtype=torch.bool, device=problem.device)
        support[:, pool] = True
        head = refit_loosely(problem, support, l2, start=head).head
        hessian = _shared_curvature(problem, head, pool)
        hessian.diagonal().add_(l2)
        gone = removal(invert(hessian), head[:, pool], len(pool) - following)
        pool = pool[~torch.isin(torch.arange(len(pool), device=pool.device), gone)]
        advance(1)
    return pool


def _shared_curvature(problem: Problem, head: Tensor, pool: Tensor) -> Tensor:
    """Mean over classes of mean_i a_i p_ic (1 - p_ic) z_i z_i', for the features of the pool, float64 (P, P)."""
    scale, classes = problem.scale, problem.num_classes
    mean, inverse = scale.mean[pool].to(problem.dtype), scale.inverse[pool].to(problem.dtype)
    result = head.new_zeros(len(pool), len(pool))
    step = max(1, _VALUES_AT_ONCE // max(len(pool), classes))
    for start in range(0, len(problem.labels), step):
        rows = slice(start, start + step)
        p = problem.probabilities(head, rows)
        spread = (p * (1 - p)).sum(1) / classes
        if problem.image_weights is not None:
            spread *= problem.image_weights[rows]
        z = (problem.features[rows, pool] - mean).mul_(inverse)
        result += ((z * spread[:, None]).t() @ z).double()
    return result / problem.total
