"""Online normalisation against batch norm and against a plain loop over the samples, forward and backward.

Maps are random, and gradients are ready. The loop does the same in the same order, sample by sample, with torch's
operations; both sides have to give the same gradients and statistics, or the script stops. The script also measures the
layer compiled with torch.compile (which needs a C++ compiler) against batch norm as it is, and a whole training step of
ResNet-20 with either.

The last lines put the layers beside a copy of as many bytes as two passes move, in memory that no cache holds: forwards
maps are read twice and written once, backwards maps and gradients are read twice and written once.

    python benchmarks/bench_norms.py [--repeats N] [--traffic]
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.features.extraction import keep_freed_memory
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.norms.factory import convert_norm
from decompose_cli.norms.modes import Norm
from decompose_cli.norms.online import OnlineNorm2d

SHAPES = {(128, 16, 32, 32): 2.0, (128, 32, 16, 16): 2.0, (128, 64, 8, 8): 2.5, (64, 64, 56, 56): 2.0}
MOVED = 8
"""Times that a number of the maps is read or written in two passes forward and two backward."""
LARGE = 1 << 26
"""Numbers of a copy that no cache holds."""
LOOP_GOAL = 2.2
COMPILED_GOAL = 1.5
STEP_BATCH = 128


class Loop:
    """The equations of the paper, one sample after the other."""

    def __init__(self, channels: int) -> None:
        layer = OnlineNorm2d(channels)
        self.a, self.b, self.eps, self.clamp = layer.alpha_fwd, layer.alpha_bkw, layer.eps, layer.clamp_val
        self.m, self.s = torch.zeros(channels), torch.ones(channels)
        self.u, self.v = torch.zeros(channels), torch.zeros(channels)

    def __call__(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient by x of weight 1 and bias 0, with activation clamping."""
        ys, roots = [], []
        for sample in x:
            root = (self.s + self.eps).rsqrt()
            ys.append((sample - self.m[:, None, None]) * root[:, None, None])
            roots.append(root)
            variance, mean = torch.var_mean(sample, (1, 2), correction=0)
            self.s = self.a * self.s + (1 - self.a) * (variance + self.a * (mean - self.m) ** 2)
            self.m = self.a * self.m + (1 - self.a) * mean
        torch.stack([y.clamp(-self.clamp, self.clamp) for y in ys])
        gradients = []
        for y, root, one in zip(ys, roots, gradient, strict=True):
            g = torch.where(y.abs() < self.clamp, one, 0) - ((1 - self.b) * self.v)[:, None, None] * y
            self.v = self.v + (g * y).mean((1, 2))
            d = g * root[:, None, None] - ((1 - self.b) * self.u)[:, None, None]
            self.u = self.u + d.mean((1, 2))
            gradients.append(d)
        return torch.stack(gradients)


def main() -> None:
    parser = common.speed_options(__doc__, repeats=15, images=STEP_BATCH)
    parser.add_argument("--traffic", action="store_true", help="only what is moved, against copies")
    given = parser.parse_args()
    keep_freed_memory(at_most=2**31 - 1)
    if given.traffic:
        print("\n".join(traffic(given.repeats)))
        return
    lines = []
    for layout in (torch.contiguous_format, torch.channels_last):
        for shape, goal in SHAPES.items():
            seconds = of_layers(shape, layout, given.repeats)
            name = f"{shape}{', channels last' if layout == torch.channels_last else ''}"
            detail = f"{1e3 * seconds['online']:.1f} ms, batch norm {1e3 * seconds['batch']:.1f} ms"
            ratio = seconds["online"] / seconds["batch"]
            lines.append(common.Line(f"{name}: online / batch norm", ratio, goal, at_least=False, detail=detail))
            detail = f"loop {1e3 * seconds['loop']:.0f} ms"
            ratio = seconds["compiled"] / seconds["batch"]
            name_compiled = f"{name}: compiled / batch norm"
            detail_compiled = f"{1e3 * seconds['compiled']:.1f} ms"
            lines.append(common.Line(name_compiled, ratio, COMPILED_GOAL, at_least=False, detail=detail_compiled))
            ratio = seconds["loop"] / seconds["online"]
            lines.append(common.Line(f"{name}: loop / online", ratio, LOOP_GOAL, detail=detail))
    steps = of_steps(given.repeats)
    notes = [
        f"training step of ResNet-20, batch {STEP_BATCH}{how}: online / batch norm "
        f"{steps[online] / steps[batch]:.2f}x, "
        f"{STEP_BATCH / steps[online]:,.0f} against {STEP_BATCH / steps[batch]:,.0f} images/s"
        for how, online, batch in (("", "online", "batch"), (", both compiled", "online, compiled", "batch, compiled"))
    ]
    notes += traffic(given.repeats)
    common.report(
        "online normalisation (affine, activation clamping), forward and backward",
        lines,
        common.conditions(given.repeats, "random maps, float32"),
        notes,
    )


def of_layers(shape: tuple[int, ...], layout: torch.memory_format, repeats: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).contiguous(memory_format=layout)
    gradient = torch.randn(shape, generator=generator).contiguous(memory_format=layout)
    layers: dict[str, nn.Module] = {"batch": nn.BatchNorm2d(shape[1]), "online": OnlineNorm2d(shape[1])}
    for how in (lambda layer: layer, torch.compile):
        layer = OnlineNorm2d(shape[1])
        check(layer, how(layer), x, gradient)
    layers["compiled"] = torch.compile(OnlineNorm2d(shape[1]))  # type: ignore[assignment]
    loop = Loop(shape[1])
    sides: dict[str, Callable[[], object]] = {
        name: lambda layer=layer: passes(layer, x, gradient) for name, layer in layers.items()
    }
    sides["loop"] = lambda: loop(x, gradient)
    return timed(sides, repeats)


def traffic(repeats: int) -> list[str]:
    """What layers take, beside the time in which a copy moves the bytes of two passes forward and two backward."""
    large = torch.randn(LARGE)
    target = torch.empty_like(large)
    copies: dict[str, Callable[[], object]] = {"copy": lambda: target.copy_(large)}
    bandwidth = 2 * 4 * LARGE / timed(copies, repeats)["copy"]
    notes = [f"a copy of {4 * LARGE / 1e6:.0f} MB moves {bandwidth / 1e9:.1f} GB/s, read and written"]
    for layout, name in ((torch.contiguous_format, ""), (torch.channels_last, ", channels last")):
        for shape in SHAPES:
            x, gradient = (torch.randn(shape).contiguous(memory_format=layout) for _ in range(2))
            layers = {"batch": nn.BatchNorm2d(shape[1]), "online": OnlineNorm2d(shape[1])}
            seconds = timed({k: partial(passes, layer, x, gradient) for k, layer in layers.items()}, repeats)
            moved = MOVED * 4 * x.numel()
            least = moved / bandwidth
            notes.append(
                f"{shape}{name}: {moved / 1e6:.0f} MB in two passes, {1e3 * least:.2f} ms; batch norm "
                f"{1e3 * seconds['batch']:.2f} ms, {seconds['batch'] / least:.1f}x; online "
                f"{1e3 * seconds['online']:.2f} ms, {seconds['online'] / least:.1f}x"
            )
    return notes


def passes(layer: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    seen = x.detach().requires_grad_()
    layer(seen).backward(gradient)
    assert seen.grad is not None
    return seen.grad


def check(layer: OnlineNorm2d, called: Any, x: Tensor, gradient: Tensor) -> None:
    loop = Loop(x.shape[1])
    for _ in range(2):
        ours, theirs = passes(called, x, gradient), loop(x, gradient)
        same = torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4) and torch.allclose(layer.norm.v, loop.v, atol=1e-3)
        if not same:
            sys.exit(f"the gradients differ by {float((ours - theirs).abs().max())}")


def of_steps(repeats: int) -> dict[str, float]:
    torch.manual_seed(0)
    images = torch.randn(STEP_BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (STEP_BATCH,))
    sides: dict[str, Callable[[], object]] = {}
    for mode in ("batch", "online"):
        network = convert_norm(CifarResNet(20), Norm(mode), (32, 32)).to(memory_format=torch.channels_last)
        sides[f"{mode}, compiled"] = step_of(torch.compile(copy.deepcopy(network)), images, labels)  # type: ignore[arg-type]
        sides[mode] = step_of(network, images, labels)
    return timed(sides, repeats)


def step_of(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, fused=True)

    def step() -> None:
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timed(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median seconds of each side; the sides take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 2):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
