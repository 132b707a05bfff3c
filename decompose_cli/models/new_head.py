"""A head for other classes in the place of a network's own: transfer learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError, InputError, first_few, first_line
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.head import Head, find_head
from decompose_cli.models.network import Network, network_of
from decompose_cli.preprocessing import Size


@dataclass(frozen=True)
class NewHead:
    """A head for classes that the network was not trained for.

    Attributes:
        class_names: Names of the C classes, in the order of the outputs.
        seed: Seed of its first weights.
        weight: Weight (C, D) that gives the logits, where it was fitted.
        bias: Bias (C,), with the weight.
    """

    class_names: tuple[str, ...]
    seed: int
    weight: Tensor | None = None
    bias: Tensor | None = None


def with_new_head(network: Network, new: NewHead, name: str) -> Network:
    """Put a new head in the place of the one that tracing has found; what follows it stays.

    Args:
        network: The network, whose module is changed in place.
        new: The head.
        name: Name of the network, for messages.

    Raises:
        InputError: Its head is of a kind that cannot be made anew, or what follows it is for as many classes as before.
    """
    old, num_classes = network.head, len(new.class_names)
    replace_head(network.module, old, num_classes, new.seed, name)
    try:
        found = network_of(network.module, network.input_size, old.name, name)
    except DecomposeError as error:
        raise InputError(
            f"{name} cannot have a head for {num_classes} classes: what follows {old.name!r} is for "
            f"{old.num_classes} ({first_line(error)})."
        ) from error
    if new.weight is None or new.bias is None:
        return found
    layer = found.head.module
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    if layer.bias is None:
        raise InputError(f"The head {old.name!r} of {name} has no bias, which a head that is fitted has.")
    weight, bias = found.head.following.unfold(new.weight, new.bias)
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        layer.bias.copy_(bias)
    return network_of(network.module, network.input_size, old.name, name)


def replace_head(module: nn.Module, head: Head, num_classes: int, seed: int, name: str) -> None:
    """Put a layer with other outputs in the place of a head: of the same kind, with torch's own initial weights.

    Args:
        module: The network, changed in place.
        head: Its head.
        num_classes: Number of classes C of the new one.
        seed: Seed of its weights.
        name: Name of the network, for messages.

    Raises:
        InputError: The head is no plain linear layer.
    """
    old = head.module
    fresh: nn.Module | None = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(old, nn.Conv2d) or (isinstance(old, DecomposedLinear) and head.is_pointwise):
            fresh = nn.Conv2d(head.num_features, num_classes, 1, bias=old.bias is not None)
        elif isinstance(old, nn.Linear | DecomposedLinear):
            fresh = nn.Linear(head.num_features, num_classes, bias=old.bias is not None)
    names = {"weight", "bias"} if isinstance(old, DecomposedLinear) else old.state_dict().keys()
    if fresh is None or fresh.state_dict().keys() != names:
        raise InputError(
            f"The head {head.name!r} of {name} is a {type(old).__name__}, which no linear layer for other classes can "
            "take the place of."
        )
    parameter = next(module.parameters())
    module.set_submodule(head.name, fresh.to(parameter.device, parameter.dtype).train(old.training))


def take_described_head(
    module: nn.Module, state: Mapping[str, Tensor], num_classes: int, size: Size, head_name: str | None
) -> None:
    """Give a network that is built for its own classes, as a user's code does, a head for those of a file.

    Args:
        module: The network, changed in place where the weights of its head, and no others, have another shape.
        state: The weights of the file, which belongs to this network.
        num_classes: The number of classes that the file describes.
        size: (height, width) of the images that the network takes.
        head_name: Name of the head, where tracing does not settle it.
    """
    own = module.state_dict()
    other = {name.rpartition(".")[0] for name in own if name in state and state[name].shape != own[name].shape}
    if len(other) != 1:
        return
    head = find_head(module, size, name=head_name, model_name=type(module).__name__)
    if other == {head.name}:
        replace_head(module, head, num_classes, 0, type(module).__name__)


def check_opens_again(module: nn.Module, again: nn.Module, unread: tuple[str, ...], name: str) -> None:
    """Refuse a new head beside something else that is made for a number of classes: its file could not be read.

    Args:
        module: The network with its new head.
        again: The network as it is built for that number of classes.
        unread: What the names of weights begin with that are not read.
        name: Name of the network, for messages.

    Raises:
        InputError: The names or shapes of their weights differ.
    """
    found, expected = module.state_dict(), again.state_dict()
    odd = [part for part in found if part not in expected or found[part].shape != expected[part].shape]
    odd += [part for part in expected if part not in found and not part.startswith(unread or ("\0",))]
    if odd:
        raise InputError(
            f"{name} cannot have a head for other classes: its {first_few(odd)} are made for a number of them."
        )
