"""Every command on what is in memory: the same figures as with names, from modules, loaders and features alike."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import decompose_cli as dc
from decompose_cli.decomposition.index_set import NamedSet
from decompose_cli.engines.atlas import AtlasSettings
from decompose_cli.engines.atlas import atlas as atlas_engine
from decompose_cli.engines.essential import EssentialSettings
from decompose_cli.engines.essential import essential as essential_engine
from decompose_cli.engines.explain import ExplainSettings
from decompose_cli.engines.explain import explain as explain_engine
from decompose_cli.engines.filters import FiltersSettings
from decompose_cli.engines.filters import filters as filters_engine
from decompose_cli.engines.finetune import FinetuneSettings
from decompose_cli.engines.finetune import finetune as finetune_engine
from decompose_cli.engines.mutual_info import MutualInfoSettings
from decompose_cli.engines.mutual_info import mutual_info as mutual_info_engine
from decompose_cli.engines.selectivity import SelectivitySettings
from decompose_cli.engines.selectivity import selectivity as selectivity_engine
from decompose_cli.engines.sparsify import SparsifySettings
from decompose_cli.engines.sparsify import sparsify as sparsify_engine
from decompose_cli.engines.sweep import SweepSettings
from decompose_cli.engines.sweep import sweep as sweep_engine
from decompose_cli.engines.validate import validate as validate_engine
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.training.recipes import _UPRIGHT
from decompose_cli.training.session import Request

DIGITS = Inputs(model="resnet20-digits")


@pytest.fixture(scope="module")
def model() -> dc.Model:
    return dc.load_model()


@pytest.fixture(scope="module")
def train(model: dc.Model) -> dc.Features:
    return dc.extract_features(model, dc.load_dataset("digits", "train"))


@pytest.fixture(scope="module")
def test(model: dc.Model) -> dc.Features:
    return dc.extract_features(model, dc.load_dataset("digits", "test"))


@pytest.fixture(scope="module")
def indices(train: dc.Features) -> dc.IndexSet:
    return dc.extract_indices(train, k=5)


def loader(split: str, batch_size: int = 64) -> DataLoader[Any]:
    """The images as somebody else would read them: normalised by the constants of the network."""
    images = dc.load_dataset("digits", split)
    seen = dc.load_model().preprocessing_of(images)
    pixels = torch.cat([batch for batch, _ in images.batches(seen, 512, 0)])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (seen.mean, seen.std))
    return DataLoader(TensorDataset((pixels / 255 - mean) / std, images.labels), batch_size=batch_size)


class Own(nn.Module):
    """The network that ships with the program, as a module of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dc.load_model().module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, 10)."""
        logits: torch.Tensor = self.inner(images)
        return logits


@pytest.fixture(scope="module")
def own() -> dc.Model:
    seen = dc.load_model().preprocessing_of(dc.load_dataset("digits", "test"))
    return dc.load_model(Own().eval(), input_size=32, class_names=list("0123456789"), mean=seen.mean, std=seen.std)


@pytest.mark.parametrize("name", ["api.studies", "api.comparing", "api.looking", "api.training", "preprocessing"])
def test_the_examples_in_the_docstrings_are_true(name: str) -> None:
    names = {each: getattr(dc, each) for each in dc.__all__}
    names["ImageOptions"] = importlib.import_module("decompose_cli.preprocessing").ImageOptions
    found = doctest.testmod(importlib.import_module(f"decompose_cli.{name}"), extraglobs=names)
    assert found.attempted >= 3
    assert found.failed == 0


def plain(results: Any) -> dict[str, Any]:
    """Figures without where pictures are, and without sources and digests, which say where things came from."""
    skipped = ("file", "sheet", "plot", "source", "sha256", "indices_sha256", "weights")

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: of(each) for key, each in value.items() if key not in skipped}
        return [of(each) for each in value] if isinstance(value, list) else value

    dumped: dict[str, Any] = of(json.loads(results.model_dump_json()))
    return dumped


def test_sweep(test: dc.Features, train: dc.Features, indices: dc.IndexSet) -> None:
    found = dc.sweep(
        test, train, methods=["frequency", "backward"], ks=[1, 5], indices={"mine": indices}, max_drop=3, refit=True
    )
    expected = sweep_engine(
        DIGITS,
        SweepSettings(
            methods=["frequency", "backward"], ks=[1, 5], indices=[NamedSet("mine", indices)], max_drop=3, refit=True
        ),
    )
    assert plain(found) == plain(expected.results)
    assert found.document.dataset == expected.dataset
    assert found.document.model == expected.model


def test_essential(test: dc.Features, train: dc.Features, indices: dc.IndexSet) -> None:
    found = dc.essential(test, indices, others={"same": (test, indices)}, repeats=3, controls=5)
    expected = essential_engine(DIGITS, EssentialSettings(indices=indices, repeats=3, controls=5))
    assert plain(found)["ours"] == plain(expected.results)["ours"]
    assert found.by_class("same") == found.by_class("ours")
    ranked = dc.essential(test, train=train, k=5, repeats=3, controls=5)
    assert ranked.by_class("ours") == found.by_class("ours")


def test_mutual_info(train: dc.Features, indices: dc.IndexSet) -> None:
    ranked = mutual_info_engine(DIGITS, MutualInfoSettings(k=(5, 10)))
    assert plain(dc.mutual_info(train, k=[5, 10])) == plain(ranked.results)
    found = dc.mutual_info({"mine": indices, "rows": indices.classes}, num_features=64)
    assert plain(found)["sets"]["mine"]["5"] == plain(ranked.results)["sets"]["ours"]["5"]
    assert plain(found)["sets"]["rows"] == plain(found)["sets"]["mine"]


def test_selectivity(model: dc.Model) -> None:
    found = dc.selectivity(model, dc.load_dataset("digits", "train"), layers=["layer3.2"], compare={"same": model})
    expected = selectivity_engine(DIGITS, SelectivitySettings(layers=("layer3.2",)))
    assert plain(found)["layers"] == plain(expected.results)["layers"]
    assert found.compared["same"].layers == found.layers


def test_filters_and_explanations(model: dc.Model, indices: dc.IndexSet, tmp_path: Path) -> None:
    images = dc.load_dataset("digits", "test")
    found = dc.filters(model, images, 4, indices=indices)
    expected = filters_engine(DIGITS, FiltersSettings("4", indices), folder=tmp_path / "filters")
    assert plain(found) == plain(expected.results)
    assert found.picture("filters.png") is not None
    for given in ({"worst": 2}, {"numbers": [3, 1]}):
        settings = ExplainSettings(
            indices_of=given.get("numbers"),
            worst=given.get("worst"),
            indices=indices,  # type: ignore[arg-type]
        )
        explained = dc.explain(model, images, indices=indices, **given)  # type: ignore[arg-type]
        assert plain(explained) == plain(explain_engine(DIGITS, settings).results)
    found.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "filters.png").read_bytes() == (tmp_path / "filters" / "filters.png").read_bytes()
    page = dc.report([tmp_path / "saved"]).html
    assert page.count("<img") == 1


def test_an_atlas(model: dc.Model, indices: dc.IndexSet, tmp_path: Path) -> None:
    found = dc.atlas(model, dc.load_dataset("digits", "test"), indices=indices, classes=[4], count=2)
    settings = AtlasSettings(indices, classes=["4"], images=2)
    assert plain(found) == plain(atlas_engine(DIGITS, settings, folder=tmp_path / "atlas").results)
    found.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "atlas.png").read_bytes() == (tmp_path / "atlas" / "atlas.png").read_bytes()
    assert found.figure() is not None


def test_validate_knows_its_document(test: dc.Features, indices: dc.IndexSet, tmp_path: Path) -> None:
    found = dc.validate(test, indices)
    expected = validate_engine(DIGITS, indices)
    assert plain(found) == plain(expected.results)
    assert found == dc.validate(test, indices)
    assert found != dc.validate(test)
    found.save(tmp_path / "result.json")
    document = json.loads((tmp_path / "result.json").read_text())
    assert document["command"] == "validate"
    assert document["model"] == expected.model.model_dump()  # type: ignore[union-attr]
    assert document["dataset"] == expected.dataset.model_dump()  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"result\.json exists already"):
        found.save(tmp_path / "result.json")
    assert "351" in found._repr_html_()


def test_a_module_and_loaders_give_the_figures_of_the_commands(own: dc.Model, indices: dc.IndexSet) -> None:
    train, test = (dc.extract_features(own, loader(split)) for split in ("train", "test"))
    assert dc.extract_indices(train, k=5) == indices
    results, expected = dc.validate(test, indices), validate_engine(DIGITS, indices).results
    assert plain(results)["decomposed"]["confusion"] == plain(expected)["decomposed"]["confusion"]
    swept = dc.sweep(test, train, methods=["frequency"], ks=[1, 5], max_drop=3)
    named = sweep_engine(DIGITS, SweepSettings(methods=["frequency"], ks=[1, 5], max_drop=3)).results
    assert plain(swept) == plain(named)
    noisy = dc.essential(test, indices, repeats=3, controls=5).by_class("ours")
    by_name = essential_engine(DIGITS, EssentialSettings(indices=indices, repeats=3, controls=5)).results
    assert {k: v.noise_at_inf for k, v in noisy.items()} == {
        k: v.noise_at_inf for k, v in by_name.by_class("ours").items()
    }
    layers = dc.selectivity(own, loader("train"), layers=["inner.layer3.2"]).layers["inner.layer3.2"]
    assert layers.psi_mean == pytest.approx(
        selectivity_engine(DIGITS, SelectivitySettings(layers=("layer3.2",))).results.layers["layer3.2"].psi_mean
    )
    shown = dc.filters(own, loader("test"), "4", indices=indices)
    assert [one.feature for one in shown.filters] == [
        one.feature for one in filters_engine(DIGITS, FiltersSettings("4", indices)).results.filters
    ]
    assert dc.explain(own, loader("test"), worst=1, indices=indices).explanations[0].image == "344"


def test_features_of_no_network_have_what_needs_none(test: dc.Features, train: dc.Features) -> None:
    alone = dc.Features(test.values, test.labels, class_names=test.class_names, head=test.head)
    seen = dc.Features(train.values, train.labels, class_names=train.class_names, head=train.head)
    found = dc.sweep(alone, seen, methods=["frequency"], ks=[5])
    assert found.curves["frequency"]["5"].correct == 351
    assert found.document.model is not None
    assert (found.document.model.name, found.document.model.weights.source) == ("features", "in memory")
    with pytest.raises(InputError, match="needs a head"):
        dc.sweep(dc.Features(test.values, test.labels), dc.Features(train.values, train.labels))


def test_a_network_that_is_trained_is_another(indices: dc.IndexSet) -> None:
    model = dc.load_model()
    test = dc.extract_features(model, dc.load_dataset("digits", "test"))
    before = dc.validate(test, indices)
    assert before.document.model is not None
    assert before.document.model.weights.source != "in memory"
    with torch.no_grad():
        next(model.module.parameters()).mul_(1.5)
    changed = dc.validate(dc.extract_features(model, dc.load_dataset("digits", "test")), indices)
    assert changed.document.model is not None
    assert changed.document.model.weights.source == "in memory"
    assert changed.document.model.weights.sha256 != before.document.model.weights.sha256


@pytest.mark.parametrize(
    "call",
    [
        lambda model, test: dc.sweep(model, test),
        lambda model, test: dc.sweep(test, model),
        lambda model, test: dc.essential(model),
        lambda model, test: dc.essential(test, others={"a": (model, {})}),
        lambda model, test: dc.mutual_info(model),
        lambda model, test: dc.mutual_info({"a": 3}),
        lambda model, test: dc.selectivity(test, test),
        lambda model, test: dc.selectivity(model, 3),
        lambda model, test: dc.selectivity(model, test),
        lambda model, test: dc.selectivity(model, []),
        lambda model, test: dc.selectivity(model, dc.load_dataset("digits", "test"), compare={"a": test}),
        lambda model, test: dc.explain(test, []),
        lambda model, test: dc.explain(model, 3),
        lambda model, test: dc.explain(model, dc.load_dataset("digits", "test")),
        lambda model, test: dc.explain(model, ["missing.png"]),
        lambda model, test: dc.filters(model, dc.load_dataset("digits", "test"), "cat"),
        lambda model, test: dc.filters(model, None, "cat"),
        lambda model, test: dc.atlas(model, dc.load_dataset("digits", "test"), classes=["cat"]),
        lambda model, test: dc.atlas(test, dc.load_dataset("digits", "test")),
        lambda model, test: dc.sweep(test, test, max_drop=1),
        lambda model, test: dc.sweep(test, test, ks=[0]),
        lambda model, test: dc.sweep(test, test, ks=["x"]),
        lambda model, test: dc.sweep(test, test, methods=["none"]),
        lambda model, test: dc.sweep(test, test, indices=[[1]]),
        lambda model, test: dc.sweep(test, test, device="none"),
        lambda model, test: dc.sweep(test, dc.Features([[1.0]], [0])),
        lambda model, test: dc.validate(test).to_frame("none"),
    ],
)
def test_what_cannot_be_used_is_refused(call: Callable[[Any, Any], object], model: dc.Model, test: dc.Features) -> None:
    with pytest.raises(InputError) as refused:
        call(model, test)
    assert "--" not in refused.value.message


def test_frames_and_figures(test: dc.Features, train: dc.Features, indices: dc.IndexSet, model: dc.Model) -> None:
    pandas = pytest.importorskip("pandas")
    found = [
        dc.validate(test, indices),
        dc.sweep(test, train, methods=["frequency"], ks=[1, 5], max_drop=3),
        dc.essential(test, indices, repeats=1, controls=0),
        dc.mutual_info({"mine": indices}),
        dc.selectivity(model, dc.load_dataset("digits", "test"), layers=["layer3.2"]),
        dc.filters(model, dc.load_dataset("digits", "test"), "4"),
        dc.explain(model, dc.load_dataset("digits", "test"), numbers=[0]),
    ]
    for results in found:
        for name, rows in results.tables().items():
            frame = results.to_frame(name)
            assert isinstance(frame, pandas.DataFrame)
            assert len(frame) == len(rows)
        assert results.figure().axes
        assert results._repr_html_().count("<tr>") >= 2
        assert results.document.command
    frame = found[1].to_frame()
    assert frame[frame.k == "5"].correct.tolist() == [351]


def test_sparsify(test: dc.Features, train: dc.Features) -> None:
    found = dc.sparsify(train, [2, 5], "backward", test=test)
    expected = sparsify_engine(DIGITS, SparsifySettings(k=(2, 5), method="backward"))
    assert plain(found) == plain(expected.results)
    assert found.document.command == "sparsify"
    assert found.document.arguments["k"] == [2, 5]
    alone = dc.sparsify(train, 5, "backward")
    assert found.head(5).indices == alone.indices
    assert torch.equal(found.head(5).weight, alone.weight)
    assert found.to_frame("weights").shape[0] == 70
    assert found.figure().axes
    for call in (lambda: found.head(), lambda: found.head(3), lambda: dc.sparsify(train, [2, 5])):  # type: ignore[call-overload]
        with pytest.raises(InputError):
            call()
    smallest = dc.sparsify(train, [2, 5], "backward", test=test, max_drop=5)
    assert smallest.smallest is not None
    assert smallest.head().indices.largest_k == smallest.smallest.k


def test_sparsify_looks_at_maps_where_there_are_images(test: dc.Features, train: dc.Features) -> None:
    found = dc.sparsify(train, [5], "backward", test=test, maps=True)
    assert found.heads["5"].measures.sid5 is not None
    rows = dc.Features(test.values, test.labels, class_names=test.class_names, head=test.head)
    with pytest.raises(InputError, match="without a network"):
        dc.sparsify(train, [2], "backward", test=rows, maps=True)


def test_finetune(model: dc.Model, test: dc.Features, train: dc.Features, tmp_path: Path) -> None:
    indices = dc.extract_indices(train, k=2)
    images = [dc.load_dataset("digits", split) for split in ("train", "test")]
    found = dc.finetune(model, *images, indices, epochs=1, batch_size=64, seed=3)
    request = Request(
        dataclasses.replace(DIGITS, seed=3),
        {"epochs": 1, "batch_size": 64, "seed": 3},
        folder=tmp_path / "run",
    )
    expected = finetune_engine(request, FinetuneSettings(indices=indices)).results
    skipped = ("seconds", "images_per_second", "checkpoints", "indices")

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: of(each) for key, each in value.items() if key not in skipped}
        return [of(each) for each in value] if isinstance(value, list) else value

    assert of(plain(found)) == of(plain(expected))
    again = dc.validate(dc.extract_features(found.model, images[1])).decomposed
    assert again is not None
    assert again.correct == found.after.correct
    assert dc.validate(test).original == dc.validate(dc.extract_features(model, images[1])).original, "as it was"
    assert found.to_frame("epochs").epoch.tolist() == [1]
    assert found.figure().axes
    found.save(tmp_path / "finetuned.json")
    assert dc.report(tmp_path / "finetuned.json").size > 10_000


def test_finetune_of_a_module_by_loaders(own: dc.Model, test: dc.Features, tmp_path: Path) -> None:
    indices = dc.extract_indices(dc.extract_features(own, loader("train")), k=2)
    by_loader = dc.finetune(own, loader("train"), loader("test"), indices, epochs=1, batch_size=64, **_UPRIGHT)
    images = [dc.load_dataset("digits", split) for split in ("train", "test")]
    by_name = dc.finetune(dc.load_model(), *images, indices, epochs=1, batch_size=64, **_UPRIGHT)
    assert (by_loader.before.correct, by_loader.after.correct) == (by_name.before.correct, by_name.after.correct)
    assert by_loader.epochs[0].train.loss == by_name.epochs[0].train.loss
    unknown = dc.load_model(Own().eval(), input_size=32, class_names=list("0123456789"))
    with pytest.raises(InputError, match="256 levels"):
        dc.finetune(unknown, loader("train"), loader("test"), indices, epochs=1)
    kept = dc.finetune(own, loader("train"), loader("test"), indices, epochs=1, only="head", folder=tmp_path / "kept")
    assert Path(kept.checkpoints["last"]).is_file()
    with pytest.raises(InputError, match="lr"):
        dc.finetune(own, loader("train"), loader("test"), indices, epochs=1, lr=-1)


def test_inputs_take_numbers_and_refuse_modules() -> None:
    inputs = Inputs(model="resnet20", mean=(0.5, 0.5, 0.5), input_size=32, resize=[36, 40])
    assert (inputs.mean, inputs.input_size, inputs.resize) == ("0.5,0.5,0.5", "32x32", "36x40")
    assert inputs == Inputs(model="resnet20", mean="0.5,0.5,0.5", input_size="32x32", resize="36x40")
    with pytest.raises(InputError, match="is of the type Own, not a text") as refused:
        Inputs(model=Own())  # type: ignore[arg-type]
    assert "take what is in memory" in (refused.value.hint or "")
    with pytest.raises(InputError, match="out of range"):
        Inputs(crop=0)


def test_bars_are_shown_where_they_are_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("decompose_cli.api.bars._AFTER", 0.0)
    images = dc.load_dataset("digits", "test")
    for show in (True, False):
        dc.progress(show)
        try:
            dc.extract_features(dc.load_model(), images)
        finally:
            dc.progress(False)
        assert ("Features of digits test" in capsys.readouterr().err) is show
