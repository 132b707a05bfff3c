"""Networks that return their logits among other things are taken as they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import decompose_cli as dc
from decompose_cli.errors import InputError
from decompose_cli.models.batch_dependence import mixes_images
from decompose_cli.models.checkpoint import Metadata
from decompose_cli.models.logits import logits_of, nothing_of
from decompose_cli.models.maps import grad_cam
from decompose_cli.training.export import check_export, export_network
from decompose_cli.training.objective import Objective


class Answer(NamedTuple):
    logits: Tensor
    loss: Tensor | None


class Net(nn.Module):
    def __init__(self, ending: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 4)
        self.ending = ending

    def forward(self, x: Tensor) -> Any:
        return self.ending(self.fc(self.conv(x).relu().mean((2, 3))))


ENDINGS: dict[str, Callable[[Tensor], Any]] = {
    "object": lambda y: SimpleNamespace(logits=y, hidden_states=None),
    "named tuple": lambda y: Answer(y, None),
    "mapping with logits": lambda y: OrderedDict(logits=y, embedding=y[:, :2]),
    "mapping with one": lambda y: {"scores": y, "maps": y[:, :, None, None], "loss": y.sum()},
}
each_ending = pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())


@each_ending
def test_logits_are_found_in_what_a_network_returns(ending: Callable[[Tensor], Any]) -> None:
    logits = torch.randn(5, 4)
    assert logits_of(ending(logits)) is logits
    assert logits_of(ending(logits), in_training=True) is logits


def test_auxiliary_outputs_come_second_in_training_and_are_refused_in_evaluation() -> None:
    logits, other = torch.randn(5, 4), torch.randn(5, 4)
    assert logits_of((logits, other), in_training=True) is logits
    with pytest.raises(InputError, match=r"^My net returns a tuple, not logits \(N, number of classes\)\.$"):
        logits_of((logits, other), where="My net")


@pytest.mark.parametrize("output", [{"a": torch.ones(2, 3), "b": torch.ones(2, 5)}, {}, None, [], ["text"], 3])
def test_anything_else_is_refused(output: Any) -> None:
    for in_training in (False, True):
        with pytest.raises(InputError, match=f"returns a {type(output).__name__}.*not logits"):
            logits_of(output, in_training=in_training)


@each_ending
def test_a_module_of_the_users_is_taken_as_it_is(ending: Callable[[Tensor], Any], tmp_path: Path) -> None:
    plain, odd = Net(), Net(ending)
    expected, model = (dc.load_model(net, input_size=16, mean=(0, 0, 0), std=(1, 1, 1)) for net in (plain, odd))
    assert model.module is odd
    assert list(odd.state_dict()) == list(plain.state_dict())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in odd.modules())
    assert model.head_name == "fc"
    assert torch.equal(model.network.tensors.weight, expected.network.tensors.weight)
    assert torch.equal(model.network.head.features, expected.network.head.features)
    small = dc.decompose(model, [[0, 1], [2, 3], [4, 5], [0, 5]])
    images = torch.randn(3, 3, 16, 16)
    features = plain.conv(images).relu().mean((2, 3))
    rows = [[0, 1], [2, 3], [4, 5], [0, 5]]
    twin = torch.stack([features[:, r] @ plain.fc.weight[c, r] + plain.fc.bias[c] for c, r in enumerate(rows)], 1)
    assert torch.allclose(logits_of(small.module(images)), twin, atol=1e-6)
    dc.save_model(small, tmp_path / "small.safetensors")


@each_ending
def test_maps_of_activation_are_those_of_the_logits(ending: Callable[[Tensor], Any]) -> None:
    plain, odd = Net(), Net(ending)
    images, classes = torch.randn(2, 3, 8, 8), torch.tensor([1, 3])
    assert torch.equal(
        grad_cam(odd, odd.conv, images, classes), expected := grad_cam(plain, plain.conv, images, classes)
    )
    assert bool(expected.any())


def test_images_that_are_mixed_show_without_a_head() -> None:
    class Whitened(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    net = Net(ENDINGS["object"])
    net.add_module("conv", nn.Sequential(net.conv, Whitened()))
    assert mixes_images(net, (8, 8)) == "conv.1"
    assert mixes_images(Net(ENDINGS["object"]), (8, 8)) is None


@pytest.mark.parametrize("ending", [*ENDINGS.values(), lambda y: (y, y[:, :2])], ids=[*ENDINGS, "tuple"])
def test_losses_are_those_of_the_logits(ending: Callable[[Tensor], Any]) -> None:
    images, targets = torch.randn(6, 3, 8, 8), torch.arange(6) % 4
    loss, shown = Objective().losses(Net(ending)(images), targets)
    twin = F.cross_entropy(Net()(images).detach().double(), targets, reduction="sum")
    assert loss is shown
    assert float(loss.detach()) == pytest.approx(float(twin), rel=1e-6)


@each_ending
def test_programs_return_the_logits_alone(ending: Callable[[Tensor], Any], tmp_path: Path) -> None:
    net, path = Net(ending).eval(), tmp_path / "net.torchscript.pt"
    described = Metadata(model="my:net", num_classes=4)
    error = export_network(net, (8, 8), path, check_export("torchscript"), described)
    assert error is not None
    assert error < 1e-6
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(torch.jit.load(path)(images), Net()(images))


def test_gradients_of_zeros_reach_auxiliary_heads_whatever_they_yield() -> None:
    logits, other = torch.ones(2, 3, requires_grad=True), torch.tensor([[1.0, float("inf")]], requires_grad=True)
    for output in ((logits, other), [logits, other], {"logits": logits, "aux": other, "text": "no tensor"}):
        nothing = nothing_of(output)
        assert isinstance(nothing, Tensor)
        assert float(nothing.detach()) == 0
        assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(nothing, (logits, other)))
    assert nothing_of(logits) == 0
    assert nothing_of({"logits": logits.detach()}) == 0
