"""Exchanges in the row of one class while the others stay: exact losses, and estimates for all exchanges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.second_order import invert, ridged, standardised

_VALUES_AT_ONCE = 1 << 22  # of a block of features
_MOST_STEPS = 10
_HALVINGS = 12
_TOLERANCE = 1e-5  # decrease that a step promises, as a share of the loss


@dataclass(frozen=True)
class RowFit:
    """The row of a class, fitted.

    Attributes:
        columns: Its features, int64 (k,).
        z: Their values, and ones for the bias, float64 (N, k + 1).
        weights: Their weights on z and the bias, float64 (k + 1,).
        logits: W z + b of every image, float64 (N,).
        objective: Row's part of the penalised loss, comparable among rows of the same class beside the same others.
    """

    columns: Tensor
    z: Tensor
    weights: Tensor
    logits: Tensor
    objective: float


def _without(problem: Problem, number: int, logits: Tensor, sums: Tensor) -> Tensor:
    """Logarithm of the sum of exp(logit) of all classes but one, float64 (N,), from that of all.

    Taking a class away is exact to rounding where it has less than half of the sum; for the images where it has more,
    which are those of one class at most, the others are added up.
    """
    share = (logits[:, number].double() - sums).exp()
    others = sums + torch.log1p(-share.clamp(max=0.5))
    rows = (share > 0.5).nonzero()[:, 0]
    if len(rows):
        own = logits[rows].double()
        own[:, number] = float("-inf")
        others[rows] = problem.log_sum(own, rows)
    return others


class Row:
    """The penalised loss as a function of the row of one class.

    With R_i the logarithm of the sum of the other classes' exp(logit), which stays, the loss of an image is
    t log(1 + exp(R - l)) + (1 - t) log(1 + exp(l - R)) and a number that does not depend on l = w z + b: a logistic
    regression with an offset, on N x k values.

    Args:
        problem: The images.
        number: The class.
        logits: Logits of all classes, (N, C).
        l2: Strength of the penalty.
        sums: Logarithm of the sum of all classes' exp(logit), float64 (N,), where it is known.
    """

    def __init__(self, problem: Problem, number: int, logits: Tensor, l2: float, sums: Tensor | None = None) -> None:
        self.problem, self.l2 = problem, l2
        sums = problem.log_sum(logits, slice(None)).double() if sums is None else sums
        self.others = _without(problem, number, logits, sums)
        if problem.targets is None:
            self.targets = (problem.labels == number).double()
        else:
            self.targets = problem.targets[:, number].double()
        weights = problem.image_weights
        self.shares = torch.full_like(self.others, 1 / problem.total)
        if weights is not None:
            self.shares = weights.double() / problem.total

    def fit(self, columns: Tensor, start: Tensor) -> RowFit:
        """Fit the weights of features (k,) by Newton's steps from (k + 1,) numbers, the last of which is the bias."""
        return self._fit(columns, standardised(self.problem, columns), start)

    def exchanged(self, fit: RowFit, out: int, new: int) -> RowFit:
        """Fit again with feature ``new`` in the place of the one that stands at position ``out`` of a fit."""
        columns, z, start = fit.columns.clone(), fit.z.clone(), fit.weights.clone()
        columns[out], start[out] = new, 0
        z[:, out] = standardised(self.problem, columns[out, None])[:, 0]
        return self._fit(columns, z, start)

    def _fit(self, columns: Tensor, z: Tensor, start: Tensor) -> RowFit:
        penalty = torch.full_like(start, self.l2)
        penalty[-1] = 0
        weights = start
        logits = z @ weights
        value = self._value(logits, weights, penalty)
        for _ in range(_MOST_STEPS):
            p = torch.sigmoid(logits - self.others)
            gradient = z.t() @ (self.shares * (p - self.targets)) + penalty * weights
            curvature = z.t() @ (z * (self.shares * p * (1 - p))[:, None])
            step = torch.linalg.solve(ridged(curvature + penalty.diag()), gradient)
            decrease = float(gradient @ step)
            if not decrease > _TOLERANCE * value:
                break
            length = 1.0
            change = z @ step
            for _ in range(_HALVINGS):
                tried = self._value(logits - length * change, weights - length * step, penalty)
                if tried < value:
                    break
                length /= 2
            else:
                break
            weights, logits, value = weights - length * step, logits - length * change, tried
        return RowFit(columns, z, weights, logits, value)

    def _value(self, logits: Tensor, weights: Tensor, penalty: Tensor) -> float:
        above = logits - self.others
        softplus = torch.nn.functional.softplus
        losses = torch.lerp(softplus(above), softplus(-above), self.targets)
        return float(self.shares @ losses + (penalty * weights.square()).sum() / 2)

    def exchanges(self, fit: RowFit) -> Tensor:
        """Estimated change of the penalised loss by exchanging each feature of a fit for each other, (k, D).

        The loss is taken as quadratic around the fit, in all weights of the row: with H its second derivative, S what
        is in and U = H_SS^-1 H_SD, taking feature r away adds w_r^2 / (2 V_rr) with V = H_SS^-1 and moves the gradient
        of f from g_f to g_f - U_rf w_r / V_rr; f then has the curvature H_ff - H_fS U_f + U_rf^2 / V_rr, and freeing it
        gives back the gradient's square over twice that. Infinite for features that are in, and constant ones.
        """
        p = torch.sigmoid(fit.logits - self.others)
        spread = self.shares * p * (1 - p)
        own, width = fit.z, fit.z.shape[1]
        left = torch.cat([own * spread[:, None], (self.shares * (p - self.targets))[:, None]], 1)
        products, squares = self._products(left, spread)
        cross, gradient = products[:width], products[width]
        inside = (own * spread[:, None]).t() @ own
        inside.diagonal()[:-1] += self.l2
        inverse = invert(inside)
        within = inverse @ cross
        rest = squares + self.l2 - (cross * within).sum(0)
        pivots = inverse.diagonal()[:-1, None].clamp(min=1e-30)
        weights, moved = fit.weights[:-1, None], within[:-1]
        gradient = gradient - moved * weights / pivots
        curvature = (rest + moved.square() / pivots).clamp(min=self.l2)
        change = weights.square() / (2 * pivots) - gradient.square() / (2 * curvature)
        change[:, ~self.problem.scale.varies] = float("inf")
        change[:, fit.columns] = float("inf")
        return change

    def _products(self, left: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """left' z, (k + 2, D), and the sums of spread z^2, (D,), by sums of x and x^2."""
        problem, scale = self.problem, self.problem.scale
        left = torch.cat([left, spread[:, None]], 1).to(problem.dtype)
        sums = scale.mean.new_zeros(left.shape[1], problem.num_features)
        squares = torch.zeros_like(scale.mean)
        step = max(1, _VALUES_AT_ONCE // problem.num_features)
        for start in range(0, len(left), step):
            rows = slice(start, start + step)
            x = problem.features[rows]
            sums += (left[rows].t() @ x).double()
            squares += (left[rows, -1] @ x.square()).double()
        total = left.sum(0, dtype=torch.float64)
        squares += scale.mean * (scale.mean * total[-1] - 2 * sums[-1])
        sums -= total[:, None] * scale.mean
        return sums[:-1] * scale.inverse, squares.clamp(min=0) * scale.inverse.square()
