"""A training step of ResNet-20 on two cores, alone and beside four other busy processes: ways to use the second core.

Sides: two OpenMP threads as torch starts them; the same with threads that spin little or not at all while they wait
(``GOMP_SPINCOUNT=10000``, as the program sets it, or 0, ``OMP_WAIT_POLICY=passive``); one thread
(``torch.set_num_threads(1)``); and two Python threads with one-thread operators, half a batch each, whose gradients are
added. The last is possible only without batch norm, whose statistics are of the whole batch, so there the network has
group norm, as it has in one more side with two OpenMP threads to compare with.

    python benchmarks/bench_busy_training.py [--repeats N] [--seconds S]

Wall time and processor time are of steps alone, on tensors that are ready. Reports images per second and processor
time per image; quiet and busy runs of all sides take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path

import common

BATCH = 128
FIRST_STEPS = 3
SIDES: dict[str, tuple[dict[str, str], str, str]] = {
    "as it is": ({}, "batch", "openmp"),
    "GOMP_SPINCOUNT=0": ({"GOMP_SPINCOUNT": "0"}, "batch", "openmp"),
    "GOMP_SPINCOUNT=10000": ({"GOMP_SPINCOUNT": "10000"}, "batch", "openmp"),
    "OMP_WAIT_POLICY=passive": ({"OMP_WAIT_POLICY": "passive"}, "batch", "openmp"),
    "one thread": ({}, "batch", "one"),
    "group norm, as it is": ({}, "group", "openmp"),
    "group norm, two Python threads": ({}, "group", "python"),
}
"""Variables of the environment, the network's normalisation, and how threads are used."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--seconds", type=float, default=6, help="of steps in each run")
    parser.add_argument("--side", nargs=2, metavar=("NORM", "THREADS"), help="one side, for this script itself")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(steps(*given.side, given.seconds)))
        return
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(given.repeats):
        for moment in ("quiet", "busy"):
            with common.others() if moment == "busy" else contextlib.nullcontext():
                for name, (variables, norm, threads) in SIDES.items():
                    command = common.python(
                        Path(__file__).resolve(), "--seconds", str(given.seconds), "--side", norm, threads
                    )
                    speed, processor = json.loads(common.run(command, **variables).output)
                    found.setdefault((name, moment), []).append((speed, processor))
                    common.say(f"{moment}, {name}: {speed:,.0f} images/s")
    print(
        f"training step of ResNet-20, batch {BATCH}, {given.repeats} runs, medians; busy: beside {common.OTHERS} others"
    )
    for name in SIDES:
        row = []
        for moment in ("quiet", "busy"):
            speeds, processor = zip(*found[name, moment], strict=True)
            row.append(
                f"{moment} {statistics.median(speeds):7,.0f} images/s ({min(speeds):,.0f} to {max(speeds):,.0f}), "
                f"{1000 * statistics.median(processor):.2f} ms of processor an image"
            )
        print(f"{name:32}" + "; ".join(row))


def steps(norm: str, threads: str, seconds: float) -> tuple[float, float]:
    """(images per second, processor seconds per image) of training steps."""
    from concurrent.futures import ThreadPoolExecutor

    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from decompose_cli.features.extraction import keep_freed_memory
    from decompose_cli.models.registry import get_entry

    keep_freed_memory(at_most=2**31 - 1)
    torch.set_num_threads(2 if threads == "openmp" else 1)
    torch.manual_seed(0)
    model = get_entry("resnet20").configured(norm_mode=norm).make(10, (32, 32))
    model = model.to(memory_format=torch.channels_last).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, fused=True)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))

    def gradients(part: slice) -> tuple[Tensor, ...]:
        loss = F.cross_entropy(model(images[part]), labels[part], reduction="sum") / BATCH
        return torch.autograd.grad(loss, parameters)

    halves = [slice(0, BATCH // 2), slice(BATCH // 2, BATCH)]
    done, begun, processor = 0, 0.0, 0.0
    with ThreadPoolExecutor(2) as pool:
        while done < FIRST_STEPS or time.perf_counter() - begun < seconds:
            if threads == "python":
                first, second = pool.map(gradients, halves)
                found = [a.add_(b) for a, b in zip(first, second, strict=True)]
            else:
                found = list(gradients(slice(None)))
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient
            optimizer.step()
            done += 1
            if done == FIRST_STEPS:
                begun, processor = time.perf_counter(), time.process_time()
    count = BATCH * (done - FIRST_STEPS)
    return count / (time.perf_counter() - begun), (time.process_time() - processor) / count


if __name__ == "__main__":
    sys.exit(main())
