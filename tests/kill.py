"""Break commands off, and see that every folder holds the old files or the new ones, never a mixture and never neither.

    python tests/kill.py [--kills 100] [--signals 100] [--disks 60] [--seed 0]        what 'make kill' runs

Every command that writes is killed (SIGKILL), interrupted (SIGINT, SIGTERM), and given a disk that fills up, over and
over, with and without files of an earlier result in its place. Half of the signals come at a random moment, the other
half right before a random one of the calls that change files, which take little of the time. Then another command reads
the folder, and what is in it is compared; then the command runs once more, to its end, and nothing temporary may be
left. Commands run in copies (forks) of this process, which has imported everything.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

FEW = ("--dataset", "folder:images", "--input-size", "8", "-j", "0", "-b", "8", "--lr", "0.01")
VARYING = {"started_at", "seconds", "environment", "images_per_second", "full_images_per_second", "sha256", "cache"}
"""What differs from run to run: checkpoints hold times as well."""
WRITING = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "open"}
TEMPORARY = re.compile(r"\.decompose-.*|\.lock")
Files = dict[str, bytes]


@dataclass(frozen=True)
class Job:
    """A command in two forms, whose results differ in every file that they have in common.

    ``target`` is the file of ``-o``; without it that is the folder.
    """

    name: str
    first: str
    second: str
    target: str | None = None

    def arguments(self, form: str, folder: Path, *, overwrite: bool) -> list[str]:
        place = folder / self.target if self.target else folder
        return [*form.split(), "-o", str(place), "-q", *(["--overwrite"] if overwrite else [])]

    @property
    def trains(self) -> bool:
        return self.name in ("train", "train-gate", "finetune")


def jobs() -> list[Job]:
    few = " ".join(FEW)
    gate = "train-gate -e -w gate/last.pt --dataset folder:images -j 0"
    return [
        Job("validate", "validate", "validate -i k3.json", "v.json"),
        Job("extract-indices", "extract-indices -k 3", "extract-indices -k 4", "i.json"),
        Job("extract-indices, folder", "extract-indices -k 3,4", "extract-indices -k 4,5 --layout document"),
        Job(
            "mutual-info",
            "mutual-info -i k3.json --num-features 64",
            "mutual-info -i a=k3.json --num-features 64",
            "m.json",
        ),
        Job(
            "essential",
            "essential --repeats 1 --controls 1",
            "essential --repeats 2 --controls 1",
            "e.json",
        ),
        Job("selectivity", "selectivity --layers layer3.2 {small}", "selectivity --layers layer3.1 {small}", "s.json"),
        Job("sweep", "sweep --ks 1-2 --methods weight --max-drop 50", "sweep --ks 1-3 --methods weight"),
        Job("filters", "filters --class 3 --images 2", "filters --class 4 --images 2"),
        Job("atlas", "atlas -k 2 --images 2", "atlas -k 3 --images 2"),
        Job("explain", "explain --indices-of 0,1", "explain --indices-of 2 -i k3.json"),
        Job("lr-find", f"lr-find resnet8 {RATES} --steps 60", f"lr-find resnet8 {RATES} --steps 70"),
        Job("report", "report first.json", "report second.json", "r.html"),
        Job("train-gate -e", gate, f"{gate} --split train"),
        Job("demo", "demo {small}", "demo"),
        Job("train", f"train resnet8 {few} --epochs 2 --seed 1", f"train resnet8 {few} --epochs 3 --seed 2"),
        Job(
            "train-gate",
            f"train-gate resnet14 {few} --epochs 1 --seed 1 --label-noise 0.2",
            f"train-gate resnet14 {few} --epochs 2 --seed 2",
        ),
        Job(
            "finetune",
            f"finetune -w run/last.pt {few} --epochs 1 -k 3 --seed 1",
            f"finetune -w run/last.pt {few} --epochs 2 -k 2 --seed 2",
        ),
    ]


RATES = "--dataset folder:images --input-size 8 -j 0 --set batch_size=8"


# --- one command ------------------------------------------------------------------------------------------------------


def counted(folder: Path, act: Callable[[int], None]) -> None:
    """Call ``act`` with 1, 2, ... before each call that changes something in a folder."""
    place, number = str(folder), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal number
        if event not in WRITING or not arguments:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if isinstance(arguments[0], str | bytes | os.PathLike) and place in os.fsdecode(arguments[0]):
            number += 1
            act(number)

    sys.addaudithook(hook)


def forked(arguments: Sequence[str], said: Path, before: Callable[[], None] | None = None) -> int:
    """Start a command in a copy of this process; returns its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if before is not None:
            before()
        from decompose_cli.cli.app import main

        sys.argv = ["decompose", *arguments]
        main()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0 if done.code is None else 1
    except KeyboardInterrupt:  # before the program has begun
        code = 130
    finally:
        os._exit(code)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class Bench:
    """The working directory of all commands, and what was found."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, random.Random(seed)
        self.said = root / "said.txt"
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []

    def whole(self, arguments: Sequence[str]) -> None:
        code = ended(forked(arguments, self.said))
        assert code == 0, f"{' '.join(arguments)}: {code}\n{self.said.read_text(errors='replace')[-2000:]}"

    def prepared(self) -> None:
        import numpy as np
        from PIL import Image

        numbers = np.random.default_rng(0)
        for split, count in (("train", 8), ("test", 4)):
            for colour, name in enumerate("abc"):
                folder = Path("images", split, name)
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = numbers.integers(0, 128, (8, 8, 3), dtype=np.uint8)
                    pixels[..., colour] += 127  # by which they can be told apart
                    Image.fromarray(pixels).save(folder / f"{number}.png")
        from decompose_cli.datasets.digits import open_digits

        for split in ("train", "test"):
            pixels, labels = open_digits(split).pixels_and_labels
            for digit in range(10):
                folder = Path("small", split, str(digit))
                folder.mkdir(parents=True)
                for number in (labels == digit).nonzero().flatten()[:3].tolist():
                    Image.fromarray(pixels[number].permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
        self.whole(["extract-indices", "-k", "3", "-o", "k3.json"])
        self.whole(["validate", "-o", "first.json"])
        self.whole(["validate", "-i", "k3.json", "-o", "second.json"])
        self.whole(["train", "resnet8", *FEW, "--epochs", "1", "-o", "run"])
        self.whole(["train-gate", "resnet14", *FEW, "--epochs", "1", "-o", "gate"])


def files_of(folder: Path) -> Files:
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not TEMPORARY.fullmatch(path.name)}


def leftovers(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if TEMPORARY.fullmatch(path.name)]


# --- what is compared -------------------------------------------------------------------------------------------------


def plain(name: str, content: bytes) -> Any:
    """The content without what differs from run to run: times, paths of the working directory, versions."""
    if name.endswith(".json"):
        return without_times(json.loads(content))
    if name.endswith(".csv") and b"seconds" in content:
        return len(content.splitlines())
    if name.endswith((".pt", ".html")) or "tfevents" in name:
        return name.rpartition("/")[0]
    return content


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items() if name not in VARYING}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def known(name: str) -> str:
    """The name of a file, without the time and the process in those of TensorBoard."""
    return "tensorboard/events" if "tfevents" in name else name


def is_new(found: Files, old: Files, new: Files) -> bool:
    """Whether these are all files of the new result, and none of the old."""
    mine = {name: content for name, content in found.items() if name != "notes.txt"}
    if {known(name) for name in mine} != {known(name) for name in new}:
        return False
    expected = {known(name): plain(name, content) for name, content in new.items()}
    for name, content in mine.items():
        if content == old.get(name) and content != new.get(name):
            return False
        if plain(name, content) != expected[known(name)]:
            return False
    return True


def is_begun(found: Files, old: Files, seed: int) -> bool:
    """Whether this is a run that has its first checkpoint and not its result, with nothing of another run."""
    if any(found.get(name) == content for name, content in old.items() if name != "notes.txt"):
        return False
    names = set(found)
    if not {"config.json"} <= names or not {"last.pt", "best.pt"} & names or "result.json" in names:
        return False
    return json.loads(found["config.json"])["settings"]["seed"] == seed and "curve.png" not in names


# --- the trials -------------------------------------------------------------------------------------------------------


class Trials:
    """One command, with or without an earlier result in its place."""

    def __init__(self, bench: Bench, job: Job, *, overwrite: bool) -> None:
        self.bench, self.job, self.overwrite = bench, job, overwrite
        self.folder = bench.root / "place" / "out"
        self.form = job.second.replace("{small}", "--dataset folder:small")
        first = job.first.replace("{small}", "--dataset folder:small")
        self.old: Files = {"notes.txt": b"mine"}
        self.arguments = job.arguments(self.form, self.folder, overwrite=overwrite)
        self._emptied()
        if overwrite:
            bench.whole(job.arguments(first, self.folder, overwrite=False))
            self.old |= files_of(self.folder)
        self.filled()
        count = os.open(bench.root / "count", os.O_RDWR | os.O_CREAT | os.O_TRUNC)

        def note(number: int) -> None:
            os.pwrite(count, str(number).encode(), 0)

        begun = time.monotonic()
        code = ended(forked(self.arguments, bench.said, lambda: counted(self.folder, note)))
        self.seconds = time.monotonic() - begun
        assert code == 0, bench.said.read_text(errors="replace")[-2000:]
        self.calls = int(os.pread(count, 20, 0))
        os.close(count)
        self.new = {name: content for name, content in files_of(self.folder).items() if name != "notes.txt"}

    def _emptied(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def filled(self) -> None:
        """The place as it is before the command."""
        self._emptied()
        for name, content in self.old.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if self.job.name == "demo" and not self.overwrite:
            (self.folder / "notes.txt").unlink()  # it takes an empty folder

    @property
    def name(self) -> str:
        return f"{self.job.name}{', overwriting' if self.overwrite else ''}"

    def tried(self, what: str, *, has_disk: bool) -> None:
        if what == "SIGKILL":
            self.killed(signal.SIGKILL)
        elif what != "full disk":
            self.killed(self.bench.random.choice([signal.SIGINT, signal.SIGTERM]))
        elif has_disk:
            self.on_small_disk()

    def killed(self, number: signal.Signals) -> None:
        self.filled()
        at = self.bench.random.randint(1, self.calls)
        if self.bench.random.random() < 0.5:
            moment = f"before call {at} of {self.calls}"

            def act(call: int) -> None:
                if call == at:
                    os.kill(os.getpid(), number)

            process = forked(self.arguments, self.bench.said, lambda: counted(self.folder, act))
        else:
            wait = self.bench.random.uniform(0, self.seconds)
            moment = f"after {wait:.2f} of {self.seconds:.2f} s"
            process = forked(self.arguments, self.bench.said)
            time.sleep(wait)
            os.kill(process, number)
        code = ended(process)
        self.judged(f"{number.name} {moment}", code, (0, 130, -number))

    def judged(self, what: str, code: int, codes: tuple[int, ...]) -> None:
        """See what is there once another command has read the folder; then let the command come to its end."""
        bench, job = self.bench, self.job
        where = f"{self.name}: {what}: exit code {code}"
        said = bench.said.read_text(errors="replace")
        # Python drops an interrupt that comes while an object is forgotten, and says so with a traceback.
        has_failed = "unforeseen" in said or ("Traceback" in said and "Exception ignored" not in said)
        if code not in codes or has_failed:
            bench.failures.append(f"{where}: {said[-500:]}")
        ended(forked(["report", str(self.folder), "--json", "-q"], bench.said))
        found, before = files_of(self.folder), dict(self.old)
        if job.name == "demo" and not self.overwrite:
            before.pop("notes.txt")
        elif found.get("notes.txt") != b"mine":
            bench.failures.append(f"{where}: a file of the user's has gone")
        if found == before:
            bench.outcomes["old"] += 1
        elif is_new(found, self.old, self.new):
            bench.outcomes["new"] += 1
        elif job.trains and is_begun(found, self.old, seed=2):
            bench.outcomes["new, to be resumed"] += 1
        else:
            bench.failures.append(f"{where}: {sorted(found)} are neither {sorted(before)} nor {sorted(self.new)}")
        if code == 0 and found == before:
            bench.failures.append(f"{where}: the command said that it was done, and nothing has changed")
        self.finished(where)

    def finished(self, where: str) -> None:
        """The same command once more, to its end; where a run has begun, it goes on."""
        bench, job = self.bench, self.job
        found = files_of(self.folder)
        if job.trains and "config.json" in found and is_begun(found, self.old, seed=2):
            arguments = [job.name, "--resume", str(self.folder), "-j", "0", "-q"]
        else:
            arguments = job.arguments(self.form, self.folder, overwrite=True)
        code = ended(forked(arguments, bench.said))
        found = files_of(self.folder)
        if code != 0 or not is_new(found, {}, self.new):
            said = bench.said.read_text(errors="replace")[-500:]
            bench.failures.append(f"{where}: then {code}: {sorted(found)}: {said}")
        if leftovers(self.folder):
            bench.failures.append(f"{where}: {leftovers(self.folder)} are left")

    def on_small_disk(self) -> None:
        """The disk has room for a part of the new files."""
        self.filled()
        needed = sum(map(len, self.new.values())) + 4096 * (len(self.new) + 6)
        room = self.bench.random.randint(0, needed)
        filler = self.folder.parent / "filler"
        with filled_up(filler, room):
            code = ended(forked(self.arguments, self.bench.said))
        self.judged(f"room for {room:,} of {needed:,} bytes", code, (0, 1))


@contextmanager
def filled_up(filler: Path, room: int) -> Iterator[None]:
    """The disk has about this many bytes left, for the time of the block."""
    disk = os.statvfs(filler.parent)
    size = max(0, disk.f_bavail * disk.f_frsize - room)
    with filler.open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, max(1, size))
    try:
        yield
    finally:
        filler.unlink()


def shares(total: int, parts: int) -> list[int]:
    return [total // parts + (number < total % parts) for number in range(parts)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("kills", 100), ("signals", 100), ("disks", 60), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="", help="commands whose name has this in it")
    asked = parser.parse_args()
    import torch

    import decompose_cli.cli.app
    import decompose_cli.engines.demo
    import decompose_cli.engines.explain
    import decompose_cli.engines.finetune
    import decompose_cli.engines.lr_find
    import decompose_cli.engines.selectivity
    import decompose_cli.engines.sweep
    import decompose_cli.engines.train_gate
    import decompose_cli.page.report  # noqa: F401

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = Path(tempfile.mkdtemp(prefix="decompose-kill-"))
    os.environ["DECOMPOSE_CACHE"] = str(root / "cache")
    os.chdir(root)
    bench = Bench(root, asked.seed)
    has_disk = False
    counts: dict[str, Counter[str]] = {}
    try:
        bench.prepared()
        (root / "place").mkdir()
        mounting = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(root / "place")]
        has_disk = subprocess.run(mounting, check=False, capture_output=True).returncode == 0
        kinds = [(job, overwrite) for job in jobs() if asked.only in job.name for overwrite in (False, True)]
        trials = zip(*(shares(n, len(kinds)) for n in (asked.kills, asked.signals, asked.disks)), strict=True)
        for (job, overwrite), (kills, signals, disks) in zip(kinds, trials, strict=True):
            one = Trials(bench, job, overwrite=overwrite)
            for what, number in (("SIGKILL", kills), ("SIGINT or SIGTERM", signals), ("full disk", disks)):
                bench.outcomes = Counter()
                for _ in range(number):
                    one.tried(what, has_disk=has_disk)
                counts.setdefault(what, Counter()).update(bench.outcomes)
            print(f"{one.name}: {one.calls} calls that change files, {one.seconds:.1f} s", flush=True)
    finally:
        if has_disk:
            subprocess.run(["umount", str(root / "place")], check=False)
        os.chdir("/")
        shutil.rmtree(root, ignore_errors=True)
    for what, found in counts.items():
        print(f"{what}: {sum(found.values())} times; {', '.join(f'{n} {name}' for name, n in sorted(found.items()))}")
    if not has_disk:
        print("full disk: skipped, as only root may mount a small disk")
    print(f"mixtures, losses and leftovers: {len(bench.failures)}")
    for failure in bench.failures[:20]:
        print(f"  {failure}")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
