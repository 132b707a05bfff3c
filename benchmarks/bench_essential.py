"""`decompose essential`, two checkpoints, 30 draws, against the published way of doing it, as whole processes.

Both put Gaussian noise on the 5 features of each class, and on its other 59, of the penultimate features that two
ResNet-20 have on 10,000 CIFAR-size images, and count what is still assigned to its class. Published style
(published_style.py) makes a forward pass per class in batches of 8, each time the noise is drawn, with one DataLoader
worker per core. It runs for ONE draw; the time beyond its start is multiplied by 30. Ours starts from an empty cache of
features, without the 100 random sets that the published code does not have, and with them. Images and weights are
random (the work is the same), or CIFAR-10 and the published ResNet-20 with DECOMPOSE_REFERENCE_DIR.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import common

REPEATS = 30
GOAL = 60.0
WORKERS = min(12, common.cores())
TOLERANCE = 0.02  # share of the images by which one draw may differ from the mean of 30


def main() -> None:
    parser = common.speed_options(__doc__, repeats=1, images=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = measure(Path(name), given.images, given.repeats)
        description = common.inputs_in(Path(name)).description
    check(runs, given.images)
    start = runs["import torch"].median
    one = runs["published"].median - start
    seconds = start + REPEATS * one
    lines = [
        common.Line("no random sets, published / ours", seconds / runs["ours"].median, GOAL, detail=str(runs["ours"])),
        common.Line(
            "100 random sets, published without / ours with",
            seconds / runs["ours, 100 random sets"].median,
            GOAL,
            detail=str(runs["ours, 100 random sets"]),
        ),
    ]
    common.report(
        f"essential, {given.images:,} images of 32x32, two checkpoints, {REPEATS} draws, cold cache, whole process",
        lines,
        common.conditions(given.repeats, description),
        [f"published style, {WORKERS} workers: {seconds:.0f} s; one draw run ({one:.1f} s), the rest extrapolated"],
    )


def measure(folder: Path, images: int, repeats: int) -> dict[str, common.Runs]:
    inputs = common.make_inputs(folder, test=images, train=images)
    second = folder / "second.pth"
    common.run(common.python(Path(__file__).resolve(), "--write-second", inputs.weights, second))
    arguments = ["essential", "--data", inputs.data, "--workers", str(WORKERS)]
    ours = ["essential", "resnet20", "-w", inputs.weights, "-i", inputs.indices, "--data-dir", inputs.data]
    ours += ["--dataset", "cifar10", "--repeats", str(REPEATS), "--json", "--no-download"]
    ours += ["--method", f"second={second},{inputs.indices}"]
    for weights in (inputs.weights, second):
        arguments += ["--weights", weights, "--indices", inputs.indices]

    def run_ours(controls: int) -> common.Process:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            return common.run(common.decompose(*ours, "--controls", str(controls)), DECOMPOSE_CACHE=cache)

    return common.interleaved(
        repeats,
        {
            "published": lambda: common.run(common.published(*arguments)),
            "ours": lambda: run_ours(0),
            "ours, 100 random sets": lambda: run_ours(100),
            "import torch": lambda: common.run(common.python("-c", "import torch")),
        },
    )


def check(runs: dict[str, common.Runs], images: int) -> None:
    """Stop if the two sides do not agree."""
    results = runs["ours"].answer["results"]
    for name, theirs in zip(("ours", "second"), runs["published"].answer, strict=True):
        for part, key in enumerate(("noise_at_inf", "noise_at_noninf")):
            expected = sum(counts[part] for counts in theirs.values())
            mean = results["summary"][name][key]
            if abs(mean - expected) > TOLERANCE * images:
                sys.exit(f"{name}, {key}: {mean} images on average, published style {expected}")


def write_second(weights: Path, target: Path) -> None:
    """Write another network, as good as the first, but without features in the cache."""
    import torch

    state = torch.load(weights, map_location="cpu")["state_dict"]
    bias = next(name for name in state if name.endswith("linear.bias"))
    torch.save({"state_dict": {**state, bias: state[bias] * 1.001}}, target)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write-second"]:  # runs by itself, so that its memory is not charged to those measured
        write_second(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
