"""Supports by fits of heads, for features of labelled images: what the fitted rankings are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from decompose_cli.features.labelled import LabelledFeatures, check_classes
from decompose_cli.sparse.cuts import exactly
from decompose_cli.sparse.elastic_net import Path, elastic_net_path
from decompose_cli.sparse.elimination import backward
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit
from decompose_cli.sparse.splicing import splice
from decompose_cli.sparse.values import class_means

Classes = tuple[tuple[int, ...], ...]


def problem_of(data: LabelledFeatures) -> Problem:
    """The images of some features as a fit takes them."""
    return Problem(data.features, data.labels, data.num_classes, targets=data.targets, image_weights=data.image_weights)


def dense_start(data: LabelledFeatures, problem: Problem) -> Tensor:
    """The full head on standardised features, (C, D + 1); where there is none, one is fitted.

    Raises:
        InputError: There is none, and a class without images has no row that could stay.
    """
    if data.weight is not None and data.bias is not None:
        weight, bias = problem.scale.standardised(data.weight, data.bias)
        return torch.cat([weight, bias[:, None]], 1)
    check_classes(data.labels, data.class_names)
    everything = torch.ones(data.num_classes, data.num_features, dtype=torch.bool)
    return refit(problem, everything, data.l2).head


def eliminated(data: LabelledFeatures, ks: Sequence[int]) -> Iterator[Classes]:
    """Backward elimination from the full head; see :func:`.elimination.backward`."""
    problem = problem_of(data)
    found = backward(problem, ks, data.l2, start=dense_start(data, problem), held=data.held)
    for k in ks:
        yield strongest_first(found.support(k), found.fits[k].head)


def spliced(data: LabelledFeatures, ks: Sequence[int]) -> Iterator[Classes]:
    """Exchange from two starts, contribution and backward elimination; see :func:`.splicing.splice`."""
    problem = problem_of(data)
    start = dense_start(data, problem)
    found = backward(problem, ks, data.l2, start=start, held=data.held)
    contribution = start[:, :-1] * (class_means(problem) + problem.scale.mean * problem.scale.inverse)
    for k in ks:
        first = torch.zeros(contribution.shape, dtype=torch.bool)
        first.scatter_(1, contribution.topk(k, 1).indices, True)
        best = splice(problem, [first, found.support(k)], data.l2, start=start, held=data.held)
        yield strongest_first(best.support, best.fit.head)


def on_the_path(data: LabelledFeatures, ks: Sequence[int]) -> Iterator[Classes]:
    """The k largest weights of each class where the path first has so many of each; see :func:`.cuts.exactly`."""
    problem = problem_of(data)
    start = dense_start(data, problem)
    path = elastic_net_path(problem, held=data.held, start=start, most_per_class=4 * max(ks))
    return largest_on(path, problem, start, data, ks)


def largest_on(
    path: Path, problem: Problem, start: Tensor, data: LabelledFeatures, ks: Sequence[int]
) -> Iterator[Classes]:
    """The sets of :func:`on_the_path` for a path that is there."""
    for k in ks:
        support = exactly(path, k)
        yield strongest_first(support, refit(problem, support, data.l2, start=start, held=data.held).head)


def strongest_first(support: Tensor, head: Tensor) -> Classes:
    """Per class the features of a support by the size of their weights on standardised features."""
    order = torch.where(support, head[:, :-1].abs(), -1.0).argsort(dim=1, descending=True, stable=True)
    counts = support.sum(1).tolist()
    return tuple(tuple(row[:count]) for row, count in zip(order.tolist(), counts, strict=True))
