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

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError, InputError, first_line, param
from decompose_cli.models.affine import Following, agree, following, linear_map
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.preprocessing import Size

PART_OF_SPREAD = 1e-4
"""How far logits may be off, as a share of what they spread over in their class."""
_FEWEST_FINITE = 2


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
    """

    name: str
    module: nn.Module
    following: Following
    weight: Tensor
    bias: Tensor
    is_pointwise: bool

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
    """Evaluation mode without gradients inside the block; every module's own mode is restored after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def recorded_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the inputs of a module while the block runs, as they are before hooks of the module change them."""
    inputs: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        inputs.append(next(iter((*args, *named.values()))))

    handle = module.register_forward_pre_hook(record, with_kwargs=True, prepend=True)
    try:
        yield inputs
    finally:
        handle.remove()


def penultimate(model: nn.Module, head: nn.Module, images: Tensor) -> Tensor:
    """The input of the head for a batch of images: (N, D)."""
    with recorded_inputs(head) as inputs:
        model(images)
    return inputs[0].flatten(1)


@dataclass
class LayerCall:
    """One submodule as it was used in a forward pass."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    calls: int = 1


def trace_layers(model: nn.Module, images: Tensor) -> tuple[object, list[LayerCall]]:
    """Run the model once; return its output and its submodules in the order in which they finished."""
    calls: dict[str, LayerCall] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[object, ...], dict[str, object], object], None]:
        def hook(module: nn.Module, args: tuple[object, ...], named: dict[str, object], output: object) -> None:
            before = calls.pop(name, None)
            given = next(iter((*args, *named.values())), None)
            calls[name] = LayerCall(name, module, _shape(given), _shape(output), 1 + (before.calls if before else 0))

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(record(name), with_kwargs=True).remove)
        with evaluating(model):
            output: object = model(images)
    return output, list(calls.values())


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


def _like(images: Tensor, model: nn.Module | None) -> Tensor:
    parameter = next(iter(model.parameters()), None) if model is not None else None
    return images if parameter is None else images.to(parameter.device, parameter.dtype)


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
    images = varied_images(input_size, model)
    try:
        logits, layers = trace_layers(model, images)
    except Exception as error:
        height, width = input_size
        raise InputError(
            f"{model_name} cannot run on RGB images of {height}x{width} pixels: {first_line(error)}.",
            hint=f"It has to take 3-channel images; set their size with {param('input_size')}.",
        ) from error
    count = len(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError(f"{model_name} returns {got} for {count} images, not logits ({count}, number of classes).")
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


def _as_head(model: nn.Module, layer: LayerCall, images: Tensor, logits: Tensor, others: Tensor) -> Head | None:
    """The layer as a head, if it is one; the model is in evaluation mode."""
    inputs: list[Tensor] = []
    after = following(model, layer.module, images, others, inputs)
    if after is None:
        return None
    (features,) = inputs
    if not isinstance(features, Tensor) or not features.is_floating_point() or not _rows_of(tuple(features.shape)):
        return None
    is_finite = torch.isfinite(features.flatten(1)).all(1) & torch.isfinite(logits).all(1)
    features, logits = features[is_finite], logits[is_finite]  # what overflows for one image need not for another
    mapped = linear_map(layer.module, features) if len(features) else None
    if mapped is None or (not is_linear(layer.module) and _keeps_features_apart(mapped[0])):
        return None
    head = Head(
        layer.name,
        layer.module,
        after,
        *after.fold(*mapped),
        is_pointwise=features.ndim == 4 and features.shape[2:].numel() == 1,
    )
    outputs = logits.double().cpu()
    allowed = PART_OF_SPREAD * (outputs.amax(0) - outputs.amin(0))
    return head if agree(head.weight.double(), head.bias.double(), features, outputs, allowed) else None


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
    later = [f"{layer.name!r} ({type(layer.module).__name__})" for layer in layers[linear[-1] + 1 :] if _is_leaf(layer)]
    start = f"The logits of {model_name} are not the output of its last linear layer {last.name!r}"
    if later:
        return f"{start}: after it come {' and '.join(later)}, so its head cannot be replaced."
    if bool(torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-4)):
        return f"{start} but probabilities; leave the softmax out of the network."
    return f"{start} times a constant plus a constant for each class: the network computes something else from it."


def _is_leaf(layer: LayerCall) -> bool:
    return next(layer.module.children(), None) is None
