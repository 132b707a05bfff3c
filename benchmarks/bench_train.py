"""Training ResNet-20 on CIFAR-size images, data included: the published loop against ours, and ours against bare steps.

The published loop has Pillow, torchvision's transforms, a DataLoader with two workers, the eager network, and Adam.
Ours is the command ``decompose train`` with the same optimizer, batch and augmentation, as it measures itself. A bare
step has the same network, memory layout, optimizer and precision on tensors that are ready, and counts nothing. All
sides read (or, bare, have the shape of) the same CIFAR-10 batch files. Each ratio is of two runs of the same round,
and the median of these ratios is reported: a shared machine drifts by more than what is compared.

    python benchmarks/bench_train.py [--repeats N] [--images N]
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common

GOALS = {"fp32": 1.4, "bf16": 1.9}
BARE_GOAL = 0.95
PRECISIONS = {"fp32": "32", "bf16": "bf16"}
BATCH_SIZES = (64, 128)
WORKERS = 2
FIRST_STEPS = 20


def main() -> None:
    parser = common.speed_options(__doc__, repeats=5, images=12_800)
    parser.add_argument(
        "--bare", nargs=3, metavar=("BATCH", "STEPS", "PRECISION"), help="one side, for this script itself"
    )
    given = parser.parse_args()
    if given.bare:
        print(json.dumps(bare(int(given.bare[0]), int(given.bare[1]), given.bare[2])))
        return
    with tempfile.TemporaryDirectory() as folder:
        inputs = common.make_inputs(Path(folder) / "data", test=256, train=max(given.images, 12_800))
        speeds: dict[str, list[float]] = {}
        sides = all_sides(inputs, given.images, Path(folder))
        for number in range(given.repeats):
            for name, side in sides.items():
                common.say(f"run {number + 1} of {given.repeats}: {name}")
                speeds.setdefault(name, []).append(side())
    median = {name: statistics.median(values) for name, values in speeds.items()}

    def ratio(ours: str, other: str) -> float:
        return statistics.median(one / two for one, two in zip(speeds[ours], speeds[other], strict=True))

    def described(side: str, what: str = "") -> str:
        return f"{median[side]:,.0f} images/s{what} ({min(speeds[side]):,.0f} to {max(speeds[side]):,.0f})"

    lines = []
    for size in BATCH_SIZES:
        for precision, goal in GOALS.items():
            ours, theirs, ready = f"ours {precision} {size}", f"published {size}", f"bare {precision} {size}"
            what = f"batch {size}, {precision}"
            lines += [
                common.Line(f"{what}, ours / published", ratio(ours, theirs), goal, detail=described(ours)),
                common.Line(
                    f"{what}, ours / bare step", ratio(ours, ready), BARE_GOAL, detail=described(ready, " bare")
                ),
            ]
    notes = [
        f"published loop, {WORKERS} workers, batch {size}: {described(f'published {size}')}" for size in BATCH_SIZES
    ]
    common.report(
        f"training ResNet-20 with Adam, {given.images:,} images of 32x32, data included",
        lines,
        common.conditions(given.repeats, inputs.description),
        notes,
    )


def all_sides(inputs: common.Inputs, images: int, folder: Path) -> dict[str, Callable[[], float]]:
    sides: dict[str, Callable[[], float]] = {}
    for size in BATCH_SIZES:
        steps = images // size
        sides[f"published {size}"] = lambda s=size, n=steps: number_printed(
            common.published(
                "train", "--data", inputs.data, "--weights", inputs.weights, "--batch-size", str(s), "--steps", str(n),
                "--workers", str(WORKERS),
            )
        )  # fmt: skip
        for name, precision in PRECISIONS.items():
            sides[f"ours {name} {size}"] = lambda s=size, n=steps, p=precision: ours(inputs, folder / "run", s, n, p)
            sides[f"bare {name} {size}"] = lambda s=size, n=steps, p=precision: number_printed(
                common.python(Path(__file__).resolve(), "--bare", str(s), str(n), p)
            )
    return sides


def number_printed(command: list[str | Path]) -> float:
    return float(json.loads(common.run(command).output))


def ours(inputs: common.Inputs, folder: Path, batch_size: int, steps: int, precision: str) -> float:
    command = common.decompose(
        "train", "resnet20", "-w", inputs.weights, "--dataset", "cifar10", "--data-dir", inputs.data, "--no-download",
        "--optimizer", "adam", "--lr", "0.0001", "--weight-decay", "0", "--schedule", "constant", "-b", str(batch_size),
        "--iterations", str(steps), "--val-split", "0", "--precision", precision, "-o", folder, "--overwrite",
        "--json", "-q", "--device", "cpu",
    )  # fmt: skip
    results = json.loads(common.run(command).output)["results"]
    return float(results["epochs"][-1]["images_per_second"])


def bare(batch_size: int, steps: int, precision: str) -> float:
    import torch
    import torch.nn.functional as F

    from decompose_cli.features.extraction import keep_freed_memory
    from decompose_cli.models.cifar_resnet import CifarResNet

    keep_freed_memory(at_most=2**31 - 1)
    model = CifarResNet(20).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    images = torch.randn(batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch_size,))
    start = 0.0
    for number in range(steps):
        if number == FIRST_STEPS:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = model(images)
        F.cross_entropy(output.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return batch_size * (steps - FIRST_STEPS) / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
