"""A head for other classes in the place of a network's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import head_kinds
from helpers.head_kinds import FOLDED, SIZE, trained
from torch import Tensor, nn

from decompose_cli.decomposition.heads import decomposed_head, with_decomposed_head
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.errors import InputError
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.network import Network, network_of
from decompose_cli.models.new_head import NewHead, with_new_head
from decompose_cli.models.tracing import penultimate

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


class Pointwise(head_kinds.Network):
    """A head on maps of one pixel."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(6, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)[:, :, None, None]).flatten(1)


class Scaled(head_kinds.Network):
    """Logits are the head's output times a number, as with a temperature."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return 0.25 * self.head(self.features(x))


PLAIN = [head_kinds.plain, Pointwise, Scaled]


def made(kind: Callable[[], nn.Module], new: NewHead) -> tuple[Network, Network]:
    return network_of(trained(kind), SIZE), with_new_head(network_of(trained(kind), SIZE), new, "net")


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("count", [1, 4, 7])
def test_features_stay_and_logits_are_those_of_the_fitted_head(kind: Callable[[], nn.Module], count: int) -> None:
    weight, bias = torch.randn(count, 6), torch.randn(count)
    before, after = made(kind, NewHead(NAMES[:count], 0, weight, bias))
    images = torch.randn(5, 3, *SIZE)
    features = penultimate(before.module, before.head.module, images)
    assert torch.equal(penultimate(after.module, after.head.module, images), features)
    expected = features.double() @ weight.double().T + bias.double()
    assert torch.allclose(after.module(images).double(), expected, atol=1e-5)
    assert torch.allclose(after.tensors.weight, weight, atol=1e-6)
    assert after.tensors.num_classes == count


@pytest.mark.parametrize("kind", PLAIN)
def test_first_weights_are_torchs_own_of_the_seed(kind: Callable[[], nn.Module]) -> None:
    _, one = made(kind, NewHead(NAMES, 3))
    _, again = made(kind, NewHead(NAMES, 3))
    _, other = made(kind, NewHead(NAMES, 4))
    torch.manual_seed(3)
    expected = nn.Conv2d(6, 7, 1) if kind is Pointwise else nn.Linear(6, 7)
    assert torch.equal(one.head.module.weight, expected.weight)
    assert torch.equal(one.head.module.bias, expected.bias)
    assert torch.equal(again.head.module.weight, one.head.module.weight)
    assert not torch.equal(other.head.module.weight, one.head.module.weight)


def test_a_decomposed_head_is_replaced_by_a_full_one() -> None:
    module = trained(head_kinds.plain)
    full = network_of(module, SIZE)
    with_decomposed_head(module, full.head, decomposed_head(full.tensors, IndexSet(((0, 1), (2,), (1,), (0,)))))
    network = with_new_head(network_of(module, SIZE), NewHead(NAMES, 0), "net")
    assert type(network.head.module) is nn.Linear
    assert network.tensors.kind == "dense"


@pytest.mark.parametrize("kind", FOLDED, ids=lambda kind: kind.__name__)
def test_every_other_head_is_replaced_or_refused_by_name(kind: Callable[[], nn.Module]) -> None:
    try:
        before, after = made(kind, NewHead(NAMES, 0))
    except InputError as error:
        said = ("can take the place of", "net cannot have a head for 7 classes")
        assert any(part in error.message for part in said)  # noqa: PT017 - either outcome is right
        return
    assert after.module(torch.randn(2, 3, *SIZE)).shape == (2, 7)
    assert before.head.num_features == after.head.num_features


@pytest.mark.parametrize(
    "kind",
    [head_kinds.normed_by_parametrization, head_kinds.masked, head_kinds.pruned, head_kinds.updated],
    ids=lambda kind: kind.__name__,
)
def test_heads_of_another_make_are_refused(kind: Callable[[], nn.Module]) -> None:
    with pytest.raises(InputError, match="which no linear layer for other classes can take the place of"):
        made(kind, NewHead(NAMES, 0))


def test_a_head_without_bias_stays_one_and_is_not_fitted() -> None:
    _, after = made(head_kinds.without_bias, NewHead(NAMES, 0))
    assert after.head.module.bias is None
    with pytest.raises(InputError, match="has no bias"):
        made(head_kinds.without_bias, NewHead(NAMES, 0, torch.zeros(7, 6), torch.zeros(7)))


# ------------------------------------------------------------------------------------------------ in files and by name


class Mine(nn.Module):
    """A network of somebody's own, for its own ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


MINE = f"{__name__}:Mine"


def written(model: str = MINE, classes: int = 7, **changed: Tensor) -> str:
    torch.manual_seed(5)
    module = Mine()
    module.fc = nn.Linear(6, classes)
    write_checkpoint(
        Path("mine.safetensors"), {**module.state_dict(), **changed}, Metadata(model=model, num_classes=classes)
    )
    return "mine.safetensors"


def test_a_file_opens_in_a_network_that_is_built_for_other_classes() -> None:
    network = open_classifier(MINE, written()).load((8, 8))
    assert network.tensors.num_classes == 7
    torch.manual_seed(5)
    assert torch.equal(network.module.conv.weight, nn.Conv2d(3, 6, 3).weight)


@pytest.mark.parametrize(
    "file",
    [
        lambda: written(model="somewhere:else"),
        lambda: written(**{"conv.weight": torch.zeros(6, 3, 5, 5)}),
        lambda: written(**{"fc.weight": torch.zeros(7, 5)}),
        lambda: torch.save(nn.Sequential().state_dict() | {"fc.weight": torch.zeros(7, 6)}, "mine.pth") or "mine.pth",
    ],
    ids=["another's", "another layer", "other features", "undescribed"],
)
def test_other_files_do_not(file: Callable[[], str]) -> None:
    with pytest.raises(InputError, match="does not fit"):
        open_classifier(MINE, file()).load((8, 8))


@pytest.mark.parametrize("weights", ["random", None])
def test_the_network_itself_keeps_its_head(weights: str | None) -> None:
    classifier = open_classifier(MINE, weights)
    before = classifier.weights_sha256
    other = classifier.with_new_head(NewHead(NAMES, 0))
    assert other.load((8, 8)).tensors.num_classes == 7
    assert classifier.load((8, 8)).tensors.num_classes == 10
    assert other.weights_sha256 == before
    assert other.identity == classifier.identity
    assert other.with_new_head(None).load((8, 8)).tensors.num_classes == 10


@pytest.mark.parametrize("model", ["resnet8", "resnet18", "mobilenet_v2", "squeezenet1_0"])
def test_registered_networks_get_heads_that_open_again(model: str) -> None:
    classifier = open_classifier(model, "random").with_new_head(NewHead(NAMES, 0))
    size = (32, 32) if model == "resnet8" else (64, 64)
    if model == "squeezenet1_0":
        with pytest.raises(InputError, match="head"):
            classifier.load(size)
        return
    module = classifier.load(size).module
    assert module(torch.zeros(2, 3, *size)).shape == (2, 7)
