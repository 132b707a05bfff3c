"""Number formats of a network's arithmetic, and which of them a device gains by."""

from __future__ import annotations

import torch

from decompose_cli.errors import param
from decompose_cli.messages import warn_of_first

AUTO = "auto"


def gains_by_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, so that a network can be faster in it than in float32.

    A CPU needs AVX512-BF16, AMX, or ARM's instructions for bfloat16: without them oneDNN converts every number, and a
    ResNet-20 was 7 to 10 times slower than in float32. MPS is not known to gain.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _cpu_has_bfloat16()


def _cpu_has_bfloat16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    # Earlier versions of torch tell it of x86 alone.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def settled_precision(name: str, device: torch.device) -> str:
    """The number format that a ``--precision`` stands for on a device.

    Args:
        name: ``auto``, ``32``, ``bf16`` or, in training, ``16``.
        device: Device that computes.

    Returns:
        For ``auto``, ``bf16`` where the device gains by it and ``32`` elsewhere; else the name as it is. ``bf16`` on a
        CPU that only gets slower by it is warned of, once.
    """
    if name == AUTO:
        return "bf16" if gains_by_bfloat16(device) else "32"
    if name == "bf16" and device.type == "cpu" and not gains_by_bfloat16(device):
        warn_of_first(
            "precision",
            f"This CPU has no instructions for bfloat16, so {param('precision')} bf16 can be 10 times slower than "
            f"{param('precision')} 32, which {param('precision')} auto takes here.",
        )
    return name
