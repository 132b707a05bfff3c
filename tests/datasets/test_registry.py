"""The table of data sets, and one of a program's own, which every command then takes by its name."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from decompose_cli.cli.app import app
from decompose_cli.datasets.registry import (
    DATASETS,
    available_splits,
    get_dataset_entry,
    known_class_names,
    open_dataset,
    register,
    usual_preprocessing,
)
from decompose_cli.errors import InputError
from decompose_cli.features.seen import class_names_of
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.registry import get_entry
from decompose_cli.preprocessing import CIFAR, IMAGENET
from decompose_cli.training.recipes import complete_norm, default_recipe, resolve

MODULE = '''
"""The digits with their classes counted backwards."""

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.datasets.classes import ClassNames
from decompose_cli.datasets.entry import DatasetEntry
from decompose_cli.preprocessing import Preprocessing

CLASSES = tuple("9876543210")
IDS = ("nine", "eight", "seven", "six", "five", "four", "three", "two", "one", "zero")
SEEN = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resize=32, crop=(32, 32))


def open_backwards(split, data_dir, allow_download):
    from decompose_cli.datasets.digits import open_digits

    def read():
        pixels, labels = open_digits(split).pixels_and_labels
        return pixels, 9 - labels

    return InMemoryImages("backwards", split, CLASSES, SEEN, read, ["backwards", split])


ENTRY = DatasetEntry(
    name="backwards",
    splits=("test", "train"),
    num_classes=10,
    description="the digits, counted backwards",
    how_to_get="write it",
    open=open_backwards,
    find=lambda folder: folder if (folder / "backwards").exists() else None,
    places=lambda folder: [folder / "backwards"],
    class_names=lambda: ClassNames(CLASSES, IDS),
    preprocessing=SEEN,
    recipe="he2015",
    is_upright=True,
    norm_decays=(0.5, 0.25),
)
'''


@pytest.fixture
def backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of a data set that is registered during the test."""
    (tmp_path / "backwards_digits.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("backwards_digits")
    register(module.ENTRY)
    yield module
    del DATASETS["backwards"], sys.modules["backwards_digits"]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def found(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.usefixtures("backwards")
def test_it_is_listed_with_where_it_was_looked_for() -> None:
    Path("here").mkdir()
    listed = {status["name"]: status for status in found("datasets", "--data-dir", "here")}
    assert list(listed) == list(DATASETS)
    assert listed["backwards"] == {
        "name": "backwards",
        "splits": ["test", "train"],
        "num_classes": 10,
        "description": "the digits, counted backwards",
        "found": None,
        "looked": ["here/backwards"],
        "how_to_get": "write it",
    }
    assert "backwards: looked for here/backwards; write it." in run("datasets", "--data-dir", "here").stderr
    Path("here/backwards").touch()
    assert found("datasets", "--data-dir", "here")[-1]["found"] == "here"


@pytest.mark.usefixtures("backwards", "warm")
def test_it_is_used_by_its_name_and_its_classes_are_matched_by_theirs() -> None:
    usual = found("validate", "resnet20-digits", "--dataset", "digits")
    own = found("validate", "resnet20-digits", "--dataset", "backwards")
    assert own["dataset"]["name"] == "backwards"
    assert own["dataset"]["fingerprint"] != usual["dataset"]["fingerprint"]
    assert own["results"]["original"]["correct"] == usual["results"]["original"]["correct"] > 350
    assert own["results"]["original"]["confusion"] == usual["results"]["original"]["confusion"]
    refused = run("validate", "resnet20-digits", "--dataset", "backwards", "--split", "val")
    assert (refused.exit_code, "backwards has no split 'val'; it has test and train." in refused.stderr) == (2, True)


def test_it_is_gone_when_it_has_been_removed() -> None:
    assert "backwards" not in DATASETS
    refused = run("validate", "resnet20-digits", "--dataset", "backwards")
    assert (refused.exit_code, "There is no data set 'backwards'." in refused.stderr) == (2, True)


def test_a_network_that_names_it_has_its_classes_and_its_images(backwards: Any) -> None:
    module = get_entry("resnet20").make(10, (32, 32))
    described = Metadata(model="resnet20", num_classes=10, class_names=list(backwards.CLASSES), dataset="backwards")
    write_checkpoint(Path("own.safetensors"), module.state_dict(), described)
    classifier = open_classifier(None, "own.safetensors")
    names = class_names_of(classifier)
    assert names is not None
    assert (tuple(names.names), names.ids, names.certain) == (backwards.CLASSES, backwards.IDS, True)
    assert found("validate", "-w", "own.safetensors")["dataset"]["name"] == "backwards"
    # A network of the table that was trained on it, whose weights say nothing.
    plain = replace(get_entry("resnet20"), dataset="backwards")
    known = known_class_names(plain.dataset, certain=False)
    assert known is not None
    assert (known.names, known.ids, known.certain) == (backwards.CLASSES, backwards.IDS, False)
    assert usual_preprocessing(plain.dataset) == backwards.SEEN


@pytest.mark.usefixtures("backwards")
def test_it_is_trained_on_as_its_entry_says() -> None:
    result = run("train", "resnet8", "--dataset", "backwards", "--iterations", "2", "--milestones", "1", "-o", "run")
    assert result.exit_code == 0, result.stderr
    assert json.loads(Path("run/config.json").read_text())["recipe"] == "he2015"
    settings = resolve("he2015", {}, dataset="backwards")
    assert (settings.flip, settings.padding, settings.padding_mode) == (False, 3, "border")
    assert default_recipe("resnet8", "backwards", large_images=False, options={"gate": "l2"}) == "he2015"
    norm = complete_norm({"norm_mode": "online"}, "backwards", large_images=False)
    assert (norm["afwd"], norm["abkw"]) == ("0.5", "0.25")


def test_what_an_entry_leaves_out_is_as_of_images_of_that_size(backwards: Any) -> None:
    DATASETS["backwards"] = replace(backwards.ENTRY, class_names=None, recipe=None, is_upright=False, norm_decays=None)
    assert known_class_names("backwards", certain=True) is None
    assert default_recipe("resnet8", "backwards", large_images=False, options={}) == "cifar-resnet"
    assert default_recipe("resnet8", "backwards", large_images=True, options={}) == "imagenet"
    assert resolve("he2015", {}, dataset="backwards").flip
    for is_large, decays in ((False, (1023 / 1024, 127 / 128)), (True, (0.999, 0.99))):
        norm = complete_norm({"norm_mode": "online"}, "backwards", large_images=is_large)
        assert (float(norm["afwd"]), float(norm["abkw"])) == decays


@pytest.mark.parametrize("name", ["digits", "tiny-imagenet"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    before = dict(DATASETS)
    with pytest.raises(ValueError, match=f"a data set named '{name}' is registered already"):
        register(replace(DATASETS["cifar10"], name=name))
    assert before == DATASETS


def test_entries_agree_with_what_they_open(tmp_path: Path) -> None:
    for name, entry in DATASETS.items():
        assert entry.name == name
        assert available_splits(name) == entry.splits
        assert entry.class_names is None or len(entry.class_names().names) == entry.num_classes
        assert entry.find is None or entry.find(tmp_path) is None
    digits = open_dataset("digits", "test", tmp_path)
    assert (digits.name, len(digits.class_names), digits.preprocessing) == ("digits", 10, usual_preprocessing("digits"))


@pytest.mark.parametrize(
    ("dataset", "expected"), [("imagenet", IMAGENET), ("cifar100", CIFAR), (None, CIFAR), ("folder:x", CIFAR)]
)
def test_what_networks_expect_that_say_nothing_of_their_own(dataset: str | None, expected: Any) -> None:
    assert usual_preprocessing(dataset) == expected


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(InputError, match="There is no data set 'cifar'") as refusal:
        get_dataset_entry("cifar")
    assert refusal.value.hint == (
        "Did you mean cifar10? Known are digits, cifar10, cifar100, imagenet, tiny-imagenet, folder:PATH, csv:FILE, "
        "npz:FILE, wds:PATTERN and hf:NAME|PATH."
    )


def test_the_table_is_there_without_loading_what_opens_a_data_set() -> None:
    heavy = ("torch", "numpy", "PIL", "sklearn", "urllib.request", "datasets", "pyarrow", "tarfile")
    code = f"import sys, decompose_cli.datasets.registry\nprint(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
