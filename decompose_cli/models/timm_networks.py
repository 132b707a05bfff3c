"""Classifiers of timm, named as ``timm:NAME``, with their preprocessing and weights as timm has them."""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from decompose_cli.errors import DownloadError, InputError, first_few, first_line, param
from decompose_cli.extras import import_extra
from decompose_cli.messages import note, warn
from decompose_cli.models.backbones import backbone_entry
from decompose_cli.models.checkpoint import Checkpoint
from decompose_cli.models.entry import TIMM, ModelEntry
from decompose_cli.models.weights import fetched_file
from decompose_cli.preprocessing import Preprocessing, Size, parse_interpolation
from decompose_cli.storage.files import sha256_of
from decompose_cli.storage.hub import hub_address, hub_file

_FILES = ("model.safetensors", "pytorch_model.bin")
_IMAGENET_CLASSES = 1000
_SAFE = (1, 0, 31)
"""The first version of timm whose reader of pickled weights runs no code that is in them."""
_ON_THE_HUB = ("hf-hub:", "hf_hub:", "local-dir:")


def timm_entry(name: str, *, features_only: bool = False) -> ModelEntry:
    """The entry of a timm classifier.

    Size, crop, interpolation and normalisation are those of the pretrained configuration that timm has under the name,
    as ``timm.data.create_transform`` makes a transform of it for evaluation.

    Args:
        name: ``timm:ARCHITECTURE`` or ``timm:ARCHITECTURE.TAG``.
        features_only: Whether it is taken without its classifier; see :mod:`.models.backbones`.

    Raises:
        InputError: timm is not installed, or has no such network or no such weights of it.
    """
    config = _pretrained_config(name)
    classifiers = config.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    entry = ModelEntry(
        name=name,
        build=partial(_build, name, is_sized=bool(config.get("fixed_input_size"))),
        dataset="imagenet" if config["num_classes"] == _IMAGENET_CLASSES else None,
        num_classes=config["num_classes"] or _IMAGENET_CLASSES,
        preprocessing=_preprocessing(name, config),
        weights=_address(config),
        fetch=partial(_fetched, name, config, features_only),
        source="timm",
        licence=config.get("license") or "",
        architecture={"family": "timm", "name": name.removeprefix(TIMM)},
        depends_on_size=True,
        adapted=_interpolated,
        unread=tuple(f"{classifier}." for classifier in classifiers) if features_only else (),
    )
    return backbone_entry(entry) if features_only else entry


def _pretrained_config(name: str) -> dict[str, Any]:
    """What timm says of the weights of a name, or of the architecture where it has none."""
    timm = import_extra("timm", "timm", f"The model {name}")
    known = name.removeprefix(TIMM)
    architecture, dot, tag = known.partition(".")
    if known.startswith(_ON_THE_HUB):
        plain = known.rpartition("/")[2]
        is_known = timm.is_model(plain.partition(".")[0])
        raise InputError(
            f"{name} names a repository of the hub, from which networks of timm are not loaded.",
            hint=f"Name it as timm does: {TIMM}{plain}."
            if is_known
            else f"Name its architecture, as {TIMM}resnet18, and its file with {param('weights')}.",
        )
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(known.lower(), timm.list_models(), n=2)
        meant = f" (did you mean {' or '.join(f'{TIMM}{one}' for one in near)}?)" if near else ""
        raise InputError(
            f"timm {timm.__version__} has no model {known!r}{meant}.",
            hint="https://huggingface.co/timm has the networks of the newest version.",
        )
    tagged = [one for one in timm.list_pretrained(f"{architecture}.*") if one.split(".")[0] == architecture]
    if dot and known not in tagged:
        hint = f"It has {first_few(f'{TIMM}{one}' for one in tagged)}." if tagged else "It has none of that network."
        raise InputError(f"timm {timm.__version__} has no weights {tag!r} of {architecture}.", hint=hint)
    found = timm.models.get_pretrained_cfg(known)
    config: dict[str, Any] = {"num_classes": _IMAGENET_CLASSES, **({} if found is None else found.to_dict())}
    return {**config, **timm.data.resolve_data_config(pretrained_cfg=config, verbose=False)}


def timm_preprocessing(name: str, pretrained: dict[str, Any]) -> Preprocessing:
    """The preprocessing that a pretrained configuration of timm describes.

    Raises:
        InputError: timm is not installed, or the configuration cannot be used.
    """
    timm = import_extra("timm", "timm", f"The model {name}")
    try:
        return _preprocessing(name, timm.data.resolve_data_config(pretrained_cfg=pretrained, verbose=False))
    except Exception as error:  # whatever is in the configuration
        raise InputError(f"The pretrained_cfg of {name} cannot be used: {first_line(error)}.") from error


def _preprocessing(name: str, config: Mapping[str, Any]) -> Preprocessing:
    """What ``timm.data.create_transform`` does with an image for evaluation."""
    height, width = config["input_size"][1:]
    share = config["crop_pct"]
    scaled = math.floor(height / share), math.floor(width / share)
    if config["crop_mode"] == "border":
        warn(
            f"timm puts a border around images for {name} that makes them square, which is not done here: the middle "
            "square is taken, so accuracies differ from those of timm where images are not square."
        )
    keeps_shape = config["crop_mode"] != "squash" and height == width
    return Preprocessing(
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resize=scaled[0] if keeps_shape else scaled,
        crop=(height, width),
        interpolation=parse_interpolation(config["interpolation"]),
    )


def _address(config: Mapping[str, Any]) -> str | None:
    """Where timm has the weights: the page of a repository, or a file; None if it has none."""
    if config.get("hf_hub_id"):
        return hub_address(config["hf_hub_id"])
    return config.get("url") or None


def _build(name: str, num_classes: int, *, is_sized: bool, input_size: Size, pretrained: bool = False) -> nn.Module:
    import timm

    sized: dict[str, Any] = {"img_size": input_size} if is_sized else {}
    try:
        module: nn.Module = timm.create_model(name.removeprefix(TIMM), num_classes=num_classes, **sized)
    except Exception as error:  # timm asserts that windows and patches go into the size
        shown = "x".join(map(str, input_size))
        raise InputError(
            f"timm cannot build {name} for images of {shown} pixels: {first_line(error)}.",
            hint=f"{param('input_size')} takes another size.",
        ) from error
    return module


def _fetched(name: str, config: Mapping[str, Any], features_only: bool, allow_download: bool) -> Checkpoint:
    """The default weights, as timm puts them into the network of the size that they were trained with."""
    import timm

    address = _address(config)
    assert address is not None
    if config["num_classes"] == 0 and not features_only:
        raise InputError(
            f"The weights of {name} at {address} are of a network without a classifier.",
            hint=f"{param('features_only')} takes its features, for 'decompose sparsify'; {param('weights')} takes "
            "weights that were trained on classes.",
        )
    path = _weights_file(config, address, allow_download)
    _refuse_unsafe(name, timm.__version__)
    is_own_format = not config.get("hf_hub_id") and bool(config.get("custom_load"))
    overlay = {"file": str(path), "custom_load": is_own_format}
    without: dict[str, Any] = {"num_classes": 0} if features_only else {}
    try:
        module = timm.create_model(name.removeprefix(TIMM), pretrained=True, pretrained_cfg_overlay=overlay, **without)
    except Exception as error:  # a damaged file can raise nearly anything
        raise InputError(
            f"timm cannot read the weights of {name} in {path}: {first_line(error)}.",
            hint="Delete the file to fetch it again.",
        ) from error
    return Checkpoint(address, sha256_of(path), dict(module.state_dict()))


def _refuse_unsafe(name: str, version: str) -> None:
    """Refuse a timm that runs the code in a file of weights."""
    if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < _SAFE:
        raise InputError(
            f"timm {version} would run code that is in the weights of {name}; "
            f"timm {'.'.join(map(str, _SAFE))} does not.",
            hint="Upgrade the package timm.",
        )


def _weights_file(config: Mapping[str, Any], address: str, allow_download: bool) -> Path:
    repository = config.get("hf_hub_id")
    if not repository:
        return fetched_file(address, allow_download=allow_download)
    names = [config["hf_hub_filename"]] if config.get("hf_hub_filename") else _FILES
    for file in names:
        path = hub_file(repository, file, allow_download=allow_download)
        if path is not None:
            return path
    raise DownloadError(f"{address} has none of the files {', '.join(names)}.")


def _interpolated(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Interpolate, as timm does, the tables of positions that were trained with images of another size.

    Args:
        state: Weights by name.
        module: The network that they are for.
    """
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    others = {name: value for name, value in state.items() if name in shapes and value.shape != shapes[name]}
    fit: Any = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if not others or fit is None:
        return dict(state)
    try:
        made: dict[str, Tensor] = fit(dict(others), module)
    except Exception:  # the function is for other weights; that these do not fit is said with their names
        return dict(state)
    fitting = {name: made[name] for name in others if name in made and made[name].shape == shapes[name]}
    if fitting:
        note(f"The weights are of another size of images: {first_few(fitting)} are interpolated, as timm does.")
    return {**state, **fitting}
