"""Small classifiers of RGB images in ten classes, one of each kind that people bring.

All have a body of two convolutions and features (N, 12), unless their kind is another, and weights of a seed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

FEATURES, CLASSES, SIZE = 12, 10, 8


def _seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    @wraps(make)
    def seeded() -> nn.Module:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about what is old or new in it
            torch.manual_seed(5)
            return make()

    return seeded


class Body(nn.Module):
    """Images to maps (N, 12, h, w), not negative."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(8, FEATURES, 3, stride=2)
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.relu(self.norm(self.first(x)))))


class Net(nn.Module):
    """Body, mean over positions, head; ``prepare`` is done to the images, ``end`` to the logits."""

    def __init__(self, head: nn.Module | None = None, end: nn.Module | None = None) -> None:
        super().__init__()
        self.body = Body()
        self.head = head or nn.Linear(FEATURES, CLASSES)
        if end is not None:
            self.end = end

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        logits = self.head(self.features(x))
        return self.end(logits) if hasattr(self, "end") else logits


def _of(name: str, forward: Callable[[Net, Tensor], Any], **more: Any) -> Callable[[], nn.Module]:
    """A network with a forward of its own."""
    kind = type(name, (Net,), {"forward": forward})
    return _seeded(lambda: kind(**more))


def _changed(change: Callable[[Net], nn.Module | None]) -> Callable[[], nn.Module]:
    """The usual network, changed in place or in a wrapper."""

    def make() -> nn.Module:
        network = Net()
        made = change(network)
        return network if made is None else made

    return _seeded(make)


plain = _seeded(Net)

# --- quantised -------------------------------------------------------------------------------------------------------


def _dynamic(network: Net) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, torch.qint8)


class Parts(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def _static(network: Net) -> nn.Module:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.inner, self.leave = (
                torch.ao.quantization.QuantStub(),
                Parts(),
                torch.ao.quantization.DeQuantStub(),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.inner(self.enter(x)))

    whole = Quantised().eval()
    whole.qconfig = torch.ao.quantization.get_default_qconfig(torch.backends.quantized.engine)
    torch.ao.quantization.prepare(whole, inplace=True)
    whole(torch.randn(8, 3, SIZE, SIZE))
    return torch.ao.quantization.convert(whole)


dynamic = _changed(_dynamic)
static = _changed(_static)


class Rounded(nn.Module):
    """Fake quantisation of weights, as in training that prepares for it."""

    def forward(self, weight: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(weight, 0.01, 0, -128, 127)


@_changed
def fake_quantised(network: Net) -> None:
    nn.utils.parametrize.register_parametrization(network.body.second, "weight", Rounded())
    nn.utils.parametrize.register_parametrization(network.head, "weight", Rounded())


# --- nested ----------------------------------------------------------------------------------------------------------


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


nested = _changed(lambda network: Wrapper(Wrapper(Wrapper(network))))
parallel = _changed(nn.DataParallel)
compiled = _changed(lambda network: torch.compile(network, backend="eager"))
compiled_inside = _changed(lambda network: Wrapper(torch.compile(network, backend="eager")))


@_changed
def compiled_in_place(network: Net) -> None:
    network.compile(backend="eager")


@_changed
def compiled_forward(network: Net) -> None:
    network.body.forward = torch.compile(network.body.forward, backend="eager")  # type: ignore[method-assign]


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(Net() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


ensemble = _seeded(Ensemble)


class OnTop(nn.Module):
    """A classifier whose logits are the features of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = Net(), nn.Linear(CLASSES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.relu(self.inner(x)))


on_top = _seeded(OnTop)

# --- lazy, frozen, number types --------------------------------------------------------------------------------------


@_changed
def lazy(network: Net) -> None:
    network.body.first, network.head = nn.LazyConv2d(8, 3, padding=1), nn.LazyLinear(CLASSES)


lazy_norm = _changed(lambda network: setattr(network.body, "norm", nn.LazyBatchNorm2d()))
frozen = _changed(lambda network: network.requires_grad_(False) and None)
half = _changed(lambda network: network.half())
bfloat16 = _changed(lambda network: network.bfloat16())
double = _changed(lambda network: network.double())


@_changed
def half_head(network: Net) -> nn.Module:
    network.head.half()
    return _forward_as(network, lambda self, x: self.head(self.features(x).half()).float())


@_changed
def half_body(network: Net) -> nn.Module:
    network.body.bfloat16()
    return _forward_as(network, lambda self, x: self.head(self.body(x.bfloat16()).mean((2, 3)).float()))


def _forward_as(network: Net, forward: Callable[[Net, Tensor], Any]) -> nn.Module:
    network.__class__ = type("Net", (Net,), {"forward": forward})
    return network


casts_to_half = _of("CastsToHalf", lambda self, x: self.head(self.features(x).half().float()))
gives_double = _of("GivesDouble", lambda self, x: self.head(self.features(x)).double())


class Complex(Net):
    """A convolution in complex numbers, whose sizes are what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3, dtype=torch.complex64) * 0.3)

    def features(self, x: Tensor) -> Tensor:
        maps = F.conv2d(x.to(self.weight.dtype), self.weight, padding=1).abs()
        return self.body.last(self.body.second(maps)).mean((2, 3))


complex_weights = _seeded(Complex)


class ComplexHead(Net):
    def __init__(self) -> None:
        super().__init__(nn.Linear(FEATURES, CLASSES).to(torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).to(torch.complex64)).real


complex_head = _seeded(ComplexHead)


@_changed
def meta(network: Net) -> nn.Module:
    return network.to("meta")


@_changed
def partly_meta(network: Net) -> None:
    network.head.to("meta")


@_changed
def integer_buffers(network: Net) -> None:
    network.register_buffer("counts", torch.arange(CLASSES))
    network.body.register_buffer("mask", torch.ones(3, dtype=torch.bool))
    network.register_buffer("small", torch.ones(3, dtype=torch.uint8))


# --- scripts and graphs ----------------------------------------------------------------------------------------------

scripted = _changed(lambda network: torch.jit.script(Plain().eval()))
traced = _changed(lambda network: torch.jit.trace(network.eval(), torch.zeros(2, 3, SIZE, SIZE)))
frozen_script = _changed(lambda network: torch.jit.freeze(torch.jit.script(Plain().eval())))
scripted_body = _changed(lambda network: setattr(network, "body", torch.jit.script(network.body)))
scripted_head = _changed(lambda network: setattr(network, "head", torch.jit.script(network.head)))
graph = _changed(lambda network: torch.fx.symbolic_trace(network.eval()))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Body(), nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


@_changed
def saved_script(network: Net) -> nn.Module:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Plain().eval()), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


@_changed
def exported(network: Net) -> nn.Module:
    sizes = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    return torch.export.export(Plain().eval(), (torch.zeros(2, 3, SIZE, SIZE),), dynamic_shapes=sizes).module()


# --- parametrised ----------------------------------------------------------------------------------------------------


@_changed
def weight_normed(network: Net) -> None:
    weight_norm(network.body.second)
    parametrizations.weight_norm(network.head)


@_changed
def spectral_normed(network: Net) -> None:
    spectral_norm(network.body.second)
    parametrizations.spectral_norm(network.head)


@_changed
def pruned(network: Net) -> None:
    prune.l1_unstructured(network.body.second, "weight", 0.5)
    prune.l1_unstructured(network.head, "weight", 0.5)


# --- gradients -------------------------------------------------------------------------------------------------------


def _without_gradients(guard: Callable[[], Any]) -> Callable[[Net, Tensor], Any]:
    def forward(self: Net, x: Tensor) -> Tensor:
        with guard():
            features = self.features(x)
        return self.head(features)

    return forward


under_no_grad = _of("UnderNoGrad", _without_gradients(torch.no_grad))
under_inference_mode = _of("UnderInferenceMode", _without_gradients(torch.inference_mode))
all_under_no_grad = _of("AllUnderNoGrad", torch.no_grad()(Net.forward))
all_under_inference_mode = _of("AllUnderInferenceMode", torch.inference_mode()(Net.forward))
detached = _of("Detached", lambda self, x: self.head(self.features(x).detach()))
detached_maps = _of("DetachedMaps", lambda self, x: self.head(self.body(x).detach().relu().mean((2, 3))))


def _detached_early(self: Net, x: Tensor) -> Tensor:
    body = self.body
    return self.head(body.last(body.second(body.relu(body.norm(body.first(x))).detach())).mean((2, 3)))


detached_early = _of("DetachedEarly", _detached_early)


def _rounds(self: Net, x: Tensor) -> Tensor:
    return self.head((self.body(x) * 16).round().mean((2, 3)))


rounds = _of("Rounds", _rounds)


def _through_numpy(self: Net, x: Tensor) -> Tensor:
    return self.head(torch.from_numpy(self.body(x).detach().numpy()).mean((2, 3)))


through_numpy = _of("ThroughNumpy", _through_numpy)

# --- pictures that are turned, layers off the way --------------------------------------------------------------------

flips = _of("Flips", lambda self, x: self.head(self.body(x.flip(3)).mean((2, 3))))
flips_maps = _of("FlipsMaps", lambda self, x: self.head(self.body(x).flip(3).mean((2, 3))))
rolls = _of("Rolls", lambda self, x: self.head(self.body(x.roll(2, 3)).roll((1, 1), (2, 3)).mean((2, 3))))
flips_both = _of("FlipsBoth", lambda self, x: self.head((self.features(x) + self.features(x.flip(3))) / 2))
flips_images = _of("FlipsImages", lambda self, x: self.head(self.features(x.flip(0)).flip(0)))
swaps_channels = _of("SwapsChannels", lambda self, x: self.head(self.features(x[:, [2, 1, 0]])))


class Beside(Net):
    """The last layer with maps is used by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(FEATURES, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x)
        self.unused(maps)
        return self.head(maps.mean((2, 3)))


off_the_way = _seeded(Beside)


class Auxiliary(Beside):
    """A second output beside the logits, from a layer of its own."""

    def forward(self, x: Tensor) -> Any:
        maps = self.body(x)
        return {"logits": self.head(maps.mean((2, 3))), "maps": self.unused(maps)}


auxiliary = _seeded(Auxiliary)

# --- autocast --------------------------------------------------------------------------------------------------------


def _autocast(dtype: torch.dtype) -> Callable[[Net, Tensor], Any]:
    def forward(self: Net, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            return self.head(self.features(x))

    return forward


autocast_bfloat16 = _of("AutocastBfloat16", _autocast(torch.bfloat16))
autocast_half = _of("AutocastHalf", _autocast(torch.float16))

# --- what is returned and taken --------------------------------------------------------------------------------------

gives_tuple = _of("GivesTuple", lambda self, x: (Net.forward(self, x), x))
gives_dict = _of("GivesDict", lambda self, x: {"logits": Net.forward(self, x), "images": x})
gives_other_dict = _of("GivesOtherDict", lambda self, x: {"first": Net.forward(self, x), "second": x.mean((2, 3))})


class Output(NamedTuple):
    logits: Tensor
    features: Tensor


def _named(self: Net, x: Tensor) -> Output:
    features = self.features(x)
    return Output(self.head(features), features)


gives_named_tuple = _of("GivesNamedTuple", _named)


def _branches(self: Net, x: Tensor) -> Tensor:
    features = self.features(x)
    return self.head(features * 2 if float(x.mean()) > -100 else features)


branches = _of("Branches", _branches)


def _branches_by_image(self: Net, x: Tensor) -> Tensor:
    rows = [self.features(one[None] * 2 if float(one.mean()) > 0 else one[None]) for one in x]
    return self.head(torch.cat(rows))


branches_by_image = _of("BranchesByImage", _branches_by_image)
early_exit = _of(
    "EarlyExit",
    lambda self, x: self.head(self.features(x)) if float(x.std()) > 1e-6 else self.head(x.mean((2, 3)).repeat(1, 4)),
)


class TakesByName(nn.Linear):
    def forward(self, *, input: Tensor) -> Tensor:
        return super().forward(input)


class ByName(Net):
    """Its layers take what they are given by name."""

    def __init__(self) -> None:
        super().__init__(TakesByName(FEATURES, CLASSES))
        self.inner = TakesMaps()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.inner(maps=self.body(x)).mean((2, 3)))


class TakesMaps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, *, maps: Tensor) -> Tensor:
        return self.relu(maps)


by_name = _seeded(ByName)
keyword_forward = _of("KeywordForward", lambda self, x, *, scale=1.0, y=None: self.head(self.features(x) * scale))
needs_labels = _of("NeedsLabels", lambda self, x, labels: self.head(self.features(x)))

# --- chance, and heads of other kinds --------------------------------------------------------------------------------


def _drops(self: Net, x: Tensor) -> Tensor:
    return self.head(F.dropout(self.features(x), 0.5, training=True))


dropout = _of("Dropout", _drops)
dropout_at_logits = _of("DropoutAtLogits", lambda self, x: F.dropout(self.head(self.features(x)), 0.5, training=True))


class AlwaysDropping(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, training=True)


class DropsInside(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body.last = nn.Sequential(nn.ReLU(), AlwaysDropping())


dropout_inside = _seeded(DropsInside)
noise = _of("Noise", lambda self, x: self.head(self.features(x + 0.1 * torch.randn_like(x))))


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 16 * F.linear(F.normalize(x), F.normalize(self.weight))


cosine = _seeded(lambda: Net(Cosine(FEATURES, CLASSES)))


class CosineByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(CLASSES, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        return 16 * F.cosine_similarity(x[:, None], self.prototypes, dim=2)


cosine_by_hand = _seeded(lambda: Net(CosineByHand()))
cosine_of_linear = _of(
    "CosineOfLinear", lambda self, x: 16 * self.head(F.normalize(self.features(x))) / self.head.weight.norm(dim=1)
)


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(CLASSES, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(x, self.prototypes)


distances = _seeded(lambda: Net(Distances()))


class Tied(Net):
    """The head's weights are those of a layer before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(FEATURES, CLASSES)
        self.embedding.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        return self.head(features + 0.1 * torch.relu(self.embedding(features)) @ self.embedding.weight)


tied = _seeded(Tied)
twice = _of("Twice", lambda self, x: self.head(self.features(x)) + self.head(self.features(x.flip(3))))


def _for_positions(self: Net, x: Tensor) -> Tensor:
    return self.head(self.body(x).flatten(2).transpose(1, 2)).mean(1)


for_positions = _of("ForPositions", _for_positions)


class OneModuleTwoNames(Net):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = self.head


two_names = _seeded(OneModuleTwoNames)
sigmoid = _seeded(lambda: Net(end=nn.Sigmoid()))
softmax = _seeded(lambda: Net(end=nn.Softmax(1)))
log_softmax = _seeded(lambda: Net(end=nn.LogSoftmax(1)))
sigmoid_function = _of("SigmoidFunction", lambda self, x: torch.sigmoid(Net.forward(self, x)))
softmax_function = _of("SoftmaxFunction", lambda self, x: F.softmax(Net.forward(self, x), 1))
log_softmax_function = _of("LogSoftmaxFunction", lambda self, x: F.log_softmax(Net.forward(self, x), 1))
log_sigmoid_function = _of("LogSigmoidFunction", lambda self, x: F.logsigmoid(Net.forward(self, x)))
tanh_function = _of("TanhFunction", lambda self, x: torch.tanh(Net.forward(self, x)))
temperature = _of("Temperature", lambda self, x: Net.forward(self, x) / 2.5)
two_classes_by_one = _of("TwoClassesByOne", lambda self, x: torch.sigmoid(Net.forward(self, x)[:, :1]))


class Pooled(Net):
    """A convolution makes scores of each class for each position, whose means are the logits."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(FEATURES, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).mean((2, 3))


pooled_scores = _seeded(Pooled)


class Two(Net):
    """Two heads whose mean the logits are, as in DeiT with distillation."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        return (self.head(features) + self.second(features.sqrt())) / 2


two_heads = _seeded(Two)
hidden_head = _of("HiddenHead", lambda self, x: F.linear(self.features(x), self.head.weight, self.head.bias))

# --- hooks of the user's ---------------------------------------------------------------------------------------------


@_changed
def hooked(network: Net) -> None:
    seen: list[Tensor] = []
    network.seen = seen
    network.body.register_forward_hook(lambda _, __, output: seen.append(output.detach().mean()))
    network.body.second.register_forward_hook(lambda _, __, output: output * 2)
    network.register_forward_pre_hook(lambda _, args: (args[0] / 2,))
    network.head.register_full_backward_hook(lambda _, given, __: given)


@_changed
def keeps_maps(network: Net) -> None:
    """As for Grad-CAM: a hook keeps the maps with their graph, which cannot be copied."""

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        network.kept = output

    network.body.register_forward_hook(keep)


def _remembers(self: Net, x: Tensor) -> Tensor:
    self.maps = self.body(x)  # as for class activation maps, without a hook
    return self.head(self.maps.mean((2, 3)))


remembers = _of("Remembers", _remembers)


def _gradients_in_training(self: Net, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(self.training):
        return self.head(self.features(x))


gradients_in_training = _of("GradientsInTraining", _gradients_in_training)


@_changed
def raises_in_hook(network: Net) -> None:
    def fail(_: nn.Module, __: object, ___: object) -> None:
        raise KeyError("layer9")

    network.body.register_forward_hook(fail)


def _fails(self: Net, x: Tensor) -> Tensor:
    raise ValueError("no such thing\nmore of it")


fails = _of("Fails", _fails)


def _exits(self: Net, x: Tensor) -> Tensor:
    raise SystemExit(3)


exits = _of("Exits", _exits)


@_changed
def negative_variance(network: Net) -> None:
    network.body.norm.running_var[3] = -1.0


@_changed
def nan_weight(network: Net) -> None:
    with torch.no_grad():
        network.body.second.weight[1, 2, 0, 0] = float("nan")


@_changed
def infinite_bias(network: Net) -> None:
    with torch.no_grad():
        network.head.bias[4] = float("inf")


needs_size = _of("NeedsSize", lambda self, x: self.head(self.features(x.reshape(len(x), 3, 5, 5))))
of_grey = _changed(lambda network: setattr(network.body, "first", nn.Conv2d(1, 8, 3, padding=1)))


class Unfriendly(Net):
    """It cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("there is only one of me")


not_copied = _seeded(Unfriendly)
