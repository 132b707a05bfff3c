"""Forward passes of ResNet-20 on the processor, alone and beside four other busy processes.

Sides: as it was before (operators with two OpenMP threads, which wait for each other at every layer), as it is now
(Python threads with one-threaded operators), the same with one thread, and onnxruntime on the exported network. Each
run is a process of its own; quiet and busy runs of all sides take turns, so all see the same machine.

    python benchmarks/bench_busy.py [--repeats N] [--seconds S] [--model NAME] [--threads N]

Wall time and processor time are of forward passes alone, of uint8 images that are ready. The first and the second side
have to give the same features.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common

IMAGES = 512
GOALS = {"quiet": 1.0, "busy": 3.0}
PROCESSOR_GOAL = 1.2
BEFORE, NOW, ONE, OTHER = "operators with threads", "threads with operators", "one thread", "onnxruntime"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side (5)")
    parser.add_argument("--seconds", type=float, default=5, help="of forward passes in each run (5)")
    parser.add_argument("--model", default="resnet20", help="any network, with random weights (resnet20)")
    parser.add_argument("--threads", type=int, default=common.cores(), help="threads (one per core)")
    parser.add_argument("--side", help="one side, for this script itself")
    parser.add_argument("--onnx", help="the exported network, for this script itself")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measured(given.side, given.model, given.threads, given.seconds, given.onnx)))
        return
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "network.onnx"
        common.run(common.decompose("export", given.model, "-w", "random", "-o", exported, "--quiet"))
        found = runs(given, exported)
    lines = []
    for moment, goal in GOALS.items():
        speeds = {side: statistics.median(speed for speed, _ in found[side, moment]) for side in (BEFORE, NOW)}
        lines.append(common.Line(f"{moment}, now / before", speeds[NOW] / speeds[BEFORE], goal))
        costs = {side: statistics.median(cost for _, cost in found[side, moment]) for side in (NOW, ONE)}
        lines.append(
            common.Line(f"{moment}, processor time of one thread / now", costs[ONE] / costs[NOW], 1 / PROCESSOR_GOAL)
        )
    notes = [
        f"{moment}, {side}: {statistics.median(s for s, _ in found[side, moment]):,.0f} images/s "
        f"({min(s for s, _ in found[side, moment]):,.0f} to {max(s for s, _ in found[side, moment]):,.0f}), "
        f"{1000 * statistics.median(c for _, c in found[side, moment]):.2f} ms of processor an image"
        for moment in GOALS
        for side in (BEFORE, NOW, ONE, OTHER)
    ]
    common.report(
        f"forward passes of {given.model}, {given.threads} threads; busy: beside {common.OTHERS} processes",
        lines,
        common.conditions(given.repeats),
        notes,
    )


def runs(given: argparse.Namespace, exported: Path) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(images per second, processor seconds per image) of each run, by side and moment."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    options = ["--model", given.model, "--threads", str(given.threads), "--seconds", str(given.seconds)]
    for _ in range(given.repeats):
        for moment in GOALS:
            with common.others() if moment == "busy" else contextlib.nullcontext():
                for side in (BEFORE, NOW, ONE, OTHER):
                    command = common.python(Path(__file__).resolve(), *options, "--side", side, "--onnx", exported)
                    speed, processor = json.loads(common.run(command).output)
                    found.setdefault((side, moment), []).append((speed, processor))
                    common.say(f"{moment}, {side}: {speed:,.0f} images/s")
    return found


def measured(side: str, model: str, threads: int, seconds: float, exported: str) -> tuple[float, float]:
    """(images per second, processor seconds per image) of forward passes."""
    import torch

    size = crop_of(model)
    images = torch.randint(0, 256, (IMAGES, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with contextlib.ExitStack() as stack:
        step = (
            onnx_step(exported, images, threads) if side == OTHER else torch_step(side, model, images, threads, stack)
        )
        step()  # warm
        done, begun, processor = 0, time.perf_counter(), time.process_time()
        while done == 0 or time.perf_counter() - begun < seconds:
            step()
            done += IMAGES
        return done / (time.perf_counter() - begun), (time.process_time() - processor) / done


def crop_of(model: str) -> tuple[int, int]:
    from decompose_cli.models.registry import get_entry

    preprocessing = get_entry(model).preprocessing
    if preprocessing is None:
        sys.exit(f"the input size of {model} is not known")
    return preprocessing.crop


def torch_step(side: str, model: str, images: object, threads: int, stack: contextlib.ExitStack) -> Callable[[], None]:
    """A pass over the images by what decompose does, or did."""
    import torch

    from decompose_cli.features.extraction import keep_freed_memory
    from decompose_cli.features.forward import Forward, Normalisation, images_at_once
    from decompose_cli.models.classifier import open_classifier
    from decompose_cli.models.inference import FeatureReader

    assert isinstance(images, torch.Tensor)
    keep_freed_memory()
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    classifier = open_classifier(model, "random", allow_download=False)
    preprocessing = classifier.entry.preprocessing
    assert preprocessing is not None
    network = classifier.load(preprocessing.crop)
    normalise, at_once = Normalisation(preprocessing, device), images_at_once(preprocessing, device, "32", 256)
    reader = FeatureReader(network, device, "32", normalise(images[:8]))

    def before() -> torch.Tensor:
        return torch.cat([reader(normalise(piece)) for piece in torch.split(images, at_once)])

    forward = stack.enter_context(
        Forward(
            network,
            preprocessing,
            images[:8],
            device=device,
            precision="32",
            batch_size=256,
            threads=1 if side == ONE else threads,
        )
    )

    def now() -> torch.Tensor:
        waiting = [forward.submit(chunk) for chunk in torch.split(images, 256)]
        return torch.cat([pending() for pending in waiting])

    torch.testing.assert_close(before(), now(), rtol=1e-5, atol=1e-5)
    torch.set_num_threads(threads)
    return before if side == BEFORE else now


def onnx_step(exported: str, images: object, threads: int) -> Callable[[], None]:
    """A pass over the images by onnxruntime, in batches of 32."""
    import onnxruntime
    import torch

    assert isinstance(images, torch.Tensor)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    pieces = [piece.numpy() for piece in torch.split(images.float() / 255, 32)]

    def step() -> None:
        for piece in pieces:
            session.run(None, {given.name: piece})

    return step


if __name__ == "__main__":
    main()
