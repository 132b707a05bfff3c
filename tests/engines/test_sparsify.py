"""``sparsify`` on digits: figures against the checkpoints it writes, and on which images it chose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.command_line import run

from decompose_cli.engines.sparsify import SparsifySettings, parse_whole, sparsify
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.sparse import values as few_values
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
    assert "the same fitted anew" in said
    assert "Cut: the same features with the weights of the full head." in said
    assert "test images chose nothing" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("-k", "65"), "k 65 is more than the 64 features"),
        (("-k", "0.5"), "k 0.5 is a fraction; sparsify takes whole numbers"),
        (("-k", "0"), "neither a whole number of at least 1"),
        (("--method", "best"), "--method 'best' is unknown"),
        (("--values", "few"), "--values 'few' is unknown"),
        (("--l2", "0"), "--l2 0.0 is not a positive number"),
        (("--l2", "nan"), "--l2 nan is not a positive number"),
        (("--toward", "dense", "--values", "binary"), "--toward dense has no effect with --values binary"),
        (("--split", "train"), "fits the training images, so it cannot be measured on them"),
    ],
)
def test_bad_input_is_a_sentence_and_nothing_is_written(words: tuple[str, ...], sentence: str) -> None:
    said = run("sparsify", *words, "-o", "out", code=2).stderr
    assert sentence in said, said
    assert not Path("out").exists()


def test_numbers_of_features_are_ascending_and_each_once() -> None:
    assert parse_whole("5,1,5, 2") == [1, 2, 5]
    with pytest.raises(InputError):
        parse_whole("5,")
