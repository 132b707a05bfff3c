"""The forward loop alone: FeatureReader with the pieces of extract_features, against the eager network at batch 128.

Images are ready, normalised tensors; nothing is read, decoded or counted. The default is ResNet-20 at 32x32, for which
the goals hold. The script also prints GFLOP/s, against matrix products on the same machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import common
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from decompose_cli.features.extraction import keep_freed_memory
from decompose_cli.features.forward import images_at_once
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.inference import FeatureReader
from decompose_cli.models.tracing import penultimate
from decompose_cli.preprocessing import Preprocessing

GOALS = {"fp32": 2.5, "bf16": 5.0}
PRECISIONS = {"fp32": "32", "bf16": "bf16"}
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
EAGER_BATCH = 128
CPU = torch.device("cpu")


def main() -> None:
    parser = common.speed_options(__doc__, repeats=5, images=4096)
    parser.add_argument("--model", default="resnet20", help="any network, with random weights (resnet20)")
    given = parser.parse_args()
    peak = common.measure_peak()
    classifier = open_classifier(given.model, "random", allow_download=False)
    preprocessing = classifier.entry.preprocessing
    if preprocessing is None:
        sys.exit(f"the input size of {given.model} is not known")
    network = classifier.load(preprocessing.crop)
    images = torch.randn(given.images, 3, *preprocessing.crop, generator=torch.Generator().manual_seed(0))
    flop = flop_of(network.module, images[:1])
    head = network.module.get_submodule(network.head.name)
    eager = loop(lambda part: penultimate(network.module, head, part), images, EAGER_BATCH)
    sides = {"eager": eager} | {
        name: loop(FeatureReader(network, CPU, precision, images[:2]), images, chunk(preprocessing, precision))
        for name, precision in PRECISIONS.items()
    }
    # The eager network comes first: our change to the memory allocator lasts, and would speed it up too.
    seconds = timed({"eager": eager}, given.repeats)
    keep_freed_memory()
    check(sides)
    seconds |= timed({name: sides[name] for name in PRECISIONS}, given.repeats)
    seconds |= timed({"eager, our allocator setting": eager}, given.repeats)
    median = {name: statistics.median(values) for name, values in seconds.items()}

    def speed(name: str) -> str:
        gflops = given.images * flop / median[name] / 1e9
        share = gflops / peak.of("fp32" if name.startswith("eager") else name)
        return f"{given.images / median[name]:,.0f} images/s, {gflops:.0f} GFLOP/s, {share:.0%} of a matrix product"

    is_reference = given.model == "resnet20"
    common.report(
        f"forward loop of {given.model}, {given.images:,} ready tensors, {flop / 1e6:.0f} MFLOP an image",
        [
            common.Line(
                f"{name} in chunks of {chunk(preprocessing, precision)}, eager / ours",
                median["eager"] / median[name],
                GOALS[name] if is_reference else 1.0,
                detail=speed(name),
            )
            for name, precision in PRECISIONS.items()
        ],
        common.conditions(given.repeats, f"{torch.get_num_threads()} threads"),
        [
            f"eager, fp32, batch {EAGER_BATCH}: {speed('eager')}",
            f"the same with freed memory kept, as ours sets it: {speed('eager, our allocator setting')}",
            f"matrix product: {peak.fp32:.0f} GFLOP/s fp32, {peak.bf16:.0f} GFLOP/s bf16",
        ],
    )


def timed(sides: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, list[float]]:
    """The seconds of each run of both sides, which take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        for name, side in sides.items():
            common.say(f"run {number + 1} of {repeats}: {name}")
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def flop_of(module: nn.Module, image: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(image)
    return counter.get_total_flops()


def chunk(preprocessing: Preprocessing, precision: str) -> int:
    return images_at_once(preprocessing, CPU, precision, 256)


def loop(read: Callable[[Tensor], Tensor], images: Tensor, size: int) -> Callable[[], Tensor]:
    def go() -> Tensor:
        with torch.inference_mode():
            return torch.cat([read(part) for part in images.split(size)])

    return go


def check(sides: dict[str, Callable[[], Tensor]]) -> None:
    """Warm up, and stop if the features of the two sides differ."""
    expected = sides["eager"]()
    for name, tolerance in TOLERANCE.items():
        difference = (sides[name]() - expected).abs().max() / expected.abs().max()
        if not float(difference) <= tolerance:
            sys.exit(f"{name}: features differ by {float(difference):.1e} of the largest")


if __name__ == "__main__":
    main()
