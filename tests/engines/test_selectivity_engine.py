"""Selectivity of the layers of whole networks, against hooks and plain loops in double precision."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from decompose_cli.decomposition.selectivity_results import Layer, SelectivityResults
from decompose_cli.engines.selectivity import SelectivitySettings, selectivity
from decompose_cli.errors import InputError
from decompose_cli.features.study import Inputs, Study
from decompose_cli.storage.result_document import ResultDocument

NET = """
import torch
from torch import nn

CALLS = []

class Unit(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x):
        return (x + self.conv(x)).relu()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, bias=False)
        self.relu = nn.ReLU()
        self.body = nn.Sequential(Unit(16), Unit(16))
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        CALLS.append(len(x))
        return self.fc(self.body(self.relu(self.conv(x))).mean((2, 3)))
"""
LAYERS = ["relu", "body.0", "body.1"]
NAMES = ["ant", "bee", "cow"]


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A small network of the user's in the current directory, without any bias before the head."""
    Path("selectivity_net.py").write_text(NET, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "selectivity_net:Net"
    sys.modules.pop("selectivity_net", None)


@pytest.fixture
def inputs(net: str, tmp_path: Path, make_images: Callable[..., Path]) -> Inputs:
    """The small network on a few random images."""
    root = make_images(tmp_path / "images", NAMES, n=5, side=12)
    random = np.random.default_rng(1)
    for file in sorted(root.rglob("*.png")):  # of different colours, so that filters respond differently
        pixels = random.random((4, 4, 3)) * random.random(3) ** 2
        Image.fromarray((255 * pixels).astype(np.uint8)).resize((12, 12)).save(file)
    return Inputs(model=net, dataset=f"folder:{root}", workers=0, mean="0,0,0", std="1,1,1", seed=4)


def folder_of(inputs: Inputs) -> Path:
    return Path(str(inputs.dataset).removeprefix("folder:"))


def activations(inputs: Inputs, split: str = "train") -> dict[str, list[list[list[float]]]]:
    """By layer and class the spatially averaged activations of each image."""
    torch.manual_seed(inputs.seed)
    module: nn.Module = sys.modules["selectivity_net"].Net().double().eval()
    found: dict[str, list[list[list[float]]]] = {name: [] for name in LAYERS}
    for name in NAMES:
        files = sorted((folder_of(inputs) / split / name).glob("*.png"))
        if not files:
            continue
        pixels = np.stack([np.array(Image.open(file)) for file in files])
        x = torch.from_numpy(pixels / 255).permute(0, 3, 1, 2)
        with torch.no_grad():
            for layer, part in ((LAYERS[0], nn.Sequential(module.conv, module.relu)), *zip(LAYERS[1:], module.body)):  # type: ignore[arg-type]  # noqa: B905
                x = part(x)
                found[layer].append(x.mean((2, 3)).tolist())
    return found


def needed(values: list[float], fraction: float) -> int:
    """How many leading filters have a cumulative share that is still below the fraction."""
    total, reached, count = sum(values), 0.0, 0
    for value in sorted(values, reverse=True):
        reached += value
        if total == 0 or reached / total >= fraction:
            break
        count += 1
    return count


def check(
    layer: Layer, by_class: list[list[list[float]]], fraction: float, numbers: tuple[int, ...] = (0, 1, 2)
) -> None:
    filters = len(by_class[0][0])
    counts = [[needed(values, fraction) for values in images] for images in by_class]
    assert layer.filters == filters
    assert list(layer.per_class) == [str(number) for number in numbers]
    means, medians = [], []
    for number, ns in zip(numbers, counts, strict=True):
        found = layer.per_class[str(number)]
        means.append((filters - statistics.fmean(ns)) / filters)
        medians.append((filters - statistics.median(ns)) / filters)
        assert (found.name, found.images) == (NAMES[number], len(ns))
        assert found.psi_mean == pytest.approx(means[-1], abs=1e-12)
        assert found.psi_median == pytest.approx(medians[-1], abs=1e-12)
    assert layer.psi_mean == pytest.approx(statistics.fmean(means), abs=1e-12)
    assert layer.psi_median == pytest.approx(statistics.fmean(medians), abs=1e-12)
    indices = []
    for j in range(filters):
        mu = sorted(statistics.fmean(values[j] for values in images) for images in by_class)
        rest = statistics.fmean(mu[:-1])
        indices.append((mu[-1] - rest) / (mu[-1] + rest + 1e-7))
    assert layer.class_selectivity == pytest.approx(statistics.fmean(indices), abs=1e-5)


# ------------------------------------------------------------------------------------------------------------- values


def test_every_layer_against_plain_loops(inputs: Inputs) -> None:
    by_layer = None
    for fraction in (0.2, 0.5, 0.9):
        results = selectivity(inputs, SelectivitySettings(fraction=fraction)).results
        by_layer = by_layer or activations(inputs)
        assert results.fraction == fraction
        assert list(results.layers) == LAYERS
        for name, layer in results.layers.items():
            check(layer, by_layer[name], fraction)
        assert len({layer.psi_mean for layer in results.layers.values()}) > 1


def test_the_split_is_the_users(inputs: Inputs) -> None:
    document = selectivity(dataclasses.replace(inputs, split="test"), SelectivitySettings(layers=["body.1"]))
    assert document.dataset is not None
    assert document.dataset.split == "test"
    check(document.results.layers["body.1"], activations(inputs, "test")["body.1"], 0.5)


def test_all_layers_come_from_one_pass_over_the_images(inputs: Inputs) -> None:
    whole = selectivity(inputs).results
    calls = sys.modules["selectivity_net"].CALLS
    for batch_size in (1, 4, 64):
        before = len(calls)
        results = selectivity(dataclasses.replace(inputs, batch_size=batch_size)).results
        # Besides the images there are passes over examples, of eight, three, two and one, that find layers and head.
        assert sum(size for size in calls[before:] if size not in (2, 8)) == 15 + 3 + 1
        for name, layer in results.layers.items():
            assert layer.per_class == whole.layers[name].per_class
            assert layer.class_selectivity == pytest.approx(whole.layers[name].class_selectivity, abs=1e-5)


def test_layers_can_be_chosen_and_each_is_measured_once(inputs: Inputs) -> None:
    everything = selectivity(inputs).results.layers
    assert selectivity(inputs).results.layers == everything, "the same command gives the same result"
    chosen = selectivity(inputs, SelectivitySettings(layers=["body.1", "relu", "body.1"])).results.layers
    assert list(chosen) == ["body.1", "relu"]
    assert chosen == {name: everything[name] for name in chosen}


def test_images_that_no_filter_responds_to_are_counted_as_needing_none(inputs: Inputs) -> None:
    for number in range(2):
        Image.new("RGB", (12, 12)).save(folder_of(inputs) / "train" / "bee" / f"black{number}.png")
    layer = selectivity(inputs, SelectivitySettings(layers=["relu"])).results.layers["relu"]
    assert [found.silent for found in layer.per_class.values()] == [0, 2, 0]
    assert layer.per_class["1"].images == 7
    check(layer, activations(inputs)["relu"], 0.5)


def test_classes_without_images_are_left_out(inputs: Inputs) -> None:
    shutil.rmtree(folder_of(inputs) / "test" / "bee")
    layer = selectivity(
        dataclasses.replace(inputs, split="test"), SelectivitySettings(layers=["body.0"])
    ).results.layers["body.0"]
    check(layer, activations(inputs, "test")["body.0"], 0.5, (0, 2))


def test_images_of_a_single_class_say_nothing_about_preferring_it(inputs: Inputs) -> None:
    for name in ("bee", "cow"):
        shutil.rmtree(folder_of(inputs) / "test" / name)
    layer = selectivity(dataclasses.replace(inputs, split="test"), SelectivitySettings(layers=["relu"])).results.layers[
        "relu"
    ]
    assert layer.class_selectivity is None
    assert list(layer.per_class) == ["0"]


def test_the_shipped_network_is_measured_at_its_stem_and_every_unit(few: str) -> None:
    inputs = Inputs(model="resnet20-digits", dataset=few)
    document = selectivity(inputs)
    assert document.model is not None
    assert document.dataset is not None
    assert document.model.name == "resnet20-digits"
    assert (document.dataset.name, document.dataset.split, document.dataset.images) == (few, "train", 20)
    layers = document.results.layers
    assert list(layers) == ["stem", *(f"layer{stage}.{unit}" for stage in (1, 2, 3) for unit in (0, 1, 2))]
    assert [layer.filters for layer in layers.values()] == [16] * 4 + [32] * 3 + [64] * 3
    # The last unit, averaged over its area, is what the features are.
    study = Study(inputs, ("train",))
    features = study.bank.features.double()
    counts = torch.tensor([needed(row, 0.5) for row in features.tolist()], dtype=torch.float64)
    psi = [float(1 - counts[study.labels == number].mean() / 64) for number in range(10)]
    assert layers["layer3.2"].psi_mean == pytest.approx(statistics.fmean(psi), abs=1e-4)
    means = torch.stack([features[study.labels == number].mean(0) for number in range(10)]).sort(0).values
    rest = means[:-1].mean(0)
    index = float(((means[-1] - rest) / (means[-1] + rest + 1e-7)).mean())
    assert layers["layer3.2"].class_selectivity == pytest.approx(index, abs=1e-5)


# --------------------------------------------------------------------------------------------------------- comparison


def save_weights(seed: int, name: str) -> str:
    torch.manual_seed(seed)
    torch.save(sys.modules["selectivity_net"].Net().state_dict(), name)
    return name


def test_other_weights_are_measured_as_they_would_be_alone(inputs: Inputs) -> None:
    plain = selectivity(inputs).results
    same, other = save_weights(4, "same.pth"), save_weights(5, "other.pth")
    results = selectivity(inputs, SelectivitySettings(compare=[f"mine={same}", other])).results
    assert list(results.compared) == ["mine", "other"]
    assert results.layers == plain.layers
    assert results.compared["mine"].layers == plain.layers
    alone = selectivity(dataclasses.replace(inputs, weights=other))
    assert alone.model is not None
    assert results.compared["other"].layers == alone.results.layers
    assert results.compared["other"].weights == alone.model.weights
    assert alone.results.layers != plain.layers


def test_two_comparisons_of_the_same_name_are_refused(inputs: Inputs) -> None:
    with pytest.raises(InputError, match="Two checkpoints are named 'a'"):
        selectivity(inputs, SelectivitySettings(compare=["a=1.pth", "a=2.pth"]))


def test_weights_that_do_not_fit_are_refused_before_any_image_is_looked_at(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("images were looked at")

    monkeypatch.setattr("decompose_cli.engines.selectivity.together", fail)
    torch.save({"fc.weight": torch.ones(2, 2)}, "another.pth")
    for file in ("missing.pth", "another.pth"):
        with pytest.raises(InputError, match=re.escape(file)):
            selectivity(inputs, SelectivitySettings(compare=[f"a={file}"]))


# ----------------------------------------------------------------------------------------------------------- document


def test_the_document_survives_json(inputs: Inputs) -> None:
    Study(inputs, ("train",))  # imports the network
    document = selectivity(inputs, SelectivitySettings(compare=[f"a={save_weights(5, 'w.pth')}"], fraction=0.3))
    content = json.loads(document.to_json())
    assert ResultDocument[SelectivityResults].model_validate(content) == document
    assert content["command"] == "selectivity"
    assert {name: content["arguments"][name] for name in ("layers", "fraction", "compare")} == {
        "layers": ["all"],
        "fraction": 0.3,
        "compare": ["a=w.pth"],
    }
    assert list(content["results"]["layers"]) == LAYERS
    for layer in content["results"]["layers"].values():
        assert {"psi_mean", "psi_median", "class_selectivity", "per_class"} <= set(layer)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_fractions_that_are_none_are_refused(fraction: float) -> None:
    with pytest.raises(InputError, match=r"^fraction .* is not between 0 and 1"):
        selectivity(Inputs(), SelectivitySettings(fraction=fraction))


def test_layers_that_cannot_be_measured_are_refused_by_name(inputs: Inputs) -> None:
    cases: list[tuple[list[str], str]] = [
        ([], "layers names no layer; give all, or names from"),
        (["layer9"], "no layer 'layer9'"),
        (["conv"], "'conv' has negative outputs"),
        (["fc"], "'fc' has negative outputs"),
        (["relu", "body.0.conv"], r"'body\.0\.conv' has negative outputs"),
    ]
    for layers, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            selectivity(inputs, SelectivitySettings(layers=layers))


def test_a_network_without_units_is_refused_with_a_way_out(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("selectivity_bare.py").write_text(
        "from torch import nn\n\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))\n",
        encoding="utf-8",
    )
    try:
        with pytest.raises(InputError, match="neither residual units nor ReLU") as caught:
            selectivity(dataclasses.replace(inputs, model="selectivity_bare:make"))
    finally:
        sys.modules.pop("selectivity_bare", None)
    assert "with layers" in str(caught.value.hint)


NEGATIVE = """
from torch import nn

class Unit(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.conv, self.act, self.out = nn.Conv2d(4, 6, 1), act, nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return x + self.out(self.act(self.conv(x)))

def make(*acts):
    body = [nn.Conv2d(3, 4, 3), nn.Hardswish(), *(Unit(act) for act in acts)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

def mixed(): return make(nn.ReLU6(), nn.Hardswish(), nn.ReLU())
def negative(): return make(nn.Hardswish(), nn.GELU())
"""


def test_units_that_cannot_be_measured_are_named(inputs: Inputs, caplog: pytest.LogCaptureFixture) -> None:
    Path("selectivity_negative.py").write_text(NEGATIVE, encoding="utf-8")
    try:
        results = selectivity(dataclasses.replace(inputs, model="selectivity_negative:mixed")).results
        assert list(results.layers) == ["2.act", "4.act"]
        assert [layer.filters for layer in results.layers.values()] == [6, 6]
        why = "yield negative values, which have no shares, and no layer inside them makes negative values zero as"
        assert f"Units of selectivity_negative:mixed {why} a ReLU does: 3 (1 in all). They are left out." in caplog.text
        with pytest.raises(InputError) as caught:
            selectivity(dataclasses.replace(inputs, model="selectivity_negative:negative"))
        assert caught.value.message == f"Units of selectivity_negative:negative {why} a ReLU does: 2, 3 (2 in all)."
    finally:
        sys.modules.pop("selectivity_negative", None)


def test_other_weights_are_measured_at_the_same_layers(inputs: Inputs) -> None:
    """Even if their units could be measured as they are."""
    Path("selectivity_negative.py").write_text(NEGATIVE, encoding="utf-8")
    try:
        network = dataclasses.replace(inputs, model="selectivity_negative:mixed")
        selectivity(network)
        module = sys.modules["selectivity_negative"].mixed()
        for number in (2, 4):
            nn.init.zeros_(module[number].out.weight)
            nn.init.constant_(module[number].out.bias, 100.0)
        torch.save(module.state_dict(), "positive.pth")
        results = selectivity(network, SelectivitySettings(compare=["positive.pth"])).results
        assert list(results.compared["positive"].layers) == list(results.layers) == ["2.act", "4.act"]
    finally:
        sys.modules.pop("selectivity_negative", None)


@pytest.mark.parametrize("units", ["Unit(16), Unit(16), Frequencies(16)", "Frequencies(16)"])
def test_layers_whose_filters_cannot_be_told_are_named(
    inputs: Inputs, units: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = (
        NET.replace("Unit(16), Unit(16)", units)
        .replace(".mean((2, 3))", ".flatten(1)")
        .replace("nn.Linear(16, 3)", "nn.Linear(1600, 3)")
        .replace("self.relu(self.conv(x))", "self.conv(x)")
    )
    unit = (
        "class Frequencies(Unit):\n    def forward(self, x):\n        return torch.fft.fftn(x, dim=(1, 2, 3)).abs()\n\n"
    )
    Path("selectivity_net.py").write_text(made.replace("class Net", f"{unit}class Net"), encoding="utf-8")
    why = (
        "in selectivity_net:Net (1 in all) no filters are looked at, as it cannot be told what its axes are after the "
        "operation _fft_c2c"
    )
    if units.startswith("Unit"):
        with caplog.at_level(logging.WARNING, "decompose_cli"):
            assert list(selectivity(inputs).results.layers) == ["body.0", "body.1"]
        assert f"Of body.2 {why}; layers takes other layers." in caplog.messages
    else:
        with pytest.raises(InputError) as caught:
            selectivity(inputs)
        assert caught.value.message.startswith(f"Of body.0 {why}.")
