"""The CIFAR ResNets against the same function written out with plain operations in float64."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor, nn

from decompose_cli.models.cifar_resnet import CifarResNet, PreActCifarResNet


def _norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / (variance + 1e-5).sqrt()
    return (x - mean[None, :, None, None]) * scale[None, :, None, None] + state[f"{name}.bias"][None, :, None, None]


def _convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution with a border of zeros, as nine matrix products."""
    n, channels, height, width = x.shape
    padded = x.new_zeros(n, channels, height + 2, width + 2)
    padded[:, :, 1:-1, 1:-1] = x
    out = x.new_zeros(n, len(weight), -(-height // stride), -(-width // stride))
    for i in range(3):
        for j in range(3):
            shifted = padded[:, :, i : i + height : stride, j : j + width : stride]
            out += torch.einsum("nchw,oc->nohw", shifted, weight[:, :, i, j])
    return out


def _shortcut(x: Tensor, channels: int, stride: int) -> Tensor:
    """Option A: every second pixel, new channels of zeros, half of them before and half after."""
    out = x.new_zeros(len(x), channels, -(-x.shape[2] // stride), -(-x.shape[3] // stride))
    before = (channels - x.shape[1]) // 2
    out[:, before : before + x.shape[1]] = x[:, :, ::stride, ::stride]
    return out


def written_out(x: Tensor, state: dict[str, Tensor], depth: int) -> Tensor:
    x = _norm(_convolve(x, state["conv1.weight"], 1), state, "bn1").clamp(min=0)
    for stage, channels in ((1, 16), (2, 32), (3, 64)):
        for block in range((depth - 2) // 6):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = _norm(_convolve(x, state[f"{name}.conv1.weight"], stride), state, f"{name}.bn1").clamp(min=0)
            y = _norm(_convolve(y, state[f"{name}.conv2.weight"], 1), state, f"{name}.bn2")
            x = (y + _shortcut(x, channels, stride)).clamp(min=0)
    return x.mean((2, 3)) @ state["linear.weight"].t() + state["linear.bias"]


def _random_network(depth: int, num_classes: int = 10) -> CifarResNet:
    """A network whose every parameter and statistic counts: none is left at zero or one."""
    torch.manual_seed(depth)
    model = CifarResNet(depth, num_classes).double().eval()
    for name, value in model.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight")):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(std=0.2)
    return model


@pytest.mark.parametrize(("depth", "side"), [(8, 32), (20, 32), (32, 16), (14, 31), (8, 5)])
def test_forward_is_the_written_out_function(depth: int, side: int) -> None:
    model = _random_network(depth, num_classes=7)
    images = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(images), written_out(images, model.state_dict(), depth), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth", [-4, 0, 2, 7, 9, 18, 21, 52])
def test_depths_that_are_not_6n_plus_2_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth {depth} is not 6n"):
        CifarResNet(depth)


def test_parameter_names_are_those_of_the_published_checkpoints() -> None:
    names = list(CifarResNet(20).state_dict())
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    expected = ["conv1.weight", *(f"bn1.{part}" for part in norm)]
    for stage in (1, 2, 3):
        for block in range(3):
            for number in (1, 2):
                expected.append(f"layer{stage}.{block}.conv{number}.weight")
                expected += [f"layer{stage}.{block}.bn{number}.{part}" for part in norm]
    assert names == [*expected, "linear.weight", "linear.bias"]


def test_shapes_and_classes() -> None:
    model = CifarResNet(8, num_classes=3).eval()
    assert model(torch.zeros(4, 3, 32, 32)).shape == (4, 3)
    assert model.layer3(torch.zeros(1, 32, 16, 16)).shape == (1, 64, 8, 8)


def test_published_checkpoint_fits_key_for_key(reference_dir) -> None:
    from decompose_cli.models.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(reference_dir / "weights" / "resnet20-12fca82f.th")
    expected = {k for k in CifarResNet(20).state_dict() if not k.endswith("num_batches_tracked")}
    assert {k for k in checkpoint.state_dict if not k.endswith("num_batches_tracked")} == expected


def test_initial_weights_of_a_seed_never_change() -> None:
    """What others trained from a seed can be trained again. Signs are alike on every processor, last bits not."""
    torch.manual_seed(0)
    signs, everything = hashlib.sha256(), hashlib.sha256()
    for name, value in CifarResNet(20).state_dict().items():
        everything.update(name.encode() + value.numpy().tobytes())
        signs.update(name.encode() + (value > 0).numpy().tobytes())
    assert signs.hexdigest() == "c9f3318f2affa3ae66fa7f9e62191d3535632ac98341b6397767ba9c996125e4"
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert everything.hexdigest() == "3f2369a5ce64cc6fff21b75c16ce1738818727def79313fd24acd8e6c7662228"


def counted(depth: int, bottleneck: bool, preact: bool, projection: bool = True, classes: int = 10) -> int:
    """Parameters, layer by layer, from the papers' tables."""
    layers, wide = (3, 4) if bottleneck else (2, 1)
    total, entering = 3 * 16 * 9, 16
    total += 2 * 64 * wide if preact else 2 * 16  # the last normalisation or the first
    for channels in (16, 32, 64):
        for _ in range((depth - 2) // (3 * layers)):
            leaving = channels * wide
            widths = [entering, channels, channels, leaving] if bottleneck else [entering, channels, channels]
            kernels = [1, 9, 1] if bottleneck else [9, 9]
            total += sum(a * b * k for a, b, k in zip(widths[:-1], widths[1:], kernels, strict=True))
            total += 2 * sum(widths[:-1] if preact else widths[1:])
            if entering != leaving and projection:
                total += entering * leaving + (0 if preact else 2 * leaving)
            entering = leaving
    return total + entering * classes + classes


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_published_number_of_parameters_with_projections() -> None:
    assert parameters(CifarResNet(110, shortcut="projection")) == 1_730_714


@pytest.mark.parametrize("depth", [8, 20, 56, 110])
def test_number_of_parameters_with_basic_blocks(depth: int) -> None:
    assert parameters(CifarResNet(depth)) == counted(depth, False, False, projection=False)
    assert parameters(CifarResNet(depth, shortcut="projection")) == counted(depth, False, False)
    assert parameters(PreActCifarResNet(depth, 7)) == counted(depth, False, True, classes=7)


@pytest.mark.parametrize("depth", [11, 29, 164])
def test_number_of_parameters_with_bottlenecks(depth: int) -> None:
    model = CifarResNet(depth, 100, shortcut="projection", block="bottleneck")
    assert parameters(model) == counted(depth, True, False, classes=100)
    assert parameters(PreActCifarResNet(depth, block="bottleneck")) == counted(depth, True, True)


VARIANTS = [
    pytest.param(lambda n: CifarResNet(14, n, shortcut="projection"), 1, id="projection"),
    pytest.param(lambda n: CifarResNet(20, n, shortcut="projection", block="bottleneck"), 4, id="bottleneck"),
    pytest.param(lambda n: PreActCifarResNet(14, n), 1, id="pre-activation"),
    pytest.param(lambda n: PreActCifarResNet(20, n, block="bottleneck"), 4, id="pre-activation bottleneck"),
]


@pytest.mark.parametrize(("make", "wide"), VARIANTS)
def test_shapes_of_the_stages(make, wide: int) -> None:
    model = make(3).eval()
    x = model.conv1(torch.randn(4, 3, 32, 32))
    assert x.shape == (4, 16, 32, 32)
    for stage, channels, side in ((model.layer1, 16, 32), (model.layer2, 32, 16), (model.layer3, 64, 8)):
        assert len(stage) == 2
        x = stage(x)
        assert x.shape == (4, channels * wide, side, side)
    assert model.fc.in_features == 64 * wide
    assert model(torch.zeros(4, 3, 32, 32)).shape == (4, 3)
    assert model(torch.zeros(1, 3, 17, 20)).shape == (1, 3)


@pytest.mark.parametrize(("make", "wide"), VARIANTS)
def test_blocks_stand_between_stem_and_pooled_head(make, wide: int) -> None:
    """The network, one block after the other; the blocks themselves have their own tests."""
    torch.manual_seed(3)
    model = make(7).double().eval()
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith(("running_var", "bn.weight")):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(std=0.2)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    is_preact = isinstance(model, PreActCifarResNet)
    with torch.no_grad():
        x = _convolve(images, state["conv1.weight"], 1)
        if not is_preact:
            x = _norm(x, state, "bn1").clamp(min=0)
        for stage in (model.layer1, model.layer2, model.layer3):
            for block in stage:
                x = block(x)
        if is_preact:
            x = _norm(x, state, "bn").clamp(min=0)
        expected = x.mean((2, 3)) @ state["fc.weight"].t() + state["fc.bias"]
        torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)


def test_parameter_names_with_projections() -> None:
    names = [name for name in CifarResNet(8, shortcut="projection").state_dict() if name.endswith("weight")]
    plain = [name for name in CifarResNet(8).state_dict() if name.endswith("weight")]
    added = [f"layer{stage}.0.downsample.{part}.weight" for stage in (2, 3) for part in (0, 1)]
    assert sorted(names) == sorted([*plain[:-1], *added, "fc.weight"])
    wide = CifarResNet(11, shortcut="projection", block="bottleneck").state_dict()
    assert wide["layer1.0.downsample.0.weight"].shape == (64, 16, 1, 1)
    preact = [name for name in PreActCifarResNet(8).state_dict() if name.endswith("weight")]
    assert preact[:3] == ["conv1.weight", "layer1.0.bn1.weight", "layer1.0.conv1.weight"]
    assert preact[-2:] == ["bn.weight", "fc.weight"]
    assert [name for name in preact if "downsample" in name] == [f"layer{n}.0.downsample.0.weight" for n in (2, 3)]


@pytest.mark.parametrize("depth", [2, 8, 12, 21, 32])
@pytest.mark.parametrize("make", [CifarResNet, PreActCifarResNet])
def test_depths_of_bottlenecks_that_are_not_9n_plus_2_are_refused(make, depth: int) -> None:
    options = {"shortcut": "projection"} if make is CifarResNet else {}
    with pytest.raises(ValueError, match=f"depth {depth} is not 9n"):
        make(depth, block="bottleneck", **options)


@pytest.mark.parametrize("depth", [2, 21, 164 + 1])
def test_depths_of_pre_activation_networks_that_are_not_6n_plus_2_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth {depth} is not 6n"):
        PreActCifarResNet(depth)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"block": "bottleneck"}, "bottleneck blocks cannot have 'identity' shortcuts"),
        ({"shortcut": "none"}, "basic blocks cannot have 'none' shortcuts"),
        ({"block": "wide"}, "block 'wide' is neither basic nor bottleneck"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CifarResNet(20, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda norm: CifarResNet(8, norm_layer=norm),
        lambda norm: CifarResNet(8, shortcut="projection", norm_layer=norm),
        lambda norm: CifarResNet(11, shortcut="projection", block="bottleneck", norm_layer=norm),
        lambda norm: PreActCifarResNet(8, norm_layer=norm),
        lambda norm: PreActCifarResNet(11, block="bottleneck", norm_layer=norm),
    ],
)
def test_another_normalisation_reaches_every_layer(make) -> None:
    model = make(lambda channels: nn.GroupNorm(4, channels))
    usual = make(nn.BatchNorm2d)
    kinds = [type(part) for part in model.modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.GroupNorm) == [type(part) for part in usual.modules()].count(nn.BatchNorm2d)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
