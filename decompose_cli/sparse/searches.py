"""Supports by fits of heads, for features of labelled images: what the fitted rankings are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from decompose_cli.features.labelled import LabelledFeatures, check_classes
from decompose_cli.sparse.cuts import exactly
from decompose_cli.sparse.elastic_net import Path, elastic_net_path
from decompose_cli.sparse.elimination import backward, sizes
from decompose_cli.sparse.long_work import track_long
from decompose_cli.sparse.problem import Problem, Rest, fitting_device, precision_of
from decompose_cli.sparse.refit import refit
from decompose_cli.sparse.splicing import splice
from decompose_cli.sparse.values import class_means

Classes = tuple[tuple[int, ...], ...]


def problem_of(data: LabelledFeatures) -> Problem:
    """The images of some features as a fit takes them: with the classes that are fitted, and the others as the rest."""
    features, present = data.features.to(fitting_device(data.device)), data.present
    targets = data.targets
    wanted = data.labels if targets is None else targets
    rest = rest_of(data, features, wanted, precision_of(features, len(present)))
    if targets is not None and rest is not None:
        targets = targets[:, present]
    labels, weights = data.places(data.labels), data.image_weights
    return Problem(features, labels, len(present), targets=targets, image_weights=weights, rest=rest)


def rest_of(
    data: LabelledFeatures, features: Tensor, targets: Tensor, dtype: torch.dtype = torch.float64
) -> Rest | None:
    """What classes that are held have in the loss of some images, by their rows of the full head; None without any.

    Args:
        data: Says which classes are held, and has the full head.
        features: Features of the images, (n, D), where fits run.
        targets: Their class numbers among all classes, int64 (n,), or shares of all classes, (n, C).
        dtype: What it is computed in.
    """
    if data.held is None:
        return None
    assert data.weight is not None
    assert data.bias is not None
    return Rest.of(data.weight, data.bias, data.held, features, targets, dtype)


def dense_start(data: LabelledFeatures, problem: Problem) -> Tensor:
    """The full head of the classes that are fitted on standardised features; where there is none, one is fitted.

    Returns:
        (c, D + 1), with the bias as the last column.

    Raises:
        InputError: There is none, and a class without images has no row that could stay.
    """
    if data.weight is not None and data.bias is not None:
        weight, bias = (each[data.present].to(problem.device) for each in (data.weight, data.bias))
        weight, bias = problem.scale.standardised(weight, bias)
        return torch.cat([weight, bias[:, None]], 1)
    check_classes(data.labels, data.class_names)
    everything = torch.ones(data.num_classes, data.num_features, dtype=torch.bool, device=problem.device)
    return refit(problem, everything, data.l2).head


Found = Iterator[tuple[Tensor, Tensor]]
"""For each k a support, bool (C, D), and the head fitted on it, (C, D + 1)."""


def eliminated(problem: Problem, start: Tensor, ks: Sequence[int], l2: float) -> Found:
    """Backward elimination from a full head; see :func:`.elimination.backward`."""
    with track_long(problem, "Eliminating features", len(sizes(problem.num_features, min(ks))), "steps") as advance:
        found = backward(problem, ks, l2, start=start, advance=advance)
    for k in ks:
        yield found.support(k), found.fits[k].head


def spliced(
    problem: Problem, start: Tensor, ks: Sequence[int], l2: float, others: Iterable[Tensor] | None = None
) -> Found:
    """Exchange from two starts, contribution and backward elimination; see :func:`.splicing.splice`.

    ``others``: the supports of backward elimination, bool (C, D) for each k, where they are known.
    """
    if others is None:
        others = (support for support, _ in eliminated(problem, start, ks, l2))
    contribution = start[:, :-1] * (class_means(problem) + problem.scale.mean * problem.scale.inverse)
    for k, other in zip(ks, others, strict=True):
        first = torch.zeros_like(other)
        first.scatter_(1, contribution.topk(k, 1).indices, True)
        best = splice(problem, [first, other], l2, start=start)
        yield best.support, best.fit.head


def on_the_path(problem: Problem, start: Tensor, ks: Sequence[int], l2: float) -> Found:
    """The k largest weights of each class where the path first has so many of each; see :func:`.cuts.exactly`."""
    path = elastic_net_path(problem, most_per_class=4 * max(ks))
    return largest_on(path, problem, start, ks, l2)


def largest_on(path: Path, problem: Problem, start: Tensor, ks: Sequence[int], l2: float) -> Found:
    """What :func:`on_the_path` finds, for a path that is there."""
    for k in ks:
        support = exactly(path, k)
        yield support, refit(problem, support, l2, start=start).head


SEARCHES: dict[str, Callable[[Problem, Tensor, Sequence[int], float], Found]] = {
    "backward": eliminated,
    "splicing": spliced,
    "elastic-net": on_the_path,
}
"""Searches for the features of each class by fits of heads, by the names of their rankings."""


def searched(name: str, data: LabelledFeatures, ks: Sequence[int]) -> Iterator[Classes]:
    """Per ascending k and class that is fitted the features that a search finds, the strongest weights first."""
    problem = problem_of(data)
    start = dense_start(data, problem)
    for support, head in SEARCHES[name](problem, start, ks, data.l2):
        yield strongest_first(support, head)


def strongest_first(support: Tensor, head: Tensor) -> Classes:
    """Per class the features of a support by the size of their weights on standardised features."""
    order = torch.where(support, head[:, :-1].abs(), -1.0).argsort(dim=1, descending=True, stable=True)
    counts = support.sum(1).tolist()
    return tuple(tuple(row[:count]) for row, count in zip(order.tolist(), counts, strict=True))
