"""`decompose extract-indices -k 5,10,20,30,40,50` against a pass over the images per k, as whole processes, cold cache.

Both read 50,000 CIFAR-size images from CIFAR-10 batch files and count, per class, which penultimate features of
ResNet-20 are among each image's k largest. Published style (published_style.py) has one DataLoader worker per core, as
published. Unless --full is given, it runs for ONE k, and the time beyond a run for no k at all (imports, reading) is
multiplied by the number of k. Images and weights are random (the work is the same), or CIFAR-10 and the published
ResNet-20 with DECOMPOSE_REFERENCE_DIR.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import common

KS = (5, 10, 20, 30, 40, 50)
GOALS = {"fp32": 8.5, "bf16": 14.0}
MEMORY_GOAL = 0.5
WORKERS = min(12, common.cores())
# Share of the indices that must be the same: where two features are nearly as frequent, rounding decides.
SHARED = {"fp32": 0.99, "bf16": 0.95}


def main() -> None:
    parser = common.speed_options(__doc__, repeats=3, images=50_000)
    parser.add_argument("--full", action="store_true", help="run the published style for every k (takes minutes)")
    given = parser.parse_args()
    peak = common.peak()
    with tempfile.TemporaryDirectory() as name:
        runs, trees = measure(Path(name), given.images, given.repeats, given.full)
        description = common.inputs_in(Path(name)).description
    theirs, torch_only = runs["published"], runs["import torch"]
    for precision, least in SHARED.items():
        check_indices(theirs, runs[precision], least, precision)
    start = runs["published, no pass"].median
    seconds = start + (1 if given.full else len(KS)) * (theirs.median - start)
    lines = [
        common.Line(f"{name}, published / ours", seconds / runs[name].median, goal, detail=str(runs[name]))
        for name, goal in GOALS.items()
    ]
    lines += common.memory_lines(GOALS, runs, theirs, trees, MEMORY_GOAL)
    what = "every k run" if given.full else f"one k of {len(KS)} run ({theirs}), the rest extrapolated"
    notes = [
        f"published style, {WORKERS} workers: {seconds:.1f} s; {what}",
        f"import torch alone: {torch_only}",
    ]
    flop = given.images * common.RESNET20_FLOP
    for name in GOALS:
        floor = torch_only.median + flop / 1e9 / peak.of(name)
        notes.append(
            f"limit {name}: import torch and {flop / 1e12:.2f} TFLOP at the {peak.of(name):.0f} GFLOP/s of a matrix "
            f"product are {floor:.2f} s; ours takes {runs[name].median / floor:.2f} times that"
        )
    common.report(
        f"extract-indices, {given.images:,} images of 32x32, k = {', '.join(map(str, KS))}, whole process",
        lines,
        common.conditions(given.repeats, description),
        notes,
    )


def measure(
    folder: Path, images: int, repeats: int, full: bool
) -> tuple[dict[str, common.Runs], dict[str, float | None]]:
    """Timed runs, and the peak memory of untimed runs with all their processes."""
    inputs = common.make_inputs(folder, test=images // 5, train=images)
    ks = ",".join(map(str, KS))
    arguments = ["extract", "--data", inputs.data, "--weights", inputs.weights]
    ours = ["extract-indices", "resnet20", "-w", inputs.weights, "--data-dir", inputs.data, "--dataset", "cifar10"]
    ours += ["-k", ks, "--json", "--no-download"]

    def run_ours(precision: str) -> common.Process:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            return common.run(common.decompose(*ours, "--precision", precision), DECOMPOSE_CACHE=cache)

    def run_published(workers: int, k: str) -> common.Process:
        return common.run(common.published(*arguments, "-k", k, "--workers", str(workers)))

    jobs = {
        "published": lambda: run_published(WORKERS, ks if full else str(KS[0])),
        "published, no pass": lambda: run_published(0, ""),
        "fp32": lambda: run_ours("32"),
        "bf16": lambda: run_ours("bf16"),
        "import torch": lambda: common.run(common.python("-c", "import torch")),
    }
    runs = common.interleaved(repeats, jobs)
    common.say("memory")
    trees = {"published": common.tree_memory(common.published(*arguments, "-k", "5", "--workers", str(WORKERS)))}
    for name, precision in (("fp32", "32"), ("bf16", "bf16")):
        cache = str(folder / f"cache-memory-{precision}")
        trees[name] = common.tree_memory(common.decompose(*ours, "--precision", precision), DECOMPOSE_CACHE=cache)
    return runs, trees


def check_indices(theirs: common.Runs, ours: common.Runs, least: float, name: str) -> None:
    """Stop if the two sides find other features."""
    own = {k: entry["indices"] for k, entry in ours.answer["results"].items()}
    for k, expected in theirs.answer.items():
        shared = sum(len(set(own[k][label]) & set(row)) for label, row in expected.items())
        total = sum(map(len, expected.values()))
        if shared < least * total:
            sys.exit(
                f"{name}, k={k}: {shared} of {total} indices are those of the published style: {json.dumps(own[k])}"
            )


if __name__ == "__main__":
    main()
