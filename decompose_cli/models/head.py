"""Find the head of a classifier, and read the features that enter it.

The head is the part whose output *is* the logits, up to a factor and a summand for each class, and which maps features
to its output by a weight and a bias: an ``nn.Linear`` or 1x1 ``nn.Conv2d``, or a part that scales, masks or adapts one.
The behaviour of the network as it stands, with its weights loaded, decides, not the names of its parts: during a
forward pass the output of a candidate is replaced by random numbers z, and the candidate is the head if the network
then returns factor_c * z_c + shift_c with constants for each class c, whatever the input and whatever z. Anything else
after the last linear layer (a ReLU, pooling, softmax, a soft cap), or beside it, fails this test and is refused by
name. What was found then has to give the network's own logits for varied images, class by class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError, InputError, first_line, param
from decompose_cli.models.affine import Following, agree, following, linear_map
from decompose_cli.models.convolutions import full_float32
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.logits import logits_of
from decompose_cli.preprocessing import Size
from decompose_cli.storage.memory import check_fits

PART_OF_SPREAD = 1e-4
"""How far logits may be off, as a share of what they spread over in their class."""
_FEWEST_FINITE = 2
_PIXELS_AT_ONCE = 8 * 256 * 256  # so that finding the head takes no more memory than reading features does
_FEWEST_AT_ONCE = 3


@dataclass(frozen=True)
class Head:
    """The part that makes the logits of a classifier from its features, as it was when it was found.

    Attributes:
        name: Name of the submodule.
        module: The submodule itself.
        following: What the network makes of the submodule's output.
        weight: Weight that gives the logits, with that folded in; float32 (C, D) on the CPU.
        bias: Bias, float32 (C,) on the CPU.
        is_pointwise: Whether features come as maps of one pixel (N, D, 1, 1), not as (N, D).
        features: What entered it for the first :func:`varied_images`, as many as were in one batch: n rows of D.
    """

    name: str
    module: nn.Module
    following: Following
    weight: Tensor
    bias: Tensor
    is_pointwise: bool
    features: Tensor

    @property
    def num_features(self) -> int:
        """Number of features D, the size of its input."""
        return int(self.weight.shape[1])

    @property
    def num_classes(self) -> int:
        """Number of classes C, the size of its output."""
        return int(self.weight.shape[0])


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
        for name, module in model.named_modules():
            if name:
                entering = stack.enter_context(recorded_inputs(module))
                stack.callback(module.register_forward_hook(record(name, entering)).remove)
        with evaluating(model):
            output: object = model(images)
    return output, list(calls.values())


def _has_rows(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and _rows_of(tuple(value.shape)) != ()


def _shape(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


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
    at_once = max(_FEWEST_AT_ONCE, _PIXELS_AT_ONCE // images.shape[2:].numel())
    return images.chunk(-(-len(images) // at_once))


def _like(images: Tensor, model: nn.Module | None) -> Tensor:
    parameter = next(iter(model.parameters()), None) if model is not None else None
    return images if parameter is None else images.to(parameter.device, parameter.dtype)


def _bytes_of_a_pixel(model: nn.Module) -> float:
    """What a network holds at once at least for each pixel of an image: it, and what its first convolution makes of it.

    The outputs of the convolution are there twice while they are normalised.
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    outputs = 0.0 if first is None else 2 * first.out_channels / (first.stride[0] * first.stride[1])
    return 4 * (3 + outputs)


def find_head(model: nn.Module, input_size: Size, *, name: str | None = None, model_name: str = "the model") -> Head:
    """Find the part of a classifier that makes its logits by a weight and a bias, by what it does.

    Args:
        model: The model, which is left as it is.
        input_size: (height, width) of the images that the model takes.
        name: Name of the submodule to use, where the user has said so; it must pass the same test.
        model_name: Name of the model in messages.

    Raises:
        InputError: The model cannot run on such images, returns no logits, or does not end in a linear layer; or the
            named submodule does not exist or is not the head.
        DecomposeError: The model gives NaN or infinite logits.
    """
    height, width = input_size
    check_fits(
        _FEWEST_AT_ONCE * height * width * _bytes_of_a_pixel(model),
        f"A network on images of {height}x{width} pixels",
        f"Choose a smaller {param('input_size')}, {param('resize')} or {param('crop')}.",
    )
    images = in_portions(varied_images(input_size, model))
    try:
        output, layers = trace_layers(model, images[0])
    except Exception as error:
        raise InputError(
            f"{model_name} cannot run on RGB images of {height}x{width} pixels: {first_line(error)}.",
            hint=f"It has to take 3-channel images; set their size with {param('input_size')}.",
        ) from error
    count = len(images[0])
    logits = logits_of(output, where=model_name)
    if logits.ndim != 2 or len(logits) != count:
        raise InputError(
            f"{model_name} returns shape {tuple(logits.shape)} for {count} images, not logits ({count}, number of "
            "classes)."
        )
    is_finite = torch.isfinite(logits).all(1)
    if int(is_finite.sum()) < _FEWEST_FINITE:
        raise DecomposeError(f"{model_name} gives NaN or infinite numbers for random images.")
    if name is not None:
        layers = [_named(layers, model, name, model_name)]
    with evaluating(model):
        for layer in _candidates(layers, logits):
            head = _as_head(model, layer, images, logits, example_images(input_size, 2, model))
            if head is not None:
                return head
    raise InputError(_no_head(layers, logits, name, model_name), hint="'decompose layers MODEL' lists its modules.")


def _named(layers: list[LayerCall], model: nn.Module, name: str, model_name: str) -> LayerCall:
    modules = dict(model.named_modules(remove_duplicate=False))
    for layer in layers:
        if layer.module is modules.get(name):
            return layer
    if name in modules:
        raise InputError(f"{name!r} is a module of {model_name}, but a forward pass does not use it.")
    raise InputError(f"{model_name} has no module {name!r}.", hint="'decompose layers MODEL' lists its modules.")


def is_linear(module: nn.Module) -> bool:
    """Whether a layer's kind can be a head: a Linear, or a convolution that looks at one pixel at a time."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1 and module.padding in ((0, 0), "valid")
    return isinstance(module, nn.Linear | DecomposedLinear)


def _candidates(layers: list[LayerCall], logits: Tensor) -> list[LayerCall]:
    """The parts that may be the head: linear layers, the last first; then parts that hold one, the innermost first."""
    fitting = [
        layer
        for layer in layers
        if layer.calls == 1 and layer.output_shape is not None and _rows_of(layer.output_shape) == tuple(logits.shape)
    ]
    linear = [layer for layer in fitting if is_linear(layer.module)]
    return [*reversed(linear), *(layer for layer in fitting if not is_linear(layer.module))]


def _rows_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(N, C) for the shape (N, C), and for those with further axes of size 1: (N, C, 1, 1), (N, 1, C)."""
    return (*shape[:1], max(shape[1:], default=0)) if torch.Size(shape[1:]).numel() == max(shape[1:], default=0) else ()


def _as_head(
    model: nn.Module, layer: LayerCall, images: Sequence[Tensor], logits: Tensor, others: Tensor
) -> Head | None:
    """The layer as a head, if it is one.

    Args:
        model: The model, in evaluation mode.
        layer: The layer, as it was used for the first portion of images.
        images: The images, in portions.
        logits: Logits of the first portion.
        others: Further images.
    """
    features, module = layer.features, layer.module
    if features is None or len(features) != len(logits):
        return None
    with recorded_inputs(module) as again:
        after = following(model, module, images[0][-_FEWEST_AT_ONCE:], others)
    if after is None:
        return None
    finite = _is_finite(features, logits)
    mapped = linear_map(module, features[finite]) if bool(finite.any()) else None
    if mapped is None or (not is_linear(module) and _keeps_features_apart(mapped[0])):
        return None
    passed = [(features, logits)]
    for portion in images[1:]:
        further = _pass(model, module, portion)
        if further is None:
            return None
        passed.append(further)
    weight, bias = after.fold(*mapped)
    outputs = torch.cat([made[_is_finite(given, made)] for given, made in passed])
    allowed = PART_OF_SPREAD * (outputs.amax(0) - outputs.amin(0)).double().cpu()

    def fits(given: Tensor, made: Tensor) -> bool:
        finite = _is_finite(given, made)
        return agree(weight.double(), bias.double(), given[finite], made[finite].double().cpu(), allowed)

    if not all(fits(*one) for one in passed):
        return None
    if not fits(again[0], logits[-_FEWEST_AT_ONCE:]):  # of another pass, and with other images in the batch
        second = _pass(model, module, images[0])
        if second is None or not fits(second[0], logits):
            return None
    is_pointwise = features.ndim == 4 and features.shape[2:].numel() == 1
    return Head(layer.name, module, after, weight, bias, is_pointwise, features)


def _pass(model: nn.Module, module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor] | None:
    """What enters a module, and the logits; None if the model does otherwise than it did for other images."""
    try:
        with recorded_inputs(module) as inputs:
            logits = logits_of(model(images))
        (features,) = inputs
    except Exception:
        return None
    return features, logits


def _is_finite(features: Tensor, logits: Tensor) -> Tensor:
    """Where both are: what overflows for one image need not for another."""
    return torch.isfinite(features.flatten(1)).all(1) & torch.isfinite(logits).all(1)


def _keeps_features_apart(weight: Tensor) -> bool:
    """Whether each output is a multiple of one feature, as in a batch norm or a scale after scores."""
    return weight.shape[0] == weight.shape[1] and not bool((weight - weight.diag().diag()).any())


def _no_head(layers: list[LayerCall], logits: Tensor, name: str | None, model_name: str) -> str:
    if name is not None:
        return (
            f"{name!r} is not the head of {model_name}: the logits are not its output times a constant plus a constant "
            "for each class."
        )
    linear = [number for number, layer in enumerate(layers) if is_linear(layer.module) and layer.calls == 1]
    if not linear:
        parts = [layer for layer in _candidates(layers, logits) if any(True for _ in layer.module.parameters())]
        if not parts:
            return f"{model_name} has no linear layer that could be its head."
        return (
            f"The logits of {model_name} are made by {parts[0].name!r} ({type(parts[0].module).__name__}), which is "
            "not linear: no weight and bias give its outputs."
        )
    last = layers[linear[-1]]
    later = [_named_again(layer) for layer in layers[linear[-1] + 1 :] if _is_leaf(layer)]
    start = f"The logits of {model_name} are not the output of its last linear layer {last.name!r}"
    if later:
        come = "come" if len(later) > 1 else "comes"
        return f"{start}: after it {come} {' and '.join(later)}, so its head cannot be replaced."
    if bool(torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-4)):
        return f"{start} but probabilities; leave the softmax out of the network."
    return f"{start} times a constant plus a constant for each class: the network computes something else from it."


def _named_again(layer: LayerCall) -> str:
    """The layer in a sentence about its last use."""
    return f"{'again ' if layer.calls > 1 else ''}{layer.name!r} ({type(layer.module).__name__})"


def _is_leaf(layer: LayerCall) -> bool:
    return next(layer.module.children(), None) is None
