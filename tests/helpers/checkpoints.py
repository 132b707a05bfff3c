"""Files of weights, good and bad, made from those of the shipped network."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.registry import DEFAULT_MODEL
from helpers.inputs import CLASSES


class Hostile:
    """Unpickling it would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def hostile_archive(_: dict[str, Tensor]) -> bytes:
    return saved({"state_dict": {"linear.weight": torch.zeros(1)}, "more": Hostile()})


def script(_: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def zip_of_text(_: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    return buffer.getvalue()


def changed(**changes: Tensor | None) -> Callable[[dict[str, Tensor]], bytes]:
    """The shipped weights with changes; ``__`` stands for a dot, None takes a tensor out."""

    def make(state: dict[str, Tensor]) -> bytes:
        new = {name.replace("__", "."): value for name, value in changes.items()}
        return saved({name: value for name, value in {**state, **new}.items() if value is not None})

    return make


def with_one(name: str, value: float) -> Callable[[dict[str, Tensor]], bytes]:
    """The shipped weights with one number replaced."""

    def make(state: dict[str, Tensor]) -> bytes:
        tensor = state[name].clone()
        tensor.flatten()[0] = value
        return saved({**state, name: tensor})

    return make


def decomposed(k: int = 3, **changes: Tensor | None) -> Callable[[dict[str, Tensor]], bytes]:
    """A checkpoint with a decomposed head of its own, with changes to its parts; None takes a part out."""

    def make(state: dict[str, Tensor]) -> bytes:
        indices = torch.tensor([[c, c + 10, c + 20][:k] for c in range(CLASSES)])
        parts: dict[str, Tensor | None] = {
            "weight": torch.zeros(CLASSES, k),
            "bias": torch.zeros(CLASSES),
            "indices": indices,
            "mask": torch.ones(CLASSES, k, dtype=torch.bool),
            **changes,
        }
        rest = {name: value for name, value in state.items() if not name.startswith("linear.")}
        return saved({**rest, **{f"linear.{name}": part for name, part in parts.items() if part is not None}})

    return make


def renamed_decomposed_head(state: dict[str, Tensor]) -> bytes:
    content = torch.load(io.BytesIO(decomposed()(state)), weights_only=True)
    return saved({name.replace("linear.", "fc."): value for name, value in content.items()})


def indices_at(value: int, column: int = 0) -> Tensor:
    indices = torch.tensor([[c, c + 10, c + 20] for c in range(CLASSES)])
    indices[3, column] = value
    return indices


def safetensors(**description: Any) -> Callable[[dict[str, Tensor]], bytes]:
    """The shipped weights as safetensors with a description; None takes a field out, ``text`` is the whole of it."""

    def make(state: dict[str, Tensor]) -> bytes:
        fields = {"format_version": 1, "model": DEFAULT_MODEL, "num_classes": CLASSES, **description}
        text = description.get("text") or json.dumps({k: v for k, v in fields.items() if v is not None})
        return save(state, metadata={"decompose": text})

    return make


def other_network(depth: int) -> Callable[[dict[str, Tensor]], bytes]:
    return lambda _: saved(CifarResNet(depth, CLASSES).state_dict())


def with_published_head(weight: Tensor | None, bias: Tensor | None = None) -> Callable[[dict[str, Tensor]], bytes]:
    """The shipped weights with ``final_weights`` and ``final_bias``, the authors' fine-tuned layout."""
    return changed(final_weights=weight, final_bias=bias)
