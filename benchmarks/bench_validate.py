"""`decompose validate resnet20 -i INDICES` on CIFAR-size images against the same job in published style, as processes.

Both read 10,000 CIFAR-size images from a CIFAR-10 batch file (with --folder: from PNG files in class folders), put
every one through ResNet-20 and count the correct answers of the full and of the decomposed head (5 of 64 features per
class) in one pass. Published style (published_style.py) has one DataLoader worker per core, as published, and, for
comparison, none. A cold run has an empty cache of features; a warm one is the second run of the same command. Memory is
the peak of a job with all its processes; it is not compared for --folder, which the published code cannot read. Images
and weights are random (the work is the same), or CIFAR-10 and the published ResNet-20 with DECOMPOSE_REFERENCE_DIR.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import common

GOALS = {"cold fp32": 2.0, "cold bf16": 2.7, "warm fp32": 3.5}
MEMORY_GOAL = 0.5
WORKERS = min(12, common.cores())
BF16_TOLERANCE = 0.01  # share of the images that rounding to eight bits may turn


def main() -> None:
    parser = common.speed_options(__doc__, repeats=5, images=10_000)
    parser.add_argument("--folder", action="store_true", help="PNG files in class folders instead of a batch file")
    given = parser.parse_args()
    peak = common.peak()
    with tempfile.TemporaryDirectory() as name:
        runs, trees = measure(Path(name), given.images, given.repeats, folder=given.folder)
        description = common.inputs_in(Path(name)).description + (", as PNG files" if given.folder else "")
    theirs = runs["published"]
    total = check_answers(runs, theirs)
    torch_only = runs["import torch"]
    lines = [
        common.Line(f"{name}, published / ours", theirs.median / runs[name].median, goal, detail=str(runs[name]))
        for name, goal in GOALS.items()
    ]
    limit = 1.5 * torch_only.median + 1
    lines.append(
        common.Line(
            "warm, seconds", runs["warm fp32"].median, limit, at_least=False, detail="1.5 import torch + 1 s", unit=""
        )
    )
    if not given.folder:
        lines += common.memory_lines(("cold fp32", "cold bf16"), runs, theirs, trees, MEMORY_GOAL)
    notes = [
        f"published style, {WORKERS} workers: {theirs}; without workers: {runs['published, no workers']}",
        f"import torch alone: {torch_only}",
    ]
    for precision in ("fp32", "bf16"):
        floor = torch_only.median + total * common.RESNET20_FLOP / 1e9 / peak.of(precision)
        ours = runs[f"cold {precision}"].median
        notes.append(
            f"limit {precision}: import torch and {total * common.RESNET20_FLOP / 1e12:.2f} TFLOP at the "
            f"{peak.of(precision):.0f} GFLOP/s of a matrix product are {floor:.2f} s; "
            f"cold takes {ours / floor:.2f} times that"
        )
    common.report(
        f"validate, {total:,} images of 32x32, whole process",
        lines,
        common.conditions(given.repeats, description),
        notes,
    )


def measure(
    place: Path, images: int, repeats: int, *, folder: bool
) -> tuple[dict[str, common.Runs], dict[str, float | None]]:
    inputs = common.make_inputs(place, test=images, train=5 * images)
    if folder:
        common.run(common.python(Path(__file__).resolve(), "--write-folder", place))
    arguments = ["--data", inputs.data, "--weights", inputs.weights, "--indices", inputs.indices]
    ours = ["validate", "resnet20", "-w", inputs.weights, "--data-dir", inputs.data, "-i", inputs.indices]
    ours += ["--dataset", f"folder:{place / 'folder'}" if folder else "cifar10", "--json", "--no-download"]

    def run_ours(precision: str, *, cold: bool) -> common.Process:
        cache = place / f"cache-{precision}"
        for entry in cache.rglob("*") if cold else ():
            if entry.is_file():
                entry.unlink()
        return common.run(common.decompose(*ours, "--precision", precision), DECOMPOSE_CACHE=str(cache))

    def run_published(workers: int) -> common.Process:
        return common.run(common.published("validate", *arguments, "--workers", str(workers)))

    jobs = {
        "published": lambda: run_published(WORKERS),
        "published, no workers": lambda: run_published(0),
        "cold fp32": lambda: run_ours("32", cold=True),
        "warm fp32": lambda: run_ours("32", cold=False),
        "cold bf16": lambda: run_ours("bf16", cold=True),
        "import torch": lambda: common.run(common.python("-c", "import torch")),
    }
    runs = common.interleaved(repeats, jobs)
    common.say("memory")
    trees = {"published": common.tree_memory(common.published("validate", *arguments, "--workers", str(WORKERS)))}
    for name, precision in (("cold fp32", "32"), ("cold bf16", "bf16")):
        cache = str(place / f"cache-memory-{precision}")
        trees[name] = common.tree_memory(common.decompose(*ours, "--precision", precision), DECOMPOSE_CACHE=cache)
    return runs, trees


def write_folder(place: Path) -> None:
    """Write the images of the batch file as PNG files in one folder per class."""
    import pickle

    from PIL import Image

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    with (place / "cifar-10-batches-py" / "test_batch").open("rb") as handle:
        batch = pickle.load(handle, encoding="latin1")
    for number, (row, label) in enumerate(zip(batch["data"], batch["labels"], strict=True)):
        file = place / "folder" / "test" / names[label] / f"{number:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(file)


def check_answers(runs: dict[str, common.Runs], theirs: common.Runs) -> int:
    """Stop if the two sides do not agree; return the number of images."""
    expected, total = theirs.answer, 0
    for name in GOALS:
        document = runs[name].answer
        total = document["results"]["total"]
        state = document["cache"]["features"]
        if state != ("hit" if name.startswith("warm") else "miss"):
            sys.exit(f"{name}: the cache says {state}")
        tolerance = BF16_TOLERANCE * total if "bf16" in name else 0
        for head, correct in expected.items():
            own = document["results"][head]["correct"]
            if abs(own - correct) > tolerance:
                sys.exit(f"{name}: {own} images correct with the {head} head, published style {correct}")
    return total


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write-folder"]:  # runs by itself, so that its memory is not charged to those measured
        write_folder(Path(sys.argv[2]))
    else:
        main()
