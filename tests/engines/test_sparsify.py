"""``sparsify`` on digits: figures against the checkpoints it writes, and on which images it chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command_line import run
from helpers.feature_files import npz

from decompose_cli.decomposition.sparse_settings import SparsifySettings
from decompose_cli.engines.sparsify import sparsify
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.sparse import values as few_values
from decompose_cli.sparse.measures import measure
from decompose_cli.sparse.value_search import exchange

pytestmark = pytest.mark.usefixtures("warm")


def test_checkpoints_give_the_counts_of_the_result() -> None:
    said = run("sparsify", "-k", "2,5", "--method", "contribution", "-o", "out", "--json")
    document = json.loads(said.stdout)
    results = document["results"]
    assert document["files"] == ["k2/sparse.safetensors", "k2/indices.json", "k5/sparse.safetensors", "k5/indices.json"]
    assert results["chosen_on"]["part_of_training"]
    assert results["chosen_on"]["images"] + results["chosen_on"]["fitted"] == 1437
    for k, head in results["heads"].items():
        again = json.loads(run("validate", "-w", head["checkpoint"], "--dataset", "digits", "--json").stdout)["results"]
        assert again["decomposed"]["correct"] == head["point"]["correct"]
        assert again["original"]["correct"] == results["original"]["correct"]
        cut = json.loads(run("validate", "-i", f"out/k{k}/indices.json", "--json").stdout)["results"]
        assert cut["decomposed"]["correct"] == head["cut"]["correct"]
        assert head["features_per_class"] == [int(k), int(k)]
    assert results["heads"]["5"]["point"]["correct"] > results["heads"]["2"]["cut"]["correct"]


def test_what_is_tried_stays_in_the_result_and_the_best_is_taken() -> None:
    results = sparsify(Inputs(), SparsifySettings(k=(2,), l2=1e-3)).results
    head = results.heads["2"]
    assert {one.method for one in head.candidates} >= {"frequency", "contribution", "backward", "splicing"}
    assert "elastic-net" not in {one.method for one in head.candidates}
    best = max(head.candidates, key=lambda one: (one.correct, -one.loss))
    assert head.method == best.method == head.candidates[0].method
    assert {one.l2 for one in head.candidates} == {1e-3}
    assert results.refitted.l2 == 1e-3


@pytest.mark.parametrize("values", ["ternary", "binary"])
def test_few_values_are_in_the_checkpoint(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The search does not begin again: what it finds counts here, not how good it is.
    monkeypatch.setattr(few_values, "exchange", lambda *given, kicks, seed: exchange(*given, kicks=0, seed=seed))
    run("sparsify", "-k", "3", "--method", "contribution", "--values", values, "--l2", "1e-3", "-o", "out", "-q")
    head = json.loads(Path("out/result.json").read_text())["results"]["heads"]["3"]
    again = json.loads(run("validate", "-w", head["checkpoint"], "--dataset", "digits", "--json").stdout)
    assert again["results"]["decomposed"]["correct"] == head["point"]["correct"]


def test_a_table_shows_the_cut_and_both_baselines() -> None:
    said = run("sparsify", "-k", "3", "--method", "weight", "--l2", "1e-3", "-o", "out").output
    assert "full head fitted anew" in said
    assert "Cut: the same features with the weights of the full head." in said
    assert "chose nothing" not in said, "all was given"
    said = run("sparsify", "-k", "3", "--method", "weight", "-o", "other").output
    assert "Strengths are chosen on 287 of the 1,437 training images, by the one-standard-error rule as the" in said
    assert "Chosen on 287 images of train: strength; test images chose nothing." in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("-k", "65"), "k 65 is more than the 64 features"),
        (("-k", "0.5"), "k 0.5 is a fraction; sparsify takes whole numbers"),
        (("-k", "0"), "neither a whole number of at least 1"),
        (("--method", "best"), "--method 'best' is unknown"),
        (("--values", "few"), "--values 'few' is unknown"),
        (("--l2", "0"), "--l2 0.0 is not a positive number"),
        (("--l2", "1e300"), "--l2 1e+300 is more than 1e+12"),
        (("--l2", "nan"), "--l2 nan is not a positive number"),
        (("--toward", "dense", "--values", "binary"), "--toward dense has no effect with --values binary"),
        (("--pool", "65"), "pool 65 is more than the 64 features"),
        (("--pool", "3", "-k", "4"), "k 4 is more than the 3 features of --pool"),
        (("--objective", "qpm", "--method", "mean"), "--objective qpm chooses features itself; leave out --method"),
        (("--method", "q-senn", "--values", "real"), "--method q-senn has ternary weights: add --values ternary"),
        (("--values", "binary", "-k", "64"), "k 64 cannot be had with --values binary: "),
        (("--max-drop", "nan"), "--max-drop nan is not between 0 and 100 points"),
        (("--class-weights", "even"), "--class-weights 'even' is unknown"),
        (("--method", "csg"), "needs class-specific gates"),
        (("--features", "missing.npz"), "missing.npz does not exist"),
        (("resnet20", "--features", "missing.npz"), "The network that was named has no effect with --features"),
        (("--split", "train"), "fits the training images, so it cannot be measured on them"),
    ],
)
def test_bad_input_is_a_sentence_and_nothing_is_written(words: tuple[str, ...], sentence: str) -> None:
    said = run("sparsify", *words, "-o", "out", code=2).stderr
    assert sentence in said, said
    assert not Path("out").exists()


def written(*words: str) -> dict[str, Any]:
    """What is in the result of sparsify with these words, at a given strength."""
    run("sparsify", *words, "--l2", "1e-2", "-o", "out", "-q")
    results: dict[str, Any] = json.loads(Path("out/result.json").read_text())["results"]
    return results


def test_the_path_has_a_certificate_in_every_row_and_nec_is_measured_beside_it() -> None:
    results = written("-k", "2", "--method", "elastic-net", "--nec")
    path = results["path"]
    assert len(path) == 100
    assert max(row["relative_gap"] for row in path) <= 1e-6
    assert path[0]["weights"] == 0 < path[-1]["weights"]
    assert [one["method"] for one in results["heads"]["2"]["candidates"]].count("sldd") == 1
    nec = results["nec"]
    assert list(nec["sparse"]["accuracy"]) == ["5", "10", "15", "20", "25", "30"]
    assert nec["sparse"]["mean"] == pytest.approx(sum(nec["sparse"]["accuracy"].values()) / 6)
    # The path ends with fewer features per class than any of these, and stands for none of them.
    assert set(nec["means"].values()) == {path[-1]["weights"] / 10}
    assert set(nec["elastic_net"]["accuracy"].values()) == {None}
    assert nec["elastic_net"]["mean"] is None


def test_nec_leaves_out_what_a_pool_or_distinct_sets_cannot_have() -> None:
    results = written("-k", "2", "--method", "mean", "--pool", "12", "--nec")
    accuracy = results["nec"]["sparse"]["accuracy"]
    assert [k for k, value in accuracy.items() if value is None] == ["15", "20", "25", "30"]
    results = written("-k", "2", "--objective", "qpm", "--pool", "10", "--nec", "--overwrite")
    assert results["nec"]["sparse"]["accuracy"]["5"] is not None
    assert results["nec"]["sparse"]["accuracy"]["10"] is None, "ten features have one set of ten"


def test_maps_are_looked_at_for_diversity_and_for_the_published_objective() -> None:
    results = written("-k", "5", "--objective", "qpm", "--pool", "20", "--maps")
    head = results["heads"]["5"]
    assert results["locality"] is True
    assert head["values"] == "binary"
    assert 0.2 <= head["measures"]["sid5"] <= 1
    assert head["features"] == head["measures"]["features_used"] <= 20
    assert len({tuple(sorted(row)) for row in head["indices"].values()}) == 10
    assert {weight for row in head["weights"].values() for weight in row} == {head["scale"]}


def test_measures_are_those_of_the_features_in_use() -> None:
    head = written("-k", "2", "--method", "weight")["heads"]["2"]
    data = Study(Inputs(), ("train",)).labelled()
    support = torch.zeros(10, 64, dtype=torch.bool)
    for number, row in head["indices"].items():
        support[int(number), row] = True
    expected = measure(data.features, data.labels, support)
    found = head["measures"]
    assert found["sid5"] is None
    for name in ("features_used", "class_independence", "contrastiveness", "correlation", "one_difference"):
        assert found[name] == pytest.approx(getattr(expected, name)), name


def test_an_index_file_says_which_features_classes_have() -> None:
    indices = {str(number): [number, number + 1, 60][: 1 + number % 3] for number in range(10)}
    Path("own.json").write_text(json.dumps(indices))
    results = written("-i", "own.json", "--values", "binary")
    (head,) = results["heads"].values()
    assert {number: sorted(row) for number, row in head["indices"].items()} == indices
    assert head["features_per_class"] == [1, 3]
    cut = json.loads(run("validate", "-i", "own.json", "--json").stdout)["results"]
    assert cut["decomposed"]["correct"] == head["cut"]["correct"]
    assert "both say which filters" in run("sparsify", "-i", "own.json", "-k", "2", code=2).stderr


def test_the_smallest_k_is_kept_alone() -> None:
    results = written("--max-drop", "2", "--method", "frequency")
    smallest = results["smallest"]
    assert list(results["heads"]) == [str(smallest["k"])]
    assert sorted(path.name for path in Path("out").iterdir()) == [f"k{smallest['k']}", "result.json"]
    assert smallest["tried"][str(smallest["k"])] <= 2
    below = [bound for k, bound in smallest["tried"].items() if int(k) < smallest["k"]]
    assert below, "the case can tell the ks apart"
    assert min(below) > 2
    said = run("sparsify", "-k", "1", "--max-drop", "0", "--method", "mean", "--l2", "1e-2", "-o", "none", code=1)
    assert "No k of 1 is within 0 points of the full head on the 287 choosing images" in said.stderr
    assert "Try more features with -k, or allow more with --max-drop." in " ".join(said.stderr.split())
    one = ("-k", "1", "--max-drop", "99", "--max-class-drop", "0", "--method", "mean", "--l2", "1e-2", "-o", "none")
    said = " ".join(run("sparsify", *one, code=1).stderr.split())
    assert "No k of 1 is within 0 points of the full head for every class on" in said
    assert "Allow a class more with --max-class-drop, or try more features with -k." in said
    assert not Path("none").exists()


def test_features_from_elsewhere_make_a_head_that_validate_measures(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(4), [9, 9, 9, 1])  # a class with one image
    random = np.random.default_rng(0)
    x = 2 * np.eye(4, 6)[labels] + random.normal(size=(28, 6))
    x[:, 4] = 1  # a constant feature
    x[:, 5] = x[:, 0]  # and a copy
    file = npz(tmp_path / "f.npz", train_x=x, train_y=labels, test_x=x[::2], test_y=labels[::2])
    run("sparsify", "--features", str(file), "-k", "2", "--method", "backward", "-o", "out", "-q")
    results = json.loads(Path("out/result.json").read_text())["results"]
    head = results["heads"]["2"]
    assert results["original"] is None is head["versus_original"]
    assert 4 not in {feature for row in head["indices"].values() for feature in row}
    words = ("validate", "-w", head["checkpoint"], "--features", str(file), "--json")
    again = json.loads(run(*words).stdout)["results"]
    assert again["decomposed"]["correct"] == head["point"]["correct"]
    assert again["original"]["correct"] == results["refitted"]["point"]["correct"]
    for words, sentence in (
        (("validate", "-w", head["checkpoint"]), "holds a head for features from elsewhere and no network"),
        (("sparsify", "--features", str(file), "--maps", "-o", "x"), "--maps needs a network"),
        (("sparsify", "--features", str(file), "--distil", "-o", "x"), "--distil needs a full head"),
        (("sparsify", "--features", str(file), "-k", "7", "-o", "x"), "k 7 is more than the 6 features"),
    ):
        assert sentence in run(*words, code=2).stderr
    few = npz(tmp_path / "few.npz", train_x=x[labels < 2], train_y=2 * labels[labels < 2], test_x=x, test_y=labels)
    assert "no training images of 2 of the 4 classes" in run("sparsify", "--features", str(few), code=2).stderr


def test_separable_images_and_constant_features_are_said() -> None:
    labels = np.arange(40) % 4
    x = np.concatenate([4 * np.eye(4)[labels] + np.random.default_rng(0).normal(size=(40, 4)) / 9, np.ones((40, 1))], 1)
    file = npz(Path("f.npz"), train_x=x, train_y=labels, test_x=x, test_y=labels)
    said = run("sparsify", "--features", str(file), "-k", "1", "--method", "mean", "-o", "out").stderr
    assert "separates the training images without error" in said
    assert "1 of the 5 features is the same for every training image" in said
    weights = json.loads(Path("out/result.json").read_text())["results"]["heads"]["1"]["weights"]
    assert max(abs(weight) for row in weights.values() for weight in row) < 100
