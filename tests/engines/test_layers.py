"""``layers``: with weights the network that is listed is theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.command_line import refused, run

from decompose_cli.engines.layers import Layer, Layers, list_layers
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.registry import get_entry


def head_of(listed: Layers) -> Layer:
    (head,) = [layer for layer in listed.layers if layer.is_head]
    return head


def test_weights_say_which_network_is_listed() -> None:
    entry = get_entry("resnet14").configured(shortcut="projection")
    state = entry.make(7, (32, 32)).state_dict()
    about = Metadata(model="resnet14", num_classes=7, model_options={"shortcut": "projection"}, crop=[16, 24])
    write_checkpoint(Path("net.safetensors"), state, about)
    listed = list_layers(weights="net.safetensors")
    assert (listed.model, listed.input_size, listed.refusal) == ("resnet14", (16, 24), None)
    assert head_of(listed).output_shape == (7,)
    assert "layer2.0.downsample" in [layer.name for layer in listed.layers]
    assert "layer2.0.downsample" not in [layer.name for layer in list_layers("resnet14").layers]
    torch.save(state, "plain.pth")
    assert head_of(list_layers("resnet14", weights="plain.pth")).output_shape == (7,)
    assert head_of(list_layers("resnet14")).output_shape == (10,)


def test_a_decomposed_head_of_weights_is_the_head() -> None:
    module = get_entry("resnet14").make(5, (32, 32))
    module.linear = DecomposedLinear([[c, c + 5] for c in range(5)], 64)
    torch.nn.init.normal_(module.linear.weight)
    write_checkpoint(Path("net.safetensors"), module.state_dict(), Metadata(model="resnet14", num_classes=5))
    head = head_of(list_layers(weights="net.safetensors"))
    assert (head.name, head.kind, head.output_shape) == ("linear", "DecomposedLinear", (5,))
    assert "net.safetensors" not in run("layers", "-w", "net.safetensors").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["-w", "missing.pt"], 2, "The weights file missing.pt does not exist"),
        (["resnet50", "-w", "default", "--no-download"], 1, "are not on this machine and downloads are off"),
        (["resnet14", "-w", "other.pth"], 2, "other.pth"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(arguments: list[str], code: int, sentence: str) -> None:
    torch.save({"weight": torch.zeros(3)}, "other.pth")
    refused(["layers", *arguments], code, sentence)
