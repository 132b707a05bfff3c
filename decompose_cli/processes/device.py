"""Choose the device that computes."""

from __future__ import annotations

import re

import torch

from decompose_cli.errors import InputError, param


def resolve_device(name: str) -> torch.device:
    """Return the device named ``auto`` (CUDA, else Apple's MPS, else CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        InputError: The name is unknown, or this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", name):
        raise InputError(f"{param('device')} {name!r} is unknown; choose auto, cpu, cuda, cuda:N or mps.")
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"{param('device')} mps is not available on this machine.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            present = f"this machine has {count} CUDA device{'s' if count != 1 else ''}"
            raise InputError(f"{param('device')} {name} is not available: {present}.")
    return device


def describe_device(device: torch.device) -> str:
    """A device as results name it, such as ``cpu`` or ``cuda (NVIDIA H100 80GB HBM3)``."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
