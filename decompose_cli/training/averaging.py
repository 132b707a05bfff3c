"""The exponential average of a network's weights over the steps of a training."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override


class WeightAverage(AveragedModel):
    """A copy of a network with averaged weights: ``a <- decay * a + (1 - decay) * w`` after each step, from w on.

    Statistics in buffers are those of the network. As in torch, but torch brings the count of steps, which this
    average does not depend on, to a GPU in every step, and so waits for all that the GPU has still to do.

    Args:
        module: The network.
        decay: Share of the average that stays, in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        super().__init__(module, multi_avg_fn=self._average)

    @override
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        if self.n_averaged == 0:
            super().update_parameters(model)
            return
        mine, others = ([value.detach() for value in network.parameters()] for network in (self.module, model))
        self._average(mine, others, self.n_averaged)
        for value, other in zip(self.module.buffers(), model.buffers(), strict=True):
            value.copy_(other)
        self.n_averaged += 1
