"""torch's device without values in place of a GPU: whoever wants to know a value on it, and so would wait, fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


def fabric_without_values() -> Fabric:
    """One process on this device."""
    return Fabric(strategy=SingleDeviceStrategy(device=META, accelerator=_Accelerator()))


class Transfers(TorchDispatchMode):
    """Counts the operations that bring values from the CPU to this device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {value.device.type for value in args if isinstance(value, Tensor)}
        self.count += "cpu" in given and isinstance(out, Tensor) and out.device == META
        return out
