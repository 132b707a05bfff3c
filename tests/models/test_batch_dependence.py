"""Networks whose features of an image depend on what else is in its batch are told by what they do, and named."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.command_line import invoke
from torch import Tensor, nn

from decompose_cli.api.model import load_model
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.models.batch_dependence import mixes_images
from decompose_cli.models.registry import get_entry


class Net(nn.Module):
    """A convolution, a part ``n`` to try, and a head; the part ``m`` comes first of all."""

    def __init__(self, part: nn.Module, *, pooled: bool = False) -> None:
        super().__init__()
        self.m, self.c, self.n, self.d = nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), part, nn.Dropout()
        self.head = nn.Linear(8, 4)
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.m(x))
        x = self.n(x.mean((2, 3))) if self.pooled else self.n(x).relu().mean((2, 3))
        return self.head(self.d(x))


class Function(nn.Module):
    """Normalises by a function between two convolutions; the second is not to blame."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.batch_norm(self.one(x), None, None, training=True))


class Always(nn.BatchNorm2d):
    """Never leaves training."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)


class Whitened(nn.Module):
    """A normalisation of a user's own, over images and positions."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), keepdim=True) + 1e-5)


class Ranked(nn.Module):
    """No normalisation at all: compares images with each other."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((1, 2, 3)).softmax(0)[:, None, None, None]


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class PairsOfImages(nn.Module):
    """Ghost batches of two images."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part - part.mean((0, 2, 3), keepdim=True) for part in x.split(2)])


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (lambda: nn.BatchNorm2d(8, track_running_stats=False), "n"),
        (lambda: nn.BatchNorm2d(8, affine=False, track_running_stats=False), "n"),
        (lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)), "n.1"),
        (Function, "n"),
        (lambda: Always(8), "n"),
        (Whitened, "n"),
        (Ranked, "n"),
        (PairsOfImages, "n"),
        (lambda: nn.BatchNorm2d(8), None),
        (lambda: nn.BatchNorm2d(8, momentum=None), None),
        (lambda: nn.InstanceNorm2d(8), None),
        (lambda: nn.InstanceNorm2d(8, track_running_stats=True), None),
        (lambda: nn.GroupNorm(2, 8), None),
        (lambda: nn.LocalResponseNorm(2), None),
        (Noisy, None),
    ],
)
@pytest.mark.parametrize("head", ["head", None])
def test_what_mixes_images_is_named(part: Callable[[], nn.Module], name: str | None, head: str | None) -> None:
    torch.manual_seed(0)
    module = Net(part()).train()
    module.m.eval()
    modes = [one.training for one in module.modules()]
    state = {key: value.clone() for key, value in module.state_dict().items()}
    assert mixes_images(module, (8, 9), head) == name
    assert [one.training for one in module.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())


def test_statistics_that_a_single_image_does_not_have_are_looked_for_in_larger_batches() -> None:
    torch.manual_seed(0)
    module = Net(nn.BatchNorm1d(8, track_running_stats=False), pooled=True).eval()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        module(torch.zeros(1, 3, 8, 8))
    assert mixes_images(module, (8, 8), "head") == "n"


def test_features_are_looked_at_even_if_a_head_of_zeros_hides_them() -> None:
    torch.manual_seed(0)
    module = Net(Whitened())
    nn.init.zeros_(module.head.weight)
    assert mixes_images(module, (8, 8), "head") == "n"


def test_what_a_network_does_outside_of_its_modules_has_no_name() -> None:
    class Outside(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(0))

    assert mixes_images(Outside(nn.Identity()), (8, 8), "head") == ""


@pytest.mark.parametrize("options", [{}, {"gate": "entropy-classifier"}, {"norm_mode": "online"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_of_decompose_do_not_mix_images(options: dict[str, str], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    assert mixes_images(get_entry("resnet14").configured(**options).make(10, (32, 32)).to(dtype), (32, 32)) is None


class Rounded(nn.Module):
    """Rounds otherwise in batches, as other kernels do."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + 2 * torch.finfo(x.dtype).eps) if len(x) > 1 else x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_mixing(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = Net(Rounded())
    nn.init.constant_(module.c.bias, 50.0)  # type: ignore[arg-type]
    assert mixes_images(module.to(dtype), (8, 8), "head") is None


class Crowded(nn.Module):
    """Images are told apart from others in large batches only."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean((0, 2, 3), keepdim=True) if len(x) > 4 else x


class Overflowing(nn.Module):
    """Compares images with each other, and is infinite where one has much contrast."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.std((1, 2, 3), keepdim=True) > 1.5, torch.inf, Whitened()(x))


@pytest.mark.parametrize("part", [Crowded, Overflowing])
def test_a_network_that_is_opened_is_looked_at_in_a_batch_of_eight(part: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = Net(part())
    nn.init.dirac_(network.c.weight)
    model = load_model(network, input_size=8)
    assert mixes_images(network, (8, 8), "head", model.network.head.features) == "n"
    assert len(model.network.head.features) == 8


def test_images_that_are_large_are_looked_at_a_few_at_a_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decompose_cli.models.tracing._PIXELS_AT_ONCE", 1)
    torch.manual_seed(0)
    for part, times in ((Whitened(), 1), (nn.Identity(), 0)):
        caplog.clear()
        model = load_model(Net(part), input_size=8)
        assert len(model.network.head.features) == 3
        assert caplog.text.count("'n' (Whitened) of Net makes something else of an image") == times


NETWORK = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 10)
    )
"""
SENTENCE = "'1' (BatchNorm2d) of mixing:make makes something else of an image when other images are in its batch"


@pytest.mark.parametrize(
    "line",
    [
        "validate mixing:make --dataset FEW --input-size 32",
        "sweep mixing:make --dataset FEW --input-size 32 --ks 1,2",
        "selectivity mixing:make --dataset FEW --input-size 32 --compare other.pth",
        "explain mixing:make --dataset FEW --input-size 32 --worst 1 -o out",
        "train mixing:make --dataset FEW --epochs 1 -o run --runs 2",
    ],
)
def test_every_command_warns_once(line: str, few: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mixing.py").write_text(NETWORK, encoding="utf-8")
    monkeypatch.syspath_prepend(".")
    torch.save(importlib.import_module("mixing").make().state_dict(), "other.pth")
    result = invoke(*line.replace("FEW", few).split())
    assert result.exit_code == 0, result.stderr
    assert " ".join(result.stderr.split()).count(SENTENCE) == 1


def test_features_that_depend_on_other_images_are_not_kept(few: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mixing.py").write_text(NETWORK, encoding="utf-8")
    monkeypatch.syspath_prepend(".")
    found = []
    for batch_size in (2, 20):
        study = Study(Inputs(model="mixing:make", dataset=few, input_size="32", batch_size=batch_size), ("test",))
        found.append(study.bank.features)
        assert study.describe_cache().features == "off"
    assert torch.equal(found[0], found[1])  # images go through in the same portions, however many are read at a time


def test_in_a_notebook_each_network_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    for times in (1, 2):
        load_model(Net(Whitened()), input_size=8)
        assert caplog.text.count("'n' (Whitened) of Net makes something else of an image") == times


@pytest.mark.parametrize("output", [lambda x: {"a": x, "b": x}, lambda x: x.argmax(1), lambda x: [x]])
def test_what_gives_no_real_numbers_is_left_to_other_checks(output: Callable[[Tensor], object]) -> None:
    class Odd(Net):
        def forward(self, x: Tensor) -> Tensor:
            return output(super().forward(x))  # type: ignore[return-value]

    assert mixes_images(Odd(Whitened()), (8, 8)) is None
    assert mixes_images(Odd(Whitened()), (8, 8), "head") == "n"
