"""Averaged weights as other programs lay them out: each layout is taken, or spoken of, or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from decompose_cli.errors import InputError
from decompose_cli.models.averages import Averages, are_of, put_in_place
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.fitting import state_for
from decompose_cli.models.registry import get_entry

State = dict[str, Tensor]
Layout = Callable[[nn.Module, nn.Module], Any]


def networks() -> tuple[CifarResNet, CifarResNet]:
    """A network and its average, which also differ in their buffers."""
    torch.manual_seed(0)
    raw, averaged = CifarResNet(8), CifarResNet(8)
    for network in (raw, averaged):
        for buffer in network.buffers():
            buffer.copy_(torch.rand(buffer.shape) * 5)
    return raw, averaged


def loaded(path: Path, *, ema: bool = False) -> State:
    module: nn.Module = open_classifier("resnet8", str(path), ema=ema).load((32, 32)).module
    return module.state_dict()


def assert_same(state: State, parameters: nn.Module, buffers: nn.Module) -> None:
    expected = buffers.state_dict() | dict(parameters.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in state.items())


def tensors(network: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in network.parameters()]


def by_name(network: nn.Module) -> State:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def lit_ema(network: nn.Module) -> State:
    """The buffers of latent-diffusion's LitEma, whose names have no dots."""
    counters = {"decay": torch.tensor(0.999), "num_updates": torch.tensor(4)}
    return {**counters, **{name.replace(".", ""): value for name, value in by_name(network).items()}}


def torch_ema(network: nn.Module, collected: Any = None) -> dict[str, Any]:
    return {"decay": 0.99, "num_updates": 4, "shadow_params": tensors(network), "collected_params": collected}


ONLY_PARAMETERS: dict[str, tuple[Layout, str]] = {
    "torch_ema": (lambda r, a: {"model": r.state_dict(), "ema": torch_ema(a)}, "ema.shadow_params"),
    "torch_ema, collected": (
        lambda r, a: {"model": r.state_dict(), "ema": torch_ema(a, tensors(r))},
        "ema.shadow_params",
    ),
    "diffusers": (
        lambda r, a: {"state_dict": r.state_dict(), "shadow_params": tensors(a), "optimization_step": 4},
        "shadow_params",
    ),
    "a tuple": (lambda r, a: {"state_dict": r.state_dict(), "ema_params": tuple(tensors(a))}, "ema_params"),
    "a wrapped network": (
        lambda r, a: {"model": prefixed("module.", r.state_dict()), "ema": torch_ema(a)},
        "ema.shadow_params",
    ),
    "shadow by name": (
        lambda r, a: {"model": r.state_dict(), "ema": {"shadow": by_name(a), "backup": {}, "decay": 0.9}},
        "ema.shadow",
    ),
    "shadow and its backup": (
        lambda r, a: {"model": r.state_dict(), "ema": {"shadow": by_name(a), "backup": by_name(r)}},
        "ema.shadow",
    ),
    "in Lightning, by name": (
        lambda r, a: {"state_dict": prefixed("model.", r.state_dict()), "ema_state": prefixed("model.", by_name(a))},
        "ema_state",
    ),
    "LitEma beside": (lambda r, a: {"model": r.state_dict(), "model_ema": lit_ema(a)}, "model_ema"),
    "LitEma among": (
        lambda r, a: {
            "state_dict": {**prefixed("model.", r.state_dict()), **prefixed("model_ema.", lit_ema(a))},
        },
        "model_ema",
    ),
}
EVERYTHING: dict[str, tuple[Layout, str]] = {
    "NeMo": (
        lambda r, a: {"state_dict": r.state_dict(), "callbacks": {"EMA": {"ema_weights": [*a.state_dict().values()]}}},
        "callbacks.EMA.ema_weights",
    ),
    "AveragedModel": (
        lambda r, a: {"model": r.state_dict(), "model_ema": AveragedModel(a).state_dict()},
        "model_ema",
    ),
    "timm": (lambda r, a: {"state_dict": r.state_dict(), "state_dict_ema": a.state_dict()}, "state_dict_ema"),
    "Lightning's SWA": (
        lambda r, a: {
            "state_dict": prefixed("net.", r.state_dict()),
            "callbacks": {
                "StochasticWeightAveraging": {
                    "n_averaged": torch.tensor(3),
                    "average_model_state": prefixed("net.", a.state_dict()),
                }
            },
        },
        "callbacks.StochasticWeightAveraging.average_model_state",
    ),
    "ema-pytorch": (
        lambda r, a: {
            "initted": torch.tensor(True),
            "step": torch.tensor(9),
            **prefixed("online_model.", r.state_dict()),
            **prefixed("ema_model.", a.state_dict()),
        },
        "ema_model",
    ),
    "AveragedModel in Lightning": (
        lambda r, a: {
            "state_dict": {
                **prefixed("net.", r.state_dict()),
                **prefixed("net_ema.", AveragedModel(a).state_dict()),
            }
        },
        "net_ema",
    ),
    "student and teacher": (lambda r, a: {"student": r.state_dict(), "teacher": a.state_dict(), "epoch": 3}, "teacher"),
    "online and target": (
        lambda r, a: {"online": prefixed("module.", r.state_dict()), "target": a.state_dict()},
        "target",
    ),
    "without counters": (
        lambda r, a: {
            "model": r.state_dict(),
            "ema": {name: value for name, value in a.state_dict().items() if "tracked" not in name},
        },
        "ema",
    ),
}


@pytest.mark.parametrize("layout", [*ONLY_PARAMETERS, *EVERYTHING])
def test_raw_weights_are_taken_and_averages_on_request(layout: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    make, place = (ONLY_PARAMETERS | EVERYTHING)[layout]
    raw, averaged = networks()
    path = Path("net.pth")
    torch.save(make(raw, averaged), path)
    assert_same(loaded(path), raw, raw)
    said = [message for message in caplog.messages if "left off" not in message]
    assert said == [f"net.pth also holds other weights of this network ({place}); ema takes averaged ones."]
    caplog.clear()
    averages = {name: value for name, value in loaded(path, ema=True).items() if "tracked" not in name}
    assert_same(averages, averaged, averaged if layout in EVERYTHING else raw)
    assert not [message for message in caplog.messages if "left off" not in message]


def test_averages_among_the_names_of_a_safetensors_file() -> None:
    raw, averaged = networks()
    state = {**prefixed("online_model.", raw.state_dict()), **prefixed("ema_model.", averaged.state_dict())}
    save_file(state, "net.safetensors")
    assert_same(loaded(Path("net.safetensors")), raw, raw)
    assert_same(loaded(Path("net.safetensors"), ema=True), averaged, averaged)
    save_file(raw.state_dict(), "net.safetensors")
    with pytest.raises(InputError, match=r"^net\.safetensors holds no averaged weights, which ema asks for\.$"):
        loaded(Path("net.safetensors"), ema=True)


def test_a_network_saved_as_its_average_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    _, averaged = networks()
    torch.save({"initted": torch.tensor(True), **prefixed("ema_model.", averaged.state_dict())}, "net.pth")
    assert_same(loaded(Path("net.pth")), averaged, averaged)
    assert caplog.messages == ["net.pth holds averaged weights only (ema_model), which are taken."]
    assert_same(loaded(Path("net.pth"), ema=True), averaged, averaged)


def lightning(raw: nn.Module, averaged: nn.Module) -> dict[str, Any]:
    """What the WeightAveraging callback saves."""
    return {
        "state_dict": averaged.state_dict(),
        "current_model_state": raw.state_dict(),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    }


def mmengine(raw: nn.Module, averaged: nn.Module) -> dict[str, Any]:
    """What the EMAHook saves: values of the two are exchanged, so that the averages are loaded by default."""
    beside = {"steps": torch.tensor(3), **prefixed("module.", raw.state_dict())}
    return {"state_dict": averaged.state_dict(), "ema_state_dict": beside}


@pytest.mark.parametrize(
    ("make", "where"),
    [(lightning, "current_model_state"), (mmengine, "ema_state_dict")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_averages_that_have_taken_the_place_of_raw_weights(
    make: Layout, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    raw, averaged = networks()
    torch.save(make(raw, averaged), "net.pth")
    assert_same(loaded(Path("net.pth")), averaged, averaged)
    assert caplog.messages == [
        f"net.pth holds averaged weights under state_dict, which are taken; the raw ones are under {where}."
    ]
    assert_same(loaded(Path("net.pth"), ema=True), averaged, averaged)


def test_the_hook_of_mmcv_is_not_guessed_about(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    raw, averaged = networks()
    beside = {f"ema_{name.replace('.', '_')}": value for name, value in by_name(averaged).items()}
    torch.save({"state_dict": {**raw.state_dict(), **beside}}, "net.pth")
    assert_same(loaded(Path("net.pth")), raw, raw)
    assert "also holds other weights of this network (ema_*); either may be the averages" in caplog.text
    with pytest.raises(InputError, match=r"does not say whether its ema_\* or its other tensors are averages"):
        loaded(Path("net.pth"), ema=True)


@pytest.mark.parametrize("beside", ["model_best", "previous", "model.best"])
def test_weights_beside_that_are_no_averages(beside: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    raw, other = networks()
    torch.save({"model": prefixed("module.", raw.state_dict()), beside: other.state_dict()}, "net.pth")
    assert_same(loaded(Path("net.pth")), raw, raw)
    assert caplog.messages == [
        f"net.pth holds several weights of this network: those under model are taken, not {beside}. "
        "weights_key names those that you mean by their place in the file."
    ]
    with pytest.raises(InputError, match=r"^net\.pth holds no averaged weights, which ema asks for\.$") as refusal:
        loaded(Path("net.pth"), ema=True)
    assert f"The weights under {beside} are no averages by that name." in (refusal.value.hint or "")


def test_both_averages_and_others_beside(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    raw, averaged = networks()
    torch.save({"model": raw.state_dict(), "model_best": raw.state_dict(), "ema": torch_ema(averaged)}, "net.pth")
    assert_same(loaded(Path("net.pth")), raw, raw)
    assert "(ema.shadow_params); ema takes averaged ones. It holds several weights" in caplog.text
    assert_same(loaded(Path("net.pth"), ema=True), averaged, raw)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda r, a: {"generator": r, "discriminator": a}, "holds several state dicts: generator, discriminator."),
        (lambda r, a: {"student": CifarResNet(14).state_dict(), "teacher": a}, "several state dicts: student, teacher"),
        (lambda r, a: {"ema": r, "swa": a}, r"^net\.pth holds several averaged weights \(ema, swa\), and no others\.$"),
        (lambda r, a: {0: r, "ema": a}, "holds several state dicts: 0, ema."),
        (lambda r, a: {"": r, "ema": a}, "holds several state dicts: '', ema."),
        (lambda r, a: {"0": r, 0: a}, "holds several state dicts: 0, 0."),
        (lambda r, a: {b"student": r, "teacher": a}, "holds several state dicts: b'student', teacher."),
        (lambda r, a: {"student": {0: a["linear.bias"], **r}, "note": 1}, "holds no tensors"),
        (lambda r, a: {"shadow_params": [*a.values()]}, r"holds tensors without names \(shadow_params\), and no state"),
    ],
)
def test_files_of_which_nothing_says_what_is_meant(make: Callable[[State, State], Any], sentence: str) -> None:
    raw, other = networks()
    torch.save(make(raw.state_dict(), other.state_dict()), "net.pth")
    with pytest.raises(InputError, match=sentence):
        loaded(Path("net.pth"))


def test_several_averages_are_not_chosen_from() -> None:
    raw, other = networks()
    torch.save({"ema": raw.state_dict(), "swa": other.state_dict()}, "net.pth")
    assert_same(loaded(Path("net.pth"), ema=True), raw, raw)  # the usual name
    torch.save({"swa": raw.state_dict(), "polyak": other.state_dict()}, "net.pth")
    with pytest.raises(InputError, match=r"^net\.pth holds several weights that ema could mean: swa, polyak\.$"):
        loaded(Path("net.pth"), ema=True)


def test_a_key_without_text_is_a_place_in_a_file(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    raw, other = networks()
    torch.save({"model": raw.state_dict(), "": other.state_dict()}, "net.pth")
    assert_same(loaded(Path("net.pth")), raw, raw)
    assert "those under model are taken, not ''." in caplog.text


@pytest.mark.parametrize("name", ["optimizer", "scheduler", "optim"])
@pytest.mark.parametrize("inner", ["ema", "previous"])
def test_what_optimisers_keep_is_not_looked_at(name: str, inner: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    raw, other = networks()
    torch.save({"model": raw.state_dict(), name: {inner: other.state_dict()}}, "net.pth")
    assert_same(loaded(Path("net.pth")), raw, raw)
    assert not caplog.messages
    with pytest.raises(InputError, match="holds no averaged weights"):
        loaded(Path("net.pth"), ema=True)


@pytest.mark.parametrize(
    "part",
    [
        {"ema": {"linear.weight": torch.zeros(10, 64)}},
        {"ema": {"linear.weight": torch.zeros(10, 64), "linear.bias": torch.zeros(10)}},
        {"avg": [torch.tensor(1.0)]},
        {"avg": [torch.tensor(1.0)] * 23},
        {"shadow": (torch.zeros(10, 64), torch.zeros(10))},
    ],
)
def test_ema_is_not_recommended_for_what_it_refuses(part: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    raw, averaged = networks()
    torch.save({"model": raw.state_dict(), **part}, "net.pth")
    assert_same(loaded(Path("net.pth")), raw, raw)
    assert not caplog.messages
    with pytest.raises(InputError, match=r"do not fit the network|has no names"):
        loaded(Path("net.pth"), ema=True)
    torch.save({"model": raw.state_dict(), **part, "polyak": averaged.state_dict()}, "net.pth")
    assert_same(loaded(Path("net.pth"), ema=True), averaged, averaged)


def test_heads_for_training_only_are_left_out_of_averages_too() -> None:
    raw, averaged = networks()
    aux = {"aux.weight": torch.zeros(3)}
    torch.save({"model": {**raw.state_dict(), **aux}, "ema": {**by_name(averaged), **aux}}, "net.pth")
    entry = dataclasses.replace(get_entry("resnet8"), unread=("aux.",))
    assert_same(state_for(raw, read_checkpoint(Path("net.pth"), ema=True), entry), averaged, raw)


class Deep(nn.Module):
    """A network with names that are the same without their dots: 1.1 and 11, and those of buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)]) if i == 1 else nn.Linear(3, 3) for i in range(12)
        )
        self.a = nn.Module()
        self.register_buffer("a_b", torch.rand(2))
        self.a.register_buffer("b", torch.rand(2))
        self.decay = nn.Parameter(torch.rand(1))


def test_names_that_are_the_same_without_their_dots() -> None:
    raw, averaged = Deep(), Deep()
    state = raw.state_dict()
    exact = averaged.state_dict()
    assert_same(put_in_place(raw, state, Averages("ema", exact), "net.pth"), averaged, averaged)
    assert_same(put_in_place(raw, state, Averages("ema", by_name(averaged)), "net.pth"), averaged, raw)
    some = {name.replace(".", "") if name.startswith("layers.2.") else name: value for name, value in exact.items()}
    assert_same(put_in_place(raw, state, Averages("ema", some), "net.pth"), averaged, averaged)
    assert are_of(state, some)
    for unclear in (
        {name.replace(".", ""): value for name, value in exact.items()},
        {name.replace(".1.1.", ".11."): value for name, value in exact.items()} | {"layers11weight": torch.zeros(3, 3)},
        {**exact, "layers2weight": torch.zeros(3, 3)},
        {name: value for name, value in exact.items() if name != "layers.2.weight"}
        | dict.fromkeys(("layers2weight", "layers2_weight"), torch.zeros(3, 3)),
    ):
        assert not are_of(state, unclear)
        with pytest.raises(InputError, match="the averages in ema do not fit the network"):
            put_in_place(raw, state, Averages("ema", unclear), "net.pth")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda values: values[:-1], "its 22 tensors are not of the number and shapes of the network's 23 parameters"),
        (lambda values: values[::-1], "in their order"),
        (lambda values: [*values, values[0]], "its 24 tensors"),
        (lambda values: [values[0] * float("nan"), *values[1:]], r"ema\.0 contains NaN"),
        (lambda values: [values[0].to(torch.int64), *values[1:]], r"conv1\.weight holds whole numbers"),
    ],
)
def test_tensors_without_names_have_to_fit(change: Callable[[list[Tensor]], list[Tensor]], sentence: str) -> None:
    raw, averaged = networks()
    torch.save({"model": raw.state_dict(), "ema": change(tensors(averaged))}, "net.pth")
    assert_same(loaded(Path("net.pth")), raw, raw)
    with pytest.raises(InputError, match=sentence):
        loaded(Path("net.pth"), ema=True)


def test_averages_by_name_have_to_be_of_every_parameter() -> None:
    raw, averaged = networks()
    part = {name: value for name, value in by_name(averaged).items() if name != "linear.bias"}
    torch.save({"model": raw.state_dict(), "ema": part}, "net.pth")
    assert_same(loaded(Path("net.pth")), raw, raw)
    with pytest.raises(InputError, match=r"the averages in ema do not fit the network: ema lacks linear\.bias\."):
        loaded(Path("net.pth"), ema=True)


class Tied(nn.Module):
    """A layer that has two names; both are in a state dict, and one among the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.again = self.first
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.again(torch.relu(self.first(x))).mean((2, 3)))


class Whole(nn.Module):
    """A network that is made of a student and a teacher, as its own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.student(x) - self.teacher(x)).mean((2, 3)))


@pytest.mark.parametrize("make", [tensors, by_name], ids=["list", "names"])
def test_a_layer_with_two_names_has_one_average(make: Callable[[nn.Module], Any]) -> None:
    raw, averaged = Tied(), Tied()
    torch.save({"model": raw.state_dict(), "ema": make(averaged)}, "net.pth")
    module = open_classifier(f"{__name__}:Tied", "net.pth", ema=True).load((8, 8)).module
    assert all(torch.equal(value, averaged.state_dict()[name]) for name, value in module.state_dict().items())


def test_a_network_with_a_teacher_of_its_own_is_loaded_whole(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    network = Whole()
    torch.save(network.state_dict(), "net.pth")
    module = open_classifier(f"{__name__}:Whole", "net.pth").load((8, 8)).module
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in module.state_dict().items())
    assert not caplog.messages
