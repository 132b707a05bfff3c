"""The class scores in what a network returns: a tensor, or one tensor among other things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decompose_cli.errors import InputError, first_few

_TAKEN = (
    "Logits are taken from a tensor, from .logits of an object, and from a dict under 'logits' or where it has one "
    "tensor of two axes."
)


def logits_of(output: Any, *, in_training: bool = False, where: str = "The network") -> Tensor:
    """The logits (N, C) in the output of a network.

    They are the output itself; its attribute ``logits``, as networks of transformers have it; of a mapping, the value
    under ``logits`` or the only tensor of two axes; and of a tuple or list, which networks with auxiliary heads return
    in training mode, the first entry.

    Args:
        output: What the network returned.
        in_training: Whether it was in training mode; in evaluation nothing says which entry of a tuple the logits are.
        where: The network and what it was given, for the sentence.

    Raises:
        InputError: There is no tensor that is known to hold the logits.
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    if isinstance(output, Mapping):
        rows = [value for value in output.values() if isinstance(value, Tensor) and value.ndim == 2]
        if len(rows) == 1:
            return rows[0]
    if in_training and isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    holding = f" of {first_few(map(repr, output))}" if isinstance(output, Mapping) and output else ""
    raise InputError(
        f"{where} returns a {type(output).__name__}{holding}, not logits (N, number of classes).", hint=_TAKEN
    )


def nothing_of(output: Any) -> Tensor | float:
    """Zero, whose gradients, zeros as well, reach all that made the output of a network, auxiliary heads too."""
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    made = [value for value in values if isinstance(value, Tensor) and value.requires_grad]
    return sum(value.masked_fill(torch.ones_like(value, dtype=torch.bool), 0).sum() for value in made)
