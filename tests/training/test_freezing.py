"""What stays as it is when a part of a network is trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.head_kinds import FOLDED, SIZE, trained
from torch import nn

from decompose_cli.decomposition.heads import decomposed_head, with_decomposed_head
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.models.network import network_of
from decompose_cli.training.freezing import freeze

ROWS = IndexSet(((0, 1), (), (1,), (0,)))


@pytest.mark.parametrize("kind", FOLDED, ids=lambda kind: kind.__name__)
def test_with_the_backbone_alone_the_head_and_what_follows_it_stay(kind: Callable[[], nn.Module]) -> None:
    module = trained(kind)
    full = network_of(module, SIZE)
    with_decomposed_head(module, full.head, decomposed_head(full.tensors, ROWS))
    before = network_of(module, SIZE, full.head.name).tensors
    frozen = freeze(module, full.head.name, "backbone", SIZE)
    stem = module.get_submodule("stem")
    moved = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert {f"stem.{name}" for name, _ in stem.named_parameters()} <= set(moved)
    with torch.no_grad():
        for name in moved:
            module.get_parameter(name).add_(0.1)
    module.train()
    for part in frozen:
        part.eval()
    module(torch.randn(8, 3, *SIZE))  # moves the statistics of what is not frozen
    module.eval()
    assert network_of(module, SIZE, full.head.name).tensors.is_same(before)
