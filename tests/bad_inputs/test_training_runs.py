"""Runs that are there, damaged or in use, and what goes wrong in the middle: nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from helpers.command_line import FAILED, REFUSED, invoke, refused, run
from helpers.runs import TRAIN
from PIL import Image


@pytest.mark.usefixtures("runs")
def test_a_run_that_is_there_is_not_replaced_unasked() -> None:
    for name in ("finished", "stopped"):
        said = refused([*TRAIN, "-o", name, "--epochs", "1"], REFUSED, f"{name} holds a run already")
        assert f"--resume {name}" in said
        assert "--overwrite" in said


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("more", [["--val-split", "0.001"], ["--set", "drop_last=true", "-b", "99"], ["--lr", "0"]])
def test_a_mistake_beside_overwrite_costs_nothing(more: list[str]) -> None:
    refused([*TRAIN, "-o", "finished", "--overwrite", *more], REFUSED)


@pytest.mark.usefixtures("runs")
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


@pytest.mark.usefixtures("runs")
def test_an_output_that_is_no_folder() -> None:
    refused([*TRAIN, "-o", "images/train/a/000.png"], REFUSED, "000.png is not a folder")
    refused([*TRAIN, "-o", "images/train/a/000.png/run"], REFUSED, "000.png is not a folder")


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


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(("arguments", "fragment", "hint"), RESUMES, ids=[" ".join(row[0]) for row in RESUMES])
def test_bad_resume(arguments: list[str], fragment: str, hint: str) -> None:
    torch.save({"weight": torch.zeros(2)}, "foreign.th")
    assert hint in refused(["train", "--resume", *arguments], REFUSED, fragment)


@pytest.mark.usefixtures("runs")
def test_resuming_with_another_command() -> None:
    said = refused(["finetune", "--resume", "stopped"], REFUSED, "is a run of 'train', not of 'finetune'")
    assert "decompose train --resume stopped" in said


def of_other_code(model: str, **changes: Any) -> None:
    """Let the stopped run name this network, of a module that leaves a trace when it is imported."""
    config = json.loads(Path("stopped/config.json").read_text())
    Path("stopped/config.json").write_text(json.dumps({**config, "model": model, **changes}))
    for name in ("theirs.py", "mine.py"):
        Path(name).write_text("open('imported', 'w')\ndef net(): raise ValueError('called')\n")


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("command", ["train", "finetune", "train-gate"])
@pytest.mark.parametrize("more", [[], ["-o", "other"], ["mine:net"], ["theirs:other"], ["resnet8"]])
@pytest.mark.parametrize("resumed", ["stopped", "stopped/last.pt"])
def test_a_run_does_not_decide_what_code_is_imported(command: str, more: list[str], resumed: str) -> None:
    of_other_code("theirs:net", command=command)
    sentence = "was begun otherwise: model theirs:net, now" if more and more[0] != "-o" else "trains theirs:net, which"
    if more[:1] == ["-o"]:
        sentence = "both name a run folder"
    said = refused([command, *more, "--resume", resumed], REFUSED, sentence)
    assert more or "name theirs:net as the model again, beside --resume" in said
    assert not Path("imported").exists()


@pytest.mark.usefixtures("runs")
def test_the_code_of_a_run_is_imported_where_it_is_named_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    of_other_code("theirs:net")
    result = invoke("train", "theirs:net", "--resume", "stopped")
    assert Path("imported").exists()
    assert "theirs:net() failed: ValueError: called" in result.stderr


@pytest.mark.usefixtures("runs")
def test_a_run_does_not_decide_what_is_to_be_typed() -> None:
    of_other_code("resnet8", command="train; rm -rf ~ #")
    assert "rm -rf" not in refused(["train", "--resume", "stopped"], REFUSED, "command: String should match pattern")


@pytest.mark.usefixtures("runs")
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
    (
        "images",
        lambda: Image.new("RGB", (8, 8)).save("images/train/a/000.png"),
        "training images, or the order of their classes, are not what they were",
    ),
    ("images gone", lambda: shutil.rmtree("images"), "images"),
]


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(("damage", "fragment"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_a_run_that_has_been_damaged(damage: Callable[[], object], fragment: str) -> None:
    damage()
    refused(["train", "--resume", "stopped"], REFUSED, fragment)


@pytest.mark.usefixtures("runs")
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
            result = invoke("train", "--resume", "stopped", "-q")
            if result.exit_code == 1 or "unforeseen" in result.stderr:
                said[f"{name} {change}"] = result.stderr.splitlines()[0]
            (Path("stopped/result.json")).unlink(missing_ok=True)
    assert said == {}


# --- in the middle ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("runs")
def test_a_rate_that_is_far_too_high() -> None:
    schedule = ["--schedule", "steps", "--milestones", "1", "--lr", "0.01", "--set", "gamma=1e30"]
    said = refused(
        [*TRAIN, "-o", "run", "-b", "6", "--epochs", "2", *schedule],
        FAILED,
        "NaN or infinite in epoch 2, step 2, at a learning rate of 1e+28; the last checkpoint is still there",
        keeps=False,
    )
    assert "--lr" in said
    run("validate", "-w", "run/last.pt", "-q", "-j", "0")


@pytest.mark.usefixtures("runs")
def test_an_image_that_is_broken_while_training_goes_on() -> None:
    """It is read when it is needed."""
    shutil.copytree("images", "broken")
    Path("broken/test/a/000.png").write_bytes(b"not an image")
    command = ["train", "resnet8", "--dataset", "folder:broken", "--input-size", "8", "-o", "run", "--epochs", "1"]
    refused([*command, "-j", "0", "--val-split", "0"], REFUSED, "000.png", keeps=False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a small file system")
def test_a_disk_that_fills_up_while_a_run_is_saved(runs: Path) -> None:
    small = runs / "small"
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
