"""A faster copy of a network for reading its features."""

from __future__ import annotations

import copy
import operator
from contextlib import suppress

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional

from decompose_cli.errors import InputError, param, raised
from decompose_cli.models.affine import agree
from decompose_cli.models.convolutions import full_float32
from decompose_cli.models.copying import in_float32, number_type
from decompose_cli.models.head import PART_OF_SPREAD
from decompose_cli.models.logits import logits_of
from decompose_cli.models.network import Network
from decompose_cli.models.tracing import LayerCall, penultimate, recorded_inputs, trace_layers

_TOLERANCE = 1e-3
_FOLDED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class FeatureReader:
    """Maps images to penultimate features with a copy of a network that is fit for nothing else.

    Batch norms are folded into the convolutions before them (a change of about 1e-5 in the logits), ReLUs and additions
    work in place, memory is laid out channels-last, and on request the copy computes in bfloat16. Where the network
    cannot be traced symbolically, or the folded copy disagrees with the original, an unfolded copy is used.

    Args:
        network: The network, which is left as it is.
        device: Device that computes.
        precision: ``32`` or ``bf16``.
        example: A few normalised images, on which the copy is compared with the original.
    """

    def __init__(self, network: Network, device: torch.device, precision: str, example: Tensor) -> None:
        self.device = device
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.head_name = network.head.name
        module = in_float32(network.module, example)
        if precision != "bf16":
            self.dtype = number_type(module)
        example = example.to(number_type(module))
        features, layers = _checked_pass(module, network, example)
        # Only what enters the head is read, and a linear layer is a leaf for the symbolic tracer, whatever stood here.
        if type(network.head.module) not in (nn.Linear, nn.Conv2d):
            module.set_submodule(network.head.name, _stand_in(network))
        with torch.inference_mode():
            # Folding one use of a convolution would change the others.
            is_reused = any(layer.calls > 1 and isinstance(layer.module, _FOLDED) for layer in layers)
            folded = None if is_reused else self._folded(module, example, features)
            module = (folded or module).to(device)
            with suppress(RuntimeError):  # a network may have parameters of five dimensions
                module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.autocast = False
            if precision == "bf16":
                module = self._in_bfloat16(module, example)
        self.module = module

    def _folded(self, module: nn.Module, example: Tensor, expected: Tensor) -> nn.Module | None:
        # Other images than those of the pass before, in number and order: the tracer takes what a network has kept of
        # that pass, as it may by a hook, for a constant.
        example, expected = (torch.cat([part, part[:1]]).flip(0) for part in (example, expected))
        try:
            folded = _overwriting(fuse(module))
            difference = (self._read(folded, example) - expected).abs().amax(0)
        except Exception:  # the tracer gives up on control flow in many ways; the original network still works
            return None
        # Each feature for itself, or one that is large would hide how wrong the others are. Features that happen to be
        # small for these images are off by roundings of what they are made of, which is of the usual size.
        sizes = expected.abs().amax(0)
        allowed = _TOLERANCE * sizes + _TOLERANCE / 100 * sizes.median() + 1e-9
        return folded if bool((difference <= allowed).all()) else None

    def _in_bfloat16(self, module: nn.Module, example: Tensor) -> nn.Module:
        """The network in bfloat16 up to its last pooling, where that can be told: rounded means of maps would tie."""
        pooled = _pooling_in_float32(copy.deepcopy(module))
        if self.device.type == "cpu":  # where a network that is cast is faster than one under autocast
            cast = copy.deepcopy(pooled).bfloat16()
            cast.get_submodule(self.head_name).float()  # it is not looked at, but takes what is pooled
            for converted in (cast, copy.deepcopy(module).bfloat16()):
                with suppress(Exception):  # what comes after the pooling may have parameters, or tensors of its own
                    self._read(converted, example.to(self.device, torch.bfloat16))
                    return converted
        self.autocast, self.dtype = True, number_type(module)
        try:
            with self._precision():
                self._read(pooled, example.to(self.device, self.dtype))
        except Exception as error:  # it says nothing of numbers as such
            raise InputError(
                f"The network cannot compute in bfloat16: its forward raises {raised(error)}.",
                hint=f"{param('precision')} 32 computes in float32.",
            ) from error
        return pooled

    def _read(self, module: nn.Module, images: Tensor) -> Tensor:
        return penultimate(module, module.get_submodule(self.head_name), images)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) normalised float32 images to (n, D) float32 features, which stay on the device."""
        images = images.to(self.device, self.dtype, memory_format=torch.channels_last)
        with torch.inference_mode(), full_float32(self.device), self._precision():
            return self._read(self.module, images).float()

    def copies(self, count: int) -> list[FeatureReader]:
        """Readers with the networks of :func:`copies_of`."""
        readers = []
        for module in copies_of(self.module, count):
            reader = copy.copy(self)
            reader.module = module
            readers.append(reader)
        return readers

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)


def copies_of(module: nn.Module, count: int) -> list[nn.Module]:
    """A network and copies of it with the same parameters, each for a thread: a network may keep what it is working on.

    Of a network with hooks there are no copies, as what functions keep that are called around layers is kept once, nor
    of one that cannot be copied.

    Args:
        module: The network.
        count: Number of networks, at least 1.
    """
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
        return [module]
    shared = {id(value): value for value in module.parameters()}
    try:
        return [module, *(copy.deepcopy(module, dict(shared)) for _ in range(count - 1))]
    except Exception:  # it keeps what cannot be copied, such as what it made of images in training
        return [module]


def _checked_pass(module: nn.Module, network: Network, example: Tensor) -> tuple[Tensor, list[LayerCall]]:
    """The features (n, D) of the examples, and the layers as they were used.

    Raises:
        InputError: The head gives other logits for these images than the network does, though not for random ones.
    """
    with recorded_inputs(module.get_submodule(network.head.name)) as inputs:
        output, layers = trace_layers(module, example)
    features, outputs, head = inputs[0].flatten(1), logits_of(output).double(), network.head
    is_finite = torch.isfinite(features).all(1) & torch.isfinite(outputs).all(1)
    finite, outputs = features[is_finite], outputs[is_finite]
    allowed = PART_OF_SPREAD * (outputs.amax(0) - outputs.amin(0)) if len(finite) else 0.0
    if not agree(head.weight.double(), head.bias.double(), finite, outputs, allowed):
        raise InputError(
            f"The logits of the network are not those of its head {head.name!r} for these images, though they are for "
            "random ones: the network computes something else from them that depends on the image or on the batch."
        )
    return features, layers


class _InFloat32(nn.Module):
    """A pooling that takes its input in float32."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pooling(x.float())
        return pooled


_POOLINGS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_POOLING_FUNCTIONS = (functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, torch.mean)


def _pooling_in_float32(module: nn.Module) -> nn.Module:
    """Let the poolings of a network, as far as they can be seen, take float32."""
    for name, part in list(module.named_modules()):
        if type(part) in _POOLINGS and name:
            module.set_submodule(name, _InFloat32(part))
    if isinstance(module, fx.GraphModule):
        for node in list(module.graph.nodes):
            is_method = node.op == "call_method" and node.target == "mean"
            if (is_method or node.target in _POOLING_FUNCTIONS) and node.args and isinstance(node.args[0], fx.Node):
                with module.graph.inserting_before(node):
                    wide = module.graph.call_method("float", (node.args[0],))
                node.args = (wide, *node.args[1:])
        module.recompile()
    return module


def _stand_in(network: Network) -> nn.Module:
    """A layer with outputs of the shape of the head's, which are not looked at."""
    features, classes = network.head.num_features, network.head.num_classes
    return nn.Conv2d(features, classes, 1) if network.head.is_pointwise else nn.Linear(features, classes)


def _overwriting(module: nn.Module) -> nn.Module:
    """Let ReLUs and additions overwrite the output of a layer that nothing else reads: less memory, fewer cache misses.

    Only the outputs of convolutions, linear layers and rewritten ReLUs and additions are overwritten; other layers may
    return a view of their input.
    """
    if not isinstance(module, fx.GraphModule):
        return module
    layers = dict(module.named_modules())
    own: set[fx.Node] = set()
    for node in module.graph.nodes:
        layer = layers.get(str(node.target)) if node.op == "call_module" else None
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        may_overwrite = source in own and len(source.users) == 1
        if isinstance(layer, nn.Conv2d | nn.Linear):
            own.add(node)
        elif isinstance(layer, nn.ReLU) or node.target is functional.relu:
            # A module may stand in several places, so its calls are rewritten, each for itself.
            node.op, node.target, node.args, node.kwargs = (
                "call_function",
                functional.relu,
                (source or node.kwargs["input"],),
                {"inplace": may_overwrite},
            )
            own.add(node)
        elif node.target in (operator.add, operator.iadd, torch.add) and not node.kwargs:
            node.target = operator.iadd if may_overwrite else operator.add
            own.add(node)
    module.recompile()
    return module
