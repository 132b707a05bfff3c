"""`decompose sweep --methods weight --ks 1-64` against a pass over the images per k, as whole processes, warm cache.

Both evaluate the decomposed head of ResNet-20 with the k largest weights of each class on 10,000 CIFAR-size images.
Published style (published_style.py) has one DataLoader worker per core. Unless --full is given, it runs for two values
of k, and the time of the second is multiplied by the number of k. Ours finds the features in the cache, where the
command before has left them (`--cold` shows what it takes without). Images and weights are random (the work is the
same), or CIFAR-10 and the published ResNet-20 with DECOMPOSE_REFERENCE_DIR.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import common

LARGEST_K = 64
GOAL = 3.5
WORKERS = min(12, common.cores())


def main() -> None:
    parser = common.speed_options(__doc__, repeats=3, images=10_000)
    parser.add_argument("--full", action="store_true", help="run the published style for every k (takes minutes)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = measure(Path(name), given.images, given.repeats, given.full)
        description = common.inputs_in(Path(name)).description
    check(runs)
    one, two = runs["published, k = 5"].median, runs["published, k = 5, 10"].median
    seconds = runs["published"].median if given.full else one + (LARGEST_K - 1) * (two - one)
    how = "every k run" if given.full else f"a further k takes {two - one:.1f} s, the rest extrapolated"
    lines = [
        common.Line(f"{name}, published / ours", seconds / runs[name].median, goal, detail=str(runs[name]))
        for name, goal in (("warm", GOAL), ("cold", GOAL))
    ]
    common.report(
        f"sweep, {given.images:,} images of 32x32, k = 1 to {LARGEST_K}, whole process",
        lines,
        common.conditions(given.repeats, description),
        [f"published style, {WORKERS} workers: {seconds:.0f} s; {how}"],
    )


def measure(folder: Path, images: int, repeats: int, full: bool) -> dict[str, common.Runs]:
    inputs = common.make_inputs(folder, test=images, train=5 * images)
    arguments = ["sweep", "--data", inputs.data, "--weights", inputs.weights, "--workers", str(WORKERS), "-k"]
    ours = ["sweep", "resnet20", "-w", inputs.weights, "--data-dir", inputs.data, "--dataset", "cifar10"]
    ours += ["--methods", "weight", "--ks", f"1-{LARGEST_K}", "--json", "--no-download"]

    def run_ours(*, cold: bool) -> common.Process:
        cache = folder / "cache"
        for entry in cache.rglob("*") if cold else ():
            if entry.is_file():
                entry.unlink()
        return common.run(common.decompose(*ours), DECOMPOSE_CACHE=str(cache))

    jobs = {
        "published, k = 5": lambda: common.run(common.published(*arguments, "5")),
        "published, k = 5, 10": lambda: common.run(common.published(*arguments, "5,10")),
        "cold": lambda: run_ours(cold=True),
        "warm": lambda: run_ours(cold=False),
    }
    if full:
        every = ",".join(map(str, range(1, LARGEST_K + 1)))
        jobs["published"] = lambda: common.run(common.published(*arguments, every))
    return common.interleaved(repeats, jobs)


def check(runs: dict[str, common.Runs]) -> None:
    """Stop if the two sides do not agree."""
    points = runs["warm"].answer["results"]["curves"]["weight"]
    for name, theirs in runs.items():
        if name.startswith("published"):
            for k, correct in theirs.answer.items():
                if points[k]["correct"] != correct:
                    sys.exit(f"k = {k}: {points[k]['correct']} images correct, published style {correct}")


if __name__ == "__main__":
    main()
