"""Networks of transformers by the name of a folder or of a repository."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import REFUSED, refused
from helpers.hub import local_hub
from helpers.plain_loop import CLASSES, check_commands, picture_folder, settle_averages
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import decompose_cli as dc
from decompose_cli.datasets.transforms import image_to_tensor
from decompose_cli.errors import DownloadError, InputError
from decompose_cli.models.classifier import find_entry, open_classifier
from decompose_cli.models.processors import preprocessing_of
from decompose_cli.storage.files import sha256_of

transformers = pytest.importorskip("transformers")

NAMES = dict(enumerate(reversed(CLASSES)))  # not in the order of the folders


def resnet() -> tuple[Any, Any]:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", id2label=NAMES
    )
    return config, transformers.ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875, resample=3)


def vit() -> tuple[Any, Any]:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=32,
        patch_size=8,
        id2label=NAMES,
    )
    return config, transformers.ViTImageProcessor(size={"height": 32, "width": 32})


def convnext() -> tuple[Any, Any]:
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, layer_scale_init_value=1.0, id2label=NAMES
    )
    processor = transformers.ConvNextImageProcessor(
        size={"shortest_edge": 32}, crop_pct=1.0, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    return config, processor


def saved(folder: Path, make: Callable[[], tuple[Any, Any]]) -> Path:
    """A folder as ``save_pretrained`` writes it, of a network with random weights."""
    config, processor = make()
    torch.manual_seed(0)
    module = transformers.AutoModelForImageClassification.from_config(config)
    settle_averages(module, torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    module.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def loop_of(folder: Path) -> Callable[[Image.Image], tuple[Tensor, Tensor]]:
    """A loop with the network and the image processor of transformers."""
    module = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    head = module.classifier[-1] if isinstance(module.classifier, torch.nn.Sequential) else module.classifier

    def one(image: Image.Image) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        with torch.no_grad():
            logits = module(**processor(images=[image], return_tensors="pt")).logits
        handle.remove()
        return seen[0], logits

    return one


@pytest.mark.slow
@pytest.mark.parametrize("make", [resnet, vit, convnext])
def test_commands_against_a_plain_loop(tmp_path: Path, make: Callable[[], tuple[Any, Any]]) -> None:
    folder = saved(tmp_path / "network", make)
    side = 32  # of the resize, so that nothing is rounded on the way
    pictures = picture_folder(tmp_path / "pictures", side)
    check_commands([f"hf:{folder}", "-w", "default"], [], pictures, loop_of(folder), list(NAMES.values()))


@pytest.mark.parametrize("make", [resnet, vit])
def test_a_saved_folder_opens_with_its_preprocessing_weights_and_class_names(
    tmp_path: Path, make: Callable[[], tuple[Any, Any]]
) -> None:
    folder = saved(tmp_path / "network", make)
    model = dc.load_model(f"hf:{folder}")
    assert model.class_names == tuple(NAMES.values())
    assert model.head_name == ("classifier.1" if make is resnet else "classifier")
    images = torch.randn(2, 3, *model.preprocessing.crop)
    twin = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(model.module(images).logits, twin(images).logits)


def test_what_is_saved_of_such_a_network_opens_by_itself(tmp_path: Path) -> None:
    folder = saved(tmp_path / "network", vit)
    model = dc.load_model(f"hf:{folder}")
    small = dc.decompose(model, [[0, 1], [2, 3], [4, 5], [0, 9]])
    dc.save_model(small, tmp_path / "small.safetensors")
    again = dc.load_model(weights=tmp_path / "small.safetensors")
    assert again.is_decomposed
    assert again.class_names == tuple(NAMES.values())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.module(images).logits, small.module(images).logits)
    shutil.move(folder, tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"^There is no folder .*network, and it is no name of a repository"):
        dc.load_model(weights=tmp_path / "small.safetensors")


PROCESSORS: dict[str, tuple[str, dict[str, Any], tuple[Any, ...]]] = {
    "shorter side and crop": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 48}, "crop_size": {"height": 32, "width": 32}},
        (48, (32, 32), "bicubic"),
    ),
    "share of the crop": ("ConvNextImageProcessor", {"size": {"shortest_edge": 28}}, (32, (28, 28), "bicubic")),
    "both sides": ("ViTImageProcessor", {"size": {"height": 24, "width": 40}}, ((24, 40), (24, 40), "bilinear")),
    "no crop": (
        "MobileNetV2ImageProcessor",
        {"size": {"shortest_edge": 40}, "do_center_crop": False, "resample": 0},
        (40, (40, 40), "nearest"),
    ),
    "crop of a squashed image": (
        "DeiTImageProcessor",
        {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}},
        ((40, 40), (32, 32), "bicubic"),
    ),
    "black around it": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 24}, "crop_size": {"height": 32, "width": 32}},
        (24, (32, 32), "bicubic"),
    ),
}


@pytest.mark.parametrize(("kind", "options", "expected"), PROCESSORS.values(), ids=PROCESSORS.keys())
def test_preprocessing_is_what_the_image_processor_does(
    tmp_path: Path, kind: str, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    numbers = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    processor = getattr(transformers, kind)(**options, **numbers)
    processor.save_pretrained(tmp_path)
    made = preprocessing_of("hf:net", tmp_path / "preprocessor_config.json", None)
    assert (made.resize, made.crop, made.interpolation) == expected
    assert made.mean == (0.4, 0.5, 0.6)
    assert made.std == (0.2, 0.25, 0.3)


def test_pixels_are_those_of_the_image_processor(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (30, 22, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy()).resize((90, 120))
    for kind, options, _ in PROCESSORS.values():
        getattr(transformers, kind)(**options).save_pretrained(tmp_path)
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
        expected = processor(images=[image], return_tensors="pt")["pixel_values"][0]
        made = preprocessing_of("hf:net", tmp_path / "preprocessor_config.json", None)
        mean, std = (torch.tensor(values)[:, None, None] for values in (made.mean, made.std))
        pixels = (image_to_tensor(image, made) / 255 - mean) / std
        if options.get("do_center_crop", True):
            assert (pixels - expected).abs().max() <= 2.01 / 255 / std.min(), kind  # two grey levels
        else:
            assert expected.shape[1:] != pixels.shape[1:]


def test_labels_of_imagenet_are_its_classes_and_labels_without_names_are_none(tmp_path: Path) -> None:
    config, processor = convnext()
    synsets = [f"class {number}, of some kind" for number in range(1000)]
    synsets[0], synsets[151], synsets[999] = "tench, Tinca tinca", "Chihuahua", "toilet tissue, toilet paper"
    for labels, dataset, names in (
        (dict(enumerate(synsets)), "imagenet", None),
        ({0: "a", 1: "b"}, None, ["a", "b"]),
        ({0: "LABEL_0", 1: "LABEL_1"}, None, None),
    ):
        config.id2label = labels
        config.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        entry = find_entry(f"hf:{tmp_path}")
        assert (entry.num_classes, entry.dataset) == (len(labels), dataset)
        assert (entry.outputs is None) == (names is None)
        assert entry.outputs is None or entry.outputs() == (names, None)


def test_files_come_from_the_hub_once_and_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with local_hub(tmp_path / "hub", monkeypatch) as hub:
        hub.put("org/net", saved(tmp_path / "network", vit))
        with pytest.raises(DownloadError, match=r"config\.json of .*/org/net is not on this machine and downloads are"):
            dc.load_model("hf:org/net", allow_download=False)
        assert hub.requests == []
        caplog.set_level("INFO")
        model = dc.load_model("hf:org/net")
        said = [record.message for record in caplog.records if record.message.startswith("Fetching")]
        assert [line.split()[1] for line in said] == ["config.json", "preprocessor_config.json", "model.safetensors"]
        size = (tmp_path / "network" / "model.safetensors").stat().st_size / 1e3
        assert said[-1] == f"Fetching model.safetensors ({size:.1f} kB) from {hub.address}/org/net"
        asked = len(hub.requests)
        again = dc.load_model("hf:org/net", allow_download=False)
        assert len(hub.requests) == asked
        assert again.network.tensors.is_same(model.network.tensors)
        assert again.class_names == tuple(NAMES.values())
        classifier = open_classifier("hf:org/net", "default", allow_download=False)
        assert classifier.weights_source == f"{hub.address}/org/net"
        assert classifier.weights_sha256 == sha256_of(tmp_path / "network" / "model.safetensors")
        with pytest.raises(InputError, match=r"^There is no repository .*/org/nothing, or it is private\.$"):
            dc.load_model("hf:org/nothing")
    with pytest.raises(DownloadError, match=r"^Cannot download config\.json from .*/org/other: "):
        dc.load_model("hf:org/other")


def spoilt(content: dict[str, Any]) -> Callable[[Path], None]:
    """Changes entries of a configuration; None takes one out."""

    def change(path: Path) -> None:
        made = {**json.loads(path.read_text()), **content}
        path.write_text(json.dumps({name: value for name, value in made.items() if value is not None}))

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_head(path: Path) -> None:
    state = load_file(path)
    save_file({name: value for name, value in state.items() if "classifier" not in name}, path, {"format": "pt"})


BAD: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no configuration": ("config.json", Path.unlink, "has no config.json, so it is no network of transformers"),
    "half a configuration": ("config.json", cut, "config.json of hf:network cannot be used"),
    "a list": ("config.json", lambda path: path.write_text("[1]"), "config.json of hf:network cannot be used"),
    "unknown kind": ("config.json", spoilt({"model_type": "none_such"}), "config.json of hf:network cannot be used"),
    "code of its own": (
        "config.json",
        spoilt({"model_type": "none_such", "auto_map": {"AutoConfig": "own.Config"}}),
        "hf:network is made by Python code of its own, which is not run",
    ),
    "a network of timm": (
        "config.json",
        spoilt({"model_type": None, "architecture": "resnet18"}),
        "hf:network is a network of timm",
    ),
    "labels with gaps": (
        "config.json",
        spoilt({"id2label": {"0": "a", "2": "b"}, "label2id": None}),
        "id2label of hf:network has 2 classes that are not numbered 0 to 1",
    ),
    "a network from elsewhere": (
        "config.json",
        spoilt({"model_type": "timm_wrapper", "architecture": "hf-hub:org/other"}),
        "of hf:network names the network 'hf-hub:org/other', which timm would ask of another place",
    ),
    "no classifier": ("config.json", spoilt({"model_type": "bert"}), "of which transformers has no image classifier"),
    "nonsense in the configuration": (
        "config.json",
        spoilt({"hidden_size": 15}),
        "transformers cannot",
    ),
    "half a processor": ("preprocessor_config.json", cut, "preprocessor_config.json of hf:network cannot be used"),
    "other channels": (
        "preprocessor_config.json",
        lambda path: transformers.MobileViTImageProcessor().save_pretrained(path.parent),
        "takes channels in another order than red, green and blue",
    ),
    "half the weights": ("model.safetensors", cut, "transformers cannot read the weights of hf:network in"),
    "no head": ("model.safetensors", without_head, "lack 2 parts of its classifier (classifier.bias, classifier.weig"),
    "no weights": ("model.safetensors", Path.unlink, "hf:network has no default weights"),
}


@pytest.mark.parametrize(("file", "spoil", "fragment"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_used_is_said_in_a_sentence(file: str, spoil: Callable[[Path], Any], fragment: str) -> None:
    spoil(saved(Path("network"), vit) / file)
    refused(["validate", "hf:network", "-w", "default", "--dataset", "digits", "--no-cache"], REFUSED, fragment)


def test_code_beside_the_network_is_not_run(tmp_path: Path) -> None:
    folder = saved(tmp_path / "network", vit)
    spoilt({"auto_map": {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Net"}})(
        folder / "config.json"
    )
    (folder / "own.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')\n")
    dc.load_model(f"hf:{folder}")
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("shard", [5, None, "../other/model.safetensors", "sub/model.safetensors"])
def test_weights_in_several_files_are_files_of_the_folder(tmp_path: Path, shard: object) -> None:
    folder = saved(tmp_path / "network", vit)
    shutil.copytree(folder, tmp_path / "other")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard, "b": "x"}}))
    with pytest.raises(InputError, match=r"^The list of weights .*index\.json of hf:.* has .*, no name of a file"):
        dc.load_model(f"hf:{folder}")


def test_a_folder_that_is_gone_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "models" / "net", vit)
    small = dc.decompose(dc.load_model("hf:models/net"), [[0, 1], [2, 3], [4, 5], [0, 9]])
    dc.save_model(small, tmp_path / "small.safetensors")
    assert dc.load_model(weights=tmp_path / "small.safetensors").is_decomposed
    shutil.move(tmp_path / "models", tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"^There is no folder \./models/net, and it is no name of a repository"):
        dc.load_model(weights=tmp_path / "small.safetensors")


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    folder = saved(tmp_path / "network", vit)
    whole = dc.load_model(f"hf:{folder}")
    transformers.AutoModelForImageClassification.from_pretrained(folder).save_pretrained(folder, max_shard_size="4KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert dc.load_model(f"hf:{folder}").network.tensors.is_same(whole.network.tensors)
    next(folder.glob("model-*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"lacks model-.*safetensors, which model\.safetensors\.index\.json names"):
        dc.load_model(f"hf:{folder}")


def test_a_processor_that_is_missing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved(tmp_path / "network", vit)
    (folder / "preprocessor_config.json").unlink()
    model = dc.load_model(f"hf:{folder}")
    assert "comes without preprocessor_config.json: ImageNet's mean and standard deviation are taken" in caplog.text
    assert model.preprocessing.crop == (32, 32)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = refused(["layers", "hf:org/net"], REFUSED, "hf:org/net needs the package transformers")
    assert 'pip install "decompose-cli[hf]"' in said


@pytest.mark.parametrize("make", [resnet, vit])
def test_a_weights_file_of_the_network_is_read_under_the_names_of_files(
    tmp_path: Path, make: Callable[[], tuple[Any, Any]]
) -> None:
    folder = saved(tmp_path / "network", make)
    expected = dc.load_model(f"hf:{folder}").module.state_dict()
    state = load_file(folder / "model.safetensors")
    state["classifier.weight" if make is vit else "classifier.1.weight"] += 1
    save_file(state, tmp_path / "other.safetensors")
    found = dc.load_model(f"hf:{folder}", tmp_path / "other.safetensors").module.state_dict()
    assert {name for name in expected if not torch.equal(expected[name], found[name])} == {
        name for name in expected if name.startswith("classifier") and name.endswith("weight")
    }
    del state["vit.layernorm.weight" if make is vit else "resnet.embedder.embedder.convolution.weight"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="missing"):
        dc.load_model(f"hf:{folder}", tmp_path / "other.safetensors")


def test_a_weights_file_decides_the_number_of_classes(tmp_path: Path) -> None:
    folder = saved(tmp_path / "network", vit)
    state = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][:3].clone()
    save_file(state, tmp_path / "three.safetensors")
    model = dc.load_model(f"hf:{folder}", tmp_path / "three.safetensors")
    assert (model.num_classes, model.class_names) == (3, None)
    assert torch.equal(model.network.tensors.weight, state["classifier.weight"])


def test_the_processor_is_found_in_the_files_of_images_and_texts_and_of_timm(tmp_path: Path) -> None:
    folder = saved(tmp_path / "network", vit)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    own = {**settings, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": own}))
    found = find_entry(f"hf:{folder}").preprocessing
    assert found is not None
    assert (found.mean, found.std) == ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))

    pytest.importorskip("timm")
    wrapped = tmp_path / "wrapped"
    wrapped.mkdir()
    pretrained = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.4]}
    content = {
        "model_type": "timm_wrapper",
        "architecture": "resnet18",
        "num_classes": 3,
        "label_names": ["a", "b", "c"],
    }
    (wrapped / "config.json").write_text(json.dumps({**content, "pretrained_cfg": pretrained}))
    found = find_entry(f"hf:{wrapped}").preprocessing
    assert found is not None
    assert (found.mean, found.std, found.crop) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.4), (32, 32))


def test_small_deviations_keep_their_digits(tmp_path: Path) -> None:
    folder = saved(tmp_path / "network", vit)
    transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, do_rescale=False, image_mean=[0, 0, 0], image_std=[0.00392157, 127.5, 58.395]
    ).save_pretrained(folder)
    found = find_entry(f"hf:{folder}").preprocessing
    assert found is not None
    assert found.std == pytest.approx((0.00392157 / 255, 0.5, 0.229), rel=1e-5)  # of pixels from 0 to 255


def test_weights_for_positions_of_another_size_name_the_option() -> None:
    saved(Path("network"), vit)
    command = ["validate", "hf:network", "-w", "default", "--dataset", "digits", "--no-cache", "--input-size", "48"]
    said = refused(command, REFUSED, "1 of another shape (vit.embeddings.position_embeddings (1, 17, 16)")
    assert "for each position in an image: give the size that it was trained on with --input-size." in said
