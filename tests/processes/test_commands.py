"""Commands in several processes give the bytes that one gives, say everything once, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import errors_in, files_below
from helpers.forks import Ended, Forks, free_port, slurm_tasks
from helpers.processes import PROGRAM, environment, program

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
COMMANDS = {
    "validate": "validate -i k3.json",
    "extract-indices": "extract-indices -k 3",
    "sparsify": "sparsify -k 3,5",
    "sweep": "sweep --ks 1-3 --methods weight,mean",
    "essential": "essential --repeats 1 --controls 1",
    "mutual-info": "mutual-info -k 3",
    "compare": "compare a=k3.json b=k3.json --model resnet20-digits",
    "filters": "filters --class 3 --images 2",
    "atlas": "atlas -k 2 --images 2",
    "explain": "explain --indices-of 0,1",
    "selectivity": "selectivity --layers layer3.2",
}
QUICK = ("validate",)


@pytest.fixture(autouse=True)
def indices(tmp_path: Path) -> None:
    rows = [[number, number + 10, number + 20] for number in range(10)]
    Path("k3.json").write_text(json.dumps({str(number): row for number, row in enumerate(rows)}))


def results_of(document: str) -> str:
    """The results as they are written, with the same paths for both runs."""
    whole = json.loads(document)
    return json.dumps(whole["results"]).replace("several/", "alone/")


def quiet(ended: list[Ended]) -> None:
    """The others say nothing."""
    for other in ended[1:]:
        assert (other.code, other.stdout, other.stderr) == (0, "", "")


def shown(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)
def test_results_do_not_depend_on_the_number_of_processes(forks: Forks, few: str, name: str) -> None:
    """Of 360 images in two chunks, one of them short, and of 20 images in one, so that some processes have none."""
    arguments = [*COMMANDS[name].split(), "--json", "-q", "--no-cache"]
    for more, processes in (([], 2), (["--dataset", few], 3)):
        alone = forks.program(*arguments, *more, processes=1)
        expected = shown(alone[0])
        several = forks.program(*arguments, *more, processes=processes)
        quiet(several)
        assert json.dumps(shown(several[0])["results"]) == json.dumps(expected["results"])
        assert several[0].stderr == alone[0].stderr
    assert not list((Path(os.environ["DECOMPOSE_CACHE"]) / "features").glob("*"))


def test_what_several_processes_kept_one_finds_and_the_other_way_round(forks: Forks) -> None:
    first = shown(forks.program("validate", "--json", "-q", processes=3)[0])
    assert first["cache"]["features"] == "miss"
    (bank,) = (Path(os.environ["DECOMPOSE_CACHE"]) / "features").iterdir()
    assert len(list((bank / "done").iterdir())) == 2  # the third had nothing to do
    alone = shown(forks.program("validate", "--json", "-q", processes=1)[0])
    several = shown(forks.program("validate", "--json", "-q", processes=2)[0])
    assert [found["cache"]["features"] for found in (alone, several)] == ["hit", "hit"]
    assert json.dumps(first["results"]) == json.dumps(alone["results"]) == json.dumps(several["results"])
    assert len(list((bank / "done").iterdir())) == 2


def test_one_result_is_written_and_told_of(forks: Forks) -> None:
    alone = forks.program("validate", "-o", "one.json", processes=1)[0]
    several = forks.program("validate", "-o", "two.json", "--no-cache")
    quiet(several)
    assert several[0].code == alone.code == 0
    kept, not_kept = "computed, and kept for the next time", "computed, not kept"
    assert several[0].stderr == alone.stderr.replace("one.json", "two.json").replace(kept, not_kept)
    assert files_below() == ["k3.json", "one.json", "two.json"]
    assert results_of(Path("one.json").read_text()) == results_of(Path("two.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("validate -i missing.json", "The index file missing.json does not exist."),
        ("validate --dataset folder:nowhere", "The folder 'nowhere' of --dataset folder:nowhere does not exist."),
        ("validate --devices 3", "SLURM started 2 processes on each of 1 machines, which is not --devices 3"),
        ("validate --threads 0", "--threads 0 is not at least 1."),
    ],
)
def test_an_error_is_one_sentence_of_the_first(forks: Forks, arguments: str, sentence: str) -> None:
    first, second = forks.program(*arguments.split(), "-o", "x.json")
    assert first.code == 2
    (said,) = errors_in(first.stderr)
    assert said.startswith(sentence)
    assert (second.stdout, second.stderr) == ("", "")
    assert first.stdout == ""
    assert files_below() == ["k3.json"]


def test_a_damaged_image_is_named_once_and_all_others_are_kept(forks: Forks, few: str) -> None:
    copied = damaged_copy(few)
    for _ in range(2):
        first, second = forks.program("validate", "--dataset", f"folder:{copied}", "-o", "x.json")
        assert first.code == 2
        (said,) = errors_in(first.stderr)
        assert str(copied / "test" / "4") in said
        assert (second.code, second.stdout, second.stderr) == (0, "", "")
    assert files_below(".")[:1] == ["images/test/0/" + sorted(p.name for p in (copied / "test" / "0").iterdir())[0]]
    assert not Path("x.json").exists()
    skipping = ("validate", "--dataset", f"folder:{copied}", "--skip-unreadable", "1", "--json", "-q")
    several, alone = forks.program(*skipping), forks.program(*skipping, "--no-cache", processes=1)
    document = shown(several[0])
    assert document["dataset"]["images"] == 19
    assert len(document["dataset"]["unreadable"]) == 1
    assert json.dumps(document["results"]) == json.dumps(shown(alone[0])["results"])


def damaged_copy(few: str) -> Path:
    """The images of ``few``, one of which is cut."""
    import shutil

    copied = Path.cwd() / "images"
    shutil.copytree(few.removeprefix("folder:"), copied)
    image = min((copied / "test" / "4").iterdir())
    image.write_bytes(image.read_bytes()[:60])
    return copied


# -------------------------------------------------------------------------------------------------- each launcher


def launched(launcher: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The program in two processes; of SLURM's, what the first said, once both have ended well."""
    if launcher == "options":
        return program(*arguments, "--devices", "2", **options)
    command = [*TORCHRUN, "--master-port", str(free_port()), "-m", "decompose_cli", *arguments]
    if launcher == "torchrun":
        return subprocess.run(
            command, env=environment(), check=False, capture_output=True, text=True, timeout=100, **options
        )
    started = [
        subprocess.Popen([*PROGRAM, *arguments], env=each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for each in slurm_tasks(2)
    ]
    said = [each.communicate(timeout=100) for each in started]
    assert said[1] == ("", "")
    return subprocess.CompletedProcess([], started[0].returncode, *said[0])


@pytest.mark.slow
def test_processes_that_the_options_start(forks: Forks) -> None:
    alone = forks.program("validate", "--json", "-q", "--no-cache", processes=1)[0]
    done = launched("options", "validate", "--json", "-q", "--no-cache")
    assert (done.returncode, done.stderr) == (0, "")
    assert results_of(done.stdout) == results_of(alone.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["options", "torchrun", "SLURM"])
@pytest.mark.parametrize("name", ["validate", "sweep"])
def test_every_launcher_gives_the_same(launcher: str, name: str) -> None:
    arguments = COMMANDS[name].split()
    alone = program(*arguments, "-o", "alone", "--no-cache")
    done = launched(launcher, *arguments, "-o", "several", "--no-cache")
    assert (alone.returncode, done.returncode) == (0, 0), done.stderr
    one, other = (path if path.is_file() else path / "result.json" for path in (Path("alone"), Path("several")))
    assert results_of(one.read_text()) == results_of(other.read_text())
    found = [name.replace("several", "alone") for name in files_below() if name.startswith("several")]
    assert found == [name for name in files_below() if name.startswith("alone")]
    if launcher != "torchrun":  # which has something to say of its own
        said = [line for line in done.stderr.replace("several", "alone").splitlines() if "left" not in line]
        assert said == [line for line in alone.stderr.splitlines() if "left" not in line]  # of work that takes long


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["options", "torchrun", "SLURM"])
def test_every_launcher_ends_with_the_error(launcher: str) -> None:
    done = launched(launcher, "validate", "-i", "missing.json", "-o", "x.json")
    assert done.returncode == (1 if launcher == "torchrun" else 2)
    assert errors_in(done.stderr) == ["The index file missing.json does not exist."]
    assert files_below() == ["k3.json"]
    if launcher == "torchrun":
        assert "exitcode  : 2" in done.stderr
    else:
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_torchrun_within_slurm_wins() -> None:
    command = [*TORCHRUN, "--master-port", str(free_port()), "-m", "decompose_cli", "validate", "--json", "-q"]
    done = subprocess.run(command, env=slurm_tasks(4)[3], check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"]


@pytest.mark.slow
def test_one_task_of_slurm_starts_the_processes() -> None:
    one = environment(SLURM_NTASKS="1", SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NNODES="1")
    done = program("validate", "--json", "-q", "--devices", "2", env=one)
    assert (done.returncode, done.stderr) == (0, "")
    (bank,) = (Path(os.environ["DECOMPOSE_CACHE"]) / "features").iterdir()
    assert len(list((bank / "done").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all(number: signal.Signals) -> None:
    """To the whole group, as the terminal sends it."""
    started = subprocess.Popen(
        [*PROGRAM, "validate", "--split", "train", "--no-cache", "--devices", "2", "-o", "x.json"],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert started.stderr is not None
    began = time.monotonic()
    while not list(Path(os.environ["DECOMPOSE_CACHE"]).glob("features/*/*.bank/done/*")):
        assert time.monotonic() < began + 60
        time.sleep(0.01)
    os.killpg(started.pid, number)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 130, said
    assert errors_in(said) == ["Interrupted; no file was left half-written."]
    assert "Traceback" not in said
    assert files_below() == ["k3.json"]
    assert not list(Path(os.environ["DECOMPOSE_CACHE"]).glob("features/*"))
    while is_there(started.pid):
        assert time.monotonic() < began + 60
        time.sleep(0.05)


def is_there(group: int) -> bool:
    """Whether a process of this group still runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
