"""A network and a data set opened together: features, their cache, and the matching of classes."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from decompose_cli.errors import InputError
from decompose_cli.features import cache as feature_cache
from decompose_cli.features.study import Inputs, Study
from decompose_cli.models.classifier import Classifier

SPLITS = ("test", "val", "train")
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        return self.fc(self.norm(self.stem(x)).relu().mean((2, 3)))
"""
MakeImages = Callable[..., Path]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings but for those that go with every network whose normalisation and classes are not known."""
    usual = ("It is not known how", "The outputs of ")
    return [message for message in caplog.messages if not message.startswith(usual)]


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A small network of the user's in the current directory."""
    Path("study_net.py").write_text(NET)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "study_net", raising=False)
    importlib.invalidate_caches()
    yield "study_net:Net"
    sys.modules.pop("study_net", None)


@pytest.fixture
def images(make_images: MakeImages, tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", ["ant", "bee", "cow"], n=5, side=12)


def open_study(net: str, images: Path, **options: Any) -> Study:
    return Study(Inputs(model=net, dataset=f"folder:{images}", workers=0, **options), SPLITS)


def state_after(study: Study) -> str:
    """Whether the features were found."""
    _ = study.bank
    return study.describe_cache().features


@pytest.fixture
def forbid_any_work(forbid_forward_passes: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it makes a forward pass fail from then on, and loading a network too."""

    def fail(*_: object) -> None:
        raise AssertionError("a network was loaded")

    def forbid() -> None:
        forbid_forward_passes()
        monkeypatch.setattr(Classifier, "load", fail)

    return forbid


# --------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("split", ["train", "test"])
def test_features_and_labels_are_those_of_the_images(net: str, images: Path, split: str) -> None:
    study = open_study(net, images, split=split, mean="0.4,0.5,0.6", std="0.2,0.25,0.3", seed=3)
    torch.manual_seed(3)
    module = sys.modules["study_net"].Net().double().eval()
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    expected, labels = [], []
    for number, name in enumerate(("ant", "bee", "cow")):
        for file in sorted((images / split / name).iterdir()):
            pixels = (np.array(Image.open(file)) / 255 - mean) / std
            x = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            with torch.no_grad():
                expected.append(module.norm(module.stem(x)).relu().mean((2, 3))[0])
            labels.append(number)
    torch.testing.assert_close(study.bank.features.double(), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert study.bank.labels.tolist() == labels
    assert study.labels.tolist() == labels
    torch.testing.assert_close(study.bank.head.weight.double(), module.fc.weight.detach())


def test_batch_size_changes_nothing(net: str, images: Path) -> None:
    whole = open_study(net, images, use_cache=False).bank
    for batch_size in (1, 3, 64):
        found = open_study(net, images, use_cache=False, batch_size=batch_size).bank
        torch.testing.assert_close(found.features, whole.features, rtol=1e-5, atol=1e-6)
        assert torch.equal(found.labels, whole.labels)


# ------------------------------------------------------------------------------------------------------------ cache


def test_first_a_miss_then_a_hit_without_a_forward_pass(
    net: str, images: Path, forbid_any_work: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    first = open_study(net, images)
    assert state_after(first) == "miss"
    forbid_any_work()
    second = open_study(net, images)
    assert state_after(second) == "hit"
    assert torch.equal(second.bank.features, first.bank.features)
    assert torch.equal(second.bank.labels, first.bank.labels)
    assert torch.equal(second.bank.head.weight, first.bank.head.weight)
    assert second.describe_model() == first.describe_model()
    assert second.describe_dataset() == first.describe_dataset()
    (entry,) = feature_cache.entries()
    assert entry.description.startswith(net)
    assert f"folder:{images} test" in entry.description
    assert said(caplog) == []


def test_the_features_are_looked_for_once_per_study(
    net: str, images: Path, forbid_any_work: Callable[[], None]
) -> None:
    study = open_study(net, images)
    bank = study.bank
    forbid_any_work()
    assert study.bank is bank
    assert study.describe_cache().features == "miss"


def test_without_the_cache_nothing_is_looked_for_or_kept(net: str, images: Path) -> None:
    assert state_after(open_study(net, images, use_cache=False)) == "off"
    assert feature_cache.entries() == []
    assert state_after(open_study(net, images)) == "miss"
    assert state_after(open_study(net, images, use_cache=False)) == "off"


CHANGES: list[dict[str, Any]] = [
    {"mean": "0.491,0.482,0.448"},
    {"std": "0.247,0.243,0.262"},
    {"precision": "bf16"},
    {"split": "train"},
    {"seed": 1},
    {"input_size": "8"},
    {"crop": "10"},
    {"resize": "14", "crop": "12"},
    {"resize": "14", "crop": "12", "interpolation": "nearest"},
]


def test_what_features_depend_on_makes_another_entry(net: str, images: Path) -> None:
    seen = []
    for change in ({}, *CHANGES):
        study = open_study(net, images, **change)
        assert state_after(study) == "miss", change
        seen.append(study.bank.features)
    for number, features in enumerate(seen):
        assert not any(torch.equal(features, other) for other in seen[:number] if other.shape == features.shape)
    for change, features in zip(({}, *CHANGES), seen, strict=True):
        again = open_study(net, images, **change)
        assert state_after(again) == "hit", change
        assert torch.equal(again.bank.features, features)


def test_what_features_do_not_depend_on_makes_no_other_entry(net: str, images: Path) -> None:
    assert state_after(open_study(net, images)) == "miss"
    changes: list[dict[str, Any]] = [{"batch_size": 2}, {"device": "cpu"}, {"data_dir": Path("elsewhere")}]
    written_out: dict[str, Any] = {"mean": "0.491,0.482,0.447", "std": "0.247,0.243,0.261"}  # as they are by default
    for change in (*changes, written_out):
        assert state_after(open_study(net, images, **change)) == "hit", change


def test_changed_images_make_another_entry(net: str, images: Path, tmp_path: Path) -> None:
    """A pixel is another; a label is, with the same pixels in the same order; there is one more; all lie elsewhere."""
    assert state_after(open_study(net, images)) == "miss"
    file = images / "test" / "bee" / "002.png"
    pixels = np.array(Image.open(file))
    pixels[3, 4, 1] ^= 1
    stamp = file.stat().st_mtime_ns
    Image.fromarray(pixels).save(file)
    os.utime(file, ns=(stamp + 1, stamp + 1))
    assert state_after(open_study(net, images)) == "miss"
    (images / "test" / "ant" / "004.png").rename(images / "test" / "bee" / "0.png")
    study = open_study(net, images)
    assert state_after(study) == "miss"
    assert study.bank.labels.tolist() == [0] * 4 + [1] * 6 + [2] * 5
    shutil.copy(images / "test" / "cow" / "000.png", images / "test" / "cow" / "999.png")
    study = open_study(net, images)
    assert state_after(study) == "miss"
    assert len(study.bank.labels) == 16
    shutil.copytree(images, tmp_path / "copy")
    assert state_after(open_study(net, tmp_path / "copy")) == "hit"


def test_changed_weights_make_another_entry_and_copied_ones_do_not(net: str, images: Path) -> None:
    open_study(net, images)
    state = sys.modules["study_net"].Net().state_dict()
    torch.save(state, "a.pth")
    shutil.copy("a.pth", "b.pth")
    assert state_after(open_study(net, images, weights="a.pth")) == "miss"
    assert state_after(open_study(net, images, weights="b.pth")) == "hit"
    state["stem.weight"][0, 0, 0, 0] += 1
    torch.save(state, "a.pth")
    assert state_after(open_study(net, images, weights="a.pth")) == "miss"


def test_a_changed_source_of_the_network_makes_another_entry(net: str, images: Path) -> None:
    assert state_after(open_study(net, images)) == "miss"
    Path("study_net.py").write_text(NET.replace(".relu()", ".relu().square()"))
    sys.modules.pop("study_net")
    importlib.invalidate_caches()
    assert state_after(open_study(net, images)) == "miss"


def test_a_damaged_entry_is_made_anew(net: str, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = open_study(net, images).bank.features.clone()
    (entry,) = feature_cache.entries()
    with (entry.path / "features.f32").open("r+b") as file:
        file.truncate(entry.size // 100)
    study = open_study(net, images)
    assert state_after(study) == "miss"
    assert said(caplog) == [f"The cached features {entry.path} are damaged and are computed again."]
    assert torch.equal(study.bank.features, expected)
    assert state_after(open_study(net, images)) == "hit"


def test_an_unwritable_cache_costs_only_a_warning(
    net: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = open_study(net, images).bank.features
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "file"))
    study = open_study(net, images)
    assert state_after(study) == "off"
    assert torch.equal(study.bank.features, expected)
    assert len(said(caplog)) == 1
    assert said(caplog)[0].startswith("The features could not be kept for the next time: Cannot write ")


# ---------------------------------------------------------------------------------------------------------- classes


def folder_study(model: str | None, images: Path, **options: Any) -> Study:
    return Study(Inputs(model=model, dataset=f"folder:{images}", workers=0, **options), SPLITS)


def test_classes_are_matched_by_name(make_images: MakeImages, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two folders of ten: labels 0 and 1 are the network's outputs 3 and 9."""
    study = folder_study("resnet20-digits", make_images(tmp_path / "images", ["3", "9"], n=2))
    assert not study.class_map.by_position
    assert study.class_map.outputs == (3, 9)
    assert study.bank.labels.tolist() == [0, 0, 1, 1]
    assert study.labels.tolist() == [3, 3, 9, 9]
    assert study.describe_dataset().classes == [str(digit) for digit in range(10)]
    assert said(caplog) == []


CIFAR_NAMES = ["Airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "TRUCK"]


def test_names_match_whatever_their_case(make_images: MakeImages, tmp_path: Path) -> None:
    study = folder_study("resnet20", make_images(tmp_path / "images", CIFAR_NAMES[::-1], n=1), weights="random")
    assert study.dataset.class_names == tuple(sorted(CIFAR_NAMES))
    assert study.class_map.outputs == (0, 9, 1, 2, 3, 4, 5, 6, 7, 8)  # capitals sort first
    assert not study.class_map.by_position
    assert study.labels.tolist() == [0, 9, 1, 2, 3, 4, 5, 6, 7, 8]


def test_foreign_names_for_weights_of_unknown_training_are_taken_by_position(
    make_images: MakeImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = make_images(tmp_path / "images", [f"kind{number}" for number in range(10)], n=1)
    study = folder_study("resnet20", images, weights="random")
    assert study.class_map.by_position
    assert study.class_map.outputs == tuple(range(10))
    assert study.labels.tolist() == list(range(10))
    assert study.describe_dataset().classes == [f"kind{number}" for number in range(10)]
    assert len(said(caplog)) == 1
    assert said(caplog)[0].startswith(f"The classes of folder:{images} are not named as those of resnet20; ")
    assert "kind0, kind1" in said(caplog)[0]


def test_a_network_without_class_names_takes_them_by_position(
    net: str, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = open_study(net, images)
    assert study.class_map.by_position
    assert study.class_map.names == ("ant", "bee", "cow")
    assert caplog.messages[1:] == [
        f"The outputs of {net} have no names that match the classes of folder:{images}; they are taken as its outputs "
        "in this order: ant, bee, cow."
    ]


@pytest.mark.parametrize(
    ("model", "weights", "classes", "expected"),
    [
        ("resnet20-digits", None, [f"kind{n}" for n in range(10)], "the class 'kind0' and 9 more are not among"),
        ("resnet20-digits", None, ["1", "2", "two"], "the class 'two' is not among the network's 10 classes (0, 1, 2"),
        ("resnet20", "random", ["cat", "dog", "wolf"], "the class 'wolf' is not among the network's 10 classes"),
        ("resnet20", "random", ["wolf", "fox"], "the data set has 2 classes, but the network has 10."),
    ],
    ids=["foreign", "one foreign", "one foreign to a guess", "another number"],
)
def test_classes_that_do_not_match_are_refused(
    make_images: MakeImages, tmp_path: Path, model: str, weights: str | None, classes: list[str], expected: str
) -> None:
    images = make_images(tmp_path / "images", classes, n=1)
    study = folder_study(model, images, weights=weights)
    with pytest.raises(InputError) as caught:
        _ = study.labels
    assert caught.value.message.startswith(f"folder:{images} with {model}: {expected}")


def test_another_number_of_classes_is_refused_for_a_network_without_names(
    net: str, make_images: MakeImages, tmp_path: Path
) -> None:
    study = open_study(net, make_images(tmp_path / "more", list("abcd"), n=1, side=12))
    with pytest.raises(InputError, match=r"the data set has 4 classes, but the network has 3\.$"):
        _ = study.class_map


# ----------------------------------------------------------------------------------------------------------- choices


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "16"}, "precision '16' is unknown; choose 32, bf16 or auto."),
        ({"batch_size": 0}, "batch_size 0 is not at least 1."),
        ({"workers": -1}, "workers -1 is negative."),
        ({"seed": -1}, "seed -1 is not between 0 and 2**63 - 1."),
        ({"seed": 2**63}, f"seed {2**63} is not between 0 and 2**63 - 1."),
    ],
)
def test_inputs_that_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Inputs(**options)
    assert caught.value.message == sentence


def test_inputs_become_arguments_that_json_can_hold() -> None:
    arguments = Inputs(data_dir=Path("somewhere"), seed=2**63 - 1).as_arguments()
    assert json.loads(json.dumps(arguments)) == arguments
    assert arguments["data_dir"] == "somewhere"
    assert arguments["seed"] == 2**63 - 1


def test_the_shipped_network_on_its_data_set_is_the_default(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    study = Study(Inputs(), SPLITS)
    assert (study.classifier.name, study.dataset.name, study.dataset.split) == ("resnet20-digits", "digits", "test")
    expected = (
        "No model was named: using resnet20-digits, the network that ships with decompose on its data set, digits."
    )
    assert caplog.messages == [expected]


def test_a_network_of_the_users_needs_a_data_set(net: str) -> None:
    with pytest.raises(InputError, match=r"^It is not known what study_net:Net was trained on\.$") as caught:
        Study(Inputs(model=net), SPLITS)
    assert caught.value.hint == "Say which images to use with dataset."


@pytest.mark.parametrize(
    ("preferred", "there", "expected"),
    [
        (("test", "val", "train"), ("train", "test"), "test"),
        (("test", "val", "train"), ("train", "val"), "val"),
        (("train",), ("train", "test"), "train"),
    ],
)
def test_the_preferred_split_that_exists_is_used(
    net: str, make_images: MakeImages, tmp_path: Path, preferred: tuple[str, ...], there: tuple[str, ...], expected: str
) -> None:
    images = make_images(tmp_path / "images", ["a", "b", "c"], splits=there, n=1, side=12)
    assert Study(Inputs(model=net, dataset=f"folder:{images}"), preferred).dataset.split == expected


def test_without_a_usual_split_one_has_to_be_chosen(net: str, make_images: MakeImages, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", ["a", "b", "c"], splits=("test",), n=1, side=12)
    with pytest.raises(InputError) as caught:
        Study(Inputs(model=net, dataset=f"folder:{images}"), ("train",))
    assert caught.value.message == f"folder:{images} has no split train; it has test."
    assert caught.value.hint == "Use split test if that is what you want."


def test_the_descriptions_say_what_was_used(net: str, images: Path) -> None:
    study = open_study(net, images, mean="0.1,0.2,0.3", std="1,2,3")
    model, dataset = study.describe_model(), study.describe_dataset()
    assert (model.name, model.num_classes, model.num_features, model.head) == (net, 3, 8, "fc")
    assert len(model.weights.sha256) == 64
    assert (dataset.name, dataset.split, dataset.images) == (f"folder:{images}", "test", 15)
    assert (dataset.mean, dataset.std) == ([0.1, 0.2, 0.3], [1, 2, 3])
    assert dataset.fingerprint == study.dataset.fingerprint()
    assert dataset.classes == ["ant", "bee", "cow"]
