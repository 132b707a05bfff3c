"""Copies of networks, to leave those that were handed in as they are."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from decompose_cli.errors import InputError, raised
from decompose_cli.models.tracing import evaluating


def copied(module: nn.Module) -> nn.Module:
    """A copy of a network with parameters of its own.

    Raises:
        InputError: It cannot be copied.
    """
    try:
        return copy.deepcopy(module)
    except Exception as error:  # locks, open files and the like
        raise InputError(
            f"{type(module).__name__} cannot be copied, which is needed to leave it as it is: copy.deepcopy raises "
            f"{raised(error)}.",
            hint="Keep what cannot be copied, such as locks and open files, outside of the network.",
        ) from error


def in_float32(module: nn.Module, images: Tensor) -> nn.Module:
    """A copy in evaluation mode, on the CPU and in float32; in its own numbers where it runs in no others.

    A network that turns its activations into half precision in its forward, for layers that are of half precision, does
    not run once all of its weights are float32.

    Args:
        module: The network.
        images: Some of its images (N, 3, H, W).

    Raises:
        InputError: It cannot be copied.
    """
    own = copied(module).cpu().eval()
    if number_type(own) == torch.float32 and not _has_other_numbers(own):
        return own
    wide = copied(own).float()
    try:
        with evaluating(wide):
            wide(images.detach().cpu().float())
    except Exception:  # it says nothing of numbers as such
        return own
    return wide


def number_type(module: nn.Module) -> torch.dtype:
    """The number type of the images that a network takes, which is that of its first parameter of real numbers."""
    return next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.float32)


def _has_other_numbers(module: nn.Module) -> bool:
    tensors = (*module.parameters(), *module.buffers())
    return any(value.is_floating_point() and value.dtype != torch.float32 for value in tensors)
