"""Networks of transformers by the name of a folder or of a repository."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import decompose_cli as dc
from decompose_cli.errors import DownloadError, InputError
from decompose_cli.models.classifier import find_entry, open_classifier
from helpers.command_line import FAILED, REFUSED, document_of, refused, run
from helpers.hub import local_hub
from helpers.plain_loop import CLASSES, check_commands, opened, picture_folder, settle_averages

transformers = pytest.importorskip("transformers")

NAMES = dict(enumerate(reversed(CLASSES)))  # not in the order of the folders


def resnet() -> tuple[Any, Any]:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", id2label=NAMES
    )
    return config, transformers.ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875, resample=3)


def vit() -> tuple[Any, Any]:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=32,
        patch_size=8,
        id2label=NAMES,
    )
    return config, transformers.ViTImageProcessor(size={"height": 32, "width": 32})


def convnext() -> tuple[Any, Any]:
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, layer_scale_init_value=1.0, id2label=NAMES
    )
    processor = transformers.ConvNextImageProcessor(
        size={"shortest_edge": 32}, crop_pct=1.0, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    return config, processor


def saved(folder: Path, make: Callable[[], tuple[Any, Any]]) -> Path:
    """A folder as ``save_pretrained`` writes it, of a network with random weights."""
    config, processor = make()
    torch.manual_seed(0)
    module = transformers.AutoModelForImageClassification.from_config(config)
    settle_averages(module, torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    module.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def loop_of(folder: Path) -> Callable[[Image.Image], tuple[Tensor, Tensor]]:
    """A loop with the network and the image processor of transformers."""
    module = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    head = module.classifier[-1] if isinstance(module.classifier, torch.nn.Sequential) else module.classifier

    def one(image: Image.Image) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        with torch.no_grad():
            logits = module(**processor(images=[image], return_tensors="pt")).logits
        handle.remove()
        return seen[0], logits

    return one


@pytest.mark.slow
@pytest.mark.parametrize("make", [resnet, vit, convnext])
def test_commands_against_a_plain_loop(tmp_path: Path, make: Callable[[], tuple[Any, Any]]) -> None:
    folder = saved(tmp_path / "network", make)
    side = 32  # of the resize, so that nothing is rounded on the way
    pictures = picture_folder(tmp_path / "pictures", side)
    check_commands([f"hf:{folder}", "-w", "default"], [], pictures, loop_of(folder), list(NAMES.values()))
