"""Bad input to the commands that train: one sentence that names it, the exit code, and nothing left behind or lost."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from PIL import Image
from typer.testing import CliRunner

from decompose_cli.cli.app import app
from decompose_cli.training import fit

FAILED, REFUSED = 1, 2
CLASSES = ["a", "b", "c"]
TRAIN = ["train", "resnet8", "--dataset", "folder:images", "--input-size", "8", "-j", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a finished run and one that was stopped after its first epoch, to be copied."""
    import os

    import numpy as np

    root = tmp_path_factory.mktemp("made")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            (root / "images" / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "images" / split / name / f"{number}.png")
    before = Path.cwd()
    os.chdir(root)
    try:
        common = [*TRAIN, "-q", "-b", "6", "--val-split", "0.2", "--lr", "0.05"]
        assert CliRunner().invoke(app, [*common, "-o", "finished", "--epochs", "2"]).exit_code == 0
        shutil.copytree("finished", "stopped")
        with pytest.MonkeyPatch.context() as patch:
            original = fit.Trainer._train_epoch

            def counted(self: Any, *values: Any) -> None:
                if self.state.epoch == 1:
                    raise KeyboardInterrupt
                original(self, *values)

            patch.setattr(fit.Trainer, "_train_epoch", counted)
            arguments = [*common, "-o", "stopped", "--epochs", "2", "--overwrite"]
            assert CliRunner().invoke(app, arguments).exit_code == 130
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def inputs(made: Path) -> Path:
    """Work where these are."""
    shutil.copytree(made, Path.cwd(), dirs_exist_ok=True)
    return Path.cwd()


def snapshot(root: Path) -> dict[str, str]:
    """Content of every file, and which folders there are."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(root.rglob("*"))
    }


def refused(arguments: list[str], code: int, *fragments: str, keeps: bool = True) -> str:
    """Run a command that must fail as documented and leave nothing behind; returns what it said."""
    before = snapshot(Path.cwd())
    result = CliRunner().invoke(app, arguments)
    said = result.stderr
    assert result.exit_code == code, said
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.stdout == ""
    assert "Traceback" not in said
    assert "unforeseen" not in said
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, said
    assert all(fragment in errors[0] for fragment in fragments), said
    assert said.splitlines().index(errors[0]) >= len(said.splitlines()) - 2, said
    assert not list(Path.cwd().rglob("*.tmp"))
    if keeps:
        assert snapshot(Path.cwd()) == before, "files were left behind or changed"
    return said


def of_usage(arguments: list[str], *fragments: str) -> None:
    """Refused while the command line is read."""
    before = snapshot(Path.cwd())
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == REFUSED, result.output
    said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.stderr).split())
    assert all(fragment in said for fragment in fragments), said
    assert snapshot(Path.cwd()) == before


# ------------------------------------------------------------------------------------------------------------- options

OPTIONS: list[tuple[list[str], str]] = [
    (["--lr", "0"], "lr 0"),
    (["--lr", "-1"], "lr -1"),
    (["--lr", "nan"], "lr nan"),
    (["--lr", "inf"], "lr inf"),
    (["--set", "lr=fast"], "lr"),
    (["--set", "gamma=0"], "gamma"),
    (["--augment", "none", "--cutout", "8"], "cutout needs augment"),
    (["--run-name", "other"], "--run-name names a folder in runs/"),
    (["--iterations", "5"], "milestones"),
    (["--set", "rise=2"], "rise"),
    (["--epochs", "0"], "--epochs 0"),
    (["--set", "epochs=1.5"], "epochs"),
    (["--epochs", "1", "--iterations", "1"], "epochs"),
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
    (["--norm-mode", "online", "--afwd", "1"], "--afwd 1.0 is not between 0 and 1"),
    (["--norm-mode", "online", "--decay-factor-backward", "0"], "--abkw 0.0 is not between 0 and 1"),
    (["--norm-mode", "online", "--abkw", "nan"], "--abkw nan is not between 0 and 1"),
    (["--norm-mode", "online", "--ecm", "both"], "--ecm 'both' is unknown; choose ac, ls, none"),
    (["--norm-mode", "group", "--gn-num-groups", "0"], "--gn-num-groups 0 is not at least 1"),
    (["--norm-mode", "group", "--gn-num-groups", "7"], "--gn-num-groups 7 does not divide the 16 channels"),
    (["--ecm", "ls"], "--ecm has no effect with batch norm; it is of --norm-mode online"),
    (["--norm-mode", "none", "--afwd", "0.9"], "--afwd has no effect with no normalisation"),
    (["--norm-mode", "layer", "--gn-num-groups", "4"], "--gn-num-groups has no effect with layer norm"),
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
    (["--lr-multiplier", "0"], "--gamma 0.0"),
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
    (["--evaluate", "-w", "finished/last.pt", "--ecm", "both"], "--ecm has no effect with batch norm"),
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
    (["--strategy", "fsdp"], "--strategy fsdp"),
    (["--strategy", "none"], "--strategy 'none'"),
    (["--mean", "1,2"], "--mean"),
    (["--input-size", "0"], "--input-size"),
    (["-w", "none.pt"], "none.pt does not exist"),
]


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize(("options", "fragment"), OPTIONS, ids=[" ".join(options) for options, _ in OPTIONS])
def test_bad_option(options: list[str], fragment: str) -> None:
    said = refused([*TRAIN, "-o", "run", *options], REFUSED, fragment)
    known = CliRunner().invoke(app, ["train", "--help"]).stdout
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said))
    assert {name for name in named if name not in known} == set(), "an option that is named can be given"


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize(
    ("options", "fragment"),
    [(["--lr", "fast"], "'--lr'"), (["--epochs", "1.5"], "'--epochs'"), (["--split", "test"], "--split")],
)
def test_bad_option_of_the_wrong_kind(options: list[str], fragment: str) -> None:
    of_usage([*TRAIN, "-o", "run", *options], fragment)


@pytest.mark.usefixtures("inputs")
def test_the_options_are_what_is_bad() -> None:
    """The command works without them."""
    assert CliRunner().invoke(app, [*TRAIN, "-o", "run", "--epochs", "1"]).exit_code == 0


# --------------------------------------------------------------------------------------------------- images, networks


@pytest.mark.usefixtures("inputs")
def test_images_that_cannot_be_trained_on(make_images: Callable[..., Path]) -> None:
    make_images(Path("only"), ["a", "b"], ("test",), n=2, side=8)
    make_images(Path("other"), ["a", "b"], ("train",), n=2, side=8)
    make_images(Path("other"), ["a", "z"], ("test",), n=2, side=8)
    shutil.copytree("images", "broken")
    Path("broken/train/a/0.png").write_bytes(b"not an image")
    shutil.copytree("images", "empty")
    shutil.rmtree("empty/train/b")
    Path("empty/train/b").mkdir()
    for dataset, fragment in (
        ("folder:none", "none"),
        ("folder:only", "no training images"),
        ("folder:other", "'z'"),
        ("folder:broken", "0.png"),
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


@pytest.mark.usefixtures("inputs")
def test_a_network_that_does_not_fit() -> None:
    for command, fragment in (
        (["train", "resnet9", "--dataset", "folder:images"], "resnet9"),
        (["train", "nomodule:net", "--dataset", "folder:images"], "nomodule"),
        (["train", "custom_resnet", "--shortcut", "projection", "--dataset", "folder:images"], "--shortcut"),
        (["train", "custom_resnet", "--dataset", "folder:images", "--input-size", "4"], "4x4 pixels"),
    ):
        refused([*command, "-o", "run", "-j", "0", "--epochs", "1"], REFUSED, fragment)


@pytest.mark.usefixtures("inputs")
def test_weights_for_other_classes(make_images: Callable[..., Path]) -> None:
    make_images(Path("two"), ["x", "y"], n=2, side=8)
    refused(["train", "-w", "finished/last.pt", "--dataset", "folder:two", "-o", "run", "-j", "0"], REFUSED)


# ---------------------------------------------------------------------------------------------------------- run folder


@pytest.mark.usefixtures("inputs")
def test_a_run_that_is_there_is_not_replaced_unasked() -> None:
    for name in ("finished", "stopped"):
        said = refused([*TRAIN, "-o", name, "--epochs", "1"], REFUSED, f"{name} holds a run already")
        assert f"--resume {name}" in said
        assert "--overwrite" in said


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("more", [["--val-split", "0.001"], ["--set", "drop_last=true", "-b", "99"], ["--lr", "0"]])
def test_a_mistake_beside_overwrite_costs_nothing(more: list[str]) -> None:
    refused([*TRAIN, "-o", "finished", "--overwrite", *more], REFUSED)


@pytest.mark.usefixtures("inputs")
def test_a_folder_that_is_in_use() -> None:
    code = "from filelock import FileLock; lock = FileLock('stopped/.lock'); lock.acquire(); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for arguments in ([*TRAIN, "-o", "stopped", "--overwrite"], ["train", "--resume", "stopped"]):
            refused(arguments, REFUSED, "Another run is writing into stopped")
        other.communicate(b"\n")
    with FileLock("stopped/.lock").acquire(timeout=0):
        pass


@pytest.mark.usefixtures("inputs")
def test_an_output_that_is_no_folder() -> None:
    refused([*TRAIN, "-o", "images/train/a/0.png"], REFUSED, "0.png is not a folder")
    refused([*TRAIN, "-o", "images/train/a/0.png/run"], REFUSED, "0.png is not a folder")


RESUMES: list[tuple[list[str], str, str]] = [
    (["none"], "There is no run none", "folder of a run"),
    (["images"], "images holds no run", "folder of a run"),
    (["foreign.th"], "foreign.th is not a checkpoint of a run", "--weights foreign.th"),
    (["finished"], "is finished", "--weights finished/last.pt"),
    (["stopped", "--overwrite"], "--overwrite would remove the run", ""),
    (["stopped", "--lr", "0.5"], "lr 0.05, now 0.5", "Leave these options out"),
    (["stopped", "--epochs", "3"], "epochs 2, now 3", "Leave these options out"),
    (["stopped", "--set", "gamma=0.5"], "gamma 0.1, now 0.5", "Leave these options out"),
    (["stopped", "-w", "finished/last.pt"], "weights None, now finished/last.pt", "Leave these options out"),
    (["stopped", "--runs", "2"], "runs 1, now 2", "Leave these options out"),
    (["stopped", "-o", "other"], "--output and --resume", ""),
    (["stopped", "--lr", "nan"], "lr", ""),
]


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize(("arguments", "fragment", "hint"), RESUMES, ids=[" ".join(row[0]) for row in RESUMES])
def test_bad_resume(arguments: list[str], fragment: str, hint: str) -> None:
    torch.save({"weight": torch.zeros(2)}, "foreign.th")
    assert hint in refused(["train", "--resume", *arguments], REFUSED, fragment)


@pytest.mark.usefixtures("inputs")
def test_resuming_with_another_command() -> None:
    said = refused(["finetune", "--resume", "stopped"], REFUSED, "is a run of 'train', not of 'finetune'")
    assert "decompose train --resume stopped" in said


@pytest.mark.usefixtures("inputs")
def test_resuming_from_a_best_checkpoint_that_is_behind() -> None:
    content = torch.load("stopped/best.pt", weights_only=True)
    content["training"]["global_step"] -= 1
    torch.save(content, "stopped/best.pt")
    refused(["train", "--resume", "stopped/best.pt"], REFUSED, "has gone on since best.pt")


def rewritten(name: str, change: Callable[[Any], Any]) -> None:
    content = torch.load(name, weights_only=True)
    torch.save(change(content), name)


DAMAGES: list[tuple[str, Callable[[], object], str]] = [
    ("empty", lambda: Path("stopped/last.pt").write_bytes(b""), "stopped/last.pt is damaged"),
    (
        "cut",
        lambda: Path("stopped/last.pt").write_bytes(Path("stopped/last.pt").read_bytes()[:9999]),
        "stopped/last.pt is damaged",
    ),
    ("foreign", lambda: torch.save({"a": torch.zeros(1)}, "stopped/last.pt"), "stopped/last.pt is damaged"),
    (
        "without state",
        lambda: rewritten("stopped/last.pt", lambda c: {**c, "training": {"format_version": 1}}),
        "stopped/last.pt",
    ),
    (
        "other network",
        lambda: rewritten("stopped/last.pt", lambda c: {**c, "state_dict": {"a": torch.zeros(1)}}),
        "stopped/last.pt",
    ),
    ("no config", lambda: Path("stopped/config.json").unlink(), "config.json is missing"),
    ("config empty", lambda: Path("stopped/config.json").write_text(""), "config.json is empty"),
    ("config cut", lambda: Path("stopped/config.json").write_text('{"command'), "config.json is not valid JSON"),
    ("config list", lambda: Path("stopped/config.json").write_text("[]"), "config.json is not the configuration"),
    (
        "config short",
        lambda: Path("stopped/config.json").write_text('{"command": "train", "settings": {"epochs": 1}}'),
        "config.json",
    ),
    (
        "config with other settings",
        lambda: Path("stopped/config.json").write_text(
            Path("stopped/config.json").read_text().replace('"lr": 0.05', '"lr": "x"')
        ),
        "lr x",
    ),
    ("images", lambda: Image.new("RGB", (8, 8)).save("images/train/a/0.png"), "training images are not what they were"),
    ("images gone", lambda: shutil.rmtree("images"), "images"),
]


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize(("damage", "fragment"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_a_run_that_has_been_damaged(damage: Callable[[], object], fragment: str) -> None:
    damage()
    refused(["train", "--resume", "stopped"], REFUSED, fragment)


@pytest.mark.usefixtures("inputs")
def test_every_field_of_a_configuration_is_needed_and_looked_at() -> None:
    text = Path("stopped/config.json").read_text()
    config = json.loads(text)
    said = {}
    for name in config:
        for change in ("gone", "wrong"):
            changed = {key: value for key, value in config.items() if key != name}
            if change == "wrong":
                changed[name] = {"odd": [1]}
            Path("stopped/config.json").write_text(json.dumps(changed))
            result = CliRunner().invoke(app, ["train", "--resume", "stopped", "-q"])
            if result.exit_code == 1 or "unforeseen" in result.stderr:
                said[f"{name} {change}"] = result.stderr.splitlines()[0]
            (Path("stopped/result.json")).unlink(missing_ok=True)
    assert said == {}


# -------------------------------------------------------------------------------------------------------- in the middle


@pytest.mark.usefixtures("inputs")
def test_a_rate_that_is_far_too_high() -> None:
    schedule = ["--schedule", "steps", "--milestones", "1", "--lr", "0.01", "--set", "gamma=1e30"]
    said = refused(
        [*TRAIN, "-o", "run", "-b", "6", "--epochs", "2", *schedule],
        FAILED,
        "NaN or infinite in epoch 2, step 2, at a learning rate of 1e+28; the last checkpoint is still there",
        keeps=False,
    )
    assert "--lr" in said
    assert CliRunner().invoke(app, ["validate", "-w", "run/last.pt", "-q", "-j", "0"]).exit_code == 0


@pytest.mark.usefixtures("inputs")
def test_an_image_that_is_broken_while_training_goes_on() -> None:
    """It is read when it is needed."""
    shutil.copytree("images", "broken")
    Path("broken/test/a/0.png").write_bytes(b"not an image")
    command = ["train", "resnet8", "--dataset", "folder:broken", "--input-size", "8", "-o", "run", "--epochs", "1"]
    refused([*command, "-j", "0", "--val-split", "0"], REFUSED, "0.png", keeps=False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a small file system")
def test_a_disk_that_fills_up_while_a_run_is_saved(inputs: Path) -> None:
    small = inputs / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount")
    try:
        program = [sys.executable, "-m", "decompose_cli"]  # its own process: an exception keeps files open
        start = [*program, *TRAIN, "-o", "small/run", "-b", "6", "--val-split", "0", "-q"]
        subprocess.run([*start, "--epochs", "1"], check=True)
        used = sum(path.stat().st_size for path in small.rglob("*") if path.is_file())
        for free in range(0, used + 200_000, 40_000):  # so that every kind of file is one for which there is no room
            shutil.rmtree(small / "run")
            (small / "filler").unlink(missing_ok=True)
            (small / "filler").write_bytes(b"x" * max(0, (3 << 20) - 8192 - free - used))
            done = subprocess.run([*start, "--epochs", "3"], capture_output=True, text=True, check=False)
            assert "unforeseen" not in done.stderr, (free, done.stderr)
            assert "Traceback" not in done.stderr, (free, done.stderr)
            if done.returncode == 0:
                continue
            assert done.returncode == FAILED, (free, done.stderr)
            assert "disk" in done.stderr
            assert not list(small.rglob("*.tmp"))
            (small / "filler").unlink()
            if (small / "run/config.json").is_file():
                subprocess.run([*program, "train", "--resume", "small/run", "-q"], check=True)
                log = (small / "run/log.csv").read_text().splitlines()
                assert [line.split(",")[0] for line in log[1:]] == ["1", "2", "3"], free
    finally:
        subprocess.run(["umount", small], check=True)
