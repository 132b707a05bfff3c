"""Normalisation layers by name, and networks with other ones than they were written with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from decompose_cli.errors import InputError, first_line, one_of
from decompose_cli.norms.online import COMPENSATIONS, ErrorCompensation, OnlineNorm2d

NormMode = Literal["batch", "group", "layer", "instance", "online", "none"]
NORM_MODES: tuple[NormMode, ...] = get_args(NormMode)


@dataclass(frozen=True)
class Norm:
    """Which normalisation.

    Attributes:
        mode: ``batch``, ``group``, ``layer`` (over channels and positions, each with a weight and a bias of its own),
            ``instance`` (with weight and bias), ``online`` or ``none``.
        num_groups: Of ``group``.
        alpha_fwd: Of ``online``.
        alpha_bkw: Of ``online``.
        ecm: Of ``online``.

    Raises:
        InputError: A value that is unknown or out of range.
    """

    mode: NormMode = "batch"
    num_groups: int = 8
    alpha_fwd: float = 0.999
    alpha_bkw: float = 0.99
    ecm: ErrorCompensation = "ac"

    def __post_init__(self) -> None:
        one_of(self.mode, NORM_MODES, "--norm-mode")
        one_of(self.ecm, COMPENSATIONS, "--ecm")
        for name, value in (("--afwd", self.alpha_fwd), ("--abkw", self.alpha_bkw)):
            if not 0 < value < 1:
                raise InputError(f"{name} {value} is not between 0 and 1.")
        if self.num_groups < 1:
            raise InputError(f"--gn-num-groups {self.num_groups} is not at least 1.")

    def layer(self, channels: int, size: tuple[int, int] | None = None) -> nn.Module:
        """A layer for so many channels.

        Args:
            channels: C.
            size: Height and width of the maps, which ``layer`` needs.

        Raises:
            InputError: The groups do not divide the channels.
            ValueError: ``layer`` without a size.
        """
        if self.mode == "batch":
            return nn.BatchNorm2d(channels)
        if self.mode == "group":
            if channels % self.num_groups:
                raise InputError(
                    f"--gn-num-groups {self.num_groups} does not divide the {channels} channels of a layer."
                )
            return nn.GroupNorm(self.num_groups, channels)
        if self.mode == "instance":
            return nn.InstanceNorm2d(channels, affine=True)
        if self.mode == "online":
            return OnlineNorm2d(channels, self.alpha_fwd, self.alpha_bkw, ecm=self.ecm)
        if self.mode == "layer":
            if size is None:
                raise ValueError("layer norm over (C, H, W) needs the size of the maps")
            return MapNorm(channels, size)
        return nn.Identity()


class MapNorm(nn.LayerNorm):
    """Layer norm over (C, H, W), with a weight and a bias for each of them.

    Args:
        channels: C.
        size: H and W of the maps; others are refused.

    Raises:
        InputError: An input of another size.
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
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
        model: Changed in place. Weights of the new layers are as new.
        norm: Which.
        input_size: (height, width) of the images, from which the sizes of the maps are found.

    Returns:
        The network.

    Raises:
        InputError: The network has no batch norm, does not take such images, or its channels have no such groups.
    """
    found = {str(name): module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if not found:
        raise InputError("The network has no batch norm that another normalisation could replace.")
    if norm.mode == "batch":
        return model
    sizes = _map_sizes(model, found, input_size) if norm.mode == "layer" else {}
    layers = {name: norm.layer(module.num_features, sizes.get(name)) for name, module in found.items()}
    for name, layer in layers.items():
        model.set_submodule(name, layer.train(found[name].training))
    return model


def _map_sizes(
    model: nn.Module, layers: Mapping[str, nn.Module], input_size: tuple[int, int]
) -> dict[str, tuple[int, int]]:
    """Height and width of what each layer is given."""
    sizes: dict[str, tuple[int, int]] = {}

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sizes[name] = (inputs[0].shape[2], inputs[0].shape[3])

        return note

    hooks = [module.register_forward_pre_hook(noting(name)) for name, module in layers.items()]
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, *input_size, device=device))
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
