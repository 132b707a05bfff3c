"""What Python programs use: documented, exported on purpose, and the same numbers as the commands."""

from __future__ import annotations

import doctest
import importlib
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.processes import python
from torch import Tensor, nn

import decompose_cli as dc

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_network.py"


@pytest.mark.parametrize("name", ["decompose_cli.api.model", "decompose_cli.api.features"])
def test_the_examples_in_the_docstrings_are_true(name: str) -> None:
    names = {each: getattr(dc, each) for each in dc.__all__}
    found = doctest.testmod(importlib.import_module(name), extraglobs={**names, "torch": torch})
    assert found.attempted >= 6
    assert found.failed == 0


def test_each_part_of_a_given_network_stays_in_its_mode() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    net[1].eval()
    dc.load_model(net, input_size=8)
    assert [part.training for part in net.modules()] == [True, True, False, True, True, True]


def test_what_is_exported_is_documented_and_complete() -> None:
    from decompose_cli import api

    assert set(dc.__all__) == {*api.__all__, "__version__"}
    assert set(dc.__all__) <= set(dir(dc))
    for name in api.__all__:
        assert getattr(dc, name) is getattr(api, name)
        assert getattr(dc, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = dc.nothing  # type: ignore[attr-defined]


def test_the_package_is_imported_without_torch() -> None:
    done = python("import sys, decompose_cli; dir(decompose_cli); print(sorted({'torch', 'numpy'} & set(sys.modules)))")
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_the_example_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.startswith("Model('Net', 32 features, 10 classes, full head) with head fc\nk = 2: ")
    before = int(re.findall(r"k = 2: (\d+) of 397", printed)[0])
    after = int(re.findall(r"k = 2, trained further: (\d+) of 397", printed)[0])
    full = int(re.findall(r"instead of (\d+)", printed)[0])
    assert before < after <= full + 10, "what was lost is trained back"
    assert Path("digits-k2.safetensors").stat().st_size > 10_000


class Net(nn.Module):
    """Features are the colours' means, twice; logits are taken half."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        return 0.5 * self.fc(torch.cat([means, means.square()], 1))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(30, 3, 8, 8, generator=random) + torch.arange(30)[:, None, None, None] % 3
    return list(zip(images.split(7), (torch.arange(30) % 3).split(7), strict=True))


def test_a_module_and_batches_of_ones_own(net: Net, batches: list[tuple[Tensor, Tensor]]) -> None:
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = dc.load_model(net, input_size=8, class_names=["a", "b", "c"])
    features = dc.extract_features(model, batches)
    images = torch.cat([images for images, _ in batches])
    means = images.mean((2, 3))
    assert torch.allclose(features.values, torch.cat([means, means.square()], 1), atol=1e-6)
    assert features.labels.tolist() == [number % 3 for number in range(30)]
    results = dc.validate(features)
    assert results.original is not None
    assert results.original.correct == int((net(images).argmax(1) == features.labels).sum())
    assert [row.name for row in results.original.per_class] == ["a", "b", "c"]
    assert net.training
    assert model.module is net
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_a_decomposed_network_computes_what_its_features_say(net: Net, batches: list[tuple[Tensor, Tensor]]) -> None:
    model = dc.load_model(net, input_size=8)
    indices = {0: [0, 1], 1: [5], 2: [2, 3, 4]}
    small = dc.decompose(model, indices)
    assert (small.is_decomposed, model.is_decomposed) == (True, False)
    images = torch.cat([images for images, _ in batches])
    means = images.mean((2, 3))
    features = torch.cat([means, means.square()], 1)
    expected = torch.stack(
        [0.5 * (net.fc.bias[c] + sum(net.fc.weight[c, j] * features[:, j] for j in row)) for c, row in indices.items()],
        1,
    )
    assert torch.allclose(small.module(images), expected, atol=1e-6)
    own, given = (
        dc.validate(dc.extract_features(small, batches)),
        dc.validate(dc.extract_features(model, batches), _set(indices)),
    )
    assert own.original is None
    assert own.decomposed is not None
    assert given.decomposed is not None
    assert own.decomposed.confusion == given.decomposed.confusion
    assert own.decomposed.loss == pytest.approx(given.decomposed.loss)
    assert own.indices is not None
    assert own.indices.k == (1, 3)


def _set(indices: dict[int, list[int]]) -> dc.IndexSet:
    return dc.IndexSet(tuple(tuple(row) for row in indices.values()), 6)


def test_what_is_trained_is_what_is_measured(net: Net, batches: list[tuple[Tensor, Tensor]]) -> None:
    model = dc.load_model(net, input_size=8)
    small = dc.decompose(model, {0: [0], 1: [1], 2: [2]})
    for found in (model, small):
        before = dc.validate(dc.extract_features(found, batches))
        optimizer = torch.optim.Adam(found.module.parameters(), lr=0.1)
        for images, labels in batches * 5:
            optimizer.zero_grad()
            nn.functional.cross_entropy(found.module(images), labels).backward()
            optimizer.step()
        after = dc.validate(dc.extract_features(found, batches))
        old, new = before.original or before.decomposed, after.original or after.decomposed
        assert old is not None
        assert new is not None
        assert new.loss < old.loss
        images, labels = (torch.cat(each) for each in zip(*batches, strict=True))
        assert new.loss == pytest.approx(
            float(nn.functional.cross_entropy(found.module(images), labels).detach()), rel=1e-5
        )
    # A network that was trained is decomposed as it is by then.
    again = dc.decompose(model, {c: list(range(6)) for c in range(3)})
    assert torch.allclose(again.module(batches[0][0]), net(batches[0][0]), atol=1e-5)


def test_the_numbers_are_those_of_the_commands(warm: None) -> None:
    from decompose_cli.engines.extract_indices import ExtractSettings, extract_indices
    from decompose_cli.engines.validate import validate

    model = dc.load_model()
    features = dc.extract_features(model, dc.load_dataset())
    indices = dc.extract_indices(features, 7, "mean")
    engine = extract_indices(dc.Inputs(split="test"), ExtractSettings(k=(7,), method="mean")).results["7"]
    assert indices.published_layout() == engine.indices
    found = dc.validate(features, indices)
    theirs = validate(dc.Inputs(), indices).results
    assert found.model_dump(exclude={"indices"}) == theirs.model_dump(exclude={"indices"})


def test_weights_are_kept_and_read_back(net: Net, batches: list[tuple[Tensor, Tensor]]) -> None:
    small = dc.decompose(
        dc.load_model(net, input_size=8, class_names=["a", "b", "c"], mean=(0.5,) * 3, std=(0.2,) * 3),
        {c: [c, c + 1] for c in range(3)},
    )
    dc.save_model(small, "net.safetensors")
    Path("mine.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_api import Net\n"
    )
    read = dc.load_model("mine:Net", "net.safetensors")
    assert read.class_names == ("a", "b", "c")
    assert read.preprocessing == small.preprocessing
    assert torch.equal(read.module(batches[0][0]), small.module(batches[0][0]))
    with pytest.raises(dc.InputError, match="exists already"):
        dc.save_model(small, "net.safetensors")
    dc.save_model(small, "net.safetensors", overwrite=True)


def test_only_what_was_said_of_the_images_is_written_down(net: Net) -> None:
    from decompose_cli.models.checkpoint import read_checkpoint

    dc.save_model(dc.load_model(net, input_size=8), "silent.safetensors")
    dc.save_model(dc.load_model(net, input_size=8, mean=(0.5,) * 3, std=(0.25,) * 3), "told.safetensors")
    silent, told = (read_checkpoint(Path(f"{name}.safetensors")).metadata for name in ("silent", "told"))
    assert silent is not None
    assert told is not None
    assert (silent.mean, silent.std, silent.resize, silent.crop) == (None, None, None, None)
    assert (told.mean, told.std, told.resize, told.crop) == ([0.5] * 3, [0.25] * 3, None, None)
    assert silent.input_size == told.input_size == [8, 8]


def test_a_network_with_options_and_gates_is_read_back_as_it_was() -> None:
    from decompose_cli.models.checkpoint import Metadata, write_checkpoint
    from decompose_cli.models.registry import get_entry

    entry = get_entry("resnet8").configured(norm_mode="group", gn_num_groups="4")
    state = {**entry.make(10, (32, 32)).state_dict(), "csg": torch.rand(10, 64)}
    about = Metadata(
        model="resnet8", num_classes=10, model_options={"norm_mode": "group", "gn_num_groups": "4"}, dataset="digits"
    )
    write_checkpoint(Path("first.safetensors"), state, about)
    first = dc.load_model(weights="first.safetensors")
    dc.save_model(first, "second.safetensors")
    second = dc.load_model(weights="second.safetensors")
    assert (second.options, second.dataset) == (first.options, "digits")
    assert second.gates is not None
    assert torch.equal(second.gates, state["csg"])
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(second.module(images), first.module(images))


def test_shared_weights_are_written(net: Net) -> None:
    net.again = net.fc
    dc.save_model(dc.load_model(net, input_size=8), "net.safetensors")
    assert Path("net.safetensors").exists()


def test_index_sets_are_written_and_read_by_name() -> None:
    indices = dc.IndexSet(((0, 1), (2,)), 3)
    dc.write_index_set(indices, "k.json")
    assert dc.read_index_set("k.json").classes == indices.classes
    with pytest.raises(dc.InputError, match="exists already"):
        dc.write_index_set(indices, "k.json")


def test_published_decompositions_need_their_indices(reference_dir: Path) -> None:
    weights = reference_dir / "weights"
    model = dc.load_model("resnet20", weights / "resnet20-decomposed.pth")
    images = dc.load_dataset(f"folder:{reference_dir / 'data' / 'cifar10-lossless'}", "test")
    features = dc.extract_features(model, images)
    with pytest.raises(dc.InputError, match="without its indices"):
        dc.validate(features)
    with pytest.raises(dc.InputError, match="without its indices"):
        dc.save_model(model, "net.safetensors")
    found = dc.validate(features, weights / "resnet20-decomposed.indices.json").decomposed
    assert found is not None
    assert found.correct == 915


def test_classes_of_a_data_set_are_matched_by_name(net: Net, make_images: Callable[..., Path], tmp_path: Path) -> None:
    root = make_images(tmp_path / "images", ["b", "a", "c"], splits=("test",), n=2)
    model = dc.load_model(net, input_size=32, class_names=["c", "b", "a"], mean=(0, 0, 0), std=(1, 1, 1))
    features = dc.extract_features(model, dc.load_dataset(f"folder:{root}"))
    assert features.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert float(features.values[:, :3].mean()) == pytest.approx(0.5, abs=0.01)


def test_numbers_given_to_a_network_are_used_as_they_are(net: Net) -> None:
    mean, std = (0.1 + 0.2, 1 / 3, 0), (2.5e-1, 0.2, 1)
    named = dc.load_model(input_size=(40, 36), mean=mean, std=std).preprocessing
    assert (named.mean, named.std, named.resize, named.crop) == (mean, std, 40, (40, 36))
    of_module = dc.load_model(net, input_size=(12, 8), mean=mean).preprocessing
    assert (of_module.mean, of_module.resize, of_module.crop) == (mean, 12, (12, 8))
    assert of_module.std == dc.load_model(net, input_size=8).preprocessing.std == (0.247, 0.243, 0.261)


def test_features_of_a_network_can_be_made_by_hand(net: Net, batches: list[tuple[Tensor, Tensor]]) -> None:
    found = dc.extract_features(dc.load_model(net, input_size=8), batches)
    made = dc.Features(found.values.numpy(), found.labels.numpy(), head=found.head)
    assert made.class_names == ("0", "1", "2")
    assert dc.validate(made) == dc.validate(found)
    few = found.labels < 2
    assert len(dc.Features(found.values[few], found.labels[few], head=found.head).class_names) == 3


IMAGES, LABELS = torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])
REFUSED: dict[str, tuple[Callable[[dc.Model], Any], str]] = {
    "no size": (lambda m: dc.load_model(m.module), "give input_size"),
    "weights of a module": (lambda m: dc.load_model(m.module, "x.pth", input_size=8), "has its weights already"),
    "no head": (
        lambda m: dc.load_model(nn.Flatten(), input_size=8),
        "does not end in a linear layer|no linear layer|head",
    ),
    "names": (lambda m: dc.load_model(m.module, input_size=8, class_names=["a"]), "1 class names were given"),
    "size": (lambda m: dc.load_model(m.module, input_size=(0, 8)), r"^input_size \(0, 8\) is out of range"),
    "deviation": (lambda m: dc.load_model(std=(1, 0, 1)), r"^std \(1\.0, 0\.0, 1\.0\) must be positive"),
    "mean": (lambda m: dc.load_model(m.module, input_size=8, mean=(0.5,)), "three comma-separated numbers"),
    "resize": (lambda m: dc.load_model(resize=(0, 8)), r"^resize \(0, 8\) is out of range"),
    "crop of images": (lambda m: dc.load_dataset(crop=5000), "^crop 5000 is out of range"),
    "interpolation of images": (lambda m: dc.load_dataset(interpolation="cubic"), "^interpolation 'cubic' is unknown"),
    "constants of images": (lambda m: dc.load_dataset(mean=(125, 123, 114)), "is not for pixel values in"),
    "data set": (lambda m: dc.load_dataset("cifar11"), "There is no data set 'cifar11'"),
    "no images": (lambda m: dc.extract_features(m, []), "There are no images"),
    "no pair": (lambda m: dc.extract_features(m, [IMAGES]), "Batch 0 is not a pair"),  # type: ignore[list-item]
    "bytes": (lambda m: dc.extract_features(m, [(IMAGES.byte(), LABELS)]), "not a floating-point tensor"),
    "one image": (lambda m: dc.extract_features(m, [(IMAGES[0], LABELS)]), "not a floating-point tensor"),
    "labels": (lambda m: dc.extract_features(m, [(IMAGES, LABELS + 2)]), "a label that is not one of 0 to 2"),
    "label count": (lambda m: dc.extract_features(m, [(IMAGES, LABELS[:1])]), "are not 2 class numbers"),
    "no labels": (lambda m: dc.extract_features(m, [(IMAGES, None)]), "are not class numbers"),  # type: ignore[list-item]
    "channels": (lambda m: dc.extract_features(m, [(torch.zeros(2, 4, 8, 8), LABELS)]), "cannot run on batch 0"),
    "half a feature": (lambda m: dc.decompose(m, {0: [1], 1: [2], 2: [0.5]}), "whole numbers"),  # type: ignore[list-item]
    "label type": (lambda m: dc.extract_features(m, [(IMAGES, LABELS.float())]), "are not 2 class numbers"),
    "NaN": (lambda m: dc.extract_features(m, [(IMAGES * float("nan"), LABELS)]), "NaN or infinite features"),
    "precision": (lambda m: dc.extract_features(m, [(IMAGES, LABELS)], precision="8"), "'8' is unknown"),
    "absent class": (
        lambda _: dc.extract_indices(dc.Features(torch.rand(2, 4), torch.tensor([0, 1]), class_names=list("abc"))),
        "no images",
    ),
    "no such class": (lambda m: m.of_classes(["cat"]), "has no class 'cat' among its 3"),
    "no such number": (lambda m: m.of_classes([0, 3]), "has no class 3 among its 3"),
    "class twice": (lambda m: m.of_classes([0, 0]), "names a class twice"),
    "no class": (lambda m: m.of_classes([]), "names no class"),
    "method": (lambda m: dc.extract_indices(_features(m), 2, "best"), "best"),  # type: ignore[arg-type]
    "k": (lambda m: dc.extract_indices(_features(m), 7), "7"),
    "too few classes": (lambda m: dc.decompose(m, {0: [1], 1: [2]}), "of the classes 0 to 2"),
    "feature": (lambda m: dc.decompose(m, {0: [1], 1: [2], 2: [6]}), "has the index 6"),
    "twice": (lambda m: dc.decompose(dc.decompose(m, "k.json"), "k.json"), "has a decomposed head already"),
    "indices twice": (
        lambda m: dc.validate(dc.extract_features(dc.decompose(m, "k.json"), [(IMAGES, LABELS)]), "k.json"),
        "is decomposed already",
    ),
    "ending": (lambda m: dc.save_model(m, "net.pth"), "does not end in .safetensors"),
}


def _features(model: dc.Model) -> dc.Features:
    return dc.extract_features(model, [(torch.rand(6, 3, 8, 8), torch.arange(6) % 3)])


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused(case: str, net: Net) -> None:
    Path("k.json").write_text('{"0": [1], "1": [2], "2": [3]}', encoding="utf-8")
    call, said = REFUSED[case]
    model = dc.load_model(net, input_size=8)
    with pytest.raises(dc.DecomposeError, match=said):
        call(model)
    assert [path.name for path in Path.cwd().iterdir()] == ["k.json"]
