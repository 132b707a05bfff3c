"""One rule for the pixels that a network sees and for its classes, said where it is a guess."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import decompose_cli as dc
from decompose_cli.engines.validate import validate
from decompose_cli.features.study import Study
from decompose_cli.preprocessing import CIFAR, IMAGENET, Preprocessing

MakeImages = Callable[..., Path]
SPLITS = ("train", "val", "test")


class Net(nn.Module):
    """Ten classes by the means of a picture's quarters, which depend on its size, its crop and its constants."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.fc = nn.Linear(24, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stem(images).relu())  # type: ignore[no-any-return]


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    """The network, which commands find as ``seen_net:net``."""
    torch.manual_seed(0)
    made = Net()
    Path("seen_net.py").write_text("def net():\n    return made\n")
    monkeypatch.setattr(sys, "path", [str(Path.cwd()), *sys.path])
    importlib.invalidate_caches()
    importlib.import_module("seen_net").made = made  # type: ignore[attr-defined]
    yield made
    sys.modules.pop("seen_net", None)


def folder(root: Path, sizes: dict[str, list[tuple[int, int]]], classes: int = 10) -> Path:
    """Images of these (width, height) in each class of each split."""
    generator = torch.Generator().manual_seed(0)
    for split, each in sizes.items():
        for number in range(classes):
            for place, (width, height) in enumerate(each):
                file = root / split / str(number) / f"{place}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(file)
    return root


SETS: dict[str, dict[str, list[tuple[int, int]]]] = {
    "small": {"train": [(40, 40)], "test": [(40, 40)]},
    "two sizes": {"train": [(64, 64)], "test": [(90, 120), (64, 64)]},
    "large": {"test": [(90, 120)]},
}


def seen(dataset: str, split: str, **options: Any) -> Preprocessing:
    return Study(dc.Inputs(model="seen_net:net", dataset=dataset, split=split, **options), SPLITS).preprocessing


# ---------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"train": [(64, 64)], "val": [(90, 120)], "test": [(300, 200)]}, (64, (64, 64))),
        ({"train": [(300, 200)], "test": [(64, 64)]}, (IMAGENET.resize, IMAGENET.crop)),
        ({"train": [(48, 40), (300, 200)], "test": [(32, 32)]}, (40, (40, 40))),
        ({"val": [(32, 32)], "test": [(64, 64)]}, (32, (32, 32))),
        ({"test": [(24, 20)]}, (20, (20, 20))),
    ],
)
def test_one_image_decides_the_geometry_of_all_splits(
    sizes: dict[str, list[tuple[int, int]]], expected: tuple[int, tuple[int, int]], net: Net, tmp_path: Path
) -> None:
    root = folder(tmp_path / "set", sizes, classes=2)
    for split in sizes:
        found = seen(f"folder:{root}", split)
        assert (found.resize, found.crop) == expected, split


def test_a_damaged_image_decides_nothing(net: Net, tmp_path: Path) -> None:
    root = folder(tmp_path / "set", {"train": [(48, 48), (40, 40)], "test": [(64, 64)]}, classes=2)
    (root / "train" / "0" / "0.png").write_bytes(b"no image")
    assert seen(f"folder:{root}", "test").crop == (40, 40)


def test_the_geometry_is_said_once_with_the_image_that_decided(
    net: Net, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = folder(tmp_path / "set", SETS["two sizes"])
    document = validate(dc.Inputs(model="seen_net:net", dataset=f"folder:{root}", use_cache=False, workers=0))
    said = [message for message in caplog.messages if message.startswith("Images are")]
    assert said == [
        f"Images are resized to 64 and cropped to 64x64 pixels, as the size of {root / 'train/0/0.png'} suggests; "
        "input_size says otherwise."
    ]
    assert (document.dataset.resize, document.dataset.crop) == (64, [64, 64])


@pytest.mark.parametrize("options", [{"input_size": "32"}, {"crop": "32"}])
def test_a_geometry_that_was_chosen_is_no_guess(
    options: dict[str, str], net: Net, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = folder(tmp_path / "set", SETS["large"], classes=2)
    assert seen(f"folder:{root}", "test", **options).crop == (32, 32)
    assert Study(dc.Inputs(dataset=f"folder:{root}"), SPLITS).preprocessing == CIFAR
    assert not [message for message in caplog.messages if message.startswith("Images are")]


# ------------------------------------------------------------------------------------------ Python and the commands

OPTIONS: dict[str, dict[str, Any]] = {
    "input size": {"input_size": 32},
    "input size, not square": {"input_size": (40, 24)},
    "crop": {"crop": 32},
    "resize and crop": {"resize": 50, "crop": (40, 48)},
    "both sides": {"resize": (50, 40), "crop": 32},
    "interpolation": {"input_size": 32, "interpolation": "nearest"},
    "constants": {"input_size": 32, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)},
    "half of the constants": {"input_size": 32, "std": (0.5, 0.6, 0.7)},
}


def typed(options: dict[str, Any]) -> dict[str, str]:
    """The options as they are typed on the command line."""
    marks = {"mean": ",", "std": ","}
    return {
        name: marks.get(name, "x").join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in options.items()
    }


@pytest.mark.parametrize("images", ["digits", *SETS])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_module_sees_the_same_in_python_and_on_the_command_line(
    name: str, images: str, net: Net, tmp_path: Path
) -> None:
    options = OPTIONS[name]
    dataset = images if images == "digits" else f"folder:{folder(tmp_path / 'set', SETS[images], classes=2)}"
    expected = seen(dataset, "test", **typed(options))
    model = dc.load_model(net, **options)
    assert model.preprocessing_of(dc.load_dataset(dataset, "test")) == expected
    plain = dc.load_model(net, input_size=7)
    assert (
        plain.preprocessing_of(dc.load_dataset(dataset, "test", **options)).described().items()
        >= {key: value for key, value in expected.described().items() if key in options}.items()
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_a_named_network_sees_the_same_in_python_and_on_the_command_line(name: str, tmp_path: Path) -> None:
    options = OPTIONS[name]
    dataset = f"folder:{folder(tmp_path / 'set', SETS['large'])}"
    expected = Study(dc.Inputs(dataset=dataset, split="test", **typed(options)), SPLITS).preprocessing
    assert dc.load_model().preprocessing_of(dc.load_dataset(dataset, **options)) == expected
    assert dc.load_model(**options).preprocessing_of(dc.load_dataset(dataset)) == expected


def test_what_was_chosen_for_the_images_counts_more_than_what_was_chosen_for_the_network(tmp_path: Path) -> None:
    dataset = f"folder:{folder(tmp_path / 'set', SETS['small'])}"
    model = dc.load_model(mean=(0.1,) * 3, interpolation="nearest")
    found = model.preprocessing_of(dc.load_dataset(dataset, "test", interpolation="bicubic"))
    assert (found.mean, found.std, found.interpolation) == ((0.1,) * 3, CIFAR.std, "bicubic")


@pytest.mark.parametrize("options", [{"input_size": 32}, {"resize": 60, "crop": 32, "interpolation": "bicubic"}])
def test_numbers_are_the_same_in_python_and_on_the_command_line(
    options: dict[str, Any], net: Net, tmp_path: Path
) -> None:
    dataset = f"folder:{folder(tmp_path / 'set', {'test': [(90, 120), (70, 70), (80, 120)]})}"
    inputs = dc.Inputs(model="seen_net:net", dataset=dataset, workers=0, **typed(options))
    theirs = validate(inputs).results.original
    ours = dc.validate(dc.extract_features(dc.load_model(net, **options), dc.load_dataset(dataset))).original
    assert theirs is not None
    assert ours is not None
    assert (ours.correct, ours.loss) == (theirs.correct, theirs.loss)


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({"input_size": 32}, {"input_size": [32, 32]}),
        ({"crop": (32, 24), "mean": (0.5,) * 3}, {"crop": [32, 24], "mean": [0.5] * 3}),
        ({"crop": 32, "resize": 40}, {"crop": [32, 32], "resize": 40, "interpolation": "bilinear"}),
        ({"input_size": 32, "interpolation": "nearest"}, {"input_size": [32, 32], "interpolation": "nearest"}),
    ],
)
def test_a_saved_network_sees_what_it_saw(
    options: dict[str, Any], written: dict[str, Any], net: Net, tmp_path: Path
) -> None:
    from decompose_cli.models.checkpoint import read_checkpoint

    dataset = f"folder:{folder(tmp_path / 'set', SETS['large'], classes=2)}"
    dc.save_model(dc.load_model(net, **options), "net.safetensors")
    about = read_checkpoint(Path("net.safetensors")).metadata
    assert about is not None
    assert about.image_options().given() == {
        name: tuple(value) if isinstance(value, list) else value for name, value in written.items()
    }
    expected = dc.load_model(net, **options).preprocessing_of(dc.load_dataset(dataset))
    assert dc.load_model("seen_net:net", "net.safetensors").preprocessing_of(dc.load_dataset(dataset)) == expected
    assert seen(dataset, "test", weights="net.safetensors") == expected


def test_a_network_that_was_saved_smaller_is_read_back_so(tmp_path: Path) -> None:
    dataset = f"folder:{folder(tmp_path / 'set', SETS['large'], classes=10)}"
    small = dc.load_model(input_size=24)
    dc.save_model(small, "net.safetensors")
    again = dc.load_model(weights="net.safetensors")
    images = dc.load_dataset(dataset)
    assert again.preprocessing_of(images) == small.preprocessing_of(images)
    assert again.preprocessing.crop == (24, 24)


# ----------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("how", ["python", "command"])
def test_an_order_by_position_is_always_said(
    how: str, net: Net, make_images: MakeImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_images(tmp_path / "set", [str(number) for number in range(1, 11)], n=1, splits=("test",))
    if how == "python":
        dc.extract_features(dc.load_model(net, input_size=32), dc.load_dataset(f"folder:{root}"))
    else:
        validate(dc.Inputs(model="seen_net:net", dataset=f"folder:{root}", workers=0))
    name = "Net" if how == "python" else "seen_net:net"
    assert (
        f"The outputs of {name} have no names that match the classes of folder:{root}; they are taken as its outputs "
        "in this order: 1, 10, 2, 3, 4, 5, 6, 7, 8, 9."
    ) in caplog.messages


@pytest.mark.parametrize("how", ["python", "command"])
def test_class_folders_that_are_numbers_are_class_numbers(how: str, tmp_path: Path) -> None:
    """Twelve classes, each a grey of its own, and a network that tells them apart."""
    for number in range(12):
        file = tmp_path / "set" / "test" / str(number) / "1.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32), (20 * number,) * 3).save(file)
    Path("greys.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n"
        "    made = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 12))\n"
        "    grey = 20 * torch.arange(12.0) / 255\n"
        "    made[2].weight.data = (2 * grey / 3)[:, None].repeat(1, 3)\n"
        "    made[2].bias.data = -grey ** 2\n"
        "    return made\n"
    )
    dataset, constants = f"folder:{tmp_path / 'set'}", {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    if how == "python":
        features = dc.extract_features(dc.load_model("greys:net", **constants), dc.load_dataset(dataset))
        results = dc.validate(features)
    else:
        inputs = dc.Inputs(model="greys:net", dataset=dataset, workers=0, **typed(constants))
        results = validate(inputs).results
    assert results.original is not None
    assert results.original.correct == 12


def test_a_guess_at_the_names_of_outputs_is_overruled_in_python_too(make_images: MakeImages, tmp_path: Path) -> None:
    root = make_images(tmp_path / "set", [f"kind{number}" for number in range(10)], n=1, splits=("test",))
    features = dc.extract_features(dc.load_model("resnet8", "random"), dc.load_dataset(f"folder:{root}"))
    assert features.class_names[:2] == ("kind0", "kind1")
    study = Study(dc.Inputs(model="resnet8", weights="random", dataset=f"folder:{root}"), ("test",))
    assert study.class_map.names == features.class_names


def test_classes_with_one_name_are_told_apart_by_their_ids_in_python_too(tmp_path: Path) -> None:
    """A bird and a machine are both called crane."""
    for wnid in ("n02012849", "n03126707"):
        file = tmp_path / "imagenet" / "val" / wnid / "1.JPEG"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(file)
    images = dc.load_dataset("imagenet", data_dir=tmp_path)
    model = dc.load_model("resnet18", "random", input_size=32)
    assert dc.extract_features(model, images).labels.tolist() == [134, 517]
