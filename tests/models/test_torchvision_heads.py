"""Every classifier of the installed torchvision, with random weights: head(features(x)) is model(x), or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import decompose_cli  # noqa: F401 - makes torchvision importable beside a CPU-only torch
from decompose_cli.errors import InputError
from decompose_cli.models import imagenet
from decompose_cli.models.head import find_head
from decompose_cli.models.imagenet import torchvision_classifiers
from decompose_cli.models.registry import get_entry
from decompose_cli.models.tracing import evaluating, example_images, penultimate

# A small one of each family whose head is its own; Vision Transformers are only large, and stand small ones below.
_ALWAYS = frozenset(
    {
        *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5"),
        *("mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5"),
        *("squeezenet1_0", "squeezenet1_1", "swin_t"),
    }
)
pytestmark = pytest.mark.usefixtures("pooled_weights")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Such small passes gain nothing from threads, and on a busy machine threads that wait for each other cost much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _parameters(name: str) -> float:
    from torchvision.models import get_model_weights

    return float(next(iter(get_model_weights(name))).meta["num_params"])


def _side(name: str) -> int:
    if name.startswith(("vit_", "maxvit_")):  # built for one size
        return get_entry(name).preprocessing.crop[0] if name != "vit_h_14" else 224
    return 96 if name == "inception_v3" else 64


ALL = [pytest.param(name, marks=[] if name in _ALWAYS else pytest.mark.slow) for name in torchvision_classifiers()]


def _build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return _with_a_head(imagenet.build(name, 1000))


def _with_a_head(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for module in model.modules():  # Vision Transformers begin with a head of zeros, which would prove nothing
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.1)
    return model.eval()


@pytest.mark.parametrize("name", ALL)
def test_head_of_the_features_is_the_model_or_it_is_refused(name: str) -> None:
    size = (_side(name), _side(name))
    model = _build(name)
    if name.startswith("squeezenet"):
        with pytest.raises(InputError) as refusal:
            find_head(model, size, model_name=name)
        assert "'classifier.2' (ReLU) and 'classifier.3' (AdaptiveAvgPool2d)" in refusal.value.message
        assert name in refusal.value.message
        return
    check_head(model, size, 1000)


def small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=7)


def small_maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    return MaxVit((32, 32), 8, 4, [8, 16], [1, 1], 4, 0.0, num_classes=7)


@pytest.mark.parametrize("make", [small_vit, small_maxvit])
def test_small_vision_transformers_too(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    check_head(_with_a_head(make()), (32, 32), 7)


def check_head(model: nn.Module, size: tuple[int, int], classes: int) -> None:
    head = find_head(model, size, model_name="model")
    assert head.num_classes == classes
    images = example_images(size, seed=5)
    with evaluating(model):
        features = penultimate(model, head.module, images)
        logits = model(images)
    assert features.shape == (2, head.num_features)
    assert logits.abs().max() > 0
    weight, bias = head.weight, head.bias
    difference = (features @ weight.t() + bias - logits).abs().max()
    assert difference <= 1e-5 * logits.abs().max()


def test_the_list_is_that_of_torchvision_and_holds_every_family() -> None:
    names = torchvision_classifiers()
    assert len(names) >= 75
    assert {"vit_b_16", "swin_t", "resnet18", "squeezenet1_0", "googlenet", "maxvit_t"} <= set(names)
    assert not {"fasterrcnn_resnet50_fpn", "fcn_resnet50", "r3d_18", "raft_large"} & set(names)


@pytest.mark.parametrize(
    ("name", "crop", "resize", "interpolation"),
    [
        ("vit_b_16", 224, 256, "bilinear"),
        ("inception_v3", 299, 342, "bilinear"),
        ("efficientnet_b0", 224, 256, "bicubic"),
        ("convnext_tiny", 224, 236, "bilinear"),
    ],
)
def test_entry_takes_its_facts_from_torchvision(name: str, crop: int, resize: int, interpolation: str) -> None:
    entry = get_entry(name)
    assert entry.preprocessing is not None
    assert entry.preprocessing.crop == (crop, crop)
    assert entry.preprocessing.resize == resize
    assert entry.preprocessing.interpolation == interpolation
    assert str(entry.weights).startswith("https://download.pytorch.org/models/")
    assert entry.sha256 is not None
    assert entry.sha256 in str(entry.weights)
    assert entry.parameters == _parameters(name)
    assert entry.accuracy is not None
    assert 50 < entry.accuracy < 95


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_input_is_rescaled_only_for_the_published_weights(name: str) -> None:
    assert imagenet.build(name, 10, pretrained=True).transform_input is True
    assert imagenet.build(name, 10, pretrained=False).transform_input is False


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "no_such_network", "lenet"])
def test_what_is_no_torchvision_classifier_is_unknown(name: str) -> None:
    with pytest.raises(InputError, match=f"There is no model '{name}'"):
        get_entry(name)
