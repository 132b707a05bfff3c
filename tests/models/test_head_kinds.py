"""Heads that are normed, masked, scaled, adapted, adjusted or gated: each logit against the network itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import head_kinds
from helpers.head_kinds import CLASSES, FOLDED, REFUSED, SIZE, trained
from torch import Tensor, nn

import decompose_cli as dc
from decompose_cli.decomposition.heads import resolve_heads
from decompose_cli.errors import InputError
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.head import find_head
from decompose_cli.models.inference import FeatureReader
from decompose_cli.models.network import Network, check_head_stays, network_of
from decompose_cli.models.tracing import evaluating, penultimate

Make = Callable[[], nn.Module]
NOTHING_YET = {head_kinds.gated}  # no logit depends on the features before training


def images() -> Tensor:
    return torch.randn(40, 3, *SIZE, generator=torch.Generator().manual_seed(3)) * 1.5 + 0.3


def logits_of(module: nn.Module) -> Tensor:
    with evaluating(module):
        logits: Tensor = module(images())
    return logits


def assert_logits(network: Network) -> None:
    """What the analyses compute from features, with either reader, is what the network computes."""
    module, tensors = network.module, network.tensors
    with evaluating(module):
        features = penultimate(module, network.head.module, images())
    read = FeatureReader(network, torch.device("cpu"), "32", images()[:8])(images())
    torch.testing.assert_close(read, features, rtol=1e-4, atol=1e-5)
    heads = resolve_heads(tensors, None)
    head = heads.original or heads.decomposed
    assert head is not None
    with torch.no_grad():
        torch.testing.assert_close(head(features), logits_of(module), rtol=1e-4, atol=1e-5)


def name_of(make: Make) -> str:
    return f"helpers.head_kinds:{make.__name__}"


def weights_of(make: Make) -> str:
    torch.save(trained(make).state_dict(), "net.pth")
    return "net.pth"


def rows(network: Network, k: int) -> dict[int, list[int]]:
    count = network.tensors.num_features
    return {c: [(c + j) % count for j in range(min(k, count))] for c in range(CLASSES)}


@pytest.mark.parametrize("make", [make for make in FOLDED if make not in NOTHING_YET])
def test_before_loading(make: Make) -> None:
    torch.manual_seed(0)
    assert_logits(network_of(make().eval(), SIZE))


@pytest.mark.parametrize("make", FOLDED)
def test_after_loading(make: Make) -> None:
    expected = logits_of(trained(make))
    network = open_classifier(name_of(make), weights_of(make)).load(SIZE)
    torch.testing.assert_close(logits_of(network.module), expected)
    assert_logits(network)
    assert (expected.std(0) > 1e-3).all(), "the numbers say something"


@pytest.mark.parametrize("make", FOLDED)
def test_decomposed_saved_and_read_back(make: Make) -> None:
    model = dc.load_model(name_of(make), weights_of(make), input_size=SIZE)
    weight, bias = model.network.tensors.weight, model.network.tensors.bias
    module = model.module
    with evaluating(module):
        features = penultimate(module, model.network.head.module, images())
    for k in (2, 99):
        small = dc.decompose(model, rows(model.network, k))
        assert_logits(small.network)
        kept = torch.zeros_like(weight)
        for number, row in rows(model.network, k).items():
            kept[number, row] = 1
        expected = features @ (weight * kept).t() + bias
        torch.testing.assert_close(logits_of(small.module), expected, rtol=1e-4, atol=1e-5)
        dc.save_model(small, f"small{k}.safetensors")
        again = open_classifier(name_of(make), f"small{k}.safetensors").load(SIZE)
        torch.testing.assert_close(logits_of(again.module), expected, rtol=1e-4, atol=1e-5)
        assert_logits(again)
    torch.testing.assert_close(expected, logits_of(module), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", FOLDED)
def test_in_python(make: Make) -> None:
    """A module that is trained after it was handed in is seen as it is by then."""
    module = trained(make)
    model = dc.load_model(module, input_size=SIZE)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.1)
    assert_logits(model.network.as_it_is())
    labels = logits_of(module).argmax(1)
    labels[::3] = (labels[::3] + 1) % CLASSES
    features = dc.extract_features(model, [(images(), labels)])
    assert dc.validate(features).original.correct == len(labels) - len(labels[::3])


@pytest.mark.parametrize("make", REFUSED)
def test_what_no_weight_and_bias_give_is_refused_by_name(make: Make) -> None:
    with pytest.raises(InputError, match=r"head_kinds:") as refusal:
        open_classifier(name_of(make), weights_of(make)).load(SIZE)
    draws = make in (head_kinds.always_dropping, head_kinds.dropping_features)
    named = ("bernoulli_, as dropout",) if draws else ("'head'", "'second'", "'norm'", "'b'")
    assert any(part in refusal.value.message for part in named)
    with pytest.raises(InputError, match=r"(Network|Called|Drops|Brighter)"):
        dc.load_model(trained(make), input_size=SIZE)


@pytest.mark.parametrize("make", [head_kinds.updated, head_kinds.shifted_by_the_features])
def test_what_would_show_in_training_only_is_refused_before_it(make: Make) -> None:
    torch.manual_seed(0)
    model = dc.load_model(make().eval(), input_size=SIZE)
    name = "head.base" if make is head_kinds.updated else "head"
    assert model.head_name == name, "nothing of it shows yet"
    small = dc.decompose(model, rows(model.network, 2))
    with pytest.raises(InputError, match=f"^'{name}' would not stay the head of net in training"):
        check_head_stays(small.module, name, SIZE, "net")
    plain = dc.decompose(dc.load_model(trained(head_kinds.batch_normed), input_size=SIZE), rows(model.network, 2))
    check_head_stays(plain.module, "head", SIZE, "net")


def test_what_shows_for_real_images_only_is_refused_when_they_are_read() -> None:
    def ending(_: nn.Module, logits: Tensor, features: Tensor) -> Tensor:
        return torch.where(features.amin(1, keepdim=True) > 4, 2 * logits, logits)

    network = network_of(head_kinds.Network(head_kinds.linear(), ending).eval(), SIZE)
    FeatureReader(network, torch.device("cpu"), "32", images()[:8])
    with torch.no_grad():
        network.module.stem.bias += 9  # now the images are those for which it does something else
    with pytest.raises(InputError, match="The logits of the network are not those of its head 'head' for these images"):
        FeatureReader(network, torch.device("cpu"), "32", images()[:8])


def test_a_gate_that_is_shut_hides_the_head() -> None:
    with pytest.raises(InputError, match="computes something else"):
        find_head(head_kinds.gated(), SIZE)


def test_one_class_that_is_off_hides_a_wrong_other_one_no_longer() -> None:
    """Each class for itself: large logits of one do not excuse an error in another."""
    network = head_kinds.Network(head_kinds.linear(), lambda _, y, x: y + torch.tensor([0, 0, 0, 1e-3]) * x[:, :1] ** 2)
    with torch.no_grad():
        network.head.weight[0] *= 1e6
    with pytest.raises(InputError, match="computes something else"):
        find_head(network, SIZE)
