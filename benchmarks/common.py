"""The parts that benchmarks share: inputs, timing of whole processes, peak memory, and the table at the end.

    python benchmarks/common.py FOLDER [--test N] [--train N]     writes the inputs to look at or to profile with

Only the standard library is imported at the top: Linux counts the memory of the process that starts a child towards
the child's peak, so the process that measures has to stay small.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import pickle
import platform
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CLASSES = 10
SIDE = 32
INDICES_PER_CLASS = 5
RESNET20_FLOP = 81.1e6  # for one 32x32 image; a multiply-add counts as two
TRAIN_FILES = 5


# ---------------------------------------------------------------------------------------------------------- processes


@dataclass
class Process:
    """Time, memory and output of one child process."""

    seconds: float
    peak_mb: float
    output: str


@dataclass
class Runs:
    """The same command several times."""

    seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    output: str = ""

    def add(self, process: Process) -> None:
        self.seconds.append(process.seconds)
        self.peak_mb.append(process.peak_mb)
        self.output = process.output

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def memory(self) -> float:
        return statistics.median(self.peak_mb)

    @property
    def answer(self) -> Any:
        """The JSON that the command printed to stdout."""
        return json.loads(self.output)

    def __str__(self) -> str:
        return f"{self.median:.2f} s ({min(self.seconds):.2f} to {max(self.seconds):.2f}), peak {self.memory:.0f} MB"


def run(command: Sequence[str | Path], **variables: str) -> Process:
    """Run a command to its end: wall time, and the peak memory of its largest process.

    Raises:
        SystemExit: It failed; what it wrote to stderr is shown.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = _start(command, variables, out, err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\nfailed:\n{err.read().decode(errors='replace')[-3000:]}")
        scale = 1 if sys.platform == "darwin" else 1024
        return Process(seconds, usage.ru_maxrss * scale / 1e6, out.read().decode())


def _start(command: Sequence[str | Path], variables: Mapping[str, str], out: Any, err: Any) -> subprocess.Popen[bytes]:
    paths = [path for path in (os.environ.get("PYTHONPATH"), str(ROOT)) if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "NO_COLOR": "1", **variables}
    return subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, env=environment)


def tree_memory(command: Sequence[str | Path], **variables: str) -> float | None:
    """Peak in MB of a command with all its worker processes, or None where the system does not tell (only Linux does).

    Pages that processes share are divided among them. Sampled 20 times a second, in a run that is not timed.
    """
    if not Path("/proc/self/smaps_rollup").is_file():
        return None
    largest = 0.0
    process = _start(command, variables, subprocess.DEVNULL, subprocess.DEVNULL)
    while process.poll() is None:
        largest = max(largest, sum(map(_proportional_mb, _descendants(process.pid))))
        time.sleep(0.05)
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed")
    return largest


def _descendants(pid: int) -> list[int]:
    numbers = [pid]
    for number in numbers:
        try:
            tasks = list(Path(f"/proc/{number}/task").iterdir())
            numbers += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:  # the process has ended meanwhile
            continue
    return numbers


def _proportional_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def interleaved(repeats: int, jobs: Mapping[str, Callable[[], Process]]) -> dict[str, Runs]:
    """Run every job in turn, so many times over, so that whatever else the machine does meets all of them alike."""
    results = {name: Runs() for name in jobs}
    for number in range(repeats):
        for name, job in jobs.items():
            say(f"run {number + 1} of {repeats}: {name}")
            results[name].add(job())
    return results


def python(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, *arguments]


def decompose(*arguments: str | Path) -> list[str | Path]:
    return python("-m", "decompose_cli", *arguments)


def published(*arguments: str | Path) -> list[str | Path]:
    return python(HERE / "published_style.py", *arguments)


def say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}\r")
        sys.stderr.flush()


# --------------------------------------------------------------------------------------------------- hardware and table


@dataclass
class Peak:
    """Speed of a matrix product on this machine, in GFLOP/s: the limit that a network can approach."""

    fp32: float
    bf16: float

    def of(self, precision: str) -> float:
        return self.bf16 if precision == "bf16" else self.fp32


def peak() -> Peak:
    """Measure the peak in a process of its own."""
    return Peak(**json.loads(run(python(Path(__file__).resolve(), "--peak")).output))


def measure_peak() -> Peak:
    """The best (1024, 1024) x (1024, 1024) product of one second, in each precision, with torch's default threads."""
    import torch

    size, speeds = 1024, {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        best, end = float("inf"), time.perf_counter() + 1
        while time.perf_counter() < end:
            start = time.perf_counter()
            _ = a @ b
            best = min(best, time.perf_counter() - start)
        speeds[name] = 2 * size**3 / best / 1e9
    return Peak(**speeds)


@dataclass
class Line:
    """One row of a result: a measured ratio and its goal. ``at_least`` tells which side of the goal is good."""

    what: str
    value: float
    goal: float
    at_least: bool = True
    detail: str = ""
    unit: str = "x"

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def report(title: str, lines: Sequence[Line], conditions: Sequence[str], notes: Sequence[str] = ()) -> None:
    """Print conditions, table and notes."""
    say("")
    print(title)
    for text in conditions:
        print(f"  {text}")
    rows = [("", "measured", "goal", "", "")]
    for line in lines:
        sign = ">=" if line.at_least else "<="
        verdict = "met" if line.met else "MISSED"
        rows.append(
            (line.what, f"{line.value:.2f}{line.unit}", f"{sign} {line.goal:.2f}{line.unit}", verdict, line.detail)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3].ljust(widths[3])]
        print("  " + "  ".join([*cells, row[4]]).rstrip())
    for text in notes:
        print(f"  {text}")


def memory_lines(
    names: Iterable[str],
    runs: Mapping[str, Runs],
    theirs: Runs,
    trees: Mapping[str, float | None],
    goal: float,
) -> list[Line]:
    """Peak memory against the published style, of all processes of the job; beside it that of the largest process."""
    lines = []
    base = trees["published"]
    for name in names:
        largest = f"{runs[name].memory:.0f} of {theirs.memory:.0f} MB, {runs[name].memory / theirs.memory:.2f}x"
        mine = trees.get(name)
        if base is None or mine is None:  # only Linux tells
            value, detail = runs[name].memory / theirs.memory, f"{largest}, largest process"
        else:
            value, detail = mine / base, f"{mine:.0f} of {base:.0f} MB; largest process {largest}"
        lines.append(Line(f"{name}, peak memory", value, goal, at_least=False, detail=detail))
    return lines


OTHERS = 4
_BUSY = "import torch; torch.set_num_threads(1); a = torch.randn(96, 96)\nwhile True: a @ a"


@contextlib.contextmanager
def others() -> Iterator[None]:
    """Other processes that multiply small matrices all the time."""
    started = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(OTHERS)]
    try:
        time.sleep(3)  # until they have loaded torch
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def conditions(repeats: int, *more: str) -> list[str]:
    """Machine, versions, how often; the load says whether anything else was running."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "typer"))
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    machine = f"{processor()}, {cores()} cores{load}"
    return [
        machine,
        f"Python {platform.python_version()}, {versions}",
        f"median of {repeats} interleaved runs (smallest to largest in brackets)",
        *more,
    ]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def speed_options(description: str | None, repeats: int, images: int) -> argparse.ArgumentParser:
    """The options that all benchmarks on images have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, metavar="N", help=f"runs of each side ({repeats})")
    parser.add_argument("--images", type=int, default=images, metavar="N", help=f"number of images ({images:,})")
    return parser


# ------------------------------------------------------------------------------------------------------------- inputs


@dataclass
class Inputs:
    """Files that both sides read."""

    data: Path
    weights: Path
    indices: Path
    description: str


def inputs_in(folder: Path) -> Inputs:
    real = os.environ.get("DECOMPOSE_REFERENCE_DIR")
    if real:
        weights = Path(real) / "weights"
        return Inputs(
            folder,
            weights / "resnet20-12fca82f.th",
            weights / "resnet20_cifar-10_indices.json",
            "CIFAR-10 (from JPEG) in its batch-file layout, published ResNet-20",
        )
    return Inputs(
        folder, folder / "resnet20.th", folder / "indices.json", "random images in CIFAR-10's layout, random ResNet-20"
    )


def make_inputs(folder: Path, *, test: int = 0, train: int = 0) -> Inputs:
    """Write images and weights, in a process of its own."""
    say("writing the images")
    run(python(Path(__file__).resolve(), folder, "--test", str(test), "--train", str(train)))
    return inputs_in(folder)


def write_inputs(folder: Path, test: int, train: int) -> None:
    target = folder / "cifar-10-batches-py"
    target.mkdir(parents=True, exist_ok=True)
    real = os.environ.get("DECOMPOSE_REFERENCE_DIR")
    for split, count, seed in (("test", test, 1), ("train", train, 2)):
        if not count:
            continue
        pixels, labels = _decoded(Path(real), split, count) if real else _random_images(count, seed)
        files = ["test_batch"] if split == "test" else [f"data_batch_{n + 1}" for n in range(TRAIN_FILES)]
        step = -(-count // len(files))
        for number, name in enumerate(files):
            part = slice(number * step, (number + 1) * step)
            with (target / name).open("wb") as handle:
                _Python2Pickler(handle, protocol=2).dump({"data": pixels[part], "labels": labels[part]})
    if not real:
        _write_network(folder)


class _Python2Pickler(pickle._Pickler):  # the C pickler cannot be taught this
    """Writes bytes as Python 2 wrote its strings, which is how the published files hold the pixels."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = _save_bytes


def _random_images(count: int, seed: int) -> tuple[Any, list[int]]:
    """Coarse random colours with fine noise, so that a network does not see the same in all of them."""
    import numpy as np

    generator = np.random.default_rng(seed)
    pixels = np.empty((count, 3, SIDE, SIDE), np.uint8)
    for start in range(0, count, 1000):
        some = pixels[start : start + 1000]
        coarse = generator.integers(32, 224, (len(some), 3, 4, 4), dtype=np.uint8)
        noise = generator.integers(0, 32, some.shape, dtype=np.uint8)
        some[:] = coarse.repeat(SIDE // 4, 2).repeat(SIDE // 4, 3) + noise
    return pixels.reshape(count, -1), generator.integers(0, CLASSES, count).tolist()


def _decoded(reference: Path, split: str, count: int) -> tuple[Any, list[int]]:
    """The first images of a split, evenly over the classes, from the archive of JPEG files."""
    import numpy as np
    from PIL import Image

    by_class: dict[str, list[bytes]] = {}
    with tarfile.open(reference / "data" / "cifar10-jpeg.tar.gz") as archive:
        for member in archive:
            parts = Path(member.name).parts
            if member.isfile() and parts[-3] == split and len(by_class.setdefault(parts[-2], [])) < count // CLASSES:
                content = archive.extractfile(member)
                assert content is not None
                by_class[parts[-2]].append(content.read())
    items = [(label, content) for label, name in enumerate(sorted(by_class)) for content in by_class[name]]
    random.Random(0).shuffle(items)
    pixels = np.empty((len(items), 3, SIDE, SIDE), np.uint8)
    for number, (_, content) in enumerate(items):
        pixels[number] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)
    return pixels.reshape(len(items), -1), [label for label, _ in items]


def _write_network(folder: Path) -> None:
    """A random ResNet-20 whose batch norms have seen images, so that its activations are of ordinary size."""
    import torch
    from published_style import MEAN, STD

    from decompose_cli.models.cifar_resnet import CifarResNet

    torch.manual_seed(0)
    model = CifarResNet(20).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch that follows, not a running mean
    pixels = torch.from_numpy(_random_images(256, seed=3)[0]).view(-1, 3, SIDE, SIDE)
    inputs: list[torch.Tensor] = []
    hook = model.linear.register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    with torch.no_grad():
        model((pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
        model.linear.bias.copy_(-model.linear.weight @ inputs[0].mean(0))  # or nearly every answer were the same
    hook.remove()
    torch.save({"state_dict": model.state_dict()}, folder / "resnet20.th")
    generator = random.Random(0)
    sets = {str(number): generator.sample(range(64), INDICES_PER_CLASS) for number in range(CLASSES)}
    (folder / "indices.json").write_text(json.dumps(sets))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where to write the inputs of the benchmarks")
    parser.add_argument("--test", type=int, default=10_000, metavar="N", help="test images")
    parser.add_argument("--train", type=int, default=50_000, metavar="N", help="training images")
    parser.add_argument("--peak", action="store_true", help="measure matrix products instead")
    given = parser.parse_args()
    if given.peak:
        speeds = measure_peak()
        print(json.dumps({"fp32": speeds.fp32, "bf16": speeds.bf16}))
    elif given.folder is None:
        parser.error("a folder is needed")
    else:
        write_inputs(given.folder, given.test, given.train)


if __name__ == "__main__":
    main()
