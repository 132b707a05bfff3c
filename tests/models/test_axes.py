"""Which axes are channels, rows and columns, against what is known of each network, and against a second image size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import decompose_cli  # noqa: F401 - makes torchvision importable beside a CPU-only torch
from decompose_cli.models import imagenet
from decompose_cli.models.axes import Axes
from decompose_cli.models.imagenet import torchvision_classifiers
from decompose_cli.models.outputs import LayerOutput, last_map_layer, trace_outputs
from decompose_cli.models.tracing import example_images

FIRST, LAST = (1, 2, 3), (3, 1, 2)  # channels, rows, columns
pytestmark = pytest.mark.usefixtures("pooled_weights")


def axes_of(module: nn.Module, height: int = 8, width: int = 8) -> dict[str, tuple[int | None, int | None, int | None]]:
    torch.manual_seed(0)
    outputs = trace_outputs(module.eval(), example_images((height, width)))
    return {use.name: as_tuple(use.values.axes) for use in outputs if use.values is not None}


def as_tuple(axes: Axes) -> tuple[int | None, int | None, int | None]:
    return axes.channels, axes.rows, axes.columns


# ------------------------------------------------------------------------------------------- networks of a user's


class Probe(nn.Identity):
    """What is looked at."""


class Last(nn.Module):
    """Channels last, as many as there are rows and columns: no size tells them apart."""

    def __init__(self, make: Callable[[Tensor], Tensor] = lambda x: x, width: int = 8) -> None:
        super().__init__()
        self.embed, self.make = nn.Conv2d(3, width, 1), make
        self.probe, self.norm, self.mix, self.head = (
            Probe(),
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.Linear(width, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.probe(self.embed(x).permute(0, 2, 3, 1))
        x = x + self.mix(self.norm(self.make(x))).relu()
        return self.head(x.mean((1, 2)))


def windows(x: Tensor) -> Tensor:
    """(2, 8, 8, 8) cut into windows of 4x4, a row for each."""
    return x.reshape(2, 2, 4, 2, 4, 8).transpose(2, 3).reshape(8, 4, 4, 8)


def together(x: Tensor) -> Tensor:
    return x.reshape(2, 2, 2, 4, 4, 8).transpose(2, 3).reshape(2, 8, 8, 8)


class Written(nn.Module):
    """A product with a weight, written in one of many ways, is all that shows which axis counts channels."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.probe, self.after = way, Probe(), Probe()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = x.reshape(n, 3, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h // 2, w // 2, 12)
        x = self.probe(torch.sin(x)[..., :8])
        y = {
            "matmul": lambda: x @ self.weight,
            "einsum": lambda: torch.einsum("nhwc,cd->nhwd", x, self.weight),
            "linear": lambda: F.linear(x, self.weight),
            "tensordot": lambda: torch.tensordot(x, self.weight, dims=1),
            "flat": lambda: (x.reshape(-1, 8) @ self.weight).reshape(n, h // 2, w // 2, 8),
            "convolution": lambda: F.conv2d(x.permute(0, 3, 1, 2), self.weight[..., None, None]).permute(0, 2, 3, 1),
            "adapted": lambda: F.linear(x, self.weight + self.weight[:, :2] @ self.weight[:2]),
            "normed": lambda: F.linear(x, self.weight / self.weight.norm(dim=1, keepdim=True)),
        }[self.way]()
        return self.head(self.after(y).flatten(1, 2).mean(1))


@pytest.mark.parametrize("way", ["matmul", "einsum", "linear", "tensordot", "flat", "convolution", "adapted", "normed"])
def test_channels_are_what_is_summed_over_with_weights(way: str) -> None:
    found = axes_of(Written(way), 16, 16)
    assert found["probe"] == found["after"] == LAST


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: F.pad(x, (0, 0, 1, 1, 1, 1))[:, 1:-1, 1:-1],
        lambda x: torch.roll(torch.roll(x, (2, 1), (1, 2)), (-2, -1), (1, 2)),
        lambda x: torch.cat([x[..., :4], x[..., 4:]], -1),
        lambda x: torch.stack(x.unbind(1), 1),
        lambda x: x.flatten(1, 2).unflatten(1, (8, 8)),
        lambda x: together(windows(x).reshape(8, 16, 8)),
        lambda x: x.chunk(2, 1)[0].repeat_interleave(2, 1),
        lambda x: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True),
        lambda x: x * x.mean((1, 2), keepdim=True).sigmoid(),
        lambda x: torch.where(x > 0, x, 0.1 * x).clone().mul_(2).contiguous(),
        lambda x: x.movedim(-1, 1).swapaxes(2, 3).transpose(2, 3).movedim(1, -1),
        lambda x: x.squeeze().unsqueeze(1).squeeze(1).expand(2, 8, 8, 8),
    ],
)  # fmt: skip
def test_axes_are_followed_through_what_a_network_does_with_maps(make: Callable[[Tensor], Tensor]) -> None:
    found = axes_of(Last(make))
    assert found["probe"] == found["norm"] == found["mix"] == LAST
    assert found["embed"] == FIRST
    assert found["head"] == (1, None, None)


class Turned(Last):
    """Columns before rows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.probe(self.embed(x).permute(0, 3, 2, 1))).mean((1, 2)))


def test_columns_may_come_before_rows() -> None:
    assert axes_of(Turned())["probe"] == (3, 2, 1)


class Attention(nn.Module):
    """Tokens, with the attention map of each head as the output of a module."""

    def __init__(self, block: nn.Module | None = None) -> None:
        super().__init__()
        self.embed, self.norm, self.qkv, self.map = (
            nn.Conv2d(3, 8, 2, 2),
            nn.LayerNorm(8),
            nn.Linear(8, 24),
            nn.Softmax(-1),
        )
        self.queries, self.out, self.head = Probe(), nn.Linear(8, 8), nn.Linear(8, 4)
        self.block = block or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        k = torch.zeros(k.shape).scatter_add(-1, torch.arange(4).expand(k.shape), k)  # no weight, as it has k in it
        attention = self.map(self.queries(q) @ k.transpose(-1, -2))
        x = x + self.out((attention @ v).transpose(1, 2).flatten(2))
        return self.head(self.block(x).mean(1))


def test_heads_and_tokens_are_no_maps() -> None:
    found = axes_of(Attention())
    assert found["embed"] == FIRST
    assert found["norm"] == found["out"] == (2, None, None)
    assert found["map"][0] is None
    assert found["queries"][1:] == (None, None)


def test_layers_of_torch_that_work_in_one_operation_are_looked_into() -> None:
    block = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 2)
    found = axes_of(Attention(block))
    assert {found[f"block.layers.{number}"] for number in range(2)} == {(2, None, None)}


class Regrouped(nn.Module):
    """Tokens that an attention layer of torch makes, put back into rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Conv2d(3, 8, 2, 2), nn.MultiheadAttention(8, 2, batch_first=True)
        self.whole, self.head = Probe(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.embed(x)
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0] + tokens
        return self.head(self.whole(tokens.unflatten(1, maps.shape[2:])).mean((1, 2)))


def test_tokens_may_be_put_back_into_maps() -> None:
    assert axes_of(Regrouped(), 8, 12)["whole"] == LAST


class Depth(nn.Module):
    """Maps whose channels are pieces of the image: what was a window, or what is at one place of every window."""

    def __init__(self, is_window: bool) -> None:
        super().__init__()
        self.is_window, self.conv = is_window, nn.Conv2d(12, 12, 3, padding=1)
        self.again, self.head = Probe(), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_window:
            x = F.pixel_unshuffle(x, 2)
        else:  # four windows of 4x4, one behind the other
            x = x.reshape(len(x), 3, 2, 4, 2, 4).permute(0, 1, 2, 4, 3, 5).reshape(len(x), 12, 4, 4)
        x = self.conv(x)
        if self.is_window:
            x = F.pixel_shuffle(x, 2)
        else:
            x = x.reshape(len(x), 3, 2, 2, 4, 4).permute(0, 1, 2, 4, 3, 5).reshape(len(x), 3, 8, 8)
        return self.head(self.again(x).mean((2, 3)))


def test_places_in_a_window_are_no_places_in_the_image() -> None:
    assert axes_of(Depth(True))["conv"] == FIRST
    assert axes_of(Depth(False))["conv"] == (1, None, None)
    assert axes_of(Depth(False))["again"] == (1, None, None), "the convolution has made other channels of the windows"


class AlongRows(nn.Module):
    """A linear layer over the columns of maps, whose channels nothing shows."""

    def __init__(self) -> None:
        super().__init__()
        self.probe, self.mix, self.head = Probe(), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.probe(torch.stack([x[:, 0], x[:, 1]], 1))).mean((1, 2)))


def test_an_axis_that_is_columns_and_channels_makes_no_maps() -> None:
    outputs = trace_outputs(AlongRows().eval(), example_images((8, 8)))
    assert layout(outputs, "probe") == (3, 2, 3)
    assert last_map_layer(outputs) is None


class OneByOne(nn.Module):
    """Pools image by image, and tokens along their line."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.pooled, self.line, self.head = nn.Linear(12, 8), Probe(), nn.MaxPool1d(2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(F.pixel_unshuffle(x, 2).sin().permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.pooled(torch.stack([F.max_pool2d(one, 3, 1) for one in x]))
        return self.head(self.line(x.flatten(2)).mean(2))


def test_pooling_may_be_of_single_images_or_along_a_line() -> None:
    found = axes_of(OneByOne(), 12, 16)
    assert found["mix"] == LAST
    assert found["pooled"] == FIRST
    assert found["line"] == (1, None, None)


class Mixer(nn.Module):
    """An MLP-Mixer: weights sum over tokens too, as a linear layer or as a convolution of one position.

    Only its norm says which of the axes are channels: the image is cut into patches by reshaping.
    """

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.embed, self.norm, self.norm2 = nn.Linear(12, 8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.tokens = nn.Linear(16, 16) if way == "linear" else nn.Conv1d(16, 16, 1)
        self.channels, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2))
        y = self.norm(x)
        x = x + (self.tokens(y.transpose(1, 2)).transpose(1, 2) if self.way == "linear" else self.tokens(y))
        return self.head((x + self.channels(self.norm2(x)).relu()).mean(1))


@pytest.mark.parametrize("way", ["linear", "convolution"])
def test_tokens_are_no_channels_even_if_weights_sum_over_them(way: str) -> None:
    found = axes_of(Mixer(way))
    assert found["norm"] == found["channels"] == (2, None, None)
    assert found["tokens"] == ((1 if way == "linear" else 2), None, None)


class FirstByHand(nn.Module):
    """ConvNeXt's norm by hand, spatial attention, efficient channel attention, shuffled groups: channels are second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.spatial, self.eca = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(2, 1, 3, padding=1),
            nn.Conv1d(1, 1, 3, padding=1),
        )
        self.group, self.instance, self.gate = (
            nn.Conv2d(8, 8, 3, groups=8, padding=1),
            nn.InstanceNorm2d(8),
            nn.Sigmoid(),
        )
        self.shuffled, self.up, self.head = Probe(), nn.Upsample(scale_factor=2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-6).sqrt()
        x = x * self.gate(self.spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))
        x = x * self.eca(x.mean((2, 3))[:, None]).transpose(1, 2)[..., None]
        x = self.shuffled(x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2))
        return self.head(self.up(self.instance(self.group(x))).mean(3).mean(2))


def test_channels_that_are_second_stay_second() -> None:
    found = axes_of(FirstByHand())
    assert {name: found[name] for name in ("conv", "shuffled", "group", "instance", "up")} == dict.fromkeys(
        ("conv", "shuffled", "group", "instance", "up"), FIRST
    )
    assert found["spatial"] == found["gate"] == FIRST


class Windows(nn.Module):
    """Maps cut into windows: inside of these, and from window to window, there are no rows of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.grid, self.window, self.tokens = nn.Conv2d(3, 8, 1), Probe(), Probe(), Probe()
        self.norm, self.whole, self.head = nn.LayerNorm(8), Probe(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        x = self.norm(windows(self.embed(x).permute(0, 2, 3, 1)))
        self.window(x)
        self.grid(x.reshape(n, 4, 16, 8))
        self.tokens(x.reshape(n * 4, 16, 8))
        x = self.whole(together(x))
        return self.head(x.mean((1, 2)))


def test_windows_are_no_maps_and_what_is_put_together_again_is() -> None:
    found = axes_of(Windows())
    assert found["grid"] == (3, None, None)
    assert found["window"] == found["tokens"] == (None, None, None)
    assert found["whole"] == LAST


class Unknown(nn.Module):
    """What comes out of an operation that is not known is known by what follows, or not at all."""

    def __init__(self, after: nn.Module) -> None:
        super().__init__()
        self.conv, self.probe, self.after = nn.Conv2d(3, 8, 3, padding=1), Probe(), after
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.after(self.probe(x.as_strided(x.shape, x.stride()))).amax((2, 3)))


def test_what_nothing_shows_is_not_known() -> None:
    assert axes_of(Unknown(nn.Conv2d(8, 8, 3)))["probe"] == FIRST
    assert axes_of(Unknown(nn.MaxPool2d(2)))["probe"] == FIRST
    assert axes_of(Unknown(nn.Identity()))["probe"] == (1, None, None)


def test_what_does_not_depend_on_the_image_is_no_map() -> None:
    assert axes_of(Constant())["table"] == (None, None, None)


class Constant(nn.Module):
    """A layer whose outputs do not depend on the image, as tables of relative positions do not."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv, self.head = nn.Linear(2, 8), nn.Conv2d(3, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        table = self.table(torch.ones(1, 8, 8, 2)).permute(0, 3, 1, 2)
        return self.head((self.conv(x) + table).mean((2, 3)))


# -------------------------------------------------------------------------------------------------- torchvision


def check_by_size(module: nn.Module, sizes: tuple[tuple[int, int], tuple[int, int]]) -> list[LayerOutput]:
    """A second opinion: where the size of the images changes, rows and columns change, and never channels.

    What the larger images give is returned.
    """
    outputs, larger = (trace_outputs(module, example_images(size)) for size in sizes)
    certain = 0
    for use, other in zip(outputs, larger, strict=True):
        assert use.name == other.name
        if use.values is None or other.values is None or len(use.values.shape) < 3 or use.values.shape[0] != 2:
            continue
        changed = [n for n, (a, b) in enumerate(zip(use.values.shape, other.values.shape, strict=True)) if a != b]
        channels, rows, columns = as_tuple(use.values.axes)
        assert channels is not None, use.name
        assert channels not in changed, use.name
        if isinstance(use.module, (nn.Conv2d, nn.BatchNorm2d)):
            assert channels == 1
        elif isinstance(use.module, (nn.Linear, nn.LayerNorm)):
            assert channels == (1 if type(use.module).__name__ == "LayerNorm2d" else len(use.values.shape) - 1)
        if len(changed) == 2 and len(use.values.shape) == 4 and use.values.positions > 1:
            certain += 1
            assert [rows, columns] == changed, use.name  # rows come first in all of these
    assert certain > 10
    return larger


def layout(outputs: list[LayerOutput], name: str) -> Any:
    return next(use.values and as_tuple(use.values.axes) for use in outputs if use.name == name)


SMALL = ("convnext_tiny", "mobilenet_v2", "resnet18", "shufflenet_v2_x0_5", "swin_t")
FIXED = ("vit_", "maxvit_")
ALL = [
    pytest.param(name, marks=[] if name in SMALL else pytest.mark.slow)
    for name in torchvision_classifiers()
    if not name.startswith(FIXED)
]


@pytest.mark.parametrize("name", ALL)
def test_another_size_of_images_changes_rows_and_columns_only(name: str) -> None:
    torch.manual_seed(0)
    module = imagenet.build(name, 10).eval()
    side = 96 if name in ("inception_v3", "googlenet") or name.startswith(("vgg", "alexnet")) else 32
    outputs = check_by_size(module, ((side, 3 * side // 2), (2 * side, 3 * side)))
    if name.startswith("swin"):
        assert layout(outputs, "features.1") == layout(outputs, "norm") == LAST
        assert layout(outputs, "permute") == FIRST
    if name.startswith("convnext"):
        assert layout(outputs, "features.1.0") == layout(outputs, "features.1.0.block.0") == FIRST
        assert layout(outputs, "features.1.0.block.2") == layout(outputs, "features.1.0.block.4") == LAST
    assert last_map_layer(outputs) == {
        "alexnet": "avgpool", "convnext": "features", "densenet": "features", "efficientnet": "features",
        "googlenet": "inception5b", "inception": "Mixed_7c", "mnasnet": "layers", "mobilenet": "features",
        "regnet": "trunk_output", "resnet": "layer4", "resnext": "layer4", "shufflenet": "conv5",
        "squeezenet": "classifier.2", "swin": "permute", "vgg": "avgpool", "wide": "layer4",
    }[name.split("_")[0].rstrip("0123456789")]  # fmt: skip


def small_maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    return MaxVit((32, 32), 8, 4, [8, 16], [1, 1], 4, 0.0, num_classes=7)


def small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=7)


def test_maxvit_has_maps_between_its_windows() -> None:
    outputs = trace_outputs(small_maxvit().eval(), example_images((32, 32)))
    for use in outputs:
        values = use.values
        if values is None or len(values.shape) < 3:
            continue
        kind = type(use.module).__name__
        if kind in ("Conv2d", "BatchNorm2d", "MBConv", "MaxVitLayer", "MaxVitBlock", "WindowDepartition"):
            assert values.axes.channels == 1, use.name
        if kind in ("Linear", "LayerNorm", "PartitionAttentionLayer", "RelativePositionalMultiHeadAttention"):
            if kind == "PartitionAttentionLayer":
                assert as_tuple(values.axes) == FIRST
            else:
                assert as_tuple(values.axes) == (len(values.shape) - 1, None, None), use.name
    assert last_map_layer(outputs) == "blocks.1"


def test_vit_has_maps_before_its_tokens_and_in_them() -> None:
    outputs = trace_outputs(small_vit().eval(), example_images((32, 32)))
    assert layout(outputs, "conv_proj") == FIRST
    assert layout(outputs, "encoder.layers.encoder_layer_1") == layout(outputs, "encoder.ln") == (2, None, None)
    assert last_map_layer(outputs) == "encoder"


# ---------------------------------------------------------------------------------------------------- the outputs


def test_outputs_are_listed_by_use_with_what_they_hold() -> None:
    torch.manual_seed(0)
    relu = nn.ReLU(inplace=True)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.Flatten(), nn.Linear(64, 5))
    module.train()
    outputs = trace_outputs(module, example_images((8, 8)))
    assert [use.name for use in outputs] == ["0", "1#1", "2", "1#2", "4", "5"]
    assert [use.rectifies for use in outputs] == [False, True, False, True, False, False]
    assert [use.values.positions for use in outputs if use.values] == [36, 36, 16, 16, 1, 1]
    first = outputs[1]
    assert first.given is not None
    assert first.values is not None
    assert first.given.lowest < 0 == first.values.lowest
    assert last_map_layer(outputs) == "1"
    assert all(part.training for part in module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    with pytest.raises(RuntimeError):
        trace_outputs(module, torch.zeros(2, 5, 8, 8))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


class Clipped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 6)


@pytest.mark.parametrize(
    ("layer", "rectifies"),
    [
        (nn.ReLU(), True),
        (nn.ReLU6(inplace=True), True),
        (nn.Hardtanh(0, 1), True),
        (nn.Threshold(0.2, 0), True),
        (Clipped(), True),
        (nn.Hardswish(), False),
        (nn.GELU(), False),
        (nn.SiLU(), False),
        (nn.Hardsigmoid(), False),
        (nn.Softplus(), False),
        (nn.LeakyReLU(), False),
        (nn.Sequential(nn.ReLU()), False),
        (nn.Identity(), False),
    ],
)
def test_layers_that_make_negative_values_zero(layer: nn.Module, rectifies: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Flatten(), nn.Linear(144, 5)).eval()
    uses = [use for use in trace_outputs(module, example_images((8, 8))) if use.layer == "1"]
    assert [use.rectifies for use in uses] == [rectifies]
    assert uses[0].values is not None
    assert math.isfinite(uses[0].values.lowest)
