"""The loss as a function of one class's row, and estimates of exchanges, against the written-out loss."""

from __future__ import annotations

import pytest
import torch
from helpers.sparse_search import images, penalised_loss
from scipy.optimize import minimize

from decompose_cli.sparse import rows
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit
from decompose_cli.sparse.rows import Row

CLASSES, FEATURES, IMAGES = 4, 7, 120
NUMBER = 2
L2 = 1e-2


def head(seed: int = 0) -> torch.Tensor:
    return torch.randn(CLASSES, FEATURES + 1, generator=torch.Generator().manual_seed(seed)).double() / 2


def case(kind: str):
    x, labels = images(CLASSES, FEATURES, IMAGES)
    generator = torch.Generator().manual_seed(1)
    t = torch.nn.functional.one_hot(labels, CLASSES).double()
    if kind == "targets":
        t = torch.rand(IMAGES, CLASSES, generator=generator).double().softmax(1)
    a = torch.rand(IMAGES, generator=generator) + 0.1 if kind == "weights" else None
    problem = Problem(x, labels, CLASSES, targets=t if kind == "targets" else None, image_weights=a)
    return problem, lambda at: penalised_loss(x, t, at, L2, a)


@pytest.mark.parametrize("kind", ["labels", "targets", "weights"])
def test_the_row_of_a_class_is_fitted_beside_the_others(kind: str) -> None:
    problem, loss = case(kind)
    start = head()
    row = Row(problem, NUMBER, problem.logits(start), L2)
    objectives = []
    for columns in (torch.tensor([1, 4]), torch.tensor([0, 2, 6]), torch.tensor([], dtype=torch.int64)):

        def at(flat, columns=columns):
            placed = torch.zeros(FEATURES + 1).double().scatter(0, torch.cat([columns, torch.tensor([FEATURES])]), flat)
            return torch.cat([start[:NUMBER], placed[None], start[NUMBER + 1 :]])

        def value(flat, at=at):
            theta = torch.tensor(flat, requires_grad=True)
            found = loss(at(theta))
            (gradient,) = torch.autograd.grad(found, theta)
            return float(found.detach()), gradient.numpy()

        expected = minimize(value, torch.zeros(len(columns) + 1).double().numpy(), jac=True, method="BFGS").fun
        fit = row.fit(columns, torch.zeros(len(columns) + 1).double())
        assert float(loss(at(fit.weights))) == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(fit.logits, problem.logits(at(fit.weights))[:, NUMBER], rtol=1e-9, atol=1e-9)
        objectives.append((fit.objective, float(loss(at(fit.weights)))))
    # Objectives of a row are comparable with each other: the same number is missing from all.
    for ours, whole in objectives[1:]:
        assert ours - objectives[0][0] == pytest.approx(whole - objectives[0][1], abs=1e-10)


@pytest.mark.parametrize("at_once", [1 << 22, 50])
def test_estimates_of_exchanges_are_those_of_the_quadratic_loss(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_VALUES_AT_ONCE", at_once)
    problem, loss = case("labels")
    start = head()
    row = Row(problem, NUMBER, problem.logits(start), L2)
    monkeypatch.setattr(rows, "_TOLERANCE", 1e-14)
    fit = row.fit(torch.tensor([5, 1, 4]), torch.zeros(4).double())
    found = row.exchanges(fit)
    assert found.shape == (3, FEATURES)
    assert bool(found[:, fit.columns].isinf().all())

    def of_row(weights):
        return loss(torch.cat([start[:NUMBER], weights[None], start[NUMBER + 1 :]]))

    at = torch.zeros(FEATURES + 1).double().scatter(0, torch.tensor([5, 1, 4, FEATURES]), fit.weights)
    gradient = torch.autograd.functional.jacobian(of_row, at)
    hessian = torch.autograd.functional.hessian(of_row, at)
    for place, out in enumerate(fit.columns.tolist()):
        for new in set(range(FEATURES)) - set(fit.columns.tolist()):
            moving = [f for f in [*fit.columns.tolist(), new, FEATURES] if f != out]
            fixed = torch.zeros_like(at)
            fixed[out] = -at[out]
            slope = (gradient + hessian @ fixed)[moving]
            best = fixed.clone()
            best[moving] = -torch.linalg.solve(hessian[moving][:, moving], slope)
            change = float(gradient @ best + best @ hessian @ best / 2)
            assert float(found[place, new]) == pytest.approx(change, rel=1e-5, abs=1e-9)


def test_constant_features_are_not_exchanged_in_but_out() -> None:
    x, labels = images(CLASSES, FEATURES, IMAGES)
    x[:, [0, 3]] = 2.0
    problem = Problem(x, labels, CLASSES)
    row = Row(problem, NUMBER, problem.logits(torch.zeros(CLASSES, FEATURES + 1).double()), L2)
    fit = row.fit(torch.tensor([3, 4]), torch.zeros(3).double())
    changes = row.exchanges(fit)
    assert bool(changes[:, [0, 3, 4]].isinf().all())
    assert float(changes[0].min()) < 0
    better = row.exchanged(fit, 0, int(changes[0].argmin()))
    assert better.columns.tolist() == [int(changes[0].argmin()), 4]
    assert better.objective < fit.objective


def test_images_that_are_right_for_certain_keep_their_loss() -> None:
    """Where one class has all of the probability, what the others have is not lost by a subtraction."""
    x, labels = images(CLASSES, FEATURES, IMAGES)
    problem = Problem(x, labels, CLASSES)
    sure = 60 * refit(problem, torch.ones(CLASSES, FEATURES, dtype=torch.bool), L2).head
    row = Row(problem, NUMBER, problem.logits(sure), L2)
    without = problem.logits(sure).clone()
    without[:, NUMBER] = -float("inf")
    torch.testing.assert_close(row.others, without.logsumexp(1), rtol=1e-12, atol=0)


def test_a_class_is_taken_out_of_the_sum_of_all_exactly() -> None:
    problem, _ = case("labels")
    logits = problem.logits(head(5)) * torch.logspace(-2, 2, IMAGES, dtype=torch.float64)[:, None]
    expected = torch.cat([logits[:, :NUMBER], logits[:, NUMBER + 1 :]], 1).logsumexp(1)
    assert bool((logits.softmax(1)[:, NUMBER] > 1 - 1e-12).any())  # next to nothing is left of the sum
    for sums in (None, logits.logsumexp(1)):
        found = Row(problem, NUMBER, logits, L2, sums).others
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
