"""How many images a network is shown before the first one of the user's, and how many of them at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import head_kinds
from helpers.head_kinds import Brighter, linear, trained
from torch import Tensor, nn

import decompose_cli as dc
from decompose_cli.engines import layers as engine
from decompose_cli.errors import InputError
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.head import find_head
from decompose_cli.models.inference import FeatureReader
from decompose_cli.models.network import network_of
from decompose_cli.models.tracing import in_portions, trace_layers, varied_images

LARGE = (512, 512)
AT_MOST = 14


class Counted(nn.Module):
    """A convolution, pooling and a head, which notes how many images come at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 8, 8)
        self.head = nn.Linear(6, 4)
        self.batches: list[int] = []
        self.seen: set[float] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        self.seen |= {round(float(image.double().sum()), 6) for image in x}
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def shown_to(module: nn.Module) -> list[int]:
    """The sizes of the batches that the module is given from now on."""
    batches: list[int] = []
    module.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    return batches


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: CifarResNet(8), 32),
        (lambda: trained(head_kinds.batch_normed), 8),
        (lambda: trained(head_kinds.masked), 8),
        (lambda: trained(head_kinds.pointwise_normed), 8),
        (Counted, 512),
    ],
)
def test_opening_a_network_takes_few(make: Callable[[], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    module = make()
    batches = shown_to(module)
    model = dc.load_model(module, input_size=size)
    assert 0 < sum(batches) <= AT_MOST
    batches.clear()
    dc.decompose(model, {c: [c % 6] for c in range(model.num_classes)})
    assert sum(batches) <= 2 * AT_MOST, "the network as it is by now, and the decomposed one"


def test_every_varied_image_is_looked_at_few_at_a_time() -> None:
    module = Counted()
    find_head(module, LARGE)
    assert max(module.batches) == 3
    assert {round(float(image.double().sum()), 6) for image in varied_images(LARGE, module)} <= module.seen
    small = Counted()
    find_head(small, (224, 224))
    assert small.batches == [8, 3, 2]


@pytest.mark.parametrize(
    ("size", "portions"),
    [((8, 8), [8]), ((224, 224), [8]), ((320, 320), [4, 4]), ((512, 512), [3, 3, 2]), ((512, 2048), [3, 3, 2])],
)
def test_no_portion_is_a_single_image(size: tuple[int, int], portions: list[int]) -> None:
    images = torch.zeros(8, 1, 1, 1).expand(8, 3, *size)
    assert [len(portion) for portion in in_portions(images)] == portions


@pytest.mark.parametrize("at_once", [1, 8 * 8 * 8])
def test_a_head_must_fit_the_last_images_too(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are bright come late, in a portion of their own where images are large."""
    monkeypatch.setattr("decompose_cli.models.tracing._PIXELS_AT_ONCE", at_once)
    torch.manual_seed(0)
    with pytest.raises(InputError, match="computes something else"):
        find_head(Brighter(linear()), head_kinds.SIZE)


class FailsForBright(Counted):
    def forward(self, x: Tensor) -> Tensor:
        if bool((x.mean((1, 2, 3)) > 0.7).any()):
            raise ValueError("too bright")
        return super().forward(x)


def test_a_network_that_fails_for_the_last_images_is_refused() -> None:
    with pytest.raises(InputError):
        find_head(FailsForBright(), LARGE)


class Drifting(Counted):
    """Gives other features each time."""

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.head(torch.relu(self.conv(x)).mean((2, 3)) * (1 + 0.01 * len(self.batches)))


@pytest.mark.parametrize("size", [(32, 32), LARGE])
def test_features_that_change_from_pass_to_pass_are_refused(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match="other logits for the same images each time"):
        find_head(Drifting(), size)


def test_the_network_and_its_faster_copy_are_compared_in_a_pass_each() -> None:
    torch.manual_seed(0)
    module = CifarResNet(8).eval()
    network = network_of(module, (32, 32))
    counts: list[int] = []
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda one, args: counts.append(len(args[0])) if isinstance(one, nn.Conv2d) and one.in_channels == 3 else None
    )
    try:
        FeatureReader(network, torch.device("cpu"), "32", torch.randn(8, 3, 32, 32))
    finally:
        handle.remove()
    assert counts == [8, 9]  # the copy sees another image beside them, lest it keep something of theirs


def test_layers_traces_once(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    def counted(entry: object, *args: object, **options: object) -> nn.Module:
        module = CifarResNet(8)
        module.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
        return module

    monkeypatch.setattr("decompose_cli.models.entry.ModelEntry.make", counted)
    listed = engine.list_layers("resnet20")
    assert sum(batches) <= AT_MOST + 5, "with what shows whether the logits hear of the layer of Grad-CAM"
    _, traced = trace_layers(CifarResNet(8), torch.zeros(2, 3, 32, 32))
    assert [(one.name, one.output_shape) for one in listed.layers] == [
        (one.name, one.output_shape[1:] if one.output_shape else None) for one in traced
    ]


def test_a_trace_keeps_rows_that_enter_layers_that_return_rows() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    doubled = model[4].register_forward_pre_hook(lambda _, args: (2 * args[0],))
    images = torch.randn(2, 3, 8, 8)
    _, layers = trace_layers(model, images)
    doubled.remove()
    kept = {layer.name: layer.features for layer in layers if layer.features is not None}
    assert set(kept) == {"3", "4"}, "no maps"
    torch.testing.assert_close(kept["4"], model[:4](images))
    assert all(layer.input_shape for layer in layers)
