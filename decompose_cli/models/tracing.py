"""Forward passes that are looked at: images to try networks with, and which submodules were used, with what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decompose_cli.errors import InputError, param, raised
from decompose_cli.models.convolutions import full_float32
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.preprocessing import Size

_PIXELS_AT_ONCE = 8 * 256 * 256  # so that finding the head takes no more memory than reading features does
FEWEST_AT_ONCE = 3


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and all digits of float32, inside the block; all is restored after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), full_float32(_device_of(model)):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _device_of(model: nn.Module) -> torch.device:
    return next((value.device for value in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def forget_gradients(model: nn.Module, images: Tensor) -> None:
    """Run a model without gradients, as its forward or hooks may have kept what has some: with that it has no copy."""
    with evaluating(model):
        model(images)


@contextmanager
def recorded_inputs(module: nn.Module) -> Iterator[list[Any]]:
    """Collect the first arguments of a module while the block runs, as they are before its own hooks change them."""
    inputs: list[Any] = []

    def record(_: nn.Module, args: tuple[object, ...], named: dict[str, object]) -> None:
        inputs.append(next(iter((*args, *named.values())), None))

    handle = module.register_forward_pre_hook(record, with_kwargs=True, prepend=True)
    try:
        yield inputs
    finally:
        handle.remove()


def penultimate(model: nn.Module, head: nn.Module, images: Tensor) -> Tensor:
    """The input of the head for a batch of images: (N, D)."""
    with recorded_inputs(head) as inputs:
        model(images)
    features: Tensor = inputs[0].flatten(1)
    return features


@dataclass
class LayerCall:
    """One submodule as it was used in a forward pass; of several uses, the last.

    Attributes:
        name: Name of the submodule.
        module: The submodule itself.
        input_shape: Shape of its first argument, before its own hooks change it; None if that is no tensor.
        output_shape: Shape of what it returned; None if that is no tensor.
        features: Its first argument, where that was one row of real numbers for each image, as was what it returned;
            else None, as maps would take memory.
        calls: How often it was used.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    features: Tensor | None
    calls: int


def followed_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The submodules whose uses can be followed, by name: all but those of torch.jit, which take no hooks."""
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):
            yield name, module


def trace_layers(model: nn.Module, images: Tensor) -> tuple[object, list[LayerCall]]:
    """Run the model once; return its output and its submodules in the order in which they finished."""
    calls: dict[str, LayerCall] = {}

    def record(name: str, entering: list[Any]) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _: object, output: object) -> None:
            given, before = entering.pop(), calls.pop(name, None)
            features = given if _has_rows(given) and _has_rows(output) else None
            number = 1 + (before.calls if before else 0)
            calls[name] = LayerCall(name, module, _shape(given), _shape(output), features, number)

        return hook

    with ExitStack() as stack:
        for name, module in followed_modules(model):
            entering = stack.enter_context(recorded_inputs(module))
            stack.callback(module.register_forward_hook(record(name, entering)).remove)
        with evaluating(model):
            output: object = model(images)
    return output, list(calls.values())


def _has_rows(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and rows_of(tuple(value.shape)) != ()


def _shape(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def cannot_run(called: str, input_size: Size, error: BaseException) -> InputError:
    """The refusal of a network that raises an exception when it is given images of this size, (height, width)."""
    height, width = input_size
    return InputError(
        f"{called} cannot run on RGB images of {height}x{width} pixels: its forward raises {raised(error)}.",
        hint=f"It has to take 3-channel images, whose size {param('input_size')} sets; {param('debug')} shows where.",
    )


def example_images(size: Size, seed: int = 0, model: nn.Module | None = None) -> Tensor:
    """Two random images (2, 3, H, W), on the model's device and of its number type."""
    return _like(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed)), model)


def varied_images(size: Size, model: nn.Module) -> Tensor:
    """Eight images (8, 3, H, W) that differ in more than noise: in contrast, in brightness, and in what is large."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(8, 3, *size, generator=generator)
    noise[3] *= 0.1
    noise[4] *= 3
    noise[5] += 1
    noise[6] -= 1
    noise[7] = noise[7].mean((1, 2), keepdim=True) + torch.linspace(-1, 1, size[1])
    return _like(noise, model)


def in_portions(images: Tensor) -> tuple[Tensor, ...]:
    """Images in as few batches as memory suggests, of at least two: of 3 at 512 pixels, all 8 at 224."""
    at_once = max(FEWEST_AT_ONCE, _PIXELS_AT_ONCE // images.shape[2:].numel())
    return images.chunk(-(-len(images) // at_once))


def _like(images: Tensor, model: nn.Module | None) -> Tensor:
    parameters = [] if model is None else [value for value in model.parameters() if value.is_floating_point()]
    return images.to(parameters[0].device, parameters[0].dtype) if parameters else images


def bytes_of_a_pixel(model: nn.Module) -> float:
    """What a network holds at once at least for each pixel of an image: it, and what a convolution makes of it.

    That is the first of three channels, if there is one; its outputs are there twice while they are normalised.
    """
    kinds = (module for module in model.modules() if isinstance(module, nn.Conv2d) and module.in_channels == 3)
    first = next(kinds, None)
    outputs = 0.0 if first is None else 2 * first.out_channels / (first.stride[0] * first.stride[1])
    return 4 * (3 + outputs)


def is_linear(module: nn.Module) -> bool:
    """Whether a layer's kind can be a head: a Linear, or a convolution that looks at one pixel at a time."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1 and module.padding in ((0, 0), "valid")
    return isinstance(module, nn.Linear | DecomposedLinear)


def rows_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(N, C) for the shape (N, C), and for those with further axes of size 1: (N, C, 1, 1), (N, 1, C)."""
    return (*shape[:1], max(shape[1:], default=0)) if torch.Size(shape[1:]).numel() == max(shape[1:], default=0) else ()
