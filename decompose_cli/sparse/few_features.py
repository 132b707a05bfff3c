"""The loss of a head that uses few of its features in each class, by products with these alone."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from decompose_cli.sparse.problem import Problem

_AS_LONG_AS = 8  # products of whole matrices takes one here
_FEWER = 16  # times as many products in all as with the features that are used: below, whole matrices are as fast


class FewFeatures:
    """f and its gradient as :meth:`.problem.Problem.value_and_gradient` has them, for heads with a fixed support.

    Args:
        problem: The images.
        used: The parameters that may differ from zero, bool (C, D + 1).

    Attributes:
        products: Products of whole matrices that take as long as an evaluation's.
    """

    def __init__(self, problem: Problem, used: Tensor) -> None:
        self.products = _AS_LONG_AS * int(used[:, :-1].sum()) * len(problem.labels)
        self.problem, self._shape = problem, (problem.num_classes, problem.num_features)
        self._classes, self._columns = used[:, :-1].nonzero().unbind(1)
        counts = torch.bincount(self._classes, minlength=problem.num_classes)
        self._starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        scale = problem.scale
        self._mean, self._inverse = scale.mean[self._columns], scale.inverse[self._columns]

    def _matrix(self, values: Tensor) -> Tensor:
        """A matrix (C, D) of the support with these values."""
        with warnings.catch_warnings():  # torch calls the layout a beta; what is used of it here is tested
            warnings.simplefilter("ignore")
            return torch.sparse_csr_tensor(
                self._starts, self._columns, values, self._shape, device=values.device, check_invariants=False
            )

    def _folded(self, head: Tensor) -> tuple[Tensor, Tensor]:
        """The head on x: weights (C, D) and biases (C, 1)."""
        on_x = head[self._classes, self._columns] * self._inverse
        shift = head.new_zeros(self._shape[0]).index_add_(0, self._classes, on_x * self._mean)
        return self._matrix(on_x.to(self.problem.dtype)), (head[:, -1] - shift).to(self.problem.dtype)[:, None]

    def probabilities(self, head: Tensor, rows: slice) -> Tensor:
        """softmax of the logits, (n, C), of some images."""
        weight, bias = self._folded(head)
        problem, found = self.problem, []
        first, last, _ = rows.indices(len(problem.labels))
        for start in range(first, last, problem.at_once):
            part = slice(start, min(start + problem.at_once, last))
            logits = (weight @ problem.features[part].t().contiguous()).add_(bias)
            found.append(problem.softmax(logits, part, 0))
        return torch.cat(found, 1).t()

    def value_and_gradient(self, head: Tensor) -> tuple[float, Tensor]:
        """f and its gradient, float64 (C, D + 1), which is zero for parameters that are not used."""
        problem, width = self.problem, self.problem.at_once
        weight, bias = self._folded(head)
        value, sums = head.new_zeros(()), head.new_zeros(self._shape[0])
        products = torch.zeros_like(self._mean)
        places = self._matrix(products.to(problem.dtype))
        for start in range(0, len(problem.labels), width):
            rows = slice(start, start + width)
            x = problem.features[rows]
            logits = (weight @ x.t().contiguous()).add_(bias)
            residual, losses = problem.residual(logits, rows)
            value += losses.double().sum()
            products += torch.sparse.sampled_addmm(places, residual, x, beta=0.0).values().double()
            sums += residual.sum(1, dtype=torch.float64)
        gradient = torch.zeros_like(head)
        gradient[self._classes, self._columns] = (products - sums[self._classes] * self._mean) * self._inverse
        gradient[:, -1] = sums
        return float(value) / problem.total, gradient / problem.total


def evaluation_of(problem: Problem, used: Tensor) -> Problem | FewFeatures:
    """What evaluates heads whose parameters are zero but for those used, bool (C, D + 1), in the least time.

    Few products are those that each class uses, for large problems on a CPU, where torch has the sparse products of
    MKL.
    """
    may = problem.device.type == "cpu" and problem.dtype == torch.float32 and bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
    if may and int(used[:, :-1].sum()) * _FEWER <= problem.num_classes * problem.num_features:
        return FewFeatures(problem, used)
    return problem
