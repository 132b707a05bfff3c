"""Faults that were found by reading and by use, each with the shortest way to see it."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.command_line import document_of, invoke
from helpers.image_kinds import open_folder
from PIL import Image
from torch import nn

import decompose_cli as dc
from decompose_cli.datasets.classes import ClassNames, match_classes
from decompose_cli.errors import InputError
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.head import find_head
from decompose_cli.models.registry import hash_in_name

MakeImages = Callable[..., Path]
TINY = """
import torch
from torch import nn
from parts import activation

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 2)
    def forward(self, x):
        return self.fc(activation(self.conv(x)).mean((2, 3)))
"""


def test_editing_a_module_that_the_users_network_imports_makes_new_features(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(Path("images"), ["a", "b"])
    Path("tinynet.py").write_text(TINY)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    losses = []
    for activation in ("relu", "sigmoid"):
        for name in ("tinynet", "parts"):  # as in a new process
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        Path("parts.py").write_text(f"from torch import {activation} as activation\n")
        document = document_of("validate", "tinynet:Net", "--dataset", f"folder:{images}")
        assert document["cache"]["features"] == "miss"
        losses.append(document["results"]["original"]["loss"])
    assert losses[0] != losses[1]


def test_streamed_folders_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    prints = []
    for name, colour in (("a", 10), ("b", 200)):
        file = tmp_path / name / "test" / "0" / "1.bmp"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (100, 100), (colour,) * 3).save(file)
        os.utime(file, ns=(10**18, 10**18))
        prints.append(open_folder(f"folder:{tmp_path / name}", "test").fingerprint())
    assert prints[0] != prints[1]


def test_demo_of_a_decomposed_checkpoint_is_refused_before_anything_is_written() -> None:
    network = CifarResNet(20)
    state = {**network.state_dict(), "final_weights": torch.zeros(10, 5), "final_bias": torch.zeros(10)}
    torch.save(state, "net.pth")
    result = invoke("demo", "resnet20", "-w", "net.pth", "--dataset", "digits")
    assert result.exit_code == 2
    assert "The demo needs the full head, which net.pth no longer has: its head is decomposed" in result.stderr
    assert not Path("results").exists()


def test_demo_without_test_images_writes_nothing(make_images: MakeImages) -> None:
    images = make_images(Path("images"), [str(digit) for digit in range(10)], splits=("train",))
    result = invoke("demo", "--dataset", f"folder:{images}")
    assert result.exit_code == 2
    assert not Path("results").exists()


def test_the_shipped_network_with_other_weights_does_not_insist_on_its_class_names() -> None:
    torch.save(CifarResNet(20).state_dict(), "net.pth")
    assert not open_classifier("resnet20-digits", "net.pth").uses_default_weights
    assert open_classifier("resnet20-digits", None).uses_default_weights


@pytest.mark.parametrize(("name", "digest"), [("m-20240101.pth", None), ("m-5c106cde.pth", "5c106cde")])
def test_a_date_in_a_file_name_is_no_hash(name: str, digest: str | None) -> None:
    assert hash_in_name(f"https://host/{name}") == digest


def test_head_of_a_bfloat16_network_is_found() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 4)).bfloat16()
    assert find_head(model, (4, 4)).name == "3"


def test_loading_for_two_input_sizes_gives_two_networks() -> None:
    from decompose_cli.models.decomposed import DecomposedLinear

    network = CifarResNet(20)
    network.linear = DecomposedLinear([[1, 2]] * 10, 64)  # type: ignore[assignment]
    torch.save(network.state_dict(), "net.pth")
    classifier = open_classifier("resnet20", "net.pth")
    assert classifier.load((32, 32)).head.name == classifier.load((48, 48)).head.name == "linear"


def test_building_a_network_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    _ = open_classifier("resnet20", "random").weights_sha256
    assert torch.equal(before, torch.get_rng_state())


def test_a_parameter_named_csg_of_the_users_network_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = TINY.replace("self.conv,", "self.csg = nn.Parameter(torch.ones(6, 2)); self.conv,")
    Path("csgnet.py").write_text(source.replace("from parts import activation", "from torch import relu as activation"))
    monkeypatch.syspath_prepend(str(Path.cwd()))
    import csgnet  # type: ignore[import-not-found]

    torch.save({**csgnet.Net().state_dict(), "csg": torch.full((6, 2), 3.0)}, "net.pth")
    network = open_classifier("csgnet:Net", "net.pth").load((32, 32))
    assert torch.equal(network.module.csg, torch.full((6, 2), 3.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("description", [{"num_classes": 7}, {"num_classes": 10, "class_names": ["a", "b"]}])
def test_description_that_contradicts_the_head_is_refused(description: dict[str, object]) -> None:
    write_checkpoint(Path("net.safetensors"), CifarResNet(20).state_dict(), Metadata(model="resnet20", **description))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="but its head has 10"):
        open_classifier("resnet20", "net.safetensors").load((32, 32))


def test_two_folders_for_one_class_are_refused() -> None:
    with pytest.raises(InputError, match="'cat' and 'Cat' are both class 0"):
        match_classes(["cat", "Cat"], None, ClassNames(["cat", "dog"]), 2, what="x")


def test_network_that_cannot_be_copied_gets_a_sentence(make_images: MakeImages) -> None:
    from decompose_cli.models.inference import FeatureReader
    from decompose_cli.models.network import network_of

    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    module.lock = threading.Lock()  # type: ignore[assignment]
    network = network_of(module, (4, 4))
    with pytest.raises(InputError, match="cannot be copied"):
        FeatureReader(network, torch.device("cpu"), "32", torch.zeros(2, 3, 4, 4))


def test_googlenet_weights_without_auxiliary_heads_load() -> None:
    from torchvision.models import googlenet

    torch.save(googlenet(init_weights=False, aux_logits=False).state_dict(), "net.pth")
    assert open_classifier("googlenet", "net.pth").load((64, 64)).head.name == "fc"


@pytest.mark.usefixtures("warm")
def test_long_names_in_other_scripts_can_be_written() -> None:
    result = invoke("validate", "-o", "\u5b57" * 80 + ".json")
    assert result.exit_code == 0, result.stderr


@pytest.mark.usefixtures("warm")
def test_an_index_set_of_other_weights_is_pointed_out(few: str) -> None:
    assert invoke("extract-indices", "--layout", "document", "-o", "own.json").exit_code == 0
    assert "was made from other weights" not in invoke("validate", "-i", "own.json").stderr
    torch.save(CifarResNet(20).state_dict(), "net.pth")
    other = invoke("validate", "resnet20", "-w", "net.pth", "--dataset", few, "-i", "own.json")
    assert "own.json was made from other weights (resnet20-digits, 3f915981)" in other.stderr


@pytest.mark.usefixtures("warm")
def test_the_result_of_an_extraction_is_an_index_file() -> None:
    Path("one.json").write_text(invoke("extract-indices", "-k", "5", "--json").stdout)
    Path("two.json").write_text(invoke("extract-indices", "-k", "5,6", "--json").stdout)
    assert "decomposed, 5 per class" in invoke("validate", "-i", "one.json").stderr
    refused = invoke("validate", "-i", "two.json")
    assert refused.exit_code == 2
    assert "with the indices for k = 5, 6" in refused.stderr


def test_a_guess_of_the_normalisation_is_said(make_images: MakeImages) -> None:
    images = make_images(Path("images"), ["a", "b"])
    Path("guessnet.py").write_text(TINY.replace("from parts import activation", "from torch import relu as activation"))
    arguments = ["validate", "guessnet:Net", "--dataset", f"folder:{images}"]
    assert "It is not known how guessnet:Net was trained" in invoke(*arguments).stderr
    known = invoke(*arguments, "--mean", "0,0,0", "--std", "1,1,1").stderr
    assert "It is not known" not in known
    assert "No weights were given" in known


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("validate", "--dataset", "images"), "For a folder of images write folder:images."),
        (("validate", "--dataset", "CIFAR10"), "Did you mean cifar10?"),
        (("validate", "--dataset", "folder:images/test"), "Did you mean folder:images with --split test?"),
        (("validate", "--dataset", "folder:other/Validation"), "Did you mean folder:other with --split val?"),
        (("validate", "--dataset", "folder:images"), "Use --split train if that is what you want."),
        (("validate", "net.pth"), "Is net.pth a weights file? Name its model, and give the file with --weights."),
        (("validate", "ResNet20"), "did you mean resnet20"),
        (("validate", "-i", "net.pth"), "Are -i and --weights swapped?"),
        (("validate", "mynet.py:build", "--dataset", "digits"), "Write it without .py: mynet:build."),
        (("extract-indices", "-k", "5,10", "-o", "k.json"), "is named as a file"),
        (("validate", "--mean", "127,127,127"), "divide numbers for 0 to 255 by 255"),
    ],
)
def test_common_slips_get_a_hint(make_images: MakeImages, arguments: tuple[str, ...], hint: str) -> None:
    make_images(Path("images"), ["3", "4"], splits=("train",))
    Path("images/test/3").mkdir(parents=True) if "folder:images/test" in arguments else None
    make_images(Path("other"), ["3", "4"], splits=("Validation",))
    torch.save(CifarResNet(20).state_dict(), "net.pth")
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert hint in result.stderr


def test_a_common_prefix_of_all_names_is_left_off() -> None:
    torch.save({"state_dict": {f"model.{k}": v for k, v in CifarResNet(20).state_dict().items()}}, "net.pth")
    assert open_classifier("resnet20", "net.pth").load((32, 32)).head.name == "linear"


def test_classes_without_images_are_named_before_the_network_runs(
    make_images: MakeImages, forbid_forward_passes: Callable[[], None]
) -> None:
    images = make_images(Path("images"), ["3", "4"])
    dc.save_model(dc.decompose(dc.load_model(), {c: [c] for c in range(10)}), "small.safetensors")  # no full head
    forbid_forward_passes()
    result = invoke("extract-indices", "-w", "small.safetensors", "--dataset", f"folder:{images}")
    assert result.exit_code == 2
    assert "no images in this split for 8 of the network's 10 classes (0, 1, 2, ...)" in result.stderr
