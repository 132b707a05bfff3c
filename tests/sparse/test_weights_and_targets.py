"""Every fit takes weights of images as images that are repeated, and soft targets as labels that are split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.sparse_search import beside, images
from torch import Tensor

from decompose_cli.sparse import curvature, elastic_net, values
from decompose_cli.sparse.elastic_net import elastic_net_path
from decompose_cli.sparse.elimination import backward
from decompose_cli.sparse.minimise import Fit
from decompose_cli.sparse.one_scale import FewValues, fit_scale
from decompose_cli.sparse.pools import shared_pool
from decompose_cli.sparse.problem import Problem, Scale
from decompose_cli.sparse.refit import refit
from decompose_cli.sparse.rows import Row
from decompose_cli.sparse.second_order import second_derivatives
from decompose_cli.sparse.splicing import splice

CLASSES, FEATURES, IMAGES, L2 = 4, 9, 120, 1e-2
SUPPORT = torch.rand(CLASSES, FEATURES, generator=torch.Generator().manual_seed(2)) < 0.5
HEAD = torch.randn(CLASSES, FEATURES + 1, generator=torch.Generator().manual_seed(3)).double() / 2
HELD = torch.arange(CLASSES) == 3


def fit_of(found: Fit | FewValues) -> list[Any]:
    return [found.objective, found.loss, found.head]


def path_of(problem: Problem) -> list[Any]:
    points = elastic_net_path(problem, strengths=4, tolerance=1e-9).points
    assert all(point.relative_gap <= 1e-9 for point in points)
    return [[point.strength, point.objective, point.loss, point.head, point.weights] for point in points]


def gap_of(problem: Problem) -> list[Any]:
    """The certificate of heads that are not optimal."""
    solver = elastic_net._Solver(problem, 0.99)
    strongest, start = solver.strongest, solver.at.head
    solver.strength, solver.l1, solver.l2 = 0.01, 0.0099, 0.0001
    biases = elastic_net.with_exact_biases(problem, HEAD, 1e-13)
    return [strongest, start, solver._gap(solver._evaluate(biases)), biases]


def row_of(problem: Problem) -> list[Any]:
    row = Row(problem, 1, problem.logits(HEAD), L2)
    columns = SUPPORT[1].nonzero()[:, 0]
    fit = row.fit(columns, torch.zeros(len(columns) + 1).double())
    changes = row.exchanges(fit)
    return [fit.objective, fit.weights, torch.where(changes.isfinite(), changes, 0.0)]


def curvatures_of(problem: Problem) -> list[Any]:
    free = torch.ones_like(HEAD, dtype=torch.bool)
    by_class, diagonal = curvature._ByClass(problem, HEAD, free, L2), curvature._Diagonal(problem, HEAD, free, L2)
    return [
        second_derivatives(problem, HEAD),
        curvature.Dense(problem, HEAD, free, L2).matrix,
        by_class.blocks,
        diagonal.diagonal,
    ]


def support_of(problem: Problem) -> Tensor:
    return SUPPORT[: problem.num_classes]


def splice_of(problem: Problem) -> list[Any]:
    found = splice(problem, [support_of(problem)], L2)
    return [found.support, *fit_of(found.fit)]


def backward_of(problem: Problem) -> list[Any]:
    found = backward(problem, [2, 4], L2)
    return [found.order, fit_of(found.fits[2]), fit_of(found.fits[4])]


def few_values_of(found: FewValues) -> list[Any]:
    return [found.matrix, found.scale, *fit_of(found)]


FITS: dict[str, Callable[[Problem], Any]] = {
    "refit": lambda p: fit_of(refit(p, support_of(p), L2, tolerance=1e-10)),
    "nonnegative": lambda p: fit_of(values.nonnegative(p, support_of(p), L2)[0]),
    "backward": backward_of,
    "splice": splice_of,
    "shared_pool": lambda p: shared_pool(p, 4, L2),
    "path": path_of,
    "ternary": lambda p: few_values_of(values.ternary(p, 3, L2, kicks=2)),
    "ternary_at": lambda p: few_values_of(values.ternary_at(p, support_of(p), L2, kicks=2)),
    "binary": lambda p: few_values_of(values.binary(p, 3, L2, kicks=2)),
    "fit_scale": lambda p: few_values_of(fit_scale(p, support_of(p), L2)),
}
PARTS: dict[str, Callable[[Problem], Any]] = {"gap": gap_of, "row": row_of, "curvatures": curvatures_of}


def same(found: Any, expected: Any) -> None:
    if isinstance(found, list):
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(found, Tensor) and found.is_floating_point():
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)
    elif isinstance(found, float):
        assert found == pytest.approx(expected, rel=2e-6)
    else:
        assert bool(torch.as_tensor(found == expected).all())


def data(held: bool) -> tuple[Tensor, Tensor]:
    x, labels = images(CLASSES, FEATURES, IMAGES, wrong=0.1)
    few = labels != 3 if held else labels >= 0
    return x[few], labels[few]


def alike(case: str, held: bool) -> tuple[Problem, Problem]:
    """A problem and the same one with repeated images, with labels in place of targets, and with divided images."""
    x, labels = data(held)
    scale = Scale.of(x)
    hot = torch.nn.functional.one_hot(labels, CLASSES).double()
    times = torch.randint(1, 4, labels.shape, generator=torch.Generator().manual_seed(5))
    often = torch.arange(len(x)).repeat_interleave(times)
    weighted = {"image_weights": times.double() / 3}
    if case == "weights":
        return Problem(x, labels, CLASSES, scale, **weighted), Problem(x[often], labels[often], CLASSES, scale)
    if case == "targets":  # the labels given beside targets are not looked at
        return Problem(x, labels * 0, CLASSES, scale, targets=hot), Problem(x, labels, CLASSES, scale)
    # A third of the next label and two thirds of the own are an image with the next label and two with the own.
    other = (labels + 1) % CLASSES
    soft = (2 * hot + torch.nn.functional.one_hot(other, CLASSES)) / 3
    three, truth, thrice = x.repeat(3, 1), torch.cat([labels, labels, other]), times.repeat(3)
    if held:
        split = torch.nn.functional.one_hot(truth, CLASSES)
        divided = beside(three, truth, HEAD, HELD, scale, targets=split, image_weights=thrice)
        return beside(x, labels * 0, HEAD, HELD, scale, targets=soft, **weighted), divided
    divided = Problem(three, truth, CLASSES, scale, image_weights=thrice)
    return Problem(x, labels * 0, CLASSES, scale, targets=soft, **weighted), divided


@pytest.mark.parametrize("case", ["weights", "targets", "both"])
@pytest.mark.parametrize("name", FITS)
def test_fits_take_weights_and_targets(name: str, case: str) -> None:
    problem, other = alike(case, held=False)
    same(FITS[name](problem), FITS[name](other))


@pytest.mark.parametrize("name", FITS)
def test_fits_take_them_beside_classes_that_are_held(name: str) -> None:
    """Which have no images, but may have a share of targets."""
    problem, other = alike("both", held=True)
    same(FITS[name](problem), FITS[name](other))


@pytest.mark.parametrize("case", ["weights", "targets", "both"])
@pytest.mark.parametrize("name", PARTS)
def test_what_searches_go_by_takes_weights_and_targets(name: str, case: str) -> None:
    problem, other = alike(case, held=False)
    same(PARTS[name](problem), PARTS[name](other))
