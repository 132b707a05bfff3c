"""Networks that yield features and no logits: a linear head for them, which means nothing until it is fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from decompose_cli.errors import InputError, param
from decompose_cli.models.entry import ModelEntry
from decompose_cli.models.network import HeadTensors, Network, network_of
from decompose_cli.models.tracing import cannot_run, evaluating, example_images
from decompose_cli.preprocessing import Size

FEATURES_ONLY = "features_only"
"""The option of such a network, which descriptions in checkpoints have with the value ``yes``."""
HEAD = "linear_head"
"""Name of the head; no classifier of timm has it."""
CHOSEN = {FEATURES_ONLY: "yes"}
"""The options of such a network."""
_PLACEHOLDER = 2
"""Classes of the head until those of a data set are known."""
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")


class BackboneWithHead(nn.Module):
    """A network that yields features, and a linear head on them.

    Args:
        backbone: The network.
        head: The head, (N, D) to (N, C).
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.linear_head = head

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to logits (N, C)."""
        logits: Tensor = self.linear_head(features_in(self.backbone(x), self.backbone))
        return logits


def features_in(output: Any, backbone: nn.Module, where: str = "The network") -> Tensor:
    """The features (N, D) in the output of a network without a classifier.

    They are the output itself, (N, D) or maps of one pixel; of an object, as networks of transformers return it, its
    ``pooler_output``, else the class token of its ``last_hidden_state``, or the mean of that over positions.

    Args:
        output: What the network returned.
        backbone: The network.
        where: The network, for the sentence.

    Raises:
        InputError: There is no such tensor.
    """
    pooled, hidden = getattr(output, "pooler_output", None), getattr(output, "last_hidden_state", None)
    if isinstance(pooled, Tensor):
        output = pooled
    elif isinstance(hidden, Tensor):
        has_token = hidden.ndim == 3 and any(name.rpartition(".")[2] in _CLASS_TOKENS for name in _names(backbone))
        output = hidden[:, 0] if has_token else hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))
    if not isinstance(output, Tensor):
        raise InputError(f"{where} returns a {type(output).__name__}, not features (N, D).")
    if output.ndim < 2 or output.shape[2:].numel() != 1:
        raise InputError(f"{where} returns values of shape {tuple(output.shape)}, not features (N, D).")
    return output.flatten(1)


def _names(backbone: nn.Module) -> list[str]:
    return [name for name, _ in backbone.named_parameters()]


def is_features_only(options: Mapping[str, str] | None) -> bool:
    """Whether options of a network, such as a checkpoint describes, say that it has no classifier of its own."""
    return (options or {}).get(FEATURES_ONLY) == CHOSEN[FEATURES_ONLY]


def backbone_entry(entry: ModelEntry) -> ModelEntry:
    """The entry of a network that yields features, with a linear head.

    Args:
        entry: The entry of the network without a classifier; what it builds for no classes yields features. What the
            new entry builds with ``is_bare`` is that, which has not been run.
    """
    return replace(
        entry,
        build=partial(_build, entry.name, entry.build, depends_on_size=entry.depends_on_size),
        dataset=None,
        num_classes=_PLACEHOLDER,
        num_features=None,
        accuracy=None,
        architecture={**entry.architecture, **CHOSEN},
        options={FEATURES_ONLY: (CHOSEN[FEATURES_ONLY],)},
        chosen=dict(CHOSEN),
        settle=lambda _: dict(CHOSEN),
        recognise=None,
        depends_on_size=True,
        outputs=None,
    )


def _build(
    name: str,
    build: Callable[..., nn.Module],
    num_classes: int,
    *,
    input_size: Size,
    depends_on_size: bool,
    pretrained: bool = False,
    is_bare: bool = False,
    **_: str,
) -> nn.Module:
    sized = {"input_size": input_size} if depends_on_size else {}
    backbone = build(0, pretrained=pretrained, **sized)
    return backbone if is_bare else with_linear_head(backbone, input_size, num_classes, name)


def with_linear_head(backbone: nn.Module, input_size: Size, num_classes: int, name: str) -> BackboneWithHead:
    """A network that yields features, used as it is, with a linear head.

    Args:
        backbone: The network.
        input_size: (height, width) of its images.
        num_classes: Outputs of the head.
        name: Name of the network in messages.

    Raises:
        InputError: It cannot run on such images, or yields no features.
    """
    try:
        with evaluating(backbone):
            output = backbone(example_images(input_size, model=backbone))
    except (Exception, SystemExit) as error:
        raise cannot_run(name, input_size, error) from error
    features = features_in(output, backbone, name)
    head = nn.Linear(features.shape[1], num_classes)
    like = next(backbone.parameters(), None)
    if like is not None and like.is_floating_point():
        head = head.to(like.device, like.dtype)
    return BackboneWithHead(backbone, head).train(backbone.training)


def without_head(module: BackboneWithHead, input_size: Size, name: str) -> Network:
    """The network of a module whose head has not been fitted."""
    network = network_of(module, input_size, HEAD, name)
    return replace(network, tensors=HeadTensors.absent(HEAD, network.head.num_classes, network.head.num_features))


def no_head(what: str, name: str = "the network") -> InputError:
    """What there is to say where a head is needed, and the network is a backbone to which none has been fitted.

    Args:
        what: What needs it.
        name: The network.
    """
    return InputError(
        f"{what} needs a head, and {name} has none, as it was taken without a classifier.",
        hint=f"'decompose sparsify' with {param(FEATURES_ONLY)} fits one, and writes a checkpoint that has it.",
    )
