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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError, InputError, param
from decompose_cli.models.affine import Following, agree, following, linear_map
from decompose_cli.models.completing import bad_numbers
from decompose_cli.models.headless import headless
from decompose_cli.models.logits import logits_of
from decompose_cli.models.tracing import (
    FEWEST_AT_ONCE,
    LayerCall,
    bytes_of_a_pixel,
    cannot_run,
    evaluating,
    example_images,
    in_portions,
    is_linear,
    recorded_inputs,
    rows_of,
    trace_layers,
    varied_images,
)
from decompose_cli.preprocessing import Size
from decompose_cli.storage.memory import check_fits

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
        FEWEST_AT_ONCE * height * width * bytes_of_a_pixel(model),
        f"A network on images of {height}x{width} pixels",
        f"Choose a smaller {param('input_size')}, {param('resize')} or {param('crop')}.",
    )
    images = in_portions(varied_images(input_size, model))
    try:
        output, layers = trace_layers(model, images[0])
    except (Exception, SystemExit) as error:
        raise cannot_run(model_name, input_size, error) from error
    count = len(images[0])
    logits = logits_of(output, where=model_name)
    if logits.ndim != 2 or len(logits) != count:
        raise InputError(
            f"{model_name} returns shape {tuple(logits.shape)} for {count} images, not logits ({count}, number of "
            "classes)."
        )
    is_finite = torch.isfinite(logits).all(1)
    if int(is_finite.sum()) < _FEWEST_FINITE:
        why = bad_numbers(model)
        raise DecomposeError(
            f"{model_name} gives NaN or infinite numbers for random images{f': {why}' if why else ''}."
        )
    if name is not None:
        layers = [_named(layers, model, name, model_name)]
    with evaluating(model):
        for layer in _candidates(layers, logits):
            head = _as_head(model, layer, images, logits, example_images(input_size, 2, model))
            if head is not None:
                return head
    raise headless(model, model_name, layers, _candidates(layers, logits), images[0], logits, name)


def _named(layers: list[LayerCall], model: nn.Module, name: str, model_name: str) -> LayerCall:
    modules = dict(model.named_modules(remove_duplicate=False))
    for layer in layers:
        if layer.module is modules.get(name):
            return layer
    if name in modules:
        raise InputError(f"{name!r} is a module of {model_name}, but a forward pass does not use it.")
    raise InputError(f"{model_name} has no module {name!r}.", hint="'decompose layers MODEL' lists its modules.")


def _candidates(layers: list[LayerCall], logits: Tensor) -> list[LayerCall]:
    """The parts that may be the head: linear layers, the last first; then parts that hold one, the innermost first."""
    fitting = [
        layer
        for layer in layers
        if layer.calls == 1 and layer.output_shape is not None and rows_of(layer.output_shape) == tuple(logits.shape)
    ]
    linear = [layer for layer in fitting if is_linear(layer.module)]
    return [*reversed(linear), *(layer for layer in fitting if not is_linear(layer.module))]


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
        after = following(model, module, images[0][-FEWEST_AT_ONCE:], others)
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
    if not fits(again[0], logits[-FEWEST_AT_ONCE:]):  # of another pass, and with other images in the batch
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
