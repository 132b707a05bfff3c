"""Everything is made where the features are: a default device that holds no values changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.sparse_search import beside, images
from torch import Tensor

from decompose_cli.sparse import curvature, cuts, elimination, measures, mixtures, moves, qpm, values
from decompose_cli.sparse.elastic_net import elastic_net_path
from decompose_cli.sparse.elimination import backward
from decompose_cli.sparse.one_scale import fit_scale
from decompose_cli.sparse.pools import shared_pool
from decompose_cli.sparse.problem import Problem, fitting_device
from decompose_cli.sparse.refit import refit
from decompose_cli.sparse.splicing import splice
from decompose_cli.sparse.strength import choose_strength, stratified_part

CLASSES, FEATURES, IMAGES, L2 = 4, 7, 90, 1e-2
SUPPORT = torch.rand(CLASSES, FEATURES, generator=torch.Generator().manual_seed(2)) < 0.5
HEAD = torch.randn(CLASSES, FEATURES + 1, generator=torch.Generator().manual_seed(3)).double()
OTHERS = torch.randn(CLASSES + 2, FEATURES + 1, generator=torch.Generator().manual_seed(3)).double()
HELD = torch.arange(CLASSES + 2) >= CLASSES
MAPS = torch.rand(IMAGES, FEATURES, 3, 3, generator=torch.Generator().manual_seed(4))


def local_diversity(problem: Problem) -> float | None:
    counted = measures.LocalDiversity(HEAD[:, :-1], torch.ones_like(SUPPORT))
    counted.add(MAPS, problem.labels)
    return counted.value


def the_cuts(problem: Problem) -> tuple[Tensor, ...]:
    path = elastic_net_path(problem, strengths=4, most_steps=20)
    return cuts.exactly(path, 2), cuts.sldd(path, 2), cuts.ternary(path, 2), cuts.nearest_the_mean(path, 2).head


CASES: dict[str, Callable[[Problem], Any]] = {
    "problem": lambda p: (p.scale, p.value_and_gradient(HEAD), p.in_single.value_and_gradient(HEAD), p.target_means),
    "refit": lambda p: refit(p, SUPPORT, L2, start=HEAD, toward=HEAD),
    "refit, nothing given": lambda p: refit(p, SUPPORT, L2),
    "backward": lambda p: backward(p, [2, 3], L2, start=HEAD),
    "splice": lambda p: splice(p, [SUPPORT], L2, start=HEAD),
    "shared_pool": lambda p: shared_pool(p, 3, L2, start=HEAD),
    "path": lambda p: elastic_net_path(p, strengths=3, most_steps=20),
    "cuts": the_cuts,
    "ternary": lambda p: values.ternary(p, 2, L2, start=HEAD, kicks=2),
    "binary": lambda p: values.binary(p, 2, L2, kicks=2),
    "nonnegative": lambda p: values.nonnegative(p, SUPPORT, L2),
    "ternary_at": lambda p: values.ternary_at(p, SUPPORT, L2, start=HEAD, kicks=2),
    "fit_scale": lambda p: fit_scale(p, SUPPORT, L2),
    "qpm": lambda p: qpm.select(p, 2, size=5, locality=qpm.locality([(p.features, MAPS)]), restarts=2),
    "measures": lambda p: measures.measure(p.features, p.labels, SUPPORT),
    "local diversity": local_diversity,
    "strength": lambda p: choose_strength(p, lambda l2: refit(p, SUPPORT, l2).head, p.features, p.labels, [1, 0.1]),
    "stratified_part": lambda p: stratified_part(p.labels, 0.3, 0),
}


def plain(found: Any) -> Any:
    """The numbers of a result, and where its tensors are."""
    if isinstance(found, Tensor):
        found = found.to_dense() if found.is_sparse else found
        return found.device.type, found.tolist()
    if isinstance(found, curvature.Curvature):
        return None
    if dataclasses.is_dataclass(found):
        return [plain(getattr(found, field.name)) for field in dataclasses.fields(found)]
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items()}
    return [plain(one) for one in found] if isinstance(found, tuple | list) else found


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, labels = images(CLASSES, FEATURES, IMAGES)
    generator = torch.Generator().manual_seed(1)
    targets = torch.rand(IMAGES, len(HELD), generator=generator).double().softmax(1)
    return x.relu(), labels, targets, torch.rand(IMAGES, generator=generator) + 0.1


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("name", CASES)
def test_a_default_device_changes_nothing(name: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made without saying where would be on the default device, here one without numbers."""
    if size == "large":  # what large problems take: drawn images, curvature by class, fewer exact moves
        monkeypatch.setattr(curvature, "_PRODUCTS", 1)
        monkeypatch.setattr(curvature, "_FEWEST_IMAGES", 50)
        monkeypatch.setattr(curvature, "_MOST_DENSE", 20)
        monkeypatch.setattr(moves, "_ADDITIONS", 3)
        monkeypatch.setattr(elimination, "_PRODUCTS", 1)
        monkeypatch.setattr(measures, "_IMAGES_OF_MIXTURES", 60)
        monkeypatch.setattr(mixtures, "_VALUES_AT_ONCE", 130)
    x, labels, targets, a = drawn()
    own = targets[:, :CLASSES] / targets[:, :CLASSES].sum(1, keepdim=True)
    for make in (
        lambda: Problem(x, labels, CLASSES),
        lambda: Problem(x, labels, CLASSES, targets=own, image_weights=a),
        lambda: beside(x, labels, OTHERS, HELD, targets=targets, image_weights=a),
    ):
        expected = plain(CASES[name](make()))
        with torch.device("meta"):
            assert plain(CASES[name](make())) == expected


def test_fits_run_where_there_is_double_precision() -> None:
    assert [str(fitting_device(device)) for device in ("cpu", "cuda:1", "mps", torch.device("mps", 0))] == [
        "cpu",
        "cuda:1",
        "cpu",
        "cpu",
    ]
