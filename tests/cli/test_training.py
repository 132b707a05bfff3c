"""``train``, ``finetune`` and ``lr-find`` as they are typed: exit codes, what is said, what is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import content, names_in, row_of, run
from helpers.power_cut import PowerCut
from helpers.processes import program
from PIL import Image

from decompose_cli.cli.app import joined_integers
from decompose_cli.norms.modes import NORM_MODES
from decompose_cli.training.table import COLUMNS

CLASSES = ["a", "b", "c"]
BRIEF = ("--input-size", "8", "-j", "0", "-b", "8", "--epochs", "2", "--device", "cpu")
TRAIN = ("train", "resnet8", "--dataset", "folder:images", *BRIEF, "--lr", "0.05")


def slow(value: str) -> Any:
    """A case that others cover, for want of time."""
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture
def images(make_images: Callable[..., Path]) -> Path:
    """24 training images and 15 for testing."""
    root = make_images(Path("images"), CLASSES, ("train",), n=8, side=8)
    return make_images(root, CLASSES, ("test",), n=5, side=8)


@pytest.fixture
def stopped(images: Path, power_cut: PowerCut) -> str:
    """A run without power after its first epoch."""
    with power_cut("last.pt"):
        run(*TRAIN, "-o", "run", "-q")
    return "run"


# --------------------------------------------------------------------------------------------------------------- train


@pytest.mark.usefixtures("images")
def test_train_shows_recipe_epochs_and_result() -> None:
    result = run(*TRAIN, "-o", "run", "--val-split", "0.25")
    assert result.stdout == ""
    said = result.stderr
    assert "Recipe cifar-resnet (akamaster/pytorch_resnet_cifar10): sgd, lr 0.05, momentum 0.9" in said
    assert (
        "resnet8 on folder:images: 24 training images, a share of 0.25 held out for validation; 15 test images" in said
    )
    assert row_of(said, "Epoch") == list(COLUMNS)
    results = content("run/result.json")["results"]
    for record in results["epochs"]:
        row = row_of(said, f"{record['epoch']}/2")
        assert row[2:6] == [
            f"{record['train']['loss']:.4f}",
            f"{record['train']['top1']:.2f}",
            f"{record['val']['loss']:.4f}",
            f"{record['val']['top1']:.2f}",
        ]
    best, last = results["best"], results["last"]
    for name, found in (("last", last), ("best", best)):
        row = row_of(said, f"{name} (epoch {found['epoch']})")
        assert row[1:] == [
            "held-out",
            f"{found['val']['correct']} of 6",
            f"{found['val']['top1']:.2f}",
            f"{found['val']['loss']:.4f}",
        ]
    assert "Written to run: last.pt, best.pt, log.csv, curve.png, result.json" in said
    assert "\x1b" not in said


@pytest.mark.usefixtures("images")
def test_the_command_that_is_recommended_gives_the_accuracy_that_is_shown() -> None:
    said = run(*TRAIN, "-o", "run", "--val-split", "0").stderr
    (line,) = [line for line in said.splitlines() if line.startswith("Use it: decompose ")]
    words = line.removeprefix("Use it: decompose ").split()
    found = json.loads(run(*words, "--json", "-q", "-j", "0", "--no-cache").stdout)["results"]["original"]
    expected = content("run/result.json")["results"]["last"]["test"]
    assert found["correct"] == expected["correct"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.usefixtures("images")
def test_the_recommended_command_names_a_network_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from torch import nn\n\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))\n"
    Path("toynet.py").write_text(code)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    options = ("--dataset", "folder:images", "--input-size", "8", "-j", "0", "--epochs", "1", "--val-split", "0")
    said = run("train", "toynet:net", *options, "-o", "run").stderr
    (line,) = [line for line in said.splitlines() if line.startswith("Use it: decompose ")]
    run(*line.removeprefix("Use it: decompose ").split(), "-q", "-j", "0", "--no-cache")


@pytest.mark.usefixtures("images")
def test_training_goes_on_with_the_images_that_the_weights_have_learned_from() -> None:
    run(*TRAIN, "-o", "run", "-q")
    run("train", "-w", "run/last.pt", "-o", "more", "-q", "-j", "0", "--epochs", "1", "-b", "8")
    assert content("more/result.json")["dataset"]["name"] == "folder:images"


@pytest.mark.usefixtures("images")
def test_steps_are_not_called_epochs() -> None:
    given = ("--dataset", "folder:images", "--input-size", "8", "-j", "0", "--schedule", "constant", "--val-split", "0")
    said = run("train", "resnet8", *given, "-o", "run", "--iterations", "1").stderr
    assert "last (step 1)" in said
    assert "last (epoch" not in said


@pytest.mark.usefixtures("images")
def test_json_goes_to_stdout_and_the_folder_is_written_all_the_same() -> None:
    result = run(*TRAIN, "-o", "run", "--json")
    assert json.loads(result.stdout) == content("run/result.json")
    assert "Result" in result.stderr


@pytest.mark.usefixtures("images")
def test_quiet_says_nothing() -> None:
    result = run(*TRAIN, "-o", "run", "-q")
    assert (result.stdout, result.stderr) == ("", "")
    assert "result.json" in names_in("run")


@pytest.mark.usefixtures("images")
def test_the_default_folder_has_a_name_of_its_own() -> None:
    run(*TRAIN, "-q")
    run(*TRAIN, "-q")
    run(*TRAIN, "-q", "--run-name", "mine")
    run(*TRAIN, "-q", "--run-name", "mine")
    names = names_in("runs")
    assert {"mine", "mine-2"} <= set(names)
    others = [name for name in names if not name.startswith("mine")]
    assert len(others) == 2
    assert all(re.fullmatch(r"train-resnet8-images-\d{8}T\d{6}Z(-2)?", name) for name in others)


@pytest.mark.parametrize("name", ["../outside", "a/b", "..", ".", "/tmp/absolute"])
@pytest.mark.usefixtures("images")
def test_a_run_name_stays_in_runs(name: str) -> None:
    run(*TRAIN, "-q", "--run-name", name)
    (folder,) = Path("runs").iterdir()
    assert (folder / "result.json").is_file()
    assert not list(Path().resolve().parent.glob("outside"))


def test_without_arguments_the_digits_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decompose_cli.training.setup.DEFAULT_NETWORK", "resnet8")
    said = run("train", "--iterations", "2", "-o", "run").stderr
    assert said.startswith("No model was named: training resnet8 on digits.\nRecipe digits (this project")
    assert "1,000 training images" in said or "training images" in said


@pytest.mark.usefixtures("images")
def test_options_and_set_reach_the_settings() -> None:
    run(
        *TRAIN,
        *("-o", "run", "--optimizer", "adamw", "--accumulate", "2", "--weight-decay", "0.01", "--schedule", "steps"),
        *("--milestones", "1", "--label-smoothing", "0.1", "--clip-norm", "2", "--ema-decay", "0.5", "--cutout", "2"),
        *(
            "--augment",
            "crop-flip",
            "--mix",
            "cutmix",
            "--seed",
            "4",
            "--val-split",
            "0.2",
            "--precision",
            "bf16",
            "-q",
        ),
        *("--set", "padding=1", "--set", "mix-beta=0.7", "--set", "flip=false"),
    )
    expected = {
        "optimizer": "adamw",
        "lr": 0.05,
        "batch_size": 8,
        "accumulate": 2,
        "weight_decay": 0.01,
        "schedule": "steps",
        "milestones": [1],
        "label_smoothing": 0.1,
        "clip_norm": 2,
        "ema_decay": 0.5,
        "cutout": 2,
        "mix": "cutmix",
        "seed": 4,
        "val_split": 0.2,
        "precision": "bf16",
        "padding": 1,
        "mix_beta": 0.7,
        "flip": False,
    }
    settings = content("run/config.json")["settings"]
    assert {name: settings[name] for name in expected} == expected


# ------------------------------------------------------------------------------------------------------ other norms

# Batch norm is everywhere else; layer and instance norm are trained and evaluated below, and looked at in tests/norms.
QUICK_MODES = ("group", "online", "none")
NORMED = ("resnet8", "--dataset", "folder:images", "--input-size", "8", "-j", "0", "-b", "8", "--device", "cpu", "-q")


@pytest.mark.usefixtures("images")
def test_the_published_commands_of_online_normalisation() -> None:
    run("train", *NORMED, *("--norm-mode", "online", "--afwd", "0.9990234375", "--abkw", "127/128", "--epochs", "2"),
        *("--model-dir", "run", "--lr-milestones", "1", "150", "200", "--lr-multiplier", "0.2", "--wd", "0.0003"),
        *("--learning-rate", "0.02", "--seed", "3", "--ecm", "ac", "--shortcut", "projection"))  # fmt: skip
    config = content("run/config.json")
    assert config["recipe"] == "online-norm"
    assert config["model_options"] == {
        "shortcut": "projection",
        "norm_mode": "online",
        "afwd": "0.9990234375",
        "abkw": "0.9921875",
        "ecm": "ac",
    }
    expected = {"milestones": [1, 150, 200], "gamma": 0.2, "weight_decay": 0.0003, "lr": 0.02, "seed": 3, "epochs": 2}
    assert {name: config["settings"][name] for name in expected} == expected
    assert [record["lr"] for record in content("run/result.json")["results"]["epochs"]] == [0.02, 0.004]
    assert content("run/result.json")["model"]["options"] == config["model_options"]
    other = ("--decay-factor-forward", "0.5", "--decay-factor-backward", "0.25")
    run("train", *NORMED, "--norm-mode", "online", *other, "--epochs", "1", "-o", "other", "--recipe", "cifar-resnet")
    config = content("other/config.json")
    assert config["recipe"] == "cifar-resnet"
    assert config["model_options"] == {"norm_mode": "online", "afwd": "0.5", "abkw": "0.25", "ecm": "ls"}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("mode", [mode if mode in QUICK_MODES else slow(mode) for mode in NORM_MODES])
def test_a_network_with_any_norm_is_trained_measured_decomposed_and_finetuned(mode: str) -> None:
    # A network without any normalisation needs a gentle rate.
    options = ("--norm-mode", mode, "--epochs", "2", "--lr", "0.01", "--final-test", "-o", "run")
    said = run("train", *NORMED[:-1], *options).stderr
    assert "Recipe online-norm (arXiv 1905.05894 and its code)" in said
    assert (f"resnet8 with norm mode {mode}" in said) == (mode != "batch")
    test = content("run/result.json")["results"]["last"]["test"]
    data = ("-j", "0", "--device", "cpu", "-q")
    run("validate", "-w", "run/last.pt", *data, "-o", "v.json")
    assert content("v.json")["results"]["original"]["correct"] == test["correct"]
    run("extract-indices", "-w", "run/last.pt", "-k", "4", *data, "-o", "i.json")
    run("validate", "-w", "run/last.pt", "-i", "i.json", *data, "-o", "d.json")
    run("finetune", "-w", "run/last.pt", "-i", "i.json", "--epochs", "1", *data, "-o", "tuned")
    tuned = content("tuned/result.json")["results"]
    assert tuned["original"]["correct"] == test["correct"]
    assert tuned["before"]["correct"] == content("d.json")["results"]["decomposed"]["correct"]
    run("validate", "-w", "tuned/last.pt", *data, "-o", "t.json")
    assert content("t.json")["results"]["decomposed"]["correct"] == tuned["after"]["correct"]


@pytest.mark.usefixtures("images")
def test_weights_with_a_norm_are_trained_further_with_it(power_cut: PowerCut) -> None:
    run("train", *NORMED, "--norm-mode", "online", "--afwd", "0.9", "--epochs", "2", "-o", "first")
    again = ("train", *NORMED[1:], "-w", "first/last.pt", "--epochs", "3", "--start-epoch", "2", "-o")
    run(*again, "second")
    assert content("second/config.json")["model_options"]["afwd"] == "0.9"
    assert [record["epoch"] for record in content("second/result.json")["results"]["epochs"]] == [3]
    run(*again, "third", "--norm-mode", "online", "--abkw", "0.5")
    options = content("third/config.json")["model_options"]
    assert options == {"norm_mode": "online", "afwd": "0.9", "abkw": "0.5", "ecm": "ls"}
    weights = [torch.load(f"{name}/last.pt", weights_only=True)["state_dict"] for name in ("second", "third")]
    assert not torch.equal(weights[0]["conv1.weight"], weights[1]["conv1.weight"]), "the other decay was used"
    with power_cut("last.pt"):
        run("train", *NORMED, "--norm-mode", "online", "--afwd", "0.9", "--epochs", "2", "-o", "cut")
    same = ("--norm-mode", "online", "--afwd", "0.90")
    refused = run("train", "--resume", "cut", "--norm-mode", "group", code=2)
    assert "was begun otherwise: norm-mode online, now group" in refused.stderr
    refused = run("train", "--resume", "cut", "--afwd", "0.5", code=2)
    assert "was begun otherwise: afwd 0.9, now 0.5" in refused.stderr
    run("train", "--resume", "cut", *same, "-q")
    first, second = (content(f"{name}/result.json")["results"]["epochs"] for name in ("first", "cut"))
    assert [record["train"] for record in first] == [record["train"] for record in second]


@pytest.mark.usefixtures("images")
def test_evaluate_is_what_validate_says_and_trains_nothing() -> None:
    run("train", *NORMED, "--norm-mode", "online", "--epochs", "1", "--final-test", "-o", "run")
    expected = content("run/result.json")["results"]["last"]["test"]["correct"]
    data = ("--dataset", "folder:images", "-j", "0", "--device", "cpu")
    for number, options in enumerate((("-w", "run/last.pt"), ("--resume", "run"), ("--resume", "run/last.pt"))):
        said = run("train", "resnet8", "--evaluate", *options, *data, "--norm-mode", "online", "-o", f"out{number}")
        assert f"{expected} of 15" in said.stderr
        assert content(f"out{number}/evaluation.json")["results"]["original"]["correct"] == expected
        assert names_in(f"out{number}") == ["evaluation.json"]
    assert run("train", "-e", "-w", "run/last.pt", *data, "--json", "-q").stdout.startswith("{")


@pytest.mark.usefixtures("images")
def test_weights_that_do_not_say_their_error_compensation_can_be_told() -> None:
    run("train", *NORMED, "--norm-mode", "online", "--ecm", "ac", "--epochs", "1", "--final-test", "-o", "run")
    expected = content("run/result.json")["results"]["last"]["test"]
    torch.save(torch.load("run/last.pt", weights_only=True)["state_dict"], "foreign.pth")
    data = ("resnet8", "--dataset", "folder:images", "--input-size", "8", "-j", "0", "--device", "cpu", "-q", "-e")
    losses = {}
    for ecm in ("ac", "ls"):
        run("train", *data, "-w", "foreign.pth", "--norm-mode", "online", "--ecm", ecm, "-o", ecm)
        losses[ecm] = content(f"{ecm}/evaluation.json")["results"]["original"]["loss"]
    assert losses["ac"] == pytest.approx(expected["loss"], rel=1e-4)
    assert losses["ls"] != pytest.approx(expected["loss"], rel=1e-2)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("mode", ["group", "layer", "instance", "none"])
def test_weights_that_do_not_say_their_norm_can_be_told(mode: str) -> None:
    options = ("--norm-mode", mode, "--lr", "0.01")
    run("train", *NORMED, *options, "--epochs", "1", "--final-test", "-o", "run")
    expected = content("run/result.json")["results"]["last"]["test"]["correct"]
    torch.save(torch.load("run/last.pt", weights_only=True)["state_dict"], "foreign.pth")
    data = (
        "resnet8",
        "--dataset",
        "folder:images",
        "--input-size",
        "8",
        "-j",
        "0",
        "--device",
        "cpu",
        "-w",
        "foreign.pth",
    )
    run("train", *data, "-q", "-e", "--norm-mode", mode, "-o", "e")
    assert content("e/evaluation.json")["results"]["original"]["correct"] == expected
    run("train", *data, "-q", "--epochs", "1", *options, "-o", "more")
    assert content("more/config.json")["model_options"]["norm_mode"] == mode
    if mode in ("group", "instance"):
        refused = run("validate", *data, code=2).stderr
        assert "say so: 'decompose train resnet8 --evaluate -w foreign.pth --norm-mode MODE'" in refused


@pytest.mark.usefixtures("images")
def test_going_on_with_online_normalisation_is_by_its_recipe_and_measured_with_caution() -> None:
    run("train", *NORMED, "--norm-mode", "online", "--epochs", "1", "-o", "run")
    said = run("train", *NORMED[1:-1], "-w", "run/last.pt", "--epochs", "1", "-o", "more").stderr
    assert "Recipe online-norm" in said
    assert "The weights may have been trained on the images that are held out now" in said
    assert "--shortcut projection" not in said
    said = run("validate", "-w", "run/last.pt", "-j", "0").stderr
    assert "resnet8 with norm mode online, afwd 0.9990234375, abkw 0.9921875, ecm ls: 64 features" in said


@pytest.mark.usefixtures("images")
def test_the_publications_shortcuts_are_recommended_where_they_matter() -> None:
    options = ("--dataset", "folder:images", "--input-size", "8", "-j", "0", "--device", "cpu", "--iterations", "1")
    advice = "--shortcut projection"
    assert advice in run("train", "resnet8", *options, "--norm-mode", "online", "--schedule", "constant").stderr
    for more in (("--norm-mode", "online", advice.split()[0], "projection"), ("--norm-mode", "group")):
        assert advice not in run("train", "resnet8", *options, *more, "--schedule", "constant").stderr
    assert advice not in run("train", "preresnet8", *options, "--norm-mode", "online", "--schedule", "constant").stderr


def test_finetune_measures_the_test_images_anyway() -> None:
    assert "--final-test" not in run("finetune", "--help").stdout
    assert "--final-test" in run("train", "--help").stdout


def test_pretrained_are_the_default_weights(few: str) -> None:
    (correct,) = re.findall(r"\d+ of 20", run("validate", "--dataset", few, "-j", "0").stderr)
    assert correct in ("19 of 20", "20 of 20")
    for model in ((), ("resnet20-digits",)):
        assert correct in run("train", *model, "--pretrained", "--evaluate", "--dataset", few, "-j", "0").stderr


@pytest.mark.usefixtures("images")
def test_lines_between_epochs_are_printed_if_asked_for() -> None:
    said = run(*TRAIN, "-o", "run", "-p", "2").stderr  # 24 images in batches of 8, a tenth of them held out
    assert re.findall(r"^ *(\S+/2) ", said, re.MULTILINE) == ["0.67/2", "1/2", "1.67/2", "2/2"]


@pytest.mark.parametrize(
    ("arguments", "joined"),
    [
        ("train --lr-milestones 100 150 200", "train --lr-milestones 100,150,200"),
        ("train --milestones 100 150 -b 64", "train --milestones 100,150 -b 64"),
        ("train --lr-milestones 100", "train --lr-milestones 100"),
        ("train --lr-milestones 100,150 resnet20", "train --lr-milestones 100,150 resnet20"),
        ("train --lr-milestones 100,150 200 300,400", "train --lr-milestones 100,150,200,300,400"),
        ("train --lr-milestones=100 150 200 -b 3", "train --lr-milestones=100,150,200 -b 3"),
        ("train --epochs=100 150", "train --epochs=100 150"),
        ("train --milestones=1 --lr-milestones 2", "train --milestones=1 --lr-milestones 2"),
        ("train --lr-milestones 1 2 resnet20 3", "train --lr-milestones 1,2 resnet20 3"),
        ("train --lr-milestones", "train --lr-milestones"),
        ("train --lr-milestones --epochs 3 4", "train --lr-milestones --epochs 3 4"),
        ("train --epochs 3 4", "train --epochs 3 4"),
        ("train --lr-milestones -1 2", "train --lr-milestones -1 2"),
        ("train --lr-milestones 1 2 --milestones 3 4", "train --lr-milestones 1,2 --milestones 3,4"),
        ("train --lr-milestones 1 ٢", "train --lr-milestones 1 ٢"),
        ("", ""),
    ],
)
def test_integers_after_a_list_option_are_joined(arguments: str, joined: str) -> None:
    assert joined_integers(arguments.split()) == joined.split()


@pytest.mark.usefixtures("images")
def test_several_seeds_are_shown_with_their_spread() -> None:
    said = run(*TRAIN, "-o", "run", "--runs", "2", "--val-split", "0.25", "--final-test").stderr
    results = content("run/result.json")["results"]
    for found in results["summary"]:
        assert f"{found['what']}: median {found['median']:.2f}, min {found['min']:.2f}" in said
    assert "(2 runs)" in said
    assert "Run 2 of 2, seed 1: run/seed-1" in said
    assert names_in("run") == ["config.json", "result.json", "seed-0", "seed-1"]


def test_resume_needs_the_folder_and_nothing_else(stopped: str) -> None:
    run(*TRAIN, "-o", "whole", "-q")
    said = run("train", "--resume", stopped).stderr
    assert "Going on after 3 of 6 steps." in said
    assert Path("run/log.csv").read_text().count("\n") == 3
    first, second = (content(f"{name}/result.json")["results"] for name in ("whole", "run"))
    assert [record["train"]["loss"] for record in first["epochs"]] == [
        record["train"]["loss"] for record in second["epochs"]
    ]


# One that is taken for a change is named, whatever stands beside it.
SAME: list[tuple[str, ...]] = [
    (
        *("--lr", "0.05", "--epochs", "2", "--milestones", "100,150", "--set", "flip=true", "--shortcut", "identity"),
        *("--recipe", "cifar-resnet", "--dataset", "folder:images", "--input-size", "8", "--runs", "1"),
    ),
    ("--set", "lr=0.05", "--set", "milestones=100,150"),
]


@pytest.mark.parametrize("same", SAME, ids=["options", "settings"])
def test_an_option_that_says_the_same_again_is_no_change(stopped: str, same: tuple[str, ...]) -> None:
    run("train", "--resume", stopped, "-q", *same)


@pytest.mark.usefixtures("images")
def test_a_mid_epoch_checkpoint_and_overwriting(power_cut: PowerCut) -> None:
    with power_cut("last.pt", 2):
        run(*TRAIN, "-o", "run", "-q", "--checkpoint-every", "1")
    assert torch.load("run/last.pt", weights_only=True)["training"]["global_step"] == 2
    run(*TRAIN, "-o", "run", "-q", "--overwrite", "--seed", "3")
    assert content("run/result.json")["results"]["seed"] == 3


# ------------------------------------------------------------------------------------------------------------ finetune


@pytest.fixture
def learned(images: Path) -> str:
    run(*TRAIN, "-o", "start", "-q", "--val-split", "0")
    return "start/last.pt"


def test_finetune_shows_before_after_and_what_the_difference_means(learned: str) -> None:
    said = run("finetune", "-w", learned, *BRIEF, "-k", "2", "-o", "tuned").stderr
    results = content("tuned/result.json")["results"]
    assert "Recipe finetune (arXiv 2112.07719 and its code): adam, lr 0.0002" in said
    assert "2 features per class by frequency, ranked over 24 images." in said
    rows = (
        ("full head, original", "original"),
        ("decomposed, before", "before"),
        ("decomposed, last (epoch 2)", "after"),
    )
    for row, name in rows:
        found = results[name]
        assert row_of(said, row)[1:] == [
            "test",
            f"{found['correct']} of 15",
            f"{found['top1']:.2f}",
            f"{found['loss']:.4f}",
        ]
    difference = results["difference"]
    low, high = difference["ci95"]
    assert f"After minus original: {difference['points']:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}" in said
    verdict = "no significant difference" if difference["mcnemar_p"] >= 0.05 else "a significant difference"
    assert f"{verdict} at the 5% level" in said


def test_finetune_and_validate_and_its_options(learned: str) -> None:
    run("extract-indices", "-w", learned, "--input-size", "8", "-k", "3", "-o", "indices.json", "-q", "-j", "0")
    run("finetune", "-w", learned, *BRIEF, "-i", "indices.json", "--only", "head", "-o", "tuned", "-q", "--json")
    after = content("tuned/result.json")["results"]["after"]
    found = json.loads(run("validate", "-w", "tuned/last.pt", "--input-size", "8", "--json", "-q", "-j", "0").stdout)
    assert found["results"]["decomposed"]["correct"] == after["correct"]
    assert found["results"]["indices"]["k"] == [3, 3]
    assert content("tuned/config.json")["only"] == "head"


def test_finetune_is_resumed_without_being_told_anything(learned: str, power_cut: PowerCut) -> None:
    with power_cut("last.pt"):
        run("finetune", "-w", learned, *BRIEF, "-k", "2", "-o", "tuned", "-q")
    said = run("finetune", "--resume", "tuned").stderr
    assert "Going on after 3 of 6 steps." in said
    assert content("tuned/config.json")["ranking"]["k"] == 2


# ------------------------------------------------------------------------------------------------------------- lr-find


@pytest.fixture
def told_apart(images: Path) -> None:
    for name, colour in zip(CLASSES, ("red", "lime", "blue"), strict=True):
        for path in (images / "train" / name).iterdir():
            Image.blend(Image.open(path), Image.new("RGB", (8, 8), colour), 0.5).save(path)


RATES = ("lr-find", "resnet8", "--dataset", "folder:images", "--input-size", "8", "-j", "0", "--set", "batch_size=8")


@pytest.mark.usefixtures("told_apart")
def test_lr_find_suggests_and_writes() -> None:
    said = run(*RATES, "--steps", "60", "-o", "found").stderr
    found = content("found/result.json")["results"]
    assert f"Learning rate: {found['lr']:.2g}" in said
    assert f"less the steps that the average trails: {found['minimum_tenth']:.2g}" in said
    assert "Written to found: curve.png, result.json" in said
    run(*RATES, "--steps", "60", "-o", "found", "-q", code=2)
    run(*RATES, "--steps", "60", "-o", "found", "-q", "--overwrite")


@pytest.mark.usefixtures("told_apart")
def test_lr_find_json_writes_no_file_and_the_default_is_a_new_folder() -> None:
    result = run(*RATES, "--steps", "60", "--json", "-q")
    assert json.loads(result.stdout)["command"] == "lr-find"
    assert result.stderr == ""
    assert names_in(".") == ["images"]
    run(*RATES, "--steps", "60", "-q")
    (folder,) = Path("results").iterdir()
    assert folder.name.startswith("lr-find-resnet8-images-")
    assert names_in(str(folder)) == ["curve.png", "result.json"]


# --------------------------------------------------------------------------------------------------------- the process


@pytest.mark.parametrize("command", ["train", "finetune", "lr-find"])
def test_help_is_short_lines_and_names_every_option_once(command: str) -> None:
    said = run(command, "--help").stdout
    assert "--set" in said
    assert "--resume" in said or command == "lr-find"
    assert not re.search(r"TODO|None\b", said)


@pytest.mark.parametrize("arguments", [TRAIN, (*RATES, "--steps", "60")], ids=["train", "lr-find"])
@pytest.mark.usefixtures("told_apart")
def test_of_several_processes_the_others_say_nothing(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    result = run(*arguments, "-o", "run", "--json")
    assert (result.stdout, result.stderr) == ("", "")
    refused = run(*arguments, "-o", "run", "--set", "lr=0", code=2)
    assert (refused.stdout, refused.stderr) == ("", "")


@pytest.mark.slow
def test_nothing_but_ours_is_on_the_terminal() -> None:
    """What libraries print at import or of precision would show here."""
    done = program(
        "train", "resnet8", "--dataset", "digits", "--iterations", "1", "--precision", "bf16", "-q", "-o", "run"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
