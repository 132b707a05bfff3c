"""Multinomial logistic regression with the support fixed: the weights that a head has where its features are chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from decompose_cli.sparse.minimise import Fit, Penalty, minimise
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.threads import in_few_threads


@in_few_threads
def refit(
    problem: Problem,
    support: Tensor,
    l2: float,
    *,
    start: Tensor | None = None,
    toward: Tensor | None = None,
    nonnegative: bool = False,
    near: Fit | None = None,
    tolerance: float = 1e-6,
    most_steps: int = 500,
) -> Fit:
    """Minimise mean cross-entropy + (l2 / 2) |W - toward|^2 over the weights of a support and all biases.

    Args:
        problem: The images.
        support: Which features each class uses, bool (C, D); constant features are left out.
        l2: Strength of the penalty, positive, so that separable images have finite weights; at most
            :data:`.labelled.LARGEST_L2`.
        start: Head on standardised features to begin with, (C, D + 1), last column the bias; by default zero weights
            and the logarithms of the shares of the classes. What is outside the support counts as zero.
        toward: Weights that the penalty pulls to, in the layout of ``start``; by default zero.
        nonnegative: Whether no weight may be below zero.
        near: A fit of the same support at another strength, which this one begins with.
        tolerance: See :func:`.minimise.minimise`.
        most_steps: See there.
    """
    if near is not None:
        start = near.head
    head = beginning(problem) if start is None else start.double().clone()
    free = torch.cat([support & problem.scale.varies, support.new_ones(len(support), 1)], 1)
    head = torch.where(free, head, 0.0)
    if nonnegative:
        head[:, :-1] = torch.where(free[:, :-1], head[:, :-1].clamp(min=0), head[:, :-1])
    if toward is not None:
        toward = torch.where(free, toward.double(), 0.0)
    penalty = Penalty(l2=l2, toward=toward, nonnegative=nonnegative)
    curvature = None if near is None else near.curvature.at_strength(l2)
    return minimise(problem, penalty, head, free, curvature=curvature, tolerance=tolerance, most_steps=most_steps)


def refit_loosely(problem: Problem, support: Tensor, l2: float, *, start: Tensor | None) -> Fit:
    """A refit of few steps, for searches that fit many supports only to see which is worth a whole one."""
    return refit(problem, support, l2, start=start, tolerance=1e-3, most_steps=30)


def beginning(problem: Problem) -> Tensor:
    """Zero weights and the logarithms of the classes' shares of the images, (C, D + 1)."""
    head = torch.zeros(problem.num_classes, problem.num_features + 1, dtype=torch.float64, device=problem.device)
    head[:, -1] = problem.target_means.clamp(min=0.5 / problem.total).log()
    return head
