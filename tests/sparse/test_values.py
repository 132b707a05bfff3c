"""Heads with few values against the optimum over all of them, and their parts against the written-out loss."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from decompose_cli.sparse import moves as moves_module
from decompose_cli.sparse.moves import ClassState, Moves, changes, share_of
from decompose_cli.sparse.one_scale import fit_scale
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit
from decompose_cli.sparse.values import binary, class_means, nonnegative, ternary


def images(count: int, classes: int, features: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features of which several say something of each class, none enough alone."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, features, generator=generator)
    mixing = torch.randn(features, features, generator=generator) / 2
    x = centres[labels] + 1.5 * torch.randn(count, features, generator=generator) @ (torch.eye(features) + mixing)
    return (x * torch.logspace(-1, 1, features) + 3).double(), labels


def standardised(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0, correction=0)


def written_out(
    z: Tensor, labels: Tensor, head: Tensor, l2: float, targets: Tensor | None = None, a: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy and penalty of a head on z."""
    logits = z @ head[:, :-1].t() + head[:, -1]
    logs = logits - logits.exp().sum(1, keepdim=True).log()
    t = torch.nn.functional.one_hot(labels, len(head)).double() if targets is None else targets.double()
    weights = torch.ones(len(z)).double() if a is None else a.double()
    return -(weights[:, None] * t * logs).sum() / weights.sum() + l2 / 2 * head[:, :-1].square().sum()


def objectives(z: Tensor, labels: Tensor, matrices: Tensor, l2: float) -> Tensor:
    """The least objective over a >= 0 and biases for each matrix (B, C, D), by Newton steps with derivatives from torch.

    All of them at once; where a below zero would be best, the biases alone are.
    """
    classes = matrices.shape[1]
    sums = matrices.double() @ z.t()
    sizes = matrices.double().square().sum((1, 2))
    shares = labels.bincount(minlength=classes).double() / len(labels)

    def value(parameters: Tensor, q: Tensor, size: Tensor) -> Tensor:
        logits = parameters[0] * q + torch.cat([parameters[1:], parameters.new_zeros(1)])[:, None]
        picked = logits.gather(0, labels[None])[0]
        return (logits.logsumexp(0) - picked).mean() + l2 / 2 * size * parameters[0] ** 2

    slope = torch.func.vmap(torch.func.grad(value))
    curve = torch.func.vmap(torch.func.hessian(value))
    at = torch.zeros(len(matrices), classes, dtype=torch.float64)
    at[:, 1:] = shares[:-1].log() - shares[-1].log()
    values = torch.func.vmap(value)
    current = values(at, sums, sizes)
    nothing = current.clone()
    for _ in range(40):
        gradient = slope(at, sums, sizes)
        if float(gradient.abs().max()) < 1e-6:  # the value is its square away
            break
        step = torch.linalg.solve(curve(at, sums, sizes) + 1e-12 * torch.eye(classes), gradient)
        length = torch.ones(len(at), 1, dtype=torch.float64)
        for _ in range(12):
            tried = at - length * step
            lower = values(tried, sums, sizes) <= current
            length = torch.where(lower[:, None], length, length / 2)
        at = torch.where(lower[:, None], tried, at)
        current = values(at, sums, sizes)
    return torch.where(at[:, 0] > 0, current, nothing)


def every_binary(classes: int, features: int, k: int) -> Tensor:
    rows = torch.zeros(0, features)
    rows = torch.stack([torch.zeros(features).scatter(0, torch.tensor(one), 1.0) for one in combinations(range(features), k)])
    places = [one for one in product(range(len(rows)), repeat=classes) if len(set(one)) == classes]
    return rows[torch.tensor(places)]


def every_ternary(classes: int, features: int, k: int, exactly: bool) -> Tensor:
    rows = torch.tensor([one for one in product((-1.0, 0.0, 1.0), repeat=features)])
    counts = rows.abs().sum(1)
    rows = rows[counts == k if exactly else counts <= k]
    return rows[torch.tensor(list(product(range(len(rows)), repeat=classes)))]


L2 = 1e-2


@pytest.mark.parametrize(
    ("classes", "features", "k"), [(3, 4, 1), (3, 3, 1), (3, 6, 2), (3, 5, 3), (4, 4, 2)], ids=str
)
def test_the_search_reaches_the_best_of_all_binary_heads(classes: int, features: int, k: int) -> None:
    matrices = every_binary(classes, features, k)
    reached = 0
    for seed in range(8):
        x, labels = images(60, classes, features, seed)
        best = float(objectives(standardised(x), labels, matrices, L2).min())
        found = binary(Problem(x, labels, classes), k, L2)
        assert found.objective >= best - 1e-9
        assert found.matrix.sum(1).tolist() == [k] * classes
        assert len(torch.unique(found.matrix, dim=0)) == classes
        reached += found.objective <= best + 1e-8
    print("reached", classes, features, k, reached)
    assert reached == 8


@pytest.mark.parametrize(("features", "k"), [(4, 1), (4, 2), (3, 2)], ids=str)
@pytest.mark.parametrize("exactly", [True, False])
def test_the_search_reaches_the_best_of_all_ternary_heads(features: int, k: int, exactly: bool) -> None:
    matrices = every_ternary(3, features, k, exactly)
    reached = 0
    for seed in range(4):
        x, labels = images(60, 3, features, seed)
        best = float(objectives(standardised(x), labels, matrices, L2).min())
        found = ternary(Problem(x, labels, 3), k, L2, exactly=exactly)
        assert found.objective >= best - 1e-9
        counts = found.matrix.abs().sum(1)
        assert bool((counts == k if exactly else counts <= k).all())
        reached += found.objective <= best + 1e-8
    print("reached", features, k, exactly, reached)
    assert reached == 4
