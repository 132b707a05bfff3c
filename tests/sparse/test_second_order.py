"""Second derivatives of single weights against autograd on the written-out loss."""

from __future__ import annotations

import pytest
import torch
from helpers.sparse_search import images, penalised_loss

from decompose_cli.sparse import second_order
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.second_order import second_derivatives

CLASSES, FEATURES, IMAGES = 4, 7, 90


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("at_once", [1 << 22, 70])
def test_second_derivatives_are_those_of_autograd(
    weighted: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_order, "_VALUES_AT_ONCE", at_once)
    x, labels = images(CLASSES, FEATURES, IMAGES)
    generator = torch.Generator().manual_seed(1)
    head = torch.randn(CLASSES, FEATURES + 1, generator=generator).double() / 2
    a = torch.rand(IMAGES, generator=generator) + 0.1 if weighted else None
    t = torch.nn.functional.one_hot(labels, CLASSES)
    whole = torch.autograd.functional.hessian(lambda h: penalised_loss(x, t, h, 0.0, a), head)
    expected = torch.stack([torch.stack([whole[c, j, c, j] for j in range(FEATURES + 1)]) for c in range(CLASSES)])
    found = second_derivatives(Problem(x, labels, CLASSES, image_weights=a), head)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_constant_features_have_no_curvature() -> None:
    x, labels = images(CLASSES, FEATURES, IMAGES)
    x[:, 3] = 7
    found = second_derivatives(Problem(x, labels, CLASSES), torch.zeros(CLASSES, FEATURES + 1))
    assert not found[:, 3].any()
    assert float(found[:, [0, 1, 2, 4, 5, 6, 7]].min()) > 0
