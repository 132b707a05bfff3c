"""Every command takes the checkpoint of a sparse head, in which a class has its bias alone."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import REFUSED, refused, run
from helpers.inputs import CLASSES, FEATURES
from helpers.sparse_heads import DIGITS, EMPTY, K, few_values, head_of, record, write_sparse
from torch import Tensor

import decompose_cli as dc
from decompose_cli.decomposition.accuracy_results import ValidateResults
from decompose_cli.decomposition.curves import accuracy_by_k
from decompose_cli.decomposition.heads import OWN
from decompose_cli.engines.essential import EssentialSettings, essential
from decompose_cli.engines.explain import ExplainSettings, explain
from decompose_cli.engines.filters import FiltersSettings, filters
from decompose_cli.engines.finetune import FinetuneSettings, finetune
from decompose_cli.engines.mutual_info import mutual_info
from decompose_cli.engines.sweep import SweepSettings, sweep
from decompose_cli.engines.validate import validate
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.models.registry import DEFAULT_MODEL, get_entry
from decompose_cli.page.report import report
from decompose_cli.storage.result_document import ResultDocument
from decompose_cli.training.session import Request

FILE = Path("sparse.safetensors")
ROWS = tuple(tuple(row.nonzero()[:, 0].tolist()) for row in few_values().integers)


@pytest.fixture
def inputs(few: str) -> Inputs:
    return Inputs(weights=str(write_sparse(FILE)), dataset=few, workers=0, device="cpu")


@pytest.fixture
def images(few: str) -> Study:
    """The same images for the shipped network."""
    return Study(Inputs(model=DEFAULT_MODEL, dataset=few, workers=0, device="cpu"), ("test",))


def correct(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(1) == labels).sum())


def test_validate_shows_both_heads_and_their_difference(inputs: Inputs, images: Study) -> None:
    x, y = images.bank.features, images.labels
    for state in ("miss", "hit"):  # the cache keeps the dense head too
        document = validate(inputs)
        assert document.cache is not None
        assert document.cache.features == state
        found = document.results
        assert found.original is not None
        assert found.decomposed is not None
        assert found.original.correct == correct(x @ images.head.weight.t() + images.head.bias, y)
        assert found.decomposed.correct == correct(head_of(few_values())(x), y)
        assert found.difference is not None
        gained = found.decomposed.correct - found.original.correct
        assert found.difference.points == pytest.approx(100 * gained / len(y))
        assert found.indices is not None
        assert found.indices.k == (0, K)
    assert found.original.correct > found.decomposed.correct, "the case can tell the heads apart"


def test_what_has_its_bias_alone_is_said_once(inputs: Inputs) -> None:
    said = run("validate", "-w", str(FILE), "--dataset", str(inputs.dataset), "-j", "0").stderr
    assert said.count("bias alone") == 1
    assert f"{FILE}: 1 of 10 classes ({EMPTY}) has its bias alone, no feature." in said
    assert "decomposed, 0 to 4 per class" in said


def test_an_index_file_is_refused_as_for_every_decomposed_checkpoint(inputs: Inputs) -> None:
    Path("i.json").write_text(json.dumps(ROWS), encoding="utf-8")
    images = ["--dataset", str(inputs.dataset)]
    for command in (
        ["validate"],
        ["sweep"],
        ["essential"],
        ["explain", "--worst", "1"],
        ["filters", "--class", "1"],
        ["atlas"],
    ):
        given = "-i"
        refused([*command, "-w", str(FILE), *images, given, "i.json"], REFUSED, "carries its own indices")


def test_explain_follows_the_sparse_head_and_shows_the_dense_one_beside_it(inputs: Inputs, images: Study) -> None:
    x, y = images.bank.features, images.labels
    numbers = range(0, len(y), 3)
    found = explain(inputs, ExplainSettings(indices_of=list(numbers))).results
    logits, dense = head_of(few_values())(x).detach(), x @ images.head.weight.t() + images.head.bias
    assert any(int(logits[n].argmax()) != int(dense[n].argmax()) for n in numbers), "the case can tell heads apart"
    for n, one in zip(numbers, found.explanations, strict=True):
        assert one.predicted == int(logits[n].argmax())
        assert one.original is not None
        assert one.original[0].number == int(dense[n].argmax())
        assert one.sums is not None
        assert (one.sums.filters, one.sums.others) == (list(ROWS[one.predicted]), None)
        assert one.sums.own + one.sums.bias == pytest.approx(float(logits[n].max()), abs=1e-3)
        assert one.sums.error < 1e-3
    (worst,) = explain(inputs, ExplainSettings(worst=1)).results.explanations
    losses = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    (expected,) = explain(inputs, ExplainSettings(indices_of=[int(losses.argmax())])).results.explanations
    assert worst.image == expected.image


def test_filters_are_those_of_the_sparse_head_and_there_may_be_none(inputs: Inputs) -> None:
    found = filters(inputs, FiltersSettings("0")).results
    assert sorted(info.feature for info in found.filters) == list(ROWS[0])
    weights = few_values().folded()[0]
    assert all(info.weight == pytest.approx(float(weights[info.feature]), rel=1e-5) for info in found.filters)
    with pytest.raises(InputError, match=r"The class 3 has no filters to show: its head is its bias alone\."):
        filters(inputs, FiltersSettings(str(EMPTY)))


def test_essential_judges_noise_on_the_sparse_features_by_the_dense_head(inputs: Inputs, few: str) -> None:
    settings = EssentialSettings(repeats=3, controls=2)
    found = essential(inputs, settings).results
    plain = Inputs(model=DEFAULT_MODEL, dataset=few, workers=0, device="cpu")
    expected = essential(plain, dataclasses.replace(settings, indices=dc.IndexSet(ROWS, FEATURES))).results
    assert found.summary["ours"].features == {str(c): list(row) for c, row in enumerate(ROWS)}
    assert found.by_class("ours") == expected.by_class("ours")
    alone = found.by_class("ours")[str(EMPTY)]
    assert (alone.noise_at_inf, alone.p) == (alone.clean, 1.0), "noise on nothing changes nothing"
    with pytest.raises(InputError, match="k 3 has no effect: every feature set is given"):
        essential(inputs, dataclasses.replace(settings, k=3))


def test_sweep_cuts_the_dense_head_and_shows_the_sparse_one_beside_it(inputs: Inputs, images: Study) -> None:
    document = sweep(inputs, SweepSettings(methods=["weight"], ks=[1, 5]), folder=Path("sweep"))
    found, x, y = document.results, images.bank.features, images.labels
    expected = dict(accuracy_by_k(images.labelled(images=False), x, y, images.head, [1, 5], "weight"))
    assert {k: point.correct for k, point in found.curves["weight"].items()} == {
        str(k): predictions.correct for k, predictions in expected.items()
    }
    assert {k: point.correct for k, point in found.curves[OWN].items()} == {"0-4": correct(head_of(few_values())(x), y)}
    assert found.original.correct == correct(x @ images.head.weight.t() + images.head.bias, y)


def test_mutual_information_of_the_sparse_head_stands_beside_the_ranked_sets(inputs: Inputs) -> None:
    sets = mutual_info(inputs).results.sets
    assert sets["ours"].keys() == {"5", "10", "20"}
    own = sets[OWN]["0-4"]
    assert own.features_per_class == (0, K)
    assert own.matrix[EMPTY] == [0.0] * CLASSES
    assert own.jaccard_matrix[EMPTY] == [float(c == EMPTY) for c in range(CLASSES)]


def test_the_page_shows_all_of_it(inputs: Inputs) -> None:
    for name, document in {
        "validate": validate(inputs),
        "essential": essential(inputs, EssentialSettings(repeats=2, controls=0)),
        "sweep": sweep(inputs, SweepSettings(methods=["weight"], ks=[1, 5])),
        "mutual": mutual_info(inputs),
        "explain": explain(inputs, ExplainSettings(indices_of=[0])),
    }.items():
        assert isinstance(document, ResultDocument)
        document.write(Path(f"{name}.json"))
    page = report(sorted(Path.cwd().glob("*.json")))
    assert {"accuracy", "filters", "overlap"} <= {section.id for section in page.sections}
    assert "0 to 4" in page.html
    assert OWN in page.html


# --------------------------------------------------------------------------------------------------------- fine-tuning

BRIEF: dict[str, Any] = {"batch_size": 10, "lr": 0.01, "iterations": 2, "schedule": "constant"}


def tuned(inputs: Inputs, only: Any, caplog: pytest.LogCaptureFixture) -> tuple[Any, str]:
    caplog.set_level(logging.INFO)
    request = Request(inputs, BRIEF, folder=Path("run"), export=["safetensors"])
    return finetune(request, FinetuneSettings(only=only)).results, caplog.text


def test_finetuning_goes_on_from_it_and_keeps_the_dense_figures_alone(
    inputs: Inputs, caplog: pytest.LogCaptureFixture
) -> None:
    start = validate(inputs).results
    found, said = tuned(inputs, None, caplog)
    assert (found.original.correct, found.before.correct) == (start.original.correct, start.decomposed.correct)  # type: ignore[union-attr]
    assert found.difference is not None
    assert "leave out the dense head and the few values of sparse.safetensors" in said
    for name in ("last.pt", "model.safetensors"):
        checkpoint = read_checkpoint(Path("run") / name)
        assert checkpoint.sparse is None
        after = validate(dataclasses.replace(inputs, weights=f"run/{name}")).results
        assert after.original is None
        assert after.decomposed is not None
        assert after.decomposed.correct == found.after.correct


def test_with_the_head_frozen_few_values_stay_exact(inputs: Inputs, caplog: pytest.LogCaptureFixture) -> None:
    before = read_checkpoint(FILE)
    found, said = tuned(inputs, "backbone", caplog)
    assert "leave out the dense head of sparse.safetensors" in said
    for name in ("last.pt", "model.safetensors"):
        checkpoint = read_checkpoint(Path("run") / name)
        assert checkpoint.sparse is not None
        assert checkpoint.sparse.dense_weight is None
        assert checkpoint.sparse.values is not None
        for part, value in vars(few_values()).items():
            assert torch.equal(getattr(checkpoint.sparse.values, part), value), part
        changed = {
            name
            for name, value in checkpoint.state_dict.items()
            if value.is_floating_point() and not torch.equal(value, before.state_dict[name])
        }
        assert not [name for name in changed if name.startswith("linear.")]
        assert {"conv1.weight", "layer3.2.conv2.weight", "bn1.running_mean"} <= changed
        after = validate(dataclasses.replace(inputs, weights=f"run/{name}")).results
        assert after.decomposed is not None
        assert after.decomposed.correct == found.after.correct
    run("finetune", "-w", "run/last.pt", "--only", "backbone", "--dataset", str(inputs.dataset), "-j", "0",
        "--iterations", "1", "--schedule", "constant", "-o", "again")  # fmt: skip
    assert read_checkpoint(Path("again/last.pt")).sparse is not None


# ------------------------------------------------------------------------------------------------------------ in Python


def test_python_programs_see_both_heads_and_write_them_again(few: str) -> None:
    model = dc.load_model(weights=write_sparse(FILE))
    assert model.is_decomposed
    features = dc.extract_features(model, dc.load_dataset(few, "test"))
    found = dc.validate(features)
    assert isinstance(found, ValidateResults)
    assert found.original is not None
    assert found.decomposed is not None
    dc.save_model(model, "again.safetensors")
    assert read_checkpoint(Path("again.safetensors")).sparse is not None
    with torch.no_grad():
        model.module.get_submodule("linear").weight[0] *= 2  # type: ignore[operator]
    dc.save_model(model, "changed.safetensors")
    assert read_checkpoint(Path("changed.safetensors")).sparse is None
    assert dc.validate(dc.extract_features(model, dc.load_dataset(few, "test"))).original is None


def test_decompose_takes_classes_without_features() -> None:
    small = dc.decompose(dc.load_model(), {c: [] if c == EMPTY else [c, c + 9] for c in range(CLASSES)})
    with torch.no_grad():
        logits = small.module.eval()(torch.randn(5, 3, 32, 32))
    bias = small.network.tensors.bias[EMPTY]
    torch.testing.assert_close(logits[:, EMPTY], bias.expand(5))
    dc.save_model(small, "small.safetensors")
    again = dc.load_model(weights="small.safetensors")
    assert again.network.tensors.mask is not None
    assert again.network.tensors.mask.sum(1).tolist() == [0 if c == EMPTY else 2 for c in range(CLASSES)]
    with pytest.raises(InputError, match="has no indices: every class is empty"):
        dc.decompose(dc.load_model(), {c: [] for c in range(CLASSES)})


# -------------------------------------------------------------------------------------------------------------- exports


@pytest.mark.parametrize("ending", [pytest.param("onnx", marks=pytest.mark.slow), "torchscript.pt", "safetensors"])
def test_an_export_is_the_network_of_the_checkpoint(ending: str) -> None:
    write_sparse(FILE)
    if ending == "onnx":
        pytest.importorskip("onnxruntime")
    said = json.loads(run("export", "-w", str(FILE), "-o", f"out.{ending}", "--json").stdout)
    assert (said["file"], said["is_decomposed"], said["num_classes"]) == (f"out.{ending}", True, CLASSES)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = dc.load_model(weights=FILE).module.eval()(images)
    if ending == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession("out.onnx", providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    elif ending == "torchscript.pt":
        found = torch.jit.load("out.torchscript.pt")(images)  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad():
            found = dc.load_model(weights="out.safetensors").module.eval()(images)
        kept = read_checkpoint(Path("out.safetensors"))
        assert kept.sparse is not None
        assert all(torch.equal(value, record().tensors()[name]) for name, value in kept.sparse.tensors().items())
        assert kept.metadata is not None
        assert (kept.metadata.model, kept.metadata.class_names) == (DEFAULT_MODEL, list(DIGITS))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float(expected[:, EMPTY].std()) == 0


def test_bad_exports_are_refused() -> None:
    write_sparse(FILE)
    for arguments, sentence in (
        (["-o", "x.bin"], "The ending of x.bin does not say what to write."),
        (["-o", "x.onnx", "--format", "safetensors"], "x.onnx cannot be of --format safetensors"),
        (["-o", "x.safetensors", "--format", "torchscript"], "x.safetensors cannot be of --format torchscript"),
        (["-o", "x", "--format", "safetensors"], "x cannot be of --format safetensors: it does not end in .safe"),
        (["-o", "x.bin", "--format", "pickle"], "--format 'pickle' is unknown; choose onnx, safetensors, torchscript"),
        (["-o", str(FILE)], "exists"),
    ):
        refused(["export", "-w", str(FILE), *arguments], REFUSED, sentence)


def test_a_plain_network_is_exported_under_a_new_name_with_all_that_is_known_of_it() -> None:
    run("export", "-q")
    (path,) = Path("results").iterdir()
    assert path.name.startswith(f"export-{DEFAULT_MODEL}-digits-")
    read = read_checkpoint(path)
    assert read.metadata is not None
    assert (read.metadata.model, read.metadata.dataset) == (DEFAULT_MODEL, "digits")
    assert read.metadata.class_names == list(map(str, range(CLASSES)))
    usual = get_entry(DEFAULT_MODEL).preprocessing
    assert usual is not None
    assert read.metadata.mean == list(usual.mean)
    state = dc.load_model().module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in read.state_dict.items())
    assert read.state_dict.keys() == {name for name in state if not name.endswith("num_batches_tracked")}


def test_training_further_says_that_the_record_of_the_sparse_head_is_left_out(inputs: Inputs) -> None:
    line = [
        "train",
        "-w",
        str(inputs.weights),
        "--dataset",
        "digits",
        "--iterations",
        "1",
        "-b",
        "16",
        "--val-split",
        "0",
    ]
    said = run(*line, "--schedule", "constant", "--set", "warmup_epochs=0", "-o", "run").stderr
    assert f"The checkpoints of this run leave out what {inputs.weights} says of its sparse head" in said
    assert read_checkpoint(Path("run/last.pt")).sparse is None
