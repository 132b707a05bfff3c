"""Images of one's own in files of every kind: the same as in the folder that they were made from."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.image_kinds import CLASSES, MAKERS, noise, png, rows, write_folder
from typer.testing import CliRunner

from decompose_cli.cli.app import app
from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.classes import ClassNames, match_classes
from decompose_cli.datasets.kinds import KINDS, kind_of, place_in, seen_from
from decompose_cli.datasets.registry import available_splits, open_dataset
from decompose_cli.datasets.source import parse_columns
from decompose_cli.decomposition.index_set import read_index_set
from decompose_cli.errors import InputError
from decompose_cli.messages import LoggingReporter, use_reporter
from decompose_cli.preprocessing import CIFAR, IMAGENET

KIND = pytest.mark.parametrize("kind", MAKERS)


def made(kind: str, side: int = 32, **more: Any) -> tuple[str, str]:
    """The names of a folder, and of the same images as another kind."""
    folder = write_folder(Path("folder").absolute(), side, **more)
    return f"folder:{folder}", MAKERS[kind](folder, Path().absolute())


def opened(name: str, split: str = "test") -> ImageDataset:
    return open_dataset(name, split, Path())


def found(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@KIND
@pytest.mark.parametrize("side", [32, 80])
def test_images_and_labels_are_those_of_the_folder(kind: str, side: int) -> None:
    folder, name = made(kind, side)
    assert available_splits(name) == available_splits(folder) == ("test", "train")
    for split in ("train", "test"):
        expected, images = opened(folder, split), opened(name, split)
        assert (images.name, images.split, len(images)) == (name, split, 9)
        assert images.class_names == CLASSES
        assert images.labels.tolist() == expected.labels.tolist()
        assert images.preprocessing == expected.preprocessing == (IMAGENET if side == 80 else CIFAR)
        for number in range(9):
            assert np.array_equal(np.asarray(images.image(number)), np.asarray(expected.image(number)))
        assert (images.in_memory() is None) == (side == 80)
        for workers in (0, 1):
            pairs = zip(
                images.batches(images.preprocessing, 4, workers),
                expected.batches(expected.preprocessing, 4, 0),
                strict=True,
            )
            for (pixels, labels), (others, truth) in pairs:
                assert torch.equal(pixels, others)
                assert torch.equal(labels, truth)


@KIND
@pytest.mark.parametrize("side", [32, 80])
def test_the_fingerprint_is_of_the_images_and_not_of_their_place(kind: str, side: int, tmp_path: Path) -> None:
    folder, name = made(kind, side)
    before = opened(name).fingerprint()
    assert before == opened(name).fingerprint() != opened(name, "train").fingerprint()
    if side == 32:
        assert before == opened(folder).fingerprint(), "small images are known by their pixels alone"
    file = next(file for split, file, _ in rows(Path("folder")) if split == "test")
    file.write_bytes(png(noise(99, side)))
    other = tmp_path / "other"
    other.mkdir()
    again = opened(MAKERS[kind](Path("folder").absolute(), other))
    assert again.fingerprint() != before
    assert again.has_fingerprint(again.fingerprint())


@KIND
@pytest.mark.parametrize("side", [32, 80])
def test_a_part_of_them_and_what_another_process_is_sent(kind: str, side: int) -> None:
    _, name = made(kind, side)
    images = opened(name)
    images.chosen = type(images.chosen)(crop=(16, 16))
    part = images.subset(torch.tensor([7, 2, 2]))
    assert (len(part), part.labels.tolist(), part.chosen) == (3, [2, 0, 0], images.chosen)
    assert part.preprocessing == images.preprocessing
    assert part.fingerprint() not in (images.fingerprint(), images.subset(torch.tensor([2, 7, 2])).fingerprint())
    for each, number in ((part.subset(torch.tensor([0])), 0), (pickle.loads(pickle.dumps(images)), 7)):
        assert np.array_equal(np.asarray(each.image(number)), np.asarray(images.image(7)))
        assert each.class_names == CLASSES
    assert images.called(0) != images.called(7)
    assert len(images.without([0, 1])) == 7


@KIND
def test_commands_find_the_same_as_in_the_folder(kind: str) -> None:
    folder, name = made(kind)
    arguments = ("train", "resnet8", "--epochs", "1", "--batch-size", "4", "--lr", "0.05")
    columns = "image=path,label=label" if kind == "csv" else None
    results = [found(*arguments, "--dataset", folder, "-o", "one")]
    results.append(found(*arguments, "--dataset", name, "-o", "two", *(("--columns", columns) if columns else ())))
    assert results[0]["results"]["last"] == results[1]["results"]["last"]
    counts = [found("validate", "-w", f"{run}/last.pt")["results"] for run in ("one", "two")]
    assert counts[0]["original"] == counts[1]["original"]
    assert counts[0]["total"] == 9
    config = json.loads(Path("two/config.json").read_text())
    assert (config["dataset"], config["columns"]) == (name, columns), "a run that goes on reads the same"
    sets = [found("extract-indices", "-w", f"{run}/last.pt", "-k", "2", "-o", f"{run}.json") for run in ("one", "two")]
    assert sets[0]["dataset"]["classes"] == sets[1]["dataset"]["classes"] == list(CLASSES)
    one, two = (read_index_set(Path(f"{run}.json")) for run in ("one", "two"))
    assert one.classes == two.classes


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "side"), [("csv", 80), ("npz", 32), ("wds", 80), ("hf", 80)])
def test_two_processes_find_the_same(kind: str, side: int) -> None:
    folder, name = made(kind, side, each=40)

    def run(*arguments: str, devices: int) -> Any:
        shared = ["--input-size", "32", "--workers", "1", "--device", "cpu", "--devices", str(devices), "--json"]
        command = [sys.executable, "-m", "decompose_cli", *arguments, *shared]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["results"]

    trained, counts = [], []
    for number, each in enumerate((folder, name)):
        more = ("--iterations", "6", "--milestones", "4", "--lr", "0.05", "--batch-size", "8", "--dataset", each)
        trained.append(run("train", "resnet8", *more, "-o", f"run{number}", devices=2)["last"])
    for each, devices in ((folder, 1), (name, 1), (name, 2)):
        found = run("validate", "-w", "run0/last.pt", "--dataset", each, "--no-cache", devices=devices)
        counts.append(found["original"])
    assert trained[0] == trained[1]
    assert counts[0] == counts[1]
    assert counts[0]["confusion"] == counts[2]["confusion"]


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "npz"])  # whose images are not encoded
def test_a_damaged_image_is_named_and_left_out_where_that_is_asked_for(kind: str) -> None:
    folder = write_folder(Path("folder").absolute(), 80)
    broken = next(file for split, file, name in rows(folder) if (split, name) == ("test", "cat"))
    broken.write_bytes(broken.read_bytes()[:300])
    name = MAKERS[kind](folder, Path().absolute())
    with pytest.raises(InputError, match="is damaged and cannot be decoded"):
        list(opened(name).batches(IMAGENET, 4, 0))
    usual = ["validate", "resnet8", "-w", "random", "--dataset", name, "--input-size", "32"]
    refused = CliRunner().invoke(app, usual)
    assert refused.exit_code == 2
    result = found(*usual, "--skip-unreadable", "1")
    assert result["results"]["total"] == 8
    assert result["dataset"]["unreadable"] == [opened(name).called(3)]


def test_the_table_and_names_of_kinds() -> None:
    assert list(KINDS) == ["folder", "csv", "npz", "wds", "hf"]
    assert kind_of("digits") is None
    assert kind_of("module:thing") is None
    assert kind_of("csv:a:b") == (KINDS["csv"], "a:b")
    assert place_in("wds:data/set-{0..3}.tar") == "set-{0..3}.tar"
    assert place_in("folder:data/images/") == "images"
    assert place_in("digits") == "digits"
    here = Path().absolute()
    assert seen_from("digits", here) == "digits"
    assert seen_from("csv:a.csv", here) == f"csv:{here}/a.csv"
    assert seen_from("csv:/data/a.csv", here) == "csv:/data/a.csv"
    assert seen_from("hf:org/name", here) == "hf:org/name", "a name on the hub is no place here"
    Path("org/name").mkdir(parents=True)
    assert seen_from("hf:org/name", here / "other") == "hf:org/name"


def test_they_are_listed_and_named_in_help() -> None:
    listed = CliRunner().invoke(app, ["datasets"]).stderr
    helped = CliRunner().invoke(app, ["validate", "--help"]).stdout
    for kind in KINDS.values():
        assert kind.usage in listed
        assert kind.usage in " ".join(helped.split())


def test_columns_are_read_and_refused() -> None:
    assert parse_columns(None) == {}
    assert parse_columns(" image = a b ,label=c") == {"image": "a b", "label": "c"}
    for text in ("", "image", "image=", "=x", "picture=x", "image=a,,label=b"):
        with pytest.raises(InputError, match=r"columns .* is not image=NAME, label=NAME or split=NAME"):
            parse_columns(text)
    with pytest.raises(InputError, match="names image twice"):
        parse_columns("image=a,image=b")


@pytest.mark.parametrize("kind", ["folder", "digits", "npz", "wds", "hf"])
def test_columns_that_there_cannot_be_are_warned_of(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    name = {"digits": "digits", "folder": "folder:images"}.get(kind) or made(kind)[1]
    if kind == "folder":
        write_folder(Path("images"))
    with use_reporter(LoggingReporter()):
        told = open_dataset(name, "test", Path(), columns={"split": "x"})
    (message,) = caplog.messages
    assert re.match(
        rf"columns (split=x )?has no effect with {kind}.*, which has (no columns|columns of image and label)", message
    )
    assert told.fingerprint() == open_dataset(name, "test", Path()).fingerprint()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("csv:", "names no file"),
        ("wds:no-{000..002}.tar", r"The file no-000.tar and 2 more of dataset wds:.* do not exist"),
        ("wds:no-{split}.tar", r"There is no file no-\{split\}.tar"),
        ("npz:no.npz", "The file no.npz of dataset npz:no.npz does not exist"),
        ("csv:nothing", r"The folder nothing of dataset csv:nothing has no CSV files"),
        ("wds:{0..99999999}.tar", "stands for more than 1,000,000 files"),
        ("hf:./no", "The file or folder no of dataset hf:./no does not exist"),
    ],
)
def test_what_is_not_there_is_said(name: str, says: str) -> None:
    Path("nothing").mkdir()
    with pytest.raises(InputError, match=says):
        available_splits(name)


def test_a_file_without_its_kind_gets_a_hint() -> None:
    Path("a.csv").touch()
    with pytest.raises(InputError) as refusal:
        available_splits("a.csv")
    assert refusal.value.hint == "For the images of this file write csv:a.csv."


NUMBERED = ("0", "1", "2")
NAMED = ClassNames(("ant", "bee", "cow", "dog"), certain=True)


def test_numbers_stand_for_the_outputs_of_a_network() -> None:
    found = match_classes(NUMBERED, None, NAMED, 4, what="x", is_numbered=True)
    assert (found.outputs, found.names, found.by_position) == ((0, 1, 2), tuple(NAMED.names), True)
    found = match_classes(NUMBERED, None, None, 4, what="x", is_numbered=True)
    assert (found.outputs, found.names) == ((0, 1, 2), ("0", "1", "2", "3"))
    backwards = ClassNames(("2", "1", "0"))
    assert match_classes(NUMBERED, None, backwards, 3, what="x", is_numbered=True).outputs == (2, 1, 0)
    with pytest.raises(InputError, match="the data set has 3 classes, but the network has 2"):
        match_classes(NUMBERED, None, None, 2, what="x", is_numbered=True)
    with pytest.raises(InputError, match="are not among the network"):
        match_classes(NUMBERED, None, NAMED, 4, what="x")


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    Path("tables").mkdir()
    result = CliRunner().invoke(app, ["validate", "resnet20-digits", "--dataset", "hf:tables"])
    assert result.exit_code == 2
    assert "needs the package datasets" in result.stderr
    assert 'pip install "decompose-cli[hf]"' in result.stderr
