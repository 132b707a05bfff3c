"""What a network of a user's own lacks before it can be looked at: sizes of lazy layers, numbers in its tensors."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from decompose_cli.errors import InputError, first_few, raised
from decompose_cli.models.tracing import cannot_run, evaluating, example_images
from decompose_cli.preprocessing import Size


def completed(module: nn.Module, input_size: Size, called: str) -> nn.Module:
    """The network itself, whose lazy layers now have the sizes that images of this size give them.

    Args:
        module: The network, in either mode.
        input_size: (height, width) of its images.
        called: Its name, for messages.

    Raises:
        InputError: It cannot be put into evaluation mode, a tensor of it is on the device ``meta``, or it cannot run.
    """
    try:
        with evaluating(module):
            pass
    except Exception as error:
        raise InputError(
            f"{called} cannot be put into training or evaluation mode ({raised(error)}), as "
            "programs of torch.export and frozen ScriptModules cannot.",
            hint="Return the nn.Module that it was made from.",
        ) from error
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if empty := [name for name, value in tensors.items() if not is_lazy(value) and value.is_meta]:
        raise InputError(
            f"{called} has tensors without numbers, on the device meta: {first_few(empty)}.",
            hint="Build it on the processor; a network that torch.device('meta') made gets numbers from "
            "to_empty(device='cpu') and load_state_dict.",
        )
    if any(is_lazy(value) for value in tensors.values()):
        try:
            with evaluating(module):
                module(example_images(input_size))
        except (Exception, SystemExit) as error:
            raise cannot_run(called, input_size, error) from error
    return module


def bad_numbers(module: nn.Module) -> str | None:
    """What in the tensors of a network makes NaN of any image, in words; None where no tensor shows it."""
    buffers = dict(module.named_buffers())
    for name, value in {**dict(module.named_parameters()), **buffers}.items():
        if not (value.is_floating_point() or value.is_complex()):
            continue
        is_bad = value.isnan() if name in buffers else ~value.isfinite()  # masks hold minus infinity
        if bool(is_bad.any()):
            return f"{name} holds NaN or infinity"
        owner: Any = module.get_submodule(name.rpartition(".")[0])
        if name.endswith("running_var") and bool((value + getattr(owner, "eps", 0.0) < 0).any()):
            return f"{name} holds a negative variance ({float(value.min()):.3g})"
    return None
