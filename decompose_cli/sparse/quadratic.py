"""The minimum of a quadratic function with an elastic-net penalty: one step of a fit that ends sparse."""

from __future__ import annotations

import torch
from torch import Tensor

from decompose_cli.sparse.curvature import factor_of

_PRECISION = 1e-10
_MOST_ROUNDS = 200


def minimum(matrix: Tensor, linear: Tensor, l1: Tensor, l2: Tensor, start: Tensor) -> Tensor:
    """The u that minimises linear'u + u'Mu/2 + sum_j (l1_j |u_j| + l2_j u_j^2 / 2), all float64.

    A feature-sign search (Lee et al., NIPS 2006): with the signs fixed, the variables that are not zero, and those that
    the function pulls away from zero, solve a linear system; on the way there the search stops where a sign would
    change, at the crossing that is lowest. So every round lowers the function, and there are finitely many signs.

    Args:
        matrix: M, (n, n), positive definite together with l2.
        linear: (n,).
        l1: (n,), 0 for a variable without this penalty.
        l2: (n,).
        start: (n,).
    """
    raised = matrix + torch.diag(l2)

    def value(at: Tensor) -> float:
        return float(linear @ at + at @ (raised @ at) / 2 + (l1 * at.abs()).sum())

    u = start.clone()
    precision = _PRECISION * float(l1.max())
    for _ in range(_MOST_ROUNDS):
        pull = -(linear + raised @ u)
        sign = torch.where(u != 0, u.sign(), torch.where(pull.abs() > l1 + precision, pull.sign(), 0.0))
        chosen = ((sign != 0) | (l1 == 0)).nonzero()[:, 0]
        away = pull - l1 * sign
        if len(chosen) == 0 or float(away[chosen].abs().max()) <= precision:
            break
        chosen, step = _step(raised, away, chosen, u, sign, l1)
        crossing = (l1[chosen] > 0) & ((u[chosen] + step) * sign[chosen] <= 0)
        if not bool(crossing.any()):
            u = u.index_add(0, chosen, step)
            continue
        lowest, found = value(u), None
        for share in [1.0, *sorted((-u[chosen] / step)[crossing].tolist())]:
            moved = u[chosen] + share * step
            moved = torch.where((l1[chosen] > 0) & (moved * sign[chosen] <= precision * step.abs()), 0.0, moved)
            tried = u.index_copy(0, chosen, moved)
            height = value(tried)
            if height < lowest:
                lowest, found = height, tried
        if found is None:
            break
        u = found
    return u


def _step(raised: Tensor, away: Tensor, chosen: Tensor, u: Tensor, sign: Tensor, l1: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen variables and their way to the minimum with signs fixed, but for those at zero that go astray."""
    while True:
        inside = raised[chosen[:, None], chosen]
        factor, failed = torch.linalg.cholesky_ex(inside)
        if bool(failed):  # a matrix from float32 is symmetric and positive but for rounding
            factor = factor_of(inside)
        step = torch.cholesky_solve(away[chosen, None], factor)[:, 0]
        astray = (l1[chosen] > 0) & (u[chosen] == 0) & (step * sign[chosen] <= 0)
        if not bool(astray.any()):
            return chosen, step
        chosen = chosen[~astray]
