"""``explain`` and ``filters`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.command_line import content, document_of, files_below, names_in, run, sentence_of
from PIL import Image


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Say which images: files, --indices-of NUMBERS or --worst N, and one of these only."),
        (["--indices-of", "1,x"], "--indices-of '1,x' is not a list of numbers such as 0,5,9."),
        (["--indices-of", "-1"], "--indices-of '-1' is not a list of numbers such as 0,5,9."),
        (["--indices-of", "400"], "digits test has no image number 400; it has 360, from 0."),
        (["--worst", "41"], "41 images cannot be explained at a time; choose 1 to 40."),
        (
            ["resnet20-digits", "--worst", "2", "--device", "nonsense"],
            "--device 'nonsense' is unknown; choose auto, cpu, cuda, cuda:N or mps.",
        ),
        (["--indices-of", "1", "-k", "0"], "-k 0 is not at least 1."),
        (["--indices-of", "1", "-i", "missing.json"], "The index file missing.json does not exist."),
        (["--indices-of", "1", "--layer", "nope"], "'nope' is no layer of resnet20-digits with maps."),
        (["resnet20-digits", "missing.png"], "The image missing.png does not exist."),
    ],
)
def test_refusals_are_a_sentence_each(arguments: list[str], sentence: str) -> None:
    assert sentence_of(["explain", *arguments]) == sentence


def test_an_image_in_place_of_the_network_is_pointed_out() -> None:
    Image.new("RGB", (8, 8)).save("cat.png")
    Image.new("RGB", (8, 8)).save("dog.png")
    for more in ([], ["dog.png"]):
        assert (
            sentence_of(["explain", "cat.png", *more])
            == "The network comes before its images: decompose explain MODEL cat.png"
        )


def test_weights_that_say_their_network_need_no_model_before_the_images() -> None:
    from decompose_cli.models.checkpoint import Metadata, write_checkpoint
    from decompose_cli.models.registry import get_entry

    Image.effect_noise((32, 32), 60).save("cat.png")
    weights = get_entry("resnet14").make(3, (32, 32)).state_dict()
    write_checkpoint(Path("net.safetensors"), weights, Metadata(model="resnet14", num_classes=3))
    run("explain", "cat.png", "-w", "net.safetensors", "-o", "out")
    assert content("out/result.json")["model"]["name"] == "resnet14"


def test_pictures_and_figures_are_in_one_folder() -> None:
    Image.effect_noise((40, 30), 70).save("cat.png")
    said = run("explain", "resnet20-digits", "cat.png", "-o", "out").stderr
    assert files_below() == ["cat.png", "out/01-cat.png", "out/result.json", "out/sheet.png"]
    assert "Grad-CAM at layer3." in said
    document = content("out/result.json")
    assert document["arguments"]["files"] == ["cat.png"]
    assert sentence_of(["explain", "resnet20-digits", "cat.png", "-o", "out"]).startswith("out/result.json exists")
    run("explain", "--worst", "2")
    (folder,) = Path("results").iterdir()
    assert names_in(folder)[-2:] == ["result.json", "sheet.png"]


def test_json_writes_nothing() -> None:
    assert len(document_of("explain", "--indices-of", "0,1")["results"]["explanations"]) == 2
    assert files_below() == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Name the class with --class NAME."),
        (["--class", "cat"], "There is no class 'cat'; classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9."),
        (["--class", "3", "--images", "20"], "--images 20 is not between 1 and 16."),
        (["--class", "3", "-k", "0"], "-k 0 is not at least 1."),
    ],
)
def test_filters_refuses_in_a_sentence(arguments: list[str], sentence: str) -> None:
    assert sentence_of(["filters", *arguments]) == sentence


def test_filters_writes_a_picture_and_its_figures() -> None:
    result = run("filters", "--class", "3", "-k", "2", "--images", "3", "-o", "out")
    assert files_below() == ["out/filters.png", "out/result.json"]
    assert "Filters of 3" in result.stderr
    found = content("out/result.json")["results"]["filters"]
    assert [len(info["images"]) for info in found] == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-c", "cat"], "There is no class 'cat'; classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9."),
        (["-c", "3", "-c", "10"], "There is no class '10'; classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9."),
        (["--images", "17"], "--images 17 is not between 1 and 16."),
        (["-k", "0"], "-k 0 is not at least 1."),
        (["-k", "65"], "-k 65 is more than the 64 features that there are."),
        (["-k", "2", "-i", "indices.json"], "-i and -k both say which filters a class has; give one of them."),
        (["-i", "missing.json"], "The index file missing.json does not exist."),
    ],
)
def test_atlas_refuses_in_a_sentence(arguments: list[str], sentence: str) -> None:
    assert sentence_of(["atlas", *arguments, "-o", "out"]) == sentence


@pytest.mark.usefixtures("warm")
def test_atlas_writes_a_picture_and_its_figures_and_is_on_a_page_with_names() -> None:
    said = run("atlas", "-c", "3", "-c", "5", "-k", "2", "--images", "2", "-o", "out").stderr
    assert files_below() == ["out/atlas.png", "out/result.json"]
    assert "4 features of 3, 5; with all of them" in said
    features = content("out/result.json")["results"]["features"]
    assert [len(one["images"]) for one in features] == [2] * 4
    Path("names.json").write_text(json.dumps({features[0]["feature"]: "hooks"}), encoding="utf-8")
    run("report", "out", "--names", "names.json", "-o", "page.html")
    assert f"hooks ({features[0]['feature']})" in Path("page.html").read_text(encoding="utf-8")
    Path("names.json").write_text('{"64": "hooks"}', encoding="utf-8")
    sentence = sentence_of(["report", "out", "--names", "names.json", "-o", "other.html"])
    assert sentence == "--names names the feature 64, and the network has the features 0 to 63 only."
