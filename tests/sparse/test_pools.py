"""Pools of features for all classes together."""

from __future__ import annotations

import pytest
import torch
from helpers.sparse_search import beside, images
from torch import Tensor

from decompose_cli.sparse import pools
from decompose_cli.sparse.elimination import sizes
from decompose_cli.sparse.pools import shared_pool
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit

CLASSES, FEATURES, IMAGES = 4, 12, 300
L2 = 1e-2


def least_rise(head: Tensor, hessian: Tensor, column: int) -> float:
    """The least rise of sum_c d_c H d_c / 2 over changes d of a head that set one column to zero."""
    rest = [f for f in range(len(hessian)) if f != column]
    rise = 0.0
    for weights in head:
        change = torch.zeros_like(weights)
        change[column] = -weights[column]
        change[rest] = -torch.linalg.solve(hessian[rest][:, rest], hessian[rest][:, column] * change[column])
        rise += float(change @ hessian @ change) / 2
    return rise


def taken_over(head: Tensor, hessian: Tensor, column: int) -> Tensor:
    """The head without a column, at that least rise."""
    rest = [f for f in range(len(hessian)) if f != column]
    moved = torch.linalg.solve(hessian[rest][:, rest], hessian[rest][:, column, None] * head[:, column][None])
    return head[:, rest] + moved.t()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("at_once", [1 << 22, 100])
def test_a_pool_is_that_of_the_slow_twin(weighted: bool, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_VALUES_AT_ONCE", at_once)
    x, labels = images(CLASSES, FEATURES, IMAGES, 2)
    a = torch.rand(IMAGES, generator=torch.Generator().manual_seed(1)) ** 6 + 1e-3 if weighted else None
    problem = Problem(x, labels, CLASSES, image_weights=a)
    shares = torch.ones(IMAGES).double() if a is None else a.double()
    z = ((x.double() - problem.scale.mean) * problem.scale.inverse)[:, :FEATURES]
    left = list(range(FEATURES))
    for size in sizes(FEATURES, 4)[1:]:
        support = torch.zeros(CLASSES, FEATURES, dtype=torch.bool)
        support[:, left] = True
        head = refit(problem, support, L2).head
        p = problem.probabilities(head).double()
        spread = (p * (1 - p)).mean(1) * shares / shares.sum()
        hessian = (z[:, left] * spread[:, None]).t() @ z[:, left] + L2 * torch.eye(len(left))
        weights = head[:, left]
        while len(left) > size:
            column = min(range(len(left)), key=lambda f: least_rise(weights, hessian, f))
            weights = taken_over(weights, hessian, column)
            rest = [f for f in range(len(left)) if f != column]
            hessian = hessian[rest][:, rest]
            del left[column]
    told: list[int] = []
    pool = shared_pool(problem, 4, L2, advance=told.append)
    assert pool.tolist() == left
    assert sum(told) == len(sizes(FEATURES, 4)) - 1


def test_a_pool_of_all_features_is_all_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("decompose_cli.sparse.pools.refit_loosely")
    x, labels = images(CLASSES, FEATURES, IMAGES)
    assert shared_pool(Problem(x, labels, CLASSES), FEATURES, L2).tolist() == list(range(FEATURES))


def test_features_that_say_nothing_are_not_in_the_pool() -> None:
    x, labels = images(CLASSES, 5, IMAGES)
    noise = torch.randn(IMAGES, 6, generator=torch.Generator().manual_seed(1))
    constant = torch.full((IMAGES, 2), 2.0)
    problem = Problem(torch.cat([constant, noise[:, :3], x, noise[:, 3:]], 1), labels, CLASSES)
    assert shared_pool(problem, 5, L2).tolist() == [5, 6, 7, 8, 9]
    assert shared_pool(problem, 11, L2).tolist() == list(range(2, 13))
    assert 0 in shared_pool(problem, 12, L2).tolist()


def test_of_duplicates_one_is_enough() -> None:
    x, labels = images(CLASSES, 6, IMAGES, wrong=0.3)
    pool = shared_pool(Problem(torch.cat([x, x], 1), labels, CLASSES), 6, 1e-5) % 6
    assert pool.sort().values.tolist() == list(range(6))


def test_classes_that_are_held_have_no_say() -> None:
    x, labels = images(3, 6, IMAGES)
    noise = torch.randn(IMAGES, 6, generator=torch.Generator().manual_seed(1))
    start = torch.zeros(4, 13).double()
    start[3, 6:12] = 5.0  # in favour of the noise
    held = torch.arange(4) == 3
    problem = beside(torch.cat([x, noise], 1), labels, start, held)
    assert shared_pool(problem, 4, L2, start=start[:3]).max() < 6


@pytest.mark.parametrize("size", [0, 13])
def test_other_sizes_are_refused(size: int) -> None:
    x, labels = images(CLASSES, FEATURES, IMAGES)
    with pytest.raises(ValueError, match=f"{size} is not a number of 12 features"):
        shared_pool(Problem(x, labels, CLASSES), size, L2)
