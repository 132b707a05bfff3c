"""The average of weights against its formula and against torch's own."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from decompose_cli.training.averaging import WeightAverage


def test_the_average_is_that_of_the_formula_and_of_torch() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours = WeightAverage(network, 0.8)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    expected: dict[str, torch.Tensor] = {}
    for step in range(5):
        network(torch.randn(6, 3)).sum().backward()
        with torch.no_grad():
            for value in network.parameters():
                value += torch.randn(value.shape)
        for average in (ours, theirs):
            average.update_parameters(network)
        for name, value in network.named_parameters():
            wide = value.detach().double()
            expected[name] = 0.8 * expected[name] + 0.2 * wide if step else wide
    for name, value in ours.module.named_parameters():
        torch.testing.assert_close(value.detach().double(), expected[name], rtol=1e-6, atol=1e-7)
    for (name, value), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    for value, other in zip(ours.module.buffers(), network.buffers(), strict=True):
        assert torch.equal(value, other)
        assert value is not other
