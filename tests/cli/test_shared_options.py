"""Options about network, images and computing, which commands in a script share: what has no effect is warned of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import saved
from helpers.command_line import COMMANDS, document_of, invoke, only_error, refused, run, warnings_in
from helpers.sparse_heads import write_lone_head
from PIL import Image

from decompose_cli.cli.options.declaration import COMPUTING, IMAGES, NETWORK
from decompose_cli.cli.options.inputs import INPUTS
from decompose_cli.cli.options.training import SHARED

VALUES = {
    "weights": "default",
    "weights_key": "teacher",
    "model_options": "shortcut=projection",
    "head": "fc",
    "dataset": "digits",
    "columns": "image=x",
    "split": "val",
    "classes": "present",
    "class_map": "map.csv",
    "data_dir": "data",
    "mean": "0,0,0",
    "std": "1,1,1",
    "input_size": "32",
    "resize": "32",
    "crop": "32",
    "interpolation": "nearest",
    "device": "cpu",
    "gpu": "0",
    "precision": "bf16",
    "batch_size": "7",
    "workers": "2",
    "threads": "1",
    "devices": "1",
    "num_nodes": "1",
    "skip_unreadable": "3",
    "seed": "3",
}
"""A value for each option that takes one, other than its default."""
FLAGS = {str(one.name): one.opts[0] for one in COMMANDS["validate"].params}
SHARING = sorted(
    name for name, command in COMMANDS.items() if any("--input-size" in one.opts for one in command.params)
)
"""The commands that open a network."""
ASKS_FOR_WHAT_IS_NOT_TO_BE_HAD = {
    *((command, "features_only") for command in ("train", "train-gate", "lr-find", "finetune")),  # they need a head
    *((command, name) for command in ("train", "train-gate", "lr-find") for name in ("model_options", "class_map")),
    ("layers", "model_options"),
}
"""Those that a command does not have, as it would do other work than the one that is asked for."""


def typed(name: str) -> list[str]:
    """An option of the panels as it is typed."""
    return [FLAGS[name], *([VALUES[name]] if name in VALUES else [])]


def test_every_command_takes_every_shared_option() -> None:
    assert len(SHARING) == 18
    lacking = {
        (command, name)
        for command in SHARING
        for name in INPUTS.options
        if name != "model" and not any(typed(name)[0] in one.opts for one in COMMANDS[command].params)
    }
    assert lacking == ASKS_FOR_WHAT_IS_NOT_TO_BE_HAD


IDLE = [
    (command, one.name, one.opts[0])
    for command in SHARING
    for one in COMMANDS[command].params
    if getattr(one, "hidden", False)
]


@pytest.mark.parametrize(("command", "name", "flag"), IDLE, ids=[f"{row[0]} {row[2]}" for row in IDLE])
def test_what_has_no_effect_in_a_command_is_warned_of(command: str, name: str, flag: str) -> None:
    said = invoke(command, "resnet21", flag, *([VALUES[name]] if name in VALUES else []))
    assert said.exit_code == 2
    assert "'resnet21'" in only_error(said.stderr) or command == "explain", "which asks for images first"
    (warning,) = [
        text for text in warnings_in(said.stderr) if text.startswith(f"{flag} has no effect in '{command}': ")
    ]
    assert warning.endswith(".")
    assert len(warning) > len(f"{flag} has no effect in '{command}': ."), "it says why"


def test_idle_options_are_taken_in_these_commands_and_no_other() -> None:
    by_command: dict[str, int] = {}
    for command, _, _ in IDLE:
        by_command[command] = by_command.get(command, 0) + 1
    assert set(by_command) == {"explain", "export", "finetune", "layers", "lr-find", "train", "train-gate"}
    assert "--precision" not in run("explain", "--help").stdout, "what has no effect is not offered"


FILE, HEAD = "features.npz", "head.safetensors"
WITH_FEATURES = sorted(set(INPUTS.options) - {"model", "weights", "split", "seed", "threads", "device", "gpu"})


@pytest.mark.parametrize("name", [name for name in WITH_FEATURES if name not in ("no_cache", "no_download")])
def test_a_features_file_needs_no_network_and_no_images(name: str) -> None:
    values = np.random.default_rng(0).normal(size=(30, 64)).astype(np.float32)
    np.savez(FILE, test_x=values, test_y=np.arange(30) % 10)
    write_lone_head(Path(HEAD))
    line = ["validate", "-w", HEAD, "--features", FILE]
    flag = typed(name)
    if name == "features_only":
        refused([*line, *flag], 2, "--features-only needs the name of a network")
        return
    said = run(*line, *flag, "--json")
    assert f"{flag[0]} has no effect with --features, which were made elsewhere." in warnings_in(said.stderr)
    with_it, without = json.loads(said.stdout), document_of(*line)
    assert with_it["results"] == without["results"]
    assert with_it["arguments"] == without["arguments"], "they say what had an effect"


OF_FILES = ("weights", "head", "columns", "dataset", "split", "classes", "class_map", "mean", "resize", "precision")


@pytest.mark.parametrize("name", OF_FILES)
def test_index_files_are_compared_without_images(name: str) -> None:
    Path("x.json").write_text(json.dumps({"0": [0, 1], "1": [1, 2]}), encoding="utf-8")
    line = ["mutual-info", "-i", "x.json", "--num-features", "8"]
    said = run(*line, *typed(name), "--json")
    (warning,) = warnings_in(said.stderr)
    assert warning.startswith(f"{typed(name)[0]} has no effect with -i: no image is looked at")
    assert json.loads(said.stdout)["results"] == document_of(*line)["results"]


def test_several_are_named_in_one_sentence() -> None:
    Path("gates.pth").write_bytes(saved({"csg": torch.rand(10, 64)}))
    said = run("mutual-info", "--csg", "gates.pth", "--dataset", "digits", "-b", "7", "--resize", "8", "--json")
    expected = (
        "--dataset, --resize and --batch-size have no effect: gates are ranked by their values and need no images."
    )
    assert warnings_in(said.stderr) == [expected]


def test_image_files_belong_to_no_data_set() -> None:
    Image.new("RGB", (32, 32), "red").save("x.png")
    line = ["explain", "resnet20-digits", "x.png", "-q", "--json"]
    said = run(*line, "--dataset", "imagenet", "--split", "val", "--class-map", "none.csv", "--skip-unreadable", "2")
    assert warnings_in(said.stderr) == [
        "--dataset, --split, --class-map and --skip-unreadable have no effect with image files, which belong to no "
        "data set."
    ]
    with_them, without = json.loads(said.stdout), document_of(*line[:-1])
    assert with_them["results"] == without["results"]


@pytest.mark.parametrize("data", ["digits", "folder:images"])
def test_columns_of_what_has_none(data: str, images: Path) -> None:
    said = invoke("validate", "resnet20-digits", "--dataset", data, "--columns", "image=x", "-w", "random")
    (warning,) = [text for text in warnings_in(said.stderr) if "no effect" in text]
    assert warning.startswith("--columns ")
    assert warning.endswith(f"has no effect with {data}, which has no columns.")


def test_training_says_what_it_has_no_use_for(images: Path) -> None:
    line = ["train", "resnet8", "--dataset", f"folder:{images}", "--input-size", "8", "--epochs", "1", "-b", "8"]
    line += ["--val-split", "0", "-o", "run", "-q"]
    said = run(*line, "--head", "linear", "--ecm", "ls", "--split", "val", "--classes", "present")
    about = [text for text in warnings_in(said.stderr) if "no effect" in text]
    assert about == [
        "--split has no effect in 'train': training images are trained on, test images measured.",
        "--classes has no effect in 'train': the classes of the images are trained.",
        "--head has no effect: the whole network is trained.",
        "--ecm has no effect with batch norm; it is of --norm-mode online.",
    ]
    evaluate = ["train", "--evaluate", "-w", "run/last.pt", "--dataset", f"folder:{images}", "-q", "--json"]
    shared = ["--precision", "16", "--no-compile", "--no-sync-bn", "--val-split", "0.2", "--final-test"]
    said = run(*evaluate, *shared)
    assert warnings_in(said.stderr) == [
        "--compile, --final-test, --precision, --sync-bn and --val-split have no effect with --evaluate, which trains "
        "nothing and measures in float32."
    ]
    assert json.loads(said.stdout)["results"] == document_of(*evaluate)["results"]
    refused([*evaluate, "--epochs", "3"], 2, "--evaluate trains nothing: leave out --epochs.")


def test_which_options_of_training_are_shared() -> None:
    expected = {"val_split", "precision", "compile", "sync_bn", "seed", "final_test"}
    assert expected == SHARED
    panels = {NETWORK, IMAGES, COMPUTING}
    assert panels == {option[0].__metadata__[0].rich_help_panel for option in list(INPUTS.options.values())[1:]}


def test_what_contradicts_itself_is_refused() -> None:
    refused(["export", "resnet20-digits", "--gpu", "0", "--seed", "-1"], 2, "--seed -1")
    refused(["validate", "--gpu", "0", "--device", "cpu"], 2, "--gpu and --device say the same thing")
    refused(
        ["validate", "--ema", "-w", "x.pt", "--weights-key", "k"], 2, "both say which weights of the file are taken"
    )
