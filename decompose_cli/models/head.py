"""Find the head of a classifier, and read the features that enter it.

The head is the ``nn.Linear`` or 1x1 ``nn.Conv2d`` whose output *is* the logits, up to a constant factor. The behaviour
of the network decides, not the names of its parts: during a forward pass the output of a candidate is replaced by
random numbers z, and the candidate is the head if the network then returns s * z with one constant s, whatever the
input and whatever z. Anything else after the last linear layer (a ReLU, pooling, softmax, a soft cap) fails this test
and is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decompose_cli.errors import InputError, first_line, param
from decompose_cli.preprocessing import Size

_RELATIVE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Head:
    """The last linear layer of a classifier.

    Attributes:
        name: Name of the submodule.
        module: The submodule itself.
        scale: The constant s in logits = s * module(features).
    """

    name: str
    module: nn.Module
    scale: float

    @property
    def num_features(self) -> int:
        """Number of features D, the size of its input."""
        return int(self._matrix().shape[1])

    @property
    def num_classes(self) -> int:
        """Number of classes C, the size of its output."""
        return int(self._matrix().shape[0])

    def _matrix(self) -> Tensor:
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return weight.flatten(1)

    def dense(self) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) as float32, with the constant factor folded in."""
        weight = self._matrix().detach().float() * self.scale
        bias = self.module.bias
        if not isinstance(bias, Tensor):
            return weight, weight.new_zeros(len(weight))
        return weight, bias.detach().float() * self.scale


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
    """Collect the inputs of a module while the block runs."""
    inputs: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        inputs.append(args[0] if args else named["input"])

    handle = module.register_forward_pre_hook(record, with_kwargs=True)
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
    output_shape: tuple[int, ...] | None
    calls: int = 1


def trace_layers(model: nn.Module, images: Tensor) -> tuple[object, list[LayerCall]]:
    """Run the model once; return its output and its submodules in the order in which they finished."""
    calls: dict[str, LayerCall] = {}

    def record(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _: object, output: object) -> None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else None
            before = calls.pop(name, None)
            calls[name] = LayerCall(name, module, shape, 1 + (before.calls if before else 0))

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(record(name)).remove)
        with evaluating(model):
            output: object = model(images)
    return output, list(calls.values())


def example_images(size: Size, seed: int = 0, model: nn.Module | None = None) -> Tensor:
    """Two random images (2, 3, H, W), on the model's device and of its number type."""
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    parameter = next(iter(model.parameters()), None) if model is not None else None
    return images if parameter is None else images.to(parameter.device, parameter.dtype)


def find_head(model: nn.Module, input_size: Size, *, name: str | None = None, model_name: str = "the model") -> Head:
    """Find the last linear layer of a classifier by tracing what yields its logits.

    Args:
        model: The model, which is left as it is.
        input_size: (height, width) of the images that the model takes.
        name: Name of the submodule to use, where the user has said so; it must pass the same test.
        model_name: Name of the model in messages.

    Raises:
        InputError: The model cannot run on such images, returns no logits, or does not end in a linear layer; or the
            named submodule does not exist or is not the head.
    """
    images = example_images(input_size, model=model)
    try:
        logits, layers = trace_layers(model, images)
    except Exception as error:
        height, width = input_size
        raise InputError(
            f"{model_name} cannot run on RGB images of {height}x{width} pixels: {first_line(error)}.",
            hint=f"It has to take 3-channel images; set their size with {param('input_size')}.",
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError(f"{model_name} returns {got} for two images, not logits of shape (2, number of classes).")
    if name is not None:
        layers = [_named(layers, model, name, model_name)]
    candidates = [layer for layer in layers if _may_be_head(layer, logits.numel())]
    for layer in reversed(candidates):
        scale = _constant_factor(model, layer.module, input_size)
        if scale is not None:
            head = Head(layer.name, layer.module, scale)
            if _reproduces_logits(model, head, images, logits):
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
    return isinstance(module, nn.Linear)


def _may_be_head(layer: LayerCall, logits: int) -> bool:
    shape = layer.output_shape
    return layer.calls == 1 and is_linear(layer.module) and shape is not None and _numel(shape) == logits


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _constant_factor(model: nn.Module, module: nn.Module, input_size: Size) -> float | None:
    """The s for which replacing the module's output by z makes the model return s * z, or None if there is none."""
    factors, tolerance = [], _RELATIVE_TOLERANCE
    # Small and large z show clamps and soft caps; several inputs show a factor that is computed from them.
    for seed, size in ((1, 1.0), (2, 100.0), (3, 1e5)):
        replaced: list[Tensor] = []

        def replace(
            _: nn.Module, __: object, output: Tensor, seed: int = seed, size: float = size, out: list[Tensor] = replaced
        ) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            out.append((torch.randn(output.shape, generator=generator) * size).to(output))
            return out[-1]

        handle = module.register_forward_hook(replace)
        try:
            with evaluating(model):
                result = model(example_images(input_size, seed, model)).flatten(1)
        except Exception:  # the model ran on other images before, so its behaviour depends on them
            return None
        finally:
            handle.remove()
        if len(replaced) != 1:
            return None
        z, result = replaced[0].flatten(1).double(), result.double()
        if result.shape != z.shape:
            return None
        tolerance = max(_RELATIVE_TOLERANCE, 2 * torch.finfo(replaced[0].dtype).eps)
        factor = float((result * z).sum() / (z * z).sum())
        allowed = tolerance * float(z.abs().max()) * max(abs(factor), 1e-6)
        if float((result - factor * z).abs().max()) > allowed:
            return None
        factors.append(factor)
    if factors[0] == 0 or max(factors) - min(factors) > tolerance * abs(factors[0]):
        return None
    nearest = round(factors[0] * 4096) / 4096  # 1, 0.125 and their like exactly, without the noise of the estimate
    return nearest if abs(nearest - factors[0]) < 1e-6 * abs(factors[0]) else factors[0]


def _reproduces_logits(model: nn.Module, head: Head, images: Tensor, logits: Tensor) -> bool:
    with evaluating(model):
        features = penultimate(model, head.module, images)
    if features.shape[1] != head.num_features:  # a convolution on maps larger than one pixel
        return False
    weight, bias = head.dense()
    ours = features.float() @ weight.t() + bias
    tolerance = max(1e-4, 4 * torch.finfo(logits.dtype).eps)
    return bool((ours - logits.float()).abs().max() <= tolerance * (1 + logits.float().abs().max()))


def _no_head(layers: list[LayerCall], logits: Tensor, name: str | None, model_name: str) -> str:
    if name is not None:
        return f"{name!r} is not the head of {model_name}: the logits are not its output times a constant."
    linear = [number for number, layer in enumerate(layers) if is_linear(layer.module) and layer.calls == 1]
    if not linear:
        return f"{model_name} has no linear layer that could be its head."
    last = layers[linear[-1]]
    later = [f"{layer.name!r} ({type(layer.module).__name__})" for layer in layers[linear[-1] + 1 :] if _is_leaf(layer)]
    start = f"The logits of {model_name} are not the output of its last linear layer {last.name!r}"
    if later:
        return f"{start}: after it come {' and '.join(later)}, so its head cannot be replaced."
    if bool(torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-4)):
        return f"{start} but probabilities; leave the softmax out of the network."
    return f"{start} times a constant: the network computes something else from it."


def _is_leaf(layer: LayerCall) -> bool:
    return next(layer.module.children(), None) is None
