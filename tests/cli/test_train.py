"""``train`` as it is typed: exit codes, what is said, what is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from helpers.command_line import content, names_in, refused, row_of, run
from helpers.power_cut import PowerCut
from helpers.processes import program
from helpers.runs import RATES, SHORT_TRAIN

from decompose_cli.cli.app import joined_integers
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.training.recipes import RECIPES
from decompose_cli.training.table import COLUMNS


@pytest.fixture
def stopped(images: Path, power_cut: PowerCut) -> str:
    """A run without power after its first epoch."""
    with power_cut("last.pt"):
        run(*SHORT_TRAIN, "-o", "run", "-q")
    return "run"


@pytest.mark.usefixtures("images")
def test_train_shows_recipe_epochs_and_result() -> None:
    result = run(*SHORT_TRAIN, "-o", "run", "--val-split", "0.25")
    assert result.stdout == ""
    said = result.stderr
    assert "Recipe cifar-resnet (akamaster/pytorch_resnet_cifar10): sgd, lr 0.05, momentum 0.9" in said
    assert (
        "resnet8 on folder:images: 24 training images, a share of 0.25 held out for validation; 15 test images" in said
    )
    assert row_of(said, "Epoch") == list(COLUMNS)
    document = content("run/result.json")
    assert document["environment"]["cudnn_benchmark"] is False, "there is no cuDNN on a CPU"
    results = document["results"]
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
    said = run(*SHORT_TRAIN, "-o", "run", "--val-split", "0").stderr
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
def test_other_classes_get_a_hint_that_names_only_what_train_has() -> None:
    run(*SHORT_TRAIN, "-o", "run", "-q")
    for folder in Path("images").glob("*/a"):
        folder.rename(folder.with_name("another a"))
    said = run("train", "-w", "run/last.pt", "-o", "more", "-q", "-j", "0", "--epochs", "1", code=2).stderr
    assert (
        "Name the classes as the network's are. For other classes than the network's, replace its head: --new-head."
        in (" ".join(said.split()))
    )
    assert "--class-map" not in said


@pytest.mark.usefixtures("images")
def test_training_goes_on_with_the_images_that_the_weights_have_learned_from() -> None:
    run(*SHORT_TRAIN, "-o", "run", "-q")
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
    result = run(*SHORT_TRAIN, "-o", "run", "--json")
    assert json.loads(result.stdout) == content("run/result.json")
    assert "Result" in result.stderr


@pytest.mark.usefixtures("images")
def test_quiet_says_nothing() -> None:
    result = run(*SHORT_TRAIN, "-o", "run", "-q")
    assert (result.stdout, result.stderr) == ("", "")
    assert "result.json" in names_in("run")


@pytest.mark.usefixtures("images")
def test_the_default_folder_has_a_name_of_its_own() -> None:
    run(*SHORT_TRAIN, "-q")
    run(*SHORT_TRAIN, "-q")
    run(*SHORT_TRAIN, "-q", "--run-name", "mine")
    run(*SHORT_TRAIN, "-q", "--run-name", "mine")
    names = names_in("runs")
    assert {"mine", "mine-2"} <= set(names)
    others = [name for name in names if not name.startswith("mine")]
    assert len(others) == 2
    assert all(re.fullmatch(r"train-resnet8-images-\d{8}T\d{6}Z(-2)?", name) for name in others)


def test_without_arguments_the_digits_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decompose_cli.training.configure.DEFAULT_NETWORK", "resnet8")
    said = run("train", "--iterations", "2", "-o", "run").stderr
    assert said.startswith("No model was named: training resnet8 on digits.\nRecipe digits (this project")
    assert "1,000 training images" in said or "training images" in said


@pytest.mark.usefixtures("images")
def test_options_and_set_reach_the_settings() -> None:
    run(
        *SHORT_TRAIN,
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


def test_pretrained_are_the_default_weights(few: str) -> None:
    (correct,) = re.findall(r"\d+ of 20", run("validate", "--dataset", few, "-j", "0").stderr)
    assert correct in ("19 of 20", "20 of 20")
    for model in ((), ("resnet20-digits",)):
        assert correct in run("train", *model, "--pretrained", "--evaluate", "--dataset", few, "-j", "0").stderr


@pytest.mark.usefixtures("images")
def test_lines_between_epochs_are_printed_if_asked_for() -> None:
    said = run(*SHORT_TRAIN, "-o", "run", "-p", "2").stderr  # 24 images in batches of 8, a tenth of them held out
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
    said = run(*SHORT_TRAIN, "-o", "run", "--runs", "2", "--val-split", "0.25", "--final-test").stderr
    results = content("run/result.json")["results"]
    for found in results["summary"]:
        assert f"{found['what']}: median {found['median']:.2f}, min {found['min']:.2f}" in said
    assert "(2 runs)" in said
    assert "Run 2 of 2, seed 1: run/seed-1" in said
    assert names_in("run") == ["config.json", "result.json", "seed-0", "seed-1"]


def test_resume_needs_the_folder_and_nothing_else(stopped: str) -> None:
    run(*SHORT_TRAIN, "-o", "whole", "-q")
    config = Path(stopped, "config.json")
    config.write_text(json.dumps({**content(config), "strategy": "ddp"}))  # a field of another version does no harm
    said = run("train", "--resume", stopped).stderr
    assert "Going on after 3 of 6 steps." in said
    assert Path("run/log.csv").read_text().count("\n") == 3
    first, second = (content(f"{name}/result.json")["results"] for name in ("whole", "run"))
    assert [record["train"]["loss"] for record in first["epochs"]] == [
        record["train"]["loss"] for record in second["epochs"]
    ]


def test_a_run_that_goes_on_remembers_what_variables_say_otherwise(
    stopped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECOMPOSE_SEED", "7")
    monkeypatch.setenv("DECOMPOSE_DATASET", "digits")
    monkeypatch.setenv("DECOMPOSE_WORKERS", "0")
    refused(["train", "--resume", stopped, "--seed", "7"], 2, "was begun otherwise", keeps=False)
    run("train", "--resume", stopped, "-q")
    document = content("run/result.json")
    assert document["arguments"]["settings"]["seed"] == 0
    assert document["environment"]["variables"] == {"DECOMPOSE_WORKERS": "0"}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(("has_instructions", "chosen"), [(True, "bf16"), (False, "32")])
def test_a_run_keeps_to_the_number_format_that_auto_chose(
    monkeypatch: pytest.MonkeyPatch, power_cut: PowerCut, has_instructions: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_instructions})
    with power_cut("last.pt"):
        run(*SHORT_TRAIN, "-o", "run", "-q", "--precision", "auto")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not has_instructions})
    said = run("train", "--resume", "run", "--precision", "auto").stderr
    assert f"precision {chosen}, " in said
    assert ("no instructions for bfloat16" in said) == (chosen == "bf16"), (
        "it goes on as it began, and says what it costs"
    )
    arguments = content("run/result.json")["arguments"]
    assert arguments["settings"]["precision"] == arguments["overrides"]["precision"] == chosen
    assert f"precision={chosen}" in (read_checkpoint(Path("run/last.pt")).metadata.command or "")


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
        run(*SHORT_TRAIN, "-o", "run", "-q", "--checkpoint-every", "1")
    assert torch.load("run/last.pt", weights_only=True)["training"]["global_step"] == 2
    run(*SHORT_TRAIN, "-o", "run", "-q", "--overwrite", "--seed", "3")
    assert content("run/result.json")["results"]["seed"] == 3


# --------------------------------------------------------------------------------------------------------- the process


def test_help_names_every_recipe() -> None:
    told = " ".join(run("train", "--help").stdout.replace("│", " ").split())
    (named,) = re.findall(r"Preset of the settings: (.*?)\. Default", told)
    assert set(re.split(", | or ", named)) == set(RECIPES)


@pytest.mark.parametrize("command", ["train", "finetune", "lr-find"])
def test_help_is_short_lines_and_names_every_option_once(command: str) -> None:
    said = run(command, "--help").stdout
    assert "--set" in said
    assert "--resume" in said or command == "lr-find"
    assert not re.search(r"TODO|None\b", said)


@pytest.mark.parametrize("arguments", [SHORT_TRAIN, (*RATES, "--steps", "60")], ids=["train", "lr-find"])
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
