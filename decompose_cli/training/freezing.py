"""Which part of a network is trained further; everything else stays as it is."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from decompose_cli.errors import InputError, param
from decompose_cli.messages import note
from decompose_cli.models.gate_kinds import GATES
from decompose_cli.models.gated_resnet import GatedNetwork
from decompose_cli.models.logits import logits_of
from decompose_cli.models.tracing import evaluating, example_images, trace_layers
from decompose_cli.preprocessing import Size

Trained = Literal["all", "head", "head+last-block", "backbone"]
TRAINED: tuple[Trained, ...] = ("all", "head", "head+last-block", "backbone")
PARTS = "These are parts, not names of modules: head is the last linear layer, however the network calls it."
"""What is said where something else was asked for."""


def freeze(module: nn.Module, head_name: str, only: Trained, size: Size) -> list[nn.Module]:
    """Leave only a part of a network to be trained.

    Args:
        module: The network, whose parameters are frozen or not.
        head_name: Name of its head.
        only: The part that is trained.
        size: (height, width) of the images that it takes.

    Returns:
        The modules that stay in evaluation mode, so that no statistics move.

    Raises:
        InputError: There is no such part.
    """
    if only in ("all", "backbone"):
        _hold_classifiers_of_gates(module)
        return _hold_head(module, head_name, size) if only == "backbone" else []
    kept = {head_name}
    if only == "head+last-block":
        block = _last_block(module, head_name, size)
        kept.add(block)
        note(f"Trained: {head_name} and {block}.")
    trained = [module.get_submodule(name) for name in kept]
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for part in trained:
        for parameter in part.parameters():
            parameter.requires_grad_(True)
    inside = {id(child) for part in trained for child in part.modules()}
    return [child for child in module.modules() if id(child) not in inside and not list(child.children())]


def _hold_head(module: nn.Module, head_name: str, size: Size) -> list[nn.Module]:
    """Freeze the head and what follows it, which together make the logits of the features."""
    head = module.get_submodule(head_name)
    images = example_images(size, model=module)
    _, calls = trace_layers(module, images)  # in the order in which they finish
    names = [call.name for call in calls]
    around = tuple(name for name in names if f"{head_name}.".startswith(f"{name}."))
    later = [call.module for call in calls[names.index(head_name) + 1 :] if call.name not in around]
    held = [head, *later]

    def cut(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    # A parameter of no module of its own, such as a temperature, follows the head if logits depend on it beside the
    # head's output.
    handle = head.register_forward_hook(cut)
    try:
        with evaluating(module), torch.enable_grad():
            parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
            used = torch.autograd.grad(logits_of(module(images)).sum(), parameters, allow_unused=True)
    finally:
        handle.remove()
    following = [parameter for parameter, gradient in zip(parameters, used, strict=True) if gradient is not None]
    for parameter in (*following, *(parameter for part in held for parameter in part.parameters())):
        parameter.requires_grad_(False)
    return [child for part in held for child in part.modules() if not list(child.children())]


def _hold_classifiers_of_gates(module: nn.Module) -> None:
    """Freeze the classifiers of gates: they learn only from a loss of their own, in ``train-gate``."""
    if not isinstance(module, GatedNetwork):
        return
    if GATES[module.gate_name].penalty:
        note("The penalty of the gates, which keeps g small, is no part of the loss here.")
    if not GATES[module.gate_name].has_classifier:
        return
    for gate in module.gates():
        gate.requires_grad_(False)
    note("The classifiers of the gates stay as they are.")


def _last_block(module: nn.Module, head_name: str, size: Size) -> str:
    """The last block that finishes before the head: a module of several layers that is no mere sequence of others."""
    _, calls = trace_layers(module, torch.zeros(2, 3, *size))
    before = [
        call for call in calls if not f"{head_name}.".startswith(f"{call.name}.") and list(call.module.parameters())
    ]
    blocks = [call for call in before if list(call.module.children()) and not isinstance(call.module, nn.Sequential)]
    chosen = blocks or [call for call in before if not list(call.module.children())]
    if not chosen:
        raise InputError(f"The network has no layer before its head; use {param('only')} head.")
    return chosen[-1].name
