"""Networks of a user's that cannot be used, and features that are not finite or all zero."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.command_line import FAILED, REFUSED, refused, run
from helpers.inputs import CLASSES
from helpers.rows import results, table, words

USER_NETWORKS = [
    # name, model, part of the sentence
    ("no module", "nowhere:net", "no Python module 'nowhere'"),
    ("no module in a package", "nowhere.inside:net", "no Python module 'nowhere.inside'"),
    ("no callable of that name", "networks:Nothing", "networks has no callable 'Nothing'"),
    ("text for a callable", "networks:word", "networks has no callable 'word'"),
    ("no module before the colon", ":net", "':net' is not package.module:callable"),
    ("nothing after the colon", "networks:", "'networks:' is not package.module:callable"),
    ("two dots for a module", "..:net", "Importing .. failed"),
    ("module that raises", "raises:net", "Importing raises failed: ZeroDivisionError: division by zero"),
    ("module that is no Python", "garbled:net", "Importing garbled failed: SyntaxError"),
    ("module that needs another", "needy:net", "Importing needy failed: No module named 'not_installed_anywhere'"),
    ("module that exits", "exits:net", "Importing exits failed"),
    ("callable that needs arguments", "networks:needs", "networks:needs() failed: TypeError"),
    ("callable that raises", "networks:fails", "networks:fails() failed: ValueError: no such thing"),
    ("callable that raises silently", "networks:fails_silently", "networks:fails_silently() failed: ValueError"),
    ("callable that exits", "networks:leaves", "networks:leaves() failed"),
    ("None", "networks:gives_none", "networks:gives_none() returned a NoneType, not a torch.nn.Module"),
    ("class", "networks:gives_class", "networks:gives_class() returned a type, not a torch.nn.Module"),
    ("no linear layer", "networks:no_head", "has no linear layer that could be its head"),
    ("softmax", "networks:softmax", "after it comes 'end' (Softmax)"),
    ("ReLU after the head", "networks:relu", "after it comes 'end' (ReLU)"),
    ("maps for logits", "networks:maps", "returns shape (8, 10, 32, 32) for 8 images, not logits"),
    ("pair for logits", "networks:Pair", "returns a tuple, not logits (N, number of classes)"),
    (
        "forward raises",
        "networks:Failing",
        "cannot run on RGB images of 32x32 pixels: its forward raises RuntimeError: broken inside",
    ),
    ("other classes", "networks:seven", "the data set has 10 classes, but the network has 7"),
]


@pytest.mark.parametrize(("model", "fragment"), table(USER_NETWORKS))
def test_bad_network_of_the_users(material: Path, model: str, fragment: str) -> None:
    refused(["validate", model, "--dataset", "digits", "--no-cache"], REFUSED, fragment)


def test_network_that_gives_nan_is_a_failure_of_the_work(material: Path) -> None:
    arguments = ["validate", "networks:Infinite", "--dataset", "digits", "--no-cache"]
    refused(arguments, FAILED, "NaN or infinite features for image number 0 of digits test")


def test_network_of_the_users_needs_a_dataset(material: Path) -> None:
    refused(["validate", "networks:good"], REFUSED, "not known what networks:good was trained on")


def test_network_of_the_users_that_works_is_the_counter_example(material: Path) -> None:
    run("validate", "networks:good", "--dataset", "digits", "--json")


# --- features that cannot be used -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["essential", "mutual-info", "sweep", "sweep --methods weight --ks 1"])
def test_features_with_nan_are_a_failure_of_the_work(material: Path, command: str) -> None:
    line = f"{command} networks:NotANumber --dataset digits --no-cache"
    refused(words(line, material), FAILED, "NaN or infinite features for image number 0 of digits")


def test_features_with_nan_are_not_kept(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "other-cache"))
    for _ in range(2):  # the second time nothing is found that the first has kept
        refused(words("mutual-info networks:NotANumber --dataset digits", material), FAILED, "NaN or infinite")


def test_layer_with_nan_is_a_failure_of_the_work(material: Path) -> None:
    line = "selectivity networks:odd --dataset digits --layers beside"
    refused(words(line, material), FAILED, "'beside' yields NaN or infinity")


def test_activations_that_are_all_zero_count_as_needing_no_filter(material: Path) -> None:
    found, _ = results("selectivity networks:dead --dataset digits --layers body.3", material)
    layer = found["layers"]["body.3"]
    assert (layer["psi_mean"], layer["psi_median"], layer["class_selectivity"]) == (1, 1, 0)
    assert len(layer["per_class"]) == CLASSES
    assert all(row["silent"] == row["images"] > 0 for row in layer["per_class"].values())


def test_silent_images_are_reported(material: Path) -> None:
    line = "selectivity networks:dead --dataset digits --layers body.3 -o result.json"
    said = run(*words(line, material)).stderr
    assert "body.3: no filter responds to 1,437 images" in said


@pytest.mark.parametrize("noise", ["gaussian", "matched", "zero", "mean", "permute"])
def test_noise_on_features_that_are_all_zero(material: Path, noise: str) -> None:
    line = f"essential networks:dead --dataset digits -k 3 --repeats 2 --controls 3 --noise {noise}"
    found, _ = results(line, material)
    assert set(found["ours"]) == {str(number) for number in range(CLASSES)}
    for row in found["ours"].values():
        if noise != "gaussian":  # every other noise is as zero as the features
            assert row["noise_at_inf"] == row["noise_at_noninf"] == row["clean"]
            assert (row["essentiality"], row["p"]) == (0, 1)


def test_sets_of_features_that_are_all_zero_are_the_same_for_each_class(material: Path) -> None:
    for method in ("frequency", "mean", "mass"):
        found, _ = results(f"mutual-info networks:dead --dataset digits -k 3 --method {method}", material)
        row = found["sets"]["ours"]["3"]
        assert (row["jaccard_mean"], row["normalized_mean"]) == (1, 1)
        assert (row["unused"], row["exclusive"], row["shared"]) == (5, 0, 3)


def test_fraction_of_features_that_are_all_zero_is_refused(material: Path) -> None:
    line = "mutual-info networks:dead --dataset digits -k 0.5 --method mean"
    refused(words(line, material), REFUSED, "All features of class 0 (0) are zero")


def test_sweep_over_features_that_are_all_zero(material: Path) -> None:
    found, _ = results("sweep networks:dead --dataset digits --ks 1-8 --max-drop 50", material)
    assert {point["correct"] for curve in found["curves"].values() for point in curve.values()} == {
        found["original"]["correct"]
    }
    assert (found["chosen"]["k"], found["chosen"]["features"]) == (1, CLASSES)


def test_warning_is_given_once(material: Path) -> None:
    _, said = results("essential networks:good --dataset digits --repeats 1 -k 3", material)
    assert said.count("It is not known how") == 1
