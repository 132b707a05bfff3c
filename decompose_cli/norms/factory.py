"""Make normalisation layers by name, and put them in place of the batch norms of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from decompose_cli.errors import InputError, first_line, param
from decompose_cli.norms.modes import Norm
from decompose_cli.norms.online import OnlineNorm1d, OnlineNorm2d


def make_layer(norm: Norm, channels: int, size: tuple[int, ...] | None = None, *, dimensions: int = 2) -> nn.Module:
    """Make a normalisation layer.

    Args:
        norm: Mode and settings of the normalisation.
        channels: Number of channels C.
        size: Height and width of the maps; empty for features without positions. ``layer`` needs it.
        dimensions: Number of dimensions of the maps: 2, or 1 for what :class:`torch.nn.BatchNorm1d` takes.

    Raises:
        InputError: The groups do not divide the channels, or there are no positions to normalise over.
        ValueError: The mode is ``layer`` and no size is given.
    """
    if norm.mode == "batch":
        return nn.BatchNorm2d(channels) if dimensions == 2 else nn.BatchNorm1d(channels)
    if norm.mode == "group":
        if channels % norm.num_groups:
            raise InputError(
                f"{param('gn_num_groups')} {norm.num_groups} does not divide the {channels} channels of a layer."
            )
        return nn.GroupNorm(norm.num_groups, channels)
    if norm.mode == "instance":
        if dimensions == 2:
            return nn.InstanceNorm2d(channels, affine=True)
        if not size:
            raise InputError("Instance norm is over positions, and a layer of the network has none.")
        return nn.InstanceNorm1d(channels, affine=True)
    if norm.mode == "online":
        kind = OnlineNorm2d if dimensions == 2 else OnlineNorm1d
        return kind(channels, norm.alpha_fwd, norm.alpha_bkw, ecm=norm.ecm)
    if norm.mode == "layer":
        if size is None:
            raise ValueError("layer norm over (C, H, W) needs the size of the maps")
        return MapNorm(channels, size)
    return nn.Identity()


class MapNorm(nn.LayerNorm):
    """Layer norm over (C, H, W), with a weight and a bias for each of the C H W numbers.

    Args:
        channels: Number of channels C.
        size: H and W of the maps; maps of another size are refused.

    Raises:
        InputError: The input has another size.
    """

    def __init__(self, channels: int, size: tuple[int, ...]) -> None:
        super().__init__([channels, *size])

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if tuple(x.shape[1:]) != tuple(self.normalized_shape):
            made, seen = ("x".join(map(str, shape)) for shape in (self.normalized_shape, x.shape[1:]))
            raise InputError(
                f"A layer norm for maps of {made} (channels x height x width) cannot take {seen}.",
                hint="A network with layer norm takes images of the size it was made for only.",
            )
        return super().forward(x)


def convert_norm(model: nn.Module, norm: Norm, input_size: tuple[int, int]) -> nn.Module:
    """Put another normalisation in place of every batch norm of a network.

    Args:
        model: The network, changed in place. The new layers are untrained, with the usual epsilon, weight and bias.
        norm: Mode and settings of the new normalisation.
        input_size: (height, width) of the images, which decides the sizes of the maps.

    Returns:
        The network.

    Raises:
        InputError: The network has no batch norm, does not take such images, or its channels have no such groups.
    """
    batch_norms = {
        str(name): module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm)
    }
    if not batch_norms or "" in batch_norms:
        raise InputError("The network has no batch norm that another normalisation could replace.")
    if norm.mode == "batch":
        return model
    dimensions = {name: _DIMENSIONS.get(type(module), 0) for name, module in batch_norms.items()}
    if 0 in dimensions.values():
        kind = next(type(batch_norms[name]).__name__ for name, number in dimensions.items() if not number)
        raise InputError(f"The network has a {kind}, which no other normalisation here can replace.")
    common = math.gcd(*(module.num_features for module in batch_norms.values()))
    if norm.mode == "group" and common % norm.num_groups:
        channels = next(m.num_features for m in batch_norms.values() if m.num_features % norm.num_groups)
        fitting = [number for number in range(1, common + 1) if common % number == 0]
        raise InputError(
            f"{param('gn_num_groups')} {norm.num_groups} does not divide the {channels} channels of a layer.",
            hint=f"Numbers that divide the channels of all layers: {', '.join(map(str, fitting))}.",
        )
    like = next(model.parameters())
    is_sized = norm.mode == "layer" or (norm.mode == "instance" and 1 in dimensions.values())
    sizes = _map_sizes(model, batch_norms, input_size, like) if is_sized else {}
    made: dict[nn.Module, nn.Module] = {}
    for name, module in batch_norms.items():  # a layer that stands in several places gets one new layer
        if module not in made:
            layer = make_layer(norm, module.num_features, sizes.get(name), dimensions=dimensions[name])
            made[module] = layer.to(like.device, like.dtype).train(module.training)
    for name, module in batch_norms.items():
        model.set_submodule(name, made[module])
    return model


_DIMENSIONS: dict[type[nn.Module], int] = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.SyncBatchNorm: 2}


def _map_sizes(
    model: nn.Module, layers: Mapping[str, nn.Module], input_size: tuple[int, int], like: Tensor
) -> dict[str, tuple[int, ...]]:
    """Height and width of the maps that each layer is given."""
    sizes: dict[str, tuple[int, ...]] = {}

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sizes[name] = tuple(inputs[0].shape[2:])

        return note

    hooks = [module.register_forward_pre_hook(noting(name)) for name, module in layers.items()]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(like.new_zeros(1, 3, *input_size))
    except Exception as error:
        shown = "x".join(map(str, input_size))
        raise InputError(f"The network does not take images of {shown} pixels: {first_line(error)}.") from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    unused = [name for name in layers if name not in sizes]
    if unused:
        raise InputError(f"The layer {unused[0]} is not reached by an image, so the size of its maps is not known.")
    return sizes
