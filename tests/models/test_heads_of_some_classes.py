"""Networks whose head is cut to some of their classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from decompose_cli.errors import InputError
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.network import HeadTensors, Network, network_of

SIZE, NUMBERS = (8, 8), [4, 0, 3]


class Net(nn.Module):
    """Features by a small body, then a head, then whatever comes."""

    def __init__(self, head: nn.Module, after: nn.Module | None = None, *, maps: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 6), nn.ReLU())
        self.head, self.after, self.maps = head, after or nn.Identity(), maps

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        logits = self.head(features[:, :, None, None] if self.maps else features)
        result: Tensor = self.after(logits.flatten(1))
        return result


class Scale(nn.Module):
    """A number for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([1.0, 2.0, 0.5, 3.0, 4.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Half(nn.Module):
    """The same number for all classes."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2 + 1


def make(name: str) -> Network:
    torch.manual_seed(0)
    rows = [[0, 3], [1], [2, 4, 5], [5, 2], [3]]
    made = {
        "linear": lambda: Net(nn.Linear(6, 5)),
        "without bias": lambda: Net(nn.Linear(6, 5, bias=False)),
        "convolution": lambda: Net(nn.Conv2d(6, 5, 1), maps=True),
        "scaled": lambda: Net(nn.Linear(6, 5), Half()),
        "normalised": lambda: Net(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))),
        "decomposed": lambda: Net(DecomposedLinear.from_dense(torch.randn(5, 6), torch.randn(5), rows)),
    }
    return network_of(made[name]().eval(), SIZE, name="net")


@pytest.mark.parametrize("name", ["linear", "without bias", "convolution", "scaled", "normalised", "decomposed"])
def test_logits_are_those_of_the_classes_and_features_are_the_same(name: str) -> None:
    network = make(name)
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    cut = network.of_classes(NUMBERS, "net")
    images = torch.randn(7, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = network.module(images)[:, NUMBERS]
        torch.testing.assert_close(cut.module(images), expected)
        features = network.module.get_submodule("body")(images)
        torch.testing.assert_close(cut.module.get_submodule("body")(images), features)
    tensors = cut.tensors
    assert (tensors.num_classes, tensors.num_features, tensors.name) == (3, 6, "head")
    if tensors.kind == "dense":
        torch.testing.assert_close(features @ tensors.weight.t() + tensors.bias, expected)
    assert tensors.is_same(cut.as_it_is().tensors) or name == "scaled"  # where rounding tells them apart
    assert all(torch.equal(value, before[key]) for key, value in network.module.state_dict().items())
    assert network.tensors.num_classes == 5


def test_what_follows_for_each_class_is_refused() -> None:
    network = network_of(Net(nn.Linear(6, 5), Scale()).eval(), SIZE, name="net")
    with pytest.raises(InputError) as caught:
        network.of_classes(NUMBERS, "net")
    assert caught.value.message == (
        "The head 'head' of net cannot be cut to 3 of its 5 classes: the network goes on with the logits of all."
    )
    assert "classes all" in str(caught.value.hint)


def test_a_decomposed_head_is_as_narrow_as_its_rows() -> None:
    found = make("decomposed").of_classes([1, 4], "net")
    assert found.tensors.weight.shape == (2, 1)
    assert found.is_decomposed
    head = found.head.module
    assert isinstance(head, DecomposedLinear)
    assert head.classes() == ((1,), (3,))


def test_references_are_cut_with_the_head() -> None:
    weight, bias = torch.randn(5, 6), torch.randn(5)
    head = HeadTensors(
        "subspaces", "fc", torch.randn(5, 2), torch.randn(5), 6, reference=weight, reference_bias=bias
    ).of_classes(NUMBERS)
    assert head.reference is not None
    assert head.reference_bias is not None
    assert torch.equal(head.reference, weight[NUMBERS])
    assert torch.equal(head.reference_bias, bias[NUMBERS])


def test_a_classifier_of_some_classes_is_the_same_network() -> None:
    whole = open_classifier("resnet20-digits", None)
    cut = whole.of_classes([7, 2])
    assert (cut.whole, cut.classes, whole.classes) == (whole, (7, 2), None)
    assert (cut.identity, cut.weights_sha256, cut.name) == (whole.identity, whole.weights_sha256, whole.name)
    network, full = cut.load((32, 32)), whole.load((32, 32))
    assert network.tensors.num_classes == 2
    assert full.tensors.num_classes == 10
    assert torch.equal(network.tensors.weight, full.tensors.weight[[7, 2]])
