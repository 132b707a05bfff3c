"""The folder of a run: who may write into it, and from what a run goes on."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.models.checkpoint import Metadata, read_checkpoint
from decompose_cli.training.config import read_config
from decompose_cli.training.run_folder import RunFolder, Takeover, changed, find_run, new_run, read_state, write_state

METADATA = Metadata(model="resnet8", num_classes=2)
CONFIG = {
    "command": "train",
    "model": "resnet8",
    "dataset": "digits",
    "recipe": "digits",
    "settings": {"lr": 0.1},
    "overrides": {},
    "runs": 1,
    "final_test": False,
    "export": [],
    "checkpoint_every": None,
    "processes": 1,
    "training_images": "0" * 64,
    **dict.fromkeys(("weights", "head", "mean", "std", "input_size", "resize", "crop", "interpolation", "data_dir")),
}


def saved(path: Path, step: int = 1, takeover: Takeover | None = None) -> None:
    write_state(path, METADATA, {"weight": torch.full((2,), float(step))}, {"global_step": step}, takeover)


@pytest.fixture
def begun() -> RunFolder:
    folder = RunFolder(Path("run"))
    folder.check_free(overwrite=False)
    saved(folder.last, 2, Takeover(folder, CONFIG))
    return folder


# --------------------------------------------------------------------------------------------------------------- lock


HOLDER = (
    "import sys; from filelock import FileLock; lock = FileLock('run/.lock'); lock.acquire(); "
    "print('locked', flush=True); "
)


@pytest.fixture
def busy() -> Iterator[Path]:
    """A folder in which another process is at work."""
    Path("run").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER + "sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "locked\n"
        yield Path("run")
        process.stdin.close()


def test_two_runs_cannot_be_in_one_folder(busy: Path) -> None:
    with pytest.raises(InputError, match="Another run is writing into run") as caught, RunFolder(busy).locked():
        raise AssertionError("both are in")
    assert caught.value.exit_code == 2
    assert caught.value.hint is not None
    assert busy.is_dir(), "the folder of the other one stays"


def test_the_lock_of_a_process_that_was_killed_is_gone_with_it() -> None:
    Path("run").mkdir()
    subprocess.run([sys.executable, "-c", HOLDER + "import os; os.kill(os.getpid(), 9)"], check=False)
    assert Path("run/.lock").exists()
    with RunFolder(Path("run")).locked():
        pass
    assert not Path("run").exists()


def test_an_empty_folder_does_not_stay_and_neither_does_what_was_half_written() -> None:
    folder = RunFolder(Path("a/b"))
    with folder.locked():
        assert folder.path.is_dir()
    assert not folder.path.exists()
    with pytest.raises(ValueError, match="oops"), folder.locked():
        raise ValueError("oops")
    assert not folder.path.exists()
    folder.path.mkdir(parents=True)
    (folder.path / ".decompose-abc.tmp").write_text("half")
    (folder.path / "mine.tmp").write_text("the user's")
    with folder.locked():
        assert [path.name for path in folder.path.glob("*.tmp")] == ["mine.tmp"]
    assert [path.name for path in folder.path.iterdir()] == ["mine.tmp"]


def test_folders_of_runs_that_were_killed_before_their_first_checkpoint_go_with_the_next() -> None:
    for name, age in (("killed", 100), ("just begun", 0), ("with a file", 100)):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, ".lock").touch()
        os.utime(Path("runs", name, ".lock"), (time.time() - age,) * 2)
    Path("runs/with a file/notes.txt").write_text("mine")
    with new_run([Path("runs/next")]) as folder, folder.locked():
        assert sorted(path.name for path in Path("runs").iterdir()) == ["just begun", "next", "with a file"]


def test_a_folder_of_a_run_that_is_at_work_is_left_alone(busy: Path) -> None:
    os.utime(busy / ".lock", (time.time() - 100,) * 2)
    with new_run([Path("next")]):
        assert (busy / ".lock").exists()


def test_a_folder_that_is_a_file_is_refused() -> None:
    Path("file").write_text("x")
    for path in (Path("file"), Path("file/run")):
        with pytest.raises(InputError, match="file is not a folder"), RunFolder(path).locked():
            pass


# -------------------------------------------------------------------------------------------------------------- begin


@pytest.mark.parametrize("name", ["config.json", "last.pt", "best.pt", "result.json", "log.csv"])
def test_a_run_that_is_there_is_not_replaced_unasked(name: str) -> None:
    Path("run").mkdir()
    (Path("run") / name).write_text("x")
    with pytest.raises(InputError, match="run holds a run already") as caught:
        RunFolder(Path("run")).check_free(overwrite=False)
    hint = caught.value.hint or ""
    assert all(word in hint for word in ("resume run", "output", "overwrite"))
    assert (Path("run") / name).read_text() == "x"


def test_overwriting_leaves_nothing_of_the_old_run_and_all_that_is_the_users(begun: RunFolder) -> None:
    old = [
        "last.pt",
        "result.json",
        "log.csv",
        "tensorboard/events.out.tfevents.1",
        "seed-0/result.json",
        "seed-0/last.pt",
    ]
    for name in (*old, "notes.txt"):
        (begun.path / name).parent.mkdir(exist_ok=True)
        (begun.path / name).write_text("old")
    saved(begun.best, 1, Takeover(begun, {**CONFIG, "new": 1}))
    assert read_config(begun.config)["new"] == 1
    assert read_state(begun.best)["global_step"] == 1
    assert (begun.path / "notes.txt").read_text() == "old"
    assert sorted(path.name for path in begun.path.iterdir()) == ["best.pt", "config.json", "notes.txt"]
    assert [name for name in old if (begun.path / name).exists()] == []


def test_overwriting_takes_nothing_that_looks_a_little_like_a_runs(begun: RunFolder) -> None:
    for name in ("model.py", "model.onnx.md", "seed-notes/result.json", "seed-1x/last.pt", "tensorboard/notes.txt"):
        (begun.path / name).parent.mkdir(exist_ok=True)
        (begun.path / name).write_text("mine")
    kept = {
        path: path.read_bytes() for path in begun.path.rglob("*") if path.is_file() and path.read_bytes() == b"mine"
    }
    (begun.path / "model.torchscript.pt").write_text("old")
    begun.check_free(overwrite=True)
    saved(begun.last, 1, Takeover(begun, CONFIG))
    assert len(kept) == 5
    assert {path: path.read_bytes() for path in kept} == kept
    assert not (begun.path / "model.torchscript.pt").exists()


@pytest.mark.parametrize("text", ['{"name": "an npm package"}', "not json", None])
def test_what_is_no_run_is_not_overwritten(text: str | None) -> None:
    Path("mine").mkdir()
    if text is not None:
        Path("mine/config.json").write_text(text)
    Path("mine/result.json").write_text("{}")
    with pytest.raises(InputError, match=r"result.json, but no run of decompose"):
        RunFolder(Path("mine")).check_free(overwrite=True)


@pytest.mark.parametrize("named", ["run/seed-1", "run/seed-1/last.pt"])
def test_of_one_seed_the_whole_run_is_found(begun: RunFolder, named: str) -> None:
    (begun.path / "seed-1").mkdir()
    saved(begun.path / "seed-1/last.pt")
    assert find_run(Path(named)).path == begun.path


def test_a_best_checkpoint_ahead_of_the_last_is_gone_on_from_the_last(begun: RunFolder) -> None:
    saved(begun.best, 3)
    assert find_run(begun.best).path == begun.path


def test_what_a_killed_process_left_in_the_folder_of_a_seed_is_removed(begun: RunFolder) -> None:
    (begun.path / "seed-1").mkdir()
    (begun.path / "seed-1/.decompose-x.tmp").write_text("half")
    with begun.locked():
        assert not list(begun.path.rglob(".decompose-*"))


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "is empty"),
        ("{", "not valid JSON"),
        ("[]", "is not the configuration of a run"),
        ('{"settings": {}}', "is not the configuration of a run"),
        ('{"command": "train"}', "is not the configuration of a run"),
        ('{"command": "train", "settings": 3}', "is not the configuration of a run"),
        ('{"command": 1, "settings": {}}', "is not the configuration of a run"),
        ('{"command": "train", "settings": {}, "settings": {}}', "stands twice"),
    ],
)
def test_a_damaged_configuration_is_refused(text: str, fragment: str) -> None:
    Path("run").mkdir()
    Path("run/config.json").write_text(text)
    with pytest.raises(InputError, match=fragment):
        read_config(RunFolder(Path("run")).config)


# ----------------------------------------------------------------------------------------------------------- find_run


def test_a_run_is_found_by_its_folder_or_its_newest_checkpoint(begun: RunFolder) -> None:
    saved(begun.best, 2)
    for path in (begun.path, begun.last, begun.best):
        assert find_run(path).path == begun.path


def test_a_best_checkpoint_that_is_behind_is_refused(begun: RunFolder) -> None:
    saved(begun.best, 1)
    with pytest.raises(InputError, match=r"has gone on since best.pt \(step 2, not 1\)") as caught:
        find_run(begun.best)
    assert "resume run" in (caught.value.hint or "")
    assert "weights run/best.pt" in (caught.value.hint or "")


def test_a_finished_run_is_refused(begun: RunFolder) -> None:
    begun.result.write_text("{}")
    with pytest.raises(InputError, match=r"is finished; result.json is its result") as caught:
        find_run(begun.path)
    assert "weights run/last.pt" in (caught.value.hint or "")


def test_what_is_no_run_is_refused() -> None:
    Path("empty").mkdir()
    torch.save({"a": torch.zeros(1)}, "resnet20-12fca82f.th")
    torch.save({"a": torch.zeros(1)}, "empty/last.pt")
    for path, fragment, hint in (
        ("none", "There is no run none", "folder of a run"),
        ("empty", "holds no run of decompose", "folder of a run"),
        ("resnet20-12fca82f.th", "is not a checkpoint of a run of decompose", "weights resnet20-12fca82f.th"),
        ("empty/last.pt", "is not a checkpoint of a run of decompose", "weights empty/last.pt"),
    ):
        with pytest.raises(InputError, match=fragment) as caught:
            find_run(Path(path))
        assert hint in (caught.value.hint or "")


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_describes_itself_and_can_be_gone_on_from() -> None:
    write_state(Path("last.pt"), METADATA, {"weight": torch.ones(2)}, {"global_step": 7, "lists": [1, {"a": None}]})
    state = read_state(Path("last.pt"))
    assert (state["global_step"], state["lists"]) == (7, [1, {"a": None}])
    assert torch.equal(state["state_dict"]["weight"], torch.ones(2))
    assert read_checkpoint(Path("last.pt")).metadata == METADATA


class Code:
    """Unpickling it would run code."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_damaged_and_foreign_checkpoints_are_refused_and_nothing_in_them_is_executed(begun: RunFolder) -> None:
    whole = begun.last.read_bytes()
    torch.save({"training": Code(), "state_dict": {}}, "code.pt")
    contents = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "prose": b"weights",
        "code": Path("code.pt").read_bytes(),
        "json": json.dumps(CONFIG).encode(),
    }
    for name, content in contents.items():
        begun.last.write_bytes(content)
        with pytest.raises(InputError, match=r"run/last.pt is damaged, or no checkpoint of a run"):
            read_state(begun.last)
        assert not Path("executed").exists(), name
    for value in ({"a": torch.zeros(1)}, torch.zeros(1), {"training": {}}, {"training": 3, "state_dict": {}}):
        torch.save(value, begun.last)
        with pytest.raises(InputError, match="is damaged, or no checkpoint of a run"):
            read_state(begun.last)
    torch.save({"training": {"format_version": 99}, "state_dict": {}}, begun.last)
    with pytest.raises(InputError, match=r"another version \(format 99\)"):
        read_state(begun.last)
    with pytest.raises(InputError, match="does not exist"):
        read_state(Path("none.pt"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a small file system")
@pytest.mark.slow
def test_a_real_disk_that_is_full_keeps_what_was_saved_before(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount")
    try:
        saved(small / "last.pt", 3)
        before = (small / "last.pt").read_bytes()
        for size in (26_500, 1 << 15, 1 << 17, 1 << 20):  # from hardly too much to far too much
            (small / "filler").write_bytes(b"x" * 150_000)
            content = {"weight": torch.rand(size)}
            with pytest.raises(DecomposeError, match="disk") as caught:
                write_state(small / "last.pt", METADATA, content, {"global_step": 4})
            assert caught.value.exit_code == 1
            assert (small / "last.pt").read_bytes() == before
            assert read_state(small / "last.pt")["global_step"] == 3
            assert sorted(path.name for path in small.iterdir()) == ["filler", "last.pt"]
            del caught  # its frames hold the file that could not be written
    finally:
        gc.collect()
        subprocess.run(["umount", small], check=True)


# ------------------------------------------------------------------------------------------------------------ changes


def test_changes_are_named_and_what_is_the_same_is_not() -> None:
    before = {"lr": 0.1, "milestones": [1, 2], "data_dir": "x", "weights": None, "flip": True}
    assert changed(before, {"lr": 0.1, "milestones": (1, 2), "data_dir": Path("x"), "flip": True}) == []
    assert changed(before, {"lr": 0.2, "batch_size": 3, "weights": "a.pt"}) == [
        "lr 0.1, now 0.2",
        "batch-size None, now 3",
        "weights None, now a.pt",
    ]
