"""Features of a whole data set against the plain network, one image at a time."""

from __future__ import annotations

import copy
import itertools
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.datasets.base import Chunk, InMemoryImages
from decompose_cli.errors import DecomposeError
from decompose_cli.features.extraction import Computing, extract_features, keep_freed_memory, normalised_batches
from decompose_cli.features.forward import images_at_once
from decompose_cli.messages import use_reporter
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.inference import FeatureReader
from decompose_cli.models.network import Network, network_of
from decompose_cli.preprocessing import Preprocessing

CPU = torch.device("cpu")
SIDE = 16
PREPROCESSING = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), resize=SIDE, crop=(SIDE, SIDE))


class WithControlFlow(nn.Module):
    """Cannot be traced symbolically, and ends in a 1x1 convolution with a factor after it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        if float(x.detach().abs().max()) > 1e-9:
            x = x.relu()
        return self.last(self.dropout(F.adaptive_avg_pool2d(x, 1))).flatten(1) * 0.5


def with_statistics(module: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms as after training, so that folding them has something to do."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = torch.randn(part.num_features, generator=generator) * 0.1
            part.running_var = torch.rand(part.num_features, generator=generator) + 0.5
            part.weight.data = torch.rand(part.num_features, generator=generator) + 0.5
            part.bias.data = torch.randn(part.num_features, generator=generator) * 0.1
    return module


def make_network(kind: str = "resnet") -> Network:
    torch.manual_seed(0)
    module = with_statistics(CifarResNet(8, 4) if kind == "resnet" else WithControlFlow()).eval()
    return network_of(module, (SIDE, SIDE))


def make_images(n: int = 70, side: int = SIDE) -> InMemoryImages:
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 4, (n,), generator=generator)
    return InMemoryImages("toy", "test", list("abcd"), PREPROCESSING, lambda: (pixels, labels), "stamp")


def extract(
    network: Network, images: InMemoryImages, preprocessing: Preprocessing = PREPROCESSING, **options: Any
) -> tuple[Tensor, Tensor]:
    features, unreadable = extract_features(network, images, preprocessing, Computing(CPU, **options))
    assert unreadable == {}
    return features, images.labels


def plain_features(network: Network, images: InMemoryImages, dtype: torch.dtype) -> Tensor:
    """One image at a time through an untouched copy: what enters the head, seen by a hook."""
    module = copy.deepcopy(network.module).to(dtype).eval()
    seen: list[Tensor] = []
    module.get_submodule(network.head.name).register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten()))
    mean = torch.tensor(PREPROCESSING.mean, dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor(PREPROCESSING.std, dtype=torch.float64).view(3, 1, 1)
    with torch.no_grad():
        for image in images.pixels_and_labels[0]:
            module(((image.double() / 255 - mean) / std).to(dtype)[None])
    return torch.stack(seen)


# ----------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["resnet", "control flow"])
def test_features_are_those_of_the_plain_network(kind: str, dtype: torch.dtype) -> None:
    network, images = make_network(kind), make_images()
    features, labels = extract(network, images)
    expected = plain_features(network, images, dtype)
    assert features.dtype == torch.float32
    assert features.shape == (70, network.tensors.num_features)
    assert expected.std() > 0.01
    torch.testing.assert_close(features.double(), expected.double(), rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, images.pixels_and_labels[1])


@pytest.mark.parametrize("kind", ["resnet", "control flow"])
def test_features_enter_the_head_and_give_the_logits(kind: str) -> None:
    network, images = make_network(kind), make_images(9)
    features, _ = extract(network, images)
    mean = torch.tensor(PREPROCESSING.mean).view(3, 1, 1)
    std = torch.tensor(PREPROCESSING.std).view(3, 1, 1)
    with torch.no_grad():
        logits = network.module((images.pixels_and_labels[0] / 255 - mean) / std)
    torch.testing.assert_close(
        F.linear(features, network.tensors.weight, network.tensors.bias), logits, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["resnet", "control flow"])
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_batch_size_changes_nothing(kind: str, precision: str) -> None:
    network, images = make_network(kind), make_images()
    whole, labels = extract(network, images, precision=precision, batch_size=70)
    tolerance = 1e-5 if precision == "32" else 0.03
    for batch_size in (1, 3, 64, 1000):
        features, found = extract(network, images, precision=precision, batch_size=batch_size)
        torch.testing.assert_close(features, whole, rtol=tolerance, atol=tolerance * float(whole.abs().max()))
        assert torch.equal(found, labels)


def test_one_image_is_enough() -> None:
    network = make_network()
    features, labels = extract(network, make_images(1))
    assert features.shape == (1, 64)
    assert labels.shape == (1,)


@pytest.mark.parametrize("kind", ["resnet", "control flow"])
def test_bfloat16_is_close(kind: str) -> None:
    network, images = make_network(kind), make_images()
    features, _ = extract(network, images, precision="bf16")
    expected = plain_features(network, images, torch.float64)
    assert features.dtype == torch.float32
    difference = (features.double() - expected).abs()
    assert float(difference.max()) < 0.05 * float(expected.abs().max())
    assert float(difference.mean()) < 0.01 * float(expected.abs().max())
    assert float(difference.max()) > 1e-5  # it was indeed computed in bfloat16


def test_geometry_is_applied() -> None:
    """Of larger images the centre is seen."""
    network, large = make_network(), make_images(5, side=SIDE + 4)
    pixels, labels = large.pixels_and_labels
    cut = InMemoryImages("toy", "test", list("abcd"), PREPROCESSING, lambda: (pixels[:, :, 2:-2, 2:-2], labels), "cut")
    preprocessing = Preprocessing(PREPROCESSING.mean, PREPROCESSING.std, resize=SIDE + 4, crop=(SIDE, SIDE))
    features, _ = extract(network, large, preprocessing)
    torch.testing.assert_close(features, extract(network, cut)[0])


def test_a_decomposed_network_has_the_same_features() -> None:
    network, images = make_network(), make_images(9)
    expected, _ = extract(network, images)
    module = copy.deepcopy(network.module)
    rows = [[1, 2], [3], [4, 5], [6]]
    module.set_submodule("linear", DecomposedLinear.from_dense(network.tensors.weight, network.tensors.bias, rows))
    features, _ = extract(network_of(module, (SIDE, SIDE)), images)
    torch.testing.assert_close(features, expected)
    assert isinstance(module.get_submodule("linear"), DecomposedLinear)


# ------------------------------------------------------------------------------------------------ images in portions


def portions(
    images: InMemoryImages, preprocessing: Preprocessing = PREPROCESSING, **options: object
) -> list[tuple[Tensor, Tensor]]:
    given = {"device": CPU, "precision": "32", "batch_size": 256, "workers": 0, **options}
    return list(normalised_batches(images, preprocessing, **given))  # type: ignore[arg-type]


def test_normalised_images_are_those_of_the_formula() -> None:
    """(pixel / 255 - mean) / std, pixel by pixel."""
    images = make_images(4, side=5)
    pixels, labels = images.pixels_and_labels
    preprocessing = Preprocessing(PREPROCESSING.mean, PREPROCESSING.std, resize=5, crop=(5, 5))
    found = portions(images, preprocessing)
    assert len(found) == 1
    normalised, truth = found[0]
    assert normalised.dtype == torch.float32
    assert normalised.shape == (4, 3, 5, 5)
    assert normalised.device == CPU
    for image, channel, row, column in itertools.product(range(4), range(3), range(5), range(5)):
        value = int(pixels[image, channel, row, column]) / 255
        expected = (value - PREPROCESSING.mean[channel]) / PREPROCESSING.std[channel]
        assert float(normalised[image, channel, row, column]) == pytest.approx(expected, abs=1e-6)
    assert torch.equal(truth, labels)


@pytest.mark.parametrize("batch_size", [1, 7, 24, 70, 1000])
def test_portions_hold_all_images_and_labels_in_order(batch_size: int) -> None:
    images = make_images()
    pixels, labels = images.pixels_and_labels
    found = portions(images, batch_size=batch_size)
    assert all(len(part) == len(truth) > 0 for part, truth in found)
    assert torch.equal(torch.cat([truth for _, truth in found]), labels)
    mean = torch.tensor(PREPROCESSING.mean, dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor(PREPROCESSING.std, dtype=torch.float64).view(3, 1, 1)
    expected = (pixels.double() / 255 - mean) / std
    torch.testing.assert_close(torch.cat([part for part, _ in found]).double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("side", "options", "sizes"),
    [
        (32, {}, [48, 48, 4]),  # so many pixels of 32x32 images at a time
        (32, {"precision": "bf16"}, [96, 4]),
        (32, {"batch_size": 60}, [48, 12, 40]),  # of what was read at a time
        (32, {"batch_size": 30}, [30, 30, 30, 10]),
        (64, {}, [12] * 8 + [4]),
        (64, {"precision": "bf16"}, [24] * 4 + [4]),
        (256, {"batch_size": 10}, [4, 4, 2] * 10),  # never less than four because of pixels
        (256, {"batch_size": 3}, [3] * 33 + [1]),
    ],
)
def test_size_of_portions(side: int, options: dict[str, object], sizes: list[int]) -> None:
    """The size that the network sees decides; to be quick, the images of this data set are tiny all the same."""
    pixels, labels = torch.zeros(100, 3, 2, 2, dtype=torch.uint8), torch.arange(100)
    preprocessing = Preprocessing(PREPROCESSING.mean, PREPROCESSING.std, resize=side, crop=(side, side))

    class Small(InMemoryImages):
        def chunks(self, preprocessing: Preprocessing, wanted: Sequence[range], workers: int) -> Iterator[Chunk]:
            return (Chunk(numbers, pixels[numbers.start : numbers.stop]) for numbers in wanted)

    small = Small("toy", "test", list("abcd"), preprocessing, lambda: (pixels, labels), "small")
    found = portions(small, preprocessing, **options)
    assert [len(part) for part, _ in found] == sizes
    assert [len(truth) for _, truth in found] == sizes
    assert torch.cat([truth for _, truth in found]).tolist() == list(range(100))


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_other_devices_have_memory_for_whole_batches(device: str) -> None:
    assert images_at_once(PREPROCESSING, torch.device(device), "32", 60) == 60


def test_portions_show_the_network_the_resized_centre() -> None:
    large = make_images(5, side=SIDE + 4)
    preprocessing = Preprocessing(PREPROCESSING.mean, PREPROCESSING.std, resize=SIDE + 4, crop=(SIDE, SIDE))
    pixels, labels = large.pixels_and_labels
    cut = InMemoryImages("toy", "test", list("abcd"), PREPROCESSING, lambda: (pixels[:, :, 2:-2, 2:-2], labels), "cut")
    assert torch.equal(portions(large, preprocessing)[0][0], portions(cut)[0][0])


# ------------------------------------------------------------------------------------------- left as it was found


def snapshot(module: nn.Module) -> dict[str, object]:
    state: dict[str, object] = {}
    for name, part in module.named_modules():
        state[f"{name} training"] = part.training
        state[f"{name} type"] = type(part)
        state[f"{name} hooks"] = (list(part._forward_hooks), list(part._forward_pre_hooks), list(part._backward_hooks))
    for name, parameter in module.named_parameters():
        state[f"{name} id"] = id(parameter)
        state[f"{name} requires_grad"] = parameter.requires_grad
        state[f"{name} stride"] = parameter.stride()
        state[f"{name} type"] = parameter.dtype
        state[f"{name} grad"] = None if parameter.grad is None else parameter.grad.tolist()
    for name, value in module.state_dict().items():
        state[f"{name} value"] = value.tolist()
    return state


def spoil_with_nan(network: Network) -> None:
    next(network.module.parameters()).data[0, 0, 0, 0] = float("nan")


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("kind", ["resnet", "control flow"])
@pytest.mark.parametrize("failing", [False, True])
def test_the_network_is_left_as_it_was_found(kind: str, precision: str, failing: bool) -> None:
    network = make_network(kind)
    module = network.module
    for number, part in enumerate(module.modules()):
        part.training = number % 2 == 0
    for number, parameter in enumerate(module.parameters()):
        parameter.requires_grad = number % 3 != 0
        parameter.grad = torch.full_like(parameter, 0.5) if parameter.requires_grad and number % 2 else None
    if failing:
        spoil_with_nan(network)
    head = module.get_submodule(network.head.name)
    head.register_forward_hook(lambda *_: None)
    before, grad_mode = repr(snapshot(module)), torch.is_grad_enabled()
    if failing:
        with pytest.raises(DecomposeError):
            extract(network, make_images(5), precision=precision)
    else:
        extract(network, make_images(5), precision=precision)
    assert repr(snapshot(module)) == before
    assert torch.is_grad_enabled() == grad_mode


class Stubborn(nn.Module):
    """Raises when it is given a bright image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.last = nn.Linear(3, 4)
        self.brightest = float("inf")

    def forward(self, x: Tensor) -> Tensor:
        if float(x.max()) > self.brightest:
            raise ValueError("too bright")
        return self.last(self.norm(x).mean((2, 3)))


def test_a_network_that_raises_is_left_as_it_was_found() -> None:
    pixels = torch.zeros(5, 3, SIDE, SIDE, dtype=torch.uint8)
    pixels[4] = 255
    images = InMemoryImages("toy", "val", list("abcd"), PREPROCESSING, lambda: (pixels, torch.zeros(5).long()), "s")
    module = Stubborn()
    network = network_of(module, (SIDE, SIDE))
    module.brightest = 0.0
    before = repr(snapshot(module))
    with pytest.raises(ValueError, match="too bright"):
        extract(network, images, batch_size=2)
    assert repr(snapshot(module)) == before
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_features_do_not_depend_on_how_the_network_was_left() -> None:
    """A network in training mode is evaluated all the same: no dropout, no batch statistics."""
    network, images = make_network("control flow"), make_images(9)
    expected, _ = extract(network, images)
    network.module.train()
    torch.testing.assert_close(extract(network, images)[0], expected)


def test_the_pixels_are_left_as_they_were() -> None:
    images = make_images(9)
    before = images.pixels_and_labels[0].clone()
    extract(make_network(), images)
    assert torch.equal(images.pixels_and_labels[0], before)


def test_features_can_be_trained_on() -> None:
    """They are ordinary tensors, not inference ones."""
    features, _ = extract(make_network(), make_images(4))
    layer = nn.Linear(64, 2)
    layer(features).sum().backward()
    assert layer.weight.grad is not None


# --------------------------------------------------------------------------------------------------------- refusals


class Breaking(nn.Module):
    """Gives an infinite or undefined feature for images whose first pixel is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.value = 0.0
        self.last = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = x.mean((2, 3))
        bright = x[:, :1, 0, 0] > 0
        return self.last(torch.where(bright, torch.full_like(features, self.value), features))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_features_that_are_no_numbers_are_refused(value: float) -> None:
    pixels = torch.zeros(7, 3, SIDE, SIDE, dtype=torch.uint8)
    pixels[[2, 5], 0, 0, 0] = 255
    images = InMemoryImages("toy", "val", list("abcd"), PREPROCESSING, lambda: (pixels, torch.arange(7) % 4), "s")
    module = Breaking().eval()
    network = network_of(module, (SIDE, SIDE))
    module.value = value
    with pytest.raises(DecomposeError) as caught:
        extract(network, images, batch_size=2)
    expected = "The network gives NaN or infinite features for image number 2 of toy val."
    assert caught.value.message == expected
    assert caught.value.exit_code == 1


def test_a_device_without_memory_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_images(3)

    def fail(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(FeatureReader, "__call__", fail)
    with pytest.raises(DecomposeError, match=r"^cpu ran out of memory\.$") as caught:
        extract(make_network(), images)
    assert caught.value.hint == "Choose a smaller batch_size."


class Counting:
    """A reporter that keeps the numbers of images done."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int | None]] = []
        self.steps: list[int] = []

    def note(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...

    @contextmanager
    def track(self, description: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        self.started.append((description, total))
        yield self.steps.append


def test_progress_adds_up_to_the_images() -> None:
    reporter = Counting()
    with use_reporter(reporter):
        extract(make_network(), make_images(600), batch_size=32)
    assert reporter.started == [("Features of toy test", 600)]
    assert reporter.steps == [256, 256, 88]  # chunks, whatever the size of batches


FAULTS = """
import resource, torch
from decompose_cli.features.extraction import keep_freed_memory

keep_freed_memory(at_most=2**31 - 1)

def once():
    blocks = [torch.ones(2 << 20) for _ in range(20)]

for _ in range(4):  # until it has found its place
    once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc's allocator")
def test_freed_memory_is_used_again_without_asking_the_system_for_it() -> None:
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 4096, "of the 40,960 pages of the blocks hardly one has to be asked for again"


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing(_: object) -> None:
        raise error

    monkeypatch.setattr("decompose_cli.features.extraction.ctypes.CDLL", missing)
    keep_freed_memory()
