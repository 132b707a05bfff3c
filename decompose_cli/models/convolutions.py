"""How cuDNN computes convolutions: with how many digits, and by which of its algorithms.

Both are switches of the whole process. What is set here is put back, and no other switch is touched: above all a
deterministic setting of the user stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Keep convolutions on a GPU from rounding float32 to the ten bits of TF32 inside the block, as they do by default.

    torch has two sets of switches, ``allow_tf32`` for all of cuDNN and, since 2.9, a precision for each operator, and
    refuses to read the first once the second have been used. So this takes the one that the user has taken.
    """
    if device.type != "cuda":
        yield
        return
    switches, name, full = _switch()
    before = getattr(switches, name)
    setattr(switches, name, full)
    try:
        yield
    finally:
        setattr(switches, name, before)


def _switch() -> tuple[Any, str, object]:
    """The switch of the precision of convolutions: whose attribute, its name, and its value for all of float32."""
    cudnn: Any = torch.backends.cudnn
    for_all = cudnn, "allow_tf32", False
    if not hasattr(torch.backends, "fp32_precision"):
        return for_all
    by_operator = cudnn.conv, "fp32_precision", "ieee"
    # Without allow_tf32 convolutions would follow these, if they are set.
    if (cudnn.fp32_precision, torch.backends.fp32_precision) != ("none", "none"):
        return by_operator
    try:
        bool(cudnn.allow_tf32)
    except RuntimeError:
        return by_operator
    return for_all


def may_choose_algorithms(device: torch.device) -> bool:
    """Whether cuDNN may time its algorithms: on CUDA, unless the user has asked for deterministic ones."""
    is_fixed = torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic
    return device.type == "cuda" and not is_fixed


@contextmanager
def fastest_algorithms(device: torch.device) -> Iterator[None]:
    """Let cuDNN time its algorithms for each shape of batches and take the fastest inside the block, if it may.

    It pays where shapes stay the same. Which algorithm is fastest may differ between runs, and the last digits with it.
    """
    if not may_choose_algorithms(device):
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.benchmark = before
