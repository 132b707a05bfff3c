"""Networks without a classifier: features for ``sparsify``, ``filters`` and ``selectivity``, and no more than that."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command_line import REFUSED, document_of, refused, run
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from decompose_cli.engines.filters import FiltersSettings, filters
from decompose_cli.engines.layers import list_layers
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.opening import Opening
from decompose_cli.features.study import Study
from decompose_cli.models.backbones import BackboneWithHead, features_in
from decompose_cli.models.classifier import Classifier, open_classifier

SIZE = 32
GREY = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
TOWER = """
import torch
from torch import nn

class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Conv2d(3, 12, 5, 4)
        self.blocks = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(12, 12, 3)), nn.ReLU())

    def forward(self, x):
        return self.blocks(self.stem(x)).mean((2, 3))

class Fixed(Tower):
    def forward(self, x):
        assert x.shape[2:] == (32, 32), "only 32 pixels"
        return super().forward(x)

class Maps(Tower):
    def forward(self, x):
        return self.blocks(self.stem(x))

class Words(Tower):
    def forward(self, x):
        return "features"
"""


@pytest.fixture
def tower(few: str) -> list[str]:
    """A network of the user's that yields features, and images for it, as they are typed."""
    Path("tower.py").write_text(TOWER, encoding="utf-8")
    return ["tower:Tower", "--features-only", "--dataset", few, "--input-size", str(SIZE), *GREY]


def inputs_of(few: str, **more: Any) -> Inputs:
    given: dict[str, Any] = {"model": "tower:Tower", "dataset": few, "input_size": str(SIZE), "features_only": True}
    return Inputs(**{**given, "mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5", "workers": 0, **more})


def by_hand(few: str, split: str, backbone: nn.Module) -> tuple[Tensor, list[int]]:
    """Features in float64, one image after the other, and their classes."""
    backbone = backbone.double().eval()
    found, labels = [], []
    for folder in sorted(Path(few.removeprefix("folder:"), split).iterdir()):
        for file in sorted(folder.iterdir()):
            pixels = np.asarray(Image.open(file).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
            image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).double() / 255
            with torch.no_grad():
                found.append(backbone(((image - 0.5) / 0.5)[None])[0])
            labels.append(int(folder.name))
    return torch.stack(found), labels


def backbone_of(classifier: Classifier) -> nn.Module:
    module = classifier.load((SIZE, SIZE)).module
    assert isinstance(module, BackboneWithHead)
    return module.backbone


def test_a_head_that_is_fitted_to_features_is_in_the_checkpoint(few: str, tower: list[str]) -> None:
    found = document_of("sparsify", *tower, "-k", "3", "-o", "out", "--overwrite", "--json")
    assert found["results"]["original"] is None
    assert found["model"]["num_features"] == 12
    checkpoint = found["results"]["heads"]["3"]["checkpoint"]
    validated = document_of("validate", "tower:Tower", "-w", checkpoint, "--dataset", few, "--workers", "0")
    features, labels = by_hand(few, "test", backbone_of(open_classifier("tower:Tower", None, features_only=True)))
    state = load_file(checkpoint)
    rows = zip(*(state[f"linear_head.{part}"] for part in ("weight", "bias", "indices", "mask")), strict=True)
    columns = [
        sum(float(w) * features[:, int(i)] for w, i, kept in zip(weight, index, mask, strict=True) if kept)
        + float(bias)
        for weight, bias, index, mask in rows
    ]
    predicted = torch.stack([torch.as_tensor(column) for column in columns], 1).argmax(1).tolist()
    correct = sum(one == label for one, label in zip(predicted, labels, strict=True))
    assert correct == validated["results"]["decomposed"]["correct"]
    assert correct == found["results"]["heads"]["3"]["point"]["correct"]
    assert validated["model"]["head"] == "linear_head"
    assert validated["model"]["options"] == {"features_only": "yes"}
    dense = found["results"]["refitted"]["point"]["correct"]
    assert validated["results"]["original"]["correct"] == dense, "the dense head is kept for comparison"
    assert document_of("explain", "tower:Tower", "-w", checkpoint, "--dataset", few, "--indices-of", "0")["results"]


def test_features_are_those_of_the_network_whatever_its_classes(few: str, tower: list[str]) -> None:
    study = Study(inputs_of(few), ("test",))
    features, labels = by_hand(few, "test", backbone_of(study.classifier))
    torch.testing.assert_close(study.bank.features.double(), features, rtol=1e-4, atol=1e-5)
    assert study.labels.tolist() == labels
    assert (study.head.kind, study.head.num_classes, study.head.full) == ("absent", 10, None)
    other = open_classifier("tower:Tower", None, features_only=True).with_classes(list("abcdefg"), None)
    assert other.identity == study.classifier.identity
    sent: Opening = pickle.loads(pickle.dumps(Opening.of(inputs_of(few), study.classifier)))
    assert sent.classifier(1).lacks_head


def test_filters_of_an_index_file_are_ranked_by_how_much_higher_they_are(few: str, tower: list[str]) -> None:
    run("extract-indices", *tower, "--method", "mean", "-k", "4", "-o", "indices.json")
    results = filters(inputs_of(few), FiltersSettings("3", indices=Path("indices.json"), images=2)).results
    study = Study(inputs_of(few), ("test",))
    own, others = (study.bank.features[(study.labels == 3) == is_own].double().mean(0) for is_own in (True, False))
    assert len(results.filters) == 4
    differences = [float(own[info.feature] - others[info.feature]) for info in results.filters]
    assert differences == sorted(differences, reverse=True)
    assert all(info.weight is None and info.contribution is None for info in results.filters)
    assert "Filters of 3" in run("filters", *tower, "--class", "3", "-i", "indices.json", "-o", "looked").stderr


def test_selectivity_and_layers_need_no_head(few: str, tower: list[str]) -> None:
    found = document_of("selectivity", *tower, "--layers", "backbone.blocks.1")
    assert found["results"]["layers"]["backbone.blocks.1"]["filters"] == 12
    listed = list_layers("tower:Tower", input_size=str(SIZE), features_only=True)
    (head,) = [layer for layer in listed.layers if layer.is_head]
    assert head.name == "linear_head"
    (marked,) = [layer for layer in listed.layers if layer.is_cam_layer]
    assert marked.name == "backbone.blocks"


def test_a_network_for_one_size_of_images_is_run_on_no_other(few: str, tower: list[str]) -> None:
    assert Study(inputs_of(few, model="tower:Fixed"), ("test",)).bank.features.shape == (20, 12)
    with pytest.raises(InputError, match=r"tower:Fixed cannot run on RGB images of 40x40 pixels: .*only 32 pixels"):
        _ = Study(inputs_of(few, model="tower:Fixed", input_size="40"), ("test",)).bank


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("validate", []),
        ("essential", []),
        ("sweep", []),
        ("explain", ["--indices-of", "0"]),
        ("extract-indices", ["--method", "weight"]),
        ("mutual-info", ["--method", "contribution"]),
    ],
)
def test_what_needs_a_head_says_so(command: str, more: list[str], tower: list[str]) -> None:
    said = refused([command, *tower, *more], REFUSED, "needs a head", "taken without a classifier", keeps=False)
    assert "decompose sparsify" in said


def test_export_and_filters_say_what_they_need(tower: list[str]) -> None:
    network = [one for one in tower if one not in ("--dataset", tower[3])]
    assert "decompose sparsify" in refused(["export", *network, "-o", "net.onnx"], REFUSED, "export needs a head")
    refused(["filters", *tower, "--class", "1"], REFUSED, "filters needs -i here", keeps=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet20"], "--features-only is for networks of timm, of transformers and of yours; resnet20 has"),
        (["tower:Maps", "--input-size", "32"], "tower:Maps returns values of shape (2, 12, "),
        (["tower:Words", "--input-size", "32"], "tower:Words returns a str, not features (N, D)"),
        ([], "--features-only needs the name of a network"),
    ],
)
def test_what_yields_no_features_is_refused(arguments: list[str], sentence: str, tower: list[str]) -> None:
    refused(["sparsify", *arguments, "--features-only", "--dataset", tower[3]], REFUSED, sentence, keeps=False)


# --------------------------------------------------------------------------------------- networks of other libraries


def test_a_network_of_timm_loses_its_classifier_and_keeps_its_weights() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    whole = timm.create_model("resnet10t", num_classes=7).eval()
    torch.save(whole.state_dict(), "whole.pth")
    classifier = open_classifier("timm:resnet10t", "whole.pth", features_only=True)
    backbone = backbone_of(classifier)
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone(images), expected)
    network = classifier.load((SIZE, SIZE))
    assert (network.tensors.kind, network.tensors.num_features) == ("absent", 512)
    torch.save({name: value for name, value in whole.state_dict().items() if not name.startswith("fc.")}, "part.pth")
    again = backbone_of(open_classifier("timm:resnet10t", "part.pth", features_only=True))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in backbone.state_dict().items())


SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE, "patch_size": 8}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}


def clip(transformers: Any) -> nn.Module:
    texts = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    texts |= {"vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.CLIPConfig(text_config=texts, vision_config={**SMALL, "intermediate_size": 48})
    return transformers.CLIPModel(config)  # type: ignore[no-any-return]


TOWERS: dict[str, tuple[Callable[[Any], nn.Module], Callable[[Any, Tensor], Tensor]]] = {
    "DINO": (
        lambda t: t.ViTModel(t.ViTConfig(**SMALL, intermediate_size=48), add_pooling_layer=False),
        lambda module, x: module(x).last_hidden_state[:, 0],
    ),
    "DINOv2": (lambda t: t.Dinov2Model(t.Dinov2Config(**SMALL)), lambda module, x: module(x).pooler_output),
    "CLIP": (clip, lambda module, x: module.vision_model(x).pooler_output),
    "ResNet": (lambda t: t.ResNetModel(t.ResNetConfig(**STAGES)), lambda module, x: module(x).pooler_output.flatten(1)),
    "classifier": (
        lambda t: t.ViTForImageClassification(t.ViTConfig(**SMALL, intermediate_size=48, num_labels=3)),
        lambda module, x: module.vit(x).last_hidden_state[:, 0],
    ),
}


@pytest.mark.parametrize("name", TOWERS)
def test_towers_of_transformers_yield_the_features_that_they_are_known_for(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    make, read = TOWERS[name]
    torch.manual_seed(0)
    module = make(transformers).eval()
    module.save_pretrained("tower")
    backbone = backbone_of(open_classifier("hf:tower", "default", features_only=True))
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = read(module, images)
        torch.testing.assert_close(features_in(backbone(images), backbone), expected)
    assert expected.std(0).max() > 0
