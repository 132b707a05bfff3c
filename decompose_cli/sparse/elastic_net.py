"""The elastic-net path of a head, every point with a proof of how near it is to the optimum.

F(W, b) = f(W, b) + lambda (alpha |W|_1 + (1 - alpha)/2 |W|_F^2), f the mean cross-entropy on standardised features, b
free: the objective of arXiv 2105.04857.

The certificate. Let P be the probabilities of a head whose biases are exact, so that the means of P and of the targets
Y agree class by class, and g = Z'(P - Y)/N the gradient of f by W. f is convex, and flat along b there, so for all
W*, b*

    f(W*, b*) >= f(W, b) + <g, W* - W>,

and the least that <g, w> + lambda alpha |w| + lambda (1 - alpha)/2 w^2 can be is -max(|g| - lambda alpha, 0)^2 /
(2 lambda (1 - alpha)), weight by weight. So F(W, b) - F* is at most the duality gap

    sum over weights of [lambda alpha |w| + lambda (1 - alpha)/2 w^2 + w g
                         + max(|g| - lambda alpha, 0)^2 / (2 lambda (1 - alpha))],

which is zero at the optimum and needs nothing but W and g.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.errors import InputError
from decompose_cli.sparse.biases import with_exact_biases
from decompose_cli.sparse.curvature import Dense, is_whole
from decompose_cli.sparse.minimise import Penalty, minimise
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.quadratic import minimum
from decompose_cli.sparse.refit import beginning
from decompose_cli.sparse.threads import in_few_threads

_BIAS_LEFT = 1e-8  # difference of mean probability and mean target after Newton steps on biases alone
_SUFFICIENT = 1e-4
_SHORTEST = 1e-3
_ROUNDING = 64
_MOST_STEPS_OF_A_MODEL = 12
_MOST_POINTS_OF_A_MODEL = 10
_COVERED = 64
_NOTHING = 1e-12  # of a gradient on features of deviation 1: rounding
_ROUGH_ABOVE = 30  # times the tolerance: a gap from which another step leads to one that is small enough
_LEAST_ROUGH = 1e-5  # of the objective: a gap that float32 can tell
_MOST_ROUGH = 3


@dataclass(frozen=True)
class PathPoint:
    """The head at one strength.

    Attributes:
        strength: lambda.
        loss: f, the mean cross-entropy.
        objective: F.
        gap: F is at most this far above its minimum.
        weights: Number of weights that are not zero.
        steps: Evaluations of the loss that it took.
        stored: The head as a sparse tensor: heads of many classes are large, and there are many of them.
    """

    strength: float
    loss: float
    objective: float
    gap: float
    weights: int
    steps: int
    stored: Tensor

    @property
    def head(self) -> Tensor:
        """Weights on standardised features, last column the bias, float64 (C, D + 1)."""
        return self.stored.to_dense()

    @property
    def relative_gap(self) -> float:
        """The gap as a share of the objective."""
        return self.gap / self.objective


@dataclass(frozen=True)
class Path:
    """Points from the strongest penalty, at which all weights are zero, to the weakest.

    Attributes:
        alpha: Share of the l1 penalty.
        points: The points.
    """

    alpha: float
    points: tuple[PathPoint, ...]


@in_few_threads
def elastic_net_path(
    problem: Problem,
    *,
    strengths: int = 100,
    ratio: float = 1e-3,
    alpha: float = 0.99,
    tolerance: float = 1e-6,
    most_steps: int = 300,
    most_per_class: float = float("inf"),
    advance: Callable[[PathPoint], None] = lambda point: None,
) -> Path:
    """Heads at log-spaced strengths from lambda_max = max|g| / alpha at zero weights down to ``ratio`` lambda_max.

    Every point starts from the one before. Only weights that can become something are moved; the certificate is of all.

    Args:
        problem: The images.
        strengths: Number of points, at least 2.
        ratio: The weakest strength over the strongest, between 0 and 1.
        alpha: Share of the l1 penalty, between 0 and 1; without l2 there is no certificate.
        tolerance: Largest gap of a point, as a share of its objective.
        most_steps: Largest number of evaluations for a point; one that needs more is kept with the gap that it has.
        most_per_class: The path ends with the first point that has more weights than this per class on average.
        advance: Called with every point.

    Raises:
        ValueError: An argument is out of its range.
        InputError: No feature tells the classes apart.
    """
    if strengths < 2:
        raise ValueError(f"strengths {strengths} is not at least 2")
    for name, value in (("ratio", ratio), ("alpha", alpha)):
        if not 0 < value < 1:
            raise ValueError(f"{name} {value} is not between 0 and 1")
    solver = _Solver(problem, alpha)
    strongest = solver.strongest
    if strongest < _NOTHING:
        raise InputError("No feature tells the classes apart: its mean is the same in each of them.")
    points: list[PathPoint] = []
    for number in range(strengths):
        points.append(solver.point(strongest * ratio ** (number / (strengths - 1)), tolerance, most_steps))
        advance(points[-1])
        if points[-1].weights > most_per_class * problem.num_classes:
            break
    return Path(alpha, tuple(points))


@dataclass(frozen=True)
class _At:
    """A head with its loss and gradient, and the relative rounding of the numbers that made them."""

    head: Tensor
    loss: float
    gradient: Tensor
    rounding: float


class _Model:
    """A quadratic model of f on some parameters, which learns from every step (BFGS) and outlives a strength.

    What lies between its first minimum at a strength and the optimum there is much the same at the next strength.
    """

    def __init__(self, problem: Problem, at: _At, covered: Tensor, penalised: Tensor) -> None:
        made = Dense(problem, at.head, covered, 0.0)
        self.index, self.matrix, self.covered = made.index, made.matrix, covered
        self.penalised = penalised.flatten()[self.index].double()
        self.steps = self.points = 0
        self._first: Tensor | None = None
        self._missed: Tensor | None = None

    @property
    def is_old(self) -> bool:
        """Whether it is better made anew: after many strengths, or where many steps are not enough for one."""
        return self.points >= _MOST_POINTS_OF_A_MODEL or self.steps >= _MOST_STEPS_OF_A_MODEL

    def minimum(self, at: _At, l1: float, l2: float, biases: Tensor) -> Tensor:
        """The head that is best by the model with penalties, the first at a strength put right as the one before."""
        here = at.head.flatten()[self.index]
        linear = at.gradient.flatten()[self.index] - self.matrix @ here
        found = minimum(self.matrix, linear, l1 * self.penalised, l2 * self.penalised, here)
        aim = at.head.flatten().index_copy(0, self.index, found).view_as(at.head)
        if self._first is not None:
            return aim
        self._first = aim.clone()
        if self._missed is None:
            return aim
        beyond = aim + self._missed
        return torch.where((beyond * aim > 0) | biases, beyond, aim)

    def end(self, head: Tensor) -> None:
        """Take the optimum at a strength; what follows is at the next."""
        self._missed = None if self._first is None else head - self._first
        self._first = None
        self.points, self.steps = self.points + 1, 0

    def learn(self, before: _At, after: _At) -> None:
        """Agree with the change of the gradient along a step."""
        self.steps += 1
        step = (after.head - before.head).flatten()[self.index]
        change = (after.gradient - before.gradient).flatten()[self.index]
        product = float(step @ change)
        # What rounding may have made of the change is nothing to learn.
        rounding = max(before.rounding, after.rounding) * len(change) ** 0.5
        if product <= float(step.norm()) * max(rounding, 1e-14 * float(change.norm())):
            return
        expected = self.matrix @ step
        self.matrix.addr_(change, change, alpha=1 / product)
        self.matrix.addr_(expected, expected, alpha=-1 / float(step @ expected))


class _Solver:
    """Where the path has come to."""

    def __init__(self, problem: Problem, alpha: float) -> None:
        self.problem, self.alpha = problem, alpha
        head = beginning(problem)
        self.penalised, self.biases = torch.zeros(2, *head.shape, dtype=torch.bool, device=head.device)
        self.penalised[:, :-1], self.biases[:, -1] = problem.scale.varies, True
        self.steps = 0
        self.at = self._evaluate(with_exact_biases(problem, head, _BIAS_LEFT))
        self.model: _Model | None = None
        self.strength = self.l1 = self.l2 = 0.0

    @property
    def strongest(self) -> float:
        """The smallest lambda at which all weights are zero, when they are."""
        return float(self.at.gradient[self.penalised].abs().max()) / self.alpha if self.penalised.any() else 0.0

    def point(self, strength: float, tolerance: float, most_steps: int) -> PathPoint:
        """Go on to the optimum at a strength."""
        former, self.strength = self.strength or strength, strength
        self.l1, self.l2 = strength * self.alpha, strength * (1 - self.alpha)
        self.steps, finer = 0, tolerance / 2
        while not self._is_done(tolerance) and self.steps < most_steps:
            needed = self.biases | (self.penalised & ((self.at.head != 0) | (self.at.gradient.abs() > self.l1)))
            if is_whole(needed):
                has_moved = self._step(needed, tolerance)
            else:
                has_moved = self._steps(needed, former, finer, most_steps - self.steps)
                finer /= 4
            if not has_moved:
                break
        if not self._is_done(tolerance):
            self.at = self._evaluate(with_exact_biases(self.problem, self.at.head, _BIAS_LEFT))
        head = self.at.head
        if self.model is not None:
            self.model.end(head)
        weights = int(((head != 0) & self.penalised).sum())
        value, gap = self._objective(self.at), self._gap(self.at)
        return PathPoint(strength, self.at.loss, value, gap, weights, self.steps, head.to_sparse())

    def _evaluate(self, head: Tensor, roughly: bool = False) -> _At:
        self.steps += 1
        problem = self.problem.in_single if roughly else self.problem
        return _At(head, *problem.value_and_gradient(head), torch.finfo(problem.dtype).eps)

    def _penalty(self, head: Tensor) -> float:
        weights = head[self.penalised]
        return self.l1 * float(weights.abs().sum()) + self.l2 / 2 * float(weights.square().sum())

    def _objective(self, at: _At) -> float:
        return at.loss + self._penalty(at.head)

    def _gap(self, at: _At) -> float:
        weights, gradient = at.head[self.penalised], at.gradient[self.penalised]
        over = (gradient.abs() - self.l1).clamp(min=0)
        parts = self.l1 * weights.abs() + self.l2 / 2 * weights.square() + weights * gradient
        # A rest without targets takes probability that the classes would get by biases without end: a loss of
        # -log(1 - p) for each image, which all biases together are missing. Without a rest it is zero.
        beyond = 2 * abs(float(at.gradient[:, -1].sum()))
        return max(0.0, float((parts + over.square() / (2 * self.l2)).sum())) + beyond

    def _is_done(self, tolerance: float) -> bool:
        if self.at.rounding > torch.finfo(self.problem.dtype).eps:
            return False
        gap, allowed = self._gap(self.at), tolerance * self._objective(self.at)
        # Exact biases would change g by about as much as the means of P and Y differ, and the gap, in each weight that
        # is not zero, by the square of that over 2 lambda (1 - alpha).
        left = float(self.at.gradient[:, -1].abs().max())
        weights = 1 + int((self.at.head[self.penalised] != 0).sum())
        return gap + weights * left**2 / (2 * self.l2) <= allowed

    def _step(self, needed: Tensor, tolerance: float) -> bool:
        """One step to the minimum of the model, or towards it; whether there was one."""
        model = self.model
        if model is None or bool((needed & ~model.covered).any()) or model.is_old:
            model = self.model = _Model(self.problem, self.at, self._cover(needed), self.penalised)
        aim = model.minimum(self.at, self.l1, self.l2, self.biases)
        if self.problem.rest is not None:
            # Beside a rest without targets all biases go up together, without an end to come to.
            together = (aim - self.at.head)[:, -1].mean()
            aim[:, -1] -= together - together.clamp(-1, 1)
        way = aim - self.at.head
        value, gap = self._objective(self.at), self._gap(self.at)
        slope = float((self.at.gradient * way).sum()) + self._penalty(aim) - self._penalty(self.at.head)
        # Steps shrink the gap about a hundredfold: before the last of them float32 will do.
        roughly = self.steps < _MOST_ROUGH and gap > max(_ROUGH_ABOVE * tolerance, _LEAST_ROUGH) * value
        length = 1.0
        while length >= _SHORTEST:
            tried = self._evaluate(self.at.head + length * way, roughly)
            rounding = _ROUNDING * max(self.at.rounding, tried.rounding) * value
            reached = self._objective(tried)
            if reached <= value + _SUFFICIENT * length * slope or (
                reached <= value + rounding and self._gap(tried) < gap
            ):
                model.learn(self.at, tried)
                self.at = tried
                return True
            length /= 2
        self.model = None
        return model.steps + model.points > 0

    def _cover(self, needed: Tensor) -> Tensor:
        """The parameters needed and as many again, those next in line to be."""
        count = min(2 * int(needed.sum()) + _COVERED, int((self.penalised | self.biases).sum()))
        line = torch.where(self.penalised, self.at.gradient.abs(), -1.0)
        line[needed] = float("inf")
        covered = torch.zeros_like(needed)
        covered.view(-1)[line.flatten().topk(count).indices] = True
        return covered if is_whole(covered) else needed

    def _steps(self, needed: Tensor, former: float, tolerance: float, most_steps: int) -> bool:
        """The optimum on the weights that the strong rule (Tibshirani et al., 2012) leaves; whether it is nearer."""
        before = self._gap(self.at)
        strong = self.penalised & (self.at.gradient.abs() >= self.alpha * (2 * self.strength - former))
        penalty = Penalty(l1=self.l1, l2=self.l2)
        fit = minimise(self.problem, penalty, self.at.head, needed | strong, tolerance=tolerance, most_steps=most_steps)
        self.steps += fit.steps
        self.at = self._evaluate(with_exact_biases(self.problem, fit.head, _BIAS_LEFT))
        return self._gap(self.at) < before
