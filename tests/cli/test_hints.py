"""What is said where something was meant that goes by another name: files in folders, networks as weights, labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import document_of, files_below, invoke, only_error, refused, run, warnings_in
from helpers.feature_files import arrays

from decompose_cli.models.registry import DEFAULT_MODEL, get_entry
from decompose_cli.models.weights import shipped_weights


@pytest.fixture
def folder() -> Path:
    """The folder of a run, which has weights."""
    weights = get_entry(DEFAULT_MODEL).weights
    assert isinstance(weights, Path)
    Path("run").mkdir()
    for name in ("last.pt", "best.pt"):
        shutil.copy(shipped_weights(weights), Path("run") / name)
    return Path("run")


def test_a_folder_in_place_of_weights_names_the_file_in_it(folder: Path) -> None:
    said = refused(["validate", "-w", "run"], 2, "The weights run: that is a folder, not a file.")
    assert "Hint: Name the file in it: --weights run/best.pt" in said
    (folder / "best.pt").unlink()
    assert "Name the file in it: --weights run/last.pt" in refused(["validate", "-w", "run"], 2)
    (folder / "last.pt").rename(folder / "net.pth")
    assert "Name the file in it: --weights run/net.pth" in refused(["validate", "-w", "run"], 2)
    (folder / "net.pth").unlink()
    assert "Hint" not in refused(["validate", "-w", "run"], 2)


def test_a_folder_in_place_of_a_network(folder: Path) -> None:
    said = refused(["validate", "run"], 2, "There is no model 'run'.")
    assert "Is run the folder of a run? Give its weights with --weights run/best.pt." in said


def test_a_network_in_place_of_weights() -> None:
    said = refused(["validate", "-w", "resnet20"], 2, "The weights file resnet20 does not exist.")
    assert "A network is named without --weights, as in 'decompose validate resnet20'" in said


@pytest.mark.parametrize("text", ['{"0": [1, 2]}', "\n [[1, 2]]"])
def test_an_index_file_in_place_of_weights(text: str) -> None:
    Path("indices.json").write_text(text, encoding="utf-8")
    said = refused(
        ["validate", "-w", "indices.json"], 2, "The weights file indices.json is a text, such as JSON, not a"
    )
    assert "Hint: Is it an index file? 'decompose validate' takes it with -i." in said


def test_parts_that_are_trained_are_no_modules() -> None:
    said = refused(["train", "-w", "default", "--only", "linear"], 2, "--only 'linear' is unknown; choose all, head")
    assert "head is the last linear layer, however the network calls it" in said


def test_a_ranking_in_place_of_other_weights() -> None:
    said = refused(["essential", "--method", "weight"], 2, "--method 'weight' is not NAME=WEIGHTS")
    assert "Here --method names other weights to compare with" in said


def test_a_heading_of_a_class_map_is_told_from_a_class() -> None:
    Path("map.csv").write_text("mine,theirs\n0,1\n", encoding="utf-8")
    said = invoke("validate", "--class-map", "map.csv").stderr
    assert "names the class 'mine', which is not among the data set's" in only_error(said)
    assert "A first line that names the columns is 'dataset,network'." in said


def test_result_files_are_named_after_what_is_known(folder: Path) -> None:
    run("validate", "-w", "default", "-q")
    run("validate", "-w", "run/best.pt", "-q")
    run("validate", "-w", "run/best.pt", "--dataset", "digits", "-q")
    names = files_below("results")
    assert not [name for name in names if "default" in name]
    assert [name.rpartition("-")[0] for name in names] == [
        "validate-resnet20-digits-digits",
        "validate-run-best",
        "validate-run-best-digits",
    ]


def test_a_size_that_was_chosen_is_shown() -> None:
    assert ", resized to 24\n" in run("validate", "--resize", "24", "--crop", "24", "-w", "random").stderr
    assert "resized" not in run("validate", "-w", "random").stderr


def test_a_crop_of_more_than_there_is_is_said() -> None:
    expected = "Images of 24 pixels are cropped to 32x32: where these are more, black ones are put around them."
    assert warnings_in(run("validate", "--resize", "24", "-w", "random").stderr).count(expected) == 1
    assert expected not in run("validate", "-w", "random").stderr


def features(labels: np.ndarray) -> str:
    made = arrays(train_y=np.tile(labels, 12)[:12], test_y=np.tile(labels, 6)[:6])
    np.savez("f.npz", **made)
    return "f.npz"


@pytest.mark.parametrize(
    ("labels", "is_said"), [([1, 2, 3, 4], True), ([0, 1, 2, 3], False), ([1, 3, 4, 3], False), ([1, 1, 1, 1], False)]
)
def test_labels_that_begin_at_1(labels: list[int], is_said: bool) -> None:
    said = invoke("sparsify", "--features", features(np.array(labels)), "-k", "1", "--method", "mean").stderr
    expected = (
        "The labels of f.npz go from 1 to 4, and classes are numbered from 0: there are 5, of which the first has no "
        "images. If the labels begin at 1, subtract 1."
    )
    assert (expected in warnings_in(said)) is is_said


@pytest.mark.parametrize("first", [0, 1])
def test_labels_of_arrays_that_begin_at_1(first: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez("i.npz", train_images=pixels, train_labels=np.arange(12) % 4 + first, test_images=pixels,
             test_labels=np.arange(12) % 4 + first)  # fmt: skip
    said = invoke("extract-indices", "resnet20-digits", "-w", "random", "--dataset", "npz:i.npz", "-k", "1").stderr
    assert ("go from 1 to 4, and classes are numbered from 0" in said) is bool(first)


def test_one_of_a_thing_is_one() -> None:
    assert "0 entries" in run("cache").stderr
    document_of("validate", "-w", "random")
    assert "\n1 entry, " in run("cache").stderr
    assert "Deleted 1 file, " in run("cache", "--clear").stderr


def test_a_data_set_of_other_classes_may_get_a_head(images: Path) -> None:
    offer = "If they are other classes, 'decompose train --new-head' fits a head for them."
    assert offer in refused(
        ["validate", "-w", "random", "--dataset", f"folder:{images}"], 2, "3 classes, but the network has 10"
    )
    said = refused(["finetune", "-w", "default", "--dataset", f"folder:{images}"], 2, "are not among", keeps=False)
    assert offer not in said
    assert said.count("--new-head") == 1


@pytest.mark.parametrize(("steps", "is_much"), [(60, False), (61, True)])
def test_a_range_test_says_first_how_often_it_sees_each_image(images: Path, steps: int, is_much: bool) -> None:
    line = ["lr-find", "resnet8", "--dataset", f"folder:{images}", "--input-size", "8", "-b", "8", "-j", "0"]
    said = invoke(*line, "--steps", str(steps), "--json").stderr
    text = f"{steps} rates, a step each, are {20 + is_much} passes over 24 training images"
    if is_much:
        (warning,) = warnings_in(said)
        assert warning.startswith(f"{text}: the loss falls also because the network knows the images; fewer --steps")
    else:
        assert f"{text}." in said
        assert not warnings_in(said)


def test_rates_that_are_not_different_are_refused_at_once() -> None:
    close = ["--lowest", "1", "--highest", "1.0000000000000002", "--steps", "20"]
    refused(["lr-find", *close], 2, "Between 1.0 and 1.0000000000000002 there are no 20 different learning rates.")
