"""Gated networks against twins that are written out in float64, their parameters and their names."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models.gate_kinds import GATES
from decompose_cli.models.gated_resnet import Gated, StageGatedResNet, UnitGatedResNet
from decompose_cli.models.gates import from_entropy

BLOCK_LEVEL = [name for name, kind in GATES.items() if kind.level == "block"]
LAYER_LEVEL = [name for name, kind in GATES.items() if kind.level == "layer"]
CLASSES, SIDE = 4, 16


def network(gate: str, depth: int = 14, block: str = "basic", **more: Any) -> StageGatedResNet | UnitGatedResNet:
    torch.manual_seed(0)
    if GATES[gate].level == "block":
        made: Any = StageGatedResNet(depth, CLASSES, gate=gate, block=block, input_size=(SIDE, SIDE), **more)
    else:
        made = UnitGatedResNet(depth, CLASSES, gate=gate, block=block, **more)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):  # so that no term is zero by chance
            nn.init.normal_(parameter, std=0.3)
    return made.double().train()


class Twin:
    """The same functions of the same parameters, one operation after the other."""

    def __init__(self, module: nn.Module) -> None:
        self.p = {name: value.detach().clone().requires_grad_() for name, value in module.named_parameters()}

    def bn(self, x: Tensor, name: str) -> Tensor:
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
        y = (x - mean) / (variance + 1e-5) ** 0.5
        return y * self.p[f"{name}.weight"][:, None, None] + self.p[f"{name}.bias"][:, None, None]

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.p[f"{name}.weight"]
        bias = self.p.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)

    def parts(self, x: Tensor, name: str, stride: int) -> tuple[Tensor, Tensor]:
        """Residual and shortcut."""
        if f"{name}.conv3.weight" in self.p:
            out = torch.clamp(self.bn(self.conv(x, f"{name}.conv1"), f"{name}.bn1"), min=0)
            out = torch.clamp(self.bn(self.conv(out, f"{name}.conv2", stride), f"{name}.bn2"), min=0)
            out = self.bn(self.conv(out, f"{name}.conv3"), f"{name}.bn3")
        else:
            out = torch.clamp(self.bn(self.conv(x, f"{name}.conv1", stride), f"{name}.bn1"), min=0)
            out = self.bn(self.conv(out, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in self.p:
            x = self.bn(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return out, x

    def unit(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        residual, shortcut = self.parts(x, name, stride)
        return torch.clamp(residual + shortcut, min=0)

    def linear(self, x: Tensor, name: str, *, held: bool = False) -> Tensor:
        weight, bias = self.p[f"{name}.weight"], self.p[f"{name}.bias"]
        return x @ (weight.detach() if held else weight).T + (bias.detach() if held else bias)

    def two(self, x: Tensor, name: str, *, held: bool = False) -> Tensor:
        return self.linear(self.linear(x, f"{name}.0", held=held), f"{name}.1", held=held)

    def stem(self, x: Tensor) -> Tensor:
        return torch.clamp(self.bn(self.conv(x, "conv1"), "bn1"), min=0)


def shares(scores: Tensor) -> Tensor:
    exponentials = scores.exp()
    return exponentials / exponentials.sum(1, keepdim=True)


def entropy(scores: Tensor) -> Tensor:
    p = shares(scores)
    return -(p * p.log()).sum(1)


def mean(maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


def plain_map(h: Tensor) -> Tensor:
    return 1 / (1 + (-(h - math.log(CLASSES) / 2)).exp())


def stretched_map(h: Tensor) -> Tensor:
    return 1 / (1 + (-(8 / 2.3) * (math.log(10) / math.log(CLASSES)) * (h - math.log(CLASSES) / 2)).exp())


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    return -shares(scores).log()[torch.arange(len(labels)), labels].sum()


def twin_of_stages(
    twin: Twin, gate: str, x: Tensor, labels: Tensor, weight: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits, what is minimised (sums over images), and g of each gate."""
    extra = torch.zeros((), dtype=torch.float64)
    x = twin.stem(x)
    for unit in (0, 1):
        x = twin.unit(x, f"layer1.{unit}")
    stages = [("o1", "o2", "g_layer")]
    if gate == "entropy-classifier-b3b2":
        stages = [("o21", "o22", "g_layer_b2"), ("o31", "o32", "g_layer_b3")]
    else:
        for unit in (0, 1):
            x = twin.unit(x, f"layer2.{unit}", 2 - unit)
    gates = []
    for first, last, name in stages:
        o1 = twin.unit(x, first, 2)
        o2 = twin.unit(o1, last)
        if gate.startswith("entropy-classifier"):
            seen = mean(o2 if gate == "entropy-classifier" else o1)
            g = (stretched_map if gate == "entropy-classifier" else plain_map)(entropy(twin.two(seen, name, held=True)))
            extra = extra + cross_entropy(twin.two(seen.detach(), name), labels)
        else:
            scores = twin.two(o1.flatten(1), name)
            if gate == "entropy":
                g = plain_map(entropy(scores))
            elif gate == "l2":
                g = 1 / (1 + (-scores[:, 0]).exp())
                extra = extra + weight * (g**2).sum()
            else:
                g = shares(scores)[:, 1]
                extra = extra - weight * shares(scores)[:, 0].log().sum()
        gates.append(g)
        x = g[:, None, None, None] * o2 + (1 - g)[:, None, None, None] * o1
    logits = twin.linear(mean(x), "fc")
    return logits, cross_entropy(logits, labels) + extra, gates


def twin_of_units(
    twin: Twin, gate: str, x: Tensor, labels: Tensor, weight: float, scale: float, *, residual_only: bool = False
) -> tuple[Tensor, Tensor, list[Tensor]]:
    x = twin.stem(x)
    penalties, gates = [], []
    for stage in (1, 2, 3):
        for unit in (0, 1):
            name, stride = f"layer{stage}.{unit}", 2 if stage > 1 and unit == 0 else 1
            scores = twin.conv(x, f"{name}.gate_layer", stride)
            residual, shortcut = twin.parts(x, name, stride)
            if gate in ("exclusive", "shortcut"):
                g = 1 / (1 + (-scores).exp())
                penalties.append((g**2).mean((1, 2, 3)))
            else:
                half = scores.shape[1] // 2
                pair = torch.stack([scores[:, :half], scores[:, half:]], 1)
                g = (scale * pair).softmax(1)[:, 0]
                penalties.append(-pair.log_softmax(1)[:, 1].mean((1, 2, 3)))
            gates.append(g)
            mixture = (residual if gate == "shortcut" else g * residual) + (1 - g) * shortcut
            x = torch.clamp(residual if residual_only else mixture, min=0)
    logits = twin.linear(mean(x), "fc")
    return logits, cross_entropy(logits, labels) + weight * torch.stack(penalties).mean(0).sum(), gates


def objective(found: Gated, labels: Tensor, weight: float) -> Tensor:
    """As training minimises it."""
    total = F.cross_entropy(found.logits, labels, reduction="sum")
    for reading in found.readings:
        if reading.logits is not None:
            total = total + F.cross_entropy(reading.logits, labels, reduction="sum")
    penalties = [reading.penalty for reading in found.readings if reading.penalty is not None]
    return total + weight * torch.stack(penalties).mean(0).sum() if penalties else total


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("gate", [*BLOCK_LEVEL, *LAYER_LEVEL])
def test_outputs_gates_penalties_and_gradients_are_those_of_the_twin(gate: str, block: str) -> None:
    more = {"gate_scale": 0.7} if "gate_scale" in GATES[gate].details else {}
    module = network(gate, 14 if block == "basic" else 20, block, **more)
    twin = Twin(module)
    torch.manual_seed(1)
    x, labels = torch.randn(5, 3, SIDE, SIDE).double(), torch.tensor([0, 1, 2, 3, 0])
    found = module(x)
    assert isinstance(found, Gated)
    if GATES[gate].level == "block":
        logits, total, gates = twin_of_stages(twin, gate, x, labels, 0.3)
    else:
        logits, total, gates = twin_of_units(twin, gate, x, labels, 0.3, 0.7)
    torch.testing.assert_close(found.logits, logits, rtol=1e-9, atol=1e-9)
    assert len(found.readings) == len(gates)
    for reading, g in zip(found.readings, gates, strict=True):
        torch.testing.assert_close(reading.g, g, rtol=1e-9, atol=1e-9)
        assert bool(((reading.g > 0) & (reading.g < 1)).all())
    ours = objective(found, labels, 0.3)
    torch.testing.assert_close(ours, total, rtol=1e-9, atol=1e-9)
    ours.backward()
    total.backward()
    for name, parameter in module.named_parameters():
        expected = twin.p[name].grad
        assert expected is not None, name
        assert parameter.grad is not None, name
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-7, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("gate", [name for name in LAYER_LEVEL if "gate_output" in GATES[name].details])
def test_units_that_give_their_residual_alone_learn_nothing_of_the_shortcut(gate: str) -> None:
    module = network(gate, 20, "bottleneck", gate_output="residual")
    twin = Twin(module)
    torch.manual_seed(1)
    x, labels = torch.randn(5, 3, SIDE, SIDE).double(), torch.tensor([0, 1, 2, 3, 0])
    found = module(x)
    logits, total, gates = twin_of_units(twin, gate, x, labels, 0.3, 1.0, residual_only=True)
    torch.testing.assert_close(found.logits, logits, rtol=1e-9, atol=1e-9)
    for reading, g in zip(found.readings, gates, strict=True):
        torch.testing.assert_close(reading.g, g, rtol=1e-9, atol=1e-9)
    objective(found, labels, 0.3).backward()
    total.backward()
    for name, parameter in module.named_parameters():
        expected = twin.p[name].grad
        expected = torch.zeros_like(parameter) if "downsample" in name else expected
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("output", ["mixed", "residual"])
def test_the_loss_of_the_network_alone_gives_every_parameter_a_gradient(output: str) -> None:
    # Training in several processes waits for all of them, and `finetune` has no penalties of gates.
    module = network("exclusive-element-1x1", 20, "bottleneck", gate_output=output)
    logits = module(torch.randn(2, 3, SIDE, SIDE).double()).logits
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("gate", ["entropy-classifier", "entropy-classifier-b3b2"])
def test_gate_and_backbone_learn_from_their_own_losses_only(gate: str) -> None:
    module = network(gate)
    x, labels = torch.randn(5, 3, SIDE, SIDE).double(), torch.tensor([0, 1, 2, 3, 0])
    of_gate = {f"{name}" for name, _ in module.named_parameters() if name.startswith("g_layer")}
    F.cross_entropy(module(x).logits, labels).backward()
    assert all((parameter.grad is None) is (name in of_gate) for name, parameter in module.named_parameters())
    module.zero_grad()
    for reading in module(x).readings:
        F.cross_entropy(reading.logits, labels).backward()
    assert all((parameter.grad is not None) is (name in of_gate) for name, parameter in module.named_parameters())


@pytest.mark.parametrize(
    ("gate", "parameters"),
    [
        ("entropy-classifier", 1_769_124),
        ("entropy-classifier-b3b2", 1_778_422),
        ("entropy", 3_833_508),
        ("l2", 3_828_891),
        ("softmax", 3_829_404),
        ("exclusive", 1_826_938),
        ("shortcut", 1_826_938),
        ("exclusive-element-1x1", 1_923_162),
        ("exclusive-tube-1x1", 1_734_758),
        ("exclusive-tube-3x3", 1_766_246),
    ],
)
def test_parameters_at_depth_110(gate: str, parameters: int) -> None:
    with torch.device("meta"):
        module = (StageGatedResNet if GATES[gate].level == "block" else UnitGatedResNet)(110, gate=gate)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters


def test_names_are_those_of_the_original() -> None:
    names = set(StageGatedResNet(20).state_dict())
    assert {
        "o1.downsample.0.weight",
        "layer3.0.conv1.weight",
        "o2.bn2.running_var",
        "g_layer.1.bias",
        "fc.bias",
    } <= names
    assert not any(name.startswith("layer3.1.") for name in names)
    names = set(StageGatedResNet(20, gate="entropy-classifier-b3b2").state_dict())
    assert {"o21.conv1.weight", "layer2.0.conv1.weight", "o22.conv1.weight", "g_layer_b2.0.weight"} <= names
    assert {"o31.downsample.1.weight", "o32.conv1.weight", "g_layer_b3.1.weight"} <= names
    assert "layer1.0.gate_layer.bias" in UnitGatedResNet(8).state_dict()


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_maps_of_the_entropy(classes: int) -> None:
    h = torch.linspace(0, math.log(classes), 7, dtype=torch.float64)
    stretched, plain = from_entropy(h, classes, "stretched"), from_entropy(h, classes, "plain")
    assert float(stretched[0]) == pytest.approx(1 / (1 + math.exp(4 * math.log(10) / 2.3)), rel=1e-9)
    assert float(stretched[3]) == pytest.approx(0.5) == float(plain[3])
    torch.testing.assert_close(stretched + stretched.flip(0), torch.ones(7).double())
    if classes in (10, 100):
        original = {10: 2.3026, 100: 4.6052}[classes] / 2
        expected = 1 / (1 + (-((h - original + 1.15) * 8 / 2.3 - 4)).exp())
        torch.testing.assert_close(from_entropy(h, classes, "original"), expected)
