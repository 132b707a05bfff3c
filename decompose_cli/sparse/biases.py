"""The biases of a head with its weights fixed: those at which every class has as much probability as images."""

from __future__ import annotations

import torch
from torch import Tensor

from decompose_cli.sparse.problem import Problem

_MOST_STEPS = 50
_RIDGE = 1e-12


def with_exact_biases(problem: Problem, head: Tensor, tolerance: float) -> Tensor:
    """The head (C, D + 1) whose biases minimise the loss: sum_i a_i (p_ic - t_ic) = 0 for each class.

    Newton steps on C numbers; the second derivative stays as it is once the steps are short. Beside a rest of which
    targets have no share, biases grow until nothing is left for it: there is no minimum, but a limit.

    Args:
        problem: The images.
        head: On standardised features, last column the bias.
        tolerance: Largest mean of p_c - t_c over images that may be left.
    """
    head = head.clone()
    target = problem.target_means
    masses, second = _moments(problem, head, with_second=True)
    for _ in range(_MOST_STEPS):
        left = masses - target
        most = float(left.abs().max())
        if most <= tolerance:
            break
        assert second is not None
        raised = second + _RIDGE * torch.eye(len(second), dtype=second.dtype, device=second.device)
        if problem.rest is None:  # the same number added to all biases changes no probability
            raised = raised + second.diagonal().mean() / len(second)
        step = torch.linalg.solve(raised, left)
        largest = float(step.abs().max())
        tried = head.clone()
        tried[:, -1] -= step / max(1.0, largest)
        new_masses, new_second = _moments(problem, tried, with_second=largest > 1e-3)
        if float((new_masses - target).abs().max()) >= most and largest <= 1e-3:  # no more digits to be had
            break
        head, masses = tried, new_masses
        second = new_second if new_second is not None else second
    return head


def _moments(problem: Problem, head: Tensor, *, with_second: bool) -> tuple[Tensor, Tensor | None]:
    """The weighted means of p and, if asked for, of diag(p) - p p' over the images, in float64."""
    count = problem.num_classes
    masses = head.new_zeros(count)
    products = head.new_zeros(count, count)
    for start in range(0, len(problem.labels), problem.step):
        rows = slice(start, start + problem.step)
        p = problem.probabilities(head, rows)
        weighted = p if problem.image_weights is None else p * problem.image_weights[rows, None]
        masses += weighted.sum(0, dtype=torch.float64)
        if with_second:
            products += (weighted.t() @ p).double()
    masses /= problem.total
    return masses, torch.diag(masses) - products / problem.total if with_second else None
