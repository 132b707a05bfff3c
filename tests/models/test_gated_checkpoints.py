"""Weights of gated networks: recognised by their names, made from plain ones, and used with units skipped."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.errors import InputError
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.gate_kinds import GATES, ORIGINAL_SCALE, gate_shown_by
from decompose_cli.models.gated_resnet import StageGatedResNet, UnitGatedResNet, from_plain
from decompose_cli.models.gates import Reading
from decompose_cli.models.registry import get_entry
from decompose_cli.models.tracing import penultimate
from decompose_cli.preprocessing import CIFAR, CIFAR_OF_GATES

SIZE = (32, 32)
BLOCK_LEVEL = [name for name, kind in GATES.items() if kind.level == "block"]
UNIT_NAMES = [name for name, kind in GATES.items() if kind.level == "layer"]
IN_THE_ORIGINAL = {"entropy-classifier": {"gate_map": "original"}, "entropy-classifier-b3b2": {"gate_map": "plain"}}


def settled(module: nn.Module) -> nn.Module:
    """Weights and statistics that are not those of the beginning."""
    generator = torch.Generator().manual_seed(5)
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            noise = torch.rand(buffer.shape, generator=generator)
            buffer.copy_(noise + 0.5 if name.endswith("var") else noise * 0.2)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def made(gate: str, depth: int = 14, classes: int = 10, block: Any = "basic", **more: Any) -> Any:
    torch.manual_seed(2)
    kind = StageGatedResNet if GATES[gate].level == "block" else UnitGatedResNet
    return settled(kind(depth, classes, gate=gate, block=block, **more))


def images(count: int = 6, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(8))


def published(gate: str, path: str = "model_best.pth.tar", prefix: str = "module.", **more: Any) -> Any:
    """A checkpoint as the original's commands write it, and the network that it is of."""
    original: dict[str, Any] = {}
    if gate == "entropy-classifier":
        original = {"gate_map": "original"}
    elif gate == "entropy":
        original = {"gate_map": "plain-10"}
    elif "gate_scale" in GATES[gate].details:
        original = {"gate_scale": float(ORIGINAL_SCALE)}
    module = made(gate, **more, **original)
    state = {prefix + name: value for name, value in module.state_dict().items()}
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9).state_dict()
    torch.save({"epoch": 333, "state_dict": state, "acc": 93.5, "optimizer": optimizer}, path)
    return module


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("gate", GATES)
def test_published_checkpoints_are_loaded_as_what_they_are(
    gate: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    module = published(gate, prefix=prefix)
    if gate == "shortcut":  # its weights look like those of exclusive gates
        classifier = open_classifier("resnet14", "model_best.pth.tar", options={"gate": "shortcut"})
    else:
        classifier = open_classifier("resnet14", "model_best.pth.tar")
    assert classifier.entry.chosen["gate"] == gate
    assert CIFAR.overridden(classifier.image_options) == CIFAR_OF_GATES
    assert classifier.entry.chosen["shortcut"] == "projection"
    network = classifier.load(SIZE)
    with torch.no_grad():
        assert torch.equal(network.module(images()), module(images()))
        features = penultimate(network.module, network.module.fc, images())  # type: ignore[arg-type]
        torch.testing.assert_close(module.fc(features), module(images()))
    assert (network.head.name, network.tensors.num_features) == ("fc", 64)


def test_published_checkpoints_have_the_maps_scales_and_constants_of_the_original() -> None:
    for gate, expected in {
        "entropy-classifier": {"gate_map": "original"},
        "entropy-classifier-b3b2": {"gate_map": "plain"},
        "entropy": {"gate_map": "plain-10"},
        "l2": {},
        "exclusive-tube-3x3": {"gate_scale": "0.0001"},
    }.items():
        published(gate)
        classifier = open_classifier("resnet14", "model_best.pth.tar")
        assert classifier.entry.chosen == {"shortcut": "projection", "gate": gate, **expected}
        assert CIFAR.overridden(classifier.image_options) == CIFAR_OF_GATES
    plain = CifarResNet(14, shortcut="projection")
    torch.save(plain.state_dict(), "plain.pt")
    assert CIFAR.overridden(open_classifier("resnet14", "plain.pt").image_options) == CIFAR


@pytest.mark.parametrize("gate", ["entropy-classifier", "exclusive", "entropy"])
def test_bottlenecks_are_recognised_too(gate: str) -> None:
    module = published(gate, depth=20, block="bottleneck")
    classifier = open_classifier("resnet20", "model_best.pth.tar")
    assert classifier.entry.chosen["block"] == "bottleneck"
    network = classifier.load(SIZE)
    with torch.no_grad():
        assert torch.equal(network.module(images()), module(images()))
    assert network.tensors.num_features == 256


@pytest.mark.parametrize(("name", "depth"), [("resnet20", 20), ("resnet29", 29), ("resnet164", 164)])
def test_published_bottlenecks_with_two_way_gates_give_the_residual_alone(
    name: str, depth: int, caplog: pytest.LogCaptureFixture
) -> None:
    # The original's bottlenecks compute their gates, of one shape for numbers and tubes, and give relu(F(x)).
    caplog.set_level(logging.INFO)
    module = made("exclusive-element-1x1", depth=depth, block="bottleneck")
    torch.save({"state_dict": module.state_dict()}, "model_best.pth.tar")
    state = module.state_dict()
    classifier = open_classifier(name, "model_best.pth.tar")
    assert classifier.entry.chosen["gate_output"] == "residual"
    said = "shows gate_output: 'residual' is taken, as in published networks; model_options gate_output=mixed takes"
    assert any(said in message for message in caplog.messages)
    mixed = open_classifier(name, "model_best.pth.tar", options={"gate_output": "mixed", "gate_scale": "1"})
    x = images(2)
    with torch.no_grad():
        assert torch.equal(mixed.load(SIZE).module(x), module(x))
        torch.testing.assert_close(classifier.load(SIZE).module(x), chain_of_residuals(state, x), rtol=1e-4, atol=1e-4)
    assert mixed.identity != classifier.identity
    for wrong in ("exclusive-tube-1x1", "exclusive-tube-3x3"):
        with pytest.raises(InputError, match=f"are of gate exclusive-element-1x1, not {wrong}"):
            open_classifier(name, "model_best.pth.tar", options={"gate": wrong})


def chain_of_residuals(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Bottlenecks without shortcuts, written out."""

    def step(x: Tensor, conv: str, bn: str, **more: int) -> Tensor:
        parts = [state[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(F.conv2d(x, state[f"{conv}.weight"], **more), *parts))

    x = step(x, "conv1", "bn1", padding=1)
    units = {tuple(map(int, name[5:].split(".")[:2])) for name in state if name.startswith("layer")}
    for stage, number in sorted(units):
        unit = f"layer{stage}.{number}"
        x = step(x, f"{unit}.conv1", f"{unit}.bn1")
        x = step(x, f"{unit}.conv2", f"{unit}.bn2", padding=1, stride=2 if stage > 1 and number == 0 else 1)
        x = step(x, f"{unit}.conv3", f"{unit}.bn3")
    return x.mean((2, 3)) @ state["fc.weight"].t() + state["fc.bias"]


def test_tubes_in_bottlenecks_are_ours() -> None:
    # No published network has gates of this shape in bottlenecks, so nothing but the mixture can be meant.
    module = made("exclusive-tube-3x3", depth=20, block="bottleneck")
    torch.save(module.state_dict(), "own.pt")
    found = open_classifier("resnet20", "own.pt", options={"gate_scale": "1"})
    with torch.no_grad():
        assert torch.equal(found.load(SIZE).module(images()), module(images()))


def test_blocks_are_recognised_either_way_and_only_where_the_depth_allows_them() -> None:
    torch.save(made("l2", depth=164, input_size=(32, 32)).state_dict(), "basic.pt")
    classifier = open_classifier("resnet164", "basic.pt")
    assert classifier.entry.chosen["block"] == "basic"
    classifier.load(SIZE)
    torch.save(CifarResNet(20, shortcut="projection", block="bottleneck").state_dict(), "bottleneck.pt")
    assert open_classifier("resnet20", "bottleneck.pt").load(SIZE).tensors.num_features == 256
    with pytest.raises(InputError, match=r"bottleneck.pt does not fit resnet32: ") as refusal:
        open_classifier("resnet32", "bottleneck.pt").load(SIZE)
    assert refusal.value.hint is not None
    assert "resnet20" in refusal.value.hint


def test_weights_that_say_of_another_network_what_they_are() -> None:
    torch.manual_seed(0)
    entry = get_entry("resnet14").configured(gate="entropy-classifier")
    metadata = Metadata(model="resnet14", num_classes=10, model_options=entry.chosen)
    write_checkpoint(Path("own.safetensors"), entry.make(10, SIZE).state_dict(), metadata)
    classifier = open_classifier("resnet20", "own.safetensors")
    assert classifier.entry.chosen["gate_map"] == "stretched", "as the file says, not as its names would let one guess"
    with pytest.raises(InputError, match="does not fit resnet20") as refusal:
        classifier.load(SIZE)
    assert refusal.value.hint == "The file says that it belongs to resnet14."


def test_another_gate_than_that_of_the_weights_is_refused() -> None:
    published("entropy-classifier")
    with pytest.raises(InputError, match=r"The weights in .* are of gate entropy-classifier, not l2"):
        open_classifier("resnet14", "model_best.pth.tar", options={"gate": "l2"})


def test_that_exclusive_gates_are_assumed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    published("shortcut")
    assert open_classifier("resnet14", "model_best.pth.tar").entry.chosen["gate"] == "exclusive"
    assert "its gate is exclusive or shortcut, which have the same weights: exclusive is assumed" in caplog.text


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("classes", [2, 7])
def test_a_gate_is_told_from_names_and_shapes(gate: str, classes: int) -> None:
    found = gate_shown_by(made(gate, classes=classes).state_dict())
    ambiguous = {"shortcut": "exclusive", **({"softmax": "entropy"} if classes == 2 else {})}
    assert found == ambiguous.get(gate, gate)
    assert gate_shown_by(CifarResNet(14).state_dict()) is None


def test_checkpoints_of_our_own_say_their_gate() -> None:
    entry = get_entry("resnet14").configured(gate="softmax", gate_loss="bce")
    assert entry.chosen == {"shortcut": "projection", "gate": "softmax", "gate_loss": "bce"}
    torch.manual_seed(0)
    module = settled(entry.make(2, SIZE))
    write_checkpoint(
        Path("own.safetensors"),
        module.state_dict(),
        Metadata(model="resnet14", num_classes=2, model_options=entry.chosen),
    )
    classifier = open_classifier(None, "own.safetensors")
    assert classifier.entry.chosen == entry.chosen
    with torch.no_grad():
        assert torch.equal(classifier.load(SIZE).module(images()), module(images()))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gate": "relu"}, "gate 'relu' is not known to resnet14; choose none, entropy-classifier, "),
        ({"gate": "l2", "shortcut": "identity"}, "Gated networks have projection shortcuts; leave shortcut identity"),
        ({"gate": "l2", "gate_map": "plain"}, "gate_map has no effect with gate l2; it is of entropy-classifier, "),
        ({"gate": "entropy", "gate_loss": "bce"}, "gate_loss has no effect with gate entropy; it is of softmax."),
        ({"gate": "exclusive", "gate_scale": "2"}, "gate_scale has no effect with gate exclusive; it is of "),
        ({"gate_scale": "2"}, "gate_scale has no effect without a gate; it is of exclusive-element-1x1, "),
        ({"gate": "exclusive-tube-1x1", "gate_scale": "0"}, "gate_scale 0 is not a positive number."),
        ({"gate": "exclusive-tube-1x1", "gate_scale": "nan"}, "gate_scale nan is not a positive number."),
        ({"gate": "exclusive-tube-1x1", "gate_scale": "s"}, "gate_scale 's' is not a number."),
        ({"block": "bottleneck"}, "block 'bottleneck' is not known to resnet14; choose basic."),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        get_entry("resnet14").configured(**options)
    assert refusal.value.message.startswith(sentence)


def test_bottlenecks_cannot_have_identity_shortcuts() -> None:
    with pytest.raises(InputError, match="Bottlenecks have projection shortcuts; leave shortcut identity out"):
        get_entry("resnet20").configured(block="bottleneck", shortcut="identity")
    assert get_entry("resnet164").configured(block="basic").chosen == {"block": "basic"}


def test_one_class_and_stages_of_one_unit_are_refused() -> None:
    entry = get_entry("resnet14").configured(gate="l2")
    with pytest.raises(InputError, match="A gate needs at least 2 classes to choose between, and there is 1"):
        entry.make(1, SIZE)
    with pytest.raises(InputError, match="resnet8 has stages of one unit, and gate l2 needs a first and a last one"):
        get_entry("resnet8").configured(gate="l2").make(10, SIZE)
    assert len(list(get_entry("resnet8").configured(gate="exclusive").make(10, SIZE).gates())) == 3  # type: ignore[operator]


# -------------------------------------------------------------------------------------------------------- plain weights


class Open(nn.Module):
    """A gate that lets the last unit through alone."""

    def forward(self, maps: Tensor) -> Reading:
        return Reading(torch.ones(len(maps)))


@pytest.mark.parametrize("gate", ["entropy-classifier", "entropy-classifier-b3b2", "l2"])
@pytest.mark.parametrize(("depth", "block"), [(14, "basic"), (110, "basic"), (110, "bottleneck")])
def test_with_its_gate_open_a_network_is_the_plain_one_it_began_with(gate: str, depth: int, block: Any) -> None:
    """110 layers are 18 units a stage: unit 10 and higher have numbers of two digits."""
    torch.manual_seed(3)
    plain = settled(CifarResNet(depth, 5, shortcut="projection", block=block))
    module = made(gate, depth, 5, block)
    before = {name: value.clone() for name, value in module.state_dict().items() if "g_layer" in name}
    missing, unexpected = module.load_state_dict(from_plain(plain.state_dict(), module), strict=False)
    assert set(missing) == set(before)
    assert not unexpected
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    for name in ("g_layer", "g_layer_b2", "g_layer_b3"):
        if hasattr(module, name):
            setattr(module, name, Open())
    with torch.no_grad():
        torch.testing.assert_close(module(images(2)), plain(images(2)))


@pytest.mark.parametrize("gate", UNIT_NAMES)
def test_gates_in_units_leave_the_names_of_the_plain_network(gate: str) -> None:
    torch.manual_seed(3)
    plain = settled(CifarResNet(14, 5, shortcut="projection"))
    module = made(gate, 14, 5)
    missing, unexpected = module.load_state_dict(from_plain(plain.state_dict(), module), strict=False)
    assert all(".gate_layer." in name for name in missing)
    assert (len(missing), unexpected) == (2 * 6, [])


# ------------------------------------------------------------------------------------------------------------- skipping


@pytest.mark.parametrize("gate", BLOCK_LEVEL)
def test_skipping_gives_o1_where_g_is_below_and_does_not_run_the_rest(gate: str) -> None:
    module = made(gate, classes=4, input_size=(16, 16)).double()
    x = images(9, 16).double()
    with torch.no_grad():
        full = module.read(x)
        inner = torch.cat([reading.g for reading in full.readings]).sort().values[3:5]
        below = float(inner.mean())  # between two of them, so that rounding does not decide
        found = module.read(x, below)
        stages = module._gated_stages()
        # One image after the other, by a twin that knows only units and gates.
        for number in range(len(x)):
            maps = module.layer1(torch.relu(module.bn1(module.conv1(x[number : number + 1]))))
            if len(stages) == 1:
                maps = module.layer2(maps)
            for first, middle, last, own in stages:
                o1 = first(maps)
                o2 = last(middle(o1))
                g = float(own(o1 if GATES[gate].reads_first else o2).g)
                maps = o1 if g < below else g * o2 + (1 - g) * o1
            torch.testing.assert_close(found.logits[number], module.fc(maps.mean((2, 3)))[0])
    skipped = [int((reading.g < below).sum()) for reading in found.readings]
    assert 0 < sum(skipped) < len(x) * len(stages)
    ran: dict[int, int] = {}
    for number, (_, _, last, _) in enumerate(stages):
        last.register_forward_hook(lambda _m, given, _o, n=number: ran.__setitem__(n, len(given[0])))
    with torch.no_grad():
        module.read(x, below)
    expected = [len(x) - count if GATES[gate].reads_first else len(x) for count in skipped]
    assert [ran.get(number, 0) for number in range(len(stages))] == expected


def test_nobody_and_everybody_skipped() -> None:
    module = made("l2", classes=4, input_size=(16, 16))
    x = images(5, 16)
    with torch.no_grad():
        assert torch.equal(module.read(x, 1e-9).logits, module.read(x).logits)
        maps = module.o1(module.layer2(module.layer1(torch.relu(module.bn1(module.conv1(x))))))
        torch.testing.assert_close(module.read(x, 1.0).logits, module.fc(maps.mean((2, 3))))
