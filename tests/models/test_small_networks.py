"""Every network for small images, as the registry builds it: its head, its folded copy, its depth by name."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from decompose_cli.errors import InputError
from decompose_cli.models.head import find_head
from decompose_cli.models.imagenet import torchvision_classifiers
from decompose_cli.models.inference import FeatureReader
from decompose_cli.models.network import network_of
from decompose_cli.models.outputs import last_map_layer, trace_outputs
from decompose_cli.models.registry import ModelEntry, get_entry, registered_models
from decompose_cli.models.small_networks import preact_resnet
from decompose_cli.models.tracing import evaluating, example_images, penultimate
from decompose_cli.preprocessing import CIFAR

SIZE = (32, 32)
NEW = ["resnet164", "preresnet20", "preresnet110", "preresnet164", "custom_resnet", "resnet18_32x32", "resnet34_32x32"]
# A shallow one of every kind; the deep ones are the same blocks, more of them.
SHALLOW = ["resnet8", "resnet11", "preresnet8", "custom_resnet", "resnet18_32x32"]
PROJECTED = ["resnet20-digits", "resnet20", "resnet56"]
ENTRIES = [
    *(pytest.param(get_entry(name), id=name) for name in SHALLOW),
    pytest.param(preact_resnet(11, block="bottleneck"), id="preresnet11"),
    *(pytest.param(get_entry(name), id=name, marks=pytest.mark.slow) for name in NEW if name not in SHALLOW),
    *(
        pytest.param(
            get_entry(name).configured(shortcut="projection"),
            id=f"{name} projection",
            marks=[pytest.mark.slow] if name != "resnet20-digits" else [],
        )
        for name in PROJECTED
    ),
]


def built(entry: ModelEntry, num_classes: int = 7) -> nn.Module:
    """With statistics and parameters of its own, so that leaving one out would show."""
    torch.manual_seed(0)
    model = entry.build(num_classes)
    generator = torch.Generator().manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
            with torch.no_grad():
                part.weight.uniform_(0.5, 1, generator=generator)
                part.bias.normal_(0, 0.1, generator=generator)
    return model.eval()


@pytest.mark.usefixtures("pooled_weights")
@pytest.mark.parametrize("entry", ENTRIES)
def test_head_of_the_features_is_the_model(entry: ModelEntry) -> None:
    model = built(entry)
    head = find_head(model, SIZE)
    assert set(head.following.factor.tolist()) == {0.125 if entry.name == "custom_resnet" else 1}
    assert (head.num_features, head.num_classes) == (entry.num_features, 7)
    images = example_images(SIZE, seed=5)
    with evaluating(model):
        features, logits = penultimate(model, head.module, images), model(images)
    weight, bias = head.weight, head.bias
    difference = (features @ weight.t() + bias - logits).abs().max()
    assert (logits[0] - logits[1]).abs().max() > 1e-3 * logits.abs().max()
    assert difference <= 1e-5 * logits.abs().max()


@pytest.mark.usefixtures("pooled_weights")
@pytest.mark.parametrize("entry", ENTRIES)
def test_folded_copy_reads_the_same_features(entry: ModelEntry) -> None:
    model = built(entry)
    head = find_head(model, SIZE)
    images = example_images(SIZE, seed=6)
    reader = FeatureReader(network_of(model, SIZE), torch.device("cpu"), "32", images)
    with evaluating(model):
        expected = penultimate(model, head.module, images)
    torch.testing.assert_close(reader(images), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert isinstance(reader.module, torch.fx.GraphModule), "it could not be traced symbolically"


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet11", "layer3"), ("preresnet8", "bn"), ("custom_resnet", "residual3"), ("resnet18_32x32", "layer4")],
)
def test_layer_for_activation_maps_is_the_last_with_maps(name: str, layer: str) -> None:
    assert last_map_layer(trace_outputs(get_entry(name).build(10), example_images(SIZE))) == layer


@pytest.mark.parametrize("name", NEW)
def test_networks_without_published_weights(name: str) -> None:
    entry = get_entry(name)
    assert entry in registered_models()
    assert (entry.weights, entry.sha256, entry.accuracy) == (None, None, None)
    assert (entry.source, entry.licence, entry.dataset) == ("this project", "MIT", "cifar10")
    assert entry.facts()["weights"] is None


@pytest.mark.parametrize("depth", [8, 14, 26, 38, 62, 1196])
@pytest.mark.parametrize("prefix", ["", "pre"])
def test_any_depth_goes_by_its_name(prefix: str, depth: int) -> None:
    entry = get_entry(f"{prefix}resnet{depth}")
    assert (entry.name, entry.dataset, entry.num_classes) == (f"{prefix}resnet{depth}", "cifar10", 10)
    assert (entry.num_features, entry.weights, entry.preprocessing) == (64, None, CIFAR)
    if depth < 100:
        model = entry.build(3)
        assert type(model).__name__ == ("PreActCifarResNet" if prefix else "CifarResNet")
        convolutions = [p for n, p in model.named_modules() if isinstance(p, nn.Conv2d) and "downsample" not in n]
        assert len(convolutions) == depth - 1


def test_depths_have_architectures_of_their_own() -> None:
    names = ["resnet14", "resnet20", "preresnet14", "preresnet20", "resnet164", "preresnet164", "custom_resnet"]
    architectures = [str(get_entry(name).architecture) for name in names]
    assert len(set(architectures)) == len(names)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_names_of_torchvision_stay_torchvisions(name: str) -> None:
    assert get_entry(name).dataset == "imagenet"


def test_torchvision_has_no_other_name_of_this_form() -> None:
    taken = [name for name in torchvision_classifiers() if name.removeprefix("resnet").isdigit()]
    assert sorted(taken) == ["resnet101", "resnet152", "resnet18", "resnet34", "resnet50"]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet21", "resnet20 or resnet26"),
        ("resnet19", "resnet18 or resnet20"),
        ("resnet51", "resnet50 or resnet56"),
        ("resnet165", "resnet164 or resnet170"),
        ("resnet2", "resnet8"),
        ("resnet1", "resnet8"),
        ("resnet1203", "resnet1202"),
        ("resnet999999998", "resnet1202"),
        ("preresnet21", "preresnet20 or preresnet26"),
        ("preresnet18", "preresnet14 or preresnet20"),
        ("preresnet1208", "preresnet1202"),
    ],
)
def test_wrong_depth_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(InputError) as refusal:
        get_entry(name)
    assert refusal.value.message == (
        f"There is no model '{name}': such networks have 6n + 2 layers, with bottlenecks 9n + 2, 1202 at most (did you "
        f"mean {nearest}?)."
    )
    for suggested in nearest.split(" or "):
        get_entry(suggested)


@pytest.mark.parametrize("name", ["resnet", "resnet020", "resnet-20", "resnet20x", "resnet2\u0660", "resnet1234567890"])
def test_other_names_are_simply_unknown(name: str) -> None:
    with pytest.raises(InputError, match="There is no model"):
        get_entry(name)


def test_a_depth_by_name_needs_neither_torch_nor_torchvision() -> None:
    code = (
        "import sys; from decompose_cli.models.registry import get_entry; get_entry('resnet14'); "
        "get_entry('resnet20').configured(shortcut='projection'); print([m for m in sys.modules if m[:5] == 'torch'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
