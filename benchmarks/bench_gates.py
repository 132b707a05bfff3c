"""A training step of ResNet-20 with each soft gate against one of the plain network, as the training engine makes it.

A step is forward pass, losses, backward pass, the steps of all optimizers, and all that is counted; images are ready.
Both networks have projection shortcuts, the same batch and the same settings.

    python benchmarks/bench_gates.py [--repeats N]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import common
import torch

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.models.checkpoint import Metadata
from decompose_cli.models.gate_kinds import GATES
from decompose_cli.models.gated_resnet import GatedNetwork
from decompose_cli.models.registry import get_entry
from decompose_cli.preprocessing import CIFAR
from decompose_cli.processes.cluster import Machines
from decompose_cli.processes.launch import start
from decompose_cli.training.data import TrainingData
from decompose_cli.training.fit import Trainer
from decompose_cli.training.gating.objective import GateObjective
from decompose_cli.training.gating.settings import GateSettings
from decompose_cli.training.job import Job
from decompose_cli.training.run_folder import RunFolder
from decompose_cli.training.settings import make_settings

BATCH = 128
GOAL = 1.15
PLAIN = "plain"


def main() -> None:
    given = common.speed_options(__doc__, repeats=15, images=BATCH).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: trainer_of(name, Path(folder) / name) for name in (PLAIN, *GATES)}
        seconds = timed(trainers, given.repeats)
    plain = seconds.pop(PLAIN)
    lines, notes = [], [f"plain network: {1e3 * plain:.0f} ms, {BATCH / plain:,.0f} images/s"]
    for name, own in seconds.items():
        detail = f"{1e3 * own:.0f} ms, {BATCH / own:,.0f} images/s"
        if GATES[name].level == "block":
            lines.append(common.Line(f"{name} / plain", own / plain, GOAL, at_least=False, detail=detail))
        else:
            notes.append(f"{name} / plain: {own / plain:.2f}x ({detail}), a gate in every unit")
    common.report(
        f"training step of ResNet-20 with soft gates, batch {BATCH}",
        lines,
        common.conditions(given.repeats, "random images, float32"),
        notes,
    )


def trainer_of(gate: str, folder: Path) -> Trainer:
    options = {"gate": gate} if gate != PLAIN else {"shortcut": "projection"}
    torch.manual_seed(0)
    module = get_entry("resnet20").configured(**options).make(10, CIFAR.crop)
    settings = make_settings({"epochs": 1, "batch_size": BATCH, "lr": 0.01, "augment": "none"})
    pixels = torch.zeros(BATCH, 3, 32, 32, dtype=torch.uint8)
    labels = torch.zeros(BATCH, dtype=torch.int64)
    names = [str(number) for number in range(10)]
    data = InMemoryImages("random", "train", names, CIFAR, lambda: (pixels, labels), "random")
    objective = None
    if isinstance(module, GatedNetwork):
        objective = GateObjective(0.0, module, GateSettings().completed(gate))
    division = TrainingData(data, labels, torch.arange(BATCH), None, None, tuple(names), CIFAR)
    job = Job(module, Metadata(model="resnet20", num_classes=10), division, objective=objective)
    trainer = Trainer(start("cpu", Machines(), settings.precision), job, settings, RunFolder(folder))
    trainer.learning_mode()
    return trainer


def timed(trainers: dict[str, Trainer], repeats: int) -> dict[str, float]:
    """The median seconds of a step of each network; the networks take turns."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,), generator=generator)
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(repeats + 2):
        for name, trainer in trainers.items():
            began = time.perf_counter()
            trainer.step([(images, labels, 1 / BATCH)])
            if number >= 2:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
