"""Checkpoints whose tensors are others: type, shape, strides, numbers, class, and what is missing or too much."""

from __future__ import annotations

import io
import json
import warnings
from collections import OrderedDict
from contextlib import suppress
from random import Random
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from fuzz.mutators.structure import changed
from fuzz.mutators.values import FLOATS, any_value

_TYPES = tuple(
    getattr(torch, name)
    for name in (
        "float16",
        "bfloat16",
        "float64",
        "int8",
        "int64",
        "uint8",
        "bool",
        "complex64",
        "float8_e4m3fn",
        "float8_e5m2",
        "uint16",
        "uint64",
        "int32",
    )
)

_MOST = 1_000_000
"""Numbers of a tensor that is copied here."""


def tensors(random: Random, content: bytes) -> bytes:
    """Of a file of ``torch.save`` or safetensors; what comes out may be of either kind."""
    if content[:2] == b"PK":
        value = torch.load(io.BytesIO(content), weights_only=True)
    else:
        value = dict(sorted(load(content).items()))  # their order is another every time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _change(random, value)
        with suppress(RuntimeError, TypeError, AttributeError):  # what one change has made may not take another
            if random.random() < 0.3:
                _change(random, value)
        if random.random() < 0.3 or content[:2] == b"PK":
            return _saved(random, value)
        kept = {name: item.clone().contiguous() for name, item in value.items() if _is_plain(item)}
        return save(kept, metadata=_metadata(random, content))


def _is_plain(item: Any) -> bool:
    """Whether safetensors takes it, and soon."""
    if isinstance(item, Tensor) and item.numel() > _MOST:
        return False
    return type(item) is Tensor and item.layout == torch.strided and item.device.type == "cpu" and not item.is_quantized


def _metadata(random: Random, content: bytes) -> dict[str, str]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found = dict(header.get("__metadata__", {}))
    for name, text in found.items():
        if random.random() < 0.3:
            try:
                found[name] = json.dumps(changed(random, json.loads(text)))
            except ValueError:
                found[name] = str(any_value(random))[:1000].encode("utf-8", "replace").decode()
    return found


def _saved(random: Random, value: Any) -> bytes:
    buffer = io.BytesIO()
    if random.random() < 0.1:
        value = random.choice(
            (
                list(value.values()),
                OrderedDict(value),
                {"state_dict": value},
                {"model": {"module": value}},
                tuple(value.items()),
                next(iter(value.values())),
                {1: value},
            )
        )
    torch.save(
        value,
        buffer,
        _use_new_zipfile_serialization=random.random() < 0.9,
        pickle_protocol=random.choice((2, 2, 2, 2, 3, 4, 5)),
    )
    return buffer.getvalue()


def _change(random: Random, value: dict[str, Any]) -> None:
    """One entry of the state, or of what stands beside it."""
    state = value["state_dict"] if isinstance(value.get("state_dict"), dict) else value
    if state is not value and random.random() < 0.4:
        if isinstance(value.get("decompose"), str) and random.random() < 0.5:
            value["decompose"] = json.dumps(changed(random, json.loads(value["decompose"])))
        else:
            changed(random, value)
        return
    name = random.choice(list(state) or ["x"])
    item = state.get(name)
    kind = random.randrange(12)
    if kind == 0:
        state.pop(name, None)
    elif kind == 1:
        state[random.choice(("extra", "module." + name, name + "\0", "", "fc.weight", "x" * 10_000))] = torch.zeros(2)
    elif kind == 2:
        state[name] = any_value(random)
    elif kind == 3:
        other = random.choice(list(state))
        state[name], state[other] = state.get(other), item
    elif isinstance(item, Tensor):
        state[name] = _other(random, item)


def _other(random: Random, item: Tensor) -> Any:
    """A tensor in the place of one; of one that is large by now, which a copy would really be, the same."""
    if item.numel() > _MOST:
        return item
    kind = random.randrange(16)
    if kind == 0:
        return item.to(random.choice(_TYPES))
    if kind == 1:
        return item.flatten()
    if kind == 2:
        return item[..., None].expand(*item.shape, random.choice((2, 1000, 10**8)))
    if kind == 3:
        return torch.zeros(1).expand(random.choice(((10**9,), (6, 10**8), (0,), (1, *item.shape))))
    if kind in (4, 5):
        filled = item.double().contiguous().clone()
        if filled.numel():
            filled.view(-1)[random.randrange(filled.numel())] = random.choice(FLOATS)
        return filled if random.random() < 0.2 else filled.float()
    if kind == 6:
        return torch.full_like(item.double(), random.choice(FLOATS))
    if kind == 7:
        return item.to("meta")
    if kind == 8:
        return item.to_sparse() if item.dim() else item
    if kind == 9:
        return nn.Parameter(item.float())
    if kind == 10:
        return torch.quantize_per_tensor(item.float(), 0.1, 0, torch.qint8)
    if kind == 11:
        return item[:-1] if item.dim() and len(item) else item
    if kind == 12:
        return torch.cat([item, item]) if item.dim() else item[None]
    if kind == 13:
        return item.t() if item.dim() == 2 else item.flatten().flip(0)
    if kind == 14:
        return torch.empty(random.choice(((0,), (0, 6), (1, 0, 3), ())))
    return torch.conj(item.to(torch.complex64))
