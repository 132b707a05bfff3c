"""Options of the commands that train: one sentence that names what is wrong, and nothing is left behind."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command_line import COMMANDS, REFUSED, refused, run, usage_error
from helpers.runs import TRAIN

OPTIONS: list[tuple[list[str], str]] = [
    (["--lr", "0"], "lr 0"),
    (["--lr", "-1"], "lr -1"),
    (["--lr", "nan"], "lr nan"),
    (["--lr", "inf"], "lr inf"),
    (["--set", "lr=fast"], "lr"),
    (["--set", "gamma=0"], "--lr-multiplier 0"),
    (["--augment", "none", "--cutout", "8"], "cutout needs augment"),
    (["--run-name", "other"], "--run-name names a folder in runs/"),
    (["--iterations", "5"], "milestones"),
    (["--set", "rise=2"], "rise"),
    (["--epochs", "0"], "--epochs 0"),
    (["--set", "epochs=1.5"], "epochs"),
    (["--epochs", "1", "--iterations", "1"], "epochs"),
    (["--scale-epochs", "0"], "--scale-epochs 0"),
    (["--scale-epochs", "nan"], "--scale-epochs nan"),
    (["--set", "scale_epochs=half"], "--scale-epochs half"),
    (["--scale-epochs", "0.5", "--epochs", "1"], "--epochs gives a length"),
    (["--iterations", "0", "--schedule", "constant"], "--iterations 0"),
    (["-b", "0"], "--batch-size 0"),
    (["--accumulate", "0"], "--accumulate 0"),
    (["--precision", "64"], "--precision 64"),
    (["--precision", "16"], "--precision 16"),
    (["--milestones", "3,2"], "milestones"),
    (["--milestones", "a"], "milestones"),
    (["--optimizer", "lion"], "--optimizer lion"),
    (["--schedule", "slow"], "--schedule slow"),
    (["--augment", "flop"], "--augment flop"),
    (["--mix", "stir"], "--mix stir"),
    (["--cutout", "-1"], "--cutout -1"),
    (["--label-smoothing", "1"], "--label-smoothing 1"),
    (["--clip-norm", "0"], "--clip-norm 0"),
    (["--ema-decay", "1"], "--ema-decay 1"),
    (["--momentum", "1"], "--momentum 1"),
    (["--weight-decay", "-1"], "--weight-decay -1"),
    (["--seed", "-1"], "--seed -1"),
    (["--val-split", "1"], "--val-split 1"),
    (["--val-split", "0.001"], "--val-split 0.001"),
    (["--set", "speed=3"], "There is no setting 'speed'"),
    (["--milestones", "5", "--schedule", "cosine"], "--milestones has no effect"),
    (["--momentum", "0.5", "--optimizer", "adam"], "--momentum has no effect"),
    (["--set", "lr"], "--set 'lr'"),
    (["--set", "lr=1", "--lr", "1"], "given twice"),
    (["--set", "lr=1", "--set", "lr=2"], "twice"),
    (["--set", "drop_last=true", "-b", "99"], "--batch-size 99"),
    (["--recipe", "none"], "--recipe 'none'"),
    (["--shortcut", "none"], "--shortcut 'none'"),
    (["--norm-mode", "spectral"], "--norm-mode 'spectral' is unknown; choose batch, group, layer, instance, online"),
    (["--norm-mode", "online", "--afwd", "1"], "--afwd 1 is not between 0 and 1"),
    (["--norm-mode", "online", "--decay-factor-backward", "0"], "--abkw 0 is not between 0 and 1"),
    (["--norm-mode", "online", "--abkw", "nan"], "--abkw nan is not between 0 and 1"),
    (["--norm-mode", "online", "--ecm", "both"], "--ecm 'both' is unknown; choose ac, ls, none"),
    (["--norm-mode", "group", "--gn-num-groups", "0"], "--gn-num-groups 0 is not at least 1"),
    (["--norm-mode", "group", "--gn-num-groups", "7"], "--gn-num-groups 7 does not divide the 16 channels"),
    (
        ["--norm-mode", "online", "-w", "finished/last.pt"],
        "The weights were trained with --norm-mode batch, not online",
    ),
    (
        ["--shortcut", "projection", "-w", "finished/last.pt"],
        "The weights were trained with --shortcut identity, not projection",
    ),
    (["--start-epoch", "1"], "--start-epoch says how long --weights have been trained"),
    (["--start-epoch", "2", "--epochs", "2", "-w", "finished/last.pt"], "start-epoch must be less than epochs"),
    (["--start-epoch", "-1", "-w", "finished/last.pt"], "--start-epoch -1"),
    (["--lr-multiplier", "0"], "--lr-multiplier 0:"),
    (["--lr-milestones", "2", "1", "--schedule", "steps"], "milestones must rise"),
    (["-p", "0"], "--print-freq 0 is not at least 1"),
    (["--pretrained", "-w", "finished/last.pt"], "--pretrained means --weights default; give one of them"),
    (["--evaluate"], "--evaluate needs a network that has been trained"),
    (
        ["--evaluate", "-w", "finished/last.pt", "--norm-mode", "online"],
        "The weights were trained with --norm-mode batch",
    ),
    (["--evaluate", "-w", "none.pt"], "none.pt does not exist"),
    (
        ["--evaluate", "-w", "finished/last.pt", "--shortcut", "projection"],
        "The weights were trained with --shortcut identity",
    ),
    (["--evaluate", "-w", "finished/last.pt", "--ecm", "both"], "--ecm 'both' is unknown; choose ac, ls, none"),
    (["--evaluate", "-w", "finished/last.pt", "--epochs", "3"], "--evaluate trains nothing: leave out --epochs"),
    (["--evaluate", "-w", "finished/last.pt", "--recipe", "x"], "--evaluate trains nothing: leave out --recipe"),
    (["--evaluate", "-w", "finished/last.pt", "--runs", "2"], "--evaluate trains nothing: leave out --runs"),
    (["--evaluate", "-w", "finished/last.pt", "--resume", "finished"], "both say which weights"),
    (["--evaluate", "--resume", "images"], "There is no checkpoint images/last.pt"),
    (["--lr-multiplier", "0.5", "--schedule", "cosine"], "--lr-multiplier has no effect with schedule cosine"),
    (
        [*("-w", "finished/last.pt", "--iterations", "5", "--start-epoch", "6"), "--schedule", "constant"],
        "--start-epoch 6 is step 6, and there are 5 in all",
    ),
    (["--runs", "0"], "--runs 0"),
    (["--checkpoint-every", "0"], "--checkpoint-every 0"),
    (["--export", "pdf"], "--export 'pdf'"),
    (["--devices", "0"], "--devices 0"),
    (["--num-nodes", "2"], "--num-nodes 2"),
    (["--mean", "1,2"], "--mean"),
    (["--input-size", "0"], "--input-size"),
    (["-w", "none.pt"], "none.pt does not exist"),
]


KNOWN = {option for parameter in COMMANDS["train"].params for option in parameter.opts}


@pytest.mark.parametrize(("options", "fragment"), OPTIONS, ids=[" ".join(options) for options, _ in OPTIONS])
def test_bad_option(made: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], fragment: str) -> None:
    monkeypatch.chdir(made)  # where nothing may change
    said = refused([*TRAIN, "-o", "run", *options], REFUSED, fragment)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said)) <= KNOWN, "an option that is named can be given"


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--lr", "fast"], "--lr 'fast' is not a number."),
        (["--epochs", "1.5"], "--epochs '1.5' is not a whole number."),
        (["--features-only"], "--features-only"),
        (["--strategy", "ddp"], "train has no option --strategy."),
    ],
)
def test_bad_option_of_the_wrong_kind(options: list[str], fragment: str) -> None:
    usage_error([*TRAIN, "-o", "run", *options], fragment)


@pytest.mark.usefixtures("runs")
def test_the_options_are_what_is_bad() -> None:
    """The command works without them."""
    run(*TRAIN, "-o", "run", "--epochs", "1")


@pytest.mark.usefixtures("runs")
def test_images_that_cannot_be_trained_on(make_images: Callable[..., Path]) -> None:
    make_images(Path("only"), ["a", "b"], ("test",), n=2, side=8)
    make_images(Path("other"), ["a", "b"], ("train",), n=2, side=8)
    make_images(Path("other"), ["a", "z"], ("test",), n=2, side=8)
    shutil.copytree("images", "broken")
    Path("broken/train/a/000.png").write_bytes(b"not an image")
    shutil.copytree("images", "empty")
    shutil.rmtree("empty/train/b")
    Path("empty/train/b").mkdir()
    for dataset, fragment in (
        ("folder:none", "none"),
        ("folder:only", "no training images"),
        ("folder:other", "'z'"),
        ("folder:broken", "000.png"),
        ("unknown", "unknown"),
    ):
        command = [
            "train",
            "resnet8",
            "--dataset",
            dataset,
            "--input-size",
            "8",
            "-o",
            "run",
            "--epochs",
            "1",
            "-j",
            "0",
        ]
        refused(command, REFUSED, fragment)
    assert not Path("run").exists()


@pytest.mark.usefixtures("runs")
def test_a_network_that_does_not_fit() -> None:
    for command, fragment in (
        (["train", "resnet9", "--dataset", "folder:images"], "resnet9"),
        (["train", "nomodule:net", "--dataset", "folder:images"], "nomodule"),
        (["train", "custom_resnet", "--shortcut", "projection", "--dataset", "folder:images"], "--shortcut"),
        (["train", "custom_resnet", "--dataset", "folder:images", "--input-size", "4"], "4x4 pixels"),
    ):
        refused([*command, "-o", "run", "-j", "0", "--epochs", "1"], REFUSED, fragment)


@pytest.mark.usefixtures("runs")
def test_weights_for_other_classes(make_images: Callable[..., Path]) -> None:
    make_images(Path("two"), ["x", "y"], n=2, side=8)
    refused(["train", "-w", "finished/last.pt", "--dataset", "folder:two", "-o", "run", "-j", "0"], REFUSED)
