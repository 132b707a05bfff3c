"""Networks of timm by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import decompose_cli as dc
from decompose_cli.datasets.transforms import image_to_tensor
from decompose_cli.errors import InputError
from decompose_cli.models.classifier import find_entry, open_classifier
from helpers.command_line import REFUSED, refused, run
from helpers.plain_loop import check_commands, opened, picture_folder, settle_averages

timm = pytest.importorskip("timm")

SMALL = "timm:test_resnet.r160_in1k"


def test_preprocessing_is_that_of_timms_own_transform() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 211, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((422, 600))
    for name in ("resnet50.a1_in1k", "coat_lite_medium_384.in1k", "swin_tiny_patch4_window7_224.ms_in1k", "resnet18"):
        config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
        expected = timm.data.create_transform(**config)(image)
        own = find_entry(f"timm:{name}").preprocessing
        assert own is not None
        mean, std = (torch.tensor(values)[:, None, None] for values in (own.mean, own.std))
        made = (image_to_tensor(image, own) / 255 - mean) / std
        assert torch.allclose(made, expected, atol=1e-6), name


def loop_of(module: nn.Module, head: nn.Module, name: str) -> Any:
    """A loop over images that are as large as the network takes them."""
    config = timm.models.get_pretrained_cfg(name)

    def one(image: Image.Image) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1)))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
        with torch.no_grad():
            logits = module(((pixels - mean) / std)[None])
        handle.remove()
        return seen[0], logits

    return one


def compared(tmp_path: Path, name: str, side: int, **sized: Any) -> None:
    """Check the commands on a network with random weights, in a file, with four classes."""
    folder = picture_folder(tmp_path / "pictures", side)
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=4, **sized)
    images, _ = opened(folder, "train")
    settle_averages(module, torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) / 127.5 - 1 for i in images]))
    torch.save(module.state_dict(), "weights.pth")
    size = ["--input-size", str(side)]
    check_commands([f"timm:{name}", "-w", "weights.pth"], size, folder, loop_of(module, module.get_classifier(), name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "sized"),
    [
        ("resnet18", 64, {}),
        ("resnet50.a1_in1k", 64, {}),
        ("convnext_atto", 64, {}),
        ("efficientnet_b0", 64, {}),
        ("vit_tiny_patch16_224", 48, {"img_size": 48}),
        ("swin_tiny_patch4_window7_224", 56, {"img_size": 56}),
        ("regnety_002", 64, {}),
        ("mobilenetv3_small_050", 64, {}),
        ("maxvit_pico_rw_256", 64, {"img_size": 64}),
    ],
)
def test_commands_against_a_plain_loop(tmp_path: Path, name: str, side: int, sized: dict[str, Any]) -> None:
    compared(tmp_path, name, side, **sized)
