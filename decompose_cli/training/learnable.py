"""Whether a network can learn at all, which is found out before images are read and run folders are taken."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from decompose_cli.errors import InputError, raised
from decompose_cli.models.completing import bad_numbers
from decompose_cli.models.copying import copied, number_type
from decompose_cli.models.headless import quantised
from decompose_cli.models.logits import logits_of
from decompose_cli.models.tracing import evaluating, forget_gradients
from decompose_cli.preprocessing import Size


def check_learns(module: nn.Module, called: str, size: Size) -> Tensor:
    """Refuse a network from which no training would come.

    Args:
        module: The network, which is left as it is.
        called: Its name.
        size: (height, width) of its images.

    Returns:
        The logits (2, C) of two black images.

    Raises:
        InputError: Its weights are integers, frozen, copied wrongly or not finite, it does not run on float32 images of
            this size, or its logits come without gradients.
    """
    if (layer := quantised(module)) is not None:
        raise InputError(
            f"{called} is quantised: the weights of {layer} are integers, which no gradient reaches.",
            hint="Train the network as it was before it was quantised.",
        )
    learning = {name: value for name, value in module.named_parameters() if value.requires_grad}
    if not learning:
        raise InputError(
            f"{called} has no parameter that learns: requires_grad is false for each of them.",
            hint="Let those learn that are to be trained: parameter.requires_grad_(True).",
        )
    if made := next((name for name, value in learning.items() if not value.is_leaf), None):
        raise InputError(
            f"{called} cannot be trained in a copy, in which {made} is no parameter of its own any more, as happens in "
            "copies of ScriptModules.",
            hint="Give the nn.Module that it was made from.",
        )
    images = torch.zeros(2, 3, *size)
    try:
        with torch.random.fork_rng(devices=[]):
            with evaluating(module), torch.enable_grad():
                output = module(images)
            forget_gradients(module, images)
            logits = logits_of(output, where=called)
            learns = logits.requires_grad or _learns_in_training(module, images)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        kind = number_type(module)
        others = f"Its weights are {kind}: return network.float(), as training takes images of float32."
        raise InputError(
            f"{called} does not work on images of {'x'.join(map(str, size))} pixels: its forward raises "
            f"{raised(error)}.",
            hint=None if kind == torch.float32 else others.replace("torch.", ""),
        ) from error
    if not learns:
        raise InputError(
            f"{called} gives logits without gradients, so nothing would learn: its forward computes them under "
            "torch.no_grad or torch.inference_mode, or detaches them.",
            hint="Leave that out of its forward; validation switches gradients off by itself.",
        )
    if not bool(torch.isfinite(logits).all()) and (why := bad_numbers(module)) is not None:
        raise InputError(f"{called} gives NaN or infinite logits, from which nothing can learn: {why}.")
    copied(module)  # as is needed in the end, for the best epoch
    return logits.detach()


def _learns_in_training(module: nn.Module, images: Tensor) -> bool:
    """Whether logits come with gradients in training mode, where a forward may ask for them in that mode alone."""
    trial = copied(module).train()  # whose statistics may move
    with torch.enable_grad():
        logits = logits_of(trial(images), in_training=True)
    forget_gradients(module, images)  # of hooks, which the copy shares
    return logits.requires_grad
