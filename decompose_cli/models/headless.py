"""Why no part of a network is a head: what the network is, seen from what it does, and what would work instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from decompose_cli.errors import InputError, first_few, param, raised
from decompose_cli.models.logits import logits_of
from decompose_cli.models.tracing import LayerCall, evaluating, followed_modules, is_linear

_CLOSE = 1e-3
_ENDS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda z: z.softmax(1),
    "log-softmax": lambda z: z.log_softmax(1),
    "sigmoid": torch.sigmoid,
    "log-sigmoid": F.logsigmoid,
    "tanh": torch.tanh,
}
_LIST = "'decompose layers MODEL' lists its modules."
_Reason = tuple[str, str]
"""A sentence, and what would work."""


@dataclass(frozen=True)
class _Case:
    """A network without a head, and a pass of it in evaluation.

    Attributes:
        model: The network.
        called: Its name.
        layers: The submodules that were used, in the order in which they finished.
        fitting: Those that made as many numbers as there are logits, the likeliest head first.
        images: The images.
        logits: What the network made of them, (N, C).
    """

    model: nn.Module
    called: str
    layers: Sequence[LayerCall]
    fitting: Sequence[LayerCall]
    images: Tensor
    logits: Tensor

    @property
    def linear(self) -> list[LayerCall]:
        """The linear layers that were used once."""
        return [layer for layer in self.layers if is_linear(layer.module) and layer.calls == 1]


def headless(
    model: nn.Module,
    called: str,
    layers: Sequence[LayerCall],
    fitting: Sequence[LayerCall],
    images: Tensor,
    logits: Tensor,
    name: str | None = None,
) -> InputError:
    """The refusal of a network none of whose parts was found to be its head.

    Args:
        model: The network, which is left as it is.
        called: Its name.
        layers: The submodules that were used in a pass, in the order in which they finished.
        fitting: Those that made as many numbers as there are logits, the likeliest head first.
        images: The images of that pass.
        logits: What the network made of them, (N, C).
        name: The submodule that the user took for the head, if one was named.
    """
    case = _Case(model, called, layers, fitting, images, logits)
    with evaluating(model):
        reason = _whole(case) or _named(called, name) or _of_layers(case)
    return InputError(reason[0], hint=reason[1])


def quantised(model: nn.Module) -> str | None:
    """The first layer of a network whose weights are integers, in words; None where there is none."""
    for name, module in model.named_modules():
        if ".quantized" in type(module).__module__ and hasattr(module, "_packed_params"):
            return f"{name!r} ({type(module).__module__.partition('.modules')[0]}.{type(module).__name__})"
    return None


def _whole(case: _Case) -> _Reason | None:
    """What is so of the network as a whole, or of a part that cannot be looked into."""
    if (layer := quantised(case.model)) is not None:
        return (
            f"{case.called} is quantised: the weights of {layer} are integers, which no analysis can read or replace.",
            "Give the network as it was before it was quantised.",
        )
    scripts = [name for name, part in case.model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripts and not case.linear:
        where = f"has a ScriptModule {scripts[0]!r}" if scripts[0] else "is a ScriptModule"
        return (
            f"{case.called} {where} (of torch.jit), in which no layer can be looked at or replaced.",
            "Give the nn.Module that it was made from; its state_dict can be its weights.",
        )
    return _drawing(case)


def _drawing(case: _Case) -> _Reason | None:
    """Whether the network gives other logits each time, and which operation draws the random numbers."""
    with torch.random.fork_rng(devices=[]), _Drawn(case.model) as drawn:
        again = _logits(case)
    if again is None or _same(again, case.logits):
        return None
    how = "something in it is random, or counts how often it is used"
    if drawn.operation is not None:
        where = f" in {drawn.place!r}" if drawn.place else ""
        like = ", as dropout does" if "bernoulli" in drawn.operation or "dropout" in drawn.operation else ""
        how = f"it draws random numbers{where} (the operation {drawn.operation}{like})"
    return (
        f"{case.called} gives other logits for the same images each time, in evaluation too: {how}.",
        "Switch it off in evaluation, as nn.Dropout does, and F.dropout with training=self.training.",
    )


class _Drawn(TorchDispatchMode):
    """Remembers the first operation that draws random numbers, and the innermost submodule in which it does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.operation: str | None = None
        self.place = ""
        self._within: list[str] = []
        self._hooks = ExitStack()

    def __enter__(self) -> _Drawn:
        for name, module in followed_modules(self.model):
            self._hooks.callback(module.register_forward_pre_hook(self._entering(name)).remove)
            self._hooks.callback(module.register_forward_hook(self._leaving, always_call=True).remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hooks.close()

    def _entering(self, name: str) -> Callable[[nn.Module, object], None]:
        return lambda _, __: self._within.append(name)

    def _leaving(self, _: nn.Module, __: object, ___: object) -> None:
        self._within.pop()

    @override
    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.operation is None and torch.Tag.nondeterministic_seeded in func.tags:
            self.operation, self.place = func.__name__.partition(".")[0], (self._within or [""])[-1]
        return func(*args, **(kwargs or {}))


def _named(called: str, name: str | None) -> _Reason | None:
    if name is None:
        return None
    return (
        f"{name!r} is not the head of {called}: the logits are not its output times a constant plus a constant for "
        "each class.",
        _LIST,
    )


def _of_layers(case: _Case) -> _Reason:
    """What is so of the layers that may have been the head."""
    kinds = (_one_number, _used_again, _of_another_kind, _several, _for_positions)
    reasons = (*kinds, _direction_alone, _more_than_features)
    found = (reason(case) for reason in reasons)
    return next((reason for reason in found if reason is not None), None) or _by_elimination(case)


def _one_number(case: _Case) -> _Reason | None:
    if case.logits.shape[1] > 1:
        return None
    return (
        f"{case.called} gives one number for an image, and not one for each class.",
        "For two classes return two logits: zero and the logit of the second.",
    )


def _used_again(case: _Case) -> _Reason | None:
    """Linear layers with an output for each class that are used several times, or never by themselves."""
    classes = case.logits.shape[1]
    for layer in case.layers:
        if is_linear(layer.module) and layer.calls > 1 and layer.output_shape and classes in layer.output_shape[1:]:
            return (
                f"{case.called} uses {layer.name!r} ({_kind(layer)}) {layer.calls} times for an image, so its logits "
                "are not made of one row of features.",
                "A network that uses it once can be studied: leave out what makes logits of flipped copies, crops or "
                "earlier layers.",
            )
    used = {id(layer.module) for layer in case.layers}
    unused = [name for name, part in followed_modules(case.model) if is_linear(part) and id(part) not in used]
    if not case.linear and unused:
        return (
            f"{case.called} never calls its linear layers ({first_few(map(repr, unused))}), though a function such as "
            "F.linear may use their weights.",
            "Call the layer itself: self.head(features) instead of F.linear(features, self.head.weight).",
        )
    return None


def _of_another_kind(case: _Case) -> _Reason | None:
    """A head of complex numbers, or one that computes in fewer digits than its weights have."""
    for layer in reversed(case.linear):
        weight = layer.module.weight
        assert isinstance(weight, Tensor)
        if weight.is_complex():
            return (
                f"The last linear layer {layer.name!r} of {case.called} is of complex numbers, and features have to be "
                "real.",
                "Give real and imaginary parts as features to a linear layer of real numbers.",
            )
        made = _made_by(case, [layer])
        if made and made[0].dtype in (torch.float16, torch.bfloat16) and weight.dtype == torch.float32:
            kind = str(made[0].dtype).removeprefix("torch.")
            return (
                f"{case.called} computes {layer.name!r} in {kind}, though its weights are float32, as autocast inside "
                "its forward does: its logits have too few digits to be told apart from others.",
                f"Leave autocast out of its forward; {param('precision')} bf16 computes features in bfloat16.",
            )
        return None
    return None


def _several(case: _Case) -> _Reason | None:
    """Whether the logits are the mean or the sum of what several linear layers make."""
    heads = [layer for layer in case.fitting if is_linear(layer.module)]
    made = _made_by(case, heads)
    if len(made) < 2:
        return None
    rows = torch.stack([one.flatten(1) for one in made])
    if not (_same(rows.mean(0), case.logits) or _same(rows.sum(0), case.logits)):
        return None
    names = first_few((repr(layer.name) for layer in reversed(heads)), 4)
    return (
        f"The logits of {case.called} are made by {len(heads)} heads together ({names}), each with features of its "
        "own.",
        "A network that returns the logits of one of them can be studied, as a callable of your own "
        "(package.module:callable).",
    )


def _for_positions(case: _Case) -> _Reason | None:
    """Whether a linear layer makes scores for each position, whose means are the logits."""
    for layer in reversed(case.linear):
        made = _made_by(case, [layer])
        if not made or made[0].ndim not in (3, 4):
            continue
        maps = made[0] if isinstance(layer.module, nn.Conv2d) else made[0].movedim(-1, 1)
        means = maps.flatten(2).mean(2)
        if maps.shape[2:].numel() > 1 and _same(means, case.logits):
            return (
                f"{layer.name!r} ({_kind(layer)}) of {case.called} makes scores for each of {maps.shape[2:].numel()} "
                "positions, and the logits are their means.",
                "Average before that layer instead of after it: the logits stay the same, and it is a head.",
            )
    return None


def _direction_alone(case: _Case) -> _Reason | None:
    """Whether a part makes the same of features that are twice as large."""
    for layer in case.fitting:
        if layer.features is None or not bool(layer.features.any()):
            continue
        try:
            once, twice = (logits_of(layer.module(factor * layer.features)) for factor in (1, 2))
        except Exception:  # it takes more than features
            continue
        if _same(once, twice) and not _same(once, once.mean(0, keepdim=True).expand_as(once)):
            return (
                f"The logits of {case.called} are made by {layer.name!r} ({_kind(layer)}), which looks at the direction"
                " of the features and not at their size, as cosine heads do: no weight and bias give its outputs.",
                "Normalise outside of the head: an nn.Linear that is given F.normalize(features), and whose own rows "
                "are normalised, can be studied.",
            )
    return None


def _more_than_features(case: _Case) -> _Reason | None:
    """Whether the likeliest head cannot be called with its features alone."""
    for layer in case.fitting[:1]:
        if layer.features is None:
            continue
        try:
            layer.module(layer.features)
        except Exception as error:
            return (
                f"The logits of {case.called} are made by {layer.name!r} ({_kind(layer)}), which cannot be called with "
                f"features alone: it raises {raised(error)}.",
                "A head has to take features as its first argument, and need no other.",
            )
    return None


def _by_elimination(case: _Case) -> _Reason:
    """What comes after the last linear layer, as far as it shows."""
    called, layers = case.called, case.layers
    linear = [number for number, layer in enumerate(layers) if is_linear(layer.module) and layer.calls == 1]
    if not linear:
        parts = [layer for layer in case.fitting if any(True for _ in layer.module.parameters())]
        if not parts:
            return f"{called} has no linear layer that could be its head.", _LIST
        return (
            f"The logits of {called} are made by {parts[0].name!r} ({_kind(parts[0])}), which is not linear: no weight "
            "and bias give its outputs.",
            _LIST,
        )
    last = layers[linear[-1]]
    later = [_named_again(layer) for layer in layers[linear[-1] + 1 :] if _is_leaf(layer)]
    start = f"The logits of {called} are not the output of its last linear layer {last.name!r}"
    end = next(_ends(case), None)
    hint = (
        _LIST
        if end is None
        else f"Leave the {end} out of what the network returns; losses and predictions are made of logits."
    )
    if later:
        come = "come" if len(later) > 1 else "comes"
        return f"{start}: after it {come} {' and '.join(later)}, so its head cannot be replaced.", hint
    if end is not None:
        return f"{start} but the {end} of it.", hint
    return (
        f"{start} times a constant plus a constant for each class: the network computes something else from it.",
        hint,
    )


def _ends(case: _Case) -> Iterator[str]:
    """What the network makes of its logits in the end."""
    if _same(case.logits.exp().sum(1), torch.ones_like(case.logits[:, 0])):
        yield "log-softmax"
    if bool((case.logits >= 0).all()) and _same(case.logits.sum(1), torch.ones_like(case.logits[:, 0])):
        yield "softmax"
    for made in _made_by(case, [layer for layer in case.fitting if is_linear(layer.module)]):
        yield from (name for name, end in _ENDS.items() if _same(end(made.flatten(1)), case.logits))


def _made_by(case: _Case, layers: Sequence[LayerCall]) -> list[Tensor]:
    """What layers make in another pass of the same images, in their order; nothing where it is no tensor."""
    made: dict[int, Tensor] = {}

    def keep(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            made[id(module)] = output.clone()

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.module.register_forward_hook(keep).remove)
        _logits(case)
    return [made[id(layer.module)] for layer in layers if id(layer.module) in made]


def _logits(case: _Case) -> Tensor | None:
    """What another pass of the same images makes; None if the network does otherwise this time."""
    try:
        return logits_of(case.model(case.images))
    except Exception:
        return None


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same up to rounding."""
    if one.shape != other.shape:
        return False
    one, other = one.double(), other.double()
    return bool((one - other).abs().amax() <= _CLOSE * other.abs().amax())


def _kind(layer: LayerCall) -> str:
    return type(layer.module).__name__


def _named_again(layer: LayerCall) -> str:
    """The layer in a sentence about its last use."""
    return f"{'again ' if layer.calls > 1 else ''}{layer.name!r} ({_kind(layer)})"


def _is_leaf(layer: LayerCall) -> bool:
    return next(layer.module.children(), None) is None
